/*
 * vCPUs: one thread each, the one exit switch, pause and kick.
 *
 * The saved state (struct vcpu_state) is plain memory: a cold boot, a restore
 * and a clone all put it into KVM by the same ordered table of ioctls
 * (arch/x86/vcpu_state.c).
 */
#ifndef THAW_CORE_VCPU_H
#define THAW_CORE_VCPU_H

#include "core/machine.h"

struct vcpu_state; /* core/arch/x86/vcpu_state.h */
extern const struct st_desc vcpu_state_desc;

struct vcpu {
	struct machine *m;      /* borrowed */
	uint32_t id;
	struct vcpu_state *s;   /* owned; valid in NEW and PAUSED */
	int fd;                 /* owned, -1 before realize */
	struct kvm_run *run;    /* owned mapping */
	size_t run_size;
	pthread_t thread;
	bool started;           /* the thread exists */
	/* pause handshake; see vcpu.c */
	pthread_mutex_t lock;
	pthread_cond_t cond;
	bool want_pause, paused, want_exit;
	uint64_t door_seen; /* door_seq when the guest last woke */
};

/* Called on each vCPU thread before its first KVM_RUN: installs the thread's
 * seccomp filter. NULL: none. Set once, before machine_realize().
 */
typedef int vcpu_jail_fn(void);

int vcpu_create(struct machine *m, uint32_t id, struct err *e) MUST_USE;
void vcpu_destroy(struct vcpu *v);
/* KVM objects and state; then the thread, paused. */
int vcpu_realize(struct vcpu *v, struct err *e) MUST_USE;
void vcpu_resume(struct vcpu *v);
/* Ask, then wait: so that all vCPUs stop at the same time. */
void vcpu_ask_pause(struct vcpu *v);
int vcpu_wait_paused(struct vcpu *v, uint64_t deadline_ns) MUST_USE;

/* arch: KVM <-> vcpu.s, in the documented order; legal while paused. */
int vcpu_state_get(struct vcpu *v, struct err *e) MUST_USE;
int vcpu_state_set(struct vcpu *v, struct err *e) MUST_USE;
/* Only what depends on time: TSC, deadline, LAPIC, events (at go). */
int vcpu_time_set(struct vcpu *v, struct err *e) MUST_USE;

#endif
