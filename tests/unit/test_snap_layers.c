/* Chains of diffs, compression, shared chunks, rewriting. */
#include "tests/unit/test.h"
#include "tests/unit/snap_fake.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MEMORY (32 * MIB)
#define PAGES  (MEMORY / PAGE_SIZE_4K)

static uint32_t random32(uint32_t *seed)
{
	*seed = *seed * 1664525 + 1013904223;
	return *seed >> 8;
}

/* A machine and the files that were written of it, oldest first. */
struct world {
	struct machine m;
	uint64_t changed[PAGES / 64];
	struct snap_parent last;
	char name[16];
	int fd[SNAP_MAX_CHAIN + 2];
	unsigned n;
	uint32_t seed;
};

static void world_open(struct world *w, uint32_t seed)
{
	memset(w, 0, sizeof(*w));
	w->seed = seed;
	fake_machine(&w->m, MEMORY, MEM_PRIVATE);
}

static void world_close(struct world *w)
{
	for (unsigned i = 0; i < w->n; i++)
		close(w->fd[i]);
	machine_destroy(&w->m);
}

/* kind 0: zeros, 1: noise, 2: text that packs, 3: one of few contents */
static void change(struct world *w, uint64_t page, unsigned kind)
{
	uint8_t *p = w->m.mem.map + page * PAGE_SIZE_4K;
	uint32_t few = random32(&w->seed) % 3;

	for (unsigned i = 0; i < PAGE_SIZE_4K; i++) {
		if (kind == 0)
			p[i] = 0;
		else if (kind == 1)
			p[i] = (uint8_t)random32(&w->seed);
		else if (kind == 2)
			p[i] = (uint8_t)("thaw"[i % 4] + (int)(page % 7));
		else
			p[i] = (uint8_t)(few + 1);
	}
	w->changed[page / 64] |= 1ULL << page % 64;
}

static void change_some(struct world *w, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		uint32_t r = random32(&w->seed);

		change(w, r % PAGES, r % 4);
	}
	/* whole chunks, equal to each other */
	for (unsigned i = 0; i < 4; i++) {
		uint64_t first = random32(&w->seed) % (PAGES / 16) * 16;

		for (unsigned k = 0; k < 16; k++)
			change(w, first + k, 2);
	}
}

static void keep(struct world *w, const struct snap_written *out)
{
	w->last.uuid = out->uuid;
	memcpy(w->last.digest, out->digest, 16);
	(void)snprintf(w->name, sizeof(w->name), "file%u", w->n);
	w->last.path = w->name;
	memset(w->changed, 0, sizeof(w->changed));
}

static void save(struct world *w, bool diff, int level, unsigned threads)
{
	struct snap_write_opts o = {.pages = diff ? w->changed : NULL,
		.parent = diff ? &w->last : NULL,
		.zstd_level = level,
		.threads = threads};
	struct snap_written out;
	struct err e = {0};
	int fd = fake_file();

	if (snap_write(&w->m, fd, &o, &out, &e))
		fail_msg("snap_write: %s", e.msg);
	w->fd[w->n++] = fd;
	keep(w, &out);
}

/* Newest first, attached; the caller closes all. */
static void open_chain(const struct world *w, struct snap **s)
{
	struct err e = {0};

	for (unsigned i = 0; i < w->n; i++) {
		if (snap_open(w->fd[w->n - 1 - i], &s[i], &e))
			fail_msg("snap_open %u: %s", i, e.msg);
	}
	if (snap_attach_all(s, w->n, &e))
		fail_msg("snap_attach_all: %s", e.msg);
}

static void close_chain(struct snap **s, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		snap_close(s[i]);
}

static void check_memory(struct snap *s, const struct world *w)
{
	struct machine_config cfg;
	struct machine back;
	struct err e = {0};

	if (snap_read_config(s, &cfg, &e))
		fail_msg("config: %s", e.msg);
	fake_empty(&back, &cfg);
	assert_int_equal(
		mem_create(&back.mem, cfg.memory, MEM_PRIVATE, -1, &e), 0);
	if (snap_load_state(s, &back, &e) ||
		snap_load_memory(s, &back.mem, 2, &e))
		fail_msg("load: %s", e.msg);
	assert_true(fake_same_memory(&w->m, &back));
	machine_destroy(&back);
}

static void check_chain(const struct world *w)
{
	struct snap *s[SNAP_MAX_CHAIN + 2];
	struct snap_verified v;
	struct err e = {0};

	open_chain(w, s);
	check_memory(s[0], w);
	if (snap_verify(s[0], 2, &v, NULL, NULL, &e))
		fail_msg("verify: %s", e.msg);
	assert_int_equal(v.files, w->n);
	close_chain(s, w->n);
}

static void test_diffs(void **state)
{
	(void)state;
	for (uint32_t seed = 1; seed <= 4; seed++) {
		struct world w;

		world_open(&w, seed);
		change_some(&w, 900);
		save(&w, false, seed % 2 ? 3 : 0, 2);
		for (unsigned i = 0; i < 6; i++) {
			change_some(&w, 80);
			save(&w, true, i % 3 == seed % 3 ? 1 : 0, i % 2);
			check_chain(&w);
		}
		/* one with no change at all */
		save(&w, true, 0, 0);
		check_chain(&w);
		world_close(&w);
	}
}

static void test_deepest(void **state)
{
	struct snap *s[SNAP_MAX_CHAIN + 2];
	struct err e = {0};
	struct world w;

	(void)state;
	world_open(&w, 77);
	change_some(&w, 50);
	save(&w, false, 0, 0);
	while (w.n < SNAP_MAX_CHAIN + 1) {
		change(&w, w.n * 3, 1);
		save(&w, true, 0, 0);
	}
	check_chain(&w);
	change(&w, 5, 1);
	save(&w, true, 0, 0);
	for (unsigned i = 0; i < w.n; i++)
		assert_int_equal(snap_open(w.fd[w.n - 1 - i], &s[i], &e), 0);
	assert_int_equal(snap_attach_all(s, w.n, &e), -EOPNOTSUPP);
	assert_non_null(strstr(e.msg, "more than 64"));
	close_chain(s, w.n);
	world_close(&w);
}

static void test_wrong_parents(void **state)
{
	struct world a, b;
	struct snap *s[3];
	struct snap_written out;
	struct err e = {0};
	struct snap_write_opts o = {0};
	struct mem mem;

	(void)state;
	world_open(&a, 1);
	world_open(&b, 2);
	change_some(&a, 20);
	change_some(&b, 20);
	save(&a, false, 0, 0);
	save(&b, false, 0, 0);
	change_some(&a, 5);
	save(&a, true, 0, 0);
	assert_int_equal(snap_open(a.fd[1], &s[0], &e), 0);
	assert_int_equal(snap_open(a.fd[0], &s[1], &e), 0);
	assert_int_equal(snap_open(b.fd[0], &s[2], &e), 0);
	assert_null(snap_get_parent(s[1]));
	assert_string_equal(snap_get_parent(s[0])->path, "file1");

	assert_int_equal(mem_create(&mem, MEMORY, MEM_PRIVATE, -1, &e), 0);
	assert_int_equal(snap_load_memory(s[0], &mem, 0, &e), -ENOENT);
	assert_non_null(strstr(e.msg, "is missing (it was at \"file1\")"));
	mem_destroy(&mem);
	assert_int_equal(snap_attach(s[0], s[2], &e), -ESTALE);
	assert_non_null(strstr(e.msg, "instead"));
	assert_int_equal(snap_attach(s[1], s[2], &e), -EINVAL);
	assert_int_equal(snap_attach(s[0], s[1], &e), 0);
	close_chain(s, 3);

	/* the uuid of the parent, and other content */
	memcpy(o.uuid.b, a.last.uuid.b, 16);
	o.created_ns = 1;
	close(b.fd[0]);
	b.fd[0] = fake_file();
	assert_int_equal(snap_open(a.fd[1], &s[0], &e), 0);
	memcpy(o.uuid.b, snap_get_parent(s[0])->uuid.b, 16);
	assert_int_equal(snap_write(&b.m, b.fd[0], &o, &out, &e), 0);
	assert_int_equal(snap_open(b.fd[0], &s[1], &e), 0);
	assert_int_equal(snap_attach(s[0], s[1], &e), -ESTALE);
	assert_non_null(strstr(e.msg, "changed"));
	close_chain(s, 2);
	world_close(&a);
	world_close(&b);
}

static uint64_t file_size(int fd)
{
	return (uint64_t)lseek(fd, 0, SEEK_END);
}

static void test_shared(void **state)
{
	struct world w;

	(void)state;
	world_open(&w, 3);
	/* 100 equal chunks, some in one leaf, some in the next ones */
	for (uint64_t c = 0; c < 100; c++) {
		for (unsigned k = 0; k < 16; k++)
			change(&w, c * 48 + k, 2);
		for (unsigned k = 0; k < 16; k++)
			memcpy(w.m.mem.map + (c * 48 + k) * PAGE_SIZE_4K,
				w.m.mem.map + k * PAGE_SIZE_4K, PAGE_SIZE_4K);
	}
	save(&w, false, 0, 1);
	assert_true(file_size(w.fd[0]) < 65536 + 12 * 4096 + 32768);
	check_chain(&w);
	world_close(&w);
}

static void test_zstd_is_smaller(void **state)
{
	struct world w;
	uint64_t raw;

	(void)state;
	world_open(&w, 3);
	for (uint64_t p = 0; p < 2000; p++)
		change(&w, p, p % 3 ? 2 : 1);
	save(&w, false, 0, 0);
	raw = file_size(w.fd[0]);
	close(w.fd[0]);
	w.n = 0;
	save(&w, false, 3, 2);
	assert_true(file_size(w.fd[0]) < raw / 2);
	check_chain(&w);
	world_close(&w);
}

static int rewritten(struct snap *s, const struct snap_rewrite_opts *o)
{
	struct snap_written out;
	struct err e = {0};
	int fd = fake_file();

	if (snap_rewrite(s, fd, o, &out, &e))
		fail_msg("snap_rewrite: %s", e.msg);
	return fd;
}

static bool same_files(int a, int b)
{
	uint64_t n = file_size(a);
	uint8_t *x = malloc(n), *y = malloc(n);
	bool same;

	assert_true(x && y);
	same = n == file_size(b) && !pread_full(a, x, n, 0) &&
	       !pread_full(b, y, n, 0) && !memcmp(x, y, n);
	free(x);
	free(y);
	return same;
}

/* Under the same identity a raw file comes out as it was. */
static void test_same_bytes(void **state)
{
	struct snap_rewrite_opts o = {.created_ns = 4711, .threads = 1};
	struct snap_write_opts first = {.created_ns = 4711};
	struct snap_written out;
	struct err e = {0};
	struct world w;
	struct snap *s;
	int again;

	(void)state;
	world_open(&w, 9);
	change_some(&w, 300);
	w.fd[w.n++] = fake_file();
	assert_int_equal(snap_write(&w.m, w.fd[0], &first, &out, &e), 0);
	assert_int_equal(snap_open(w.fd[0], &s, &e), 0);
	o.uuid = *snap_get_uuid(s);
	again = rewritten(s, &o);
	assert_true(same_files(w.fd[0], again));
	close(again);
	/* and another identity another file */
	o.uuid.b[0] ^= 1;
	again = rewritten(s, &o);
	assert_false(same_files(w.fd[0], again));
	close(again);
	snap_close(s);
	world_close(&w);
}

static void test_merge_and_convert(void **state)
{
	struct world w, one;
	struct snap *s[8];

	(void)state;
	world_open(&w, 21);
	change_some(&w, 200);
	save(&w, false, 0, 0);
	for (unsigned i = 0; i < 4; i++) {
		change_some(&w, 40);
		save(&w, true, i % 2 ? 5 : 0, 1);
	}
	for (int level = 0; level <= 3; level += 3) {
		struct snap_rewrite_opts o = {.zstd_level = level};

		open_chain(&w, s);
		one = w;
		one.fd[0] = rewritten(s[0], &o);
		one.n = 1;
		check_chain(&one);
		close(one.fd[0]);
		/* a converted diff has the same parent */
		o.keep_diff = true;
		o.threads = 2;
		one = w;
		one.fd[w.n - 1] = rewritten(s[0], &o);
		check_chain(&one);
		close(one.fd[w.n - 1]);
		close_chain(s, w.n);
	}
	world_close(&w);
}

static int stop(void *arg, uint64_t done, uint64_t total)
{
	(void)done;
	(void)total;
	return ++*(int *)arg > 2;
}

static void test_cancel(void **state)
{
	int calls = 0;
	struct snap_rewrite_opts o = {.progress = stop, .arg = &calls};
	struct snap_written out;
	struct err e = {0};
	struct world w;
	struct snap *s;
	int fd;

	(void)state;
	world_open(&w, 8);
	change_some(&w, 200);
	save(&w, false, 0, 0);
	assert_int_equal(snap_open(w.fd[0], &s, &e), 0);
	fd = fake_file();
	assert_int_equal(snap_rewrite(s, fd, &o, &out, &e), -ECANCELED);
	close(fd);
	o.progress = NULL;
	o.zstd_level = 20;
	fd = fake_file();
	assert_int_equal(snap_rewrite(s, fd, &o, &out, &e), -EINVAL);
	close(fd);
	snap_close(s);
	world_close(&w);
}

/* Any flipped bit anywhere is found by verify, and a restore gives the right
 * memory or an error. */
static void flip_bits(struct world *w, unsigned which, unsigned times)
{
	struct snap *s[SNAP_MAX_CHAIN + 2];
	uint64_t bits = file_size(w->fd[which]) * 8;
	struct snap_verified v;

	for (unsigned i = 0; i < times; i++) {
		uint64_t bit = ((uint64_t)random32(&w->seed) << 24 |
				       random32(&w->seed)) %
			       bits;
		unsigned opened = 0;
		struct err e = {0};
		uint8_t byte;
		int rc = 0;

		assert_int_equal(
			pread_full(w->fd[which], &byte, 1, bit / 8), 0);
		byte ^= (uint8_t)(1U << bit % 8);
		assert_int_equal(
			pwrite_full(w->fd[which], &byte, 1, bit / 8), 0);
		for (; opened < w->n && !rc; opened++)
			rc = snap_open(
				w->fd[w->n - 1 - opened], &s[opened], &e);
		if (rc)
			opened--;
		if (!rc)
			rc = snap_attach_all(s, w->n, &e);
		if (!rc)
			rc = snap_verify(s[0], 0, &v, NULL, NULL, &e);
		if (rc != -EBADMSG && rc != -EOPNOTSUPP && rc != -ESTALE)
			fail_msg("file %u, bit %llu: %d", which,
				(unsigned long long)bit, rc);
		close_chain(s, opened);
		byte ^= (uint8_t)(1U << bit % 8);
		assert_int_equal(
			pwrite_full(w->fd[which], &byte, 1, bit / 8), 0);
	}
}

static void test_flips(void **state)
{
	struct world w;

	(void)state;
	world_open(&w, 5);
	for (unsigned i = 0; i < 40; i++)
		change(&w, i * 7, i % 4);
	save(&w, false, 0, 0);
	for (unsigned i = 0; i < 20; i++)
		change(&w, i * 14 + 1, i % 4);
	save(&w, true, 3, 0);
	for (unsigned i = 0; i < 20; i++)
		change(&w, i * 14 + 2, i % 4);
	save(&w, true, 0, 0);
	for (unsigned f = 0; f < w.n; f++)
		flip_bits(&w, f, 3400);
	check_chain(&w);
	world_close(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_diffs),
		cmocka_unit_test(test_deepest),
		cmocka_unit_test(test_wrong_parents),
		cmocka_unit_test(test_shared),
		cmocka_unit_test(test_zstd_is_smaller),
		cmocka_unit_test(test_same_bytes),
		cmocka_unit_test(test_merge_and_convert),
		cmocka_unit_test(test_cancel),
		cmocka_unit_test(test_flips),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
