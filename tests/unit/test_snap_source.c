/* A snapshot, and a chain of them, as a source of pages: window by window the
 * same bytes as a complete load, and no byte that was not checked. */
#include "snapshot/internal.h"
#include "snapshot/source.h"
#include "tests/unit/snap_fake.h"
#include "tests/unit/test.h"

#include <errno.h>
#include <string.h>

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

static void source_of(unsigned n)
{
	struct mem_range zero[64];
	uint8_t win[PSRC_WINDOW];
	struct psrc *src;
	struct err e = {0};
	struct chain c;
	unsigned runs;

	make(&c, n);
	open_all(&c);
	if (snap_source(c.s[n - 1], &src, &e))
		fail_msg("%s", e.msg);
	assert_int_equal(src->size, SIZE);
	assert_int_equal(src->nfiles, n);
	/* The index is not read before it is needed. */
	assert_int_equal(
		src->ops->map(src, 0, false, &(struct psrc_window){.n = 0}, &e),
		-EAGAIN);
	for (uint64_t w = 0; w < SIZE / PSRC_WINDOW; w++) {
		if (fake_window(src, w, win, &e))
			fail_msg("%s", e.msg);
		assert_memory_equal(
			win, c.m.mem.map + w * PSRC_WINDOW, PSRC_WINDOW);
	}
	runs = snap_zero_runs(c.s[n - 1], zero, ARRAY_SIZE(zero));
	for (unsigned i = 0; i < runs; i++)
		assert_true(snap_is_zero(c.m.mem.map + zero[i].start,
			zero[i].end - zero[i].start));
	src->ops->close(src);
	close_all(&c);
	destroy(&c);
}

static void test_same_bytes(void **state)
{
	(void)state;
	source_of(1);
	source_of(2);
	source_of(9);
}

static void test_zero_runs(void **state)
{
	struct snap_write_opts o = {0};
	struct mem_range zero[4];
	struct snap_written out;
	struct machine m;
	struct err e = {0};
	struct snap *s;
	int fd = fake_file();

	(void)state;
	fake_machine(&m, 64 * MIB, MEM_PRIVATE);
	fake_page(&m, 17 * MIB);
	assert_int_equal(snap_write(&m, fd, &o, &out, &e), 0);
	assert_int_equal(snap_open(fd, &s, &e), 0);
	assert_int_equal(snap_zero_runs(s, zero, 4), 2);
	assert_int_equal(zero[0].start, 0);
	assert_int_equal(zero[0].end, 16 * MIB);
	assert_int_equal(zero[1].start, 24 * MIB);
	assert_int_equal(zero[1].end, 64 * MIB);
	assert_int_equal(snap_zero_runs(s, zero, 1), 1);
	snap_close(s);
	(void)close(fd);
	machine_destroy(&m);
}

/* A diff without its parents has holes that are no zeros. */
static void test_parent_missing(void **state)
{
	struct mem_range zero[4];
	struct psrc *src;
	struct err e = {0};
	struct chain c;

	(void)state;
	make(&c, 2);
	assert_int_equal(snap_open(c.fd[1], &c.s[1], &e), 0);
	assert_int_equal(snap_source(c.s[1], &src, &e), -ENOENT);
	assert_null(src);
	assert_int_equal(snap_zero_runs(c.s[1], zero, 4), 0);
	snap_close(c.s[1]);
	destroy(&c);
}

/* Every flipped bit of the data is found before a page comes of it. */
static void test_flipped(void **state)
{
	uint8_t win[PSRC_WINDOW], byte;
	struct psrc_window at;
	struct psrc *src;
	struct err e = {0};
	struct chain c;
	uint64_t w = 0;

	(void)state;
	make(&c, 1);
	open_all(&c);
	assert_int_equal(snap_source(c.s[0], &src, &e), 0);
	do {
		assert_int_equal(src->ops->map(src, w++, true, &at, &e), 0);
	} while (!at.n);
	for (uint32_t i = 0; i < at.piece[0].length; i += 509) {
		off_t pos = (off_t)at.piece[0].offset + i;

		assert_int_equal(pread(c.fd[0], &byte, 1, pos), 1);
		byte ^= (uint8_t)(1U << i % 8);
		assert_int_equal(pwrite(c.fd[0], &byte, 1, pos), 1);
		assert_int_equal(fake_window(src, w - 1, win, &e), -EBADMSG);
		assert_non_null(strstr(e.msg, "bytes "));
		byte ^= (uint8_t)(1U << i % 8);
		assert_int_equal(pwrite(c.fd[0], &byte, 1, pos), 1);
	}
	assert_int_equal(fake_window(src, w - 1, win, &e), 0);
	src->ops->close(src);
	close_all(&c);
	destroy(&c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_same_bytes),
		cmocka_unit_test(test_zero_runs),
		cmocka_unit_test(test_parent_missing),
		cmocka_unit_test(test_flipped),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
