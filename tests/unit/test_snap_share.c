/* Diffs that share stored chunks with their ancestors. */
#include "core/crc32c.h"
#include "tests/unit/snap_fake.h"
#include "tests/unit/test.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define MEMORY (16 * MIB)
#define PAGES  (MEMORY / PAGE_SIZE_4K)
#define FILES  6

/* A machine and the files written of it, oldest first. */
struct world {
	struct machine m;
	uint64_t changed[PAGES / 64];
	int fd[FILES];
	struct snap_written w[FILES];
	unsigned n;
};

static uint8_t *window(struct world *w, uint64_t n)
{
	for (uint64_t p = n * 16; p < (n + 1) * 16; p++)
		w->changed[p / 64] |= 1ULL << p % 64;
	return w->m.mem.map + n * SNAP_CHUNK_SIZE;
}

/* Content that packs to about half and is of this seed alone. */
static void fill(struct world *w, uint64_t n, uint32_t seed)
{
	uint8_t *p = window(w, n);

	for (uint64_t i = 0; i < SNAP_CHUNK_SIZE; i++) {
		seed = seed * 1664525 + 1013904223;
		p[i] = i % 2 ? 7 : (uint8_t)(seed >> 24);
	}
}

static void copy(struct world *w, uint64_t to, uint64_t from)
{
	memcpy(window(w, to), w->m.mem.map + from * SNAP_CHUNK_SIZE,
		SNAP_CHUNK_SIZE);
}

static void clear(struct world *w, uint64_t n)
{
	memset(window(w, n), 0, SNAP_CHUNK_SIZE);
}

/* Newest first, attached. */
static void open_chain(const struct world *w, struct snap **s)
{
	struct err e = {0};

	for (unsigned i = 0; i < w->n; i++) {
		if (snap_open(w->fd[w->n - 1 - i], &s[i], &e))
			fail_msg("snap_open: %s", e.msg);
	}
	if (snap_attach_all(s, w->n, &e))
		fail_msg("snap_attach_all: %s", e.msg);
}

static void save(struct world *w, int level, bool sharing)
{
	struct snap_write_opts o = {.zstd_level = level};
	struct snap_parent parent = {.path = "there"};
	struct snap *s[FILES];
	unsigned n = w->n;
	struct err e = {0};

	if (n) {
		parent.uuid = w->w[n - 1].uuid;
		memcpy(parent.digest, w->w[n - 1].digest, 16);
		o.parent = &parent;
		o.pages = w->changed;
		open_chain(w, s);
		o.ancestors = sharing ? s[0] : NULL;
	}
	w->fd[n] = fake_file();
	if (snap_write(&w->m, w->fd[n], &o, &w->w[n], &e))
		fail_msg("snap_write: %s", e.msg);
	for (unsigned i = 0; i < n; i++)
		snap_close(s[i]);
	memset(w->changed, 0, sizeof(w->changed));
	w->n++;
}

/* A full snapshot with content in windows 0 to 9 and 130 to 139. */
static void world_open(struct world *w, int level)
{
	memset(w, 0, sizeof(*w));
	fake_machine(&w->m, MEMORY, MEM_PRIVATE);
	for (uint32_t i = 0; i < 10; i++) {
		fill(w, i, i + 1);
		fill(w, 130 + i, i + 101);
	}
	save(w, level, false);
}

static void world_close(struct world *w)
{
	for (unsigned i = 0; i < w->n; i++)
		(void)close(w->fd[i]);
	machine_destroy(&w->m);
}

static int load(struct world *w, struct err *e)
{
	struct snap *s[FILES];
	struct snap_verified v;
	struct mem mem;
	int rc;

	open_chain(w, s);
	assert_int_equal(mem_create(&mem, MEMORY, MEM_PRIVATE, -1, e), 0);
	rc = snap_load_memory(s[0], &mem, 2, e);
	if (!rc)
		assert_memory_equal(mem.map, w->m.mem.map, MEMORY);
	assert_int_equal(snap_verify(s[0], 1, &v, NULL, NULL, e), rc);
	mem_destroy(&mem);
	snap_close_chain(s, w->n);
	return rc;
}

static void check(struct world *w)
{
	struct snap_verified v;
	struct err e = {0};

	if (load(w, &e))
		fail_msg("%s", e.msg);
	/* Alone it is sound as far as one can see. */
	if (snap_verify_fd(w->fd[w->n - 1], &v, NULL, NULL, &e))
		fail_msg("alone: %s", e.msg);
}

/* The entry for a window in file f. */
static struct snap_chunk entry(const struct world *w, unsigned f, unsigned n)
{
	struct snap_leaf *leaf;
	struct snap_chunk c;
	struct image img;
	struct stat st;

	assert_int_equal(fstat(w->fd[f], &st), 0);
	img.n = (size_t)st.st_size;
	img.p = malloc(img.n);
	assert_non_null(img.p);
	assert_int_equal(pread_full(w->fd[f], img.p, img.n, 0), 0);
	leaf = image_leaf(&img, n / SNAP_LEAF_CHUNKS);
	c = leaf->chunk[n % SNAP_LEAF_CHUNKS];
	free(img.p);
	return c;
}

static void test_moved(void **state)
{
	static const int levels[][2] = {{0, 0}, {3, 0}, {0, 3}, {3, 3}};

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(levels); i++) {
		struct world w;
		unsigned n = 20;

		world_open(&w, levels[i][0]);
		/* 16 chunks that the parent has, elsewhere and in their place;
		 * one that it has not */
		for (unsigned k = 0; k < 8; k++)
			copy(&w, n++, 130 + k);
		for (unsigned k = 0; k < 8; k++)
			copy(&w, 140 + k, k);
		copy(&w, 5, 5);
		fill(&w, 60, 777);
		save(&w, levels[i][1], true);
		assert_int_equal(w.w[1].pages_present, 18 * 16);
		assert_int_equal(w.w[1].pages_shared, 17 * 16);
		assert_true(w.w[1].file_bytes < 2 * SNAP_CHUNK_SIZE);
		assert_int_equal(entry(&w, 1, 20).file, 1);
		assert_int_equal(
			entry(&w, 1, 20).offset, entry(&w, 0, 130).offset);
		assert_int_equal(entry(&w, 1, 60).file, 0);
		check(&w);
		world_close(&w);
	}
}

/* Each file's own data, and what those in between share themselves. */
static void test_deeper(void **state)
{
	struct world w;

	(void)state;
	world_open(&w, 0);
	fill(&w, 40, 1000);
	fill(&w, 41, 1001);
	copy(&w, 42, 3);
	save(&w, 1, true);
	for (unsigned i = 0; i < 4; i++)
		fill(&w, 50 + i, 2000 + i);
	save(&w, 0, false);
	copy(&w, 0, 50);
	copy(&w, 1, 40);
	copy(&w, 2, 135);
	copy(&w, 43, 42);
	save(&w, 0, true);
	assert_int_equal(entry(&w, 3, 0).file, 1);
	assert_int_equal(entry(&w, 3, 1).file, 2);
	assert_int_equal(entry(&w, 3, 2).file, 3);
	assert_int_equal(entry(&w, 3, 43).file, 3);
	assert_int_equal(w.w[3].pages_shared, 4 * 16);
	check(&w);
	/* Gone from memory, still in an ancestor. */
	clear(&w, 50);
	clear(&w, 0);
	fill(&w, 51, 2000);
	save(&w, 0, true);
	assert_int_equal(entry(&w, 4, 51).file, 2);
	check(&w);
	world_close(&w);
}

/* The last four bytes that give p[0..n) this checksum: it is linear in them. */
static void force_crc(uint8_t *p, size_t n, uint32_t want)
{
	uint64_t row[32];
	uint32_t base, x = 0;

	memset(p + n - 4, 0, 4);
	base = crc32c(0, p, n);
	for (unsigned i = 0; i < 32; i++) {
		uint32_t bit = 1U << i;

		memcpy(p + n - 4, &bit, 4);
		row[i] = (uint64_t)bit << 32 | (crc32c(0, p, n) ^ base);
	}
	/* row: which input bits, what they change; reduce want with them */
	want ^= base;
	for (unsigned b = 0; b < 32; b++) {
		unsigned k = b;
		uint64_t found;

		while (k < 31 && !(row[k] >> b & 1))
			k++;
		found = row[k];
		assert_true(found >> b & 1);
		row[k] = row[b];
		row[b] = found;
		for (unsigned i = 0; i < 32; i++) {
			if (i != b && (row[i] >> b & 1))
				row[i] ^= row[b];
		}
	}
	for (unsigned b = 0; b < 32; b++) {
		if (want >> b & 1)
			x ^= (uint32_t)(row[b] >> 32);
	}
	memcpy(p + n - 4, &x, 4);
}

/* Same checksum and length, other bytes. */
static void test_collision(void **state)
{
	struct world w;
	uint32_t crc;

	(void)state;
	for (int level = 0; level < 2; level++) {
		world_open(&w, level);
		crc = crc32c(
			0, w.m.mem.map + 4 * SNAP_CHUNK_SIZE, SNAP_CHUNK_SIZE);
		fill(&w, 70, 4711);
		force_crc(window(&w, 70), SNAP_CHUNK_SIZE, crc);
		copy(&w, 71, 4);
		save(&w, 0, true);
		assert_int_equal(entry(&w, 1, 70).crc, entry(&w, 0, 4).crc);
		assert_int_equal(entry(&w, 1, 70).file, 0);
		assert_int_equal(entry(&w, 1, 71).file, 1);
		check(&w);
		world_close(&w);
	}
}

static void damage(const struct world *w, unsigned f, uint64_t at)
{
	uint8_t byte;

	assert_int_equal(pread_full(w->fd[f], &byte, 1, at), 0);
	byte ^= 4;
	assert_int_equal(pwrite_full(w->fd[f], &byte, 1, at), 0);
}

/* What is wrong in an ancestor is not built upon, and is no error. */
static void test_damaged(void **state)
{
	struct world w;

	(void)state;
	for (int level = 0; level < 2; level++) {
		struct snap_chunk c;

		world_open(&w, level);
		c = entry(&w, 0, 4);
		damage(&w, 0, c.offset + 100);
		copy(&w, 70, 4);
		copy(&w, 71, 5);
		save(&w, 0, true);
		assert_int_equal(entry(&w, 1, 70).file, 0);
		assert_int_equal(entry(&w, 1, 71).file, 1);
		/* all that is lost was lost before */
		damage(&w, 0, c.offset + 100);
		check(&w);
		world_close(&w);
	}
}

static void test_damaged_leaf(void **state)
{
	struct snap_chunk last;
	uint64_t leaf;
	struct world w;

	(void)state;
	world_open(&w, 0);
	/* a leaf stands behind its chunks */
	last = entry(&w, 0, 9);
	leaf = last.offset + last.stored_length;
	damage(&w, 0, leaf);
	copy(&w, 70, 4);
	copy(&w, 71, 131);
	save(&w, 0, true);
	assert_int_equal(entry(&w, 1, 70).file, 0);
	assert_int_equal(entry(&w, 1, 71).file, 1);
	damage(&w, 0, leaf);
	check(&w);
	world_close(&w);
}

/* The file got shorter after it was opened. */
static void test_truncated(void **state)
{
	struct world w;
	struct snap_written full;

	(void)state;
	world_open(&w, 0);
	full = w.w[0];
	copy(&w, 70, 4);
	save(&w, 0, false);
	assert_int_equal(ftruncate(w.fd[0], 65536), 0);
	assert_int_equal(ftruncate(w.fd[0], (off_t)full.file_bytes), 0);
	copy(&w, 71, 5);
	copy(&w, 72, 70);
	save(&w, 0, true);
	assert_int_equal(entry(&w, 2, 71).file, 0);
	assert_int_equal(entry(&w, 2, 72).file, 1);
	world_close(&w);
}

static void test_wrong_ancestors(void **state)
{
	struct snap_write_opts o = {0};
	struct snap_parent parent = {0};
	struct snap_written out;
	struct snap *s[FILES];
	struct err e = {0};
	struct world w;
	int fd = fake_file();

	(void)state;
	world_open(&w, 0);
	fill(&w, 3, 9);
	save(&w, 0, true);
	open_chain(&w, s);
	parent.uuid = w.w[1].uuid;
	memcpy(parent.digest, w.w[1].digest, 16);
	o.pages = w.changed;
	o.ancestors = s[1];
	assert_int_equal(snap_write(&w.m, fd, &o, &out, &e), -EINVAL);
	o.parent = &parent;
	assert_int_equal(snap_write(&w.m, fd, &o, &out, &e), -EINVAL);
	o.ancestors = s[0];
	parent.digest[3] ^= 1;
	assert_int_equal(snap_write(&w.m, fd, &o, &out, &e), -EINVAL);
	parent.digest[3] ^= 1;
	assert_int_equal(snap_write(&w.m, fd, &o, &out, &e), 0);
	snap_close_chain(s, w.n);
	(void)close(fd);
	world_close(&w);
}

/* An index that is long beside the diff is not read. */
static void test_worth(void **state)
{
	struct snap *s[FILES];
	struct world w;

	(void)state;
	world_open(&w, 0);
	fill(&w, 3, 9);
	save(&w, 0, true);
	open_chain(&w, s);
	assert_false(snap_worth_opening(NULL, 7));
	assert_true(snap_worth_opening(NULL, 8));
	/* one leaf and two of them */
	assert_false(snap_worth_opening(s[0], 31));
	assert_true(snap_worth_opening(s[0], 32));
	snap_close_chain(s, w.n);
	/* four pages of a chunk that is not looked for */
	memcpy(w.m.mem.map + 80 * SNAP_CHUNK_SIZE,
		w.m.mem.map + 3 * SNAP_CHUNK_SIZE, SNAP_CHUNK_SIZE);
	w.changed[80 * 16 / 64] = 0xfULL << 80 * 16 % 64;
	save(&w, 0, true);
	assert_int_equal(w.w[2].pages_shared, 0);
	world_close(&w);
}

static void test_rewritten(void **state)
{
	struct world w;

	(void)state;
	for (int level = 0; level <= 3; level += 3) {
		struct snap_rewrite_opts o = {
			.zstd_level = level, .keep_diff = true, .threads = 1};
		struct snap_written out;
		struct snap *s[FILES];
		struct err e = {0};
		int fd[2] = {fake_file(), fake_file()};

		world_open(&w, 0);
		for (unsigned i = 0; i < 8; i++)
			copy(&w, 20 + i, i);
		save(&w, 0, false);
		assert_true(w.w[1].file_bytes > 8 * SNAP_CHUNK_SIZE);
		open_chain(&w, s);
		if (snap_rewrite(s[0], fd[0], &o, &out, &e))
			fail_msg("%s", e.msg);
		assert_int_equal(out.pages_shared, 8 * 16);
		assert_true(out.file_bytes < 65536);
		snap_close_chain(s, w.n);
		(void)close(w.fd[1]);
		w.fd[1] = fd[0];
		check(&w);
		/* Merged it stands alone. */
		open_chain(&w, s);
		o.keep_diff = false;
		if (snap_rewrite(s[0], fd[1], &o, &out, &e))
			fail_msg("%s", e.msg);
		snap_close_chain(s, w.n);
		(void)close(w.fd[0]);
		(void)close(w.fd[1]);
		w.fd[0] = fd[1];
		w.n = 1;
		assert_int_equal(entry(&w, 0, 20).file, 0);
		check(&w);
		world_close(&w);
	}
}

/* No flipped bit of a diff that shares goes unseen. */
static void test_flips(void **state)
{
	uint64_t bits;
	uint32_t seed = 1;
	struct world w;

	(void)state;
	world_open(&w, 0);
	for (unsigned i = 0; i < 8; i++)
		copy(&w, 20 + i, i);
	save(&w, 0, true);
	assert_int_equal(w.w[1].pages_shared, 8 * 16);
	bits = w.w[1].file_bytes * 8;
	for (unsigned i = 0; i < 2000; i++) {
		struct snap *s[2] = {NULL, NULL};
		struct snap_verified v;
		struct err e = {0};
		uint64_t bit;
		uint8_t byte;
		int rc;

		seed = seed * 1664525 + 1013904223;
		/* the leaf is at the end */
		bit = i % 2 ? (seed >> 4) % bits
			    : bits - 1 - (seed >> 4) % (4096 * 8);
		assert_int_equal(pread_full(w.fd[1], &byte, 1, bit / 8), 0);
		byte ^= (uint8_t)(1U << bit % 8);
		assert_int_equal(pwrite_full(w.fd[1], &byte, 1, bit / 8), 0);
		rc = snap_open_chain((int[]){w.fd[1], w.fd[0]}, 2, s, &e);
		if (!rc) {
			rc = snap_verify(s[0], 0, &v, NULL, NULL, &e);
			snap_close_chain(s, 2);
		}
		if (!rc)
			fail_msg("bit %llu", (unsigned long long)bit);
		byte ^= (uint8_t)(1U << bit % 8);
		assert_int_equal(pwrite_full(w.fd[1], &byte, 1, bit / 8), 0);
	}
	check(&w);
	world_close(&w);
}

/* The reader that was written from the page alone says the same. */
static void test_python(void **state)
{
	char command[200], line[100] = "";
	struct world w;
	FILE *f;

	(void)state;
	if (access("tests/snapshot_reader.py", R_OK) ||
		system("/usr/bin/python3 -c 'import zstandard, xxhash' "
		       "2>/dev/null"))
		skip();
	world_open(&w, 3);
	for (unsigned i = 0; i < 8; i++)
		copy(&w, 20 + i, 130 + i);
	fill(&w, 90, 90);
	save(&w, 0, true);
	assert_int_equal(w.w[1].pages_shared, 8 * 16);
	for (int alone = 0; alone < 2; alone++) {
		(void)snprintf(command, sizeof(command),
			"/usr/bin/python3 tests/snapshot_reader.py -c "
			"/proc/%d/fd/%d /proc/%d/fd/%d",
			getpid(), w.fd[1], getpid(), w.fd[0]);
		if (alone)
			*strrchr(command, ' ') = 0;
		f = popen(command, "r");
		assert_non_null(f);
		assert_non_null(fgets(line, sizeof(line), f));
		assert_string_equal(line, "ok\n");
		assert_int_equal(pclose(f), 0);
	}
	world_close(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_moved),
		cmocka_unit_test(test_deeper),
		cmocka_unit_test(test_collision),
		cmocka_unit_test(test_damaged),
		cmocka_unit_test(test_damaged_leaf),
		cmocka_unit_test(test_truncated),
		cmocka_unit_test(test_wrong_ancestors),
		cmocka_unit_test(test_worth),
		cmocka_unit_test(test_rewritten),
		cmocka_unit_test(test_flips),
		cmocka_unit_test(test_python),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
