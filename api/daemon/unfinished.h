/*
 * Temporary names that a client's directory has while a snapshot is published
 * there (snapshot/publish.h): recorded in the state directory before they
 * exist, so that those of a daemon that was killed are removed by the next one.
 */
#ifndef THAW_API_DAEMON_UNFINISHED_H
#define THAW_API_DAEMON_UNFINISHED_H

#include "core/err.h"

/* At the start, with the state directory locked: remove what the last daemon
 * left. Problems are logged, not errors. */
void unfinished_clean(const char *state_dir);
/* Before a file "name" appears in dir, which is at path. */
int unfinished_note(const char *state_dir, int dir, const char *path,
	const char *name) MUST_USE;
/* The name is gone, or is the real one now. */
void unfinished_done(const char *state_dir, const char *name);

#endif
