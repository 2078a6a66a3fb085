/* virtio-vsock: streams of this process, credit, packets that should not be.
 * Floods and resets are in test_vsock_flood.c, sockets in test_vsock_unix.c. */
#include "tests/unit/test.h"
#include "tests/unit/vsock_ear.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define GPORT EAR_PORT

static struct fake_guest g;

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

/* ---- life of a stream ---- */

static void handshake_and_data(void **state)
{
	struct vsock_stats st;
	struct vsock_stream *s;
	struct fg_packet p;
	struct ear e;
	uint32_t port;

	(void)state;
	s = ear_dial(&g, &e);
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
	ear_expect_rst(&g, GPORT, port);
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
		vsock_close(ear_dial(&g, &e));
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
	vsock_close(ear_dial(&g, &e));
	assert_int_equal(g.v->nstreams, 0);
	fg_driver(&g);
	fg_expect_none(&g);
}

static void refused(void **state)
{
	struct fg_packet p;
	struct ear e;

	(void)state;
	(void)ear_dial(&g, &e);
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
	(void)ear_connect(&g, &e, &port);
	fg_send(&g, VSOCK_OP_SHUTDOWN, GPORT, port, VSOCK_SHUT_BOTH, NULL, 0);
	assert_int_equal(e.closed, 1);
	assert_int_equal(e.err, 0);
	ear_expect_rst(&g, GPORT, port);
	(void)ear_connect(&g, &e, &port);
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
		struct vsock_stream *s = ear_connect(&g, &e, &port);

		e.close_at_data = s;
	}
	fg_send(&g, VSOCK_OP_RW, GPORT, port, 0, big, sizeof(big));
	assert_true(e.n < sizeof(big)); /* nothing after the close */
	assert_int_equal(e.closed, 0);
	ear_expect_rst(&g, GPORT, port);
}

static void queue_limit(void **state)
{
	struct buf b = {0};
	uint8_t *big = calloc(1, VSOCK_MAX_QUEUED);
	struct vsock_stream *s;
	struct ear e;

	(void)state;
	assert_non_null(big);
	s = ear_dial(&g, &e);
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
	s = ear_connect(&g, &e, &port);
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
	s = ear_connect(&g, &e, &port);
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
		s = ear_connect(&g, &e, &port);
		assert_int_equal(vsock_send(s, "x", 1), 0);
		fg_expect(&g, &p, VSOCK_OP_RW);
		g.fwd_cnt = fwd[i];
		fg_send(&g, VSOCK_OP_CREDIT_UPDATE, GPORT, port, 0, NULL, 0);
		assert_int_equal(e.closed, 1);
		assert_int_equal(e.err, -ECONNRESET);
		ear_expect_rst(&g, GPORT, port);
	}
	/* going back is no better */
	{
		struct vsock_stream *s;
		struct fg_packet p;
		struct ear e;
		uint32_t port;

		g.fwd_cnt = 0;
		s = ear_connect(&g, &e, &port);
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
	(void)ear_connect(&g, &e, &port);
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
			ear_expect_rst(&g, 1234, 99);
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
	(void)ear_connect(&g, &other, &other_port);
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
		(void)ear_connect(&g, &e, &port);
		fg_send(&g, (enum vsock_op)op, GPORT, port, 0, NULL, 0);
		assert_int_equal(e.closed, 1);
		assert_int_equal(e.err, -ECONNRESET);
		ear_expect_rst(&g, GPORT, port);
		/* data before RESPONSE */
		(void)ear_dial(&g, &e);
		fg_expect(&g, &p, VSOCK_OP_REQUEST);
		fg_send(&g, VSOCK_OP_RW, GPORT, p.h.src_port, 0, "x", 1);
		assert_int_equal(e.n, 0);
		assert_int_equal(e.closed, 1);
		ear_expect_rst(&g, GPORT, p.h.src_port);
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
		(void)ear_connect(&g, &e, &port);
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

		(void)ear_dial(&g, &e);
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
		(void)ear_dial(&g, &e);
		fg_run(&g);
		assert_true(fg_reg(&g, FG_R_STATUS) & VIRTIO_S_NEEDS_RESET);
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
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
