/* mp_check(): limits, lengths, truncation; agreement with msgpack-c. */
#include "tests/unit/test.h"
#include "core/mp.h"

#include <errno.h>
#include <string.h>

static int64_t check(const char *bytes, size_t len, uint64_t max_len)
{
	return mp_check(bytes, len, max_len, &mp_default_limits);
}
#define CHECK(lit, max) check("" lit, sizeof(lit) - 1, max)

static void test_values(void **state)
{
	(void)state;
	assert_int_equal(CHECK("\x05", 100), 1);
	assert_int_equal(CHECK("\xff", 100), 1);
	assert_int_equal(CHECK("\xc0", 100), 1);
	assert_int_equal(CHECK("\xa3"
			       "abc",
				 100),
		4);
	assert_int_equal(CHECK("\xcf"
			       "12345678"
			       "rest",
				 100),
		9);
	assert_int_equal(CHECK("\xd8"
			       "t0123456789abcdef",
				 100),
		18);
	assert_int_equal(CHECK("\xc7\x02"
			       "tab",
				 100),
		5);
	assert_int_equal(CHECK("\x80", 100), 1);
	assert_int_equal(CHECK("\x82\x01\x02\x03\x90", 100), 5);
	assert_int_equal(CHECK("\xdc\x00\x02\x01\x02", 100), 5);
	assert_int_equal(CHECK("\xc1", 100), -EBADMSG);
	assert_int_equal(CHECK("\x92\x01\xc1", 100), -EBADMSG);
	assert_int_equal(CHECK("", 100), 0);
	assert_int_equal(CHECK("", 0), -E2BIG);
}

/* What a message promises is judged before it has arrived. */
static void test_promises(void **state)
{
	(void)state;
	assert_int_equal(CHECK("\xc6\x00\x00\x10\x00", 4096), -E2BIG);
	assert_int_equal(CHECK("\xc6\x00\x00\x10\x00", 4096 + 5), 0);
	assert_int_equal(CHECK("\xdb\xff\xff\xff\xff", 1 << 20), -E2BIG);
	assert_int_equal(CHECK("\xc9\xff\xff\xff\xff", 1 << 20), -E2BIG);
	assert_int_equal(CHECK("\xdc\x10\x00", 4096), -E2BIG);
	assert_int_equal(CHECK("\xdc\x10\x00", 4096 + 3), 0);
	assert_int_equal(CHECK("\xde\x08\x00", 4096), -E2BIG);
	assert_int_equal(CHECK("\xdd\xff\xff\xff\xff", 1 << 20), -EBADMSG);
	assert_int_equal(CHECK("\xdf\xff\xff\xff\xff", 1 << 20), -EBADMSG);
	assert_int_equal(CHECK("\xcf", 5), -E2BIG);
	assert_int_equal(CHECK("\xce\x01", 2), -E2BIG);
	assert_int_equal(CHECK("\xdd\x00", 4), -E2BIG);
	/* a later sibling counts too: 1 + 4 bytes, then 3 values owed */
	assert_int_equal(CHECK("\x94\xa3"
			       "abc",
				 7),
		-E2BIG);
	assert_int_equal(CHECK("\x94\xa3"
			       "abc",
				 8),
		0);
}

static void test_depth(void **state)
{
	struct mp_limits lim = {.max_depth = 32, .max_elements = 1000};
	msgpack_unpacked msg;
	uint8_t buf[100];
	struct err e;

	(void)state;
	memset(buf, 0x91, sizeof(buf));
	buf[16] = 0xc0;
	assert_int_equal(mp_check(buf, 100, 100, &mp_default_limits), 17);
	buf[16] = 0x90;
	assert_int_equal(mp_check(buf, 100, 100, &mp_default_limits), -EBADMSG);
	buf[16] = 0x91;
	assert_int_equal(mp_check(buf, 100, 100, &mp_default_limits), -EBADMSG);

	/* as deep as msgpack-c's own stack, whatever the caller allows */
	buf[32] = 0x01;
	assert_int_equal(mp_unpack(buf, 33, &lim, &msg, &e), 0);
	msgpack_unpacked_destroy(&msg);
	lim.max_depth = 1000;
	buf[32] = 0x91;
	buf[33] = 0x01;
	assert_int_equal(mp_check(buf, 100, 100, &lim), -EBADMSG);
}

static void test_elements(void **state)
{
	struct mp_limits lim = {.max_depth = 4, .max_elements = 4};

	(void)state;
	assert_int_equal(mp_check("\x93\x01\x02\x03", 4, 99, &lim), 4);
	assert_int_equal(
		mp_check("\x94\x01\x02\x03\x04", 5, 99, &lim), -EBADMSG);
	assert_int_equal(mp_check("\x91\x92\x01\x02", 4, 99, &lim), 4);
	assert_int_equal(mp_check("\x91\x93\x01\x02", 4, 99, &lim), -EBADMSG);
	assert_int_equal(mp_check("\x81\x01\x91\x02", 4, 99, &lim), 4);
	lim.max_elements = 0;
	assert_int_equal(mp_check("\x01", 1, 99, &lim), -EBADMSG);
}

static void pack_sample(msgpack_sbuffer *buf)
{
	msgpack_packer p;

	msgpack_sbuffer_init(buf);
	msgpack_packer_init(&p, buf, msgpack_sbuffer_write);
	msgpack_pack_map(&p, 5);
	mp_key_u64(&p, "n", 1ULL << 40);
	mp_key_str(&p, "s", "text");
	mp_key_bool(&p, "yes", true);
	mp_str(&p, "bin");
	mp_bin(&p, "\0\1\2", 3);
	mp_str(&p, "list");
	msgpack_pack_array(&p, 2);
	msgpack_pack_nil(&p);
	msgpack_pack_double(&p, 1.5);
}

static void test_truncation(void **state)
{
	msgpack_unpacked msg;
	msgpack_sbuffer buf;
	struct err e = {0};

	(void)state;
	pack_sample(&buf);
	for (size_t n = 0; n < buf.size; n++) {
		assert_int_equal(check(buf.data, n, 1000), 0);
		assert_int_equal(
			mp_unpack(buf.data, n, &mp_default_limits, &msg, &e),
			-EBADMSG);
		msgpack_unpacked_destroy(&msg);
	}
	assert_int_equal(check(buf.data, buf.size, buf.size), buf.size);
	for (size_t max = 0; max < buf.size; max++)
		assert_int_equal(check(buf.data, buf.size, max), -E2BIG);
	msgpack_sbuffer_destroy(&buf);
}

static void test_unpack(void **state)
{
	msgpack_unpacked msg;
	const msgpack_object *o;
	msgpack_sbuffer buf;
	struct err e = {0};

	(void)state;
	pack_sample(&buf);
	assert_int_equal(
		mp_unpack(buf.data, buf.size, &mp_default_limits, &msg, &e), 0);
	o = mp_get(&msg.data, "n");
	assert_non_null(o);
	assert_int_equal(o->via.u64, 1ULL << 40);
	assert_true(mp_str_eq(mp_get(&msg.data, "s"), "text"));
	assert_false(mp_str_eq(mp_get(&msg.data, "s"), "tex"));
	assert_false(mp_str_eq(mp_get(&msg.data, "s"), "text2"));
	assert_null(mp_get(&msg.data, "none"));
	assert_null(mp_get(o, "n"));
	assert_null(mp_get(NULL, "n"));
	o = mp_get(&msg.data, "bin");
	assert_true(o->via.bin.ptr > buf.data &&
		    o->via.bin.ptr < buf.data + buf.size);
	msgpack_unpacked_destroy(&msg);

	msgpack_sbuffer_write(&buf, "\x01", 1);
	assert_int_equal(
		mp_unpack(buf.data, buf.size, &mp_default_limits, &msg, &e),
		-EBADMSG);
	assert_string_equal(e.msg, "msgpack: 1 stray bytes at end");
	msgpack_unpacked_destroy(&msg);
	msgpack_sbuffer_destroy(&buf);
}

/* Whatever mp_check() accepts, msgpack-c reads with the same length. */
static void test_agreement(void **state)
{
	uint32_t seed = 1;
	uint8_t buf[24];
	unsigned accepted = 0;

	(void)state;
	for (int round = 0; round < 300000; round++) {
		msgpack_unpacked msg;
		size_t off = 0;
		int64_t n;
		int rc;

		for (size_t i = 0; i < sizeof(buf); i++) {
			seed = seed * 1664525 + 1013904223;
			buf[i] = (uint8_t)(seed >> 24);
			if (i < 4 && seed & 0x800)
				buf[i] |= 0x80;
		}
		n = mp_check(buf, sizeof(buf), sizeof(buf), &mp_default_limits);
		if (n <= 0)
			continue;
		msgpack_unpacked_init(&msg);
		rc = msgpack_unpack_next(
			&msg, (const char *)buf, sizeof(buf), &off);
		assert_true(rc == MSGPACK_UNPACK_SUCCESS ||
			    rc == MSGPACK_UNPACK_EXTRA_BYTES);
		assert_int_equal(off, n);
		msgpack_unpacked_destroy(&msg);
		accepted++;
	}
	assert_true(accepted > 1000);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_values),
		cmocka_unit_test(test_promises),
		cmocka_unit_test(test_depth),
		cmocka_unit_test(test_elements),
		cmocka_unit_test(test_truncation),
		cmocka_unit_test(test_unpack),
		cmocka_unit_test(test_agreement),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
