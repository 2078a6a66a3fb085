/*
 * Moments at which something must happen: a pairing heap whose nodes stand
 * inside the objects that wait, so that setting one cannot fail.
 */
#ifndef THAW_API_DAEMON_DEADLINE_H
#define THAW_API_DAEMON_DEADLINE_H

#include "core/util.h"

struct daemon;
struct deadline;
/* The deadline is no longer set when its function is called. */
typedef void deadline_fn(struct daemon *d, struct deadline *dl);

struct deadline {
	uint64_t when; /* now_ns() scale; 0: not set */
	deadline_fn *fn;
	struct deadline *child, *next, *prev; /* prev: sibling or parent */
};

struct deadlines {
	struct deadline *root;
};

/* Set, or move, to a moment. A zeroed struct deadline is one that is not set.
 */
void deadline_set(struct deadlines *h, struct deadline *dl, uint64_t when,
	deadline_fn *fn);
void deadline_clear(struct deadlines *h, struct deadline *dl);
/* Milliseconds until the first one, rounded up; -1 when there is none. */
int deadlines_timeout(const struct deadlines *h, uint64_t now);
/* Call everything that is due. */
void deadlines_run(struct deadlines *h, struct daemon *d, uint64_t now);

#endif
