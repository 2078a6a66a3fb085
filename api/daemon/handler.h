/*
 * External pagers: programs of users that bring in the memory of one restored
 * machine (docs/lazy.md, "A pager of your own"). The machine connects and hands
 * its memory over; the daemon watches both.
 *
 * The daemon holds copies of the machine's socket and userfaultfd. The machine
 * is killed when the handler closes the socket, or brings no page for too long
 * while one is waited for; the copies are closed after that.
 */
#ifndef THAW_API_DAEMON_HANDLER_H
#define THAW_API_DAEMON_HANDLER_H

#include "api/daemon/machine.h"
#include "api/daemon/params.h"

/* From parameter pager and what may not stand beside it: the socket, as an
 * O_PATH descriptor, and its path. */
int handler_find(struct daemon *d, struct request *r, const struct args *a,
	char path[4096], struct err *e) MUST_USE;
/* m->handler for a machine that is about to be set up; stall_ms 0: default. */
int handler_create(struct machine_entry *m, const char *path, uint64_t stall_ms,
	struct err *e) MUST_USE;
/* CTL_UFFD of such a machine. */
void handler_uffd(
	struct daemon *d, struct machine_entry *m, struct ctl_packet *p);
/* The machine is dead. */
void handler_leave(struct daemon *d, struct machine_entry *m);
/* The map "pager" of a machine; key included. */
void handler_pack(const struct handler *h, msgpack_packer *p);

#endif
