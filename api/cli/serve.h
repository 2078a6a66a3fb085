/*
 * The other side of snapshot/remote.h: what "thaw pager --listen" does. It
 * reads the snapshots of one directory and nothing else, and believes nothing
 * that a client sends. docs/pager.md has the protocol.
 */
#ifndef THAW_API_CLI_SERVE_H
#define THAW_API_CLI_SERVE_H

#include "snapshot/remote.h"

#include <pthread.h>

#define SERVE_MAX_FILES 1024
#define SERVE_MAX_CONNS 256
#define SERVE_IDLE_MS   300000 /* a connection without a request */
#define SERVE_STALL_MS  20000  /* half a request, or nobody takes the answer */

/* serve_files.c: what there is. Entries live as long as the table. */
struct served {
	struct remote_file is;
	int fd; /* owned */
	uint64_t length;
	char name[256];
};
struct serve_files {
	int dir; /* owned */
	pthread_mutex_t lock;
	struct served *file[SERVE_MAX_FILES]; /* owned */
	unsigned n;
	uint64_t looked; /* now_ns() of the last look at the directory */
};
int serve_files_open(
	struct serve_files *t, const char *path, struct err *e) MUST_USE;
void serve_files_close(struct serve_files *t);
/* NULL: no such file. One that is not known is looked for, now and then. Any
 * thread. */
const struct served *serve_find(
	struct serve_files *t, const struct remote_file *f);
/* Its working set, and how long it is, or -1. The caller's. */
int serve_set(
	const struct serve_files *t, const struct served *f, uint64_t *length);

/* serve_conn.c: one client, until it leaves, says nonsense, or stop (an
 * eventfd) becomes readable. fd is a stream socket, borrowed. */
struct serve_limits {
	unsigned idle_ms, stall_ms;
};
void serve_conn(struct serve_files *t, int fd, int stop,
	const struct serve_limits *limits);

#endif
