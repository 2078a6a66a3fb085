/* Large writes of snapshots, and a kernel that does not answer any more. */
#include "snapshot/internal.h"
#include "tests/unit/snap_fake.h"
#include "tests/unit/test.h"

#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define PIECE (256 * KIB)

/* Whatever way there is: what is read back is what was written. */
static void test_written(void **state)
{
	uint8_t *buf = aligned_alloc(4096, 3 * PIECE), *back = malloc(PIECE);
	struct snap_output *o;
	struct err e = {0};
	char path[] = "/tmp/thaw-output-XXXXXX";
	int fd = mkstemp(path);

	(void)state;
	assert_true(fd >= 0 && buf && back);
	assert_int_equal(snap_output_open(fd, 64 * PIECE, &o, &e), 0);
	for (unsigned i = 0; i < 32; i++) {
		uint8_t *p = buf + i % 3 * PIECE;
		/* one in four is not aligned */
		size_t n = i % 4 ? PIECE : PIECE - 100;
		struct iovec iov[2] = {{p, 4096}, {p + 4096, n - 4096}};

		assert_int_equal(snap_output_wait(o, i % 3, &e), 0);
		memset(p, (int)i + 1, PIECE);
		assert_int_equal(snap_output_write(o, i % 3, iov, 2,
					 (uint64_t)i * PIECE, &e),
			0);
	}
	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(snap_output_wait(o, i, &e), 0);
	assert_true(snap_output_close(o));
	for (unsigned i = 0; i < 32; i++) {
		size_t n = i % 4 ? PIECE : PIECE - 100;

		assert_int_equal(
			pread_full(fd, back, n, (uint64_t)i * PIECE), 0);
		assert_int_equal(back[0], i + 1);
		assert_memory_equal(back, back + 1, n - 1);
	}
	assert_int_equal(unlink(path), 0);
	(void)close(fd);
	free(buf);
	free(back);
}

/* The descriptor of the only ring of this process; -1: there is none. */
static int find_ring(void)
{
	char path[64], to[64];

	for (int fd = 0; fd < 256; fd++) {
		ssize_t n;

		(void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
		n = readlink(path, to, sizeof(to) - 1);
		to[n < 0 ? 0 : n] = 0;
		if (strstr(to, "io_uring"))
			return fd;
	}
	return -1;
}

/* A write that never ends, and a ring that is gone. */
static void test_broken(void **state)
{
	static uint8_t buf[PIECE]; /* large; stays as long as it must */
	struct iovec iov = {buf, PIECE};
	struct snap_output *o;
	struct err e = {0};
	int fd[2], ring, other;

	(void)state;
	memset(buf, 1, PIECE);
	assert_int_equal(pipe2(fd, O_CLOEXEC), 0);
	/* full, so that the write has to wait */
	assert_int_equal(fcntl(fd[1], F_SETPIPE_SZ, PIECE), PIECE);
	assert_int_equal(write_full(fd[1], buf, PIECE), 0);
	assert_int_equal(snap_output_open(fd[1], 0, &o, &e), 0);
	ring = find_ring();
	if (ring < 0) {
		/* Written at once, this would wait for ever. */
		assert_true(snap_output_close(o));
		skip();
	}
	assert_int_equal(snap_output_write(o, 1, &iov, 1, 0, &e), 0);
	other = memfd_create("other", MFD_CLOEXEC);
	assert_int_equal(dup2(other, ring), ring);
	assert_int_not_equal(snap_output_wait(o, 1, &e), 0);
	assert_non_null(strstr(e.msg, "byte 0"));
	/* not once more, and the other batches have nothing to wait for */
	assert_int_not_equal(snap_output_wait(o, 1, &e), 0);
	assert_int_equal(snap_output_wait(o, 0, &e), 0);
	assert_false(snap_output_close(o));
	(void)close(other);
	(void)close(fd[0]);
	(void)close(fd[1]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_written),
		cmocka_unit_test(test_broken),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
