/*
 * How it works. Calls stand in one list until they are answered or their time
 * is over. A call is packed at once; its bytes stay with it until the stream is
 * open and then move into the stream. A stream that could not be opened is
 * tried again as long as there are calls; a stream that breaks ends the calls
 * that went out on it. An answer to a call that is over is dropped; anything
 * else that is not an answer ends the stream.
 *
 * Callbacks may make new calls and may destroy the agent, so after each one
 * the list is looked at from its start, and the memory goes when the outermost
 * function is done.
 */
#include "core/agent_call.h"

#include "core/net.h"
#include "core/vsock.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define RETRY_NS 5000000ULL

/* msgpack-rpc: [1, id, error, result] */
#define RPC_RESPONSE 1u

/* An answer: the payload, and room for what is around it. */
#define MAX_MESSAGE (AGENT_MAX_PAYLOAD + 64 * KIB)

static const struct mp_limits limits = {
	.max_depth = 8,
	.max_elements = 4096,
};

/* ---- calls ---- */

void agent_call_free(struct call *c)
{
	buf_free(&c->req);
	free(c);
}

static struct call *unlink_call(struct agent *a, struct call *c)
{
	struct call **p = &a->calls;

	while (*p != c)
		p = &(*p)->next;
	*p = c->next;
	return c;
}

static void finish(struct agent *a, struct call *c, int status,
	const msgpack_object *result, const struct err *e)
{
	agent_done_fn *fn = c->fn;
	void *arg = c->arg;

	agent_call_free(unlink_call(a, c));
	fn(arg, status, result, e);
}

static void enter(struct agent *a)
{
	a->busy++;
}

static void agent_free(struct agent *a)
{
	buf_free(&a->in);
	free(a);
}

static void leave(struct agent *a)
{
	if (!--a->busy && a->dead)
		agent_free(a);
}

/* End every call (or every one that went out) with this error; not those that
 * the callbacks make meanwhile. */
static void fail_calls(struct agent *a, bool unsent_too, const struct err *e)
{
	const uint32_t end = a->next_id;
	struct call *c = a->calls;

	while (c && !a->dead) {
		if (c->id >= end || (!c->sent && !unsent_too)) {
			c = c->next;
			continue;
		}
		finish(a, c, e->code, NULL, e);
		c = a->calls;
	}
}

/* ---- answers ---- */

/* Text from the guest that a person will read: printable, bounded. */
static void clean_text(char *out, size_t size, const msgpack_object *o)
{
	size_t n = 0;

	if (o && o->type == MSGPACK_OBJECT_STR)
		n = min_u64(o->via.str.size, size - 1);
	for (size_t i = 0; i < n; i++) {
		unsigned char ch = (unsigned char)o->via.str.ptr[i];

		out[i] = (char)(ch < 0x20 || ch >= 0x7f ? '?' : ch);
	}
	out[n] = '\0';
}

static void remote_error(struct err *e, const msgpack_object *o)
{
	const msgpack_object *m = mp_get(o, "message");
	char text[300];

	clean_text(text, sizeof(text), m ? m : o);
	err_set(e, -EREMOTEIO, "the agent in the guest says: %s",
		text[0] ? text : "an error without text");
}

/* One that knows no interfaces would leave them out in silence. */
static bool acknowledges(const struct call *c, const msgpack_object *result)
{
	const msgpack_object *o = mp_get(result, "addresses");

	return !c->ips || (o && o->type == MSGPACK_OBJECT_POSITIVE_INTEGER &&
				  o->via.u64 == c->ips);
}

/* One complete message. -EBADMSG when it cannot be an answer. */
static int answer(struct agent *a, const msgpack_object *o)
{
	const msgpack_object *f;
	struct call *c;
	struct err e = {0};

	if (o->type != MSGPACK_OBJECT_ARRAY || o->via.array.size != 4)
		return -EBADMSG;
	f = o->via.array.ptr;
	if (f[0].type != MSGPACK_OBJECT_POSITIVE_INTEGER ||
		f[0].via.u64 != RPC_RESPONSE ||
		f[1].type != MSGPACK_OBJECT_POSITIVE_INTEGER ||
		f[1].via.u64 >= a->next_id)
		return -EBADMSG;
	for (c = a->calls; c && c->id != f[1].via.u64;)
		c = c->next;
	if (!c)
		return 0; /* its time was over */
	if (!c->sent)
		return -EBADMSG;
	if (f[2].type != MSGPACK_OBJECT_NIL) {
		remote_error(&e, &f[2]);
		finish(a, c, e.code, &f[2], &e);
	} else if (!acknowledges(c, &f[3])) {
		err_set(&e, -EOPNOTSUPP,
			"the agent in the guest sets no IP addresses; that "
			"needs a Linux guest with thaw-agent");
		finish(a, c, e.code, NULL, &e);
	} else {
		if (c->identity)
			net_identified(a->m);
		finish(a, c, 0, &f[3], &e);
	}
	return 0;
}

static int message(struct agent *a, const void *p, size_t len)
{
	msgpack_unpacked up;
	int r;

	msgpack_unpacked_init(&up);
	r = mp_unpack(p, len, &limits, &up, NULL);
	if (!r)
		r = answer(a, &up.data);
	msgpack_unpacked_destroy(&up);
	return r;
}

static void hang_up(struct agent *a)
{
	if (a->s)
		vsock_close(a->s);
	a->s = NULL;
	a->open = false;
	buf_free(&a->in);
}

static void protocol_error(struct agent *a)
{
	struct err e;

	err_set(&e, -EBADMSG,
		"the agent in the guest does not keep to the "
		"protocol");
	hang_up(a);
	fail_calls(a, true, &e);
}

/* Take the complete messages from a->in: 0, or -EBADMSG, -E2BIG. */
static int take_messages(struct agent *a)
{
	while (a->in.len && a->s && !a->dead) {
		int64_t n = mp_walk(
			&a->walk, buf_data(&a->in), a->in.len, MAX_MESSAGE);
		struct buf in = a->in;
		int r;

		if (n < 0)
			return (int)n;
		if (!n)
			return 0;
		/* The message's bytes are not ours while callbacks run. */
		a->in = (struct buf){0};
		mp_walk_init(&a->walk, &limits);
		r = message(a, buf_data(&in), (size_t)n);
		buf_consume(&in, (size_t)n);
		if (a->s && !a->dead)
			a->in = in;
		else
			buf_free(&in);
		if (r)
			return r;
	}
	return 0;
}

/* ---- the stream ---- */

static int send_call(struct agent *a, struct call *c)
{
	int r = vsock_send_buf(a->s, &c->req);

	if (!r)
		c->sent = true;
	return r;
}

static void on_opened(void *arg)
{
	struct agent *a = arg;
	struct err e;
	struct call *c;
	int r = 0;

	a->open = true;
	a->refused = false;
	mp_walk_init(&a->walk, &limits);
	enter(a);
	for (c = a->calls; c && !r; c = c->next)
		r = c->sent ? 0 : send_call(a, c);
	if (r) {
		err_sys(&e, r, "sending to the agent");
		hang_up(a);
		fail_calls(a, true, &e);
	}
	leave(a);
}

static void on_data(void *arg, const void *p, size_t n)
{
	struct agent *a = arg;
	size_t more = n;
	int r;

	enter(a);
	/* The walk knows how long the message says it is: no regrowing. */
	if (a->walk.pos > a->in.len && a->walk.pos <= MAX_MESSAGE &&
		a->walk.pos - a->in.len > more)
		more = a->walk.pos - a->in.len;
	r = buf_reserve(&a->in, more);
	if (!r)
		r = buf_append(&a->in, p, n);
	if (!r)
		r = take_messages(a);
	if (r && !a->dead)
		protocol_error(a);
	leave(a);
}

static void on_closed(void *arg, int err)
{
	struct agent *a = arg;
	bool was_open = a->open;
	struct err e;

	a->s = NULL;
	a->open = false;
	buf_free(&a->in);
	a->refused = err == -ECONNREFUSED;
	enter(a);
	if (was_open) {
		err_set(&e, -ECONNRESET,
			"the guest closed the connection to its agent");
		fail_calls(a, false, &e);
	}
	if (!a->dead && a->calls)
		a->retry_at = now_ns() + RETRY_NS;
	leave(a);
}

static const struct vsock_stream_ops stream_ops = {
	.opened = on_opened,
	.data = on_data,
	.closed = on_closed,
};

static void dial(struct agent *a)
{
	a->retry_at = 0;
	a->s = vsock_connect(a->m->vsock, AGENT_VSOCK_PORT, &stream_ops, a);
	if (!a->s)
		a->retry_at = now_ns() + RETRY_NS;
}

/* ---- core/agent.h ---- */

struct agent *agent_create(struct machine *m)
{
	struct agent *a = m->vsock ? calloc(1, sizeof(*a)) : NULL;

	if (a)
		a->m = m;
	return a;
}

void agent_destroy(struct agent *a)
{
	if (!a)
		return;
	hang_up(a);
	while (a->calls)
		agent_call_free(unlink_call(a, a->calls));
	a->dead = true;
	if (!a->busy)
		agent_free(a);
}

int agent_call_start(struct agent *a, struct call *c, uint64_t timeout_ns,
	agent_done_fn *fn, void *arg)
{
	struct call **p = &a->calls;
	int r = 0;

	c->deadline = timeout_ns ? now_ns() + timeout_ns : 0;
	c->fn = fn;
	c->arg = arg;
	if (a->open)
		r = send_call(a, c);
	if (r) {
		agent_call_free(c);
		return r;
	}
	a->next_id++;
	while (*p)
		p = &(*p)->next;
	*p = c;
	if (!a->s && !a->retry_at)
		dial(a);
	return 0;
}

uint64_t agent_deadline(const struct agent *a)
{
	uint64_t first = a->calls ? a->retry_at : 0;

	for (const struct call *c = a->calls; c; c = c->next) {
		if (c->deadline && (!first || c->deadline < first))
			first = c->deadline;
	}
	return first;
}

/* The oldest call whose time is over. */
static struct call *overdue(const struct agent *a, uint64_t now)
{
	struct call *c = a->calls;

	while (c && !(c->deadline && c->deadline <= now))
		c = c->next;
	return c;
}

void agent_tick(struct agent *a)
{
	uint64_t now = now_ns();
	struct call *c;
	struct err e;

	enter(a);
	while (!a->dead && (c = overdue(a, now))) {
		if (!c->sent && a->refused)
			err_set(&e, -ECONNREFUSED,
				"no agent listens in the guest (vsock port %u)",
				AGENT_VSOCK_PORT);
		else
			err_set(&e, -ETIMEDOUT,
				"the agent in the guest did not answer in "
				"time");
		finish(a, c, e.code, NULL, &e);
	}
	if (!a->dead && a->calls && a->retry_at && a->retry_at <= now)
		dial(a);
	leave(a);
}
