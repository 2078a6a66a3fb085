/* Large writes of snapshots, and a kernel that does not answer any more. */
#include "snapshot/internal.h"
#include "tests/unit/snap_fake.h"
#include "tests/unit/test.h"

#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

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

/* From now on a call that hands one entry to a ring is refused. */
static int refuse_entries(void)
{
	struct sock_filter insn[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS,
			offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_enter, 0, 3),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS,
			offsetof(struct seccomp_data, args[1])),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 1, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EAGAIN),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	const struct sock_fprog prog = {ARRAY_SIZE(insn), insn};

	return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ||
	       syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &prog);
}

/* Pieces 0 to 7 with batch 0, each when the one before is written; another
 * write is under way at the first that is refused. The exit status. */
static int write_refused(int fd, uint8_t *buf)
{
	struct iovec last = {buf + PIECE, PIECE}, iov = {buf, PIECE};
	struct snap_output *o;
	struct err e = {0};

	if (snap_output_open(fd, 16 * PIECE, &o, &e))
		return 1;
	if (find_ring() < 0)
		return 77;
	memset(buf + PIECE, 9, PIECE);
	if (snap_output_write(o, 1, &last, 1, 8 * PIECE, &e) ||
		refuse_entries())
		return 2;
	for (unsigned i = 0; i < 8; i++) {
		memset(buf, (int)i + 1, PIECE);
		if (snap_output_write(o, 0, &iov, 1, i * PIECE, &e) ||
			snap_output_wait(o, 0, &e))
			return 3;
	}
	return snap_output_wait(o, 1, &e) || !snap_output_close(o) ? 4 : 0;
}

/* A ring that takes an entry no more: it must not be taken later, when its list
 * is another write's. */
static void test_refused(void **state)
{
	uint8_t *buf = aligned_alloc(4096, 2 * PIECE), *back = malloc(PIECE);
	char path[] = "/tmp/thaw-output-XXXXXX";
	int fd = mkstemp(path), status;
	pid_t pid;

	(void)state;
	assert_true(fd >= 0 && buf && back);
	pid = fork();
	assert_true(pid >= 0);
	if (!pid)
		_exit(write_refused(fd, buf));
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(unlink(path), 0);
	assert_true(WIFEXITED(status));
	if (WEXITSTATUS(status) == 77)
		skip();
	assert_int_equal(WEXITSTATUS(status), 0);
	for (unsigned i = 0; i < 9; i++) {
		assert_int_equal(
			pread_full(fd, back, PIECE, (uint64_t)i * PIECE), 0);
		assert_int_equal(back[0], i + 1);
		assert_memory_equal(back, back + 1, PIECE - 1);
	}
	(void)close(fd);
	free(buf);
	free(back);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_written),
		cmocka_unit_test(test_broken),
		cmocka_unit_test(test_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
