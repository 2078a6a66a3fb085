/* Between a link and the process that connects for it. */
#ifndef THAW_SNAPSHOT_REMOTE_DIAL_H
#define THAW_SNAPSHOT_REMOTE_DIAL_H

#include "snapshot/remote.h"

#include <sys/socket.h>

/* A connected socket, non-blocking, or a negative errno and a text without the
 * peer's name. Only one thread at a time for each sock; id: not used lately. */
int remote_dial_ask(int sock, uint32_t id, int cancel, uint64_t until,
	struct err *e) MUST_USE;
/* Until events, or any end of that, can be had of fd. 0: look; -ETIMEDOUT when
 * until (now_ns()) has come, -ECANCELED when cancel is readable. */
int remote_wait(int fd, short events, int cancel, uint64_t until) MUST_USE;

/* remote_addr.c */
struct remote_addr {
	struct sockaddr_storage sa;
	socklen_t len;
};
#define REMOTE_ADDRS 8
/* The addresses of a host, at most max: how many, or a negative errno. host "":
 * all of our own. Starts a program when host is a name: not for the daemon. */
int remote_addrs(const char *host, const char *port, uint64_t until,
	struct remote_addr *out, unsigned max) MUST_USE;
/* Host and port of an address, as numbers. */
void remote_addr_name(const struct remote_addr *a, struct remote_name *n);

#endif
