/* virtio-vsock: streams of this process, credit, floods, resets. Sockets are
 * in test_vsock_unix.c. */
#include "tests/unit/test.h"
#include "tests/unit/fake_guest.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define GPORT 5000u

static struct fake_guest g;

struct ear {
	int opened, closed, err;
	size_t n;
	uint8_t data[1024];
	struct vsock_stream *close_at_data;
	const struct vsock_stream_ops *again;
};

static void ear_opened(void *arg)
{
	((struct ear *)arg)->opened++;
}

static void ear_data(void *arg, const void *p, size_t n)
{
	struct ear *e = arg;

	for (size_t i = 0; i < n; i++, e->n++)
		e->data[e->n % sizeof(e->data)] = ((const uint8_t *)p)[i];
	if (e->close_at_data)
		vsock_close(e->close_at_data);
	e->close_at_data = NULL;
}

static void ear_closed(void *arg, int err)
{
	struct ear *e = arg;

	e->closed++;
	e->err = err;
}

static const struct vsock_stream_ops ear_ops = {
	.opened = ear_opened,
	.data = ear_data,
	.closed = ear_closed,
};

static int setup(void **state)
{
	(void)state;
	fg_init(&g);
	fg_driver(&g);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	fg_fini(&g);
	return 0;
}

static struct vsock_stream *dial(struct ear *e)
{
	memset(e, 0, sizeof(*e));
	return vsock_connect(g.v, GPORT, &ear_ops, e);
}

/* A stream that the guest accepted; *port is the host's side. */
static struct vsock_stream *open_stream(struct ear *e, uint32_t *port)
{
	struct vsock_stream *s = dial(e);
	struct fg_packet p;

	assert_non_null(s);
	fg_expect(&g, &p, VSOCK_OP_REQUEST);
	*port = p.h.src_port;
	fg_send(&g, VSOCK_OP_RESPONSE, GPORT, *port, 0, NULL, 0);
	assert_int_equal(e->opened, 1);
	return s;
}

static void expect_rst_to(uint32_t src, uint32_t dst)
{
	struct fg_packet p;

	fg_expect(&g, &p, VSOCK_OP_RST);
	assert_int_equal(p.h.src_port, dst);
	assert_int_equal(p.h.dst_port, src);
	fg_expect_none(&g);
}

/* ---- life of a stream ---- */

static void handshake_and_data(void **state)
{
	struct vsock_stats st;
	struct vsock_stream *s;
	struct fg_packet p;
	struct ear e;
	uint32_t port;

	(void)state;
	s = dial(&e);
	fg_expect(&g, &p, VSOCK_OP_REQUEST);
	assert_int_equal(p.h.src_cid, 2);
	assert_int_equal(p.h.dst_cid, FG_CID);
	assert_int_equal(p.h.dst_port, GPORT);
	assert_int_equal(p.h.type, 1);
	assert_int_equal(p.h.len, 0);
	assert_int_equal(p.h.fwd_cnt, 0);
	assert_true(p.h.buf_alloc >= 64 * 1024);
	port = p.h.src_port;
	assert_int_equal(vsock_send(s, "early", 5), 0);
	fg_expect_none(&g); /* not before the guest accepted */
	fg_send(&g, VSOCK_OP_RESPONSE, GPORT, port, 0, NULL, 0);
	assert_int_equal(e.opened, 1);
	fg_expect(&g, &p, VSOCK_OP_RW);
	assert_int_equal(p.h.len, 5);
	assert_memory_equal(p.data, "early", 5);
	fg_send(&g, VSOCK_OP_RW, GPORT, port, 0, "hello", 5);
	assert_int_equal(e.n, 5);
	assert_memory_equal(e.data, "hello", 5);
	vsock_get_stats(g.v, &st);
	assert_int_equal(st.rx_bytes, 5);
	assert_int_equal(st.tx_bytes, 5);
	assert_int_equal(st.streams, 1);
	vsock_close(s);
	expect_rst_to(GPORT, port);
	assert_int_equal(e.closed, 0);
	assert_int_equal(g.v->nstreams, 0);
}

static void ports_are_not_used_twice(void **state)
{
	struct fg_packet p;
	struct ear e;
	uint32_t last = 0;

	(void)state;
	for (int i = 0; i < 50; i++) {
		vsock_close(dial(&e));
		fg_expect(&g, &p, VSOCK_OP_REQUEST);
		assert_true(p.h.src_port > last);
		last = p.h.src_port;
		fg_expect(&g, &p, VSOCK_OP_RST);
	}
}

static void closed_before_it_was_sent(void **state)
{
	struct ear e;

	(void)state;
	fg_set(&g, FG_R_STATUS, 0);
	fg_run(&g);
	vsock_close(dial(&e));
	assert_int_equal(g.v->nstreams, 0);
	fg_driver(&g);
	fg_expect_none(&g);
}

static void refused(void **state)
{
	struct fg_packet p;
	struct ear e;

	(void)state;
	(void)dial(&e);
	fg_expect(&g, &p, VSOCK_OP_REQUEST);
	fg_send(&g, VSOCK_OP_RST, GPORT, p.h.src_port, 0, NULL, 0);
	assert_int_equal(e.closed, 1);
	assert_int_equal(e.err, -ECONNREFUSED);
	fg_expect_none(&g);
	assert_int_equal(g.v->nstreams, 0);
}

static void guest_closes(void **state)
{
	struct ear e;
	uint32_t port;

	(void)state;
	(void)open_stream(&e, &port);
	fg_send(&g, VSOCK_OP_SHUTDOWN, GPORT, port, VSOCK_SHUT_BOTH, NULL, 0);
	assert_int_equal(e.closed, 1);
	assert_int_equal(e.err, 0);
	expect_rst_to(GPORT, port);
	(void)open_stream(&e, &port);
	fg_send(&g, VSOCK_OP_RST, GPORT, port, 0, NULL, 0);
	assert_int_equal(e.err, -ECONNRESET);
	fg_expect_none(&g);
	assert_int_equal(g.v->nstreams, 0);
}

static void close_inside_a_callback(void **state)
{
	static uint8_t big[60000];
	struct ear e;
	uint32_t port;

	(void)state;
	e.close_at_data = NULL;
	{
		struct vsock_stream *s = open_stream(&e, &port);

		e.close_at_data = s;
	}
	fg_send(&g, VSOCK_OP_RW, GPORT, port, 0, big, sizeof(big));
	assert_true(e.n < sizeof(big)); /* nothing after the close */
	assert_int_equal(e.closed, 0);
	expect_rst_to(GPORT, port);
}

static void queue_limit(void **state)
{
	struct buf b = {0};
	uint8_t *big = calloc(1, VSOCK_MAX_QUEUED);
	struct vsock_stream *s;
	struct ear e;

	(void)state;
	assert_non_null(big);
	s = dial(&e);
	assert_int_equal(vsock_send(s, big, VSOCK_MAX_QUEUED), 0);
	assert_int_equal(vsock_send(s, big, 1), -ENOBUFS);
	assert_int_equal(buf_append(&b, big, 10), 0);
	assert_int_equal(vsock_send_buf(s, &b), -ENOBUFS);
	assert_int_equal(b.len, 10);
	buf_free(&b);
	free(big);
}

/* ---- credit ---- */

static void credit_to_the_guest(void **state)
{
	uint8_t data[1000];
	struct vsock_stream *s;
	struct fg_packet p;
	struct ear e;
	uint32_t port;

	(void)state;
	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = (uint8_t)i;
	g.buf_alloc = 100;
	s = open_stream(&e, &port);
	assert_int_equal(vsock_send(s, data, sizeof(data)), 0);
	fg_expect(&g, &p, VSOCK_OP_RW);
	assert_int_equal(p.h.len, 100);
	fg_expect(&g, &p, VSOCK_OP_CREDIT_REQUEST);
	/* An answer that grants nothing is not asked again. */
	fg_send(&g, VSOCK_OP_CREDIT_UPDATE, GPORT, port, 0, NULL, 0);
	fg_send(&g, VSOCK_OP_CREDIT_UPDATE, GPORT, port, 0, NULL, 0);
	fg_expect_none(&g);
	g.fwd_cnt = 30;
	fg_send(&g, VSOCK_OP_CREDIT_UPDATE, GPORT, port, 0, NULL, 0);
	fg_expect(&g, &p, VSOCK_OP_RW);
	assert_int_equal(p.h.len, 30);
	assert_memory_equal(p.data, data + 100, 30);
	fg_expect(&g, &p, VSOCK_OP_CREDIT_REQUEST);
	/* It may shrink its buffer below what is in flight. */
	g.buf_alloc = 50;
	g.fwd_cnt = 60;
	fg_send(&g, VSOCK_OP_CREDIT_UPDATE, GPORT, port, 0, NULL, 0);
	fg_expect_none(&g);
	g.fwd_cnt = 130;
	fg_send(&g, VSOCK_OP_CREDIT_UPDATE, GPORT, port, 0, NULL, 0);
	fg_expect(&g, &p, VSOCK_OP_RW);
	assert_int_equal(p.h.len, 50);
	assert_int_equal(e.closed, 0);
}

/* Counters are modulo 2^32. */
static void credit_wraps(void **state)
{
	struct vsock_stream *s;
	struct fg_packet p;
	struct ear e;
	uint32_t port;

	(void)state;
	g.buf_alloc = 100;
	s = open_stream(&e, &port);
	s->sent = s->peer_fwd = g.fwd_cnt = UINT32_MAX - 30;
	s->got = s->fwd = s->told = UINT32_MAX - 10;
	assert_int_equal(vsock_send(s, "x", 1), 0);
	fg_expect(&g, &p, VSOCK_OP_RW);
	for (uint32_t i = 0; i < 20; i++) {
		uint8_t data[7] = {0};

		g.fwd_cnt += p.h.len;
		fg_send(&g, VSOCK_OP_RW, GPORT, port, 0, data, 7);
		assert_int_equal(vsock_send(s, data, 7), 0);
		fg_expect(&g, &p, VSOCK_OP_RW);
		assert_int_equal(p.h.len, 7);
		assert_int_equal(p.h.fwd_cnt, UINT32_MAX - 10 + 7 * (i + 1));
	}
	assert_int_equal(e.n, 140);
	assert_int_equal(e.closed, 0);
}

static void bogus_credit(void **state)
{
	static const uint32_t fwd[] = {101, 1000, UINT32_MAX, 0x80000000};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(fwd); i++) {
		struct vsock_stream *s;
		struct fg_packet p;
		struct ear e;
		uint32_t port;

		g.fwd_cnt = 0;
		s = open_stream(&e, &port);
		assert_int_equal(vsock_send(s, "x", 1), 0);
		fg_expect(&g, &p, VSOCK_OP_RW);
		g.fwd_cnt = fwd[i];
		fg_send(&g, VSOCK_OP_CREDIT_UPDATE, GPORT, port, 0, NULL, 0);
		assert_int_equal(e.closed, 1);
		assert_int_equal(e.err, -ECONNRESET);
		expect_rst_to(GPORT, port);
	}
	/* going back is no better */
	{
		struct vsock_stream *s;
		struct fg_packet p;
		struct ear e;
		uint32_t port;

		g.fwd_cnt = 0;
		s = open_stream(&e, &port);
		assert_int_equal(vsock_send(s, "xyz", 3), 0);
		fg_expect(&g, &p, VSOCK_OP_RW);
		g.fwd_cnt = 3;
		fg_send(&g, VSOCK_OP_CREDIT_UPDATE, GPORT, port, 0, NULL, 0);
		g.fwd_cnt = 2;
		fg_send(&g, VSOCK_OP_CREDIT_UPDATE, GPORT, port, 0, NULL, 0);
		assert_int_equal(e.err, -ECONNRESET);
	}
}

static void credit_for_the_guest(void **state)
{
	static uint8_t data[100000];
	struct fg_packet p;
	struct ear e;
	uint32_t port, told = 0, sent = 0;

	(void)state;
	(void)open_stream(&e, &port);
	/* It never stalls a guest that keeps to the credit. */
	while (sent < 5000000) {
		fg_send(&g, VSOCK_OP_RW, GPORT, port, 0, data, sizeof(data));
		sent += (uint32_t)sizeof(data);
		while (fg_recv(&g, &p)) {
			assert_int_equal(p.h.op, VSOCK_OP_CREDIT_UPDATE);
			told = p.h.fwd_cnt;
		}
		assert_true(sent - told + sizeof(data) <= VSOCK_ALLOC_OWN);
	}
	assert_int_equal(e.n, sent);
	fg_send(&g, VSOCK_OP_CREDIT_REQUEST, GPORT, port, 0, NULL, 0);
	fg_expect(&g, &p, VSOCK_OP_CREDIT_UPDATE);
	assert_int_equal(p.h.fwd_cnt, sent);
}

/* ---- packets that should not be ---- */

static void no_such_stream(void **state)
{
	(void)state;
	for (unsigned op = 0; op <= VSOCK_NOPS_ + 1; op++) {
		fg_send(&g, (enum vsock_op)op, 1234, 99, 0, "abc", 3);
		if (op == VSOCK_OP_RST)
			fg_expect_none(&g);
		else
			expect_rst_to(1234, 99);
	}
	assert_int_equal(g.v->nstreams, 0);
}

static void wrong_addresses(void **state)
{
	struct vsock_hdr h = {.src_cid = FG_CID + 1,
		.dst_cid = 2,
		.src_port = 7,
		.dst_port = 8,
		.type = 1,
		.op = VSOCK_OP_REQUEST};
	struct fg_packet p;

	(void)state;
	fg_send_raw(&g, &h, NULL, 0);
	fg_kick(&g);
	fg_expect(&g, &p, VSOCK_OP_RST);
	assert_int_equal(p.h.dst_cid, FG_CID + 1);
	assert_int_equal(p.h.src_cid, 2);
	h.src_cid = FG_CID;
	h.dst_cid = UINT64_MAX;
	fg_send_raw(&g, &h, NULL, 0);
	fg_kick(&g);
	fg_expect(&g, &p, VSOCK_OP_RST);
	assert_int_equal(p.h.src_cid, UINT64_MAX);
	h.dst_cid = 2;
	h.type = 2; /* SEQPACKET was not offered */
	fg_send_raw(&g, &h, NULL, 0);
	fg_kick(&g);
	fg_expect(&g, &p, VSOCK_OP_RST);
	assert_int_equal(p.h.type, 2);
	fg_expect_none(&g);
}

/* Each ends that stream and no other. */
static void rule_breaking_streams(void **state)
{
	struct ear other;
	uint32_t other_port;

	(void)state;
	(void)open_stream(&other, &other_port);
	for (unsigned op = 0; op < 12; op++) {
		bool legal = op == VSOCK_OP_RW || op == VSOCK_OP_RST ||
			     op == VSOCK_OP_SHUTDOWN ||
			     op == VSOCK_OP_CREDIT_UPDATE ||
			     op == VSOCK_OP_CREDIT_REQUEST;
		struct fg_packet p;
		struct ear e;
		uint32_t port;

		if (legal)
			continue;
		(void)open_stream(&e, &port);
		fg_send(&g, (enum vsock_op)op, GPORT, port, 0, NULL, 0);
		assert_int_equal(e.closed, 1);
		assert_int_equal(e.err, -ECONNRESET);
		expect_rst_to(GPORT, port);
		/* data before RESPONSE */
		(void)dial(&e);
		fg_expect(&g, &p, VSOCK_OP_REQUEST);
		fg_send(&g, VSOCK_OP_RW, GPORT, p.h.src_port, 0, "x", 1);
		assert_int_equal(e.n, 0);
		assert_int_equal(e.closed, 1);
		expect_rst_to(GPORT, p.h.src_port);
	}
	assert_int_equal(other.closed, 0);
	fg_send(&g, VSOCK_OP_RW, GPORT, other_port, 0, "still", 5);
	assert_int_equal(other.n, 5);
}

static void send_raw_len(uint32_t claimed, uint32_t desc_len)
{
	struct vsock_hdr h = {.src_cid = FG_CID,
		.dst_cid = 2,
		.src_port = 7,
		.dst_port = 8,
		.type = 1,
		.op = VSOCK_OP_RW,
		.len = claimed};

	memcpy(fg_at(&g, FG_TX_BUF, sizeof(h)), &h, sizeof(h));
	fg_desc(&g, VSOCK_Q_TX, 0, FG_TX_BUF, desc_len, 0, 0);
	fg_avail(&g, VSOCK_Q_TX, 0);
	fg_kick(&g);
}

static void short_packets_break_the_device(void **state)
{
	static const uint32_t bad[][2] = {{0, 43}, {0, 1}, {1, 44},
		{UINT32_MAX, 100}, {57, 100}, {UINT32_MAX - 43, 44}};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct ear e;
		uint32_t port;

		fg_driver(&g);
		(void)open_stream(&e, &port);
		send_raw_len(bad[i][0], bad[i][1]);
		assert_true(fg_reg(&g, FG_R_STATUS) & VIRTIO_S_NEEDS_RESET);
		assert_int_equal(e.closed, 1);
		assert_int_equal(e.err, -ECONNRESET);
		fg_run(&g);
		assert_int_equal(g.v->nstreams, 0);
	}
	/* What is asked for meanwhile waits for the next driver. */
	{
		struct ear e;
		struct fg_packet p;

		(void)dial(&e);
		fg_driver(&g);
		assert_int_equal(e.closed, 0);
		fg_expect(&g, &p, VSOCK_OP_REQUEST);
	}
	send_raw_len(56, 100);
	assert_false(fg_reg(&g, FG_R_STATUS) & VIRTIO_S_NEEDS_RESET);
}

static void small_buffers_break_the_device(void **state)
{
	struct ear e;

	(void)state;
	for (uint32_t size = 1; size <= 44; size += 43) {
		fg_driver(&g);
		g.v->s.virtio.vq[0].next_avail = g.q[0].avail;
		fg_post_rx(&g, 40, size);
		(void)dial(&e);
		fg_run(&g);
		assert_true(fg_reg(&g, FG_R_STATUS) & VIRTIO_S_NEEDS_RESET);
	}
}

/* ---- floods ---- */

static void replies_wait_for_room(void **state)
{
	struct fg_packet p;
	unsigned rsts = 0;

	(void)state;
	g.repost = false;
	for (uint32_t i = 0; i < 300; i++) {
		const struct vsock_hdr h = {.src_cid = FG_CID,
			.dst_cid = 2,
			.src_port = i,
			.dst_port = 9,
			.type = 1,
			.op = VSOCK_OP_REQUEST};

		/* never more than the ring holds */
		if ((uint16_t)(g.q[1].avail - fg_used_idx(&g, 1)) == 8)
			break;
		fg_send_raw(&g, &h, NULL, 0);
		fg_kick(&g);
		assert_true(g.v->nreplies <= VSOCK_MAX_REPLIES);
	}
	/* 32 in buffers, 64 waiting, 8 in the transmit ring */
	assert_int_equal(g.v->nreplies, VSOCK_MAX_REPLIES);
	assert_int_equal((uint16_t)(g.q[1].avail - fg_used_idx(&g, 1)), 8);
	g.repost = true;
	while (fg_recv(&g, &p)) {
		assert_int_equal(p.h.op, VSOCK_OP_RST);
		assert_int_equal(p.h.dst_port, rsts++);
		fg_kick(&g);
	}
	assert_int_equal(rsts, 32 + 64 + 8);
	assert_int_equal(g.v->nreplies, 0);
}

static void the_table_is_bounded(void **state)
{
	struct vsock_stream *s[VSOCK_MAX_STREAMS];
	static struct ear e[VSOCK_MAX_STREAMS];
	struct fg_packet p;

	(void)state;
	for (unsigned i = 0; i < VSOCK_MAX_STREAMS; i++) {
		s[i] = dial(&e[i]);
		assert_non_null(s[i]);
	}
	errno = 0;
	assert_null(vsock_connect(g.v, 1, &ear_ops, e));
	assert_int_equal(errno, ENOBUFS);
	/* All of them are findable and get their answer. */
	for (unsigned i = 0; i < VSOCK_MAX_STREAMS; i++) {
		fg_expect(&g, &p, VSOCK_OP_REQUEST);
		fg_send(&g, VSOCK_OP_RESPONSE, GPORT, p.h.src_port, 0, NULL, 0);
		assert_int_equal(e[i].opened, 1);
	}
	for (unsigned i = 0; i < VSOCK_MAX_STREAMS; i += 2)
		vsock_close(s[i]);
	while (fg_recv(&g, &p)) {
		assert_int_equal(p.h.op, VSOCK_OP_RST);
		fg_kick(&g);
	}
	assert_int_equal(g.v->nstreams, VSOCK_MAX_STREAMS / 2);
	assert_non_null(vsock_connect(g.v, 1, &ear_ops, e));
}

/* A guest that never takes an RST keeps that many slots, not more. */
static void rsts_not_taken(void **state)
{
	struct fg_packet p;
	struct ear e;
	unsigned n = 0;

	(void)state;
	g.repost = false;
	for (unsigned i = 0; i < 16; i++) {
		struct vsock_stream *s = dial(&e);

		fg_expect(&g, &p, VSOCK_OP_REQUEST);
		vsock_close(s);
		fg_expect(&g, &p, VSOCK_OP_RST);
	}
	for (;;) {
		struct vsock_stream *s = dial(&e);

		if (!s)
			break;
		s->owed = 0; /* as if sent */
		vsock_close(s);
		n++;
	}
	assert_int_equal(n, VSOCK_MAX_STREAMS);
	fg_driver(&g);
	assert_int_equal(g.v->nstreams, 0);
}

static void nothing_is_lost_without_buffers(void **state)
{
	static uint8_t data[200000];
	struct vsock_stream *s;
	struct fg_packet p;
	struct ear e;
	uint32_t port, seed = 7;
	size_t got = 0;

	(void)state;
	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = (uint8_t)fg_random(&seed);
	s = open_stream(&e, &port);
	g.repost = false;
	assert_int_equal(vsock_send(s, data, sizeof(data)), 0);
	while (got < sizeof(data)) {
		if (!fg_recv(&g, &p)) {
			/* one at a time, of odd sizes */
			fg_post_rx(&g, 50,
				45 + fg_random(&seed) % (FG_RX_SIZE - 45));
			fg_kick(&g);
			continue;
		}
		if (p.h.op != VSOCK_OP_RW)
			continue;
		assert_memory_equal(p.data, data + got, p.h.len);
		got += p.h.len;
	}
	assert_int_equal(s->out.len, 0);
	assert_null(s->out.p); /* given back */
}

static void streams_take_turns(void **state)
{
	static uint8_t data[100000];
	struct vsock_stream *s[3];
	struct ear e[3];
	struct fg_packet p;
	uint32_t port[3];
	unsigned n[3] = {0};

	(void)state;
	for (int i = 0; i < 3; i++)
		s[i] = open_stream(&e[i], &port[i]);
	for (int i = 0; i < 3; i++)
		assert_int_equal(vsock_send(s[i], data, sizeof(data)), 0);
	/* the first had the ring for itself */
	for (int i = 0; i < 32; i++)
		fg_expect(&g, &p, VSOCK_OP_RW);
	fg_kick(&g);
	for (int i = 0; i < 30; i++) {
		assert_true(fg_recv(&g, &p));
		for (int k = 0; k < 3; k++)
			n[k] += p.h.src_port == port[k];
	}
	assert_true(n[1] >= 9 && n[2] >= 9);
}

/* ---- resets ---- */

static void transport_reset(void **state)
{
	struct fg_packet p;
	struct ear e, fresh;
	uint32_t port, *event = fg_at(&g, 0x80000, 4);
	struct err err;

	(void)state;
	(void)open_stream(&e, &port);
	*event = 99;
	assert_int_equal(vsock_reset(g.v, 2, &err), -EINVAL);
	assert_int_equal(vsock_reset(g.v, UINT32_MAX, &err), -EINVAL);
	assert_int_equal(vsock_reset(g.v, 1000, &err), 0);
	assert_int_equal(e.closed, 1);
	assert_int_equal(e.err, -ECONNRESET);
	assert_int_equal(fg_used_idx(&g, VSOCK_Q_EVENT), 1);
	assert_int_equal(*event, 0);
	assert_int_equal(fg_reg(&g, FG_R_CONFIG), 1000);
	assert_int_equal(g.m.cfg.vsock_cid, 1000);
	/* no RST: the event told it all */
	fg_expect_none(&g);
	/* the guest has not read the event yet */
	{
		const struct vsock_hdr h = {.src_cid = FG_CID,
			.dst_cid = 2,
			.src_port = GPORT,
			.dst_port = port,
			.type = 1,
			.op = VSOCK_OP_RW};

		fg_send_raw(&g, &h, NULL, 0);
		fg_kick(&g);
		fg_expect(&g, &p, VSOCK_OP_RST);
		assert_int_equal(p.h.dst_cid, FG_CID);
		assert_int_equal(p.h.dst_port, GPORT);
	}
	(void)dial(&fresh);
	fg_expect(&g, &p, VSOCK_OP_REQUEST);
	assert_int_equal(p.h.dst_cid, 1000);
	assert_true(p.h.src_port > port);
}

static void the_event_comes_first(void **state)
{
	struct fg_packet p;
	struct ear e;
	struct err err;

	(void)state;
	/* four buffers: used up */
	for (int i = 0; i < 4; i++)
		assert_int_equal(vsock_reset(g.v, 0, &err), 0);
	assert_int_equal(fg_used_idx(&g, VSOCK_Q_EVENT), 4);
	assert_int_equal(vsock_reset(g.v, 0, &err), 0);
	assert_int_equal(g.v->s.reset_owed, 1);
	(void)dial(&e);
	fg_kick(&g);
	fg_expect_none(&g);
	fg_post_event(&g, 0);
	fg_kick(&g);
	assert_int_equal(fg_used_idx(&g, VSOCK_Q_EVENT), 5);
	assert_int_equal(g.v->s.reset_owed, 0);
	fg_expect(&g, &p, VSOCK_OP_REQUEST);
}

static void reset_without_a_driver(void **state)
{
	struct err err;

	(void)state;
	fg_set(&g, FG_R_STATUS, 0);
	fg_run(&g);
	assert_int_equal(vsock_reset(g.v, 55, &err), 0);
	assert_int_equal(g.v->s.reset_owed, 0);
	fg_driver(&g);
	assert_int_equal(fg_reg(&g, FG_R_CONFIG), 55);
	assert_int_equal(fg_used_idx(&g, VSOCK_Q_EVENT), 0);
}

static void driver_reset(void **state)
{
	struct ear open, waiting;
	struct fg_packet p;
	uint32_t port;

	(void)state;
	(void)open_stream(&open, &port);
	fg_set(&g, FG_R_STATUS, 0);
	(void)dial(&waiting);
	fg_run(&g);
	assert_int_equal(open.closed, 1);
	assert_int_equal(open.err, -ECONNRESET);
	assert_int_equal(waiting.closed, 0);
	fg_driver(&g);
	fg_expect(&g, &p, VSOCK_OP_REQUEST);
	assert_int_equal(waiting.closed, 0);
}

/* Between the reset and the loop's next turn no ring is touched. */
static void rings_after_a_reset(void **state)
{
	struct ear e;
	struct fg_packet p;
	struct vsock_stream *s;
	uint32_t port;

	(void)state;
	s = open_stream(&e, &port);
	fg_clear_rings(&g);
	fg_set(&g, FG_R_STATUS, 0);
	fg_set(&g, FG_R_STATUS, 3);
	fg_set(&g, FG_R_DRIVER_FEATURES_SEL, 1);
	fg_set(&g, FG_R_DRIVER_FEATURES, 1);
	fg_set(&g, FG_R_STATUS, 11);
	fg_driver_queues(&g);
	fg_post_rx(&g, 0, FG_RX_SIZE);
	fg_set(&g, FG_R_STATUS, 15);
	assert_int_equal(vsock_send(s, "old", 3), 0);
	assert_int_equal(fg_used_idx(&g, 0), 0);
	fg_run(&g);
	assert_int_equal(e.closed, 1);
	fg_expect_none(&g);
	(void)dial(&e);
	fg_expect(&g, &p, VSOCK_OP_REQUEST);
}

static void quiesced(void **state)
{
	struct fg_packet p;
	struct ear e;
	uint32_t port;
	struct vsock_stream *s = open_stream(&e, &port);

	(void)state;
	assert_int_equal(vsock_ops.quiesce(g.dev, NULL), 0);
	assert_int_equal(vsock_send(s, "later", 5), 0);
	fg_send(&g, VSOCK_OP_RW, GPORT, port, 0, "x", 1);
	assert_int_equal(e.n, 0);
	fg_expect_none(&g);
	vsock_ops.resumed(g.dev);
	assert_int_equal(e.n, 1);
	fg_expect(&g, &p, VSOCK_OP_RW);
	assert_int_equal(p.h.len, 5);
}

/* A callback that connects anew at once keeps its new stream. */
static void closed_connects_again(void *arg, int err)
{
	struct ear *e = arg;

	ear_closed(arg, err);
	if (e->closed == 1)
		assert_non_null(vsock_connect(g.v, GPORT, e->again, e));
}

static void reconnect_inside_a_reset(void **state)
{
	static const struct vsock_stream_ops ops = {
		.opened = ear_opened,
		.data = ear_data,
		.closed = closed_connects_again,
	};
	struct ear e = {.again = &ops};
	struct fg_packet p;
	struct err err;

	(void)state;
	assert_non_null(vsock_connect(g.v, GPORT, &ops, &e));
	fg_expect(&g, &p, VSOCK_OP_REQUEST);
	assert_int_equal(vsock_reset(g.v, 0, &err), 0);
	assert_int_equal(e.closed, 1);
	fg_expect(&g, &p, VSOCK_OP_REQUEST);
	fg_send(&g, VSOCK_OP_RESPONSE, GPORT, p.h.src_port, 0, NULL, 0);
	assert_int_equal(e.opened, 1);
}

/* A vCPU thread that resets and starts the device over and over, while the
 * loop thread works. For the thread sanitizer above all. */
static void *driver_thread(void *arg)
{
	for (int i = 0; i < 300; i++) {
		fg_set(arg, FG_R_STATUS, 0);
		fg_set(arg, FG_R_STATUS, 3);
		fg_set(arg, FG_R_DRIVER_FEATURES_SEL, 1);
		fg_set(arg, FG_R_DRIVER_FEATURES, 1);
		fg_set(arg, FG_R_STATUS, 11);
		fg_driver_queues(arg);
		fg_set(arg, FG_R_STATUS, 15);
		fg_set(arg, FG_R_QUEUE_NOTIFY, 0);
		(void)fg_reg(arg, FG_R_CONFIG);
		fg_set(arg, FG_R_ISR_ACK, fg_reg(arg, FG_R_ISR));
	}
	return NULL;
}

static void resets_by_another_thread(void **state)
{
	pthread_t t;
	struct err err;
	struct ear e;

	(void)state;
	assert_int_equal(pthread_create(&t, NULL, driver_thread, &g), 0);
	for (int i = 0; i < 1000; i++) {
		struct vsock_stream *s = dial(&e);

		vsock_ops.kick(g.dev);
		fg_run(&g);
		/* NULL: the guest takes no RSTs, the table filled up */
		if (!s || !(i % 100))
			assert_int_equal(vsock_reset(g.v, 9, &err), 0);
		else if (!e.closed)
			vsock_close(s);
	}
	assert_int_equal(pthread_join(t, NULL), 0);
	fg_run(&g);
	assert_true(virtio_queue_live(&g.v->vd, 0));
}

/* One wake-up for everything that a pass does. */
static void one_wake_per_pass(void **state)
{
	static uint8_t data[50000];
	struct vsock_stream *s;
	struct ear e;
	uint32_t port;
	uint64_t wakes;

	(void)state;
	s = open_stream(&e, &port);
	wakes = g.m.door_seq;
	assert_int_equal(vsock_send(s, data, sizeof(data)), 0);
	assert_int_equal(g.m.door_seq, wakes + 1);
	assert_int_equal(fg_used_idx(&g, 0), 1 + (50000 + 4051) / 4052);
}

/* ---- at random ---- */

static void random_packet(uint32_t *seed, uint32_t port)
{
	static uint8_t data[20000];
	uint32_t x = fg_random(seed);
	struct vsock_hdr h = {
		.src_cid = x & 0xf ? FG_CID : fg_random(seed),
		.dst_cid = x & 0xf0 ? 2 : fg_random(seed),
		.src_port = x & 0x300 ? GPORT : fg_random(seed),
		.dst_port = x & 0xc00 ? port : fg_random(seed),
		.type = x & 0xf000 ? 1 : (uint16_t)fg_random(seed),
		.op = (uint16_t)(fg_random(seed) % 10),
		.flags = fg_random(seed) % 4,
		.buf_alloc = fg_random(seed) >> (x % 32),
		.fwd_cnt = x & 0x30000 ? 0 : fg_random(seed),
		.len = x & 0x40000 ? fg_random(seed) % sizeof(data) : 0,
	};

	fg_send_raw(&g, &h, data, h.len);
	fg_kick(&g);
}

static void random_packets(void **state)
{
	(void)state;
	for (uint32_t round = 1; round <= 100; round++) {
		uint32_t seed = round * 2654435761u, port = 0;
		struct fg_packet p;
		struct ear e[4];
		struct vsock_stream *s[4];

		fg_driver(&g);
		for (int i = 0; i < 4; i++)
			s[i] = open_stream(&e[i], &port);
		for (int i = 0; i < 4; i++)
			assert_int_equal(vsock_send(s[i], "some data", 9), 0);
		for (int i = 0; i < 100; i++) {
			random_packet(&seed, port - fg_random(&seed) % 4);
			if (fg_random(&seed) & 1)
				(void)fg_recv(&g, &p);
			if (g.v->nreplies > VSOCK_MAX_REPLIES ||
				g.v->nstreams > 4)
				fail_msg("seed %u: %u replies, %u streams",
					round, g.v->nreplies, g.v->nstreams);
		}
		for (int i = 0; i < 4; i++)
			if (e[i].closed > 1)
				fail_msg("seed %u: closed twice", round);
	}
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(handshake_and_data),
		T(ports_are_not_used_twice),
		T(closed_before_it_was_sent),
		T(refused),
		T(guest_closes),
		T(close_inside_a_callback),
		T(queue_limit),
		T(credit_to_the_guest),
		T(credit_wraps),
		T(bogus_credit),
		T(credit_for_the_guest),
		T(no_such_stream),
		T(wrong_addresses),
		T(rule_breaking_streams),
		T(short_packets_break_the_device),
		T(small_buffers_break_the_device),
		T(replies_wait_for_room),
		T(the_table_is_bounded),
		T(rsts_not_taken),
		T(nothing_is_lost_without_buffers),
		T(streams_take_turns),
		T(transport_reset),
		T(the_event_comes_first),
		T(reset_without_a_driver),
		T(driver_reset),
		T(rings_after_a_reset),
		T(quiesced),
		T(reconnect_inside_a_reset),
		T(resets_by_another_thread),
		T(one_wake_per_pass),
		T(random_packets),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
