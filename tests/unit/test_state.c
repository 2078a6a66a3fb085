/* State tables: the wire bytes, every kind of field, every refusal. */
#include "tests/unit/test.h"
#include "tests/unit/state_generic.h"

#include <errno.h>
#include <string.h>

struct queue {
	uint64_t desc;
	uint16_t size;
	uint8_t ready;
	uint8_t reserved[5];
};

struct toy {
	uint32_t a;
	uint8_t mac[6];
	uint16_t late;
	uint32_t blob_len;
	struct queue vq[2];
	uint8_t blob[8];
	uint32_t arr[4];
};

static int queue_check(const void *state, struct err *e)
{
	const struct queue *q = state;

	if (q->size & (q->size - 1))
		return err_set(
			e, -EBADMSG, "size %u is no power of two", q->size);
	return 0;
}

static const struct st_field queue_fields[] = {
	ST_U(struct queue, desc, 1),
	ST_UDEF(struct queue, size, 1, 256),
	ST_U(struct queue, ready, 1),
	ST_ARR(struct queue, reserved, 1),
};
static const struct st_desc queue_desc = {
	.name = "queue",
	.size = sizeof(struct queue),
	.version = 1,
	.nfields = ARRAY_SIZE(queue_fields),
	.fields = queue_fields,
	.check = queue_check,
};

static const struct st_field toy_fields[] = {
	ST_U(struct toy, a, 1),
	ST_RAW(struct toy, mac, 1),
	ST_UDEF(struct toy, late, 2, 7),
	ST_SUBS(struct toy, vq, &queue_desc, 2, 1),
	ST_VAR(struct toy, blob, blob_len, 1),
	ST_ARR(struct toy, arr, 1),
};
static const struct st_desc toy_desc = {
	.name = "toy",
	.size = sizeof(struct toy),
	.version = 2,
	.nfields = ARRAY_SIZE(toy_fields),
	.fields = toy_fields,
};

static const struct toy sample = {
	.a = 0x12345678,
	.mac = {1, 2, 3, 4, 5, 6},
	.late = 300,
	.vq = {{.desc = 1ULL << 40, .size = 16, .ready = 1}, {.size = 0}},
	.blob_len = 2,
	.blob = {0xaa, 0xbb},
	.arr = {1, 2, 65536, 0},
};

/* The wire, byte by byte: changing this breaks every file in the world. */
static const uint8_t sample_wire[] = {0x87, 0xa1, 'v', 2, 0xa1, 'a', 0xce, 0x12,
	0x34, 0x56, 0x78, 0xa3, 'm', 'a', 'c', 0xc4, 6, 1, 2, 3, 4, 5, 6, 0xa4,
	'l', 'a', 't', 'e', 0xcd, 1, 0x2c, 0xa2, 'v', 'q', 0x92, 0x85, 0xa1,
	'v', 1, 0xa4, 'd', 'e', 's', 'c', 0xcf, 0, 0, 1, 0, 0, 0, 0, 0, 0xa4,
	's', 'i', 'z', 'e', 16, 0xa5, 'r', 'e', 'a', 'd', 'y', 1, 0xa8, 'r',
	'e', 's', 'e', 'r', 'v', 'e', 'd', 0x95, 0, 0, 0, 0, 0, 0x85, 0xa1, 'v',
	1, 0xa4, 'd', 'e', 's', 'c', 0, 0xa4, 's', 'i', 'z', 'e', 0, 0xa5, 'r',
	'e', 'a', 'd', 'y', 0, 0xa8, 'r', 'e', 's', 'e', 'r', 'v', 'e', 'd',
	0x95, 0, 0, 0, 0, 0, 0xa4, 'b', 'l', 'o', 'b', 0xc4, 2, 0xaa, 0xbb,
	0xa3, 'a', 'r', 'r', 0x94, 1, 2, 0xce, 0, 1, 0, 0, 0};

static void test_wire(void **state)
{
	msgpack_sbuffer buf;
	struct toy back;
	struct err e = {0};

	(void)state;
	msgpack_sbuffer_init(&buf);
	assert_int_equal(st_save(&toy_desc, &sample, &buf), 0);
	assert_int_equal(buf.size, sizeof(sample_wire));
	assert_memory_equal(buf.data, sample_wire, buf.size);
	msgpack_sbuffer_destroy(&buf);
	assert_int_equal(
		st_load(&toy_desc, &back, sample_wire, sizeof(sample_wire), &e),
		0);
	assert_memory_equal(&back, &sample, sizeof(back));
}

static void test_generic(void **state)
{
	(void)state;
	st_test_generic(&toy_desc, &sample);
	st_test_generic(&toy_desc, NULL);
	st_test_generic(&queue_desc, NULL);
}

static void test_defaults(void **state)
{
	struct toy t;

	(void)state;
	memset(&t, 0xff, sizeof(t));
	assert_int_equal(st_load(&toy_desc, &t, "\x81\xa1v\x01", 4, NULL), 0);
	assert_int_equal(t.late, 7);
	assert_int_equal(t.vq[0].size, 256);
	assert_int_equal(t.vq[1].size, 256);
	assert_int_equal(t.a, 0);
	assert_int_equal(t.blob_len, 0);
}

static void refused(const char *data, size_t len, const char *why)
{
	struct err e = {0};
	struct toy t;

	assert_int_equal(st_load(&toy_desc, &t, data, len, &e), -EBADMSG);
	assert_int_equal(e.code, -EBADMSG);
	assert_string_equal(e.msg, why);
}
#define REFUSED(lit, why) refused("" lit, sizeof(lit) - 1, why)

static void test_refusals(void **state)
{
	(void)state;
	REFUSED("\x90", "toy: not a map");
	REFUSED("\x80", "toy: v: missing");
	REFUSED("\x81\xa1v\x00", "toy: v: not a version");
	REFUSED("\x81\xa1v\xff", "toy: v: not a version");
	REFUSED("\x81\xa1v\x03", "toy: v: version 3, this thaw reads up to 2");
	REFUSED("\x82\xa1v\x01\xa1v\x01", "toy: v: named twice");
	REFUSED("\x82\xa1v\x01\x05\x05", "toy: a key is not a string");
	REFUSED("\x83\xa1v\x01\xa1"
		"a\x01\xa1"
		"a\x01",
		"toy: a: named twice");
	REFUSED("\x82\xa1v\x01\xa4late\x05",
		"toy: late: is of version 2, the map is of version 1");
	REFUSED("\x82\xa1v\x01\xa1"
		"a\xff",
		"toy: a: not an unsigned integer");
	REFUSED("\x82\xa1v\x01\xa1"
		"a\xcf\0\0\0\1\0\0\0\0",
		"toy: a: 4294967296 does not fit into 32 bits");
	REFUSED("\x82\xa1v\x01\xa3mac\xc4\x01x",
		"toy: mac: 1 bytes, must be 6");
	REFUSED("\x82\xa1v\x01\xa3mac\xa1x", "toy: mac: not binary");
	REFUSED("\x82\xa1v\x01\xa4"
		"blob\xc4\x09"
		"123456789",
		"toy: blob: 9 bytes, at most 8 fit");
	REFUSED("\x82\xa1v\x01\xa3"
		"arr\x92\x01\x02",
		"toy: arr: 2 elements, must be 4");
	REFUSED("\x82\xa1v\x01\xa3"
		"arr\x94\x01\x02\xc0\x01",
		"toy: arr[2]: not an unsigned integer");
	REFUSED("\x82\xa1v\x01\xa2vq\x92\x81\xa1v\x01\x82\xa1v\x01\xa4size\xa0",
		"toy: vq[1].size: not an unsigned integer");
	REFUSED("\x82\xa1v\x01\xa2vq\x92\x81\xa1v\x01\x82\xa1v\x01\xa4size\x03",
		"toy: vq[1]: size 3 is no power of two");
	REFUSED("\x82\xa1v\x01\xa2vq\x92\x81\xa1v\x01\x81\xa1v\x02",
		"toy: vq[1]: v: version 2, this thaw reads up to 1");
	REFUSED("\x81\xa1v", "toy: msgpack: cut short at 3 bytes");
	REFUSED("\x81\xa1v\x01\xc0", "toy: msgpack: 1 stray bytes at end");
}

static void test_unknown_ignored(void **state)
{
	static const char data[] = "\x83\xa1v\x02\xa1x\x92\xc0\x80\xa1"
				   "a\x05";
	struct toy t;

	(void)state;
	assert_int_equal(
		st_load(&toy_desc, &t, data, sizeof(data) - 1, NULL), 0);
	assert_int_equal(t.a, 5);
}

static void test_save_refuses(void **state)
{
	struct toy bad = sample;
	msgpack_sbuffer buf;

	(void)state;
	bad.blob_len = 9;
	msgpack_sbuffer_init(&buf);
	msgpack_sbuffer_write(&buf, "x", 1);
	assert_int_equal(st_save(&toy_desc, &bad, &buf), -EINVAL);
	assert_int_equal(buf.size, 1);
	msgpack_sbuffer_destroy(&buf);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_wire),
		cmocka_unit_test(test_generic),
		cmocka_unit_test(test_defaults),
		cmocka_unit_test(test_refusals),
		cmocka_unit_test(test_unknown_ignored),
		cmocka_unit_test(test_save_refuses),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
