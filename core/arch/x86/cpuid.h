/*
 * The CPUID that a guest sees (SDM 2A "CPUID"; AMD APM 3 appendix E; KVM's
 * leaves: Linux Documentation/virt/kvm/x86/cpuid.rst).
 */
#ifndef THAW_CORE_ARCH_X86_CPUID_H
#define THAW_CORE_ARCH_X86_CPUID_H

#include "core/arch/x86/vcpu_state.h"

/* Fill v->s->cpuid with what this host supports, made fit for vCPU v->id of
 * v->m->ncpus. */
int cpuid_make(struct vcpu *v, struct err *e) MUST_USE;

/* For which vCPU of which machine. */
struct cpuid_shape {
	uint32_t id, ncpus;
	uint32_t tsc_khz; /* told to the guest; 0: not */
};

/* The same without KVM: in[] is what KVM_GET_SUPPORTED_CPUID gave. Returns the
 * number of entries written to out (VCPU_MAX_CPUID of them), -ENOSPC. */
int cpuid_filter(const struct kvm_cpuid_entry2 *in, uint32_t nin,
	const struct cpuid_shape *shape, struct kvm_cpuid_entry2 *out) MUST_USE;

/* cpuid_topology.c, and what it shares with cpuid.c. out has n entries; they
 * return the new number or -ENOSPC, which n may be already. */
#define CPUID_TOPOEXT (1u << 22) /* leaf 0x80000001 ECX */
int cpuid_add_topology(const struct kvm_cpuid_entry2 *in, uint32_t nin,
	const struct cpuid_shape *s, struct kvm_cpuid_entry2 *out,
	int n) MUST_USE;
int cpuid_add(struct kvm_cpuid_entry2 *out, int n,
	const struct kvm_cpuid_entry2 *e) MUST_USE;
/* Bits of an APIC id below the package. */
uint32_t cpuid_core_bits(uint32_t ncpus);
/* The host's table reaches the leaves that AMD's "topology extensions" are. */
bool cpuid_has_topoext(const struct kvm_cpuid_entry2 *in, uint32_t nin);
const struct kvm_cpuid_entry2 *cpuid_find(const struct kvm_cpuid_entry2 *t,
	uint32_t n, uint32_t function, uint32_t index);

/* Feature bits of one register. */
struct cpuid_lack {
	uint32_t function, index;
	uint32_t reg; /* 0 to 3: EAX EBX ECX EDX */
	uint32_t bits;
};
/* The features in want that have lacks, register by register; returns how many
 * registers there are, of which the first max are in out. */
unsigned cpuid_missing(const struct kvm_cpuid_entry2 *want, uint32_t nwant,
	const struct kvm_cpuid_entry2 *have, uint32_t nhave,
	struct cpuid_lack *out, unsigned max);

/* cpuid_name.c: "avx2", or "CPUID.7.0:EBX bit 27" for one without name. */
#define CPUID_NAME_MAX 32
const char *cpuid_name(
	const struct cpuid_lack *reg, unsigned bit, char buf[CPUID_NAME_MAX]);

#endif
