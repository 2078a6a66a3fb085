/*
 * A snapshot with everything it builds on. The parents' files are asked of the
 * daemon one by one (CTL_PARENT): a machine opens nothing, and the daemon does
 * not look into files.
 */
#ifndef THAW_API_MACHINE_CHAIN_H
#define THAW_API_MACHINE_CHAIN_H

#include "api/machine/worker.h"
#include "snapshot/files.h"

struct chain {
	unsigned n;
	struct snap *s[SNAP_MAX_CHAIN + 1]; /* owned; the newest first */
	int fd[SNAP_MAX_CHAIN + 1]; /* owned; -1: the first may be borrowed */
};

/* snap_follow() by way of the daemon. Like all of these only before the event
 * loop runs, or without one: it waits for the answers. */
int chain_follow(struct worker *w, int fd, const char *path,
	struct snap_files *files, struct err *e) MUST_USE;
/* Open fd (borrowed) and all its parents. On error nothing is left. -ENOENT: a
 * parent is missing; -ESTALE: what was found is not the parent. Either is
 * named. */
int chain_open(
	struct worker *w, int fd, struct chain *c, struct err *e) MUST_USE;
/* The parent that a diff of this machine will have, and ancestors of that, as
 * far as they are to be had and worth to be looked at for a diff of so many
 * pages. c->n 0: none. Also in a process that has been forked from a machine
 * for a snapshot. */
void chain_ancestors(struct worker *w, const struct snap_parent *want,
	uint64_t pages, struct chain *c);
void chain_close(struct chain *c);

#endif
