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
/* Follow the guest's CR4. */
#define ECX_OSXSAVE (1u << 27)
#define ECX7_OSPKE  (1u << 4)

/* Is there nothing in it? A leaf that is not listed reads as zero too. */
static bool empty(const struct kvm_cpuid_entry2 *e)
{
	return !(e->eax | e->ebx | e->ecx | e->edx);
}

static bool wanted(const struct kvm_cpuid_entry2 *e)
{
	switch (e->function) {
	case 0xa: /* performance counters: not offered */
	case 0xb: /* topology: made below, for our vCPUs */
	case 0x1f:
	case 0x8000001d: /* the host's caches and who shares them */
	case 0x8000001e:
	case 0x80000026:
		return false;
	default:
		return !empty(e);
	}
}

/* Bits of an APIC id below the package: all vCPUs are cores of one package. */
static uint32_t core_bits(uint32_t ncpus)
{
	uint32_t bits = 0;

	while (1u << bits < ncpus)
		bits++;
	return bits;
}

static void fit(struct kvm_cpuid_entry2 *e, uint32_t id, uint32_t ncpus)
{
	switch (e->function) {
	case 1:
		/* EBX: APIC id, logical processors, CLFLUSH as it was. */
		e->ebx = (e->ebx & 0xffff) | id << 24 | ncpus << 16;
		e->ecx |= ECX_TSC_DEADLINE | ECX_HYPERVISOR | ECX_X2APIC;
		e->edx &= ~EDX_HTT;
		if (ncpus > 1)
			e->edx |= EDX_HTT;
		break;
	case 4: /* each vCPU has its own caches; EAX 31:26: cores - 1 */
		if (!(e->eax & 0x1f))
			break;
		e->eax &= 0x3fff;
		e->eax |= (ncpus - 1) << 26;
		break;
	case 6: /* no performance bias, no thermal readings; ARAT stays */
		e->eax &= 1u << 2;
		e->ebx = 0;
		e->ecx = 0;
		e->edx = 0;
		break;
	case 0x80000008: /* ECX 7:0 cores - 1, 15:12 APIC id bits */
		e->ecx = (ncpus - 1) | core_bits(ncpus) << 12;
		break;
	default:
		break;
	}
}

static int add(
	struct kvm_cpuid_entry2 *out, int n, const struct kvm_cpuid_entry2 *e)
{
	if (n < 0 || n >= VCPU_MAX_CPUID)
		return -ENOSPC;
	out[n] = *e;
	memset(out[n].padding, 0, sizeof(out[n].padding));
	return n + 1;
}

/* SDM: leaf 0xb. Level 0: threads (one per core), level 1: cores. */
static int add_topology(
	struct kvm_cpuid_entry2 *out, int n, uint32_t id, uint32_t ncpus)
{
	struct kvm_cpuid_entry2 e = {
		.function = 0xb,
		.flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
		.ebx = 1,
		.ecx = 1 << 8,
		.edx = id,
	};

	n = add(out, n, &e);
	e.index = 1;
	e.eax = core_bits(ncpus);
	e.ebx = ncpus;
	e.ecx = 1 | 2 << 8;
	return add(out, n, &e);
}

int cpuid_filter(const struct kvm_cpuid_entry2 *in, uint32_t nin, uint32_t id,
	uint32_t ncpus, struct kvm_cpuid_entry2 *out)
{
	struct kvm_cpuid_entry2 e;
	uint32_t max = 0;
	int n = 0;

	for (uint32_t i = 0; i < nin && n >= 0; i++) {
		if (in[i].function == 0)
			max = in[i].eax;
		if (!wanted(&in[i]))
			continue;
		e = in[i];
		fit(&e, id, ncpus);
		n = add(out, n, &e);
	}
	if (max >= 0xb && n >= 0)
		n = add_topology(out, n, id, ncpus);
	return n;
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
	{0x80000001, 0, {0, 0, ALL, ALL}},
	{0x80000008, 0, {0, ALL, 0, 0}},
	{0x80000021, 0, {ALL, 0, 0, 0}},
	{0x40000001, 0, {ALL, 0, 0, 0}},
};

static const struct kvm_cpuid_entry2 *find(const struct kvm_cpuid_entry2 *t,
	uint32_t n, uint32_t function, uint32_t index)
{
	for (uint32_t i = 0; i < n; i++) {
		if (t[i].function == function && t[i].index == index)
			return &t[i];
	}
	return NULL;
}

uint32_t cpuid_missing(const struct kvm_cpuid_entry2 *want, uint32_t nwant,
	const struct kvm_cpuid_entry2 *have, uint32_t nhave, char reg[4],
	uint32_t *bits)
{
	static const char names[4][4] = {"EAX", "EBX", "ECX", "EDX"};
	static const struct kvm_cpuid_entry2 none;
	const struct kvm_cpuid_entry2 *w, *h;

	for (unsigned i = 0; i < ARRAY_SIZE(feature_leaves); i++) {
		const struct feature_leaf *f = &feature_leaves[i];

		w = find(want, nwant, f->function, f->index);
		h = find(have, nhave, f->function, f->index);
		if (!w)
			continue;
		if (!h)
			h = &none;
		const uint32_t lacking[4] = {w->eax & ~h->eax, w->ebx & ~h->ebx,
			w->ecx & ~h->ecx, w->edx & ~h->edx};

		for (unsigned j = 0; j < 4; j++) {
			*bits = lacking[j] & f->mask[j];
			memcpy(reg, names[j], 4);
			if (*bits)
				return f->function;
		}
	}
	*bits = 0;
	return 0;
}

int cpuid_make(struct vcpu *v, struct err *e)
{
	struct {
		struct kvm_cpuid2 head;
		struct kvm_cpuid_entry2 entry[MAX_SUPPORTED];
	} k = {.head.nent = MAX_SUPPORTED};
	int n = kvm_ioctl(v->m->kvm_fd, KVM_GET_SUPPORTED_CPUID, &k);

	if (n < 0)
		return err_sys(e, n, "KVM_GET_SUPPORTED_CPUID");
	n = cpuid_filter(k.entry, (uint32_t)min_u64(k.head.nent, MAX_SUPPORTED),
		v->id, v->m->ncpus, v->s->cpuid);
	if (n < 0)
		return err_set(
			e, n, "more than %d CPUID leaves", VCPU_MAX_CPUID);
	v->s->cpuid_len = (uint32_t)n * (uint32_t)sizeof(v->s->cpuid[0]);
	return 0;
}
