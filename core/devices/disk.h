/*
 * The bytes of a disk: a raw image, and over it up to two overlays.
 *
 *   base     the image file
 *   layer    a frozen overlay: what a template's builder wrote; shared
 *   overlay  what this machine wrote; its alone
 *
 * An overlay is a sparse file of the disk's size. A block (DISK_BLOCK bytes)
 * belongs to it when its bit in the map is set; then a hole means zeros. The
 * map is in memory; disk_freeze() puts it behind the data, and that makes the
 * file usable as a layer; disk_export() makes a layer of all that is not the
 * base's. The format is thaw's own and does not outlive a version
 * (docs/devices.md).
 *
 * No locks here: the caller has one. Offsets and lengths are in bytes and lie
 * inside the disk; the caller checks that.
 */
#ifndef THAW_CORE_DEVICES_DISK_H
#define THAW_CORE_DEVICES_DISK_H

#include "core/err.h"

#include <sys/uio.h>

#define DISK_BLOCK    4096u
#define DISK_MAX_SIZE (64ULL * 1024 * GIB)

/* Index of a file, also the one it is registered under in an io_uring. */
enum disk_file {
	DISK_BASE,
	DISK_LAYER,
	DISK_OVERLAY,
	DISK_NFILES
};

struct disk {
	int fd[DISK_NFILES]; /* borrowed, -1 */
	uint64_t size;
	bool read_only;
	uint64_t *map[DISK_NFILES]; /* owned mappings; of the overlays */
	uint64_t map_bytes;
	uint64_t layer_id; /* of disk_export(); 0: of a template */
};

/* fd[DISK_BASE] must be there. want: the size that a restored guest knows, 0
 * for the file's own. Reads the layer's map. */
int disk_open(struct disk *d, const int fd[DISK_NFILES], uint64_t want,
	bool read_only, struct err *e) MUST_USE;
void disk_close(struct disk *d);

/* The file that has the bytes from off on, and how many of them follow each
 * other in it (at most len). For a write the answer is the file into which
 * they may simply be written, or DISK_NFILES when they have to be made the
 * overlay's first: disk_writev() does that. */
enum disk_file disk_where(const struct disk *d, uint64_t off, uint64_t len,
	bool write, uint64_t *run);

/* All of it or -errno. The vector is not changed. */
int disk_readv(struct disk *d, const struct iovec *iov, unsigned n,
	uint64_t off) MUST_USE;
int disk_writev(struct disk *d, const struct iovec *iov, unsigned n,
	uint64_t off) MUST_USE;
/* Make it read as zeros; unmap: and take no room. */
int disk_zero(struct disk *d, uint64_t off, uint64_t len, bool unmap) MUST_USE;
/* The content does not matter any more; a hint. */
int disk_discard(struct disk *d, uint64_t off, uint64_t len) MUST_USE;
int disk_flush(struct disk *d) MUST_USE;
/* Make the overlay's file complete, so that it can be a layer. */
int disk_freeze(struct disk *d, struct err *e) MUST_USE;

/* Write what layer and overlay hold into fd, an empty file that then can be the
 * layer of a disk with the same base and this id. Nobody may write meanwhile.
 */
int disk_export(
	const struct disk *d, int fd, uint64_t id, struct err *e) MUST_USE;

/* Part of a vector: n of its entries into out, which has room for all. */
unsigned disk_slice(const struct iovec *iov, unsigned n, uint64_t off,
	uint64_t len, struct iovec *out);

#endif
