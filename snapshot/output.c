/*
 * Writing a large file in large pieces.
 *
 * How it works: several writes are under way while the next data is made, by
 * io_uring, or, where a filter forbids to make a ring (in a machine's process),
 * by the kernel's older asynchronous I/O; where there is neither, the same
 * calls write at once. Data goes past the page cache (O_DIRECT) where the file
 * system can: it will not be read again soon, and only then is the older way
 * really asynchronous. That wants every piece aligned; a write that is not goes
 * the usual way. A write that makes a file longer is not asynchronous either,
 * so the file first gets the length that it can have at most.
 *
 * A ring passes no seccomp filter, so it is bound to writing this one file
 * before it does anything.
 */
#include "snapshot/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <linux/aio_abi.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>

/* What every file system and disk is content with. */
#define DIRECT_ALIGN 4096U

struct under_way {
	struct iovec *iov; /* owned: what is left to write */
	unsigned n, cap;
	uint64_t offset;
	struct iocb cb;
	bool busy;
	int rc;
};

enum way {
	WAY_NOW,
	WAY_RING,
	WAY_AIO,
};

struct snap_output {
	int fd; /* borrowed */
	int flags;
	bool direct;
	enum way way;
	struct io_uring ring;
	aio_context_t aio;
	int broken; /* no completion can be had any more: why */
	struct under_way w[SNAP_OUTPUT_BATCHES];
};

static int set_direct(struct snap_output *o, bool on)
{
	int flags = on ? o->flags | O_DIRECT : o->flags & ~O_DIRECT;

	return fcntl(o->fd, F_SETFL, flags) ? -errno : 0;
}

/* Room in front, but never more than we may have: that would be a signal. */
static void make_room(const struct snap_output *o, uint64_t most)
{
	struct rlimit lim;

	if (!getrlimit(RLIMIT_FSIZE, &lim) && lim.rlim_cur == RLIM_INFINITY)
		(void)!ftruncate(o->fd, (off_t)most);
}

static const struct io_uring_restriction restrictions[] = {
	{.opcode = IORING_RESTRICTION_SQE_OP, .sqe_op = IORING_OP_WRITEV},
	{.opcode = IORING_RESTRICTION_SQE_FLAGS_REQUIRED,
		.sqe_flags = IOSQE_FIXED_FILE},
	{.opcode = IORING_RESTRICTION_REGISTER_OP,
		.register_op = IORING_REGISTER_ENABLE_RINGS},
};

/* Debian 12's shared liburing does not export the functions for these. */
static int ring_register(
	const struct snap_output *o, unsigned op, const void *arg, unsigned n)
{
	return syscall(SYS_io_uring_register, o->ring.ring_fd, op, arg, n)
		       ? -errno
		       : 0;
}

static int ring_open(struct snap_output *o)
{
	int rc = io_uring_queue_init(
		2 * SNAP_OUTPUT_BATCHES, &o->ring, IORING_SETUP_R_DISABLED);

	if (rc)
		return rc;
	rc = io_uring_register_files(&o->ring, &o->fd, 1);
	if (!rc)
		rc = ring_register(o, IORING_REGISTER_RESTRICTIONS,
			restrictions, ARRAY_SIZE(restrictions));
	if (!rc)
		rc = ring_register(o, IORING_REGISTER_ENABLE_RINGS, NULL, 0);
	if (rc)
		io_uring_queue_exit(&o->ring);
	return rc;
}

static enum way choose(struct snap_output *o)
{
	if (!ring_open(o))
		return WAY_RING;
	if (o->direct && !syscall(SYS_io_setup, SNAP_OUTPUT_BATCHES, &o->aio))
		return WAY_AIO;
	return WAY_NOW;
}

int snap_output_open(
	int fd, uint64_t most, struct snap_output **out, struct err *e)
{
	struct snap_output *o = calloc(1, sizeof(*o));

	*out = NULL;
	if (!o)
		return err_set(e, -ENOMEM, "snapshot: out of memory");
	o->fd = fd;
	o->flags = fcntl(fd, F_GETFL);
	if (o->flags < 0) {
		free(o);
		return err_sys(e, -errno, "snapshot file");
	}
	o->direct = most && !set_direct(o, true);
	o->way = choose(o);
	if (o->direct)
		make_room(o, most);
	*out = o;
	return 0;
}

/* n bytes of the pieces are done. */
static void advance(struct under_way *w, size_t n)
{
	unsigned i = 0;

	w->offset += n;
	while (i < w->n && n >= w->iov[i].iov_len)
		n -= w->iov[i++].iov_len;
	w->n -= i;
	memmove(w->iov, w->iov + i, w->n * sizeof(*w->iov));
	if (w->n) {
		w->iov[0].iov_base = (uint8_t *)w->iov[0].iov_base + n;
		w->iov[0].iov_len -= n;
	}
}

static bool aligned(const struct under_way *w)
{
	if (w->offset % DIRECT_ALIGN)
		return false;
	for (unsigned i = 0; i < w->n; i++) {
		if ((uintptr_t)w->iov[i].iov_base % DIRECT_ALIGN ||
			w->iov[i].iov_len % DIRECT_ALIGN)
			return false;
	}
	return true;
}

/* All that is left, at once, the usual way where it is not aligned. */
static int write_now(struct snap_output *o, struct under_way *w)
{
	bool around = o->direct && !aligned(w);
	int rc = around ? set_direct(o, false) : 0;

	while (w->n && !rc) {
		ssize_t n = pwritev(o->fd, w->iov, (int)w->n, (off_t)w->offset);

		if (n < 0 && errno == EINVAL && o->direct && !around) {
			/* This file system has more conditions. */
			around = true;
			rc = set_direct(o, false);
		} else if (n < 0 && errno != EINTR) {
			rc = -errno;
		} else if (n == 0) {
			rc = -ENOSPC;
		} else if (n > 0) {
			advance(w, (size_t)n);
		}
	}
	if (around && set_direct(o, true))
		o->direct = false;
	return rc;
}

static int copy_iov(struct under_way *w, const struct iovec *iov, unsigned n)
{
	struct iovec *more;

	if (n > w->cap) {
		more = reallocarray(w->iov, n, sizeof(*more));
		if (!more)
			return -ENOMEM;
		w->iov = more;
		w->cap = n;
	}
	memcpy(w->iov, iov, n * sizeof(*iov));
	w->n = n;
	return 0;
}

static int failed(const struct under_way *w, int rc, struct err *e)
{
	return err_sys(e, rc, "writing the snapshot at byte %llu",
		(unsigned long long)w->offset);
}

/* The next that is done, and its result; NULL: the kernel has no more. */
static struct under_way *next_done(struct snap_output *o, int64_t *res)
{
	struct io_uring_cqe *cqe;
	struct io_event ev;
	struct under_way *w;
	long n;

	if (o->way == WAY_AIO) {
		do
			n = syscall(SYS_io_getevents, o->aio, 1, 1, &ev, NULL);
		while (n < 0 && errno == EINTR);
		*res = n == 1 ? ev.res : -EIO;
		return n == 1 ? (struct under_way *)(uintptr_t)ev.data : NULL;
	}
	do
		n = io_uring_wait_cqe(&o->ring, &cqe);
	while (n == -EINTR);
	*res = n;
	if (n)
		return NULL;
	w = io_uring_cqe_get_data(cqe);
	*res = cqe->res;
	io_uring_cqe_seen(&o->ring, cqe);
	return w;
}

/* Take one completion; what was cut short is written to its end. */
static void reap(struct snap_output *o)
{
	int64_t res;
	struct under_way *w = next_done(o, &res);

	if (!w) {
		o->broken = res ? (int)res : -EIO;
		return;
	}
	w->busy = false;
	if (res > 0)
		advance(w, (size_t)res);
	/* An error is asked for again, so that it is told once, here. */
	w->rc = w->n ? write_now(o, w) : 0;
}

static void wait_all(struct snap_output *o)
{
	for (unsigned i = 0; i < SNAP_OUTPUT_BATCHES; i++) {
		while (o->w[i].busy && !o->broken)
			reap(o);
	}
}

/* An entry that the kernel did not take stays in the queue, and would go out
 * with the next one, when its list is that of another write. So there is no
 * next one: from now on writes are done at once. */
static void stop_ring(struct snap_output *o)
{
	wait_all(o);
	if (o->broken)
		return;
	io_uring_queue_exit(&o->ring);
	o->way = WAY_NOW;
}

static int start_ring(struct snap_output *o, struct under_way *w)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&o->ring);

	if (!sqe)
		return -EBUSY;
	/* the first registered file */
	io_uring_prep_writev(sqe, 0, w->iov, w->n, w->offset);
	io_uring_sqe_set_flags(sqe, IOSQE_FIXED_FILE);
	io_uring_sqe_set_data(sqe, w);
	if (io_uring_submit(&o->ring) == 1)
		return 0;
	stop_ring(o);
	return -EIO;
}

static int start_aio(const struct snap_output *o, struct under_way *w)
{
	struct iocb *list[1] = {&w->cb};

	w->cb = (struct iocb){
		.aio_lio_opcode = IOCB_CMD_PWRITEV,
		.aio_fildes = (uint32_t)o->fd,
		.aio_buf = (uintptr_t)w->iov,
		.aio_nbytes = w->n,
		.aio_offset = (int64_t)w->offset,
		.aio_data = (uintptr_t)w,
	};
	return syscall(SYS_io_submit, o->aio, 1, list) == 1 ? 0 : -EIO;
}

/* 0: it is under way; else it is written at once. */
static int start(struct snap_output *o, struct under_way *w)
{
	int rc = -EAGAIN;

	if (o->broken || (o->direct && !aligned(w)))
		return rc;
	if (o->way == WAY_RING)
		rc = start_ring(o, w);
	else if (o->way == WAY_AIO)
		rc = start_aio(o, w);
	w->busy = rc == 0;
	return rc;
}

int snap_output_write(struct snap_output *o, unsigned batch,
	const struct iovec *iov, unsigned n, uint64_t offset, struct err *e)
{
	struct under_way *w = &o->w[batch];
	int rc = copy_iov(w, iov, n);

	if (rc)
		return err_set(e, rc, "snapshot: out of memory");
	w->offset = offset;
	w->rc = 0;
	if (!start(o, w))
		return 0;
	rc = write_now(o, w);
	return rc ? failed(w, rc, e) : 0;
}

int snap_output_wait(struct snap_output *o, unsigned batch, struct err *e)
{
	struct under_way *w = &o->w[batch];

	while (w->busy && !o->broken)
		reap(o);
	if (w->busy)
		return failed(w, o->broken, e);
	return w->rc ? failed(w, w->rc, e) : 0;
}

bool snap_output_close(struct snap_output *o)
{
	bool done = true;

	if (!o)
		return true;
	wait_all(o);
	for (unsigned i = 0; i < SNAP_OUTPUT_BATCHES; i++) {
		done = done && !o->w[i].busy;
		/* the list itself was copied when the write was submitted */
		free(o->w[i].iov);
	}
	/* The kernel takes a ring down in its own time. */
	if (o->way == WAY_RING)
		io_uring_queue_exit(&o->ring);
	/* The context of WAY_AIO stays until the process ends: to destroy it
	 * waits for a grace period of the kernel, longer than a small diff
	 * takes, and who uses this way writes one file and is gone. */
	if (o->direct)
		(void)set_direct(o, false);
	free(o);
	return done;
}
