/*
 * How it works: memory is walked once, upwards. The present pages of a chunk
 * are copied into a buffer, which is written when it is full: the file grows
 * in large sequential writes. A leaf is written right behind the data of its
 * chunks, so only the root has to be kept: 16 bytes for 8 MiB.
 */
#include "snapshot/internal.h"
#include "core/crc32c.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define OUT_SIZE (4 * MIB)

struct out {
	int fd;
	const struct mem *mem;
	const struct snap_write_opts *opts;
	struct snap_pages pages;
	uint8_t *buf;    /* owned */
	uint64_t used;   /* bytes in buf */
	uint64_t offset; /* in the file, of buf[0] */
};

static int out_flush(struct out *o, struct err *e)
{
	int rc = pwrite_full(o->fd, o->buf, o->used, o->offset);

	if (rc)
		return err_sys(e, rc, "writing the snapshot at byte %llu",
			(unsigned long long)o->offset);
	o->offset += o->used;
	o->used = 0;
	return 0;
}

/* Room for len more bytes at buf + used. */
static int out_room(struct out *o, uint64_t len, struct err *e)
{
	return OUT_SIZE - o->used < len ? out_flush(o, e) : 0;
}

/* Most pages that are not zero show it in the first words. */
static bool page_is_zero(const uint8_t *p)
{
	uint64_t w[8];

	for (size_t i = 0; i < SNAP_PAGE_SIZE; i += sizeof(w)) {
		memcpy(w, p + i, sizeof(w));
		if (w[0] | w[1] | w[2] | w[3] | w[4] | w[5] | w[6] | w[7])
			return false;
	}
	return true;
}

/* Append the pages of mask that are not zero; fill c but for .zero. */
static int write_chunk(struct out *o, const uint8_t *host, uint16_t mask,
	struct snap_chunk *c, struct err *e)
{
	uint64_t start;
	int rc = out_room(o, SNAP_CHUNK_SIZE, e);

	if (rc)
		return rc;
	start = o->used;
	for (unsigned n = 0; n < SNAP_CHUNK_PAGES; n++) {
		const uint8_t *page = host + n * SNAP_PAGE_SIZE;

		if (!(mask >> n & 1) || page_is_zero(page))
			continue;
		memcpy(o->buf + o->used, page, SNAP_PAGE_SIZE);
		o->used += SNAP_PAGE_SIZE;
		c->present |= (uint16_t)(1U << n);
	}
	if (!c->present)
		return 0;
	c->offset = o->offset + start;
	c->stored_length = (uint32_t)(o->used - start);
	c->raw_length = c->stored_length;
	c->crc = crc32c(0, o->buf + start, c->raw_length);
	return 0;
}

/* The pages of the chunk at this offset that are to be looked at. */
static int chunk_mask(struct out *o, uint64_t offset, uint16_t *mask)
{
	const uint64_t *pages = o->opts->pages;
	uint64_t first = offset / SNAP_PAGE_SIZE;

	if (!pages)
		return snap_pages_mask(&o->pages, offset, mask);
	/* Chunks do not cross words. */
	*mask = (uint16_t)(pages[first / 64] >> first % 64);
	return 0;
}

/* One leaf: up to 8 MiB of a region from offset `at` in it. */
static int write_leaf(struct out *o, const struct mem_region *r, uint64_t at,
	struct snap_root *root, struct err *e)
{
	uint64_t len = min_u64(SNAP_LEAF_SPAN, r->size - at);
	struct snap_leaf leaf = {0};
	unsigned present = 0, zero = 0;
	int rc;

	for (uint64_t off = 0; off < len; off += SNAP_CHUNK_SIZE) {
		struct snap_chunk *c = &leaf.chunk[off / SNAP_CHUNK_SIZE];
		uint16_t mask;

		rc = chunk_mask(o, r->offset + at + off, &mask);
		if (rc)
			return err_sys(e, rc, "finding guest pages");
		if (mask)
			rc = write_chunk(o, r->host + at + off, mask, c, e);
		if (rc)
			return rc;
		c->zero = (uint16_t)((o->opts->parent ? mask : 0xffff) &
				     ~c->present);
		present += (unsigned)__builtin_popcount(c->present);
		zero += (unsigned)__builtin_popcount(c->zero);
	}
	if (!present && (!o->opts->parent || !zero))
		return 0;
	rc = out_room(o, sizeof(leaf), e);
	if (rc)
		return rc;
	root->offset = o->offset + o->used;
	root->crc = crc32c(0, &leaf, sizeof(leaf));
	root->pages_present = (uint16_t)present;
	root->pages_zero = (uint16_t)zero;
	memcpy(o->buf + o->used, &leaf, sizeof(leaf));
	o->used += sizeof(leaf);
	return 0;
}

static int write_region(struct out *o, const struct mem_region *r,
	struct snap_root *root, struct err *e)
{
	const struct snap_write_opts *opts = o->opts;

	for (uint64_t at = 0; at < r->size; at += SNAP_LEAF_SPAN) {
		uint64_t done = r->offset + at + SNAP_LEAF_SPAN;
		int rc = write_leaf(o, r, at, root++, e);

		if (rc)
			return rc;
		if (opts->progress &&
			opts->progress(opts->arg, min_u64(done, o->mem->size),
				o->mem->size))
			return err_set(e, -ECANCELED, "cancelled");
	}
	return 0;
}

static int write_regions(struct out *o, struct snap_root *root, struct err *e)
{
	const struct mem_region *r;
	int rc;

	for_each_region (o->mem, r) {
		rc = write_region(o, r, root, e);
		if (rc)
			return rc;
		root += align_up(r->size, SNAP_LEAF_SPAN) / SNAP_LEAF_SPAN;
	}
	return out_flush(o, e);
}

int snap_write_memory(const struct machine *m, int fd,
	const struct snap_write_opts *opts, uint64_t *at,
	struct snap_root *root, struct err *e)
{
	struct out *o = calloc(1, sizeof(*o));
	uint8_t *buf = malloc(OUT_SIZE);
	int rc = -ENOMEM;

	if (o && buf) {
		o->fd = fd;
		o->mem = &m->mem;
		o->opts = opts;
		o->buf = buf;
		o->offset = *at;
		snap_pages_init(&o->pages, &m->mem,
			opts->pagemap_fd > 0 ? opts->pagemap_fd : -1);
		rc = write_regions(o, root, e);
		*at = o->offset;
	} else {
		rc = err_set(e, -ENOMEM, "snapshot: out of memory");
	}
	free(buf);
	free(o);
	return rc;
}
