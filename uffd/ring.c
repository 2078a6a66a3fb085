#include "uffd/ring.h"

#include <errno.h>
#include <string.h>
#include <sys/syscall.h>

#ifndef IOPRIO_CLASS_SHIFT
#define IOPRIO_CLASS_SHIFT 13 /* linux/ioprio.h */
#endif
#define IOPRIO_LOWEST ((2U << IOPRIO_CLASS_SHIFT) | 7U) /* best effort, 7 */

/* By hand: Debian's shared liburing leaves the two functions out. */
static int ring_register(
	const struct ring *r, unsigned op, void *arg, unsigned n)
{
	return syscall(SYS_io_uring_register, r->u.ring_fd, op, arg, n) < 0
		       ? -errno
		       : 0;
}

static int restrict_ring(struct ring *r)
{
	struct io_uring_restriction only[2];

	memset(only, 0, sizeof(only));
	only[0].opcode = IORING_RESTRICTION_SQE_OP;
	only[0].sqe_op = IORING_OP_READ;
	only[1].opcode = IORING_RESTRICTION_SQE_FLAGS_REQUIRED;
	only[1].sqe_flags = IOSQE_FIXED_FILE;
	return ring_register(r, IORING_REGISTER_RESTRICTIONS, only, 2);
}

int ring_open(struct ring *r, const int *files, unsigned n)
{
	int rc;

	memset(r, 0, sizeof(*r));
	rc = io_uring_queue_init(RING_DEPTH, &r->u, IORING_SETUP_R_DISABLED);
	if (rc)
		return rc;
	rc = io_uring_register_files(&r->u, files, n);
	if (!rc)
		rc = restrict_ring(r);
	if (!rc)
		rc = ring_register(r, IORING_REGISTER_ENABLE_RINGS, NULL, 0);
	if (rc) {
		io_uring_queue_exit(&r->u);
		return rc;
	}
	r->open = true;
	return 0;
}

void ring_close(struct ring *r)
{
	if (r->open)
		io_uring_queue_exit(&r->u);
	r->open = false;
}

int ring_fd(const struct ring *r)
{
	return r->u.ring_fd;
}

int ring_read(struct ring *r, const struct ring_ask *a)
{
	struct io_uring_sqe *sqe;

	if (r->inflight >= RING_DEPTH)
		return -EBUSY;
	sqe = io_uring_get_sqe(&r->u);
	if (!sqe)
		return -EBUSY;
	io_uring_prep_read(sqe, (int)a->file, a->buf, a->len, a->offset);
	sqe->flags |= IOSQE_FIXED_FILE;
	if (a->idle)
		sqe->ioprio = IOPRIO_LOWEST;
	io_uring_sqe_set_data(sqe, a->tag);
	r->asked++;
	r->inflight++;
	return 0;
}

int ring_submit(struct ring *r, unsigned wait_ms)
{
	struct __kernel_timespec ts = {.tv_sec = wait_ms / 1000,
		.tv_nsec = (long long)(wait_ms % 1000) * 1000000};
	struct io_uring_cqe *cqe = NULL;
	int rc = 0;

	if (r->asked) {
		rc = io_uring_submit(&r->u);
		if (rc < 0)
			return rc == -EINTR || rc == -EAGAIN || rc == -EBUSY
				       ? 0
				       : rc;
		r->asked -= (unsigned)rc;
	}
	if (!wait_ms || !r->inflight)
		return 0;
	rc = io_uring_wait_cqe_timeout(&r->u, &cqe, &ts);
	return rc == -ETIME || rc == -EINTR ? 0 : rc;
}

void *ring_reap(struct ring *r, int *res)
{
	struct io_uring_cqe *cqe = NULL;
	void *tag = NULL;

	/* An entry without a tag is liburing's own timeout. */
	while (!tag && !io_uring_peek_cqe(&r->u, &cqe) && cqe) {
		tag = io_uring_cqe_get_data(cqe);
		if (tag == (void *)(uintptr_t)LIBURING_UDATA_TIMEOUT)
			tag = NULL;
		*res = cqe->res;
		io_uring_cqe_seen(&r->u, cqe);
	}
	if (tag)
		r->inflight--;
	return tag;
}
