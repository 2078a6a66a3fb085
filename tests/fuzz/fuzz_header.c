/*
 * Header and section table of a snapshot: the input stands in place of those of
 * a sound file, whose sections and memory stay, with checksums that are right.
 * Twice, the second time also with the right length.
 */
#include "tests/fuzz/snap_part.h"
#include "tests/fuzz/snap_seal.h"
#include "tests/fuzz/snap_use.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	/* global: made once, every input uses it */
	static struct image good;
	AUTO_FD fd = memfd_create("fuzz", MFD_CLOEXEC);
	struct snap_header *h;
	struct image img;
	uint64_t table, length;

	snap_part_make(&good, 4 * MIB);
	image_copy(&img, &good);
	h = image_header(&img);
	table = h->section_table_offset;
	length = h->section_count * sizeof(struct snap_section);
	(void)snap_part_put(&img, 0, sizeof(*h), &data, &size);
	(void)snap_part_put(&img, table, length, &data, &size);
	snap_seal(img.p, img.n);
	snap_use(fd, img.p, img.n);
	h->file_length = img.n;
	h->section_table_offset = table;
	snap_seal(img.p, img.n);
	snap_use(fd, img.p, img.n);
	image_free(&img);
	return 0;
}
