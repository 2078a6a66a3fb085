/*
 * Requests to one peer.
 *
 * How it works: a thread that asks takes a connection that nobody uses, or a
 * new one; so as many requests are under way as there are threads that ask, and
 * none waits behind another's. A connection on which anything went wrong is
 * closed and never used again. What failed because of the network is asked
 * again, on a new connection, until the request's time is over.
 */
#include "snapshot/remote_dial.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#define FIRST_PAUSE_MS 20
#define LAST_PAUSE_MS  1000
/* Somebody who speaks another language will not learn ours. */
#define MAX_NONSENSE 2

int remote_link_init(struct remote_link *l, int dialer,
	const struct remote_name *n, uint32_t timeout_ms, struct err *e)
{
	memset(l, 0, sizeof(*l));
	l->dialer = dialer;
	l->timeout_ms = timeout_ms;
	remote_peer(n, l->peer);
	l->cancel = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (l->cancel < 0)
		return err_sys(e, -errno, "a remote pager's descriptor");
	(void)pthread_mutex_init(&l->lock, NULL);
	(void)pthread_mutex_init(&l->dial, NULL);
	return 0;
}

static void close_idle(struct remote_link *l)
{
	(void)pthread_mutex_lock(&l->lock);
	while (l->nidle)
		(void)close(l->idle[--l->nidle]);
	(void)pthread_mutex_unlock(&l->lock);
}

void remote_link_fini(struct remote_link *l)
{
	close_idle(l);
	(void)close(l->cancel);
	(void)pthread_mutex_destroy(&l->lock);
	(void)pthread_mutex_destroy(&l->dial);
}

void remote_link_cancel(struct remote_link *l)
{
	uint64_t one = 1;

	(void)!write(l->cancel, &one, sizeof(one));
}

/* ---- bytes ---- */

/* One way of a conversation, until its end. */
struct talk {
	struct remote_link *l;
	int fd;
	uint64_t until;
};

static int put(const struct talk *t, const void *buf, size_t len)
{
	const uint8_t *p = buf;
	int r = 0;

	while (len && !r) {
		ssize_t n = send(t->fd, p, len, MSG_NOSIGNAL | MSG_DONTWAIT);

		if (n > 0) {
			p += n;
			len -= (size_t)n;
		} else if (errno == EAGAIN || errno == EINTR) {
			r = remote_wait(t->fd, POLLOUT, t->l->cancel, t->until);
		} else {
			r = -errno;
		}
	}
	return r;
}

static int get(const struct talk *t, void *buf, size_t len)
{
	uint8_t *p = buf;
	int r = 0;

	while (len && !r) {
		ssize_t n = recv(t->fd, p, len, MSG_DONTWAIT);

		if (n > 0) {
			p += n;
			len -= (size_t)n;
			/* A peer that sends a byte now and then. */
			if (len && now_ns() >= t->until)
				r = -ETIMEDOUT;
		} else if (n == 0) {
			r = -ECONNRESET;
		} else if (errno == EAGAIN || errno == EINTR) {
			r = remote_wait(t->fd, POLLIN, t->l->cancel, t->until);
		} else {
			r = -errno;
		}
	}
	return r;
}

/* ---- connections ---- */

static int greet(const struct talk *t, struct err *e)
{
	struct remote_hello h = {
		.version = REMOTE_VERSION, .max_read = REMOTE_MAX_READ};
	const char *why;
	int r;

	memcpy(h.magic, REMOTE_MAGIC, sizeof(h.magic));
	r = put(t, &h, sizeof(h));
	if (!r)
		r = get(t, &h, sizeof(h));
	if (r)
		return err_sys(e, r, "greeting");
	why = remote_check_hello(&h);
	return why ? err_set(e, -EPROTO, "%s", why) : 0;
}

static int connect_new(struct remote_link *l, uint64_t until, struct err *e)
{
	struct talk t = {.l = l, .until = until};
	int r;

	(void)pthread_mutex_lock(&l->dial);
	t.fd = remote_dial_ask(l->dialer, ++l->next_id, l->cancel, until, e);
	(void)pthread_mutex_unlock(&l->dial);
	if (t.fd < 0)
		return t.fd;
	r = greet(&t, e);
	if (r)
		(void)close(t.fd);
	return r ? r : t.fd;
}

static int take_idle(struct remote_link *l)
{
	int fd = -1;

	(void)pthread_mutex_lock(&l->lock);
	if (l->nidle)
		fd = l->idle[--l->nidle];
	(void)pthread_mutex_unlock(&l->lock);
	return fd;
}

static void put_idle(struct remote_link *l, int fd)
{
	(void)pthread_mutex_lock(&l->lock);
	if (l->nidle < REMOTE_CONNS) {
		l->idle[l->nidle++] = fd;
		fd = -1;
	}
	(void)pthread_mutex_unlock(&l->lock);
	if (fd >= 0)
		(void)close(fd);
}

/* ---- questions ---- */

struct question {
	struct remote_request q;
	const struct remote_span *span;
	unsigned n;
	uint64_t file_length, set_length; /* answer to STAT */
};

static int refused(
	const struct talk *t, const struct remote_answer *a, struct err *e)
{
	static const int code[] = {[REMOTE_NOT_FOUND] = -ENOENT,
		[REMOTE_INVALID] = -EPROTO,
		[REMOTE_BROKEN] = -EIO};
	char text[REMOTE_MAX_TEXT + 1] = "";
	int r = get(t, text, a->length);

	if (r)
		return err_sys(e, r, "reading an error");
	for (char *p = text; *p; p++) {
		if (*p < ' ' || *p > '~')
			*p = '?';
	}
	return err_set(e, code[a->status], "it says: %s",
		text[0] ? text : "no reason");
}

static int take_answer(
	const struct talk *t, struct question *k, unsigned i, struct err *e)
{
	struct remote_answer a;
	const char *why;
	int r = get(t, &a, sizeof(a));

	if (r)
		return err_sys(e, r, "waiting for an answer");
	why = remote_check_answer(&k->q, &a);
	if (why)
		return err_set(e, -EPROTO, "%s", why);
	if (a.status != REMOTE_OK)
		return refused(t, &a, e);
	if (k->q.type == REMOTE_STAT) {
		k->file_length = a.file_length;
		k->set_length = a.set_length;
		return 0;
	}
	r = get(t, k->span[i].buf, k->span[i].length);
	if (r)
		return err_sys(e, r, "waiting for bytes %llu-%llu",
			(unsigned long long)k->q.offset,
			(unsigned long long)k->q.offset + k->q.length - 1);

	return 0;
}

static void aim(struct question *k, unsigned i)
{
	k->q.id = i;
	if (k->q.type == REMOTE_READ) {
		k->q.offset = k->span[i].offset;
		k->q.length = k->span[i].length;
	}
}

/* All of it on this connection. */
static int converse(const struct talk *t, struct question *k, struct err *e)
{
	struct remote_request q[REMOTE_SPANS];
	int r;

	for (unsigned i = 0; i < k->n; i++) {
		aim(k, i);
		q[i] = k->q;
	}
	r = put(t, q, k->n * sizeof(q[0]));
	if (r)
		return err_sys(e, r, "asking");
	for (unsigned i = 0; i < k->n && !r; i++) {
		aim(k, i);
		r = take_answer(t, k, i, e);
	}
	return r;
}

/* *stale: the connection had been used before, and may have been given up by
 * the peer meanwhile: no failure of now. */
static int try_once(struct remote_link *l, struct question *k, uint64_t until,
	bool *stale, struct err *e)
{
	struct talk t = {.l = l, .fd = take_idle(l), .until = until};
	int r;

	*stale = t.fd >= 0;
	/* One that was idle may be dead without our knowing: a new one is to
	 * have time, too. */
	if (*stale)
		t.until = min_u64(
			until, now_ns() + l->timeout_ms * 1000000ULL / 4);
	if (t.fd < 0)
		t.fd = connect_new(l, until, e);
	if (t.fd < 0)
		return t.fd;
	r = converse(&t, k, e);
	if (r)
		(void)close(t.fd);
	else
		put_idle(l, t.fd);
	return r;
}

static bool pause_ms(struct remote_link *l, uint64_t ms, uint64_t until)
{
	uint64_t end = now_ns() + ms * 1000000;
	int r = 0;

	while (!r && now_ns() < end)
		r = remote_wait(-1, 0, l->cancel, min_u64(end, until));
	return r != -ECANCELED && now_ns() < until;
}

static int ask(struct remote_link *l, struct question *k, struct err *e)
{
	uint64_t until = now_ns() + l->timeout_ms * 1000000ULL;
	uint64_t pause = FIRST_PAUSE_MS;
	unsigned nonsense = 0;
	bool stale = false;
	struct err why;
	int r;

	for (;;) {
		why.code = 0;
		r = try_once(l, k, until, &stale, &why);
		if (!r)
			return 0;
		/* An answer, or no more time. */
		if (r == -ENOENT || r == -ECANCELED ||
			(r == -ETIMEDOUT && (!stale || now_ns() >= until)) ||
			(r == -EPROTO && ++nonsense == MAX_NONSENSE))
			break;
		if (stale) {
			close_idle(l);
			continue;
		}
		if (!pause_ms(l, pause, until))
			break;
		pause = min_u64(2 * pause, LAST_PAUSE_MS);
	}
	if (r != -ENOENT && r != -ECANCELED && r != -EPROTO &&
		now_ns() >= until)
		r = -ETIMEDOUT;
	return err_set(e, r, "the pager at %s, within %u ms: %s", l->peer,
		l->timeout_ms, why.msg);
}

int remote_read(struct remote_link *l, const struct remote_file *f,
	enum remote_part part, const struct remote_span *span, unsigned n,
	struct err *e)
{
	struct question k = {
		.q = {.type = REMOTE_READ, .part = part}, .span = span, .n = n};

	if (!n || n > REMOTE_SPANS)
		return err_set(e, -EINVAL, "%u pieces at once", n);
	memcpy(k.q.uuid, f->uuid.b, 16);
	memcpy(k.q.digest, f->digest, 16);
	return ask(l, &k, e);
}

int remote_stat(struct remote_link *l, const struct remote_file *f,
	uint64_t *length, uint64_t *set_length, struct err *e)
{
	struct question k = {.q = {.type = REMOTE_STAT}, .n = 1};
	int r;

	memcpy(k.q.uuid, f->uuid.b, 16);
	memcpy(k.q.digest, f->digest, 16);
	r = ask(l, &k, e);
	*length = k.file_length;
	*set_length = k.set_length;
	return r;
}
