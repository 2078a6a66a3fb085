#include "api/daemon/conn.h"

#include "api/daemon/machine.h"
#include "api/daemon/methods.h"
#include "core/log.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>

/* One client's turn per event: then the others are heard. */
#define READS_PER_EVENT 4

static const struct mp_limits request_limits = {
	.max_depth = 12,
	.max_elements = 16384,
};

void conn_create(struct daemon *d, int fd)
{
	struct conn *c = calloc(1, sizeof(*c));
	socklen_t len = sizeof(c->peer);

	if (!c) {
		(void)close(fd);
		return;
	}
	c->on.type = EV_CONN;
	c->fd = fd;
	c->events = EPOLLIN;
	list_init(&c->subscribed);
	list_init(&c->requests);
	list_init(&c->bound);
	rpc_reader_init(&c->in, method_limit, &request_limits);
	msgpack_sbuffer_init(&c->out);
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &c->peer, &len) ||
		loop_add(&d->loop, fd, c->events,
			(union ev_ref){.ptr = &c->on})) {
		(void)close(fd);
		free(c);
		return;
	}
	list_add(&d->conns, &c->link);
	d->nconns++;
	d->metrics.counter[COUNT_CONNECTIONS]++;
}

static void close_fds(struct conn *c)
{
	for (unsigned i = 0; i < c->nfds; i++)
		(void)close(c->fds[i]);
	c->nfds = 0;
}

static void conn_close(struct daemon *d, struct conn *c)
{
	while (!list_empty(&c->requests)) {
		struct request *r =
			container_of(c->requests.next, struct request, link);

		r->conn = NULL;
		list_del(&r->link);
		if (r->gone)
			r->gone(d, r);
	}
	machines_unbind(d, c);
	close_fds(c);
	loop_del(&d->loop, c->fd);
	(void)close(c->fd);
	rpc_reader_fini(&c->in);
	msgpack_sbuffer_destroy(&c->out);
	list_del(&c->subscribed);
	list_del(&c->link);
	d->nconns--;
	daemon_bury(d, c);
}

void conn_doom(struct daemon *d, struct conn *c)
{
	c->doomed = true;
	c->closing = true;
	d->some_doomed = true;
}

void conns_close_doomed(struct daemon *d)
{
	while (d->some_doomed) {
		d->some_doomed = false;
		list_for_each_safe(it, &d->conns)
		{
			struct conn *c = container_of(it, struct conn, link);

			if (c->doomed)
				conn_close(d, c);
		}
	}
}

static void want_events(struct daemon *d, struct conn *c)
{
	size_t waiting = c->out.size - c->out_sent;
	uint32_t events = 0;

	if (waiting)
		events |= EPOLLOUT;
	if (waiting < CONN_OUT_PAUSE && !c->closing)
		events |= EPOLLIN;
	if (events == c->events)
		return;
	c->events = events;
	if (loop_mod(&d->loop, c->fd, events, (union ev_ref){.ptr = &c->on}))
		conn_doom(d, c);
}

void conn_flush(struct daemon *d, struct conn *c)
{
	while (c->out_sent < c->out.size) {
		ssize_t n = send(c->fd, c->out.data + c->out_sent,
			c->out.size - c->out_sent, MSG_NOSIGNAL | MSG_DONTWAIT);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno != EAGAIN) {
			conn_doom(d, c);
			return;
		}
		if (n < 0)
			break;
		c->out_sent += (size_t)n;
	}
	if (c->out_sent == c->out.size) {
		c->out_sent = 0;
		c->out.size = 0;
		if (c->out.alloc > 64 * KIB) {
			msgpack_sbuffer_destroy(&c->out);
			msgpack_sbuffer_init(&c->out);
		}
		if (c->closing) {
			conn_doom(d, c);
			return;
		}
	} else if (c->out_sent > CONN_OUT_PAUSE) {
		c->out.size -= c->out_sent;
		memmove(c->out.data, c->out.data + c->out_sent, c->out.size);
		c->out_sent = 0;
	}
	want_events(d, c);
}

/* Descriptors belong to the message that holds the last byte of the read they
 * came with: a read never goes on behind the bytes of such a sendmsg(). */
static void take_fds(struct conn *c, struct msghdr *mh, uint64_t end)
{
	int fds[CONN_MAX_FDS];

	for (struct cmsghdr *m = CMSG_FIRSTHDR(mh); m; m = CMSG_NXTHDR(mh, m)) {
		size_t n;

		if (m->cmsg_level != SOL_SOCKET || m->cmsg_type != SCM_RIGHTS)
			continue;
		n = (m->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		if (n > CONN_MAX_FDS)
			n = CONN_MAX_FDS;
		memcpy(fds, CMSG_DATA(m), n * sizeof(int));
		for (size_t i = 0; i < n; i++) {
			if (c->nfds < CONN_MAX_FDS)
				c->fds[c->nfds++] = fds[i];
			else
				(void)close(fds[i]);
		}
		c->fds_at = end;
	}
}

/* 1: something was read, 0: nothing to read, -errno: the client is gone */
static int read_some(struct conn *c)
{
	union {
		char buf[CMSG_SPACE(sizeof(int) * CONN_MAX_FDS)];
		struct cmsghdr align;
	} space;
	struct iovec iov;
	struct msghdr mh = {.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = space.buf,
		.msg_controllen = sizeof(space.buf)};
	uint8_t *p = NULL;
	int64_t room = rpc_space(&c->in, &p);
	ssize_t n;

	if (room < 0)
		return (int)room;
	iov.iov_base = p;
	iov.iov_len = (size_t)room;
	n = recvmsg(c->fd, &mh, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -errno;
	if (n == 0)
		return -ECONNRESET;
	rpc_filled(&c->in, (size_t)n);
	take_fds(c, &mh, rpc_position(&c->in));
	return 1;
}

static void malformed(struct daemon *d, struct conn *c)
{
	msgpack_packer p;

	d->metrics.counter[COUNT_MALFORMED]++;
	msgpack_packer_init(&p, &c->out, msgpack_sbuffer_write);
	rpc_pack_error(&p, NULL, -EINVAL,
		"not a msgpack-rpc request, or nested too deep, or too many "
		"values; the connection ends here");
	c->closing = true;
}

/* Handle every request that is complete. */
static void parse(struct daemon *d, struct conn *c)
{
	struct rpc_msg m;
	int r = 0;

	while (!c->closing) {
		r = rpc_next(&c->in, &m);
		if (r <= 0)
			break;
		/* They came with bytes before this message. */
		if (c->nfds && c->fds_at <= m.begin)
			close_fds(c);
		if (m.kind == RPC_RESPONSE)
			r = -EBADMSG;
		else if (m.kind != RPC_NOTIFICATION)
			request_receive(d, c, &m);
		if (r < 0)
			break;
		if (c->nfds && c->fds_at <= m.end)
			close_fds(c);
	}
	if (r < 0 && !c->doomed)
		malformed(d, c);
}

void conn_event(struct daemon *d, struct conn *c, uint32_t events)
{
	int r = 1;

	if (!c->doomed && (events & EPOLLOUT))
		conn_flush(d, c);
	if (c->doomed)
		return;
	c->corked = true;
	for (int i = 0; i < READS_PER_EVENT && r == 1 && !c->doomed; i++) {
		if (!(c->events & EPOLLIN))
			break;
		r = read_some(c);
		if (r == 1)
			parse(d, c);
		/* A short read has emptied the socket. */
		if (r == 1 && c->in.len < c->in.cap)
			break;
	}
	c->corked = false;
	if (r < 0 || (events & (EPOLLHUP | EPOLLERR)))
		conn_doom(d, c);
	else if (!c->doomed)
		conn_flush(d, c);
}
