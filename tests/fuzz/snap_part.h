/* A sound snapshot of which a fuzzer replaces one part; for fuzz_header.c,
 * fuzz_index.c and fuzz_zstd.c. */
#ifndef THAW_TESTS_FUZZ_SNAP_PART_H
#define THAW_TESTS_FUZZ_SNAP_PART_H

#include "tests/unit/test.h"
#include "tests/unit/snap_fake.h"

#include <string.h>
#include <sys/stat.h>

/* Each leaf (8 MiB) has pages and zeros. Once. */
static inline void snap_part_make(struct image *img, uint64_t memory)
{
	struct machine m;
	struct stat st;
	int fd;

	if (img->p)
		return;
	fake_machine(&m, memory, MEM_PRIVATE);
	for (gpa_t at = 0x1000; at < memory; at += 5 * MIB) {
		fake_page(&m, at);
		fake_page(&m, at + 0x2000);
		fake_page(&m, at + 0x103000);
	}
	fd = fake_snapshot(&m);
	machine_destroy(&m);
	if (fstat(fd, &st))
		abort();
	img->n = (size_t)st.st_size;
	img->p = malloc(img->n);
	if (!img->p || pread_full(fd, img->p, img->n, 0))
		abort();
	(void)close(fd);
}

/* Next n bytes of the input over those at `at`; how many there were. */
static inline size_t snap_part_put(struct image *img, uint64_t at, size_t n,
	const uint8_t **data, size_t *size)
{
	size_t take = *size < n ? *size : n;

	if (!range_inside(at, take, img->n))
		abort();
	if (take)
		memcpy(img->p + at, *data, take);
	*data += take;
	*size -= take;
	return take;
}

#endif
