/*
 * Every format version ever released stays readable: tests/golden/ holds a
 * file of each, FORMAT.thaw, and here all are read. A change that makes one
 * unreadable is a mistake in the change, not in the file.
 *
 * "test_snap_golden --write DIR" makes the files of a new version in an empty
 * folder: DIR/full.thaw and the chain full <- diff-1 <- diff-2, and
 * DIR/zstd.thaw with compressed and with shared chunks.
 */
#include "tests/unit/test.h"
#include "tests/unit/snap_fake.h"
#include "core/vcpu.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#define GOLDEN "tests/golden"

static void make(struct machine *m)
{
	fake_machine_1_0(m, 4 * MIB);
	fake_page(m, 0x1000);
	fake_page(m, 0x3000);
	fake_page(m, 0x104000);
}

/* What a diff of the golden chain changes: a page anew, one that was there, and
 * one that becomes zero. */
static void change(struct machine *m, unsigned step, uint64_t *pages)
{
	unsigned anew = 0x200 + step, zero = step == 1 ? 1 : 0x104;

	fake_page(m, anew * 0x1000ULL);
	memset(m->mem.map + 0x3000, (int)step, PAGE_SIZE_4K);
	memset(m->mem.map + zero * 0x1000ULL, 0, PAGE_SIZE_4K);
	m->saved.clock_ns += step;
	memset(pages, 0, 1024 / 8);
	pages[anew / 64] |= 1ULL << anew % 64;
	pages[0] |= 1ULL << 3;
	pages[zero / 64] |= 1ULL << zero % 64;
}

#define STEPS 3
static const char *const chain_names[STEPS] = {
	"full.thaw", "diff-1.thaw", "diff-2.thaw"};

/* The machine of a chain after so many diffs. */
static void make_step(struct machine *m, unsigned steps)
{
	uint64_t pages[1024 / 64];

	make(m);
	for (unsigned i = 1; i <= steps; i++)
		change(m, i, pages);
}

#define ZSTD_NAME "zstd.thaw"
/* Two windows that hold the same. */
static void make_shared(struct machine *m)
{
	make(m);
	memset(m->mem.map + 0x200000, 5, PAGE_SIZE_4K);
	memset(m->mem.map + 0x210000, 5, PAGE_SIZE_4K);
}

/* Load s, whose chain is attached, and compare with the machine. */
static void check_loads(struct snap *s, struct machine *want, const char *name)
{
	struct machine_config cfg;
	struct machine got;
	struct err e = {0};

	if (snap_read_config(s, &cfg, &e))
		fail_msg("%s: %s", name, e.msg);
	fake_empty(&got, &cfg);
	if (snap_load_state(s, &got, &e) ||
		mem_create(&got.mem, cfg.memory, MEM_PRIVATE, -1, &e) ||
		snap_load_memory(s, &got.mem, 1, &e))
		fail_msg("%s: %s", name, e.msg);
	/* what devices save at power-on may change, what was set here may not
	 */
	assert_true(fake_same(&machine_config_desc, &want->cfg, &got.cfg));
	assert_true(fake_same(&machine_state_desc, &want->saved, &got.saved));
	for (unsigned i = 0; i < want->ncpus; i++)
		assert_true(fake_same(
			&vcpu_state_desc, want->cpu[i]->s, got.cpu[i]->s));
	assert_true(fake_same_memory(want, &got));
	machine_destroy(&got);
}

static int open_verified(int dirfd_, const char *name)
{
	int fd = openat(dirfd_, name, O_RDONLY | O_CLOEXEC);
	struct snap_verified v;
	struct err e = {0};

	assert_true(fd >= 0);
	if (snap_verify_fd(fd, &v, NULL, NULL, &e))
		fail_msg("%s: %s", name, e.msg);
	return fd;
}

static void check_file(
	int dirfd_, const char *name, void (*make_it)(struct machine *m))
{
	int fd = open_verified(dirfd_, name);
	struct snap *s = NULL;
	struct machine want;
	struct err e = {0};

	if (snap_open(fd, &s, &e))
		fail_msg("%s: %s", name, e.msg);
	make_it(&want);
	check_loads(s, &want, name);
	machine_destroy(&want);
	snap_close(s);
	close(fd);
}

/* A folder holds the shapes of a version beyond a plain file. */
static void check_folder(int dirfd_, const char *name)
{
	int dir = openat(dirfd_, name, O_DIRECTORY | O_RDONLY | O_CLOEXEC);
	struct snap *s[STEPS];
	int fd[STEPS];

	assert_true(dir >= 0);
	for (unsigned n = 1; n <= STEPS; n++) {
		struct machine want;
		struct err e = {0};

		/* newest first */
		for (unsigned i = 0; i < n; i++)
			fd[i] = open_verified(dir, chain_names[n - 1 - i]);
		if (snap_open_chain(fd, n, s, &e))
			fail_msg("%s: %s", name, e.msg);
		make_step(&want, n - 1);
		check_loads(s[0], &want, chain_names[n - 1]);
		machine_destroy(&want);
		snap_close_chain(s, n);
		for (unsigned i = 0; i < n; i++)
			close(fd[i]);
	}
	check_file(dir, ZSTD_NAME, make_shared);
	close(dir);
}

static void test_all(void **state)
{
	DIR *d = opendir(GOLDEN);
	const struct dirent *x;
	unsigned n = 0, folders = 0;

	(void)state;
	if (!d) {
		print_message("skipped: no %s here\n", GOLDEN);
		skip();
	}
	while (d && (x = readdir(d))) {
		if (strstr(x->d_name, ".thaw")) {
			check_file(dirfd(d), x->d_name, make);
			n++;
		} else if (x->d_type == DT_DIR && x->d_name[0] != '.') {
			check_folder(dirfd(d), x->d_name);
			folders++;
		}
	}
	if (d)
		closedir(d);
	assert_true(n > 0 && folders > 0);
}

static int write_step(int dir, struct machine *m,
	const struct snap_write_opts *o, struct snap_written *w,
	const char *name)
{
	struct err e = {0};
	int fd = openat(dir, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644);

	if (fd < 0 || snap_write(m, fd, o, w, &e)) {
		(void)fprintf(stderr, "%s: %s\n", name,
			fd < 0 ? strerror(errno) : e.msg);
		return -1;
	}
	return close(fd);
}

static int write_golden(const char *path)
{
	struct snap_write_opts o = {.labels_json = "{\"golden\": \"yes\"}"};
	int dir = open(path, O_DIRECTORY | O_RDONLY | O_CLOEXEC), rc = 0;
	uint64_t pages[1024 / 64];
	struct snap_parent parent;
	struct snap_written w;
	struct machine m;

	make(&m);
	for (unsigned i = 0; i < STEPS && !rc; i++) {
		if (i) {
			parent.uuid = w.uuid;
			memcpy(parent.digest, w.digest, sizeof(w.digest));
			parent.path = chain_names[i - 1];
			o.parent = &parent;
			change(&m, i, pages);
			o.pages = pages;
		}
		rc = write_step(dir, &m, &o, &w, chain_names[i]);
	}
	machine_destroy(&m);
	make_shared(&m);
	o = (struct snap_write_opts){
		.labels_json = o.labels_json, .zstd_level = 3};
	if (!rc)
		rc = write_step(dir, &m, &o, &w, ZSTD_NAME);
	machine_destroy(&m);
	return rc || close(dir) ? 1 : 0;
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_all),
	};

	if (argc == 3 && !strcmp(argv[1], "--write"))
		return write_golden(argv[2]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
