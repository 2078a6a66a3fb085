/* A machine's memory as what is written into a snapshot. */
#include "snapshot/internal.h"

#include <string.h>

static uint16_t bits_of(const uint64_t *bits, uint64_t offset)
{
	uint64_t page = offset / SNAP_PAGE_SIZE; /* a multiple of 16 */

	return (uint16_t)(bits[page / 64] >> page % 64);
}

/* Which of the 16 pages at this offset. Who gave a bitmap has asked the page
 * map already; only holes of a base must still be found, since reading one
 * fills it. A page of a diff that cannot hold anything is looked at: it is zero
 * now. */
static int look_at(struct snap_input_mem *x, uint64_t offset, uint16_t *mask)
{
	uint16_t holds;
	int rc;

	if (x->bits) {
		*mask = bits_of(x->bits, offset);
		if (!*mask || x->in.diff || x->mem->backing != MEM_BUILDER)
			return 0;
	}
	rc = snap_pages_mask(&x->pages, offset, &holds);
	*mask = x->bits ? *mask & holds : holds;
	return rc;
}

/* This needs ascending offsets. */
static int mem_leaf(struct snap_input *in, uint32_t i, struct err *e)
{
	struct snap_input_mem *x = container_of(in, struct snap_input_mem, in);
	const struct snap_region *r = in->region;
	uint64_t len;

	x->r = x->mem->region;
	while (i >= r->first_leaf + r->leaf_count) {
		r++;
		x->r++;
	}
	x->at = (i - r->first_leaf) * SNAP_LEAF_SPAN;
	len = min_u64(SNAP_LEAF_SPAN, x->r->size - x->at);
	for (uint64_t off = 0; off < len; off += SNAP_CHUNK_SIZE) {
		int rc = look_at(x, x->r->offset + x->at + off,
			&x->mask[off / SNAP_CHUNK_SIZE]);

		if (rc)
			return err_sys(e, rc, "finding guest pages");
	}
	return 0;
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

static int mem_window(struct snap_input *in, uint32_t n, unsigned slot,
	struct snap_got *got, struct err *e)
{
	const struct snap_input_mem *x =
		container_of(in, struct snap_input_mem, in);
	const uint8_t *host = x->r->host + x->at + n * SNAP_CHUNK_SIZE;
	uint16_t mask = x->mask[n];
	uint8_t *to = got->buf;

	(void)slot;
	(void)e;
	got->present = 0;
	for (unsigned i = 0; i < SNAP_CHUNK_PAGES; i++) {
		const uint8_t *page = host + i * SNAP_PAGE_SIZE;

		if (!(mask >> i & 1) || page_is_zero(page))
			continue;
		memcpy(to, page, SNAP_PAGE_SIZE);
		to += SNAP_PAGE_SIZE;
		got->present |= (uint16_t)(1U << i);
	}
	got->zero = (uint16_t)((in->diff ? mask : 0xffff) & ~got->present);
	return 0;
}

void snap_input_mem(struct snap_input_mem *x, const struct mem *mem,
	const struct snap_write_opts *o)
{
	struct snap_input *in = &x->in;

	memset(x, 0, sizeof(*x));
	in->leaf = mem_leaf;
	in->window = mem_window;
	in->diff = o->parent;
	in->regions = mem->nregions;
	for (unsigned i = 0; i < mem->nregions; i++) {
		struct snap_region *r = &in->region[i];

		r->gpa = mem->region[i].gpa;
		r->size = mem->region[i].size;
		r->first_leaf = in->roots;
		r->leaf_count = (uint32_t)(align_up(r->size, SNAP_LEAF_SPAN) /
					   SNAP_LEAF_SPAN);
		in->roots += r->leaf_count;
	}
	x->mem = mem;
	x->bits = o->pages;
	snap_pages_init(&x->pages, mem, o->pagemap_fd > 0 ? o->pagemap_fd : -1);
}
