/*
 * How it works. A read is cut where the file that has the bytes changes. A
 * write into an overlay first reaches the blocks that are the overlay's
 * already, and in between makes others so: the parts of a block that the write
 * does not cover are copied up, then the data is written, and only then the
 * bits are set, so nobody sees a block that is half here and half there.
 */
#include "core/devices/disk.h"
#include "core/crc32c.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#define OVERLAY_MAGIC 0x796c7265766f7774ULL /* "twoverly" */

/* Behind the data, on a block of its own; the map follows on the next one. */
struct overlay_trailer {
	uint64_t magic;
	uint64_t size; /* of the disk */
	uint32_t block;
	uint32_t map_crc;
	uint64_t id; /* of disk_export(), else 0 */
};

/* ---- maps ---- */

static bool has(const struct disk *d, enum disk_file f, uint64_t block)
{
	return d->map[f] && d->map[f][block / 64] >> (block % 64) & 1;
}

static void own(struct disk *d, uint64_t first, uint64_t n)
{
	for (uint64_t b = first; b < first + n; b++)
		d->map[DISK_OVERLAY][b / 64] |= 1ULL << (b % 64);
}

static uint64_t *map_new(uint64_t bytes)
{
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

static int load_layer(struct disk *d, struct err *e)
{
	const uint64_t at = align_up(d->size, DISK_BLOCK);
	struct overlay_trailer t = {0};
	struct stat st;
	int r = fstat(d->fd[DISK_LAYER], &st) ? -errno : 0;

	if (!r && (uint64_t)st.st_size >= at + DISK_BLOCK + d->map_bytes)
		r = pread_full(d->fd[DISK_LAYER], &t, sizeof(t), at);
	if (!r && (t.magic != OVERLAY_MAGIC || t.size != d->size ||
			  t.block != DISK_BLOCK))
		return err_set(e, -EBADMSG,
			"the frozen overlay does not belong to this disk");
	if (!r)
		r = pread_full(d->fd[DISK_LAYER], d->map[DISK_LAYER],
			d->map_bytes, at + DISK_BLOCK);
	if (r)
		return err_sys(e, r, "reading the frozen overlay");
	d->layer_id = t.id;
	if (crc32c(0, d->map[DISK_LAYER], d->map_bytes) != t.map_crc)
		return err_set(
			e, -EBADMSG, "the frozen overlay: checksum mismatch");
	return 0;
}

static int finish_layer(const struct disk *d, int fd, const uint64_t *map,
	uint64_t id, struct err *e)
{
	const uint64_t at = align_up(d->size, DISK_BLOCK);
	const struct overlay_trailer t = {
		.magic = OVERLAY_MAGIC,
		.size = d->size,
		.block = DISK_BLOCK,
		.map_crc = crc32c(0, map, d->map_bytes),
		.id = id,
	};
	int r = pwrite_full(fd, map, d->map_bytes, at + DISK_BLOCK);

	if (!r)
		r = pwrite_full(fd, &t, sizeof(t), at);
	if (!r && fsync(fd))
		r = -errno;
	return r ? err_sys(e, r, "writing the overlay") : 0;
}

int disk_freeze(struct disk *d, struct err *e)
{
	if (d->fd[DISK_OVERLAY] < 0)
		return 0;
	return finish_layer(d, d->fd[DISK_OVERLAY], d->map[DISK_OVERLAY], 0, e);
}

/* ---- life ---- */

static int open_size(struct disk *d, uint64_t want, struct err *e)
{
	int mode = fcntl(d->fd[DISK_BASE], F_GETFL);
	struct stat st;

	if (!d->read_only && d->fd[DISK_OVERLAY] < 0 &&
		(mode & O_ACCMODE) != O_RDWR)
		return err_set(e, -EACCES,
			"the disk's file may only be read, and the guest may "
			"write the disk");
	if (fstat(d->fd[DISK_BASE], &st))
		return err_sys(e, -errno, "disk");
	if (!S_ISREG(st.st_mode))
		return err_set(e, -EINVAL, "the disk is not a regular file");
	d->size = align_down((uint64_t)st.st_size, 512);
	if (!d->size)
		return err_set(
			e, -EINVAL, "the disk's file is shorter than a sector");
	if (d->size > DISK_MAX_SIZE)
		return err_set(e, -EFBIG, "the disk's file is too large");
	if (want > d->size)
		return err_set(e, -EINVAL,
			"the disk's file has %llu bytes, the snapshot was made "
			"with %llu",
			(unsigned long long)d->size, (unsigned long long)want);
	if (want)
		d->size = want;
	return 0;
}

/* An overlay is a file of the disk's size: the last block is whole. */
static int open_overlay(struct disk *d, struct err *e)
{
	if (d->fd[DISK_OVERLAY] < 0)
		return 0;
	if (ftruncate(
		    d->fd[DISK_OVERLAY], (off_t)align_up(d->size, DISK_BLOCK)))
		return err_sys(e, -errno, "making the overlay");
	return 0;
}

int disk_open(struct disk *d, const int fd[DISK_NFILES], uint64_t want,
	bool read_only, struct err *e)
{
	int r;

	memset(d, 0, sizeof(*d));
	memcpy(d->fd, fd, sizeof(d->fd));
	d->read_only = read_only;
	r = open_size(d, want, e);
	if (r)
		return r;
	d->map_bytes = align_up(align_up(d->size, DISK_BLOCK) / DISK_BLOCK, 64);
	d->map_bytes /= 8;
	for (int f = DISK_LAYER; f < DISK_NFILES; f++) {
		if (d->fd[f] < 0)
			continue;
		d->map[f] = map_new(d->map_bytes);
		if (!d->map[f])
			r = err_sys(e, -ENOMEM, "map of an overlay");
	}
	if (!r && d->fd[DISK_LAYER] >= 0)
		r = load_layer(d, e);
	if (!r)
		r = open_overlay(d, e);
	if (r)
		disk_close(d);
	return r;
}

void disk_close(struct disk *d)
{
	for (int f = 0; f < DISK_NFILES; f++) {
		if (d->map[f])
			(void)munmap(d->map[f], d->map_bytes);
		d->map[f] = NULL;
	}
}

/* ---- where ---- */

static enum disk_file owner(const struct disk *d, uint64_t block)
{
	if (has(d, DISK_OVERLAY, block))
		return DISK_OVERLAY;
	return has(d, DISK_LAYER, block) ? DISK_LAYER : DISK_BASE;
}

static enum disk_file target(const struct disk *d, uint64_t block, bool write)
{
	if (!write)
		return owner(d, block);
	if (!d->map[DISK_OVERLAY])
		return DISK_BASE;
	return has(d, DISK_OVERLAY, block) ? DISK_OVERLAY : DISK_NFILES;
}

enum disk_file disk_where(const struct disk *d, uint64_t off, uint64_t len,
	bool write, uint64_t *run)
{
	uint64_t b = off / DISK_BLOCK;
	const uint64_t end = off + len;
	enum disk_file f = target(d, b, write);

	/* Without overlays there is nothing to look up. */
	if (!d->map[DISK_OVERLAY] && !d->map[DISK_LAYER]) {
		*run = len;
		return f;
	}
	while (++b * DISK_BLOCK < end && target(d, b, write) == f)
		;
	*run = min_u64(b * DISK_BLOCK, end) - off;
	return f;
}

unsigned disk_slice(const struct iovec *iov, unsigned n, uint64_t off,
	uint64_t len, struct iovec *out)
{
	unsigned k = 0;

	for (; n && len; n--, iov++) {
		uint64_t part;

		if (off >= iov->iov_len) {
			off -= iov->iov_len;
			continue;
		}
		part = min_u64(iov->iov_len - off, len);
		out[k].iov_base = (uint8_t *)iov->iov_base + off;
		out[k++].iov_len = part;
		len -= part;
		off = 0;
	}
	return k;
}

/* ---- bytes ---- */

static ssize_t once(
	int fd, const struct iovec *iov, unsigned n, uint64_t off, bool write)
{
	ssize_t r;

	do
		r = write ? pwritev(fd, iov, (int)n, (off_t)off)
			  : preadv(fd, iov, (int)n, (off_t)off);
	while (r < 0 && errno == EINTR);
	return r < 0 ? -errno : r;
}

/* One run of one file. iov is used up. */
static int run_io(
	int fd, struct iovec *iov, unsigned n, uint64_t off, bool write)
{
	while (n) {
		ssize_t r = once(fd, iov, n, off, write);

		if (r < 0)
			return (int)r;
		if (r == 0)
			return -EIO; /* the file became shorter */
		off += (uint64_t)r;
		while (n && (size_t)r >= iov->iov_len) {
			r -= (ssize_t)iov->iov_len;
			iov++;
			n--;
		}
		if (n) {
			iov->iov_base = (uint8_t *)iov->iov_base + r;
			iov->iov_len -= (size_t)r;
		}
	}
	return 0;
}

static int block_read(const struct disk *d, uint64_t block, uint8_t *buf)
{
	const uint64_t at = block * DISK_BLOCK;
	const uint64_t n = min_u64(DISK_BLOCK, d->size - at);

	memset(buf, 0, DISK_BLOCK);
	return pread_full(d->fd[owner(d, block)], buf, n, at);
}

static bool is_zero(const uint8_t *p, size_t n)
{
	return !p[0] && !memcmp(p, p + 1, n - 1);
}

static int export_block(
	const struct disk *d, int fd, uint64_t block, struct err *e)
{
	uint8_t buf[DISK_BLOCK];
	int r = block_read(d, block, buf);

	/* A hole reads as zeros. */
	if (!r && !is_zero(buf, sizeof(buf)))
		r = pwrite_full(fd, buf, sizeof(buf), block * DISK_BLOCK);
	return r ? err_sys(e, r, "writing the overlay") : 0;
}

int disk_export(const struct disk *d, int fd, uint64_t id, struct err *e)
{
	const uint64_t words = d->map_bytes / sizeof(uint64_t);
	uint64_t *map = map_new(d->map_bytes);
	int r = 0;

	if (!map)
		return err_sys(e, -ENOMEM, "map of an overlay");
	for (uint64_t w = 0; w < words && !r; w++) {
		const uint64_t all =
			(d->map[DISK_LAYER] ? d->map[DISK_LAYER][w] : 0) |
			(d->map[DISK_OVERLAY] ? d->map[DISK_OVERLAY][w] : 0);

		if (all)
			map[w] = all;
		for (unsigned i = 0; all && i < 64 && !r; i++) {
			if (all >> i & 1)
				r = export_block(d, fd, w * 64 + i, e);
		}
	}
	if (!r)
		r = finish_layer(d, fd, map, id, e);
	(void)munmap(map, d->map_bytes);
	return r;
}

/* Bytes [0, head) and [tail, DISK_BLOCK) of a block that is not the overlay's
 * yet are put there. */
static int copy_up(
	const struct disk *d, uint64_t block, uint64_t head, uint64_t tail)
{
	uint8_t buf[DISK_BLOCK];
	const uint64_t at = block * DISK_BLOCK;
	int r;

	if (!head && tail >= DISK_BLOCK)
		return 0;
	r = block_read(d, block, buf);
	if (!r && head)
		r = pwrite_full(d->fd[DISK_OVERLAY], buf, head, at);
	if (!r && tail < DISK_BLOCK)
		r = pwrite_full(d->fd[DISK_OVERLAY], buf + tail,
			DISK_BLOCK - tail, at + tail);
	return r;
}

/* What a change of [off, off + len) does not cover of its first and its last
 * block. All blocks of the range are not the overlay's yet. */
static int copy_edges(const struct disk *d, uint64_t off, uint64_t len)
{
	const uint64_t first = off / DISK_BLOCK;
	const uint64_t last = (off + len - 1) / DISK_BLOCK;
	const uint64_t head = off % DISK_BLOCK;
	const uint64_t tail = off + len - last * DISK_BLOCK;
	int r;

	if (first == last)
		return copy_up(d, first, head, tail);
	r = copy_up(d, first, head, DISK_BLOCK);
	return r ? r : copy_up(d, last, 0, tail);
}

static void own_range(struct disk *d, uint64_t off, uint64_t len)
{
	const uint64_t first = off / DISK_BLOCK;

	own(d, first, (off + len - 1) / DISK_BLOCK - first + 1);
}

static int vector_io(struct disk *d, const struct iovec *iov, unsigned n,
	uint64_t off, bool write)
{
	struct iovec *part = malloc(n * sizeof(*part));
	uint64_t len = 0, done = 0, run;
	int r = part ? 0 : -ENOMEM;

	for (unsigned i = 0; i < n; i++)
		len += iov[i].iov_len;
	for (; !r && done < len; done += run) {
		const uint64_t at = off + done;
		enum disk_file f = disk_where(d, at, len - done, write, &run);
		const bool fresh = f == DISK_NFILES;
		unsigned k = disk_slice(iov, n, done, run, part);

		if (fresh)
			r = copy_edges(d, at, run);
		if (!r)
			r = run_io(d->fd[fresh ? DISK_OVERLAY : f], part, k, at,
				write);
		if (!r && fresh)
			own_range(d, at, run);
	}
	free(part);
	return r;
}

int disk_readv(
	struct disk *d, const struct iovec *iov, unsigned n, uint64_t off)
{
	return vector_io(d, iov, n, off, false);
}

int disk_writev(
	struct disk *d, const struct iovec *iov, unsigned n, uint64_t off)
{
	return vector_io(d, iov, n, off, true);
}

int disk_flush(struct disk *d)
{
	enum disk_file f = d->map[DISK_OVERLAY] ? DISK_OVERLAY : DISK_BASE;

	return fdatasync(d->fd[f]) ? -errno : 0;
}
