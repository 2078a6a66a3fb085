/* The second reader, in Python, agrees with verify on good and bad files. */
#include "tests/unit/test.h"
#include "tests/unit/snap_hostile.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#define READER  "/usr/bin/python3 tests/snapshot_reader.py"
#define FLIPS   60
#define MAX_DIR 64

static char dir[MAX_DIR];

static int setup(void **state)
{
	(void)state;
	(void)snprintf(dir, sizeof(dir), "/tmp/thaw-python-XXXXXX");
	return mkdtemp(dir) ? 0 : -1;
}

static int teardown(void **state)
{
	char command[MAX_DIR + 16];

	(void)state;
	(void)snprintf(command, sizeof(command), "rm -r %s", dir);
	return system(command);
}

static bool no_python(void)
{
	if (access("tests/snapshot_reader.py", R_OK) == 0 &&
		system("/usr/bin/python3 -c pass 2>/dev/null") == 0)
		return false;
	print_message("skipped: python3 or tests/snapshot_reader.py is not "
		      "there\n");
	return true;
}

static void store(const struct image *img, unsigned n)
{
	char path[MAX_DIR + 16];
	int fd;

	(void)snprintf(path, sizeof(path), "%s/%04u", dir, n);
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	image_store(img, fd);
	close(fd);
}

static bool verdict(unsigned n, struct err *e)
{
	struct snap_verified v;
	char path[MAX_DIR + 16];
	int fd, rc;

	(void)snprintf(path, sizeof(path), "%s/%04u", dir, n);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	assert_true(fd >= 0);
	rc = snap_verify_fd(fd, &v, NULL, NULL, e);
	close(fd);
	return rc == 0;
}

/* Both readers over files 0..n-1. */
static void compare(unsigned n)
{
	char command[MAX_DIR + 96], line[300];
	FILE *f;

	(void)snprintf(command, sizeof(command), READER " %s/*", dir);
	f = popen(command, "r");
	assert_non_null(f);
	for (unsigned i = 0; i < n; i++) {
		struct err e = {0};
		bool ours = verdict(i, &e);

		assert_non_null(fgets(line, sizeof(line), f));
		if (ours != !strncmp(line, "ok", 2))
			fail_msg("file %u: verify: %s; python: %s", i,
				ours ? "ok" : e.msg, line);
	}
	assert_null(fgets(line, sizeof(line), f));
	assert_true(pclose(f) != -1);
}

static void test_verdicts(void **state)
{
	struct image good, bad;
	uint32_t seed = 99;
	unsigned n = 0;

	(void)state;
	if (no_python())
		skip();
	image_make(&good);
	store(&good, n++);
	for (size_t i = 0; i < hostile_count; i++) {
		hostile_image(&hostile_cases[i], &good, &bad);
		store(&bad, n++);
		image_free(&bad);
	}
	for (unsigned i = 0; i < FLIPS; i++) {
		seed = seed * 1664525 + 1013904223;
		image_copy(&bad, &good);
		bad.p[(seed >> 8) % bad.n] ^= (uint8_t)(1U << (i % 8));
		store(&bad, n++);
		bad.n -= 1 + seed % 5000;
		store(&bad, n++);
		image_free(&bad);
	}
	compare(n);
	image_free(&good);
}

/* The same of compressed chunks. */
static void test_packed_verdicts(void **state)
{
	struct snap_write_opts o = {.zstd_level = 3};
	struct snap_written w;
	struct image good, bad;
	struct err e = {0};
	struct machine m;
	unsigned n = 0;
	int fd;

	(void)state;
	if (no_python())
		skip();
	fake_machine(&m, 4 * MIB, MEM_PRIVATE);
	for (unsigned i = 0; i < 20; i++)
		fake_page(&m, i * 0x3000);
	fd = fake_file();
	assert_int_equal(snap_write(&m, fd, &o, &w, &e), 0);
	machine_destroy(&m);
	good.n = (size_t)w.file_bytes;
	good.p = malloc(good.n);
	assert_non_null(good.p);
	assert_int_equal(pread_full(fd, good.p, good.n, 0), 0);
	close(fd);
	store(&good, n++);
	image_copy(&bad, &good);
	image_header(&bad)->min_reader_minor = 0;
	image_seal(&bad);
	store(&bad, n++);
	image_free(&bad);
	for (unsigned i = 0; i < FLIPS; i++) {
		const struct snap_chunk *c = &image_leaf(&good, 0)->chunk[0];

		assert_int_equal(c->codec, SNAP_CODEC_ZSTD);
		image_copy(&bad, &good);
		/* from the frame's header on */
		bad.p[c->offset + i / 8 * 3 % c->stored_length] ^=
			(uint8_t)(1U << i % 8);
		store(&bad, n++);
		image_free(&bad);
	}
	compare(n);
	image_free(&good);
}

static void test_memory(void **state)
{
	char command[2 * MAX_DIR + 120], path[MAX_DIR + 16];
	struct image img;
	struct machine m;
	uint8_t *got;
	int fd;

	(void)state;
	if (no_python())
		skip();
	image_make(&img);
	store(&img, 0);
	image_free(&img);
	(void)snprintf(path, sizeof(path), "%s/memory", dir);
	(void)snprintf(
		command, sizeof(command), READER " -m %s %s/0000", path, dir);
	assert_int_equal(system(command), 0);
	/* the pages that image_make() fills */
	fake_machine(&m, 4 * MIB, MEM_PRIVATE);
	fake_page(&m, 0x1000);
	fake_page(&m, 0x3000);
	fake_page(&m, 0x104000);
	got = malloc(4 * MIB);
	assert_non_null(got);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	assert_int_equal(pread_full(fd, got, 4 * MIB, 0), 0);
	assert_memory_equal(got, m.mem.map, 4 * MIB);
	close(fd);
	free(got);
	machine_destroy(&m);
}

/* A compressed diff of a raw snapshot: both readers see the same memory. */
static void test_chain(void **state)
{
	char command[3 * MAX_DIR + 120], path[MAX_DIR + 16], full[MAX_DIR + 16];
	uint64_t changed[4 * MIB / PAGE_SIZE_4K / 64] = {0};
	struct snap_parent parent = {.path = "0000"};
	struct snap_write_opts o = {0};
	struct snap_written w;
	struct err e = {0};
	struct machine m;
	uint8_t *got;
	int fd;

	(void)state;
	if (no_python())
		skip();
	fake_machine(&m, 4 * MIB, MEM_PRIVATE);
	for (unsigned i = 0; i < 40; i++)
		fake_page(&m, 0x1000 + i * 0x3000);
	(void)snprintf(full, sizeof(full), "%s/0000", dir);
	fd = open(full, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	assert_int_equal(snap_write(&m, fd, &o, &w, &e), 0);
	close(fd);
	parent.uuid = w.uuid;
	memcpy(parent.digest, w.digest, sizeof(parent.digest));
	o = (struct snap_write_opts){
		.parent = &parent, .pages = changed, .zstd_level = 2};
	/* page 1 becomes zero, page 4 another one, page 2 is new */
	memset(mem_at(&m.mem, 0x1000, 0x1000, MEM_WRITE), 0, 0x1000);
	memset(mem_at(&m.mem, 0x4000, 0x1000, MEM_WRITE), 7, 0x1000);
	fake_page(&m, 0x2000);
	changed[0] = 1U << 1 | 1U << 2 | 1U << 4;
	(void)snprintf(path, sizeof(path), "%s/0001", dir);
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	assert_int_equal(snap_write(&m, fd, &o, &w, &e), 0);
	close(fd);
	(void)snprintf(command, sizeof(command), READER " -m %s/memory %s %s",
		dir, path, full);
	assert_int_equal(system(command), 0);
	/* the child alone is not enough */
	(void)snprintf(command, sizeof(command), READER " -m %s/x %s 2>%s/err",
		dir, path, dir);
	assert_int_not_equal(system(command), 0);
	(void)snprintf(path, sizeof(path), "%s/memory", dir);
	got = malloc(4 * MIB);
	assert_non_null(got);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	assert_int_equal(pread_full(fd, got, 4 * MIB, 0), 0);
	assert_memory_equal(got, m.mem.map, 4 * MIB);
	close(fd);
	free(got);
	machine_destroy(&m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_verdicts, setup, teardown),
		cmocka_unit_test_setup_teardown(
			test_packed_verdicts, setup, teardown),
		cmocka_unit_test_setup_teardown(test_memory, setup, teardown),
		cmocka_unit_test_setup_teardown(test_chain, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
