/*
 * Writing a large file in large pieces.
 *
 * How it works: with io_uring several writes are under way while the next data
 * is made; where there is no io_uring (an old kernel, a filter that forbids it)
 * the same calls write at once. Data goes past the page cache (O_DIRECT) where
 * the file system can: it will not be read again soon. That wants every piece
 * aligned; a write that is not goes the usual way.
 */
#include "snapshot/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <stdlib.h>
#include <string.h>

/* What every file system and disk is content with. */
#define DIRECT_ALIGN 4096U

struct under_way {
	struct iovec *iov; /* owned: what is left to write */
	unsigned n, cap;
	uint64_t offset;
	bool busy;
	int rc;
};

struct snap_output {
	int fd; /* borrowed */
	int flags;
	bool direct;
	bool ring_open;
	struct io_uring ring;
	struct under_way w[SNAP_OUTPUT_BATCHES];
};

static int set_direct(struct snap_output *o, bool on)
{
	int flags = on ? o->flags | O_DIRECT : o->flags & ~O_DIRECT;

	return fcntl(o->fd, F_SETFL, flags) ? -errno : 0;
}

int snap_output_open(
	int fd, bool direct, struct snap_output **out, struct err *e)
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
	o->direct = direct && !set_direct(o, true);
	o->ring_open =
		!io_uring_queue_init(2 * SNAP_OUTPUT_BATCHES, &o->ring, 0);
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

static int start(struct snap_output *o, struct under_way *w)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&o->ring);

	if (!sqe)
		return -EBUSY;
	io_uring_prep_writev(sqe, o->fd, w->iov, w->n, w->offset);
	io_uring_sqe_set_data(sqe, w);
	if (io_uring_submit(&o->ring) < 1)
		return -EIO;
	w->busy = true;
	return 0;
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

int snap_output_write(struct snap_output *o, unsigned batch,
	const struct iovec *iov, unsigned n, uint64_t offset, struct err *e)
{
	struct under_way *w = &o->w[batch];
	int rc = copy_iov(w, iov, n);

	if (rc)
		return err_set(e, rc, "snapshot: out of memory");
	w->offset = offset;
	w->rc = 0;
	if (o->ring_open && (aligned(w) || !o->direct) && !start(o, w))
		return 0;
	rc = write_now(o, w);
	return rc ? failed(w, rc, e) : 0;
}

/* Take one completion; what was cut short is written to its end. */
static void reap(struct snap_output *o)
{
	struct io_uring_cqe *cqe;
	struct under_way *w;
	int rc;

	do
		rc = io_uring_wait_cqe(&o->ring, &cqe);
	while (rc == -EINTR);
	if (rc) {
		/* The ring itself is broken: nothing more will come of it. */
		for (unsigned i = 0; i < SNAP_OUTPUT_BATCHES; i++) {
			if (o->w[i].busy)
				o->w[i].rc = rc;
			o->w[i].busy = false;
		}
		return;
	}
	w = io_uring_cqe_get_data(cqe);
	rc = cqe->res;
	io_uring_cqe_seen(&o->ring, cqe);
	w->busy = false;
	if (rc > 0)
		advance(w, (size_t)rc);
	/* An error is asked for again, so that it is told once, here. */
	w->rc = w->n ? write_now(o, w) : 0;
}

int snap_output_wait(struct snap_output *o, unsigned batch, struct err *e)
{
	struct under_way *w = &o->w[batch];

	while (w->busy)
		reap(o);
	return w->rc ? failed(w, w->rc, e) : 0;
}

void snap_output_close(struct snap_output *o)
{
	if (!o)
		return;
	for (unsigned i = 0; i < SNAP_OUTPUT_BATCHES; i++) {
		while (o->w[i].busy)
			reap(o);
		free(o->w[i].iov);
	}
	if (o->ring_open)
		io_uring_queue_exit(&o->ring);
	if (o->direct)
		(void)set_direct(o, false);
	free(o);
}
