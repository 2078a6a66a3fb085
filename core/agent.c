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
#include "core/agent.h"

#include "core/vsock.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define RETRY_NS 5000000ULL

/* An answer: the payload, and room for what is around it. */
#define MAX_MESSAGE (AGENT_MAX_PAYLOAD + 64 * KIB)

/* msgpack-rpc: [1, id, error, result] */
#define RPC_REQUEST  0u
#define RPC_RESPONSE 1u

static const struct mp_limits limits = {
	.max_depth = 8,
	.max_elements = 4096,
};

struct call {
	struct call *next;
	uint32_t id;
	bool sent;
	uint64_t deadline; /* 0: none */
	agent_done_fn *fn;
	void *arg;
	struct buf req; /* until sent */
};

struct agent {
	struct machine *m;      /* borrowed */
	struct vsock_stream *s; /* borrowed until closed(); NULL: none */
	bool open;
	bool refused; /* the last attempt ended so */
	uint64_t retry_at;
	uint32_t next_id;
	struct call *calls; /* owned, oldest first */
	struct buf in;
	struct mp_walk walk;
	unsigned busy; /* functions of ours below a callback */
	bool dead;     /* destroyed in a callback */
};

/* ---- calls ---- */

static void call_free(struct call *c)
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

	call_free(unlink_call(a, c));
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
	} else {
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
		call_free(unlink_call(a, a->calls));
	a->dead = true;
	if (!a->busy)
		agent_free(a);
}

static int pack_write(void *data, const char *p, size_t n)
{
	return buf_append(data, p, n);
}

/* A call with "[0, id, method, [" packed; the map of parameters is the
 * caller's. */
static struct call *call_head(
	struct agent *a, const char *method, msgpack_packer *pk)
{
	struct call *c = calloc(1, sizeof(*c));

	if (!c)
		return NULL;
	c->id = a->next_id;
	msgpack_packer_init(pk, &c->req, pack_write);
	msgpack_pack_array(pk, 4);
	msgpack_pack_uint32(pk, RPC_REQUEST);
	msgpack_pack_uint32(pk, c->id);
	mp_str(pk, method);
	msgpack_pack_array(pk, 1);
	return c;
}

/* The same with the map begun. */
static struct call *call_new(struct agent *a, const char *method,
	uint32_t nparams, msgpack_packer *pk)
{
	struct call *c = call_head(a, method, pk);

	if (c)
		msgpack_pack_map(pk, nparams);
	return c;
}

static int call_start(struct agent *a, struct call *c, uint64_t timeout_ns,
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
		call_free(c);
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

int agent_ping(
	struct agent *a, uint64_t timeout_ns, agent_done_fn *fn, void *arg)
{
	msgpack_packer pk;
	struct call *c = call_new(a, "ping", 1, &pk);

	if (!c)
		return -ENOMEM;
	mp_key_bool(&pk, "ready", true);
	return call_start(a, c, timeout_ns, fn, arg);
}

/* Only Linux needs it by a message. */
static bool knows_tsc(const struct agent *a)
{
	return !a->m->cfg.builtin && a->m->told.tsc_khz;
}

/* One or three parameters: the time, and the guest's TSC at that time. */
static void pack_time(struct agent *a, msgpack_packer *pk, uint64_t wall)
{
	if (!knows_tsc(a)) {
		mp_key_u64(pk, "wall_ns", wall);
		return;
	}
	mp_key_u64(pk, "wall_ns", a->m->told.wall_ns);
	mp_key_u64(pk, "tsc", a->m->told.tsc);
	mp_key_u64(pk, "tsc_khz", a->m->told.tsc_khz);
}

static void pack_mac(msgpack_packer *pk, const char *key, const uint8_t mac[6])
{
	char text[18];

	(void)snprintf(text, sizeof(text), "%02x:%02x:%02x:%02x:%02x:%02x",
		mac[0], mac[1], mac[2], mac[3], mac[4], mac[5]);
	mp_key_str(pk, key, text);
}

/* Interfaces that have another address than their driver has read. */
static void pack_interfaces(struct agent *a, msgpack_packer *pk)
{
	static const uint8_t none[6];
	const struct machine *m = a->m;
	uint32_t n = 0;

	for (unsigned i = 0; i < MACHINE_MAX_NETS; i++)
		n += memcmp(m->net_was[i], none, 6) != 0;
	mp_str(pk, "interfaces");
	msgpack_pack_array(pk, n);
	for (unsigned i = 0; i < MACHINE_MAX_NETS; i++) {
		if (!memcmp(m->net_was[i], none, 6))
			continue;
		msgpack_pack_map(pk, 2);
		pack_mac(pk, "match", m->net_was[i]);
		pack_mac(pk, "mac", m->cfg.net[i].mac);
	}
}

int agent_identity(struct agent *a, const struct identity *id,
	uint64_t timeout_ns, agent_done_fn *fn, void *arg)
{
	msgpack_packer pk;
	struct call *c = call_new(a, "identity", knows_tsc(a) ? 7 : 5, &pk);

	if (!c)
		return -ENOMEM;
	mp_str(&pk, "hostname");
	mp_strn(&pk, id->hostname, strnlen(id->hostname, sizeof(id->hostname)));
	mp_str(&pk, "machine_id");
	mp_bin(&pk, id->machine_id, sizeof(id->machine_id));
	mp_str(&pk, "seed");
	mp_bin(&pk, id->seed, sizeof(id->seed));
	pack_time(a, &pk, id->wall_ns);
	pack_interfaces(a, &pk);
	return call_start(a, c, timeout_ns, fn, arg);
}

int agent_invoke(struct agent *a, const void *payload, size_t len,
	uint64_t timeout_ns, agent_done_fn *fn, void *arg)
{
	msgpack_packer pk;
	struct call *c;

	if (len > AGENT_MAX_PAYLOAD)
		return -EMSGSIZE;
	c = call_new(a, "invoke", timeout_ns ? 2 : 1, &pk);
	if (!c)
		return -ENOMEM;
	/* The guest should not work on what nobody waits for any more. */
	if (timeout_ns)
		mp_key_u64(&pk, "timeout_ms", timeout_ns / 1000000 + 1);
	mp_str(&pk, "payload");
	if (msgpack_pack_bin(&pk, len) || buf_append(&c->req, payload, len)) {
		call_free(c);
		return -ENOMEM;
	}
	return call_start(a, c, timeout_ns, fn, arg);
}

int agent_call(struct agent *a, const struct agent_request *q,
	uint64_t timeout_ns, agent_done_fn *fn, void *arg)
{
	msgpack_packer pk;
	struct call *c = call_head(a, q->method, &pk);

	if (!c)
		return -ENOMEM;
	if (buf_append(&c->req, q->params, q->len)) {
		call_free(c);
		return -ENOMEM;
	}
	return call_start(a, c, timeout_ns, fn, arg);
}

int agent_set_clock(
	struct agent *a, uint64_t timeout_ns, agent_done_fn *fn, void *arg)
{
	msgpack_packer pk;
	struct call *c = call_new(a, "clock", knows_tsc(a) ? 3 : 1, &pk);

	if (!c)
		return -ENOMEM;
	pack_time(a, &pk, wall_ns());
	return call_start(a, c, timeout_ns, fn, arg);
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
