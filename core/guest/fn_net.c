/* Functions that use vsock: a client, and a test of the host. */
#include "core/guest/abi.h"
#include "core/guest/fn.h"
#include "core/guest/vsock.h"

#define CONNECT_TIMEOUT_NS 10000000000ULL
#define FLOOD_DEFAULT      10000u
#define FLOOD_MAX          10000000u

/* Words before and after the first space. */
static size_t first_word(const char *s, size_t n)
{
	size_t i = 0;

	while (i < n && s[i] != ' ')
		i++;
	return i;
}

static bool is_over(const struct stream *s)
{
	return s->state == STREAM_DEAD;
}

static int wait_open(struct fn_ctx *ctx, struct stream *s)
{
	uint64_t end = fn_mono_ns() + CONNECT_TIMEOUT_NS;

	while (s->state == STREAM_CONNECTING) {
		if (fn_mono_ns() > end)
			return fn_fail(ctx, FN_TIMEOUT,
				"the host does not answer the connection");
		vsock_sleep(100000);
	}
	if (is_over(s))
		return fn_fail(ctx, FN_NOT_FOUND, "connection refused");
	return 0;
}

/* Until the host closes, or is silent for too long. */
static int read_all(struct fn_ctx *ctx, struct stream *s)
{
	uint64_t end = fn_mono_ns() + CONNECT_TIMEOUT_NS;

	for (;;) {
		while (s->len) {
			uint32_t n = s->len;
			int r = fn_write(ctx, stream_data(s), n);

			if (r)
				return r;
			stream_take(s, n);
			end = fn_mono_ns() + CONNECT_TIMEOUT_NS;
		}
		if (is_over(s) || (s->peer_shut & SHUT_SEND))
			return 0;
		if (fn_mono_ns() > end)
			return fn_fail(ctx, FN_TIMEOUT,
				"the host does not close the connection");
		vsock_sleep(100000);
	}
}

int fn_connect(struct fn_ctx *ctx, const struct fn_input *in)
{
	size_t word = first_word(in->arg, in->narg);
	const char *end = (const char *)ctx->in + ctx->in_len;
	const char *text = in->arg + word + (word < in->narg);
	struct stream *s;
	uint64_t port;
	int r;

	if (!get_dec(in->arg, word, &port) || port >= UINT32_MAX)
		return fn_fail(ctx, FN_INVALID, "connect needs PORT and TEXT");
	s = vsock_connect((uint32_t)port);
	if (!s)
		return fn_fail(ctx, FN_EXHAUSTED, "too many streams");
	r = wait_open(ctx, s);
	if (!r) {
		(void)vsock_send(s, NULL, 0, text, (uint32_t)(end - text));
		stream_shutdown(s, SHUT_SEND);
		r = read_all(ctx, s);
	}
	stream_reset(s);
	stream_let_go(s);
	return r;
}

/* Packets that no well-behaved driver sends, a new kind each time. */
static struct vsock_hdr odd_packet(uint64_t i)
{
	uint32_t random[4];
	struct vsock_hdr h = {
		.src_cid = 3,
		.dst_cid = VSOCK_HOST_CID,
		.type = VSOCK_TYPE_STREAM,
	};

	fn_random(random, sizeof(random));
	h.src_port = random[0];
	h.dst_port = random[1] % 2 ? random[2] : AGENT_VSOCK_PORT;
	h.op = (uint16_t)(i % 10);
	h.buf_alloc = random[3];
	h.fwd_cnt = random[2];
	if (i % 11 == 0)
		h.src_cid = random[3];
	if (i % 13 == 0)
		h.dst_cid = random[3];
	if (i % 17 == 0)
		h.type = (uint16_t)random[3];
	return h;
}

int fn_flood(struct fn_ctx *ctx, const struct fn_input *in)
{
	static const uint8_t junk[1024];
	uint64_t n = FLOOD_DEFAULT;
	int r = in->narg ? fn_number(ctx, in, FLOOD_MAX, &n) : 0;

	if (r)
		return r;
	for (uint64_t i = 0; i < n; i++) {
		struct vsock_hdr h = odd_packet(i);
		uint32_t len = h.op == OP_RW ? sizeof(junk) : 0;

		h.len = len;
		while (!vsock_send_raw(&h, junk, len))
			vsock_sleep(1000);
	}
	r = fn_write_str(ctx, "flooded ");
	r = r ? r : fn_write_dec(ctx, n);
	return r ? r : fn_write_str(ctx, " packets");
}
