/*
 * A snapshot and the files that it builds on.
 *
 * Where files are is somebody else's business (snap_find_fn): the tools look
 * for names, a process without rights asks the daemon. What belongs together is
 * decided here, by uuid and digest, from headers and section tables alone.
 */
#ifndef THAW_SNAPSHOT_FILES_H
#define THAW_SNAPSHOT_FILES_H

#include "snapshot/snap.h"

#include <limits.h>

struct snap_file {
	int fd;              /* owned, but for the first of a chain */
	char path[PATH_MAX]; /* "": not known */
	struct snap_peeked is;
};
struct snap_files {
	struct snap_file *file; /* owned; newest first */
	unsigned n;
	/* Why the chain ends before a full snapshot: the parent of the last
	 * file is missing (-ENOENT), is another one (-ESTALE), or there are too
	 * many (-EOPNOTSUPP). */
	struct err missing;
	struct snap_uuid missing_uuid;
};

/*
 * A file that may be child's parent: its descriptor, which is the caller's from
 * then on, and its name into path. -ENOENT: there are no more. Another negative
 * errno and e: something is there, and it cannot be it. first: this is the
 * first question about child.
 */
typedef int snap_find_fn(void *arg, const struct snap_file *child, bool first,
	char path[PATH_MAX], struct err *e);

/* The chain of the file fd (borrowed), whose name is path ("": not known). 0
 * also when a parent is missing; on error nothing is left. */
int snap_follow(int fd, const char *path, snap_find_fn *find, void *arg,
	struct snap_files *c, struct err *e) MUST_USE;
void snap_files_close(struct snap_files *c);
/* One step of it: the parent of child into f, whose fd is then the caller's.
 * -ENOENT: there is none; -ESTALE: it is another file. */
int snap_find_parent(const struct snap_file *child, snap_find_fn *find,
	void *arg, struct snap_file *f, struct err *e) MUST_USE;

/* All files of c, which must be complete, opened and attached; s has c->n
 * elements. snap_close_chain() before c is closed. */
int snap_files_open(
	const struct snap_files *c, struct snap **s, struct err *e) MUST_USE;

/* What "thaw verify --json" says: "file", "ok", "uuid", "files", "bytes",
 * "chunks", "pages", "zero". Every file that is there is looked at; then a
 * missing one is the error. progress as in snap_verify(). */
int snap_files_verify(const struct snap_files *c,
	int (*progress)(void *arg, uint64_t done, uint64_t total), void *arg,
	msgpack_packer *out, struct err *e) MUST_USE;
/* snap_inspect() of the first file; chain and nchain of o come from c, which
 * may be empty: a file that is not sound cannot be followed. */
int snap_files_inspect(int fd, const struct snap_files *c,
	struct snap_inspect_opts *o, msgpack_packer *out,
	struct err *e) MUST_USE;

#endif
