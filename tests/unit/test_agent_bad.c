/* The agent client against hostile answers. */
#include "tests/unit/test.h"
#include "tests/unit/agent_rig.h"

#include <errno.h>
#include <string.h>

/* ---- hostile guests ---- */

static void error_of_the_agent(void **state)
{
	static const uint8_t map[] = {0x94, 1, 1, 0x82, 0xa4, 'c', 'o', 'd',
		'e', 0xa1, 'x', 0xa7, 'm', 'e', 's', 's', 'a', 'g', 'e', 0xa5,
		'b', '\n', 0x1b, 0xff, 'd', 0xc0};
	static const uint8_t nothing[] = {0x94, 1, 2, 0xc3, 0xc0};
	struct rig r;

	(void)state;
	rig_init(&r);
	rig_open(&r);
	assert_int_equal(agent_ping(r.a, RIG_SECOND, rig_done, &r.seen), 0);
	rig_answer(&r, map, sizeof(map));
	assert_int_equal(r.seen.status, -EREMOTEIO);
	assert_string_equal(r.seen.text, "the agent in the guest says: b???d");
	assert_int_equal(r.seen.code, 'x');
	assert_int_equal(agent_ping(r.a, RIG_SECOND, rig_done, &r.seen), 0);
	rig_answer(&r, nothing, sizeof(nothing));
	assert_int_equal(r.seen.status, -EREMOTEIO);
	assert_int_equal(r.seen.calls, 2);
	rig_fini(&r);
}

struct bad {
	const char *name;
	uint8_t len;
	uint8_t bytes[24];
};

static void lies_end_the_stream(void **state)
{
	static const struct bad bad[] = {
		{"0xc1 is no msgpack", 1, {0xc1}},
		{"not an array", 1, {0xc3}},
		{"array of three", 4, {0x93, 1, 1, 0xc0}},
		{"array of five", 6, {0x95, 1, 1, 0xc0, 0xc0, 0xc0}},
		{"a request", 5, {0x94, 0, 1, 0xa0, 0x90}},
		{"a notification", 4, {0x93, 2, 0xa0, 0x90}},
		{"an id never used", 5, {0x94, 1, 2, 0xc0, 0xc0}},
		{"a huge id", 13,
			{0x94, 1, 0xcf, 255, 255, 255, 255, 255, 255, 255, 255,
				0xc0, 0xc0}},
		{"a negative id", 5, {0x94, 1, 0xff, 0xc0, 0xc0}},
		{"an id that is text", 5, {0x94, 1, 0xa0, 0xc0, 0xc0}},
		{"four billion elements", 5, {0xdd, 255, 255, 255, 255}},
		{"four billion pairs", 5, {0xdf, 255, 255, 255, 255}},
		{"four billion bytes", 9,
			{0x94, 1, 1, 0xc0, 0xc6, 255, 255, 255, 255}},
		{"deep", 20,
			{0x94, 1, 1, 0xc0, 0x91, 0x91, 0x91, 0x91, 0x91, 0x91,
				0x91, 0x91, 0x91, 0x91, 0x91, 0x91, 0x91, 0x91,
				0x91, 0x91}},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct rig r;
		struct fg_packet p;

		rig_init(&r);
		rig_open(&r);
		assert_int_equal(
			agent_ping(r.a, RIG_SECOND, rig_done, &r.seen), 0);
		fg_expect(&r.g, &p, VSOCK_OP_RW);
		rig_answer(&r, bad[i].bytes, bad[i].len);
		if (r.seen.calls != 1 || r.seen.status != -EBADMSG)
			fail_msg("%s: %d calls, status %d", bad[i].name,
				r.seen.calls, r.seen.status);
		fg_expect(&r.g, &p, VSOCK_OP_RST);
		/* and the next call starts anew */
		assert_int_equal(
			agent_ping(r.a, RIG_SECOND, rig_done, &r.seen), 0);
		fg_expect(&r.g, &p, VSOCK_OP_REQUEST);
		rig_fini(&r);
	}
}

static void truncated_then_closed(void **state)
{
	static const uint8_t half[] = {
		0x94, 1, 1, 0xc0, 0xc6, 0, 0x10, 0, 0, 'x'};
	struct rig r;

	(void)state;
	rig_init(&r);
	rig_open(&r);
	assert_int_equal(agent_ping(r.a, RIG_SECOND, rig_done, &r.seen), 0);
	rig_answer(&r, half, sizeof(half));
	assert_int_equal(r.seen.calls, 0);
	fg_send(&r.g, VSOCK_OP_SHUTDOWN, AGENT_VSOCK_PORT, r.port,
		VSOCK_SHUT_BOTH, NULL, 0);
	assert_int_equal(r.seen.calls, 1);
	assert_int_equal(r.seen.status, -ECONNRESET);
	rig_fini(&r);
}

/* A callback that calls again whenever it fails must not keep us for ever. */
static void again_after_an_error(void **state)
{
	struct rig r;
	struct fg_packet p;

	(void)state;
	rig_init(&r);
	rig_open(&r);
	r.seen.again = r.a;
	assert_int_equal(agent_ping(r.a, RIG_SECOND, rig_done, &r.seen), 0);
	fg_expect(&r.g, &p, VSOCK_OP_RW);
	rig_answer(&r, "\xc1", 1);
	assert_int_equal(r.seen.calls, 1);
	fg_expect(&r.g, &p, VSOCK_OP_RST);
	fg_expect(&r.g, &p, VSOCK_OP_REQUEST);
	rig_fini(&r);
}

/* Random bytes and mutated answers; bounded in every respect. */
static void noise(void **state)
{
	static const uint8_t good[] = {0x94, 1, 1, 0xc0, 0x82, 0xa7, 'p', 'a',
		'y', 'l', 'o', 'a', 'd', 0xc4, 2, 'h', 'i', 0xa1, 'n', 0x92, 1,
		0xcd, 1, 2};

	(void)state;
	for (uint32_t round = 1; round <= 400; round++) {
		uint32_t seed = round * 2654435761u;
		uint8_t bytes[sizeof(good)];
		struct rig r;

		rig_init(&r);
		rig_open(&r);
		assert_int_equal(
			agent_ping(r.a, RIG_SECOND, rig_done, &r.seen), 0);
		memcpy(bytes, good, sizeof(good));
		for (unsigned i = fg_random(&seed) % 4; i; i--)
			bytes[fg_random(&seed) % sizeof(bytes)] =
				(uint8_t)fg_random(&seed);
		for (unsigned i = 0; i < sizeof(bytes) && r.port; i += 6)
			rig_answer(&r, bytes + i, 6);
		if (r.seen.calls > 1)
			fail_msg("seed %u: %d calls", round, r.seen.calls);
		rig_fini(&r);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(error_of_the_agent),
		cmocka_unit_test(lies_end_the_stream),
		cmocka_unit_test(truncated_then_closed),
		cmocka_unit_test(again_after_an_error),
		cmocka_unit_test(noise),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
