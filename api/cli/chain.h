/*
 * The files of a chain, found by name: each diff's parent is looked for among
 * the files the user gave, at the path that the diff gives, and beside the
 * diff. Only headers are looked at here (snap_peek()).
 */
#ifndef THAW_API_CLI_CHAIN_H
#define THAW_API_CLI_CHAIN_H

#include "api/cli/cli.h"
#include "snapshot/snap.h"

#include <limits.h>

struct chain_file {
	int fd; /* owned; -1: not found */
	char path[PATH_MAX];
	struct snap_peeked is;
};

struct file_chain {
	struct chain_file *file; /* owned; newest first */
	unsigned n;
	/* Why the chain ends before a full snapshot: the parent of the last
	 * file is missing (-ENOENT) or is another one (-ESTALE). */
	struct err missing;
	struct snap_uuid missing_uuid;
};

/* Open path and what it builds on. more: files to look at first. 0 also when a
 * parent is missing. */
int file_chain_open(const char *path, const char *const *more, unsigned nmore,
	struct file_chain *c, struct err *e) MUST_USE;
void file_chain_close(struct file_chain *c);

#endif
