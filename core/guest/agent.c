/* How it works: agent.h */
#include "core/guest/agent.h"

#include "core/guest/cpu.h"
#include "core/guest/drbg.h"
#include "core/guest/function.h"
#include "core/guest/gmp.h"
#include "core/guest/heap.h"
#include "core/guest/virtio.h"
#include "core/guest/vsock.h"

#define VERSION "1"

/* A payload and what is around it. */
#define MAX_MESSAGE (AGENT_MAX_PAYLOAD + 4096u)

#define RPC_REQUEST  0
#define RPC_RESPONSE 1
#define RPC_NOTIFY   2

/* Everything of an answer but the bytes of a payload; ping's list of
 * functions is the largest. */
#define MAX_ANSWER 640

struct call {
	struct stream *s;
	uint64_t id;
	bool notify; /* no answer is wanted */
	bool no_id;  /* it was no request */
	struct gmp_in params;
	unsigned nparams; /* pairs in params */
	struct gmp_out out;
};

struct agent {
	const struct stream *claim; /* a message is put together for it */
	uint8_t *msg;               /* NULL: no memory is held for one */
	uint32_t msg_len, msg_max;
	struct heap_mark mark; /* before msg */
	bool busy;             /* a request is being handled */
	char hostname[64];
	uint8_t machine_id[16];
};

/* global: the one agent */
static struct agent ag HOT;

const char *agent_hostname(void)
{
	return ag.hostname;
}

const uint8_t *agent_machine_id(void)
{
	return ag.machine_id;
}

void agent_stream_over(const struct stream *s)
{
	if (ag.claim == s)
		ag.claim = NULL;
}

/* ---- answers ---- */

static void begin_answer(struct call *c)
{
	gmp_put_array(&c->out, 4);
	gmp_put_uint(&c->out, RPC_RESPONSE);
	if (c->no_id)
		gmp_put_nil(&c->out);
	else
		gmp_put_uint(&c->out, c->id);
}

static void send_answer(struct call *c, const void *data, uint32_t n)
{
	/* The receive buffer goes back to the device before this is read. */
	if (n && rx_is_head(data) && !vsock_is_small(c->out.n + n)) {
		uint8_t *copy = heap_alloc(n);

		if (!copy) {
			stream_reset(c->s);
			return;
		}
		memcpy(copy, data, n);
		data = copy;
	}
	if (!c->notify)
		(void)vsock_send(c->s, c->out.p, c->out.n, data, n);
}

static void answer_error(struct call *c, enum fn_code code, const char *text)
{
	static const char names[FN_NCODES_][12] = {
		[FN_OK] = "internal",
		[FN_INVALID] = "invalid",
		[FN_NOT_FOUND] = "not_found",
		[FN_UNSUPPORTED] = "unsupported",
		[FN_TIMEOUT] = "timeout",
		[FN_EXHAUSTED] = "exhausted",
		[FN_INTERNAL] = "internal",
	};
	size_t n = strlen(text);

	if (code >= FN_NCODES_)
		code = FN_INTERNAL;
	c->out.n = 0;
	begin_answer(c);
	gmp_put_map(&c->out, 2);
	gmp_put_cstr(&c->out, "code");
	gmp_put_cstr(&c->out, names[code]);
	gmp_put_cstr(&c->out, "message");
	gmp_put_str(&c->out, text, n < 400 ? n : 400);
	gmp_put_nil(&c->out);
	send_answer(c, NULL, 0);
}

static void begin_result(struct call *c, uint8_t pairs)
{
	begin_answer(c);
	gmp_put_nil(&c->out);
	gmp_put_map(&c->out, pairs);
}

/* ---- methods ---- */

static COLD void call_ping(struct call *c)
{
	uint16_t n = 0;

	while (n < 64 && function_names[n])
		n++;
	begin_result(c, 3);
	gmp_put_cstr(&c->out, "agent");
	gmp_put_cstr(&c->out, "builtin");
	gmp_put_cstr(&c->out, "version");
	gmp_put_cstr(&c->out, VERSION);
	gmp_put_cstr(&c->out, "functions");
	gmp_put_array16(&c->out, n);
	for (uint16_t i = 0; i < n; i++)
		gmp_put_cstr(&c->out, function_names[i]);
	if (c->out.overflow)
		answer_error(c, FN_INTERNAL, "the list of functions is long");
	else
		send_answer(c, NULL, 0);
}

static bool is_bytes(const struct gmp_obj *v)
{
	return v->type == GMP_STR || v->type == GMP_BIN;
}

/* One pair of identity's parameters. NULL, or what is wrong with it. Unknown
 * ones are left to later versions. */
static const char *set_identity(
	const struct gmp_obj *k, const struct gmp_obj *v)
{
	const char *key = (const char *)k->p;

	if (str_is(key, k->n, "hostname")) {
		if (!is_bytes(v) || v->n >= sizeof(ag.hostname))
			return "hostname must be a string of up to 63 bytes";
		memcpy(ag.hostname, v->p, v->n);
		ag.hostname[v->n] = '\0';
	} else if (str_is(key, k->n, "machine_id")) {
		if (!is_bytes(v) || v->n != sizeof(ag.machine_id))
			return "machine_id must be 16 bytes";
		memcpy(ag.machine_id, v->p, v->n);
	} else if (str_is(key, k->n, "seed")) {
		if (!is_bytes(v))
			return "seed must be bytes";
		random_mix(v->p, v->n);
	} else if (str_is(key, k->n, "wall_ns")) {
		/* The identity page has a newer one, set at go. */
		if (v->type != GMP_UINT)
			return "wall_ns must be a positive number";
	}
	return NULL;
}

/* Has seed bytes taken from the request; these are wiped where they lay. */
static void forget_seed(const struct gmp_obj *k, struct gmp_obj *v)
{
	if (is_bytes(v) && str_is((const char *)k->p, k->n, "seed"))
		wipe((uint8_t *)(uintptr_t)v->p, v->n);
}

static void call_identity(struct call *c)
{
	const char *wrong = NULL;

	for (unsigned i = 0; i < c->nparams && !wrong; i++) {
		struct gmp_obj k, v;
		struct gmp_in value;

		if (!gmp_next(&c->params, &k))
			break;
		value = c->params;
		if (!gmp_skip(&c->params) || !gmp_next(&value, &v))
			break;
		if (k.type != GMP_STR)
			continue;
		wrong = set_identity(&k, &v);
		forget_seed(&k, &v);
	}
	if (wrong) {
		answer_error(c, FN_INVALID, wrong);
		return;
	}
	random_take_seed();
	begin_result(c, 3);
	gmp_put_cstr(&c->out, "generation");
	gmp_put_bin(&c->out, ident_page()->generation, 16);
	gmp_put_cstr(&c->out, "hostname");
	gmp_put_cstr(&c->out, ag.hostname);
	gmp_put_cstr(&c->out, "machine_id");
	gmp_put_bin(&c->out, ag.machine_id, sizeof(ag.machine_id));
	send_answer(c, NULL, 0);
}

static bool find_payload(struct call *c, struct gmp_obj *payload)
{
	for (unsigned i = 0; i < c->nparams; i++) {
		struct gmp_obj k;

		if (!gmp_next(&c->params, &k))
			return false;
		if (k.type == GMP_STR &&
			str_is((const char *)k.p, k.n, "payload"))
			return gmp_next(&c->params, payload) &&
			       is_bytes(payload);
		if (!gmp_skip(&c->params))
			return false;
	}
	return false;
}

static void call_invoke(struct call *c)
{
	struct fn_ctx fn = {0};
	struct gmp_obj payload;
	int r;

	if (!find_payload(c, &payload)) {
		answer_error(c, FN_INVALID,
			"invoke needs a payload of type bin or str");
		return;
	}
	fn.in = (uint8_t *)(uintptr_t)payload.p;
	fn.in_len = payload.n;
	/* It may run long: others should not wait for their answers. */
	vsock_flush();
	r = function_main(&fn);
	if (r) {
		answer_error(c, (enum fn_code) - r,
			fn.error ? fn.error : "the function failed");
		return;
	}
	if (fn.out_len > AGENT_MAX_PAYLOAD) {
		answer_error(c, FN_EXHAUSTED, "the answer exceeds 6 MiB");
		return;
	}
	begin_result(c, 1);
	gmp_put_cstr(&c->out, "payload");
	gmp_put_bin_head(&c->out, (uint32_t)fn.out_len);
	send_answer(c, fn.out, (uint32_t)fn.out_len);
}

/* ---- requests ---- */

/* [0, id, method, [map]] or [2, method, [map]] */
static bool parse_request(struct gmp_in *in, struct call *c, struct gmp_obj *m)
{
	struct gmp_obj o;
	uint64_t n;

	if (!gmp_next(in, &o) || o.type != GMP_ARRAY)
		return false;
	n = o.n;
	if (!gmp_next(in, &o) || o.type != GMP_UINT)
		return false;
	c->notify = o.n == RPC_NOTIFY && n == 3;
	if (!c->notify) {
		if (o.n != RPC_REQUEST || n != 4 || !gmp_next(in, &o) ||
			o.type != GMP_UINT)
			return false;
		c->id = o.n;
	}
	if (!gmp_next(in, m) || m->type != GMP_STR || !gmp_next(in, &o) ||
		o.type != GMP_ARRAY || o.n > 1)
		return false;
	if (!o.n)
		return true;
	if (!gmp_next(in, &o) || o.type != GMP_MAP)
		return false;
	c->params = *in;
	c->nparams = (unsigned)o.n;
	return true;
}

/* A complete message. */
static void handle(struct stream *s, const uint8_t *p, uint32_t len)
{
	struct gmp_in in = {p, p + len};
	uint8_t answer[MAX_ANSWER];
	struct call c = {
		.s = s,
		.out = {.p = answer, .cap = sizeof(answer)},
	};
	struct heap_mark mark = heap_get_mark();
	struct gmp_obj m;

	ag.busy = true;
	stream_hold(s);
	vsock_drain(); /* the last answer may lie in the heap */
	if (!parse_request(&in, &c, &m)) {
		c.no_id = true;
		c.notify = false;
		answer_error(&c, FN_INVALID, "not a msgpack-rpc request");
		stream_shutdown(s, SHUT_RCV | SHUT_SEND);
	} else if (str_is((const char *)m.p, m.n, "invoke")) {
		call_invoke(&c);
	} else if (str_is((const char *)m.p, m.n, "identity")) {
		call_identity(&c);
	} else if (str_is((const char *)m.p, m.n, "ping")) {
		call_ping(&c);
	} else {
		answer_error(&c, FN_NOT_FOUND, "unknown method");
	}
	heap_reset(mark);
	ag.busy = false;
	stream_let_go(s);
}

/* Bytes that are no message: say so with id nil, and close. */
static COLD void handle_bad(struct stream *s, int64_t why)
{
	uint8_t answer[128];
	struct gmp_out o = {.p = answer, .cap = sizeof(answer)};

	gmp_put_array(&o, 4);
	gmp_put_uint(&o, RPC_RESPONSE);
	gmp_put_nil(&o);
	gmp_put_map(&o, 2);
	gmp_put_cstr(&o, "code");
	gmp_put_cstr(&o, "invalid");
	gmp_put_cstr(&o, "message");
	gmp_put_cstr(&o, why == GMP_TOO_BIG
				 ? "the message is too long"
				 : "the bytes are not a msgpack message");
	gmp_put_nil(&o);
	stream_hold(s);
	ag.busy = true;
	(void)vsock_send(s, o.p, o.n, NULL, 0);
	stream_shutdown(s, SHUT_RCV | SHUT_SEND);
	ag.busy = false;
	stream_let_go(s);
}

uint32_t agent_offer(struct stream *s, const uint8_t *p, uint32_t n)
{
	uint32_t done = 0;

	if (ag.busy || ag.claim)
		return 0;
	while (done < n && s->state == STREAM_OPEN) {
		int64_t r = gmp_scan(p + done, n - done, MAX_MESSAGE);

		if (r < 0) {
			handle_bad(s, r);
			return n;
		}
		if (!r)
			return done;
		handle(s, p + done, (uint32_t)r);
		done += (uint32_t)r;
	}
	return done;
}

/* ---- messages in pieces ---- */

static bool claim_message(struct stream *s)
{
	uint64_t max;

	vsock_drain();
	ag.mark = heap_get_mark();
	max = heap_room() / 2;
	ag.msg_max = max < MAX_MESSAGE ? (uint32_t)max : MAX_MESSAGE;
	ag.msg = heap_alloc(ag.msg_max);
	ag.msg_len = 0;
	ag.claim = ag.msg ? s : NULL;
	return ag.msg != NULL;
}

/* Only between requests: a request's memory is above the message's. */
static void unclaim_message(void)
{
	ag.claim = NULL;
	if (ag.msg)
		heap_reset(ag.mark);
	ag.msg = NULL;
}

/* One step for the stream whose message is put together. */
static bool run_claimed(struct stream *s)
{
	uint32_t n = ag.msg_max - ag.msg_len;
	int64_t r;

	if (!s->len)
		return false;
	if (n > s->len)
		n = s->len;
	memcpy(ag.msg + ag.msg_len, stream_data(s), n);
	ag.msg_len += n;
	stream_take(s, n);
	r = gmp_scan(ag.msg, ag.msg_len, ag.msg_max);
	if (!r && ag.msg_len == ag.msg_max)
		r = GMP_TOO_BIG;
	if (!r)
		return true;
	if (r < 0) {
		handle_bad(s, r);
	} else if (stream_untake(s, ag.msg + r, ag.msg_len - (uint32_t)r)) {
		handle(s, ag.msg, (uint32_t)r);
	} else {
		stream_reset(s);
	}
	unclaim_message();
	return true;
}

/* One step for a stream with bytes in its buffer. */
static bool run_stream(struct stream *s)
{
	const uint8_t *p;
	int64_t r;

	if (ag.claim == s)
		return run_claimed(s);
	if (!s->len) {
		/* The peer will ask no more and has all its answers. */
		if (s->peer_shut & SHUT_SEND)
			stream_shutdown(s, SHUT_RCV | SHUT_SEND);
		return false;
	}
	p = stream_data(s);
	r = gmp_scan(p, s->len, MAX_MESSAGE);
	if (!r)
		return !ag.claim && stream_is_filling(s) && claim_message(s);
	if (r < 0) {
		handle_bad(s, r);
		return true;
	}
	handle(s, p, (uint32_t)r);
	if (s->state == STREAM_OPEN)
		stream_take(s, (uint32_t)r);
	return true;
}

bool agent_run(void)
{
	struct stream *s = stream_table();
	bool any = false;

	if (ag.msg && !ag.claim)
		unclaim_message();
	for (unsigned i = 0; i < NSTREAMS; i++, s++) {
		if (s->state == STREAM_OPEN && !s->ours &&
			(s->len || s->peer_shut))
			any |= run_stream(s);
	}
	return any;
}
