#include "api/daemon/machine.h"
#include "api/daemon/methods.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>

/* Method "machine.connect": a client's socket goes to the machine, which takes
 * it for one that came through its vsock listener. No byte of it passes here.
 */

#define CONNECT_MS 10000

static void connected(
	struct daemon *d, void *arg, struct ctl_packet *p, const struct err *e)
{
	struct request *r = arg;

	(void)d;
	if (!p) {
		request_fail(r, e);
		return;
	}
	(void)msgpack_pack_map(request_begin(r), 0);
	request_end(r);
}

static int check_socket(int fd, struct err *e)
{
	int domain = 0, type = 0, flags = fcntl(fd, F_GETFL);
	socklen_t n = sizeof(domain), n2 = sizeof(type);

	if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &n) ||
		getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &n2) ||
		domain != AF_UNIX || type != SOCK_STREAM)
		return err_set(
			e, -EINVAL, "socket: must be a unix stream socket");
	/* This end is ours alone, unless the client kept a copy. */
	if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK))
		return err_sys(e, -errno, "socket");
	return 0;
}

int machine_connect_method(
	struct daemon *d, struct request *r, struct args *a, struct err *e)
{
	struct ctl_msg m = {.type = CTL_CONNECT};
	struct ctl_fd fd = {.kind = CTL_FD_STREAM};
	struct machine_entry *entry;
	AUTO_FD sock = -1;
	int rc = machine_get(d, a->id, &entry, e);

	if (rc)
		return rc;
	if (entry->state != ENTRY_RUNNING)
		return err_set(e,
			entry->state == ENTRY_ENDED ? -ENOENT : -EBUSY,
			"%s: the machine is %s", entry->id,
			machine_state(entry));
	sock = request_take_fd(r, a->socket.fd, e);
	if (sock < 0)
		return sock;
	rc = check_socket(sock, e);
	if (rc)
		return rc;
	fd.fd = sock;
	return proc_call(d, &entry->p,
		&(struct proc_request){.m = &m,
			.fds = &fd,
			.nfds = 1,
			.timeout_ms = CONNECT_MS,
			.fn = connected,
			.arg = r},
		e);
}
