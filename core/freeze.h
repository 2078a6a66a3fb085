/*
 * Freezing a machine that runs: pause, fork, go on. The child holds the machine
 * as it was in the moment of the fork, memory and state, and has all the time
 * it wants to write that down.
 *
 * The child is a copy of this process and only of its calling thread, so it
 * must keep to rules; see freeze.c.
 */
#ifndef THAW_CORE_FREEZE_H
#define THAW_CORE_FREEZE_H

#include "core/machine.h"

/* Microseconds of the parts of a pause. */
struct freeze_us {
	uint32_t stop;    /* until every vCPU is out of the guest */
	uint32_t quiesce; /* devices finish what is in flight */
	uint32_t state;   /* reading the state of vCPUs and VM */
	uint32_t dirty;   /* reading and clearing the dirty log, and writing
			   * out overlays */
	uint32_t fork;
	uint32_t resume;
	uint32_t pause; /* all of it; up to the fork when it stays paused */
};

struct freeze {
	uint32_t timeout_ms; /* for the vCPUs to stop */
	bool stay;           /* do not resume */
	int keep;            /* descriptor that the child keeps beside 0 to 2 */
	const int *overlay;  /* borrowed: as for block_export() */
	/* Results, in the parent. */
	bool paused; /* it ran, and stays paused as asked */
	int pidfd;   /* owned; -1: none */
	pid_t pid;
	struct freeze_us us;
	/* Both: pages that changed since the last snapshot that was kept, as
	 * of dirty_take(); NULL when that is not tracked. The parent owes a
	 * dirty_settle() when this succeeded. */
	const uint64_t *taken;
};

/* The machine is RUNNING or PAUSED (and not parked), its memory private. 0 in
 * the parent, 1 in the child; -errno: nothing has changed, and what ran runs.
 * Loop thread, with no other threads but the vCPUs'. */
int freeze_fork(struct machine *m, struct freeze *f, struct err *e) MUST_USE;

#endif
