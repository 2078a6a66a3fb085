/* The agent client against agents that answer well, late or not at all; lies
 * are in test_agent_bad.c. */
#include "tests/unit/test.h"
#include "tests/unit/agent_rig.h"
#include "core/net.h"

#include <errno.h>
#include <string.h>

static void identity_on_the_wire(void **state)
{
	struct identity id = {.hostname = "clone-1", .wall_ns = 1234567890};
	struct rig r;
	struct fg_packet p;
	msgpack_unpacked up;
	const msgpack_object *o;
	uint64_t wakes;

	(void)state;
	rig_init(&r);
	memset(id.seed, 0x5a, sizeof(id.seed));
	memset(id.machine_id, 0x11, sizeof(id.machine_id));
	assert_int_equal(
		agent_identity(r.a, &id, RIG_SECOND, rig_done, &r.seen), 0);
	wakes = r.g.m.door_seq;
	rig_accept(&r, &p);
	/* The answer to RESPONSE comes with one wake-up, in the same pass. */
	assert_int_equal(r.g.m.door_seq, wakes + 1);
	fg_expect(&r.g, &p, VSOCK_OP_RW);
	fg_expect_none(&r.g);

	msgpack_unpacked_init(&up);
	assert_int_equal(
		mp_unpack(p.data, p.h.len, &mp_default_limits, &up, NULL), 0);
	o = up.data.via.array.ptr;
	assert_int_equal(up.data.via.array.size, 4);
	assert_int_equal(o[0].via.u64, 0);
	assert_int_equal(o[1].via.u64, 0);
	assert_true(mp_str_eq(&o[2], "identity"));
	assert_int_equal(o[3].type, MSGPACK_OBJECT_ARRAY);
	assert_int_equal(o[3].via.array.size, 1);
	o = o[3].via.array.ptr;
	assert_int_equal(o->via.map.size, 5);
	assert_true(mp_str_eq(mp_get(o, "hostname"), "clone-1"));
	assert_int_equal(mp_get(o, "seed")->via.bin.size, IDENT_SEED_SIZE);
	assert_memory_equal(
		mp_get(o, "seed")->via.bin.ptr, id.seed, IDENT_SEED_SIZE);
	assert_int_equal(mp_get(o, "machine_id")->via.bin.size, 16);
	assert_int_equal(mp_get(o, "wall_ns")->via.u64, 1234567890);
	assert_non_null(mp_get(o, "interfaces"));
	msgpack_unpacked_destroy(&up);

	rig_ok(&r, 0);
	assert_int_equal(r.seen.calls, 1);
	assert_int_equal(r.seen.status, 0);
	assert_int_equal(agent_deadline(r.a), 0);
	rig_fini(&r);
}

/* An address is set only when the agent says so. */
static void address_must_be_acknowledged(void **state)
{
	static const uint8_t silent[] = {0x94, 1, 1, 0xc0, 0x80};
	static const uint8_t none[] = {0x94, 1, 2, 0xc0, 0x81, 0xa9, 'a', 'd',
		'd', 'r', 'e', 's', 's', 'e', 's', 0};
	static const uint8_t one[] = {0x94, 1, 3, 0xc0, 0x81, 0xa9, 'a', 'd',
		'd', 'r', 'e', 's', 's', 'e', 's', 1};
	struct identity id = {.hostname = "clone-1"};
	struct rig r;

	(void)state;
	rig_init(&r);
	rig_open(&r);
	memcpy(r.g.m.net_ip[0].ip, "10.0.0.2/24", 12);
	for (int i = 0; i < 3; i++)
		assert_int_equal(
			agent_identity(r.a, &id, RIG_SECOND, rig_done, &r.seen),
			0);
	rig_answer(&r, silent, sizeof(silent));
	assert_int_equal(r.seen.status, -EOPNOTSUPP);
	rig_answer(&r, none, sizeof(none));
	assert_int_equal(r.seen.status, -EOPNOTSUPP);
	rig_answer(&r, one, sizeof(one));
	assert_int_equal(r.seen.status, 0);
	assert_int_equal(r.seen.calls, 3);
	rig_fini(&r);
}

/* The guest is told of addresses that changed, and of its TSC. */
static void identity_of_a_clone(void **state)
{
	struct identity id = {.hostname = "clone-1", .wall_ns = 1};
	const msgpack_object *o, *net;
	struct fg_packet p;
	msgpack_unpacked up;
	struct rig r;

	(void)state;
	rig_init(&r);
	r.g.m.cfg.builtin = 0;
	r.g.m.net_was[1][5] = 7;
	r.g.m.cfg.net[1].mac[0] = 2;
	r.g.m.told.wall_ns = 1234567;
	r.g.m.told.tsc = 99;
	r.g.m.told.tsc_khz = 1000;
	assert_int_equal(
		agent_identity(r.a, &id, RIG_SECOND, rig_done, &r.seen), 0);
	rig_accept(&r, &p);
	fg_expect(&r.g, &p, VSOCK_OP_RW);
	msgpack_unpacked_init(&up);
	assert_int_equal(
		mp_unpack(p.data, p.h.len, &mp_default_limits, &up, NULL), 0);
	o = up.data.via.array.ptr[3].via.array.ptr;
	assert_int_equal(o->via.map.size, 7);
	assert_int_equal(mp_get(o, "wall_ns")->via.u64, 1234567);
	assert_int_equal(mp_get(o, "tsc")->via.u64, 99);
	net = mp_get(o, "interfaces");
	assert_int_equal(net->via.array.size, 1);
	net = net->via.array.ptr;
	assert_true(mp_str_eq(mp_get(net, "match"), "00:00:00:00:00:07"));
	assert_true(mp_str_eq(mp_get(net, "mac"), "02:00:00:00:00:00"));
	msgpack_unpacked_destroy(&up);
	/* Acknowledged, it has the new one. */
	assert_true(net_is_told(&r.g.m, 1));
	rig_ok(&r, 0);
	assert_int_equal(r.seen.status, 0);
	assert_false(net_is_told(&r.g.m, 1));
	rig_fini(&r);
}

static void clock_on_the_wire(void **state)
{
	struct rig r;
	struct fg_packet p;
	msgpack_unpacked up;
	const msgpack_object *o;
	uint64_t before = wall_ns(), at = 0;

	(void)state;
	rig_init(&r);
	assert_int_equal(
		agent_set_clock(r.a, RIG_SECOND, rig_done, &r.seen), 0);
	rig_accept(&r, &p);
	fg_expect(&r.g, &p, VSOCK_OP_RW);
	msgpack_unpacked_init(&up);
	assert_int_equal(
		mp_unpack(p.data, p.h.len, &mp_default_limits, &up, NULL), 0);
	o = up.data.via.array.ptr;
	assert_int_equal(up.data.via.array.size, 4);
	assert_true(mp_str_eq(&o[2], "clock"));
	o = mp_get(o[3].via.array.ptr, "wall_ns");
	assert_non_null(o);
	if (o)
		at = o->via.u64;
	assert_true(at >= before && at <= wall_ns());
	msgpack_unpacked_destroy(&up);
	rig_ok(&r, 0);
	assert_int_equal(r.seen.status, 0);
	rig_fini(&r);
}

/* ---- good guests ---- */

static void call_before_the_driver(void **state)
{
	struct rig r;
	struct fg_packet p;

	(void)state;
	memset(&r, 0, sizeof(r));
	fg_init(&r.g);
	r.a = agent_create(&r.g.m);
	assert_int_equal(agent_ping(r.a, RIG_SECOND, rig_done, &r.seen), 0);
	fg_driver(&r.g); /* resets the device first */
	rig_accept(&r, &p);
	fg_expect(&r.g, &p, VSOCK_OP_RW);
	rig_ok(&r, 0);
	assert_int_equal(r.seen.calls, 1);
	assert_int_equal(r.seen.status, 0);
	rig_fini(&r);
}

static void answers_in_any_order_and_pieces(void **state)
{
	static const uint8_t two[] = {0x94, 1, 2, 0xc0, 0x81, 0xa7, 'p', 'a',
		'y', 'l', 'o', 'a', 'd', 0xc4, 2, 'h', 'i'};
	struct seen first = {0}, second = {0};
	struct rig r;
	struct fg_packet p;

	(void)state;
	rig_init(&r);
	rig_open(&r);
	assert_int_equal(
		agent_invoke(r.a, "a", 1, RIG_SECOND, rig_done, &first), 0);
	assert_int_equal(
		agent_invoke(r.a, "b", 1, RIG_SECOND, rig_done, &second), 0);
	fg_kick(&r.g);
	fg_expect(&r.g, &p, VSOCK_OP_RW);
	for (size_t i = 0; i < sizeof(two); i++) {
		assert_int_equal(second.calls, 0);
		rig_answer(&r, two + i, 1);
	}
	assert_int_equal(second.calls, 1);
	assert_int_equal(second.len, 2);
	assert_memory_equal(second.payload, "hi", 2);
	assert_int_equal(first.calls, 0);
	rig_ok(&r, 1);
	assert_int_equal(first.calls, 1);
	rig_fini(&r);
}

static void two_answers_in_one_packet(void **state)
{
	static const uint8_t both[] = {
		0x94, 1, 1, 0xc0, 0xc3, 0x94, 1, 2, 0xc0, 0xc3};
	struct seen first = {0}, second = {0};
	struct rig r;

	(void)state;
	rig_init(&r);
	rig_open(&r);
	assert_int_equal(agent_ping(r.a, RIG_SECOND, rig_done, &first), 0);
	assert_int_equal(agent_ping(r.a, RIG_SECOND, rig_done, &second), 0);
	rig_answer(&r, both, sizeof(both));
	assert_int_equal(first.calls, 1);
	assert_int_equal(second.calls, 1);
	rig_fini(&r);
}

static void call_from_a_callback(void **state)
{
	struct rig r;
	struct fg_packet p;

	(void)state;
	rig_init(&r);
	rig_open(&r);
	r.seen.again = r.a;
	assert_int_equal(agent_ping(r.a, RIG_SECOND, rig_done, &r.seen), 0);
	fg_expect(&r.g, &p, VSOCK_OP_RW);
	rig_ok(&r, 1);
	assert_int_equal(r.seen.calls, 1);
	fg_expect(&r.g, &p, VSOCK_OP_RW);
	rig_ok(&r, 2);
	assert_int_equal(r.seen.calls, 2);
	rig_fini(&r);
}

static void destroy_from_a_callback(void **state)
{
	static const uint8_t both[] = {
		0x94, 1, 1, 0xc0, 0xc3, 0x94, 1, 2, 0xc0, 0xc3};
	struct rig r;

	(void)state;
	rig_init(&r);
	rig_open(&r);
	assert_int_equal(agent_ping(r.a, RIG_SECOND, rig_done, &r.seen), 0);
	assert_int_equal(agent_ping(r.a, RIG_SECOND, rig_done, &r.seen), 0);
	r.seen.kill = r.a;
	r.a = NULL;
	rig_answer(&r, both, sizeof(both));
	assert_int_equal(r.seen.calls, 1);
	fg_fini(&r.g);
}

/* 6 MiB there and back, through 4 KiB receive buffers and a window that the
 * guest keeps small; afterwards nothing is kept. */
static void big_payload(void **state)
{
	const size_t len = AGENT_MAX_PAYLOAD;
	uint8_t *data = malloc(len), *back = malloc(len + 64);
	static const uint8_t head[] = {0x94, 1, 1, 0xc0, 0x81, 0xa7, 'p', 'a',
		'y', 'l', 'o', 'a', 'd', 0xc6, 0, 0x60, 0, 0};
	size_t got = 0, sent = 0;
	uint32_t seed = 1;
	struct rig r;
	struct fg_packet p;

	(void)state;
	assert_non_null(data);
	assert_non_null(back);
	for (size_t i = 0; i < len; i++)
		data[i] = (uint8_t)fg_random(&seed);
	rig_init(&r);
	rig_open(&r);
	r.g.buf_alloc = 20000;
	assert_int_equal(agent_invoke(r.a, data, len, 60 * RIG_SECOND, rig_done,
				 &r.seen),
		0);
	/* the ping's bytes were read too */
	r.g.fwd_cnt = r.a ? 10 : 0;
	while (got < len) {
		if (!fg_recv(&r.g, &p)) {
			fg_send(&r.g, VSOCK_OP_CREDIT_UPDATE, AGENT_VSOCK_PORT,
				r.port, 0, NULL, 0);
			assert_true(fg_recv(&r.g, &p));
		}
		if (p.h.op != VSOCK_OP_RW)
			continue;
		assert_true(got + p.h.len <= len + 64);
		memcpy(back + got, p.data, p.h.len);
		got += p.h.len;
		r.g.fwd_cnt += p.h.len;
	}
	assert_memory_equal(back + (got - len), data, len);

	rig_answer(&r, head, sizeof(head));
	while (sent < len) {
		size_t n = len - sent < 60000 ? len - sent : 60000;

		rig_answer(&r, data + sent, n);
		sent += n;
		while (fg_recv(&r.g, &p))
			assert_int_equal(p.h.op, VSOCK_OP_CREDIT_UPDATE);
	}
	assert_int_equal(r.seen.calls, 1);
	assert_int_equal(r.seen.status, 0);
	assert_int_equal(r.seen.len, len);
	assert_int_equal(
		agent_invoke(r.a, data, len + 1, RIG_SECOND, rig_done, &r.seen),
		-EMSGSIZE);
	rig_fini(&r);
	free(data);
	free(back);
}

/* ---- guests that are not ready, silent or gone ---- */

static void sleep_until(uint64_t t)
{
	while (now_ns() < t)
		(void)usleep(200);
}

static void refused_is_tried_again(void **state)
{
	struct rig r;
	struct fg_packet p;

	(void)state;
	rig_init(&r);
	assert_int_equal(agent_ping(r.a, RIG_SECOND, rig_done, &r.seen), 0);
	for (int i = 0; i < 3; i++) {
		fg_expect(&r.g, &p, VSOCK_OP_REQUEST);
		fg_send(&r.g, VSOCK_OP_RST, AGENT_VSOCK_PORT, p.h.src_port, 0,
			NULL, 0);
		assert_int_equal(r.seen.calls, 0);
		fg_expect_none(&r.g);
		assert_true(agent_deadline(r.a) < now_ns() + 6000000);
		sleep_until(agent_deadline(r.a));
		agent_tick(r.a);
	}
	rig_accept(&r, &p);
	fg_expect(&r.g, &p, VSOCK_OP_RW);
	rig_ok(&r, 0);
	assert_int_equal(r.seen.calls, 1);
	assert_int_equal(r.seen.status, 0);
	rig_fini(&r);
}

static void refused_until_the_end(void **state)
{
	struct rig r;
	struct fg_packet p;

	(void)state;
	rig_init(&r);
	assert_int_equal(agent_ping(r.a, 20000000, rig_done, &r.seen), 0);
	while (!r.seen.calls) {
		while (fg_recv(&r.g, &p)) {
			if (p.h.op == VSOCK_OP_REQUEST)
				fg_send(&r.g, VSOCK_OP_RST, AGENT_VSOCK_PORT,
					p.h.src_port, 0, NULL, 0);
		}
		sleep_until(agent_deadline(r.a));
		agent_tick(r.a);
	}
	assert_int_equal(r.seen.status, -ECONNREFUSED);
	assert_int_equal(agent_deadline(r.a), 0);
	rig_fini(&r);
}

static void silence_times_out(void **state)
{
	struct rig r;
	struct fg_packet p;

	(void)state;
	rig_init(&r);
	rig_open(&r);
	assert_int_equal(agent_ping(r.a, 3000000, rig_done, &r.seen), 0);
	assert_true(agent_deadline(r.a) != 0);
	agent_tick(r.a);
	assert_int_equal(r.seen.calls, 0);
	sleep_until(agent_deadline(r.a));
	agent_tick(r.a);
	assert_int_equal(r.seen.calls, 1);
	assert_int_equal(r.seen.status, -ETIMEDOUT);
	/* The late answer is dropped, the stream goes on. */
	memset(&r.seen, 0, sizeof(r.seen));
	rig_ok(&r, 1);
	assert_int_equal(r.seen.calls, 0);
	assert_int_equal(agent_ping(r.a, RIG_SECOND, rig_done, &r.seen), 0);
	while (fg_recv(&r.g, &p))
		assert_int_equal(p.h.op, VSOCK_OP_RW);
	rig_ok(&r, 2);
	assert_int_equal(r.seen.status, 0);
	assert_int_equal(r.seen.calls, 1);
	rig_fini(&r);
}

static void reset_ends_what_was_sent(void **state)
{
	struct rig r;
	struct fg_packet p;

	(void)state;
	rig_init(&r);
	rig_open(&r);
	assert_int_equal(agent_ping(r.a, RIG_SECOND, rig_done, &r.seen), 0);
	fg_expect(&r.g, &p, VSOCK_OP_RW);
	fg_send(&r.g, VSOCK_OP_RST, AGENT_VSOCK_PORT, r.port, 0, NULL, 0);
	assert_int_equal(r.seen.calls, 1);
	assert_int_equal(r.seen.status, -ECONNRESET);
	/* The next call opens a new stream. */
	memset(&r.seen, 0, sizeof(r.seen));
	assert_int_equal(agent_ping(r.a, RIG_SECOND, rig_done, &r.seen), 0);
	rig_accept(&r, &p);
	fg_expect(&r.g, &p, VSOCK_OP_RW);
	rig_ok(&r, 2);
	assert_int_equal(r.seen.status, 0);
	assert_int_equal(r.seen.calls, 1);
	rig_fini(&r);
}

static void restore_makes_a_new_stream(void **state)
{
	struct rig r;
	struct fg_packet p;
	struct err e;

	(void)state;
	rig_init(&r);
	rig_open(&r);
	assert_int_equal(vsock_reset(r.g.v, 9, &e), 0);
	assert_int_equal(agent_ping(r.a, RIG_SECOND, rig_done, &r.seen), 0);
	assert_int_equal(fg_used_idx(&r.g, VSOCK_Q_EVENT), 1);
	rig_accept(&r, &p);
	assert_int_equal(p.h.dst_cid, 9);
	fg_expect(&r.g, &p, VSOCK_OP_RW);
	rig_ok(&r, 1);
	assert_int_equal(r.seen.calls, 1);
	assert_int_equal(r.seen.status, 0);
	rig_fini(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(identity_on_the_wire),
		cmocka_unit_test(identity_of_a_clone),
		cmocka_unit_test(address_must_be_acknowledged),
		cmocka_unit_test(clock_on_the_wire),
		cmocka_unit_test(call_before_the_driver),
		cmocka_unit_test(answers_in_any_order_and_pieces),
		cmocka_unit_test(two_answers_in_one_packet),
		cmocka_unit_test(call_from_a_callback),
		cmocka_unit_test(destroy_from_a_callback),
		cmocka_unit_test(big_payload),
		cmocka_unit_test(refused_is_tried_again),
		cmocka_unit_test(refused_until_the_end),
		cmocka_unit_test(silence_times_out),
		cmocka_unit_test(reset_ends_what_was_sent),
		cmocka_unit_test(restore_makes_a_new_stream),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
