/* Ranges of a disk that become zeros or of no interest. */
#include "core/devices/disk.h"

#include <errno.h>
#include <fcntl.h>

static int write_zeros(int fd, uint64_t off, uint64_t len)
{
	static const uint8_t zeros[64 * KIB];
	int r = 0;

	while (!r && len) {
		uint64_t n = min_u64(len, sizeof(zeros));

		r = pwrite_full(fd, zeros, n, off);
		off += n;
		len -= n;
	}
	return r;
}

static int punch(int fd, int mode, uint64_t off, uint64_t len)
{
	return fallocate(fd, mode | FALLOC_FL_KEEP_SIZE, (off_t)off, (off_t)len)
		       ? -errno
		       : 0;
}

static bool cannot(int r)
{
	return r == -EOPNOTSUPP || r == -ENOSYS || r == -EINVAL;
}

/* Zeros in one file; the file system may know how to do it quickly. */
static int zero_file(int fd, uint64_t off, uint64_t len, bool unmap)
{
	int r = -EOPNOTSUPP;

	if (unmap)
		r = punch(fd, FALLOC_FL_PUNCH_HOLE, off, len);
	if (cannot(r))
		r = punch(fd, FALLOC_FL_ZERO_RANGE, off, len);
	return cannot(r) ? write_zeros(fd, off, len) : r;
}

static void own_blocks(struct disk *d, uint64_t off, uint64_t len)
{
	for (uint64_t b = off / DISK_BLOCK; b < (off + len) / DISK_BLOCK; b++)
		d->map[DISK_OVERLAY][b / 64] |= 1ULL << (b % 64);
}

/* Whole blocks: a hole in the overlay's file that belongs to the overlay. */
static int zero_blocks(struct disk *d, uint64_t off, uint64_t len)
{
	int r = zero_file(d->fd[DISK_OVERLAY], off, len, true);

	if (!r)
		own_blocks(d, off, len);
	return r;
}

/* Parts of blocks go the way of any other write. */
static int zero_part(struct disk *d, uint64_t off, uint64_t len)
{
	static const uint8_t zeros[DISK_BLOCK] = {0};
	/* a write only reads it: the cast drops const */
	struct iovec iov = {(void *)(uintptr_t)zeros, len};

	return len ? disk_writev(d, &iov, 1, off) : 0;
}

int disk_zero(struct disk *d, uint64_t off, uint64_t len, bool unmap)
{
	const uint64_t end = off + len;
	uint64_t first = align_up(off, DISK_BLOCK);
	uint64_t last = align_down(end, DISK_BLOCK);
	int r;

	if (!len)
		return 0;
	if (!d->map[DISK_OVERLAY])
		return zero_file(d->fd[DISK_BASE], off, len, unmap);
	if (first > end || last < first)
		return zero_part(d, off, len); /* inside one block */
	r = zero_part(d, off, first - off);
	if (!r)
		r = zero_part(d, last, end - last);
	if (!r && last > first)
		r = zero_blocks(d, first, last - first);
	return r;
}

int disk_discard(struct disk *d, uint64_t off, uint64_t len)
{
	uint64_t first = align_up(off, DISK_BLOCK);
	uint64_t last = align_down(off + len, DISK_BLOCK);
	int r = 0;

	if (last <= first)
		return 0;
	if (d->map[DISK_OVERLAY])
		r = zero_blocks(d, first, last - first);
	else
		r = punch(d->fd[DISK_BASE], FALLOC_FL_PUNCH_HOLE, first,
			last - first);
	return cannot(r) ? 0 : r;
}
