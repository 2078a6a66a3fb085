/*
 * Ten thousand single flipped bits, in snapshots of every shape: verify finds
 * each of them, and neither an eager nor a lazy restore gives anything else
 * than what the guest had, or an error. (Every bit of a working set: test_ws.c;
 * every bit of header, tables and one frame: test_snap_damage.c,
 * test_snap_packed.c.)
 */
#include "snapshot/internal.h"
#include "tests/unit/test.h"
#include "tests/unit/snap_fake.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#ifdef __has_feature
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SLOW 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SLOW 1
#endif
#ifdef SLOW
#define FLIPS 100
#else
#define FLIPS 2500
#endif

#define MEMORY  (4 * MIB)
#define PAGES   (MEMORY / PAGE_SIZE_4K)
#define WINDOWS (MEMORY / PSRC_WINDOW)

struct shape {
	struct machine m;
	uint64_t changed[PAGES / 64];
	int fd[4]; /* newest first */
	unsigned n;
	uint32_t seed;
	unsigned eager, lazy; /* flips that restores found */
};

static uint32_t draw(struct shape *s, uint32_t below)
{
	s->seed = s->seed * 1664525 + 1013904223;
	return (s->seed >> 4) % below;
}

static void change(struct shape *s, uint64_t page, unsigned kind)
{
	uint8_t *p = s->m.mem.map + page * PAGE_SIZE_4K;

	for (unsigned i = 0; i < PAGE_SIZE_4K; i++)
		p[i] = kind == 0   ? 0
		       : kind == 1 ? (uint8_t)draw(s, 256)
				   : (uint8_t)(i % 9 + kind);
	s->changed[page / 64] |= 1ULL << page % 64;
}

/* The next file, of the pages changed since the last one. */
static void save(struct shape *s, int level)
{
	struct snap_write_opts o = {.zstd_level = level};
	struct snap_parent parent;
	struct snap_peeked last;
	struct snap_written out;
	struct err e = {0};
	int fd = fake_file();

	if (s->n) {
		assert_int_equal(snap_peek(s->fd[0], &last, &e), 0);
		parent = (struct snap_parent){.uuid = last.uuid, .path = "x"};
		memcpy(parent.digest, last.digest, sizeof(parent.digest));
		o.parent = &parent;
		o.pages = s->changed;
	}
	if (snap_write(&s->m, fd, &o, &out, &e))
		fail_msg("snap_write: %s", e.msg);
	memmove(&s->fd[1], &s->fd[0], sizeof(s->fd) - sizeof(s->fd[0]));
	s->fd[0] = fd;
	s->n++;
	memset(s->changed, 0, sizeof(s->changed));
}

static void open_shape(struct shape *s)
{
	memset(s, 0, sizeof(*s));
	s->seed = 5;
	fake_machine(&s->m, MEMORY, MEM_PRIVATE);
	for (unsigned i = 0; i < 40; i++)
		change(s, draw(s, 128), draw(s, 4));
}

static void close_shape(struct shape *s)
{
	for (unsigned i = 0; i < s->n; i++)
		(void)close(s->fd[i]);
	machine_destroy(&s->m);
}

/* ---- what becomes of a flip ---- */

static int verify(struct shape *s, struct err *e)
{
	struct snap *c[4];
	struct snap_verified v;
	int rc = snap_open_chain(s->fd, s->n, c, e);

	if (rc)
		return rc;
	rc = snap_verify(c[0], 0, &v, NULL, NULL, e);
	snap_close_chain(c, s->n);
	return rc;
}

static bool eager(struct shape *s, struct snap *c, struct err *e)
{
	struct machine_config cfg;
	struct machine back;
	int rc = snap_read_config(c, &cfg, e);

	if (rc)
		return false;
	fake_empty(&back, &cfg);
	rc = snap_load_state(c, &back, e);
	if (!rc)
		rc = mem_create(&back.mem, cfg.memory, MEM_PRIVATE, -1, e);
	if (!rc)
		rc = snap_load_memory(c, &back.mem, 0, e);
	if (!rc && (!fake_same_memory(&s->m, &back) ||
			   !fake_same_state(&s->m, &back)))
		fail_msg("a restore gave something else");
	machine_destroy(&back);
	return !rc;
}

static bool lazy(struct shape *s, struct snap *c, struct err *e)
{
	uint8_t win[PSRC_WINDOW];
	struct psrc *src;
	int rc = snap_source(c, &src, e);

	if (rc)
		return false;
	for (uint64_t w = 0; w < WINDOWS; w++) {
		int one = fake_window(src, w, win, e);

		if (!one && memcmp(win, s->m.mem.map + w * PSRC_WINDOW,
				    sizeof(win)) != 0)
			fail_msg("window %u is something else", (unsigned)w);
		if (one)
			rc = one;
	}
	src->ops->close(src);
	return !rc;
}

/* used: a restore reads this byte. */
static void one_flip(struct shape *s, unsigned which, uint64_t bit, bool used)
{
	struct snap *c[4];
	struct err e = {0};
	uint8_t byte;
	bool ok;

	assert_int_equal(pread_full(s->fd[which], &byte, 1, bit / 8), 0);
	byte ^= (uint8_t)(1U << bit % 8);
	assert_int_equal(pwrite_full(s->fd[which], &byte, 1, bit / 8), 0);
	if (!verify(s, &e))
		fail_msg("verify: file %u, byte %llu, bit %u", which,
			(unsigned long long)bit / 8, (unsigned)(bit % 8));
	ok = !snap_open_chain(s->fd, s->n, c, &e);
	if (ok) {
		bool now = eager(s, c[0], &e), later = lazy(s, c[0], &e);

		s->eager += !now;
		s->lazy += !later;
		snap_close_chain(c, s->n);
		ok = now || (later && !used);
	} else {
		s->eager++;
		s->lazy++;
	}
	if (ok && used)
		fail_msg("restore: file %u, byte %llu, bit %u", which,
			(unsigned long long)bit / 8, (unsigned)(bit % 8));
	byte ^= (uint8_t)(1U << bit % 8);
	assert_int_equal(pwrite_full(s->fd[which], &byte, 1, bit / 8), 0);
}

static void mark(uint8_t *map, uint64_t at, uint64_t n)
{
	memset(map + at, 1, n);
}

/* Which bytes of each file a restore reads; one byte each, owned. */
struct used {
	uint8_t *map[4];
};

/* The data that the pages of one leaf are made of, wherever in the chain. */
static void mark_windows(
	struct used *u, struct snap *const *c, unsigned n, uint32_t root)
{
	struct snap_leaves l;
	struct snap_window w;
	struct snap_leaf_at at;
	struct err e = {0};

	snap_leaf_locate(c[0], root, &at);
	snap_leaves_init(&l, c[0]);
	assert_int_equal(snap_leaves_read(&l, root, &e), 0);
	for (uint32_t k = 0; k < at.chunks; k++) {
		assert_int_equal(snap_leaves_window(&l, k, &w, &e), 0);
		for (unsigned i = 0; i < w.n * n; i++) {
			const struct snap_extent *x = &w.ext[i / n];

			if (c[i % n] == x->file)
				mark(u->map[i % n], x->c.offset,
					x->c.stored_length);
		}
	}
	snap_leaves_fini(&l);
}

/* All but metadata, what belongs to nothing, and in ancestors the state and
 * data that is newer elsewhere. */
static void mark_file(uint8_t *map, const struct snap *f, bool ancestor)
{
	mark(map, 0, sizeof(f->h));
	mark(map, f->h.section_table_offset,
		f->h.section_count * sizeof(struct snap_section));
	for (uint32_t i = 0; i < f->h.section_count; i++) {
		if (f->sec[i].tag == SNAP_TAG_MEMORY ||
			(!ancestor && f->sec[i].tag != SNAP_TAG_METADATA))
			mark(map, f->sec[i].offset, f->sec[i].stored_length);
	}
	for (uint32_t i = 0; i < f->mem.root_count; i++) {
		if (f->root[i].offset)
			mark(map, f->root[i].offset, sizeof(struct snap_leaf));
	}
}

static void used_bytes(const struct shape *s, struct used *u)
{
	struct snap *c[4];
	struct err e = {0};

	if (snap_open_chain(s->fd, s->n, c, &e))
		fail_msg("%s", e.msg);
	for (unsigned f = 0; f < s->n; f++) {
		u->map[f] = calloc(1, c[f]->h.file_length);
		assert_non_null(u->map[f]);
		mark_file(u->map[f], c[f], f > 0);
	}
	for (uint32_t i = 0; i < c[0]->mem.root_count; i++)
		mark_windows(u, c, s->n, i);
	snap_close_chain(c, s->n);
}

static void flips(struct shape *s)
{
	struct used used = {.map = {NULL}};
	struct stat st[4];
	struct err e = {0};

	if (verify(s, &e))
		fail_msg("not sound: %s", e.msg);
	used_bytes(s, &used);
	for (unsigned i = 0; i < s->n; i++)
		assert_int_equal(fstat(s->fd[i], &st[i]), 0);
	for (unsigned i = 0; i < FLIPS && s->n; i++) {
		unsigned which = i % s->n;
		uint32_t size = (uint32_t)st[which].st_size;
		/* every other one is where the structure is */
		uint32_t at = draw(s, i & 4 ? 24 * KIB : size) % size;

		one_flip(s, which, at * 8ULL + draw(s, 8), used.map[which][at]);
	}
	for (unsigned i = 0; i < s->n; i++)
		free(used.map[i]);
	assert_true(s->eager > FLIPS / 3 && s->lazy > FLIPS / 3);
	if (verify(s, &e))
		fail_msg("not sound any more: %s", e.msg);
	close_shape(s);
}

/* ---- shapes ---- */

static void test_raw(void **state)
{
	struct shape s;

	(void)state;
	open_shape(&s);
	save(&s, 0);
	flips(&s);
}

static void test_zstd(void **state)
{
	struct shape s;

	(void)state;
	open_shape(&s);
	save(&s, 3);
	flips(&s);
}

/* Every window the same: stored once. */
static void test_dedupe(void **state)
{
	struct stat st;
	struct shape s;

	(void)state;
	open_shape(&s);
	for (unsigned i = 0; i < 256; i++)
		change(&s, i, i % 16 < 10 ? 2 + i % 16 : 0);
	for (unsigned w = 1; w < 16; w++)
		memcpy(s.m.mem.map + w * 65536ULL, s.m.mem.map, 65536);
	save(&s, 0);
	assert_int_equal(fstat(s.fd[0], &st), 0);
	assert_true(st.st_size < 160 * (off_t)KIB);
	flips(&s);
}

/* Two diffs, one packed, and the file that they build on. */
static void test_chain(void **state)
{
	struct shape s;

	(void)state;
	open_shape(&s);
	save(&s, 0);
	for (unsigned i = 0; i < 20; i++)
		change(&s, draw(&s, 200), draw(&s, 4));
	save(&s, 1);
	for (unsigned i = 0; i < 12; i++)
		change(&s, draw(&s, 200), draw(&s, 4));
	save(&s, 0);
	flips(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_raw),
		cmocka_unit_test(test_zstd),
		cmocka_unit_test(test_dedupe),
		cmocka_unit_test(test_chain),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
