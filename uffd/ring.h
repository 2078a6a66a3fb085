/*
 * Reads through io_uring, for one thread: many in flight, one system call for
 * all that were asked for. The ring is restricted to reads of the files it was
 * opened with, because io_uring goes around seccomp.
 */
#ifndef THAW_UFFD_RING_H
#define THAW_UFFD_RING_H

#include "core/err.h"

#include <liburing.h>

#define RING_DEPTH 128

struct ring {
	struct io_uring u;
	bool open;
	unsigned asked;    /* not submitted yet */
	unsigned inflight; /* submitted or asked, not reaped */
};

/* -errno when this host has no (usable) io_uring. */
int ring_open(struct ring *r, const int *files, unsigned n) MUST_USE;
void ring_close(struct ring *r);
/* For poll: readable when ring_reap() has something. */
int ring_fd(const struct ring *r);
struct ring_ask {
	unsigned file; /* its number */
	uint32_t len;
	uint64_t offset;
	void *buf, *tag; /* the tag comes back */
	bool idle;       /* after everybody else's reads */
};
/* -EBUSY: RING_DEPTH reads are in flight. */
int ring_read(struct ring *r, const struct ring_ask *a) MUST_USE;
/* Hand over what was asked for; wait: until at least one is done, or ms. */
int ring_submit(struct ring *r, unsigned wait_ms) MUST_USE;
/* The next one that is done: its tag, bytes read or -errno. NULL: none. */
void *ring_reap(struct ring *r, int *res);

#endif
