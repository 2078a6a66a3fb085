/*
 * Block I/O through io_uring.
 *
 * How it works. io_uring operations pass no seccomp filter, so the ring is
 * bound to what it is for before it does anything: made disabled, the disk's
 * files registered, restricted to five operations on registered files, then
 * enabled (io_uring_register(2), IORING_REGISTER_RESTRICTIONS). It belongs to
 * this process alone: a child of fork() does not get its memory.
 */
#include "core/devices/block_dev.h"
#include "core/log.h"

#include <errno.h>
#include <string.h>
#include <sys/syscall.h>

static const struct io_uring_restriction restrictions[] = {
	{.opcode = IORING_RESTRICTION_SQE_OP, .sqe_op = IORING_OP_READV},
	{.opcode = IORING_RESTRICTION_SQE_OP, .sqe_op = IORING_OP_WRITEV},
	{.opcode = IORING_RESTRICTION_SQE_OP, .sqe_op = IORING_OP_FSYNC},
	{.opcode = IORING_RESTRICTION_SQE_FLAGS_REQUIRED,
		.sqe_flags = IOSQE_FIXED_FILE},
	{.opcode = IORING_RESTRICTION_REGISTER_OP,
		.register_op = IORING_REGISTER_ENABLE_RINGS},
};

/* Debian 12's shared liburing does not export the functions for these two. */
static int do_register(
	struct block *b, unsigned op, const void *arg, unsigned n)
{
	return syscall(SYS_io_uring_register, b->ring.ring_fd, op, arg, n)
		       ? -errno
		       : 0;
}

/* Registered under their enum disk_file; -1 stands for one that is not there */
static int set_up(struct block *b)
{
	int r;

	r = io_uring_register_files(&b->ring, b->disk.fd, DISK_NFILES);
	if (!r)
		r = do_register(b, IORING_REGISTER_RESTRICTIONS, restrictions,
			ARRAY_SIZE(restrictions));
	if (!r)
		r = do_register(b, IORING_REGISTER_ENABLE_RINGS, NULL, 0);
	if (!r)
		r = io_uring_ring_dontfork(&b->ring);
	if (!r)
		r = machine_watch(
			&b->vd.dev, b->ring.ring_fd, EPOLLIN, BLOCK_W_RING);
	return r < 0 ? r : 0;
}

void block_ring_open(struct block *b)
{
	int r = io_uring_queue_init(
		BLOCK_RING_SIZE, &b->ring, IORING_SETUP_R_DISABLED);

	if (!r) {
		r = set_up(b);
		if (r)
			io_uring_queue_exit(&b->ring);
	}
	b->have_ring = !r;
	if (r)
		log_debug("disk \"%s\": no io_uring (%s): one by one",
			b->cfg->id, strerror(-r));
}

void block_ring_close(struct block *b)
{
	if (!b->have_ring)
		return;
	machine_unwatch(&b->vd.dev, b->ring.ring_fd);
	io_uring_queue_exit(&b->ring);
	b->have_ring = false;
}

bool block_ring_add(struct block *b, struct block_req *r, enum disk_file f)
{
	struct io_uring_sqe *sqe;

	if (!b->have_ring || b->inflight >= BLOCK_RING_SIZE)
		return false;
	sqe = io_uring_get_sqe(&b->ring);
	if (!sqe)
		return false;
	if (r->flush)
		io_uring_prep_fsync(sqe, (int)f, IORING_FSYNC_DATASYNC);
	else if (r->write)
		io_uring_prep_writev2(sqe, (int)f, r->iov, r->n, r->off,
			block_writethrough(b) ? RWF_DSYNC : 0);
	else
		io_uring_prep_readv(sqe, (int)f, r->iov, r->n, r->off);
	sqe->flags |= IOSQE_FIXED_FILE;
	io_uring_sqe_set_data(sqe, r);
	b->inflight++;
	b->stats.ring++;
	return true;
}

/* A result that is not the whole is done again, one by one: the kernel may cut
 * an operation short for reasons that are no error of the disk. */
static int finish(struct block *b, struct block_req *r, int res)
{
	if (r->flush)
		return res == -EINTR || res == -EAGAIN ? disk_flush(&b->disk)
						       : res;
	if (res >= 0 && (uint64_t)res == r->len)
		return 0;
	if (res < 0 && res != -EINTR && res != -EAGAIN)
		return res;
	if (!r->write)
		return disk_readv(&b->disk, r->iov, r->n, r->off);
	res = disk_writev(&b->disk, r->iov, r->n, r->off);
	return res || !block_writethrough(b) ? res : disk_flush(&b->disk);
}

/* After a reset nobody is answered. That is also the one case that runs on a
 * vCPU thread, whose filter knows no reads and writes. */
static void complete(struct block *b, const struct io_uring_cqe *cqe)
{
	struct block_req *r = io_uring_cqe_get_data(cqe);
	bool asked = virtio_queue_live(&b->vd, r->q);

	b->inflight--;
	block_req_done(b, r, asked ? finish(b, r, cqe->res) : 0);
}

void block_ring_submit(struct block *b)
{
	int r;

	if (!b->have_ring)
		return;
	do
		r = io_uring_submit(&b->ring);
	while (r == -EINTR);
	if (r >= 0)
		return;
	/* -EBUSY, -EAGAIN: the kernel is short of memory; the entries stay in
	 * the ring. Perhaps nothing is in flight that would bring us back. */
	log_debug("disk \"%s\": io_uring_submit: %s", b->cfg->id, strerror(-r));
	virtio_rerun(&b->vd, 0);
}

void block_ring_reap(struct block *b)
{
	struct io_uring_cqe *cqe;

	if (!b->have_ring)
		return;
	while (!io_uring_peek_cqe(&b->ring, &cqe)) {
		struct io_uring_cqe one = *cqe;

		io_uring_cqe_seen(&b->ring, cqe);
		complete(b, &one);
	}
}

void block_ring_drain(struct block *b)
{
	while (b->inflight) {
		int r = io_uring_submit_and_wait(&b->ring, 1);

		if (r < 0 && r != -EINTR && r != -EAGAIN && r != -EBUSY)
			log_error("disk \"%s\": io_uring: %s", b->cfg->id,
				strerror(-r));
		block_ring_reap(b);
	}
}
