/*
 * The guest's drivers, streams, agent and functions against a device of our
 * own: how messages are cut does not matter, credit is kept and given, nothing
 * that the peer does breaks more than its own stream.
 */
#include "tests/unit/test.h"
#include "tests/unit/guest_device.h"

#include "core/guest/agent.h"
#include "core/guest/heap.h"
#include "core/guest/function.h"

#include <msgpack.h>
#include <stdlib.h>
#include <string.h>

/* Numbers that look random and are the same each time. */
static uint32_t rnd(void)
{
	static uint32_t x = 2463534242; /* global: its state */

	x ^= x << 13;
	x ^= x >> 17;
	x ^= x << 5;
	return x;
}

#define HEAP (64u << 20)

/* global: the guest's heap */
static void *heap_memory;

static int start(void **state)
{
	uint8_t *mem = malloc(HEAP);
	uint64_t size = vsock_memory(HEAP);
	struct fn_ctx fn = {0};

	(void)state;
	dev.ident.tsc_khz = 1000000;
	memset(dev.ident.generation, 0x11, 16);
	heap_memory = mem;
	heap_add((uintptr_t)mem, (uintptr_t)mem + HEAP);
	assert_null(vsock_init(0xd0000000, heap_alloc(size), size));
	return function_init(&fn);
}

static int end(void **state)
{
	(void)state;
	device_reset_streams();
	free(heap_memory);
	return 0;
}

static int fresh(void **state)
{
	(void)state;
	device_reset_streams();
	dev.refused = 0;
	return 0;
}

/* ---- messages ---- */

static void request(msgpack_sbuffer *b, uint32_t id, const char *method,
	const char *key, const void *data, size_t n)
{
	msgpack_packer p;

	msgpack_packer_init(&p, b, msgpack_sbuffer_write);
	msgpack_pack_array(&p, 4);
	msgpack_pack_int(&p, 0);
	msgpack_pack_uint32(&p, id);
	msgpack_pack_str_with_body(&p, method, strlen(method));
	msgpack_pack_array(&p, key ? 1 : 0);
	if (key) {
		msgpack_pack_map(&p, 1);
		msgpack_pack_str_with_body(&p, key, strlen(key));
		msgpack_pack_bin_with_body(&p, data, n);
	}
}

static void invoke(struct peer *p, uint32_t id, const void *payload, size_t n)
{
	msgpack_sbuffer b;

	msgpack_sbuffer_init(&b);
	request(&b, id, "invoke", "payload", payload, n);
	peer_send(p, b.data, b.size);
	msgpack_sbuffer_destroy(&b);
}

static void call(struct peer *p, const char *method)
{
	msgpack_sbuffer b;

	msgpack_sbuffer_init(&b);
	request(&b, 5, method, NULL, NULL, 0);
	peer_send(p, b.data, b.size);
	msgpack_sbuffer_destroy(&b);
}

/* Take the next answer off: the result, or the error. */
static msgpack_object answer(
	struct peer *p, msgpack_unpacked *u, uint32_t id, bool error)
{
	const msgpack_object *o;

	msgpack_unpacked_init(u);
	assert_int_equal(
		msgpack_unpack_next(u, (char *)p->in, p->nin, &p->taken),
		MSGPACK_UNPACK_SUCCESS);
	assert_int_equal(u->data.via.array.size, 4);
	o = u->data.via.array.ptr;
	assert_int_equal(o[0].via.u64, 1);
	assert_int_equal(o[1].via.u64, id);
	assert_int_equal(o[2].type == MSGPACK_OBJECT_NIL, !error);
	return error ? o[2] : o[3];
}

static void expect_payload(
	struct peer *p, uint32_t id, const void *want, size_t n)
{
	msgpack_unpacked u;
	msgpack_object r = answer(p, &u, id, false);

	assert_int_equal(r.via.map.ptr[0].val.via.bin.size, n);
	assert_memory_equal(r.via.map.ptr[0].val.via.bin.ptr, want, n);
	msgpack_unpacked_destroy(&u);
}

static void expect_error(struct peer *p, uint32_t id, const char *code)
{
	msgpack_unpacked u;
	msgpack_object e = answer(p, &u, id, true);
	msgpack_object c = e.via.map.ptr[0].val;

	assert_int_equal(c.via.str.size, strlen(code));
	assert_memory_equal(c.via.str.ptr, code, strlen(code));
	msgpack_unpacked_destroy(&u);
}

static void echo(struct peer *p)
{
	invoke(p, 77, "echo still here", 15);
	guest_serve();
	expect_payload(p, 77, "still here", 10);
}

/* ---- tests ---- */

static void test_methods(void **state)
{
	struct peer *p = peer_open(1024);
	msgpack_unpacked u;
	msgpack_object r;

	(void)state;
	call(p, "ping");
	call(p, "nosuch");
	call(p, "invoke");
	invoke(p, 9, "nosuch", 6);
	invoke(p, 10, "sha256\nabc", 10);
	guest_serve();
	assert_true(p->answered);
	r = answer(p, &u, 5, false);
	assert_memory_equal(r.via.map.ptr[0].val.via.str.ptr, "builtin", 7);
	assert_true(r.via.map.ptr[2].val.via.array.size > 10);
	msgpack_unpacked_destroy(&u);
	expect_error(p, 5, "not_found");
	expect_error(p, 5, "invalid");
	expect_error(p, 9, "not_found");
	expect_payload(p, 10,
		"ba7816bf8f01cfea414140de5dae2223"
		"b00361a396177a9cb410ff61f20015ad",
		64);
	echo(p);
}

static void test_identity(void **state)
{
	static const uint8_t zero[IDENT_SEED_SIZE];
	struct peer *p = peer_open(1024);
	msgpack_sbuffer b;
	msgpack_unpacked u;
	msgpack_object r;

	(void)state;
	memset(dev.ident.seed, 3, sizeof(dev.ident.seed));
	msgpack_sbuffer_init(&b);
	request(&b, 1, "identity", "hostname", "web-1", 5);
	request(&b, 2, "identity", "machine_id", "0123456789abcdef", 16);
	request(&b, 3, "identity", "machine_id", "short", 5);
	request(&b, 4, "identity", "hostname", zero, 64);
	request(&b, 5, "identity", "later", "x", 1);
	peer_send(p, b.data, b.size);
	msgpack_sbuffer_destroy(&b);
	guest_serve();
	r = answer(p, &u, 1, false);
	assert_memory_equal(
		r.via.map.ptr[0].val.via.bin.ptr, dev.ident.generation, 16);
	assert_memory_equal(r.via.map.ptr[1].val.via.str.ptr, "web-1", 5);
	msgpack_unpacked_destroy(&u);
	r = answer(p, &u, 2, false);
	assert_memory_equal(
		r.via.map.ptr[2].val.via.bin.ptr, "0123456789abcdef", 16);
	msgpack_unpacked_destroy(&u);
	expect_error(p, 3, "invalid");
	expect_error(p, 4, "invalid");
	(void)answer(p, &u, 5, false);
	msgpack_unpacked_destroy(&u);
	assert_memory_equal(dev.ident.seed, zero, sizeof(zero));
	assert_string_equal(fn_hostname(), "web-1");
}

/* However the bytes are cut into packets, the answers are the same. */
static void test_cuts(void **state)
{
	char text[1500];

	(void)state;
	memset(text, 'x', sizeof(text));
	memcpy(text, "echo ", 5);
	for (size_t chunk = 1; chunk < 600; chunk += chunk < 60 ? 1 : 37) {
		struct peer *p = peer_open(1024);

		p->chunk = chunk;
		invoke(p, 1, text, 20);
		invoke(p, 2, text, sizeof(text));
		invoke(p, 3, text, 460);
		guest_serve();
		expect_payload(p, 1, text + 5, 15);
		expect_payload(p, 2, text + 5, sizeof(text) - 5);
		expect_payload(p, 3, text + 5, 455);
		assert_int_equal(p->nin, p->taken);
		peer_control(p, OP_RST, 0);
		guest_serve();
		peer_free(p);
	}
}

/* Messages larger than any buffer, from three streams at a time. */
static void test_large(void **state)
{
	const size_t n = 6u << 20;
	uint8_t *text = malloc(n);
	struct peer *p[3];

	(void)state;
	for (size_t i = 0; i < n; i++)
		text[i] = (uint8_t)(i * 31 >> 3);
	memcpy(text, "echo ", 5);
	for (unsigned i = 0; i < 3; i++) {
		p[i] = peer_open(1024);
		invoke(p[i], 1, text, n - i * 1000000);
		invoke(p[i], 2, "echo after", 10);
	}
	guest_serve();
	for (unsigned i = 0; i < 3; i++) {
		expect_payload(p[i], 1, text + 5, n - i * 1000000 - 5);
		expect_payload(p[i], 2, "after", 5);
	}
	free(text);
}

static void test_too_large(void **state)
{
	struct peer *p = peer_open(1024), *q = peer_open(1024);
	const size_t n = (6u << 20) + 5000;
	uint8_t *text = calloc(1, n);

	(void)state;
	invoke(p, 1, text, n);
	guest_serve();
	assert_true(p->shut || p->ended);
	echo(q);
	free(text);
}

static void test_table_full(void **state)
{
	struct peer *p[20];

	(void)state;
	for (unsigned i = 0; i < 20; i++)
		p[i] = peer_open(1024);
	guest_serve();
	for (unsigned i = 0; i < 20; i++) {
		assert_int_equal(p[i]->answered, i < NSTREAMS);
		assert_int_equal(p[i]->ended, i >= NSTREAMS);
	}
	for (unsigned i = 0; i < NSTREAMS; i++)
		echo(p[i]);
	peer_control(p[3], OP_SHUTDOWN, SHUT_RCV | SHUT_SEND);
	guest_serve();
	assert_true(p[3]->ended);
	echo(peer_open(1024));
}

static void test_other_port(void **state)
{
	struct peer *p = peer_open(1025);

	(void)state;
	guest_serve();
	assert_true(p->ended && !p->answered);
}

static void test_not_msgpack(void **state)
{
	struct peer *p = peer_open(1024), *q = peer_open(1024);
	static const uint8_t wrong[] = {0x94, 0x07, 0x01, 0xa1, 'x', 0x90};

	(void)state;
	peer_send(p, "\xc1", 1);
	peer_send(q, wrong, sizeof(wrong));
	guest_serve();
	assert_true(p->shut && q->shut);
	/* [1, nil, {..}, nil] */
	assert_memory_equal(p->in, "\x94\x01\xc0\x82", 4);
	assert_memory_equal(q->in, "\x94\x01\xc0\x82", 4);
	echo(peer_open(1024));
}

/* Half of a message, then all streams are gone, in every stage. */
static void test_reset(void **state)
{
	const size_t n = 2000000;
	uint8_t *text = malloc(n);

	(void)state;
	memset(text, 'y', n);
	memcpy(text, "echo ", 5);
	for (size_t cut = 1; cut < n; cut = cut * 3 + 1) {
		struct peer *p = peer_open(1024);

		invoke(p, 1, text, n);
		p->nout = cut;
		guest_serve();
		assert_int_equal(p->nin, 0);
		device_reset_streams();
		echo(peer_open(1024));
	}
	free(text);
}

/* A peer that never reads loses its stream, and only it. */
static void test_no_reading(void **state)
{
	struct peer *p = peer_open(1024), *q = peer_open(1024);
	uint8_t *text = calloc(1, 1000000);

	(void)state;
	memcpy(text, "echo ", 5);
	p->no_reading = true;
	invoke(p, 1, text, 1000000);
	guest_serve();
	assert_true(p->ended);
	assert_int_equal(p->nin, p->our_alloc);
	echo(q);
	free(text);
}

static void test_credit_broken(void **state)
{
	struct peer *p = peer_open(1024), *q = peer_open(1024);
	uint8_t *text = malloc(4000000);

	(void)state;
	guest_serve();
	/* a message that is not complete, in one piece, for a busy guest:
	 * another one is being put together */
	memset(text, 0, 4000000);
	invoke(q, 1, text, 3000000);
	q->nout = 500000;
	guest_serve();
	p->no_credit = true;
	invoke(p, 1, text, 4000000);
	guest_serve();
	assert_true(p->ended);
	free(text);
	echo(peer_open(1024));
}

static void test_half_close(void **state)
{
	struct peer *p = peer_open(1024);

	(void)state;
	invoke(p, 1, "echo last", 9);
	guest_serve();
	peer_control(p, OP_SHUTDOWN, SHUT_SEND);
	guest_serve();
	expect_payload(p, 1, "last", 4);
	assert_true(p->shut);
}

/* Packets of any kind: nothing breaks, and the agent still answers. */
static void test_random_packets(void **state)
{
	(void)state;
	for (int round = 0; round < 300; round++) {
		struct peer *p = peer_open(1024);

		for (int i = 0; i < 60; i++) {
			struct vsock_hdr h = {
				.src_cid = rnd() % 8 ? HOST_CID : 99,
				.dst_cid = OUR_CID,
				.src_port = p->port - rnd() % 3,
				.dst_port = rnd() % 9 ? 1024 : 7,
				.len = rnd() % 5 ? 0 : rnd(),
				.type = rnd() % 20 ? 1 : 2,
				.op = (uint16_t)(rnd() % 9),
				.flags = rnd() % 4,
				.buf_alloc = rnd(),
				.fwd_cnt = rnd(),
			};

			device_control(&h);
			if (rnd() % 4 == 0)
				guest_serve();
		}
		guest_serve();
		device_reset_streams();
	}
	echo(peer_open(1024));
}

static void test_random_bytes(void **state)
{
	(void)state;
	for (int round = 0; round < 2000; round++) {
		struct peer *p = peer_open(1024);
		uint8_t bytes[64] = {0x94, 0, 1, 0xa6, 'i', 'n', 'v', 'o', 'k',
			'e', 0x91, 0x81, 0xa7};
		size_t n = rnd() % sizeof(bytes);

		for (size_t i = rnd() % 16; i < n; i++)
			bytes[i] = (uint8_t)rnd();
		p->chunk = rnd() % 20;
		peer_send(p, bytes, n);
		guest_serve();
		device_reset_streams();
	}
	echo(peer_open(1024));
}

/* "connect": a stream that the guest opens, and nobody answers. */
static void test_connect_refused(void **state)
{
	struct peer *p = peer_open(1024);

	(void)state;
	dev.requests = 0;
	invoke(p, 1, "connect 80 hello", 16);
	invoke(p, 2, "connect", 7);
	guest_serve();
	expect_error(p, 1, "timeout");
	expect_error(p, 2, "invalid");
	assert_int_equal(dev.requests, 1);
	echo(p);
}

static void test_flood(void **state)
{
	struct peer *p = peer_open(1024);

	(void)state;
	invoke(p, 1, "flood 5000", 10);
	guest_serve();
	expect_payload(p, 1, "flooded 5000 packets", 20);
	echo(p);
}

#define TEST(f) cmocka_unit_test_setup(f, fresh)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_methods),
		TEST(test_identity),
		TEST(test_cuts),
		TEST(test_large),
		TEST(test_too_large),
		TEST(test_table_full),
		TEST(test_other_port),
		TEST(test_not_msgpack),
		TEST(test_reset),
		TEST(test_no_reading),
		TEST(test_credit_broken),
		TEST(test_half_close),
		TEST(test_random_packets),
		TEST(test_random_bytes),
		TEST(test_connect_refused),
		TEST(test_flood),
	};

	return cmocka_run_group_tests(tests, start, end);
}
