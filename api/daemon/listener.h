/*
 * A machine's vsock as a unix socket: made where the client says, with the
 * client's rights, and removed when the machine ends. Connections of the guest
 * to a host port go to PATH_port.
 */
#ifndef THAW_API_DAEMON_LISTENER_H
#define THAW_API_DAEMON_LISTENER_H

#include "api/daemon/conn.h"
#include "api/daemon/machine.h"
#include "api/daemon/params.h"

/* Returns the listening descriptor (the caller's) and sets *out. */
int listener_create(struct daemon *d, struct request *r,
	const struct path_arg *arg, struct listener **out,
	struct err *e) MUST_USE;
void listener_close(struct listener *l);
const char *listener_path(const struct listener *l);
/* CTL_DIAL: connect, and send the descriptor to the machine. */
void listener_dial(struct machine_entry *m, struct ctl_packet *p);

#endif
