/* virtio-vsock: bounds against floods, resets of every kind, random packets. */
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
		s[i] = ear_dial(&g, &e[i]);
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
		struct vsock_stream *s = ear_dial(&g, &e);

		fg_expect(&g, &p, VSOCK_OP_REQUEST);
		vsock_close(s);
		fg_expect(&g, &p, VSOCK_OP_RST);
	}
	for (;;) {
		struct vsock_stream *s = ear_dial(&g, &e);

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
	s = ear_connect(&g, &e, &port);
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
		s[i] = ear_connect(&g, &e[i], &port[i]);
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
	(void)ear_connect(&g, &e, &port);
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
	(void)ear_dial(&g, &fresh);
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
	(void)ear_dial(&g, &e);
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
	(void)ear_connect(&g, &open, &port);
	fg_set(&g, FG_R_STATUS, 0);
	(void)ear_dial(&g, &waiting);
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
	s = ear_connect(&g, &e, &port);
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
	(void)ear_dial(&g, &e);
	fg_expect(&g, &p, VSOCK_OP_REQUEST);
}

static void quiesced(void **state)
{
	struct fg_packet p;
	struct ear e;
	uint32_t port;
	struct vsock_stream *s = ear_connect(&g, &e, &port);

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
		struct vsock_stream *s = ear_dial(&g, &e);

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
	s = ear_connect(&g, &e, &port);
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
			s[i] = ear_connect(&g, &e[i], &port);
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
