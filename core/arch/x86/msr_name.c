#include "core/arch/x86/msr_name.h"
#include "core/util.h"

#include <stdio.h>

struct name {
	uint32_t index;
	const char *name;
};

/* In ascending order. */
static const struct name names[] = {
	{0x00000010, "IA32_TIME_STAMP_COUNTER"},
	{0x00000017, "IA32_PLATFORM_ID"},
	{0x0000001b, "IA32_APIC_BASE"},
	{0x00000034, "MSR_SMI_COUNT"},
	{0x0000003a, "IA32_FEATURE_CONTROL"},
	{0x0000003b, "IA32_TSC_ADJUST"},
	{0x00000048, "IA32_SPEC_CTRL"},
	{0x00000049, "IA32_PRED_CMD"},
	{0x0000008b, "IA32_BIOS_SIGN_ID"},
	{0x0000009e, "IA32_SMBASE"},
	{0x000000ce, "MSR_PLATFORM_INFO"},
	{0x000000e1, "IA32_UMWAIT_CONTROL"},
	{0x000000fe, "IA32_MTRRCAP"},
	{0x0000010a, "IA32_ARCH_CAPABILITIES"},
	{0x0000010b, "IA32_FLUSH_CMD"},
	{0x00000122, "IA32_TSX_CTRL"},
	{0x00000140, "MISC_FEATURES_ENABLES"},
	{0x00000174, "IA32_SYSENTER_CS"},
	{0x00000175, "IA32_SYSENTER_ESP"},
	{0x00000176, "IA32_SYSENTER_EIP"},
	{0x00000179, "IA32_MCG_CAP"},
	{0x0000017a, "IA32_MCG_STATUS"},
	{0x0000017b, "IA32_MCG_CTL"},
	{0x000001a0, "IA32_MISC_ENABLE"},
	{0x000001c4, "IA32_XFD"},
	{0x000001c5, "IA32_XFD_ERR"},
	{0x000001d9, "IA32_DEBUGCTL"},
	{0x000001db, "MSR_LASTBRANCHFROMIP"},
	{0x000001dc, "MSR_LASTBRANCHTOIP"},
	{0x000001dd, "MSR_LASTINTFROMIP"},
	{0x000001de, "MSR_LASTINTTOIP"},
	{0x00000250, "IA32_MTRR_FIX64K_00000"},
	{0x00000258, "IA32_MTRR_FIX16K_80000"},
	{0x00000259, "IA32_MTRR_FIX16K_A0000"},
	{0x00000268, "IA32_MTRR_FIX4K_C0000"},
	{0x00000269, "IA32_MTRR_FIX4K_C8000"},
	{0x0000026a, "IA32_MTRR_FIX4K_D0000"},
	{0x0000026b, "IA32_MTRR_FIX4K_D8000"},
	{0x0000026c, "IA32_MTRR_FIX4K_E0000"},
	{0x0000026d, "IA32_MTRR_FIX4K_E8000"},
	{0x0000026e, "IA32_MTRR_FIX4K_F0000"},
	{0x0000026f, "IA32_MTRR_FIX4K_F8000"},
	{0x00000277, "IA32_PAT"},
	{0x000002ff, "IA32_MTRR_DEF_TYPE"},
	{0x0000038d, "IA32_FIXED_CTR_CTRL"},
	{0x0000038e, "IA32_PERF_GLOBAL_STATUS"},
	{0x0000038f, "IA32_PERF_GLOBAL_CTRL"},
	{0x00000390, "IA32_PERF_GLOBAL_OVF_CTRL"},
	{0x000006e0, "IA32_TSC_DEADLINE"},
	{0x00000da0, "IA32_XSS"},
	{0x40000000, "HV_X64_MSR_GUEST_OS_ID"},
	{0x40000001, "HV_X64_MSR_HYPERCALL"},
	{0x40000020, "HV_X64_MSR_TIME_REF_COUNT"},
	{0x40000021, "HV_X64_MSR_REFERENCE_TSC"},
	{0x4b564d00, "MSR_KVM_WALL_CLOCK_NEW"},
	{0x4b564d01, "MSR_KVM_SYSTEM_TIME_NEW"},
	{0x4b564d02, "MSR_KVM_ASYNC_PF_EN"},
	{0x4b564d03, "MSR_KVM_STEAL_TIME"},
	{0x4b564d04, "MSR_KVM_EOI_EN"},
	{0x4b564d05, "MSR_KVM_POLL_CONTROL"},
	{0x4b564d06, "MSR_KVM_ASYNC_PF_INT"},
	{0x4b564d07, "MSR_KVM_ASYNC_PF_ACK"},
	{0x4b564d08, "MSR_KVM_MIGRATION_CONTROL"},
	{0xc0000080, "IA32_EFER"},
	{0xc0000081, "IA32_STAR"},
	{0xc0000082, "IA32_LSTAR"},
	{0xc0000083, "IA32_CSTAR"},
	{0xc0000084, "IA32_FMASK"},
	{0xc0000100, "IA32_FS_BASE"},
	{0xc0000101, "IA32_GS_BASE"},
	{0xc0000102, "IA32_KERNEL_GS_BASE"},
	{0xc0000103, "IA32_TSC_AUX"},
	{0xc0000104, "MSR_AMD64_TSC_RATIO"},
	{0xc0010015, "MSR_AMD64_HWCR"},
	{0xc001001f, "MSR_AMD64_NB_CFG"},
	{0xc0010055, "MSR_AMD64_INT_PENDING"},
	{0xc0010058, "MSR_AMD64_MMIO_CFG_BASE"},
	{0xc0010062, "MSR_AMD64_PSTATE_CTL"},
	{0xc0010063, "MSR_AMD64_PSTATE_STATUS"},
	{0xc0010114, "MSR_AMD64_VM_CR"},
	{0xc0010117, "MSR_AMD64_VM_HSAVE_PA"},
	{0xc001011f, "MSR_AMD64_VIRT_SPEC_CTRL"},
	{0xc0010140, "MSR_AMD64_OSVW_ID_LENGTH"},
	{0xc0010141, "MSR_AMD64_OSVW_STATUS"},
	{0xc0011029, "MSR_AMD64_DE_CFG"},
};

/* MSRs of which there are many, with a number in their name. */
static const struct series {
	uint32_t first, count, step;
	const char *before, *after;
} series[] = {
	{0x0c1, 8, 1, "IA32_PMC", ""},
	{0x186, 8, 1, "IA32_PERFEVTSEL", ""},
	{0x200, 10, 2, "IA32_MTRR_PHYSBASE", ""},
	{0x201, 10, 2, "IA32_MTRR_PHYSMASK", ""},
	{0x280, 32, 1, "IA32_MC", "_CTL2"},
	{0x309, 3, 1, "IA32_FIXED_CTR", ""},
	{0x400, 29, 4, "IA32_MC", "_CTL"},
	{0x401, 29, 4, "IA32_MC", "_STATUS"},
	{0x402, 29, 4, "IA32_MC", "_ADDR"},
	{0x403, 29, 4, "IA32_MC", "_MISC"},
	{0x4c1, 8, 1, "IA32_A_PMC", ""},
	{0xc0010000, 4, 1, "MSR_AMD64_PERF_CTL", ""},
	{0xc0010004, 4, 1, "MSR_AMD64_PERF_CTR", ""},
};

static const char *in_names(uint32_t index)
{
	size_t from = 0, to = ARRAY_SIZE(names);

	while (from < to) {
		size_t mid = (from + to) / 2;

		if (names[mid].index == index)
			return names[mid].name;
		if (names[mid].index < index)
			from = mid + 1;
		else
			to = mid;
	}
	return NULL;
}

const char *msr_name(uint32_t index, char buf[MSR_NAME_MAX])
{
	const char *fixed = in_names(index);

	if (fixed) {
		(void)snprintf(buf, MSR_NAME_MAX, "%s", fixed);
		return buf;
	}
	for (unsigned i = 0; i < ARRAY_SIZE(series); i++) {
		const struct series *s = &series[i];
		uint32_t n = (index - s->first) / s->step;

		if (index < s->first || (index - s->first) % s->step ||
			n >= s->count)
			continue;
		(void)snprintf(
			buf, MSR_NAME_MAX, "%s%u%s", s->before, n, s->after);
		return buf;
	}
	(void)snprintf(buf, MSR_NAME_MAX, "0x%x", index);
	return buf;
}
