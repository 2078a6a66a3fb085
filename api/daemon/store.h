/*
 * Templates on disk: STATE_DIR/templates/NAME/{snapshot.thaw,template.json}.
 * A template is written into a directory whose name begins with ".new-" and
 * renamed when it is complete, so that what has a name is whole; directories
 * of the other kind are left over from a crash and are removed at the start.
 */
#ifndef THAW_API_DAEMON_STORE_H
#define THAW_API_DAEMON_STORE_H

#include "api/daemon/feed.h"
#include "snapshot/remote.h"

struct store_new {
	int dir; /* owned, -1: none */
	char temp[64], name[56];
};

struct store_meta {
	char *labels;      /* owned JSON object, or NULL */
	char *disks;       /* owned JSON array [{id, path}], or NULL */
	uint64_t uid, gid; /* who made it */
	uint64_t pool, max_clones, invoke_ms, created;
	struct feed_opts paging;
	struct remote_name *remote; /* owned: where the snapshot is, or NULL */
};

/* Opens (and makes) DIR/templates and removes leftovers; the result is its
 * descriptor, and holds a lock: -EBUSY when another daemon has it. */
int store_open(const char *state_dir, struct err *e) MUST_USE;
/* Begin a template; *fd is its empty snapshot file, owned by the caller. */
int store_begin(int store, const char *name, struct store_new *n, int *fd,
	struct err *e) MUST_USE;
/* Make it appear, durably. store_abort() is still needed on error. */
int store_commit(int store, struct store_new *n, const struct store_meta *meta,
	struct err *e) MUST_USE;
void store_abort(int store, struct store_new *n);
void store_remove(int store, const char *name);

/* Calls fn for the name of every template. */
int store_list(int store, void (*fn)(void *arg, const char *name), void *arg);
/* Absolute path of a template's snapshot; malloc()ed, NULL: no memory. */
char *store_snapshot_path(const char *state_dir, const char *name);
/* Its snapshot, read-only, and what template.json says (owned). */
int store_load(int store, const char *name, struct store_meta *meta, int *fd,
	struct err *e) MUST_USE;
/* Disk ID's frozen overlay, read-only: -ENOENT when there is none. */
int store_overlay(int store, const char *name, const char *id);
/* Its working set, or -1. */
int store_open_set(int store, const char *name);
/* Put a working set beside the snapshot; from is read to its end. */
int store_put_set(int dir, int from, struct err *e) MUST_USE;
int store_replace_set(
	int store, const char *name, int from, struct err *e) MUST_USE;
/* The new template's snapshot without copying its bytes: by shared blocks or as
 * another name of the same file. 1: done, 0: it must be copied. */
int store_link(const struct store_new *n, int from, int to);
/* The new template's snapshot is this file, as another name of it. */
int store_adopt(const struct store_new *n, int from, struct err *e) MUST_USE;
/* Copy all of a file, sharing blocks where the file system can. */
int store_copy(int from, int to, struct err *e) MUST_USE;

#endif
