/*
 * Short-lived children that do for the daemon what it must not do itself: look
 * into a snapshot (thaw-machine as CTL_ROLE_INSPECT), or copy a file, which
 * takes long.
 */
#ifndef THAW_API_DAEMON_HELPER_H
#define THAW_API_DAEMON_HELPER_H

#include "api/daemon/proc.h"

/* The copy is done: e is NULL, or says why not. */
typedef void copied_fn(struct daemon *d, void *arg, const struct err *e);

/* The snapshot was flattened, or (was_diff false) is a full one. */
typedef void flattened_fn(
	struct daemon *d, void *arg, bool was_diff, const struct err *e);

struct helper {
	struct proc p;
	struct list link; /* daemon.helpers */
	copied_fn *copied;
	flattened_fn *flattened;
	call_fn *called;
	void *arg;
};

/* A question about a snapshot. */
struct helper_question {
	int fd;              /* borrowed */
	uint32_t what;       /* enum ctl_inspect */
	const char *section; /* NULL: the overview */
	size_t section_len;
	call_fn *fn; /* as for proc_call() */
	void *arg;
};
/* Ask a helper; it ends by itself. */
int helper_inspect(struct daemon *d, const struct helper_question *q,
	struct err *e) MUST_USE;
/* Copy all of from to the empty file to, and sync it. NULL on error. */
struct helper *helper_copy(struct daemon *d, int from, int to, copied_fn *fn,
	void *arg, struct err *e) MUST_USE;
/* Write a diff and all it builds on into the empty file to, as one snapshot. fn
 * hears whether that was needed: of a full snapshot nothing is written.
 * f->parents is owned by this call, also on error. */
struct helper_files {
	int from, to;            /* borrowed */
	struct parents *parents; /* see parents.h */
};
struct helper *helper_flatten(struct daemon *d, const struct helper_files *f,
	flattened_fn *fn, void *arg, struct err *e);
/* Ask a thaw-machine that ends with its answer. NULL on error; else q->fn will
 * be called once. */
struct helper *helper_call(
	struct daemon *d, const struct proc_request *q, struct err *e);
/* End it; no callback follows. */
void helper_cancel(struct daemon *d, struct helper *h);
void helper_gone(struct daemon *d, struct helper *h, int status);

#endif
