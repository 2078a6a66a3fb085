/* Diffs and chains: written, attached, loaded, and refused when wrong. */
#include "tests/unit/snap_fake.h"
#include "tests/unit/test.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#define SIZE  (16 * MIB)
#define PAGES (SIZE / PAGE_SIZE_4K)

struct chain {
	struct machine m;
	uint64_t dirty[PAGES / 64];
	int fd[SNAP_MAX_CHAIN + 2];
	struct snap *s[SNAP_MAX_CHAIN + 2];
	struct snap_written w[SNAP_MAX_CHAIN + 2];
	unsigned n;
	uint32_t seed;
};

static uint32_t draw(struct chain *c, uint32_t below)
{
	c->seed = c->seed * 1664525 + 1013904223;
	return (c->seed >> 8) % below;
}

static void change(struct chain *c, uint64_t page, int byte)
{
	c->dirty[page / 64] |= 1ULL << page % 64;
	memset(c->m.mem.map + page * PAGE_SIZE_4K, byte, PAGE_SIZE_4K);
}

/* The next file: full if it is the first. */
static void write_next(struct chain *c)
{
	struct snap_write_opts o = {0};
	struct snap_parent p;
	struct err e = {0};
	unsigned n = c->n;

	if (n) {
		p.uuid = c->w[n - 1].uuid;
		memcpy(p.digest, c->w[n - 1].digest, sizeof(p.digest));
		p.path = "../there/parent.thaw";
		o.parent = &p;
		o.pages = c->dirty;
	}
	c->fd[n] = fake_file();
	if (snap_write(&c->m, c->fd[n], &o, &c->w[n], &e))
		fail_msg("%s", e.msg);
	memset(c->dirty, 0, sizeof(c->dirty));
	c->n++;
}

static void open_all(struct chain *c)
{
	struct err e = {0};

	for (unsigned i = 0; i < c->n; i++) {
		if (snap_open(c->fd[i], &c->s[i], &e))
			fail_msg("%s", e.msg);
		if (i && snap_attach(c->s[i], c->s[i - 1], &e))
			fail_msg("%s", e.msg);
	}
}

static void close_all(struct chain *c)
{
	for (unsigned i = 0; i < c->n; i++)
		snap_close(c->s[i]);
}

static int load(struct snap *s, struct mem *mem, struct err *e)
{
	assert_int_equal(mem_create(mem, SIZE, MEM_PRIVATE, -1, e), 0);
	return snap_load_memory(s, mem, 0, e);
}

static void make(struct chain *c, unsigned n)
{
	memset(c, 0, sizeof(*c));
	c->seed = 7;
	fake_machine(&c->m, SIZE, MEM_PRIVATE);
	for (unsigned i = 0; i < 300; i++)
		change(c, draw(c, PAGES), (int)draw(c, 256));
	write_next(c);
	while (c->n < n) {
		for (unsigned i = 0; i < 40; i++)
			change(c, draw(c, PAGES),
				draw(c, 3) ? (int)draw(c, 256) : 0);
		write_next(c);
	}
}

static void destroy(struct chain *c)
{
	for (unsigned i = 0; i < c->n; i++)
		(void)close(c->fd[i]);
	machine_destroy(&c->m);
}

static void chain_of(unsigned n)
{
	struct err e = {0};
	struct chain c;
	struct mem mem;

	make(&c, n);
	open_all(&c);
	if (load(c.s[n - 1], &mem, &e))
		fail_msg("%s", e.msg);
	assert_memory_equal(mem.map, c.m.mem.map, SIZE);
	mem_destroy(&mem);
	close_all(&c);
	destroy(&c);
}

static void test_chains(void **state)
{
	(void)state;
	chain_of(1);
	chain_of(2);
	chain_of(5);
	chain_of(SNAP_MAX_CHAIN + 1);
}

static void test_too_deep(void **state)
{
	struct err e = {0};
	struct chain c;
	struct mem mem;

	(void)state;
	make(&c, SNAP_MAX_CHAIN + 2);
	open_all(&c);
	assert_int_equal(load(c.s[c.n - 1], &mem, &e), -EOPNOTSUPP);
	assert_non_null(strstr(e.msg, "64"));
	mem_destroy(&mem);
	close_all(&c);
	destroy(&c);
}

/* A diff has what changed and nothing else, and can be checked alone. */
static void test_small(void **state)
{
	struct snap_verified v;
	struct err e = {0};
	struct stat st;
	struct chain c;

	(void)state;
	make(&c, 1);
	change(&c, 100, 1);
	change(&c, 101, 0);
	change(&c, 3000, 0);
	write_next(&c);
	assert_int_equal(c.w[1].pages_present, 1);
	assert_int_equal(c.w[1].pages_zero, 2);
	assert_int_equal(fstat(c.fd[1], &st), 0);
	assert_true(st.st_size < 100 * 1024);
	if (snap_verify_fd(c.fd[1], &v, NULL, NULL, &e))
		fail_msg("%s", e.msg);
	assert_int_equal(v.pages_present, 1);
	destroy(&c);
}

/* Nothing changed at all. */
static void test_empty(void **state)
{
	struct snap_verified v;
	struct err e = {0};
	struct chain c;
	struct mem mem;

	(void)state;
	make(&c, 2);
	write_next(&c);
	assert_int_equal(c.w[2].pages_present + c.w[2].pages_zero, 0);
	assert_int_equal(snap_verify_fd(c.fd[2], &v, NULL, NULL, &e), 0);
	open_all(&c);
	assert_int_equal(load(c.s[2], &mem, &e), 0);
	assert_memory_equal(mem.map, c.m.mem.map, SIZE);
	mem_destroy(&mem);
	close_all(&c);
	destroy(&c);
}

static void test_what_it_names(void **state)
{
	const struct snap_parent *p;
	uint8_t digest[16];
	struct chain c;

	(void)state;
	make(&c, 2);
	open_all(&c);
	assert_null(snap_get_parent(c.s[0]));
	p = snap_get_parent(c.s[1]);
	assert_non_null(p);
	assert_memory_equal(&p->uuid, &c.w[0].uuid, 16);
	assert_string_equal(p->path, "../there/parent.thaw");
	assert_int_equal(snap_digest(c.s[0], digest), 0);
	assert_memory_equal(digest, c.w[0].digest, 16);
	assert_memory_equal(digest, p->digest, 16);
	close_all(&c);
	destroy(&c);
}

/* Another snapshot, the same one changed, none, and a parent for a full one. */
static void test_wrong_parent(void **state)
{
	struct snap *s[3], *foreign;
	uint64_t created = 1;
	struct err e = {0};
	struct chain c;
	struct mem mem;

	(void)state;
	make(&c, 3);
	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(snap_open(c.fd[i], &s[i], &e), 0);
	assert_int_equal(snap_attach(s[2], s[0], &e), -ESTALE);
	assert_non_null(strstr(e.msg, "instead"));
	assert_int_equal(snap_attach(s[0], s[1], &e), -EINVAL);
	assert_int_equal(load(s[2], &mem, &e), -ENOENT);
	mem_destroy(&mem);
	assert_int_equal(snap_attach(s[2], s[1], &e), 0);
	assert_int_equal(load(s[2], &mem, &e), -ENOENT);
	mem_destroy(&mem);
	snap_close(s[0]);
	/* The same uuid over other content: written again in its place. */
	c.m.saved.wall_ns += created;
	assert_int_equal(ftruncate(c.fd[0], 0), 0);
	assert_int_equal(snap_write(&c.m, c.fd[0],
				 &(struct snap_write_opts){.uuid = c.w[0].uuid},
				 &c.w[0], &e),
		0);
	assert_int_equal(snap_open(c.fd[0], &foreign, &e), 0);
	assert_int_equal(snap_attach(s[1], foreign, &e), -ESTALE);
	assert_non_null(strstr(e.msg, "changed"));
	snap_close(foreign);
	snap_close(s[1]);
	snap_close(s[2]);
	destroy(&c);
}

/* Cut short after it was opened: an error, not other bytes. */
static void test_parent_truncated(void **state)
{
	struct err e = {0};
	struct chain c;
	struct mem mem;

	(void)state;
	make(&c, 2);
	open_all(&c);
	assert_int_equal(ftruncate(c.fd[0], (off_t)c.w[0].file_bytes / 2), 0);
	assert_int_equal(load(c.s[1], &mem, &e), -EBADMSG);
	mem_destroy(&mem);
	close_all(&c);
	destroy(&c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_chains),
		cmocka_unit_test(test_too_deep),
		cmocka_unit_test(test_small),
		cmocka_unit_test(test_empty),
		cmocka_unit_test(test_what_it_names),
		cmocka_unit_test(test_wrong_parent),
		cmocka_unit_test(test_parent_truncated),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
