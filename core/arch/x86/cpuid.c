#include "core/arch/x86/cpuid.h"
#include "core/kvm.h"

#include <errno.h>
#include <string.h>

#define MAX_SUPPORTED 256

/* Leaf 1 ECX. KVM leaves both out of what it lists as supported: the first is
 * the VMM's to say, the second depends on the local APIC being in the kernel,
 * which is so here. */
#define ECX_TSC_DEADLINE (1u << 24)
#define ECX_HYPERVISOR   (1u << 31)
#define ECX_X2APIC       (1u << 21)
#define EDX_HTT          (1u << 28)
/* Virtualisation in the guest: KVM lists both where it can nest. What it keeps
 * for a guest that has guests of its own (KVM_GET_NESTED_STATE) is not in the
 * saved state: a machine would not survive its snapshot. So it is not offered.
 * Snapshots made when it was are restored with the CPUID they have. */
#define ECX_VMX     (1u << 5)
#define ECX_AMD_SVM (1u << 2)
/* Follow the guest's CR4. */
#define ECX_OSXSAVE (1u << 27)
#define ECX7_OSPKE  (1u << 4)

/* Performance counters: Intel's capabilities; AMD's extensions. */
#define ECX_PDCM        (1u << 15)
#define ECX_AMD_PERFCTR (1u << 23 | 1u << 24 | 1u << 28)
/* "The legacy way of counting gives cores, not threads." */
#define ECX_CMP_LEGACY (1u << 1)

/* Leaf 0x40000010: the TSC's rate and the local APIC timer's, in kHz. KVM's
 * APIC counts nanoseconds. */
#define KVM_LEAF_BASE      0x40000000
#define KVM_LEAF_TIMING    0x40000010
#define KVM_APIC_TIMER_KHZ 1000000

const struct kvm_cpuid_entry2 *cpuid_find(const struct kvm_cpuid_entry2 *t,
	uint32_t n, uint32_t function, uint32_t index)
{
	for (uint32_t i = 0; i < n; i++) {
		if (t[i].function == function && t[i].index == index)
			return &t[i];
	}
	return NULL;
}

bool cpuid_has_topoext(const struct kvm_cpuid_entry2 *in, uint32_t nin)
{
	const struct kvm_cpuid_entry2 *max = cpuid_find(in, nin, 0x80000000, 0);

	return max && max->eax >= 0x8000001e;
}

/* "AuthenticAMD", "HygonGenuine": the same extended leaves. */
static bool is_amd(const struct kvm_cpuid_entry2 *in, uint32_t nin)
{
	const struct kvm_cpuid_entry2 *e = cpuid_find(in, nin, 0, 0);

	return e && (e->ebx == 0x68747541 || e->ebx == 0x6f677948);
}

/* Is there nothing in it? A leaf that is not listed reads as zero too. */
static bool empty(const struct kvm_cpuid_entry2 *e)
{
	return !(e->eax | e->ebx | e->ecx | e->edx);
}

static bool wanted(const struct kvm_cpuid_entry2 *e)
{
	switch (e->function) {
	case 0xa: /* performance counters: not offered */
	case 0x23:
	case 0x80000022:
	case 0xb: /* made in cpuid_topology.c, for our vCPUs */
	case 0x1f:
	case 0x8000001d:
	case 0x8000001e:
	case 0x80000026:
	case 0x8000000a: /* what SVM can do: ECX_AMD_SVM */
		return false;
	default:
		return !empty(e);
	}
}

static void fit(struct kvm_cpuid_entry2 *e, const struct cpuid_shape *s,
	bool amd, bool topoext)
{
	const uint32_t ncpus = s->ncpus;

	switch (e->function) {
	case 1:
		/* EBX: APIC id, logical processors, CLFLUSH as it was. */
		e->ebx = (e->ebx & 0xffff) | s->id << 24 | ncpus << 16;
		e->ecx |= ECX_TSC_DEADLINE | ECX_HYPERVISOR | ECX_X2APIC;
		e->ecx &= ~(ECX_PDCM | ECX_VMX);
		e->edx &= ~EDX_HTT;
		if (ncpus > 1)
			e->edx |= EDX_HTT;
		break;
	case 4: /* EAX 31:26: cores - 1; 25:14: who shares it; 7:5: level */
		if (!(e->eax & 0x1f))
			break;
		e->eax &= 0x3fff;
		e->eax |= (ncpus - 1) << 26;
		if ((e->eax >> 5 & 7) >= 3)
			e->eax |= ((1u << cpuid_core_bits(ncpus)) - 1) << 14;
		break;
	case 6: /* no performance bias, no thermal readings; ARAT stays */
		e->eax &= 1u << 2;
		e->ebx = 0;
		e->ecx = 0;
		e->edx = 0;
		break;
	case 0x80000001:
		e->ecx &= ~(ECX_AMD_PERFCTR | ECX_AMD_SVM |
			    (topoext ? 0 : CPUID_TOPOEXT));
		if (amd && ncpus > 1)
			e->ecx |= ECX_CMP_LEGACY;
		break;
	case 0x80000008: /* AMD: ECX 7:0 cores - 1, 15:12 APIC id bits */
		e->ecx = amd ? (ncpus - 1) | cpuid_core_bits(ncpus) << 12 : 0;
		break;
	case KVM_LEAF_BASE:
		if (s->tsc_khz && e->eax < KVM_LEAF_TIMING)
			e->eax = KVM_LEAF_TIMING;
		break;
	default:
		break;
	}
}

int cpuid_filter(const struct kvm_cpuid_entry2 *in, uint32_t nin,
	const struct cpuid_shape *shape, struct kvm_cpuid_entry2 *out)
{
	const struct kvm_cpuid_entry2 timing = {
		.function = KVM_LEAF_TIMING,
		.eax = shape->tsc_khz,
		.ebx = KVM_APIC_TIMER_KHZ,
	};
	bool amd = is_amd(in, nin), topoext = cpuid_has_topoext(in, nin);
	struct kvm_cpuid_entry2 e;
	int n = 0;

	for (uint32_t i = 0; i < nin && n >= 0; i++) {
		if (!wanted(&in[i]))
			continue;
		e = in[i];
		fit(&e, shape, amd, topoext);
		n = cpuid_add(out, n, &e);
	}
	if (n >= 0 && shape->tsc_khz && cpuid_find(in, nin, KVM_LEAF_BASE, 0))
		n = cpuid_add(out, n, &timing);
	return cpuid_add_topology(in, nin, shape, out, n);
}

/* Leaves whose bits are features, and which registers of them. Not compared:
 * bits that KVM or we set whatever the host has. */
struct feature_leaf {
	uint32_t function, index;
	uint32_t mask[4]; /* EAX EBX ECX EDX */
};

#define ALL 0xffffffffu
static const struct feature_leaf feature_leaves[] = {
	{1, 0,
		{0, 0,
			~(ECX_TSC_DEADLINE | ECX_HYPERVISOR | ECX_X2APIC |
				ECX_OSXSAVE),
			~EDX_HTT}},
	{7, 0, {0, ALL, ~ECX7_OSPKE, ALL}},
	{7, 1, {ALL, ALL, ALL, ALL}},
	{0xd, 0, {ALL, 0, 0, ALL}},
	{0xd, 1, {ALL, 0, ALL, ALL}},
	{0x80000001, 0, {0, 0, ~ECX_CMP_LEGACY, ALL}},
	{0x80000008, 0, {0, ALL, 0, 0}},
	{0x80000021, 0, {ALL, 0, 0, 0}},
	{0x40000001, 0, {ALL, 0, 0, 0}},
};

unsigned cpuid_missing(const struct kvm_cpuid_entry2 *want, uint32_t nwant,
	const struct kvm_cpuid_entry2 *have, uint32_t nhave,
	struct cpuid_lack *out, unsigned max)
{
	static const struct kvm_cpuid_entry2 none;
	const struct kvm_cpuid_entry2 *w, *h;
	unsigned n = 0;

	for (unsigned i = 0; i < ARRAY_SIZE(feature_leaves); i++) {
		const struct feature_leaf *f = &feature_leaves[i];

		w = cpuid_find(want, nwant, f->function, f->index);
		h = cpuid_find(have, nhave, f->function, f->index);
		if (!w)
			continue;
		if (!h)
			h = &none;
		const uint32_t lacking[4] = {w->eax & ~h->eax, w->ebx & ~h->ebx,
			w->ecx & ~h->ecx, w->edx & ~h->edx};

		for (unsigned j = 0; j < 4; j++) {
			if (!(lacking[j] & f->mask[j]))
				continue;
			if (n < max)
				out[n] = (struct cpuid_lack){f->function,
					f->index, j, lacking[j] & f->mask[j]};
			n++;
		}
	}
	return n;
}

int cpuid_make(struct vcpu *v, struct err *e)
{
	struct {
		struct kvm_cpuid2 head;
		struct kvm_cpuid_entry2 entry[MAX_SUPPORTED];
	} k = {.head.nent = MAX_SUPPORTED};
	struct cpuid_shape shape = {.id = v->id, .ncpus = v->m->ncpus};
	int n = kvm_ioctl(v->m->kvm_fd, KVM_GET_SUPPORTED_CPUID, &k);
	int khz = 0;

	if (n < 0)
		return err_sys(e, n, "KVM_GET_SUPPORTED_CPUID");
	if (v->m->cfg.acpi)
		khz = kvm_ioctl_val(v->fd, KVM_GET_TSC_KHZ, 0);
	shape.tsc_khz = khz > 0 ? (uint32_t)khz : 0;
	n = cpuid_filter(k.entry, (uint32_t)min_u64(k.head.nent, MAX_SUPPORTED),
		&shape, v->s->cpuid);
	if (n < 0)
		return err_set(
			e, n, "more than %d CPUID leaves", VCPU_MAX_CPUID);
	v->s->cpuid_len = (uint32_t)n * (uint32_t)sizeof(v->s->cpuid[0]);
	return 0;
}
