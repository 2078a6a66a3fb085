/*
 * Tap interfaces that clients name. The daemon attaches to one that exists; it
 * never makes any. Who may use it: root, and whoever the interface was given
 * to (ip tuntap add mode tap user U or group G).
 */
#ifndef THAW_API_DAEMON_TAP_H
#define THAW_API_DAEMON_TAP_H

#include "api/daemon/conn.h"

/* fd >= 0: number of a descriptor that came with the request, which is attached
 * already; else name. id names the device in messages. Returns the descriptor,
 * non-blocking, with IFF_VNET_HDR. */
int tap_open(struct daemon *d, struct request *r, const char *id,
	const char *name, int64_t fd, struct err *e) MUST_USE;

#endif
