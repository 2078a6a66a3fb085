/*
 * A machine's process may not open a socket, and the daemon may not wait for a
 * name server. So a small process does it: it knows one peer, connects when it
 * is asked to, and hands the descriptor over.
 */
#include "snapshot/remote_dial.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

struct dial_ask {
	uint32_t id, timeout_ms;
};
struct dial_answer {
	uint32_t id;
	int32_t code; /* negative errno; 0: a descriptor comes along */
	char text[200];
};
union control {
	struct cmsghdr align;
	char buf[CMSG_SPACE(sizeof(int))];
};

static int left_ms(uint64_t until)
{
	uint64_t now = now_ns();

	return now >= until
		       ? 0
		       : (int)min_u64((until - now) / 1000000 + 1, 3600000);
}

/* ---- the process that connects ---- */

static int connect_one(const struct remote_addr *a, uint64_t until)
{
	const int one = 1;
	AUTO_FD fd = socket(
		a->sa.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	struct pollfd p = {.fd = fd, .events = POLLOUT};
	socklen_t len = sizeof(int);
	int code = 0, n;

	if (fd < 0)
		return -errno;
	if (connect(fd, (const struct sockaddr *)&a->sa, a->len) &&
		errno != EINPROGRESS)
		return -errno;
	do
		n = poll(&p, 1, left_ms(until));
	while (n < 0 && errno == EINTR);
	if (n == 0)
		return -ETIMEDOUT;
	if (n < 0 || getsockopt(fd, SOL_SOCKET, SO_ERROR, &code, &len))
		return -errno;
	if (code)
		return -code;
	(void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	(void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof(one));
	return take_fd(&fd);
}

static int dial(const struct remote_name *n, uint64_t until, char text[200])
{
	struct remote_addr a[REMOTE_ADDRS];
	int count = remote_addrs(n->host, n->port, until, a, REMOTE_ADDRS);
	int r = count;

	if (count <= 0)
		(void)snprintf(text, 200, "%.150s: no such host", n->host);
	for (int i = 0; i < count; i++) {
		/* Each gets its share: the first may be a black hole. */
		uint64_t now = now_ns();
		uint64_t left = until > now ? until - now : 0;

		r = connect_one(&a[i], now + left / (unsigned)(count - i));
		if (r >= 0)
			return r;
		(void)snprintf(text, 200, "%.150s", strerror(-r));
	}
	return r < 0 ? r : -EHOSTUNREACH;
}

static int send_answer(int sock, struct dial_answer *a, int fd)
{
	struct iovec iov = {a, sizeof(*a)};
	union control c = {.buf = {0}};
	struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};

	if (fd >= 0) {
		struct cmsghdr *h;

		m.msg_control = &c;
		m.msg_controllen = sizeof(c.buf);
		h = CMSG_FIRSTHDR(&m);
		h->cmsg_level = SOL_SOCKET;
		h->cmsg_type = SCM_RIGHTS;
		h->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(h), &fd, sizeof(int));
	}
	return sendmsg(sock, &m, MSG_NOSIGNAL) == sizeof(*a) ? 0 : -errno;
}

void remote_dial_serve(int sock, const struct remote_name *n)
{
	struct dial_ask q;

	for (;;) {
		struct dial_answer a = {0};
		ssize_t got = recv(sock, &q, sizeof(q), 0);
		int fd, r;

		if (got < 0 && errno == EINTR)
			continue;
		if (got != sizeof(q))
			return;
		a.id = q.id;
		fd = dial(n, now_ns() + q.timeout_ms * 1000000ULL, a.text);
		if (fd < 0)
			a.code = fd;
		r = send_answer(sock, &a, fd);
		if (fd >= 0)
			(void)close(fd);
		if (r)
			return;
	}
}

/* ---- who asks it ---- */

/* One answer, and its descriptor or -1. */
static int take_answer(int sock, struct dial_answer *a, int *fd)
{
	struct iovec iov = {a, sizeof(*a)};
	union control c;
	struct msghdr m = {.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = &c,
		.msg_controllen = sizeof(c.buf)};
	ssize_t n = recvmsg(sock, &m, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
	struct cmsghdr *h = n > 0 ? CMSG_FIRSTHDR(&m) : NULL;

	*fd = -1;
	if (h && h->cmsg_type == SCM_RIGHTS &&
		h->cmsg_len == CMSG_LEN(sizeof(int)))
		memcpy(fd, CMSG_DATA(h), sizeof(int));
	if (n == sizeof(*a)) {
		a->text[sizeof(a->text) - 1] = 0;
		return 0;
	}
	return n < 0 ? -errno : -EPIPE;
}

int remote_wait(int fd, short events, int cancel, uint64_t until)
{
	struct pollfd p[2] = {
		{.fd = fd, .events = events}, {.fd = cancel, .events = POLLIN}};
	int n = poll(p, 2, left_ms(until));

	if (n < 0)
		return errno == EINTR ? 0 : -errno;
	if (p[1].revents)
		return -ECANCELED;
	return n == 0 && now_ns() >= until ? -ETIMEDOUT : 0;
}

int remote_dial_ask(
	int sock, uint32_t id, int cancel, uint64_t until, struct err *e)
{
	struct dial_ask q = {.id = id, .timeout_ms = (uint32_t)left_ms(until)};
	struct dial_answer a = {0};
	int fd = -1, r = 0;

	if (send(sock, &q, sizeof(q), MSG_NOSIGNAL) != sizeof(q))
		return err_sys(e, -errno, "asking for a connection");
	while (!r) {
		r = remote_wait(sock, POLLIN, cancel, until);
		if (!r)
			r = take_answer(sock, &a, &fd);
		if (r == -EAGAIN || r == -EINTR) {
			r = 0;
			continue;
		}
		if (!r && a.id == id)
			break;
		/* Of somebody who did not wait for it. */
		if (fd >= 0)
			(void)close(fd);
		fd = -1;
	}
	if (!r && fd < 0)
		return err_set(e, a.code < 0 ? a.code : -EIO, "%s",
			a.text[0] ? a.text : "no connection");
	return r ? err_sys(e, r, "connecting") : fd;
}
