/* A thaw pager on this host, for the figure of snapshots that come over TCP. */
#ifndef THAW_BENCH_RESTORE_TCP_H
#define THAW_BENCH_RESTORE_TCP_H

#include "bench/bench.h"

struct tcp_pager {
	pid_t pid;    /* 0: none */
	char dir[96]; /* that it serves: one file */
	char file[128];
	char cache[96]; /* of the daemon */
	char url[512];
};

/* Serve this snapshot, without a working set. An exit code, after a message;
 * tcp_pager_stop() in any case. */
int tcp_pager_start(struct bench *b, const char *file, struct tcp_pager *t);
void tcp_pager_stop(struct tcp_pager *t);
/* The daemon has nothing of it any more. */
void tcp_pager_cold(const struct tcp_pager *t);

#endif
