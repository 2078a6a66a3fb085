/*
 * A file appears at its name complete or not at all.
 *
 *   publish_begin()   an unnamed file in the directory; write p->fd
 *   publish_commit()  fsync, give it its name, fsync the directory
 *   publish_abort()   at any time, also after a commit: leaves nothing behind
 *
 * Where the file system has no unnamed files (O_TMPFILE), the file has a
 * temporary name, p->temp, until it is committed or aborted; a file that
 * replaces another has one for a moment everywhere. A process that dies in
 * between leaves it, so its owner records the name first (.record), or removes
 * what others left in that directory (.sweep): the file is locked (flock) for
 * as long as its writer lives, and one without lock that nobody wrote to for a
 * minute is nobody's. A name is one path component; directories are opened by
 * the caller, with the rights of whoever asked.
 */
#ifndef THAW_SNAPSHOT_PUBLISH_H
#define THAW_SNAPSHOT_PUBLISH_H

#include "core/err.h"

#include <limits.h>

struct publish {
	int dirfd; /* borrowed; O_PATH is enough */
	int fd;    /* owned; write-only use is the caller's */
	bool force;
	char name[NAME_MAX + 1];
	char temp[32]; /* "" when unnamed */
	/* Called with a temporary name before it exists, so that it can be
	 * removed if we do not live to do it; not 0: do without. May be NULL.
	 */
	int (*record)(void *arg, const char *temp);
	void *arg;
	bool sweep; /* remove what others left in this directory */
};

/* .record, .arg and .sweep are set by the caller; all else is set here.
 * -EEXIST when the name is taken and not force; -EINVAL for a bad name. */
int publish_begin(struct publish *p, int dirfd, const char *name, bool force,
	struct err *e) MUST_USE;
/* -EEXIST when the name was taken meanwhile and not force. On error nothing
 * is left after publish_abort(), unless only the directory's fsync failed: then
 * the file is there, and the message says so. */
int publish_commit(struct publish *p, struct err *e) MUST_USE;
void publish_abort(struct publish *p);

#endif
