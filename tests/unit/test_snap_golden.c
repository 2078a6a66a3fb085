/*
 * Every format version ever released stays readable: tests/golden/ holds a
 * file of each, FORMAT.thaw, and here all are read. A change that makes one
 * unreadable is a mistake in the change, not in the file.
 *
 * "test_snap_golden --write DIR" makes the files of a new version, those that
 * are not there yet: DIR/full.thaw and the chain full <- diff-1 <- diff-2 <-
 * diff-3, of which the last shares a chunk with the first, and DIR/zstd.thaw
 * with compressed and with shared chunks.
 */
#include "tests/unit/test.h"
#include "tests/unit/snap_fake.h"
#include "core/vcpu.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define GOLDEN "tests/golden"
#define STEPS  4
static const char *const chain_names[STEPS] = {
	"full.thaw", "diff-1.thaw", "diff-2.thaw", "diff-3.thaw"};

static void make(struct machine *m)
{
	fake_machine_1_0(m, 4 * MIB);
	fake_page(m, 0x1000);
	fake_page(m, 0x3000);
	fake_page(m, 0x104000);
}

/* What stood at `from` at first stands at `to`. */
static void bring_back(struct machine *m, gpa_t from, gpa_t to)
{
	uint8_t now[PAGE_SIZE_4K];

	memcpy(now, m->mem.map + from, sizeof(now));
	fake_page(m, from);
	memcpy(m->mem.map + to, m->mem.map + from, sizeof(now));
	memcpy(m->mem.map + from, now, sizeof(now));
}

/* The first chunk of the full snapshot, elsewhere; and as much of zeros as
 * makes a writer look for it. */
static void change_last(struct machine *m, uint64_t *pages)
{
	bring_back(m, 0x1000, 0x301000);
	bring_back(m, 0x3000, 0x307000);
	m->saved.clock_ns += 3;
	memset(pages, 0, 1024 / 8);
	pages[0x301 / 64] |= 1ULL << 0x301 % 64 | 1ULL << 0x307 % 64;
	pages[0x340 / 64] |= 0xffffffff;
}

/* What a diff of the golden chain changes: a page anew, one that was there, and
 * one that becomes zero. */
static void change(struct machine *m, unsigned step, uint64_t *pages)
{
	unsigned anew = 0x200 + step, zero = step == 1 ? 1 : 0x104;

	if (step == STEPS - 1) {
		change_last(m, pages);
		return;
	}
	fake_page(m, anew * 0x1000ULL);
	memset(m->mem.map + 0x3000, (int)step, PAGE_SIZE_4K);
	memset(m->mem.map + zero * 0x1000ULL, 0, PAGE_SIZE_4K);
	m->saved.clock_ns += step;
	memset(pages, 0, 1024 / 8);
	pages[anew / 64] |= 1ULL << anew % 64;
	pages[0] |= 1ULL << 3;
	pages[zero / 64] |= 1ULL << zero % 64;
}

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

/* In which ancestor is the data of a chunk of the first leaf? */
static unsigned entry_file(int fd, unsigned chunk)
{
	struct image img;
	struct stat st;
	unsigned file;

	assert_int_equal(fstat(fd, &st), 0);
	img.n = (size_t)st.st_size;
	img.p = malloc(img.n);
	assert_non_null(img.p);
	assert_int_equal(pread_full(fd, img.p, img.n, 0), 0);
	file = image_leaf(&img, 0)->chunk[chunk].file;
	image_free(&img);
	return file;
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
		if (n == STEPS)
			assert_int_equal(entry_file(fd[0], 0x30), STEPS - 1);
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

static int read_step(int dir, struct snap_written *w, const char *name)
{
	int fd = openat(dir, name, O_RDONLY | O_CLOEXEC), rc;
	struct snap_peeked p;

	rc = fd < 0 ? -errno : snap_peek(fd, &p, NULL);
	if (!rc) {
		w->uuid = p.uuid;
		memcpy(w->digest, p.digest, sizeof(w->digest));
	}
	if (fd >= 0)
		(void)close(fd);
	return rc;
}

/* The chain up to here, newest first, for a diff that shares with it. */
static int open_steps(int dir, unsigned n, int *fd, struct snap **s)
{
	for (unsigned i = 0; i < n; i++)
		fd[i] = openat(
			dir, chain_names[n - 1 - i], O_RDONLY | O_CLOEXEC);
	return snap_open_chain(fd, n, s, NULL);
}

static int write_step(int dir, struct machine *m,
	const struct snap_write_opts *o, struct snap_written *w,
	const char *name)
{
	struct err e = {0};
	int fd = openat(dir, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644);

	/* It stays for ever; the next ones may build on it. */
	if (fd < 0 && errno == EEXIST)
		return read_step(dir, w, name);
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
	struct snap *s[STEPS];
	int fd[STEPS];
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
			rc = open_steps(dir, i, fd, s);
			if (rc)
				break;
			o.ancestors = s[0];
		}
		rc = write_step(dir, &m, &o, &w, chain_names[i]);
		if (i)
			snap_close_chain(s, i);
		for (unsigned k = 0; k < i; k++)
			(void)close(fd[k]);
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
