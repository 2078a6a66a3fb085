#include "core/guest/linux/agent.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>

#define EVENTS_AT_ONCE 32
/* A peer with more unread answers than this is not heard before it reads. */
#define OUT_MAX (16 * MIB)
/* Streamed output goes on when no more than this waits. */
#define OUT_ROOM (256 * KIB)

/* Room for a put or an invoke; few values otherwise. */
static const struct mp_limits limits = {
	.max_depth = 8,
	.max_elements = 8192,
};

int ta_init(struct ta *t, struct err *e)
{
	sigset_t set;
	int r;

	for (unsigned i = 0; i < TA_CONNS; i++)
		t->conn[i].fd = -1;
	for (unsigned i = 0; i < TA_EXECS; i++)
		t->exec[i].fd[0] = t->exec[i].fd[1] = t->exec[i].fd[2] = -1;
	t->h.fd[0] = t->h.fd[1] = t->h.fd[2] = -1;
	t->listen = t->signals = -1;
	r = loop_init(&t->loop);
	if (r)
		return err_sys(e, r, "epoll");
	(void)sigemptyset(&set);
	(void)sigaddset(&set, SIGCHLD);
	(void)sigaddset(&set, SIGTERM);
	(void)sigaddset(&set, SIGINT);
	if (sigprocmask(SIG_BLOCK, &set, NULL))
		return err_sys(e, -errno, "blocking signals");
	(void)signal(SIGPIPE, SIG_IGN);
	t->signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (t->signals < 0)
		return err_sys(e, -errno, "signalfd");
	r = loop_add(&t->loop, t->signals, EPOLLIN,
		(union ev_ref){.type = TA_EV_SIGNAL});
	return r ? err_sys(e, r, "watching signals") : 0;
}

int ta_listen(struct ta *t, int fd)
{
	t->listen = fd;
	return loop_add(
		&t->loop, fd, EPOLLIN, (union ev_ref){.type = TA_EV_LISTEN});
}

/* ---- connections ---- */

static union ev_ref ref_of(const struct ta *t, const struct ta_conn *c)
{
	return (union ev_ref){
		.type = TA_EV_CONN, .index = (uint32_t)(c - t->conn)};
}

static void conn_close(struct ta *t, struct ta_conn *c)
{
	if (c->fd < 0)
		return;
	loop_del(&t->loop, c->fd);
	(void)close(c->fd);
	c->fd = -1;
	buf_free(&c->in);
	buf_free(&c->out);
	ta_exec_conn_gone(t, c);
}

static void conn_watch(struct ta *t, struct ta_conn *c)
{
	uint32_t want = 0;

	if (!c->eof && c->out.len < OUT_MAX)
		want |= EPOLLIN;
	if (c->out.len)
		want |= EPOLLOUT;
	if (want == c->events)
		return;
	c->events = want;
	if (loop_mod(&t->loop, c->fd, want, ref_of(t, c)))
		conn_close(t, c);
}

int ta_add_conn(struct ta *t, int fd)
{
	struct ta_conn *c = NULL;
	int r = -EMFILE;

	for (unsigned i = 0; i < TA_CONNS && !c; i++) {
		if (t->conn[i].fd < 0)
			c = &t->conn[i];
	}
	if (c) {
		memset(c, 0, sizeof(*c));
		c->fd = fd;
		c->serial = ++t->serial;
		c->events = EPOLLIN;
		mp_walk_init(&c->walk, &limits);
		r = loop_add(&t->loop, fd, EPOLLIN, ref_of(t, c));
		if (r)
			c->fd = -1;
	}
	if (r)
		(void)close(fd);
	return r;
}

struct ta_conn *ta_conn_of(struct ta *t, const struct ta_req *q)
{
	struct ta_conn *c = &t->conn[q->conn];

	return c->fd >= 0 && c->serial == q->serial ? c : NULL;
}

size_t ta_backlog(struct ta *t, const struct ta_req *q)
{
	const struct ta_conn *c = ta_conn_of(t, q);

	return c ? c->out.len : 0;
}

void ta_conn_flush(struct ta *t, struct ta_conn *c)
{
	bool full = c->out.len > OUT_ROOM;

	while (c->out.len) {
		ssize_t n = send(c->fd, buf_data(&c->out), c->out.len,
			MSG_NOSIGNAL | MSG_DONTWAIT);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			break;
		if (n < 0) {
			conn_close(t, c);
			return;
		}
		buf_consume(&c->out, (size_t)n);
	}
	/* The peer asks no more and has all its answers. */
	if (c->eof && !c->out.len && !c->pending) {
		conn_close(t, c);
		return;
	}
	conn_watch(t, c);
	if (full && c->fd >= 0 && c->out.len <= OUT_ROOM)
		ta_exec_room(t, c);
}

static void take_messages(struct ta *t, struct ta_conn *c)
{
	while (c->in.len && c->fd >= 0 && !c->eof) {
		int64_t n = mp_walk(
			&c->walk, buf_data(&c->in), c->in.len, TA_MAX_MESSAGE);
		msgpack_unpacked up;
		struct err e = {0};

		if (!n)
			return;
		if (n < 0) {
			ta_bad_message(t, c,
				n == -E2BIG ? "the message is too long"
					    : "the bytes are not a msgpack "
					      "message");
			return;
		}
		mp_walk_init(&c->walk, &limits);
		if (mp_unpack(buf_data(&c->in), (size_t)n, &limits, &up, &e))
			ta_bad_message(t, c, e.msg);
		else
			ta_message(t, c, &up.data);
		msgpack_unpacked_destroy(&up);
		/* A message may have ended its connection. */
		if (c->fd >= 0)
			buf_consume(&c->in, (size_t)n);
	}
}

static void conn_read(struct ta *t, struct ta_conn *c)
{
	/* Some at a time: others want their turn. */
	for (int i = 0; i < 16 && c->fd >= 0 && !c->eof; i++) {
		ssize_t n;

		if (buf_reserve(&c->in, TA_PIPE_CHUNK)) {
			conn_close(t, c);
			return;
		}
		n = recv(c->fd, c->in.p + c->in.off + c->in.len, TA_PIPE_CHUNK,
			MSG_DONTWAIT);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			break;
		if (n < 0) {
			conn_close(t, c);
			return;
		}
		if (n == 0)
			c->eof = true;
		c->in.len += (size_t)n;
		if (n)
			take_messages(t, c);
	}
	if (c->fd >= 0 && !c->in.len)
		buf_free(&c->in);
}

static void conn_event(struct ta *t, uint32_t index, uint32_t events)
{
	struct ta_conn *c = &t->conn[index];

	if (c->fd < 0)
		return;
	if (events & EPOLLIN)
		conn_read(t, c);
	if (c->fd >= 0 && (events & EPOLLERR))
		conn_close(t, c);
	if (c->fd >= 0)
		ta_conn_flush(t, c);
	/* Both directions are shut: nobody will read an answer. */
	if (c->fd >= 0 && (events & EPOLLHUP))
		conn_close(t, c);
}

/* ---- the loop ---- */

static void accept_all(struct ta *t)
{
	for (int i = 0; i < TA_CONNS; i++) {
		int fd = accept4(
			t->listen, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

		if (fd < 0 || ta_add_conn(t, fd))
			return;
	}
}

static void reap(struct ta *t)
{
	pid_t pid;
	int status;

	while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
		if (ta_exec_reaped(t, pid, status) ||
			ta_handler_reaped(t, pid, status))
			continue;
		if (pid == t->main) {
			t->main = 0;
			t->done = true;
		}
	}
}

static void signalled(struct ta *t)
{
	struct signalfd_siginfo si;

	while (read(t->signals, &si, sizeof(si)) == (ssize_t)sizeof(si)) {
		if (si.ssi_signo == SIGCHLD)
			reap(t);
		else
			t->done = true;
	}
}

static void dispatch(struct ta *t, const struct epoll_event *ev)
{
	union ev_ref ref = {.u64 = ev->data.u64};

	switch (ref.type) {
	case TA_EV_LISTEN:
		accept_all(t);
		break;
	case TA_EV_SIGNAL:
		signalled(t);
		break;
	case TA_EV_CONN:
		conn_event(t, ref.index, ev->events);
		break;
	case TA_EV_EXEC:
		ta_exec_event(t, ref.index, ev->events);
		break;
	case TA_EV_HANDLER:
		ta_handler_event(t, ref.index, ev->events);
		break;
	default:
		break;
	}
}

static int due(const struct ta *t, int timeout_ms)
{
	uint64_t at = ta_exec_deadline(t), h = ta_handler_deadline(t), now, ms;

	if (h && (!at || h < at))
		at = h;
	if (!at)
		return timeout_ms;
	now = now_ns();
	ms = at <= now ? 0 : min_u64((at - now + 999999) / 1000000, 60000);
	return timeout_ms < 0 || (int)ms < timeout_ms ? (int)ms : timeout_ms;
}

int ta_step(struct ta *t, int timeout_ms)
{
	struct epoll_event ev[EVENTS_AT_ONCE];
	int n = loop_wait(&t->loop, ev, EVENTS_AT_ONCE, due(t, timeout_ms));
	uint64_t now;

	for (int i = 0; i < n; i++)
		dispatch(t, &ev[i]);
	now = now_ns();
	ta_exec_tick(t, now);
	ta_handler_tick(t, now);
	return n;
}

int ta_run(struct ta *t)
{
	while (!t->done) {
		int n = ta_step(t, -1);

		if (n < 0)
			return n;
	}
	return 0;
}

void ta_fini(struct ta *t)
{
	for (unsigned i = 0; i < TA_CONNS; i++)
		conn_close(t, &t->conn[i]);
	ta_exec_fini(t);
	ta_handler_fini(t);
	if (t->listen >= 0)
		(void)close(t->listen);
	if (t->signals >= 0)
		(void)close(t->signals);
	loop_fini(&t->loop);
}
