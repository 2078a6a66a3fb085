/*
 * The memory index of a snapshot: the input is two bytes, the length of the
 * memory section, then this section, then leaves. They stand in place of those
 * of a sound file, with checksums and numbers of pages that are right.
 */
#include "tests/fuzz/snap_part.h"
#include "tests/fuzz/snap_seal.h"
#include "tests/fuzz/snap_use.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static unsigned bits(uint16_t mask)
{
	return (unsigned)__builtin_popcount(mask);
}

/* A leaf's numbers stand in the root, and their sums in front of it. */
static void count(struct image *img)
{
	struct snap_memory *m = image_memory(img);

	m->pages_present = 0;
	m->pages_zero = 0;
	for (unsigned i = 0; i < m->root_count && i < 3; i++) {
		struct snap_root *r = image_root(img, i);
		unsigned present = 0, zero = 0;
		struct snap_leaf l;

		if (!r->offset || !range_inside(r->offset, 4096, img->n))
			continue;
		memcpy(&l, img->p + r->offset, sizeof(l));
		for (unsigned n = 0; n < SNAP_LEAF_CHUNKS; n++) {
			present += bits(l.chunk[n].present);
			zero += bits(l.chunk[n].zero);
		}
		r->pages_present = (uint16_t)present;
		r->pages_zero = (uint16_t)zero;
		m->pages_present += r->pages_present;
		m->pages_zero += r->pages_zero;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	/* global: made once, every input uses it */
	static struct image good;
	AUTO_FD fd = memfd_create("fuzz", MFD_CLOEXEC);
	struct snap_section *sec;
	uint64_t leaf[3], length;
	struct image img;

	snap_part_make(&good, 20 * MIB);
	if (size < 2)
		return 0;
	image_copy(&img, &good);
	for (unsigned i = 0; i < 3; i++)
		leaf[i] = image_root(&img, i)->offset;
	sec = image_section(&img, SNAP_TAG_MEMORY);
	length = min_u64(data[0] + 256U * data[1], sec->stored_length);
	data += 2;
	size -= 2;
	(void)snap_part_put(&img, sec->offset, length, &data, &size);
	for (unsigned i = 0; i < 3; i++)
		(void)snap_part_put(&img, leaf[i], 4096, &data, &size);
	snap_seal(img.p, img.n);
	snap_use(fd, img.p, img.n);
	if (length == sec->stored_length &&
		image_memory(&img)->region_count == 1)
		count(&img);
	sec->stored_length = length;
	sec->raw_length = length;
	snap_seal(img.p, img.n);
	snap_use(fd, img.p, img.n);
	image_free(&img);
	return 0;
}
