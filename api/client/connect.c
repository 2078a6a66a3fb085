/* thaw_machine_connect(): a way into the guest. */
#include "api/client/client.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

/* "OK 1073741824\n" */
#define MAX_LINE 32

/* Read the machine's line; not a byte more, as the rest is the guest's. */
static int read_line(int fd, char *line, size_t size, uint64_t deadline,
	struct thaw_error *e)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};
	size_t n = 0;

	while (n + 1 < size) {
		uint64_t now = now_ns();
		int ms = deadline > now ? (int)((deadline - now) / 1000000) + 1
					: 0;
		ssize_t got;
		int r = poll(&p, 1, ms);

		if (r == 0)
			return client_error(e, THAW_TIMEOUT,
				"the guest did not answer in time");
		if (r < 0 && errno != EINTR)
			return client_error(
				e, THAW_INTERNAL, "poll: %s", strerror(errno));
		got = r > 0 ? recv(fd, line + n, 1, MSG_DONTWAIT) : -1;
		if (got == 0 || (got < 0 && errno == ECONNRESET))
			break;
		if (got == 1 && line[n++] == '\n') {
			line[n] = '\0';
			return THAW_OK;
		}
	}
	line[0] = '\0';
	return THAW_OK;
}

static int say_connect(
	int fd, uint32_t port, int timeout_ms, struct thaw_error *e)
{
	char line[MAX_LINE];
	int n = snprintf(line, sizeof(line), "CONNECT %u\n", port);
	int rc;

	if (write_full(fd, line, (size_t)n))
		return client_error(e, THAW_CONNECT, "the machine hung up");
	rc = read_line(fd, line, sizeof(line),
		now_ns() + (uint64_t)timeout_ms * 1000000, e);
	if (!rc && strncmp(line, "OK ", 3) != 0)
		rc = client_error(e, THAW_CONNECT,
			"nobody listens on vsock port %u in the guest", port);
	return rc;
}

int thaw_machine_connect(struct thaw *t, const char *id, uint32_t port,
	int timeout_ms, struct thaw **out, struct thaw_error *e)
{
	msgpack_packer *p;
	int pair[2], rc;

	*out = NULL;
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair))
		return client_error(
			e, THAW_INTERNAL, "socketpair: %s", strerror(errno));
	p = thaw_request(t, "machine.connect", 2);
	thaw_pack_str(p, "id", id);
	thaw_pack_fd(t, p, "socket", pair[1]);
	rc = thaw_call(t, timeout_ms, NULL, e);
	(void)close(pair[1]);
	if (!rc)
		rc = say_connect(pair[0], port, timeout_ms, e);
	if (!rc)
		return client_new(pair[0], out, e);
	(void)close(pair[0]);
	return rc;
}
