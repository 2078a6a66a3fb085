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
	struct machine *m; /* borrowed */
	uint32_t id;
	struct vcpu_state *s; /* owned; valid in NEW and PAUSED */
	int fd;               /* owned, -1 before realize */
	struct kvm_run *run;  /* owned mapping */
	size_t run_size;
	pthread_t thread;
	bool started; /* the thread exists */
	/* Under m->lock; the handshake is explained in vcpu.c. */
	bool want_pause, paused, want_exit;
	uint64_t door_seen; /* door_seq when the guest last woke */
	/* The vCPU thread's own until it has paused. */
	bool door_waiting;   /* the guest sleeps at the door */
	uint64_t door_until; /* now_ns() scale; 0: no limit */
	bool io_pending;     /* KVM_RUN must finish something before a pause */
	bool ended;          /* never enter KVM_RUN again */
};

/* Memory only; for struct machine_init(). */
int vcpu_create(struct machine *m, uint32_t id, struct err *e) MUST_USE;
void vcpu_destroy(struct vcpu *v);
/* KVM objects and state; then the thread, paused. */
int vcpu_realize(struct vcpu *v, struct err *e) MUST_USE;
void vcpu_resume(struct vcpu *v);
/* Ask, then wait: so that all vCPUs stop at the same time. */
void vcpu_ask_pause(struct vcpu *v);
int vcpu_wait_paused(struct vcpu *v, uint64_t deadline_ns) MUST_USE;

/* Once per process, before the first vcpu_realize(). */
int vcpu_signals_init(struct err *e) MUST_USE;

/* door.c, for the vCPU thread: an access to its ports; and with m->lock held
 * and v->door_waiting: may the guest go on; it does. */
void door_io(struct vcpu *v, uint16_t off, uint32_t len, uint32_t value);
bool door_is_open(const struct vcpu *v);
void door_leave(struct vcpu *v);

/* arch: KVM <-> vcpu.s, in the documented order; legal while paused. */
int vcpu_state_get(struct vcpu *v, struct err *e) MUST_USE;
int vcpu_state_set(struct vcpu *v, struct err *e) MUST_USE;
/* Stop what ticks and remember it in vcpu.s; vcpu_time_set() goes on. */
int vcpu_time_stop(struct vcpu *v, struct err *e) MUST_USE;
/* Only what depends on time: TSC, deadline, LAPIC (at go). */
int vcpu_time_set(struct vcpu *v, struct err *e) MUST_USE;

/* Let the guest know that it did not run for a while, if it can be told. */
void vcpu_tell_paused(struct vcpu *v);

#endif
