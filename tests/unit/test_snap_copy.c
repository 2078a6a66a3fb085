/* Chains compared, merged and converted, and what a file says from outside. */
#include "tests/unit/snap_fake.h"
#include "tests/unit/test.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define GAP_PAGE 0x123

/* A full snapshot and a diff that changes two pages, zeroes one and moves the
 * clock. */
struct pair {
	int fd[2]; /* newest first */
	struct snap *s[2];
	struct snap_written w[2];
};

static void pair_make(struct pair *p)
{
	struct snap_write_opts o = {.labels_json = "{\"team\": \"blue\"}"};
	uint64_t pages[1024 / 64] = {0};
	struct snap_parent parent = {.path = "full.thaw"};
	struct err e = {0};
	struct machine m;

	fake_machine(&m, 4 * MIB, MEM_PRIVATE);
	fake_page(&m, 0x1000);
	fake_page(&m, 0x3000);
	fake_page(&m, 0x104000);
	p->fd[0] = fake_file();
	p->fd[1] = fake_file();
	assert_int_equal(snap_write(&m, p->fd[1], &o, &p->w[1], &e), 0);
	parent.uuid = p->w[1].uuid;
	memcpy(parent.digest, p->w[1].digest, 16);
	o.parent = &parent;
	fake_page(&m, GAP_PAGE * 0x1000);
	memset(m.mem.map + 0x3000, 7, 4096);
	memset(m.mem.map + 0x104000, 0, 4096);
	pages[0] = 1 << 3;
	pages[0x104 / 64] |= 1ULL << 0x104 % 64;
	pages[GAP_PAGE / 64] |= 1ULL << GAP_PAGE % 64;
	o.pages = pages;
	m.saved.clock_ns++;
	assert_int_equal(snap_write(&m, p->fd[0], &o, &p->w[0], &e), 0);
	machine_destroy(&m);
	if (snap_open_chain(p->fd, 2, p->s, &e))
		fail_msg("%s", e.msg);
}

static void pair_free(struct pair *p)
{
	snap_close_chain(p->s, 2);
	close(p->fd[0]);
	close(p->fd[1]);
}

struct answer {
	msgpack_sbuffer buf;
	msgpack_unpacked msg;
	bool same;
};

static const msgpack_object *compare(
	struct answer *a, struct snap *x, struct snap *y)
{
	struct err e = {0};
	msgpack_packer p;

	msgpack_sbuffer_init(&a->buf);
	msgpack_packer_init(&p, &a->buf, msgpack_sbuffer_write);
	if (snap_compare(x, y, &p, &a->same, &e) ||
		mp_unpack(a->buf.data, a->buf.size, &mp_default_limits, &a->msg,
			&e))
		fail_msg("%s", e.msg);
	return &a->msg.data;
}

static void answer_free(struct answer *a)
{
	msgpack_unpacked_destroy(&a->msg);
	msgpack_sbuffer_destroy(&a->buf);
}

static uint64_t number(const msgpack_object *o, const char *key)
{
	o = mp_get(o, key);
	assert_non_null(o);
	assert_int_equal(o->type, MSGPACK_OBJECT_POSITIVE_INTEGER);
	return o->via.u64;
}

static void test_compare(void **state)
{
	static const uint64_t gpas[] = {0x3000, 0x104000, GAP_PAGE * 0x1000};
	const msgpack_object *o, *list;
	struct answer a;
	struct pair p;

	(void)state;
	pair_make(&p);
	(void)compare(&a, p.s[0], p.s[0]);
	assert_true(a.same);
	answer_free(&a);

	o = compare(&a, p.s[1], p.s[0]);
	assert_false(a.same);
	assert_int_equal(number(o, "pages"), 3);
	list = mp_get(o, "ranges");
	assert_int_equal(list->via.array.size, 3);
	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(
			number(&list->via.array.ptr[i], "gpa"), gpas[i]);
	list = mp_get(o, "state");
	assert_int_equal(list->via.array.size, 1);
	o = &list->via.array.ptr[0];
	assert_true(mp_str_eq(mp_get(o, "field"), "machine.clock_ns"));
	assert_int_equal(number(o, "b"), number(o, "a") + 1);
	answer_free(&a);
	pair_free(&p);
}

/* A copy has the same content and a new uuid; a converted diff stays one. */
static void copied(struct pair *p, bool merge, int level)
{
	struct snap_rewrite_opts o = {.keep_diff = !merge, .zstd_level = level};
	int fd[2] = {fake_file(), p->fd[1]};
	struct snap *s[2] = {NULL, NULL};
	struct snap_written w = {0};
	struct snap_verified v = {0};
	struct err e = {0};
	struct answer a;

	if (snap_rewrite(p->s[0], fd[0], &o, &w, &e) ||
		snap_verify_fd(fd[0], &v, NULL, NULL, &e) ||
		snap_open_chain(fd, merge ? 1 : 2, s, &e))
		fail_msg("%s", e.msg);
	assert_memory_not_equal(&w.uuid, &p->w[0].uuid, 16);
	assert_int_equal(v.pages_present, merge ? 3 : 2);
	(void)compare(&a, s[0], p->s[0]);
	assert_true(a.same);
	answer_free(&a);
	snap_close_chain(s, merge ? 1 : 2);
	close(fd[0]);
}

static void test_copy(void **state)
{
	struct pair p;

	(void)state;
	pair_make(&p);
	copied(&p, true, 0);
	copied(&p, false, 0);
	copied(&p, true, 3);
	copied(&p, false, 3);
	pair_free(&p);
}

/* Sections that nobody knows, of any length: compared byte by byte, copied. */
static void unknown(uint64_t length)
{
	int fd[3] = {fake_unknown(length, 0xc1), fake_unknown(length, 0xc2),
		fake_file()};
	struct snap_rewrite_opts o = {.zstd_level = 0};
	struct snap_verified v;
	struct snap_written w;
	struct snap *s[3] = {NULL};
	struct err e = {0};
	struct answer a;

	for (unsigned i = 0; i < 2; i++) {
		if (snap_verify_fd(fd[i], &v, NULL, NULL, &e) ||
			snap_open(fd[i], &s[i], &e))
			fail_msg("%s", e.msg);
	}
	(void)compare(&a, s[0], s[1]);
	assert_int_equal(mp_get(&a.msg.data, "state")->via.array.size, 1);
	answer_free(&a);
	if (snap_rewrite(s[0], fd[2], &o, &w, &e) ||
		snap_verify_fd(fd[2], &v, NULL, NULL, &e) ||
		snap_open(fd[2], &s[2], &e))
		fail_msg("%s", e.msg);
	(void)compare(&a, s[0], s[2]);
	assert_true(a.same);
	answer_free(&a);
	/* damage is not copied under a new checksum */
	assert_int_equal(pwrite_full(fd[0], "x", 1, w.file_bytes - 9), 0);
	assert_int_equal(ftruncate(fd[2], 0), 0);
	assert_int_equal(snap_rewrite(s[0], fd[2], &o, &w, &e), -EBADMSG);
	for (unsigned i = 0; i < 3; i++) {
		snap_close(s[i]);
		close(fd[i]);
	}
}

static void test_unknown(void **state)
{
	(void)state;
	unknown(4096);
	unknown(17 * MIB);
}

static void test_peek(void **state)
{
	struct snap_peeked is;
	struct err e = {0};
	struct pair p;

	(void)state;
	pair_make(&p);
	assert_int_equal(snap_peek(p.fd[0], &is, &e), 0);
	assert_true(is.diff);
	assert_memory_equal(&is.uuid, &p.w[0].uuid, 16);
	assert_memory_equal(is.digest, p.w[0].digest, 16);
	assert_memory_equal(&is.parent_uuid, &p.w[1].uuid, 16);
	assert_memory_equal(is.parent_digest, p.w[1].digest, 16);
	assert_string_equal(is.parent_path, "full.thaw");
	assert_int_equal(snap_peek(p.fd[1], &is, &e), 0);
	assert_false(is.diff);
	assert_int_equal(pwrite_full(p.fd[1], "x", 1, 100), 0);
	assert_int_equal(snap_peek(p.fd[1], &is, &e), -EBADMSG);
	pair_free(&p);
}

/* A chain is opened whole or not at all. */
static void test_open_chain(void **state)
{
	struct err e = {0};
	struct snap *s[2];
	struct pair p;
	int wrong[2];

	(void)state;
	pair_make(&p);
	assert_int_equal(snap_open_chain(p.fd, 1, s, &e), -ENOENT);
	wrong[0] = wrong[1] = p.fd[0];
	assert_int_equal(snap_open_chain(wrong, 2, s, &e), -ESTALE);
	assert_null(s[0]);
	assert_null(s[1]);
	pair_free(&p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_compare),
		cmocka_unit_test(test_copy),
		cmocka_unit_test(test_unknown),
		cmocka_unit_test(test_peek),
		cmocka_unit_test(test_open_chain),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
