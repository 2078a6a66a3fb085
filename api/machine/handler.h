/*
 * A program of somebody else that brings in the memory of one machine: the
 * machine's end of the handshake (docs/lazy.md, "A pager of your own").
 */
#ifndef THAW_API_MACHINE_HANDLER_H
#define THAW_API_MACHINE_HANDLER_H

#include "api/ctl.h"

/* Connect to the socket CTL_FD_PAGER of the message, if there is one: *sock is
 * then a socket, the caller's. Needs paths, so it comes before the jail; waits
 * stall_ms (0: PAGER_STALL_MS) for a handler whose backlog is full. */
int handler_connect(struct ctl_packet *p, uint32_t stall_ms, int *sock,
	struct err *e) MUST_USE;
/* Memory that is registered (m->uffd): tell the handler where it lies and give
 * it the userfaultfd. */
int handler_give(int sock, const struct mem *m, struct err *e) MUST_USE;

#endif
