/*
 * Names of CPUID feature bits, as Linux prints them in /proc/cpuinfo where it
 * does (SDM 2A "CPUID", APM 3 appendix E, Linux
 * Documentation/virt/kvm/x86/cpuid.rst). Only what people know by name; the
 * others are named by their place.
 */
#include "core/arch/x86/cpuid.h"

#include <stdio.h>
#include <string.h>

struct names {
	uint32_t function, index, reg;
	const char *bit[32];
};

/* clang-format off */
static const struct names table[] = {
	{1, 0, 2, { /* ECX */
		[0] = "sse3", [1] = "pclmulqdq", [2] = "dtes64",
		[3] = "monitor", [5] = "vmx", [9] = "ssse3", [12] = "fma",
		[13] = "cmpxchg16b", [17] = "pcid", [19] = "sse4_1",
		[20] = "sse4_2", [21] = "x2apic", [22] = "movbe",
		[23] = "popcnt", [24] = "tsc_deadline", [25] = "aes",
		[26] = "xsave", [27] = "osxsave", [28] = "avx", [29] = "f16c",
		[30] = "rdrand", [31] = "hypervisor",
	}},
	{1, 0, 3, { /* EDX */
		[0] = "fpu", [1] = "vme", [2] = "de", [3] = "pse", [4] = "tsc",
		[5] = "msr", [6] = "pae", [7] = "mce", [8] = "cx8",
		[9] = "apic", [11] = "sep", [12] = "mtrr", [13] = "pge",
		[14] = "mca", [15] = "cmov", [16] = "pat", [17] = "pse36",
		[19] = "clflush", [23] = "mmx", [24] = "fxsr", [25] = "sse",
		[26] = "sse2", [27] = "ss", [28] = "htt",
	}},
	{7, 0, 1, { /* EBX */
		[0] = "fsgsbase", [1] = "tsc_adjust", [2] = "sgx",
		[3] = "bmi1", [4] = "hle", [5] = "avx2", [7] = "smep",
		[8] = "bmi2", [9] = "erms", [10] = "invpcid", [11] = "rtm",
		[14] = "mpx", [16] = "avx512f", [17] = "avx512dq",
		[18] = "rdseed", [19] = "adx", [20] = "smap",
		[21] = "avx512ifma", [23] = "clflushopt", [24] = "clwb",
		[26] = "avx512pf", [27] = "avx512er", [28] = "avx512cd",
		[29] = "sha_ni", [30] = "avx512bw", [31] = "avx512vl",
	}},
	{7, 0, 2, { /* ECX */
		[1] = "avx512vbmi", [2] = "umip", [3] = "pku", [4] = "ospke",
		[5] = "waitpkg", [6] = "avx512vbmi2", [7] = "shstk",
		[8] = "gfni", [9] = "vaes", [10] = "vpclmulqdq",
		[11] = "avx512vnni", [12] = "avx512bitalg",
		[14] = "avx512vpopcntdq", [16] = "la57", [22] = "rdpid",
		[24] = "bus_lock_detect", [25] = "cldemote", [27] = "movdiri",
		[28] = "movdir64b",
	}},
	{7, 0, 3, { /* EDX */
		[2] = "avx512_4vnniw", [3] = "avx512_4fmaps", [4] = "fsrm",
		[8] = "avx512_vp2intersect", [10] = "md_clear",
		[14] = "serialize", [16] = "tsxldtrk", [18] = "pconfig",
		[20] = "ibt", [22] = "amx_bf16", [23] = "avx512_fp16",
		[24] = "amx_tile", [25] = "amx_int8", [26] = "spec_ctrl",
		[27] = "stibp", [28] = "flush_l1d", [29] = "arch_capabilities",
		[30] = "core_capabilities", [31] = "ssbd",
	}},
	{7, 1, 0, { /* EAX */
		[4] = "avx_vnni", [5] = "avx512_bf16", [7] = "cmpccxadd",
		[10] = "fzrm", [11] = "fsrs", [12] = "fsrc", [21] = "amx_fp16",
		[23] = "avx_ifma",
	}},
	{0xd, 1, 0, { /* EAX */
		[0] = "xsaveopt", [1] = "xsavec", [2] = "xgetbv1",
		[3] = "xsaves", [4] = "xfd",
	}},
	{0x80000001, 0, 2, { /* ECX */
		[0] = "lahf_lm", [2] = "svm", [4] = "cr8_legacy", [5] = "abm",
		[6] = "sse4a", [7] = "misalignsse", [8] = "3dnowprefetch",
		[9] = "osvw", [11] = "xop", [15] = "lwp", [16] = "fma4",
		[21] = "tbm", [22] = "topoext", [23] = "perfctr_core",
	}},
	{0x80000001, 0, 3, { /* EDX */
		[11] = "syscall", [20] = "nx", [22] = "mmxext",
		[25] = "fxsr_opt", [26] = "pdpe1gb", [27] = "rdtscp",
		[29] = "lm", [30] = "3dnowext", [31] = "3dnow",
	}},
	{0x80000008, 0, 1, { /* EBX */
		[0] = "clzero", [2] = "xsaveerptr", [9] = "wbnoinvd",
		[12] = "amd_ibpb", [14] = "amd_ibrs", [15] = "amd_stibp",
		[24] = "amd_ssbd", [25] = "virt_ssbd", [26] = "amd_ssb_no",
		[28] = "psfd",
	}},
	{0x80000021, 0, 0, { /* EAX */
		[0] = "no_nested_data_bp", [2] = "lfence_rdtsc",
		[6] = "null_sel_clr_base", [8] = "autoibrs",
		[9] = "no_smm_ctl_msr",
	}},
	{0x40000001, 0, 0, { /* EAX */
		[0] = "kvmclock", [1] = "kvm_nopiodelay", [2] = "kvm_mmu",
		[3] = "kvmclock2", [4] = "kvm_asyncpf", [5] = "kvm_steal_time",
		[6] = "kvm_pv_eoi", [7] = "kvm_pv_unhalt",
		[9] = "kvm_pv_tlb_flush", [10] = "kvm_asyncpf_vmexit",
		[11] = "kvm_pv_send_ipi", [12] = "kvm_poll_control",
		[13] = "kvm_pv_sched_yield", [14] = "kvm_asyncpf_int",
		[15] = "kvm_msi_ext_dest_id", [24] = "kvmclock_stable",
	}},
};
/* clang-format on */

const char *cpuid_name(
	const struct cpuid_lack *reg, unsigned bit, char buf[CPUID_NAME_MAX])
{
	static const char regs[4][4] = {"EAX", "EBX", "ECX", "EDX"};

	for (unsigned i = 0; i < ARRAY_SIZE(table); i++) {
		const struct names *n = &table[i];

		if (n->function != reg->function || n->index != reg->index ||
			n->reg != reg->reg || !n->bit[bit & 31])
			continue;
		(void)snprintf(buf, CPUID_NAME_MAX, "%s", n->bit[bit & 31]);
		return buf;
	}
	(void)snprintf(buf, CPUID_NAME_MAX, "CPUID.%x.%x:%s bit %u",
		reg->function, reg->index, regs[reg->reg & 3], bit & 31);
	return buf;
}
