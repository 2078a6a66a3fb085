/*
 * Short-lived children that do for the daemon what it must not do itself: look
 * into a snapshot (thaw-machine as CTL_ROLE_INSPECT), or copy a file, which
 * takes long.
 */
#ifndef THAW_API_DAEMON_HELPER_H
#define THAW_API_DAEMON_HELPER_H

#include "api/daemon/params.h"
#include "api/daemon/proc.h"

#include <sys/socket.h>

/* The copy is done: e is NULL, or says why not. */
typedef void copied_fn(struct daemon *d, void *arg, const struct err *e);

/* The snapshot was flattened, or (was_diff false) is a full one. */
typedef void flattened_fn(
	struct daemon *d, void *arg, bool was_diff, const struct err *e);

/* How far it is: bytes of files. */
typedef void progress_fn(
	struct daemon *d, void *arg, uint64_t done, uint64_t total);

struct helper {
	struct proc p;
	struct list link; /* daemon.helpers */
	copied_fn *copied;
	flattened_fn *flattened;
	call_fn *called;
	progress_fn *progress;
	void *arg;
};

/* A question about a snapshot and what it builds on. */
struct helper_question {
	struct ctl_look look;     /* .path_len is set here */
	int fd, set;              /* borrowed; set -1: none */
	const char *path;         /* NULL: not known */
	struct text section;      /* .p NULL: the overview */
	const struct ucred *peer; /* with whose rights parents are opened */
	call_fn *fn;              /* as for proc_call() */
	progress_fn *progress;    /* may be NULL */
	void *arg;
};
/* Ask a helper; it ends by itself. NULL on error. */
struct helper *helper_inspect(struct daemon *d, const struct helper_question *q,
	struct err *e) MUST_USE;
/* CTL_PROGRESS, or something else that came by itself. */
void helper_message(struct daemon *d, struct helper *h, struct ctl_packet *p);
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
