/*
 * CPUID leaves that say how the vCPUs relate: all are cores of one package,
 * one thread each, with caches of their own up to the second level and a third
 * level that all share.
 */
#include "core/arch/x86/cpuid.h"

#include <errno.h>
#include <string.h>

/* AMD APM 3 E.4.5: associativity in leaf 0x80000006; 9 refers to leaf
 * 0x8000001d, which is what is made here. */
static const uint8_t l2_ways[16] = {
	[1] = 1,
	[2] = 2,
	[3] = 3,
	[4] = 4,
	[5] = 6,
	[6] = 8,
	[8] = 16,
	[9] = 16,
	[10] = 32,
	[11] = 48,
	[12] = 64,
	[13] = 96,
	[14] = 128,
};

uint32_t cpuid_core_bits(uint32_t ncpus)
{
	uint32_t bits = 0;

	while (1u << bits < ncpus)
		bits++;
	return bits;
}

int cpuid_add(
	struct kvm_cpuid_entry2 *out, int n, const struct kvm_cpuid_entry2 *e)
{
	if (n < 0 || n >= VCPU_MAX_CPUID)
		return -ENOSPC;
	out[n] = *e;
	memset(out[n].padding, 0, sizeof(out[n].padding));
	return n + 1;
}

/* SDM 2A, leaf 0xb and its successor 0x1f. Level 0: threads (one per core),
 * level 1: cores, then the end. */
static int add_levels(struct kvm_cpuid_entry2 *out, int n, uint32_t function,
	uint32_t id, uint32_t ncpus)
{
	struct kvm_cpuid_entry2 e = {
		.function = function,
		.flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
		.ebx = 1,
		.ecx = 1 << 8,
		.edx = id,
	};

	n = cpuid_add(out, n, &e);
	e.index = 1;
	e.eax = cpuid_core_bits(ncpus);
	e.ebx = ncpus;
	e.ecx = 1 | 2 << 8;
	n = cpuid_add(out, n, &e);
	e.index = 2;
	e.eax = 0;
	e.ebx = 0;
	e.ecx = 2;
	return cpuid_add(out, n, &e);
}

struct cache {
	uint32_t type, level; /* type: 1 data, 2 instructions, 3 both */
	uint32_t kib, ways, line, sharing;
};

/* APM 3 E.4.15, leaf 0x8000001d. */
static int add_cache(
	struct kvm_cpuid_entry2 *out, int n, uint32_t index, struct cache c)
{
	struct kvm_cpuid_entry2 e = {
		.function = 0x8000001d,
		.index = index,
		.flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
	};
	uint32_t sets;

	if (!c.kib || !c.ways || !c.line)
		return n;
	sets = c.kib * 1024 / (c.ways * c.line);
	if (!sets)
		return n;
	/* bit 8: it needs no initialisation */
	e.eax = c.type | c.level << 5 | 1 << 8 | (c.sharing - 1) << 14;
	e.ebx = (c.line - 1) | (c.ways - 1) << 22;
	e.ecx = sets - 1;
	e.edx = c.level == 3 ? 2 : 0; /* inclusive */
	return cpuid_add(out, n, &e);
}

/* From the older leaves 0x80000005 and 0x80000006 (APM 3 E.4.4, E.4.5), since
 * KVM does not pass the newer one on. */
static int add_caches(struct kvm_cpuid_entry2 *out, int n,
	const struct kvm_cpuid_entry2 *l1, const struct kvm_cpuid_entry2 *l2,
	uint32_t ncpus)
{
	uint32_t index = 0;
	int before;

	for (uint32_t i = 0; l1 && i < 2; i++) {
		uint32_t r = i ? l1->edx : l1->ecx;

		before = n;
		n = add_cache(out, n, index,
			(struct cache){i + 1, 1, r >> 24, r >> 16 & 0xff,
				r & 0xff, 1});
		index += n > before;
	}
	if (!l2)
		return n;
	before = n;
	n = add_cache(out, n, index,
		(struct cache){3, 2, l2->ecx >> 16, l2_ways[l2->ecx >> 12 & 15],
			l2->ecx & 0xff, 1});
	index += n > before;
	return add_cache(out, n, index,
		(struct cache){3, 3, (l2->edx >> 18) * 512,
			l2_ways[l2->edx >> 12 & 15], l2->edx & 0xff, ncpus});
}

/* APM 3 E.4.16: core number, one thread each, one node. */
static int add_amd_ids(struct kvm_cpuid_entry2 *out, int n, uint32_t id)
{
	const struct kvm_cpuid_entry2 e = {
		.function = 0x8000001e,
		.eax = id,
		.ebx = id,
	};

	return cpuid_add(out, n, &e);
}

int cpuid_add_topology(const struct kvm_cpuid_entry2 *in, uint32_t nin,
	const struct cpuid_shape *s, struct kvm_cpuid_entry2 *out, int n)
{
	const struct kvm_cpuid_entry2 *basic = cpuid_find(in, nin, 0, 0);
	const struct kvm_cpuid_entry2 *amd = cpuid_find(in, nin, 0x80000001, 0);

	if (basic && basic->eax >= 0xb)
		n = add_levels(out, n, 0xb, s->id, s->ncpus);
	if (basic && basic->eax >= 0x1f)
		n = add_levels(out, n, 0x1f, s->id, s->ncpus);
	if (!amd || !(amd->ecx & CPUID_TOPOEXT) || !cpuid_has_topoext(in, nin))
		return n;
	n = add_caches(out, n, cpuid_find(in, nin, 0x80000005, 0),
		cpuid_find(in, nin, 0x80000006, 0), s->ncpus);
	return add_amd_ids(out, n, s->id);
}
