/*
 * How it works: which pages are worth reading depends on the backing.
 *
 *   MEM_BUILDER  SEEK_DATA on the memfd. Reading a hole through the mapping
 *                would put a page into the future base.
 *   MEM_PRIVATE  /proc/PID/pagemap when there is one: an entry that is neither
 *                present (bit 63) nor swapped (bit 62) was never written. Else
 *                everything is read; untouched pages then map the shared zero
 *                page, which costs page tables but no memory.
 *   MEM_CLONE    everything is read: a page that is not mapped may be the
 *                base's. Holes of the base are anonymous here (core/mem.c),
 *                so reading them does not reach it.
 */
#include "snapshot/internal.h"

#include <errno.h>

#define PAGEMAP_PRESENT (1ULL << 63)
#define PAGEMAP_SWAPPED (1ULL << 62)

void snap_pages_init(
	struct snap_pages *p, const struct mem *mem, int pagemap_fd)
{
	p->mem = mem;
	p->pagemap_fd = pagemap_fd;
	p->data = 0;
	p->hole = 0;
	p->window = 0;
	p->entries = 0;
}

/* Make [data, hole) the first extent with data that ends behind offset. */
static int next_extent(struct snap_pages *p, uint64_t offset)
{
	off_t at;

	if (offset < p->hole)
		return 0;
	at = lseek(p->mem->fd, (off_t)offset, SEEK_DATA);
	if (at < 0 && errno == ENXIO) {
		p->data = p->mem->size;
		p->hole = UINT64_MAX;
		return 0;
	}
	if (at < 0)
		return -errno;
	p->data = (uint64_t)at;
	at = lseek(p->mem->fd, at, SEEK_HOLE);
	if (at < 0)
		return -errno;
	p->hole = (uint64_t)at;
	return 0;
}

static int mask_of_file(struct snap_pages *p, uint64_t offset, uint16_t *mask)
{
	*mask = 0;
	for (unsigned n = 0; n < SNAP_CHUNK_PAGES; n++) {
		uint64_t page = offset + n * SNAP_PAGE_SIZE;
		int rc = next_extent(p, page);

		if (rc)
			return rc;
		if (page + SNAP_PAGE_SIZE > p->data)
			*mask |= (uint16_t)(1U << n);
	}
	return 0;
}

static int mask_of_pagemap(
	struct snap_pages *p, uint64_t offset, uint16_t *mask)
{
	uint64_t first = ((uintptr_t)p->mem->map + offset) / SNAP_PAGE_SIZE;

	*mask = 0;
	if (first < p->window ||
		first + SNAP_CHUNK_PAGES > p->window + p->entries) {
		uint64_t left = (p->mem->size - offset) / SNAP_PAGE_SIZE;
		int rc;

		p->window = first;
		p->entries = min_u64(left, ARRAY_SIZE(p->buf));
		rc = pread_full(p->pagemap_fd, p->buf,
			p->entries * sizeof(p->buf[0]),
			first * sizeof(p->buf[0]));
		if (rc)
			return rc;
	}
	for (unsigned n = 0; n < SNAP_CHUNK_PAGES; n++) {
		uint64_t entry = p->buf[first - p->window + n];

		if (entry & (PAGEMAP_PRESENT | PAGEMAP_SWAPPED))
			*mask |= (uint16_t)(1U << n);
	}
	return 0;
}

int snap_pages_mask(struct snap_pages *p, uint64_t offset, uint16_t *mask)
{
	if (p->mem->backing == MEM_BUILDER)
		return mask_of_file(p, offset, mask);
	if (p->mem->backing == MEM_PRIVATE && p->pagemap_fd >= 0)
		return mask_of_pagemap(p, offset, mask);
	*mask = 0xffff;
	return 0;
}
