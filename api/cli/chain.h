/*
 * The files of a chain, found by name: each diff's parent is looked for among
 * the files the user gave, at the path that the diff gives, and beside the
 * diff. Only headers are looked at here (snap_peek()).
 */
#ifndef THAW_API_CLI_CHAIN_H
#define THAW_API_CLI_CHAIN_H

#include "api/cli/cli.h"
#include "snapshot/files.h"

/* Open a regular file for reading: a descriptor, or a negative errno and why.
 * What is something else is not opened: that alone can have effects, or wait,
 * and a diff may name anything as its parent. */
int file_open(const char *path, struct err *e) MUST_USE;

/* Open path and what it builds on. more: files to look at first. 0 also when a
 * parent is missing. c->file[0].fd is closed by file_chain_close(), too. */
int file_chain_open(const char *path, const char *const *more, unsigned nmore,
	struct snap_files *c, struct err *e) MUST_USE;
void file_chain_close(struct snap_files *c);
/* The same for fd (borrowed), to be closed by snap_files_close(). */
int file_chain_follow(int fd, const char *path, const char *const *more,
	unsigned nmore, struct snap_files *c, struct err *e) MUST_USE;

#endif
