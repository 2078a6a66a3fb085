#include "tests/unit/test.h"

#include "api/rpc.h"

#include <errno.h>
#include <string.h>

static const struct mp_limits limits = {.max_depth = 8, .max_elements = 1000};

/* "big" is the method with a payload. */
static uint64_t limit_of(const char *name, size_t len)
{
	return len == 3 && !memcmp(name, "big", 3) ? 200000 : RPC_MAX_REQUEST;
}

struct fixture {
	struct rpc_reader r;
	msgpack_sbuffer out;
	msgpack_packer p;
};

static int set_up(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	rpc_reader_init(&f->r, limit_of, &limits);
	msgpack_sbuffer_init(&f->out);
	msgpack_packer_init(&f->p, &f->out, msgpack_sbuffer_write);
	*state = f;
	return 0;
}

static int tear_down(void **state)
{
	struct fixture *f = *state;

	rpc_reader_fini(&f->r);
	msgpack_sbuffer_destroy(&f->out);
	free(f);
	return 0;
}

static void feed(struct fixture *f, const void *data, size_t n)
{
	const uint8_t *p = data;

	while (n) {
		uint8_t *room = NULL;
		int64_t have = rpc_space(&f->r, &room);
		size_t now;

		assert_true(have > 0);
		now = (size_t)min_u64((uint64_t)have, n);
		memcpy(room, p, now);
		rpc_filled(&f->r, now);
		p += now;
		n -= now;
	}
}

/* A request whose params hold one binary of n bytes. */
static void pack_request(
	struct fixture *f, uint64_t id, const char *method, size_t n)
{
	char *body = calloc(1, n + 1);

	msgpack_pack_array(&f->p, 4);
	msgpack_pack_uint64(&f->p, RPC_REQUEST);
	msgpack_pack_uint64(&f->p, id);
	mp_str(&f->p, method);
	msgpack_pack_array(&f->p, 1);
	mp_bin(&f->p, body, n);
	free(body);
}

static void expect_request(
	struct fixture *f, uint64_t id, const char *method, uint64_t begin)
{
	struct rpc_msg m;

	assert_int_equal(rpc_next(&f->r, &m), 1);
	assert_int_equal(m.kind, RPC_REQUEST);
	assert_int_equal(m.id, id);
	assert_int_equal(m.method_len, strlen(method));
	assert_memory_equal(m.method, method, m.method_len);
	assert_int_equal(m.begin, begin);
	assert_int_equal(m.end - m.begin, m.len);
	assert_memory_equal(m.data, f->out.data + begin, m.len);
}

static void test_byte_by_byte(void **state)
{
	struct fixture *f = *state;
	struct rpc_msg m;
	size_t first;

	pack_request(f, 1, "one", 300);
	first = f->out.size;
	pack_request(f, 70000, "two", 0);
	for (size_t i = 0; i < f->out.size; i++) {
		assert_int_equal(rpc_next(&f->r, &m), 0);
		feed(f, f->out.data + i, 1);
		if (i == first - 1)
			expect_request(f, 1, "one", 0);
	}
	expect_request(f, 70000, "two", first);
	assert_int_equal(rpc_next(&f->r, &m), 0);
	assert_int_equal(rpc_position(&f->r), f->out.size);
}

static void test_many_at_once(void **state)
{
	struct fixture *f = *state;
	struct rpc_msg m;
	uint64_t at = 0;

	for (uint64_t i = 0; i < 100; i++)
		pack_request(f, i, "method", 10);
	feed(f, f->out.data, f->out.size);
	for (uint64_t i = 0; i < 100; i++) {
		expect_request(f, i, "method", at);
		at += f->out.size / 100;
		if (i == 0)
			assert_int_equal(f->out.size % 100, 0);
	}
	assert_int_equal(rpc_next(&f->r, &m), 0);
}

/* Every prefix of a message is a message that is not there yet. */
static void test_truncated(void **state)
{
	struct fixture *f = *state;
	struct rpc_msg m;

	pack_request(f, 5, "method", 40);
	for (size_t n = 0; n < f->out.size; n++) {
		struct rpc_reader keep = f->r;

		rpc_reader_init(&f->r, limit_of, &limits);
		feed(f, f->out.data, n);
		assert_int_equal(rpc_next(&f->r, &m), 0);
		rpc_reader_fini(&f->r);
		f->r = keep;
	}
}

static void expect_too_long(struct fixture *f, uint64_t id, size_t size)
{
	struct rpc_msg m;

	assert_int_equal(rpc_next(&f->r, &m), 1);
	assert_int_equal(m.kind, RPC_TOO_LONG);
	assert_int_equal(m.id, id);
	assert_int_equal(m.end - m.begin, size);
}

/* One byte below, at and above the limit; the stream goes on. */
static void test_limit(void **state)
{
	struct fixture *f = *state;
	size_t size = RPC_MAX_REQUEST, head;

	pack_request(f, 1, "abc", 40000);
	head = f->out.size - 40000;
	msgpack_sbuffer_clear(&f->out);
	pack_request(f, 1, "abc", size - head);
	assert_int_equal(f->out.size, size);
	pack_request(f, 2, "abc", size - head + 1);
	pack_request(f, 3, "abc", 1);
	feed(f, f->out.data, f->out.size);
	expect_request(f, 1, "abc", 0);
	expect_too_long(f, 2, size + 1);
	expect_request(f, 3, "abc", 2 * size + 1);
}

/* What is skipped is not kept. */
static void test_skip_in_pieces(void **state)
{
	struct fixture *f = *state;
	struct rpc_msg m;
	size_t size, piece = 1000;

	pack_request(f, 9, "abc", 3000000);
	size = f->out.size;
	pack_request(f, 10, "big", 150000);
	for (size_t at = 0; at < size; at += piece) {
		feed(f, f->out.data + at, min_u64(piece, size - at));
		if (at + piece < size)
			assert_int_equal(rpc_next(&f->r, &m), 0);
		assert_true(f->r.cap < 200000);
	}
	expect_too_long(f, 9, size);
	feed(f, f->out.data + size, f->out.size - size);
	expect_request(f, 10, "big", size);
}

static void test_long_method_name(void **state)
{
	struct fixture *f = *state;
	char *name = calloc(1, 100001);

	memset(name, 'x', 100000);
	pack_request(f, 4, name, 0);
	feed(f, f->out.data, f->out.size);
	expect_too_long(f, 4, f->out.size);
	free(name);
}

static void test_notifications(void **state)
{
	struct fixture *f = *state;
	struct rpc_msg m;
	size_t before;

	/* A long one vanishes, a short one is given out. */
	msgpack_pack_array(&f->p, 3);
	msgpack_pack_uint64(&f->p, RPC_NOTIFICATION);
	mp_str(&f->p, "note");
	mp_bin(&f->p, "", 0);
	f->out.size -= 2;
	{
		char *body = calloc(1, 100000);

		mp_bin(&f->p, body, 100000);
		free(body);
	}
	rpc_pack_notification(&f->p, "short");
	msgpack_pack_nil(&f->p);
	before = f->out.size;
	pack_request(f, 1, "abc", 0);
	feed(f, f->out.data, f->out.size);
	assert_int_equal(rpc_next(&f->r, &m), 1);
	assert_int_equal(m.kind, RPC_NOTIFICATION);
	assert_memory_equal(m.method, "short", 5);
	expect_request(f, 1, "abc", before);
}

static void expect_bad(const void *data, size_t n)
{
	struct fixture f;
	struct rpc_msg m;

	rpc_reader_init(&f.r, limit_of, &limits);
	feed(&f, data, n);
	assert_int_equal(rpc_next(&f.r, &m), -EBADMSG);
	rpc_reader_fini(&f.r);
}

static void test_malformed(void **state)
{
	static const struct {
		const char *bytes;
		size_t n;
	} bad[] = {
		{"\xc1", 1},                 /* never used in msgpack */
		{"hello", 5},                /* a number, not an array */
		{"\x80", 1},                 /* a map */
		{"\x92\x00\x01", 3},         /* too few */
		{"\x95\x00\x01", 3},         /* too many */
		{"\x94\x05\x01", 3},         /* no such kind */
		{"\x94\x00\xff\xa1m", 5},    /* id -1 */
		{"\x94\x00\xa1x\xa1m", 6},   /* id is a string */
		{"\x94\x00\x01\x05\x90", 5}, /* method is a number */
		{"\x93\x01\x01\xc0", 4},     /* answer with 3 */
		/* promises more values than are allowed */
		{"\x94\x00\x01\xa1m\xdd\xff\xff\xff\xff", 10},
		/* nested too deep */
		{"\x94\x00\x01\xa1m\x91\x91\x91\x91\x91\x91\x91\x91\x90", 14},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		expect_bad(bad[i].bytes, bad[i].n);
}

/* Other legal spellings of the same message. */
static void test_wide_encodings(void **state)
{
	static const char wide[] = "\xdd\x00\x00\x00\x04\xcf\x00\x00\x00\x00"
				   "\x00\x00\x00\x00\xd1\x01\x02\xda\x00\x01m"
				   "\x90";
	struct fixture *f = *state;
	struct rpc_msg m;

	feed(f, wide, sizeof(wide) - 1);
	assert_int_equal(rpc_next(&f->r, &m), 1);
	assert_int_equal(m.id, 0x102);
	assert_int_equal(m.method_len, 1);
	assert_int_equal(m.method[0], 'm');
}

static void test_codes(void **state)
{
	(void)state;
	assert_string_equal(rpc_code(-EINVAL), "invalid");
	assert_string_equal(rpc_code(-ENOSPC), "exhausted");
	assert_string_equal(rpc_code(-EBADMSG), "corrupt");
	assert_string_equal(rpc_code(-ECANCELED), "busy");
	assert_string_equal(rpc_code(-ESTALE), "corrupt");
	assert_string_equal(rpc_code(-EOPNOTSUPP), "unsupported");
	assert_string_equal(rpc_code(-ENOEXEC), "unsupported");
	assert_string_equal(rpc_code(-EIO), "internal");
	assert_string_equal(rpc_code(0), "internal");
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_byte_by_byte),
		TEST(test_many_at_once),
		TEST(test_truncated),
		TEST(test_limit),
		TEST(test_skip_in_pieces),
		TEST(test_long_method_name),
		TEST(test_notifications),
		TEST(test_malformed),
		TEST(test_wide_encodings),
		TEST(test_codes),
	};

	return cmocka_run_group_tests_name("rpc", tests, NULL, NULL);
}
