/* The block device as the machine's owner sees it. */
#ifndef THAW_CORE_BLOCK_H
#define THAW_CORE_BLOCK_H

#include "core/machine.h"

struct block_stats {
	uint64_t reads, writes, flushes, errors;
	uint64_t ring; /* of those, through io_uring */
};

/* Statistics of disk i; zeros when there is none. */
void block_get_stats(
	const struct machine *m, unsigned i, struct block_stats *st);
/* The machine is paused and will not run again: make its overlays files that
 * other machines can have as m->fds.layer. */
int block_freeze(struct machine *m, struct err *e) MUST_USE;
/* The machine is paused: write what it and its template wrote to its disks'
 * overlays into these files, each the layer of a machine that is restored from
 * the snapshot that is made now; -1: not kept. fd has MACHINE_MAX_DISKS of
 * them, NULL: none is kept. For every snapshot. */
int block_export(struct machine *m, const int *fd, struct err *e) MUST_USE;

#endif
