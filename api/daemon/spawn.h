/* Starting thaw-machine; see spawn.c. */
#ifndef THAW_API_DAEMON_SPAWN_H
#define THAW_API_DAEMON_SPAWN_H

#include "api/daemon/proc.h"
#include "snapshot/remote.h"

/* out becomes its stdout, ctl (or -1) its CTL_FD; both stay the caller's.
 * Returns the pid and sets *pidfd (owned by the caller), or -errno. */
pid_t spawn(const struct daemon *d, char *const argv[], int out, int ctl,
	bool own_ns, int *pidfd) MUST_USE;
/* A child that copies one file to another and exits with 0 or an errno. */
int proc_spawn_copy(struct daemon *d, struct proc *p, int from, int to,
	struct err *e) MUST_USE;
/* A process that connects to this peer (remote_dial_serve()) until the socket
 * that is returned, the caller's, is closed. Or a negative errno. */
int spawn_dialer(
	struct daemon *d, const struct remote_name *n, struct err *e) MUST_USE;
/* Is the pidfd's process a child of p->parent (or gone)? */
bool proc_is_child(struct proc *p);

#endif
