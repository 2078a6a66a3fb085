/* The guest's msgpack: limits, cuts, agreement with msgpack-c both ways. */
#include "tests/unit/test.h"
#include "core/guest/gmp.h"

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

static int64_t scan(const void *p, size_t n)
{
	/* A copy of exactly n bytes: reading on is a sanitizer error. */
	uint8_t *copy = malloc(n ? n : 1);
	int64_t r;

	memcpy(copy, p, n);
	r = gmp_scan(copy, n, 1u << 20);
	free(copy);
	return r;
}
#define SCAN(lit) scan("" lit, sizeof(lit) - 1)

static void test_lengths(void **state)
{
	(void)state;
	assert_int_equal(SCAN("\x05"), 1);
	assert_int_equal(SCAN("\xff\x01"), 1);
	assert_int_equal(SCAN("\xa3"
			      "abc"),
		4);
	assert_int_equal(SCAN("\xcf"
			      "12345678"
			      "rest"),
		9);
	assert_int_equal(SCAN("\xd8"
			      "t0123456789abcdef"),
		18);
	assert_int_equal(SCAN("\xc7\x02"
			      "tab"),
		5);
	assert_int_equal(SCAN("\x80"), 1);
	assert_int_equal(SCAN("\x82\x01\x02\x03\x90"), 5);
	assert_int_equal(SCAN("\xdc\x00\x02\x01\x02"), 5);
}

static void test_refused(void **state)
{
	uint8_t deep[64];

	(void)state;
	assert_int_equal(SCAN("\xc1"), GMP_MALFORMED);
	assert_int_equal(SCAN("\x91\xc1"), GMP_MALFORMED);
	/* more elements than any request has, and the largest number */
	assert_int_equal(SCAN("\xdc\x10\x00"), GMP_MALFORMED);
	assert_int_equal(SCAN("\xdd\xff\xff\xff\xff"), GMP_MALFORMED);
	assert_int_equal(SCAN("\xdf\xff\xff\xff\xff"), GMP_MALFORMED);
	assert_int_equal(SCAN("\xc6\xff\xff\xff\xff"), GMP_TOO_BIG);
	assert_int_equal(SCAN("\xc6\x00\x10\x00\x00"), GMP_TOO_BIG);
	memset(deep, 0x91, sizeof(deep));
	deep[GMP_MAX_DEPTH] = 1;
	assert_int_equal(scan(deep, sizeof(deep)), GMP_MAX_DEPTH + 1);
	deep[GMP_MAX_DEPTH] = 0x91;
	assert_int_equal(scan(deep, sizeof(deep)), GMP_MALFORMED);
}

static size_t sample(msgpack_sbuffer *b)
{
	msgpack_packer p;
	static const char text[300] = "text";

	msgpack_sbuffer_init(b);
	msgpack_packer_init(&p, b, msgpack_sbuffer_write);
	msgpack_pack_array(&p, 4);
	msgpack_pack_int(&p, 0);
	msgpack_pack_uint64(&p, UINT64_MAX);
	msgpack_pack_str_with_body(&p, text, sizeof(text));
	msgpack_pack_map(&p, 2);
	msgpack_pack_bin_with_body(&p, text, 40);
	msgpack_pack_int64(&p, -70000);
	msgpack_pack_double(&p, 1.5);
	msgpack_pack_array(&p, 0);
	return b->size;
}

/* Every cut of a message asks for more, never anything else. */
static void test_cuts(void **state)
{
	msgpack_sbuffer b;
	size_t n = sample(&b);

	(void)state;
	for (size_t i = 0; i < n; i++)
		assert_int_equal(scan(b.data, i), 0);
	assert_int_equal(scan(b.data, n), (int64_t)n);
	msgpack_sbuffer_destroy(&b);
}

static void test_read(void **state)
{
	msgpack_sbuffer b;
	size_t n = sample(&b);
	struct gmp_in in = {(uint8_t *)b.data, (uint8_t *)b.data + n};
	struct gmp_obj o;

	(void)state;
	assert_true(gmp_next(&in, &o));
	assert_int_equal(o.type, GMP_ARRAY);
	assert_int_equal(o.n, 4);
	assert_true(gmp_next(&in, &o));
	assert_int_equal(o.type, GMP_UINT);
	assert_true(gmp_next(&in, &o));
	assert_true(o.type == GMP_UINT && o.n == UINT64_MAX);
	assert_true(gmp_next(&in, &o));
	assert_true(o.type == GMP_STR && o.n == 300);
	assert_memory_equal(o.p, "text", 5);
	assert_true(gmp_next(&in, &o));
	assert_true(o.type == GMP_MAP && o.n == 2);
	assert_true(gmp_skip(&in));
	assert_true(gmp_next(&in, &o));
	assert_true(o.type == GMP_INT && (int64_t)o.n == -70000);
	assert_true(gmp_next(&in, &o));
	assert_int_equal(o.type, GMP_FLOAT);
	assert_true(gmp_skip(&in));
	assert_false(gmp_next(&in, &o));
	assert_false(gmp_skip(&in));
	msgpack_sbuffer_destroy(&b);
}

/* Random bytes: gmp_scan() and msgpack-c agree on where an object ends. */
static void test_random(void **state)
{
	unsigned agreed = 0;

	(void)state;
	for (int i = 0; i < 200000; i++) {
		uint8_t bytes[24];
		size_t n = 1 + rnd() % sizeof(bytes), off = 0;
		msgpack_unpacked u;
		int64_t r;

		for (size_t k = 0; k < n; k++)
			bytes[k] = (uint8_t)rnd();
		r = scan(bytes, n);
		/* msgpack-c allocates what a header claims: only what the
		 * scan lets through may reach it */
		if (r <= 0)
			continue;
		msgpack_unpacked_init(&u);
		assert_int_equal(
			msgpack_unpack_next(&u, (const char *)bytes, n, &off),
			MSGPACK_UNPACK_SUCCESS);
		assert_int_equal(off, r);
		msgpack_unpacked_destroy(&u);
		agreed++;
	}
	assert_true(agreed > 10000);
}

static void test_write(void **state)
{
	static const uint64_t numbers[] = {
		0, 127, 128, 255, 256, 65535, 65536, UINT32_MAX, UINT64_MAX};
	uint8_t buf[256], data[40] = "data";
	struct gmp_out o = {.p = buf, .cap = sizeof(buf)};
	msgpack_unpacked u;

	(void)state;
	gmp_put_array(&o, 4);
	gmp_put_nil(&o);
	gmp_put_map(&o, 1);
	gmp_put_cstr(&o, "a string that is longer than 31 bytes");
	gmp_put_bin(&o, data, sizeof(data));
	gmp_put_array16(&o, 9);
	for (int i = 0; i < 9; i++)
		gmp_put_uint(&o, numbers[i]);
	gmp_put_cstr(&o, "end");
	assert_false(o.overflow);
	msgpack_unpacked_init(&u);
	assert_int_equal(msgpack_unpack_next(&u, (const char *)buf, o.n, NULL),
		MSGPACK_UNPACK_SUCCESS);
	assert_int_equal(u.data.via.array.size, 4);
	assert_int_equal(u.data.via.array.ptr[0].type, MSGPACK_OBJECT_NIL);
	assert_int_equal(
		u.data.via.array.ptr[1].via.map.ptr[0].key.via.str.size, 37);
	assert_int_equal(
		u.data.via.array.ptr[1].via.map.ptr[0].val.via.bin.size, 40);
	for (int i = 0; i < 9; i++)
		assert_true(u.data.via.array.ptr[2].via.array.ptr[i].via.u64 ==
			    numbers[i]);
	msgpack_unpacked_destroy(&u);
}

static void test_overflow(void **state)
{
	uint8_t buf[8];
	struct gmp_out o = {.p = buf, .cap = 4};

	(void)state;
	memset(buf, 0x55, sizeof(buf));
	gmp_put_cstr(&o, "abcd");
	assert_true(o.overflow);
	gmp_put_uint(&o, UINT32_MAX);
	assert_true(o.n <= 4);
	assert_int_equal(buf[4], 0x55);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_lengths),
		cmocka_unit_test(test_refused),
		cmocka_unit_test(test_cuts),
		cmocka_unit_test(test_read),
		cmocka_unit_test(test_random),
		cmocka_unit_test(test_write),
		cmocka_unit_test(test_overflow),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
