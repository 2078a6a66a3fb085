/*
 * What this host's KVM does, found out once and inherited by every clone: the
 * answers are the same for each machine, asking again would cost 20-60 us.
 */
#ifndef THAW_CORE_ARCH_X86_HOST_H
#define THAW_CORE_ARCH_X86_HOST_H

#include "core/machine.h"

#define HOST_MAX_MSRS 512

struct arch_host {
	uint32_t run_size;  /* KVM_GET_VCPU_MMAP_SIZE */
	uint32_t sync_regs; /* KVM_SYNC_X86_* this KVM knows */
	/* A throw-away vCPU took all of this machine's state: tsc_khz is known
	 * to suit, and what can be set by KVM_RUN itself will not be refused
	 * there. */
	bool tried;
	bool tsc_same;  /* the guest's TSC rate is the host's */
	bool tsc_fixed; /* it cannot be set: the guest reads the host's */
	bool no_kvmclock_ctrl; /* KVM_KVMCLOCK_CTRL fails: no such clock */
	uint32_t nmsrs;
	uint32_t msr[HOST_MAX_MSRS]; /* worth saving, see msr.c */
};

/* msr.c: fill msr[]; mce: also the machine check banks, which KVM does not list
 * and only a general kernel sets up. */
int host_list_msrs(
	struct arch_host *h, int kvm_fd, bool mce, struct err *e) MUST_USE;

#endif
