/* Publication: complete under its name or not there at all. */
#include "tests/unit/test.h"
#include "snapshot/publish.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <time.h>

static char dir[64];

static int setup(void **state)
{
	(void)state;
	(void)snprintf(dir, sizeof(dir), "/tmp/thaw-publish-XXXXXX");
	return mkdtemp(dir) ? 0 : -1;
}

static int open_dir(int flags)
{
	int fd = open(dir, O_DIRECTORY | O_CLOEXEC | flags);

	assert_true(fd >= 0);
	return fd;
}

static unsigned entries(void)
{
	DIR *d = opendir(dir);
	unsigned n = 0;

	assert_non_null(d);
	while (readdir(d))
		n++;
	closedir(d);
	return n - 2;
}

static int teardown(void **state)
{
	DIR *d = opendir(dir);
	struct dirent *x;

	(void)state;
	while (d && (x = readdir(d))) {
		if (x->d_name[0] != '.' || strlen(x->d_name) > 2)
			(void)unlinkat(dirfd(d), x->d_name,
				x->d_type == DT_DIR ? AT_REMOVEDIR : 0);
	}
	if (d)
		closedir(d);
	return rmdir(dir);
}

static void content_is(int dirfd_, const char *name, const char *want)
{
	char got[32] = "";
	int fd = openat(dirfd_, name, O_RDONLY | O_CLOEXEC);

	assert_true(fd >= 0);
	assert_true(read(fd, got, sizeof(got) - 1) >= 0);
	assert_string_equal(got, want);
	close(fd);
}

static void publish_text(
	int dirfd_, const char *name, const char *text, bool force)
{
	struct publish p = {0};
	struct err e = {0};

	if (publish_begin(&p, dirfd_, name, force, &e))
		fail_msg("%s", e.msg);
	assert_int_equal(write_full(p.fd, text, strlen(text)), 0);
	if (publish_commit(&p, &e))
		fail_msg("%s", e.msg);
	publish_abort(&p);
}

static void test_commit(void **state)
{
	int d = open_dir(O_PATH);
	struct stat st;

	(void)state;
	publish_text(d, "a", "one", false);
	content_is(d, "a", "one");
	assert_int_equal(fstatat(d, "a", &st, 0), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	assert_int_equal(st.st_nlink, 1);
	assert_int_equal(entries(), 1);
	close(d);
}

static void test_unseen_before(void **state)
{
	int d = open_dir(O_RDONLY);
	struct publish p = {0};
	struct stat st;

	(void)state;
	assert_int_equal(publish_begin(&p, d, "a", false, NULL), 0);
	assert_int_equal(fstatat(d, "a", &st, 0), -1);
	assert_int_equal(entries(), p.temp[0] ? 1 : 0);
	publish_abort(&p);
	publish_abort(&p);
	assert_int_equal(entries(), 0);
	close(d);
}

static void test_exists(void **state)
{
	int d = open_dir(O_RDONLY);
	struct publish p = {0};
	struct err e = {0};

	(void)state;
	publish_text(d, "a", "one", false);
	assert_int_equal(publish_begin(&p, d, "a", false, &e), -EEXIST);
	assert_string_equal(e.msg, "a exists already; \"force\" replaces it");
	publish_abort(&p);
	/* taken meanwhile */
	assert_int_equal(publish_begin(&p, d, "b", false, &e), 0);
	assert_int_equal(symlinkat("nowhere", d, "b"), 0);
	assert_int_equal(publish_commit(&p, &e), -EEXIST);
	publish_abort(&p);
	content_is(d, "a", "one");
	assert_int_equal(entries(), 2);
	close(d);
}

static void test_force(void **state)
{
	int d = open_dir(O_RDONLY);
	struct publish p = {0};
	struct err e = {0};

	(void)state;
	publish_text(d, "a", "one", false);
	assert_int_equal(publish_begin(&p, d, "a", true, &e), 0);
	assert_int_equal(write_full(p.fd, "two", 3), 0);
	content_is(d, "a", "one");
	assert_int_equal(publish_commit(&p, &e), 0);
	publish_abort(&p);
	content_is(d, "a", "two");
	publish_text(d, "new", "x", true);
	assert_int_equal(entries(), 2);
	assert_int_equal(mkdirat(d, "sub", 0700), 0);
	assert_int_equal(publish_begin(&p, d, "sub", true, &e), -EISDIR);
	publish_abort(&p);
	close(d);
}

static void test_names(void **state)
{
	static const char *const bad[] = {"", ".", "..", "a/b", "/etc/x"};
	int d = open_dir(O_RDONLY);
	struct publish p = {0};
	char name[NAME_MAX + 2];

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(
			publish_begin(&p, d, bad[i], true, NULL), -EINVAL);
	memset(name, 'x', sizeof(name));
	name[NAME_MAX + 1] = '\0';
	assert_int_equal(publish_begin(&p, d, name, true, NULL), -ENAMETOOLONG);
	assert_int_equal(p.fd, -1);
	close(d);
}

/* The way with a temporary name gives the same results. */
static void test_named(void **state)
{
	int d = open_dir(O_RDONLY);
	struct publish p = {0};
	struct err e = {0};

	(void)state;
	for (int force = 0; force < 2; force++) {
		assert_int_equal(publish_begin(&p, d, "a", force, &e), 0);
		/* as if O_TMPFILE had not been there */
		close(p.fd);
		(void)snprintf(p.temp, sizeof(p.temp), ".thaw-test");
		p.fd = openat(d, p.temp, O_RDWR | O_CREAT | O_EXCL, 0600);
		assert_int_equal(publish_commit(&p, &e), 0);
		publish_abort(&p);
		assert_int_equal(entries(), 1);
	}
	assert_int_equal(publish_begin(&p, d, "b", false, &e), 0);
	close(p.fd);
	(void)snprintf(p.temp, sizeof(p.temp), ".thaw-test");
	p.fd = openat(d, p.temp, O_RDWR | O_CREAT | O_EXCL, 0600);
	publish_text(d, "b", "other", false);
	assert_int_equal(publish_commit(&p, &e), -EEXIST);
	publish_abort(&p);
	content_is(d, "b", "other");
	assert_int_equal(entries(), 2);
	close(d);
}

/* A full disk: the error says so and nothing stays. */
/* A file with a temporary name, last written a day ago or now. */
static int left(int d, const char *name, bool old)
{
	const struct timespec times[2] = {{.tv_nsec = UTIME_OMIT},
		{.tv_sec = time(NULL) - (old ? 86400 : 0)}};
	int fd = openat(d, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

	assert_true(fd >= 0);
	assert_int_equal(futimens(fd, times), 0);
	return fd;
}

static bool there(int d, const char *name)
{
	return !faccessat(d, name, F_OK, AT_SYMLINK_NOFOLLOW);
}

static void name_it(int d, int fd, const char *name)
{
	const struct timespec times[2] = {
		{.tv_nsec = UTIME_OMIT}, {.tv_sec = time(NULL) - 86400}};
	char proc[40];

	(void)snprintf(proc, sizeof(proc), "/proc/self/fd/%d", fd);
	assert_int_equal(linkat(AT_FDCWD, proc, d, name, AT_SYMLINK_FOLLOW), 0);
	assert_int_equal(futimens(fd, times), 0);
}

/* Writers that were killed leave names; the next one that sweeps removes
 * them, and no others. */
static void test_left_behind(void **state)
{
	struct publish p = {.sweep = true}, first = {.sweep = true};
	int d = open_dir(O_RDONLY), locked;
	struct err e = {0};

	(void)state;
	close(left(d, ".thaw-0123456789abcdef", true));
	close(left(d, ".thaw-00000000000000ff", false));
	close(left(d, ".thaw-0123456789abcde", true));
	close(left(d, ".thaw-0123456789abcdeg", true));
	assert_int_equal(symlinkat("x", d, ".thaw-0000000000000000"), 0);
	locked = left(d, ".thaw-1111111111111111", true);
	assert_int_equal(flock(locked, LOCK_EX | LOCK_NB), 0);
	assert_int_equal(publish_begin(&p, d, "swept", false, &e), 0);
	publish_abort(&p);
	assert_false(there(d, ".thaw-0123456789abcdef"));
	assert_true(there(d, ".thaw-00000000000000ff"));
	assert_true(there(d, ".thaw-0123456789abcde"));
	assert_true(there(d, ".thaw-0123456789abcdeg"));
	assert_true(there(d, ".thaw-0000000000000000"));
	assert_true(there(d, ".thaw-1111111111111111"));
	close(locked);

	/* a writer that lives, with a name as if O_TMPFILE had not been there
	 */
	assert_int_equal(publish_begin(&first, d, "slow", false, &e), 0);
	(void)snprintf(
		first.temp, sizeof(first.temp), ".thaw-2222222222222222");
	name_it(d, first.fd, first.temp);
	assert_int_equal(publish_begin(&p, d, "swept", false, &e), 0);
	publish_abort(&p);
	assert_false(there(d, ".thaw-1111111111111111"));
	assert_true(there(d, first.temp));
	publish_abort(&first);
	close(d);
}

static void test_full_disk(void **state)
{
	static const uint8_t block[65536];
	struct publish p = {0};
	struct err e = {0};
	int d, rc = 0;

	(void)state;
	if (mount("none", dir, "tmpfs", 0, "size=1m")) {
		print_message(
			"skipped: a tmpfs needs root: %s\n", strerror(errno));
		skip();
	}
	d = open_dir(O_RDONLY);
	assert_int_equal(publish_begin(&p, d, "a", false, &e), 0);
	for (int i = 0; i < 17 && !rc; i++)
		rc = write_full(p.fd, block, sizeof(block));
	assert_int_equal(rc, -ENOSPC);
	publish_abort(&p);
	assert_int_equal(entries(), 0);
	close(d);
	assert_int_equal(umount2(dir, MNT_DETACH), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_commit, setup, teardown),
		cmocka_unit_test_setup_teardown(
			test_unseen_before, setup, teardown),
		cmocka_unit_test_setup_teardown(test_exists, setup, teardown),
		cmocka_unit_test_setup_teardown(test_force, setup, teardown),
		cmocka_unit_test_setup_teardown(test_names, setup, teardown),
		cmocka_unit_test_setup_teardown(test_named, setup, teardown),
		cmocka_unit_test_setup_teardown(
			test_left_behind, setup, teardown),
		cmocka_unit_test_setup_teardown(
			test_full_disk, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
