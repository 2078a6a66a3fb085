/*
 * Can this host go on with that vCPU? What the saved state needs against what
 * KVM offers here, with every difference named. Without KVM: the host is a
 * struct that a test may make up; arch_compat_host() fills it.
 */
#ifndef THAW_CORE_ARCH_X86_COMPAT_H
#define THAW_CORE_ARCH_X86_COMPAT_H

#include "core/arch.h"
#include "core/arch/x86/host.h"
#include "core/arch/x86/vcpu_state.h"

#define COMPAT_MAX_CPUID 256

struct arch_compat {
	struct kvm_cpuid_entry2 cpuid[COMPAT_MAX_CPUID]; /* what KVM supports */
	uint32_t ncpuid;
	uint32_t msr[HOST_MAX_MSRS]; /* what it saves and restores */
	uint32_t nmsrs;
	uint32_t max_cpus;   /* 0: not known */
	uint32_t tsc_khz;    /* 0: not known */
	bool tsc_scaling;    /* a guest may have another rate */
	uint32_t xsave_size; /* bytes of vector state; 0: not known */
};

/* Pure. Calls fn for each difference, most telling first. */
void compat_vcpu(const struct arch_compat *h, const struct vcpu_state *s,
	arch_compat_fn *fn, void *arg);

#endif
