/*
 * A snapshot with everything it builds on. The parents' files are asked of the
 * daemon one by one (CTL_PARENT): a machine opens nothing, and the daemon does
 * not look into files.
 */
#ifndef THAW_API_MACHINE_CHAIN_H
#define THAW_API_MACHINE_CHAIN_H

#include "api/machine/worker.h"

struct chain {
	unsigned n;
	struct snap *s[SNAP_MAX_CHAIN + 1]; /* owned; the newest first */
	int fd[SNAP_MAX_CHAIN + 1];         /* owned but for the first */
};

/* Open fd (borrowed) and all its parents. Only before the event loop runs: it
 * waits for the answers. On error nothing is left. -ENOENT: a parent is
 * missing; -EBADMSG: what was found is not the parent. Either is named. */
int chain_open(
	struct worker *w, int fd, struct chain *c, struct err *e) MUST_USE;
void chain_close(struct chain *c);

#endif
