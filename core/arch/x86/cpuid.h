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

/* The same without KVM: in[] is what KVM_GET_SUPPORTED_CPUID gave. Returns the
 * number of entries written to out (VCPU_MAX_CPUID of them), -ENOSPC. */
int cpuid_filter(const struct kvm_cpuid_entry2 *in, uint32_t nin, uint32_t id,
	uint32_t ncpus, struct kvm_cpuid_entry2 *out) MUST_USE;

/* The first register with feature bits in want that have lacks: returns its
 * leaf, its name in reg and the bits; *bits is 0 when nothing is missing. */
uint32_t cpuid_missing(const struct kvm_cpuid_entry2 *want, uint32_t nwant,
	const struct kvm_cpuid_entry2 *have, uint32_t nhave, char reg[4],
	uint32_t *bits);

#endif
