/* util.c, err.c and log.c: what everything else stands on. */
#include "core/err.h"
#include "core/log.h"
#include "core/util.h"
#include "tests/unit/test.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

static void test_ranges(void **state)
{
	uint64_t sum;

	(void)state;
	assert_true(range_inside(0, 0, 0));
	assert_true(range_inside(3, 7, 10));
	assert_true(range_inside(10, 0, 10));
	assert_false(range_inside(3, 8, 10));
	assert_false(range_inside(11, 0, 10));
	assert_false(range_inside(UINT64_MAX, 2, 10));
	assert_false(range_inside(2, UINT64_MAX, 10));
	assert_true(range_inside(0, UINT64_MAX, UINT64_MAX));
	assert_false(add_overflows(1, 2, &sum));
	assert_int_equal(sum, 3);
	assert_true(add_overflows(UINT64_MAX, 1, &sum));
	assert_int_equal(align_up(4097, 4096), 8192);
	assert_int_equal(align_up(4096, 4096), 4096);
	assert_int_equal(align_down(8191, 4096), 4096);
	assert_int_equal(min_u64(3, 2), 2);
}

static void test_parse_size(void **state)
{
	static const struct {
		const char *s;
		int r;
		uint64_t v;
	} rows[] = {
		{"0", 0, 0},
		{"65536", 0, 65536},
		{"4K", 0, 4096},
		{"4k", 0, 4096},
		{"128M", 0, 128 * MIB},
		{"3G", 0, 3 * GIB},
		{"18446744073709551615", 0, UINT64_MAX},
		{"18446744073709551616", -ERANGE, 0},
		{"17179869184G", -ERANGE, 0},
		{"", -EINVAL, 0},
		{"M", -EINVAL, 0},
		{"-1", -EINVAL, 0},
		{"+1", -EINVAL, 0},
		{" 1", -EINVAL, 0},
		{"1 ", -EINVAL, 0},
		{"1MB", -EINVAL, 0},
		{"1T", -EINVAL, 0},
		{"0x10", -EINVAL, 0},
		{NULL, -EINVAL, 0},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		uint64_t v = 0;

		assert_int_equal(parse_size(rows[i].s, &v), rows[i].r);
		if (!rows[i].r)
			assert_true(v == rows[i].v);
	}
}

static void test_full_io(void **state)
{
	AUTO_FD fd = memfd_create("t", MFD_CLOEXEC);
	char buf[8] = {0};
	int p[2];

	(void)state;
	assert_int_equal(write_full(fd, "0123456789", 10), 0);
	assert_int_equal(pread_full(fd, buf, 4, 3), 0);
	assert_memory_equal(buf, "3456", 4);
	assert_int_equal(pread_full(fd, buf, 4, 7), -EIO);
	assert_int_equal(pwrite_full(fd, "xy", 2, 9), 0);
	assert_int_equal(pread_full(fd, buf, 3, 8), 0);
	assert_memory_equal(buf, "8xy", 3);
	assert_int_equal(read_full(fd, buf, 1), 0);
	assert_int_equal(read_full(fd, buf, 1), -EIO);
	assert_int_equal(read_full(-1, buf, 1), -EBADF);
	assert_int_equal(write_full(-1, buf, 1), -EBADF);
	assert_int_equal(pread_full(-1, buf, 1, 0), -EBADF);
	assert_int_equal(pwrite_full(-1, buf, 1, 0), -EBADF);

	/* in pieces, as a pipe gives them */
	assert_int_equal(pipe2(p, O_CLOEXEC), 0);
	assert_int_equal(write(p[1], "ab", 2), 2);
	assert_int_equal(write(p[1], "cd", 2), 2);
	(void)close(p[1]);
	assert_int_equal(read_full(p[0], buf, 4), 0);
	assert_memory_equal(buf, "abcd", 4);
	assert_int_equal(read_full(p[0], buf, 1), -EIO);
	(void)close(p[0]);
}

static void test_auto(void **state)
{
	int fd, kept;

	(void)state;
	{
		AUTO_FD a = memfd_create("a", MFD_CLOEXEC);
		AUTO_FD b = memfd_create("b", MFD_CLOEXEC);
		AUTO_FREE char *p = strdup("freed at the end");

		assert_non_null(p);
		fd = a;
		kept = take_fd(&b);
		assert_int_equal(b, -1);
	}
	assert_int_equal(fcntl(fd, F_GETFD), -1);
	assert_true(fcntl(kept, F_GETFD) >= 0);
	(void)close(kept);
}

static void test_clocks(void **state)
{
	uint64_t a = now_ns(), b = now_ns();

	(void)state;
	assert_true(a > 0);
	assert_true(b >= a);
	assert_true(wall_ns() > 1600000000ULL * 1000000000ULL);
}

static void test_err(void **state)
{
	struct err e = {0};
	char big[2000];

	(void)state;
	assert_int_equal(err_set(&e, -ENOENT, "no %s", "way"), -ENOENT);
	assert_int_equal(e.code, -ENOENT);
	assert_string_equal(e.msg, "no way");
	assert_int_equal(err_wrap(&e, "clone %d", 7), -ENOENT);
	assert_string_equal(e.msg, "clone 7: no way");
	assert_int_equal(err_sys(&e, -EPERM, "open %s", "x"), -EPERM);
	assert_string_equal(e.msg, "open x: Operation not permitted");

	assert_int_equal(err_set(NULL, -EIO, "nobody"), -EIO);
	assert_int_equal(err_sys(NULL, -EIO, "nobody"), -EIO);
	assert_true(err_wrap(NULL, "nobody") < 0);

	memset(big, 'x', sizeof(big) - 1);
	big[sizeof(big) - 1] = 0;
	assert_int_equal(err_set(&e, -EIO, "%s", big), -EIO);
	assert_int_equal(err_sys(&e, -EIO, "%s", big), -EIO);
	assert_int_equal(err_wrap(&e, "%s", big), -EIO);
	assert_true(strlen(e.msg) < sizeof(e.msg));
}

/* What the log says, taken from stderr. */
static size_t logged(char *buf, size_t size, void (*fn)(void))
{
	int p[2], old = dup(STDERR_FILENO);
	ssize_t n;

	assert_int_equal(pipe2(p, O_CLOEXEC | O_NONBLOCK), 0);
	assert_true(dup2(p[1], STDERR_FILENO) >= 0);
	fn();
	assert_true(dup2(old, STDERR_FILENO) >= 0);
	n = read(p[0], buf, size - 1);
	(void)close(p[0]);
	(void)close(p[1]);
	(void)close(old);
	n = n < 0 ? 0 : n;
	buf[n] = 0;
	return (size_t)n;
}

static void say_short(void)
{
	log_error("disk %d", 3);
	log_warning("warm");
	log_info("hidden");
	log_debug("hidden");
}

static void say_long(void)
{
	char big[5000];

	memset(big, 'y', sizeof(big) - 1);
	big[sizeof(big) - 1] = 0;
	log_error("%s", big);
}

static void test_log(void **state)
{
	char buf[4000];
	size_t n;

	(void)state;
	log_init("thawd", LOG_WARNING);
	(void)logged(buf, sizeof(buf), say_short);
	assert_string_equal(
		buf, "thawd: error: disk 3\nthawd: warning: warm\n");
	n = logged(buf, sizeof(buf), say_long);
	assert_in_range(n, 100, 1024);
	assert_int_equal(buf[n - 1], '\n');
	assert_ptr_equal(strchr(buf, '\n'), buf + n - 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_ranges),
		cmocka_unit_test(test_parse_size),
		cmocka_unit_test(test_full_io),
		cmocka_unit_test(test_auto),
		cmocka_unit_test(test_clocks),
		cmocka_unit_test(test_err),
		cmocka_unit_test(test_log),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
