/*
 * Host sockets behind streams: clients that connected to the machine's unix
 * socket and said "CONNECT port", and sockets that somebody dialled for the
 * guest (vsock_accept()).
 *
 * How it works. Each socket is watched once, edge-triggered, for both
 * directions: can_read stays set until a read finds nothing. Bytes go from the
 * socket straight into the guest's receive buffers, so nothing is read that the
 * guest cannot take; bytes for the client that it does not take wait in
 * stream.in, at most as much as the guest was allowed to send.
 */
#include "core/devices/vsock_dev.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/uio.h>

#define ACCEPTS_PER_EVENT 16
#define MAX_IOV           16

static struct device *dev(const struct vsock *v)
{
	return (struct device *)(uintptr_t)&v->vd.dev;
}

/* ---- time ---- */

void vsock_set_deadline(struct vsock_stream *s, uint64_t after_ns)
{
	s->deadline = now_ns() + after_ns;
	s->v->timer_stale = true;
}

static bool timer_ready(struct vsock *v)
{
	if (v->timer_fd >= 0)
		return true;
	v->timer_fd = timer_open();
	if (v->timer_fd < 0)
		return false;
	if (!machine_watch(dev(v), v->timer_fd, EPOLLIN, VSOCK_W_TIMER))
		return true;
	(void)close(v->timer_fd);
	v->timer_fd = -1;
	return false;
}

void vsock_unix_arm(struct vsock *v)
{
	uint64_t first = v->listen_again, now;

	if (!v->timer_stale)
		return;
	for (unsigned i = 0; i < VSOCK_MAX_STREAMS; i++) {
		const struct vsock_stream *s = v->slot[i];

		if (s && s->deadline && (!first || s->deadline < first))
			first = s->deadline;
	}
	/* Without a timer (out of descriptors) the next pass tries again. */
	if (!timer_ready(v))
		return;
	now = now_ns();
	if (first)
		first = first > now ? first - now : 1;
	v->timer_stale = timer_arm(v->timer_fd, first) != 0;
}

void vsock_unix_timer(struct vsock *v)
{
	uint64_t now = now_ns();

	eventfd_drain(v->timer_fd);
	v->timer_stale = true;
	for (unsigned i = 0; i < VSOCK_MAX_STREAMS; i++) {
		struct vsock_stream *s = v->slot[i];

		if (s && s->deadline && s->deadline <= now)
			vsock_stream_kill(s, -ETIMEDOUT, true);
	}
	if (v->listen_again && v->listen_again <= now) {
		v->listen_again = 0;
		if (machine_watch(
			    dev(v), v->listen_fd, EPOLLIN, VSOCK_W_LISTEN))
			v->listen_again = now + VSOCK_ACCEPT_PAUSE;
	}
}

/* ---- life of a socket ---- */

static int watch(struct vsock_stream *s, int fd)
{
	int r = machine_watch(dev(s->v), fd,
		EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET,
		(uint32_t)(VSOCK_W_STREAM + s->slot));

	if (!r)
		s->fd = fd;
	return r;
}

void vsock_unix_close(struct vsock_stream *s)
{
	if (s->fd < 0)
		return;
	machine_unwatch(dev(s->v), s->fd);
	(void)close(s->fd);
	s->fd = -1;
	s->can_read = false;
}

/* The client is gone: nothing more can be delivered. */
static void client_gone(struct vsock_stream *s)
{
	size_t n = s->in.len;

	s->hup = true;
	buf_free(&s->in);
	vsock_stream_forwarded(s, (uint32_t)n);
	if (s->peer_shut == VSOCK_SHUT_BOTH)
		vsock_stream_kill(s, 0, true);
	else
		vsock_stream_shut(
			s, s->can_read ? VSOCK_SHUT_RCV : VSOCK_SHUT_BOTH);
}

/* ---- guest to client ---- */

/* Bytes taken (0: none now), or -errno. */
static ssize_t send_some(struct vsock_stream *s, const void *p, size_t n)
{
	ssize_t r;

	do {
		r = send(s->fd, p, n, MSG_NOSIGNAL | MSG_DONTWAIT);
	} while (r < 0 && errno == EINTR);
	if (r < 0)
		return errno == EAGAIN ? 0 : -errno;
	return r;
}

static void flush_in(struct vsock_stream *s)
{
	while (s->in.len) {
		ssize_t n = send_some(s, buf_data(&s->in), s->in.len);

		if (n < 0) {
			client_gone(s);
			return;
		}
		if (!n)
			return;
		buf_consume(&s->in, (size_t)n);
		vsock_stream_forwarded(s, (uint32_t)n);
	}
	if (s->peer_shut)
		vsock_unix_shut(s);
}

void vsock_unix_write(struct vsock_stream *s, const void *p, size_t n)
{
	ssize_t done = 0;

	if (s->our_shut & VSOCK_SHUT_RCV) {
		vsock_stream_forwarded(s, (uint32_t)n);
		return;
	}
	if (!s->in.len)
		done = send_some(s, p, n);
	if (done < 0) {
		vsock_stream_forwarded(s, (uint32_t)n);
		client_gone(s);
		return;
	}
	/* Credit bounds what can wait here. */
	if (buf_append(&s->in, (const uint8_t *)p + done, n - (size_t)done)) {
		vsock_stream_kill(s, -ENOMEM, true);
		return;
	}
	vsock_stream_forwarded(s, (uint32_t)done);
}

void vsock_unix_shut(struct vsock_stream *s)
{
	if (s->peer_shut & VSOCK_SHUT_RCV)
		(void)shutdown(s->fd, SHUT_RD);
	if (s->in.len) {
		/* the client may take its time, but not for ever */
		if (s->peer_shut == VSOCK_SHUT_BOTH && !s->deadline)
			vsock_set_deadline(s, VSOCK_LINGER_TIMEOUT);
		return;
	}
	if (s->peer_shut == VSOCK_SHUT_BOTH)
		vsock_stream_kill(s, 0, true);
	else if (s->peer_shut & VSOCK_SHUT_SEND)
		(void)shutdown(s->fd, SHUT_WR);
}

/* ---- client to guest ---- */

/* The first max bytes of room behind the header; returns entries. */
static int room_iov(
	const struct virtq_chain *c, uint32_t max, struct iovec iov[MAX_IOV])
{
	const struct virtq_seg *seg = &c->seg[c->nread];
	size_t skip = sizeof(struct vsock_hdr);
	int n = 0;

	for (unsigned i = 0; i < c->nwrite && max && n < MAX_IOV; i++) {
		size_t len = seg[i].len;

		if (skip >= len) {
			skip -= len;
			continue;
		}
		len = min_u64(len - skip, max);
		iov[n].iov_base = (uint8_t *)seg[i].p + skip;
		iov[n].iov_len = len;
		max -= (uint32_t)len;
		skip = 0;
		n++;
	}
	return n;
}

uint32_t vsock_unix_read(
	struct vsock_stream *s, struct virtq_chain *c, uint32_t max)
{
	struct iovec iov[MAX_IOV];
	int n = room_iov(c, max, iov);
	ssize_t r;

	do {
		r = readv(s->fd, iov, n);
	} while (r < 0 && errno == EINTR);
	if (r > 0)
		return (uint32_t)r;
	s->can_read = false;
	if (!r)
		vsock_stream_shut(
			s, s->hup ? VSOCK_SHUT_BOTH : VSOCK_SHUT_SEND);
	else if (errno != EAGAIN)
		vsock_stream_shut(s, VSOCK_SHUT_BOTH);
	return 0;
}

/* ---- CONNECT port ---- */

/* "CONNECT 1024\n" (any case, as clients of others send it) -> 1024. */
static bool parse_connect(const char *line, size_t len, uint32_t *port)
{
	static const char word[] = "CONNECT ";
	const size_t w = sizeof(word) - 1;
	uint64_t v = 0;

	if (len && line[len - 1] == '\r')
		len--;
	if (len <= w || len > w + 10 || strncasecmp(line, word, w) != 0)
		return false;
	for (size_t i = w; i < len; i++) {
		if (line[i] < '0' || line[i] > '9')
			return false;
		v = v * 10 + (uint64_t)(line[i] - '0');
	}
	*port = (uint32_t)v;
	return v < UINT32_MAX; /* VMADDR_PORT_ANY */
}

/* Peek, so that what the client sends behind the line stays in its socket. */
static void read_line(struct vsock_stream *s)
{
	char line[VSOCK_LINE_MAX];
	ssize_t n = recv(s->fd, line, sizeof(line), MSG_PEEK | MSG_DONTWAIT);
	const char *end;
	uint32_t port;

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	end = n > 0 ? memchr(line, '\n', (size_t)n) : NULL;
	if (!end && n > 0 && (size_t)n < sizeof(line))
		return;
	if (!end || !parse_connect(line, (size_t)(end - line), &port) ||
		recv(s->fd, line, (size_t)(end - line) + 1, MSG_DONTWAIT) !=
			end - line + 1) {
		vsock_stream_kill(s, 0, false);
		return;
	}
	s->state = VS_CONNECT;
	s->owed |= VS_OWE_REQUEST;
	vsock_stream_ports(s, vsock_new_port(s->v), port);
	vsock_set_deadline(s, VSOCK_OPEN_TIMEOUT);
	vsock_stream_poke(s);
}

void vsock_unix_opened(struct vsock_stream *s)
{
	char line[VSOCK_LINE_MAX];
	int n = snprintf(line, sizeof(line), "OK %u\n", s->host_port);

	/* Nothing was written to this socket before: it fits or is dead. */
	if (send_some(s, line, (size_t)n) != n) {
		vsock_stream_kill(s, -ECONNRESET, true);
		return;
	}
	s->can_read = true;
	vsock_stream_poke(s);
}

/* An event may be of the socket that had this slot before, when both were in
 * one batch of the loop. Of what it says only this is believed: */
static bool has_hung_up(const struct vsock_stream *s)
{
	struct pollfd pfd = {.fd = s->fd};

	return poll(&pfd, 1, 0) == 1 && pfd.revents & (POLLHUP | POLLERR);
}

void vsock_unix_event(struct vsock_stream *s, uint32_t events)
{
	if (s->fd < 0)
		return;
	if (events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR))
		s->can_read = true;
	if (events & (EPOLLHUP | EPOLLERR) && has_hung_up(s))
		s->hup = true;
	if (s->state == VS_LINE) {
		if (s->can_read)
			read_line(s);
		return;
	}
	if (s->state != VS_OPEN) {
		/* gone before the guest answered */
		if (s->hup)
			vsock_stream_kill(s, -ECONNRESET, true);
		return;
	}
	if (s->in.len)
		flush_in(s);
	if (s->hup && s->our_shut & VSOCK_SHUT_SEND)
		vsock_stream_shut(s, VSOCK_SHUT_BOTH);
	vsock_stream_poke(s);
}

static void new_client(struct vsock *v, int fd)
{
	struct vsock_stream *s = vsock_stream_new(v, VS_LINE);

	if (!s || watch(s, fd)) {
		(void)close(fd);
		if (s)
			vsock_stream_kill(s, -ENOMEM, false);
		return;
	}
	vsock_set_deadline(s, VSOCK_LINE_TIMEOUT);
	/* The line is usually there already; the edge comes anyhow. */
	read_line(s);
}

void vsock_unix_accept(struct vsock *v)
{
	for (int n = 0; n < ACCEPTS_PER_EVENT; n++) {
		int fd = accept4(
			v->listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

		if (fd >= 0) {
			new_client(v, fd);
			continue;
		}
		if (errno == EAGAIN)
			return;
		if (errno != EMFILE && errno != ENFILE && errno != ENOMEM &&
			errno != ENOBUFS)
			continue;
		/* The listener stays ready: look away for a moment. */
		machine_unwatch(dev(v), v->listen_fd);
		v->listen_again = now_ns() + VSOCK_ACCEPT_PAUSE;
		v->timer_stale = true;
		return;
	}
}

/* ---- core/vsock.h ---- */

static int set_nonblock(int fd)
{
	int flags = fcntl(fd, F_GETFL);

	if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK))
		return -errno;
	return 0;
}

int vsock_listen(struct vsock *v, int listen_fd, struct err *e)
{
	int r = v->listen_fd >= 0 ? -EBUSY : set_nonblock(listen_fd);

	if (!r)
		r = machine_watch(dev(v), listen_fd, EPOLLIN, VSOCK_W_LISTEN);
	if (r) {
		(void)close(listen_fd);
		return err_sys(e, r, "vsock: listening socket");
	}
	v->listen_fd = listen_fd;
	return 0;
}

void vsock_add_client(struct vsock *v, int fd)
{
	new_client(v, fd);
}

void vsock_set_dial(struct vsock *v, vsock_dial_fn *fn, void *arg)
{
	v->dial = fn;
	v->dial_arg = arg;
}

static struct vsock_stream *find_cookie(struct vsock *v, uint64_t cookie)
{
	for (unsigned i = 0; i < VSOCK_MAX_STREAMS; i++) {
		struct vsock_stream *s = v->slot[i];

		if (s && s->state == VS_DIAL && s->cookie == cookie)
			return s;
	}
	return NULL;
}

void vsock_accept(struct vsock *v, uint64_t cookie, int fd)
{
	struct vsock_stream *s = find_cookie(v, cookie);

	vsock_begin(v);
	if (!s || fd < 0 || set_nonblock(fd) || watch(s, fd)) {
		if (fd >= 0)
			(void)close(fd);
		if (s) {
			v->stats.refused++;
			vsock_stream_kill(s, -ECONNREFUSED, true);
		}
	} else {
		s->state = VS_OPEN;
		s->deadline = 0;
		s->can_read = true;
		s->owed |= VS_OWE_RESPONSE;
		vsock_stream_poke(s);
	}
	vsock_end(v);
}
