/*
 * A compressed chunk: the input is the mask of its pages (two bytes), then the
 * frame. It stands in a sound file with every number and checksum right that
 * zstd itself can make right; what the reader then takes must be what zstd
 * says, byte by byte.
 */
#include "core/crc32c.h"
#include "tests/fuzz/snap_part.h"
#include "tests/fuzz/snap_seal.h"
#include "tests/fuzz/snap_use.h"

#include <zstd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct packed {
	struct snap_chunk *c; /* of the first window, in img */
	struct image img;
	uint8_t raw[SNAP_CHUNK_SIZE];
	bool sound; /* zstd can unpack it to the right length */
};

/* The frame goes to the end of the file. */
static void put_frame(struct packed *p, const struct image *good,
	const uint8_t *frame, size_t size)
{
	uint64_t at = good->n;

	p->img.n = good->n + align_up(size, 4096);
	p->img.p = calloc(1, p->img.n);
	if (!p->img.p)
		abort();
	memcpy(p->img.p, good->p, good->n);
	memcpy(p->img.p + at, frame, size);
	image_header(&p->img)->file_length = p->img.n;
	p->c = &image_leaf(&p->img, 0)->chunk[0];
	p->c->offset = at;
	p->c->stored_length = (uint32_t)size;
	p->c->stored_crc = crc32c(0, frame, size);
	p->c->codec = SNAP_CODEC_ZSTD;
}

static void set_pages(struct packed *p, uint16_t present)
{
	int now = __builtin_popcount(present);
	int more = now - __builtin_popcount(p->c->present);
	int zero = 16 - now - __builtin_popcount(p->c->zero);
	struct snap_memory *m = image_memory(&p->img);
	struct snap_root *r = image_root(&p->img, 0);

	m->pages_present += (uint64_t)more;
	m->pages_zero += (uint64_t)zero;
	r->pages_present = (uint16_t)(r->pages_present + more);
	r->pages_zero = (uint16_t)(r->pages_zero + zero);
	p->c->present = present;
	p->c->zero = (uint16_t)~present;
	p->c->raw_length = (uint32_t)(now * (int)SNAP_PAGE_SIZE);
}

static void check(struct packed *p, int fd)
{
	const uint8_t *from = p->raw, *page;
	struct mem mem;
	struct snap *s;

	if (snap_open(fd, &s, NULL))
		abort(); /* its outside is sound */
	if (mem_create(&mem, 4 * MIB, MEM_PRIVATE, -1, NULL))
		abort();
	if (!snap_load_memory(s, &mem, 0, NULL)) {
		if (!p->sound)
			abort();
		for (unsigned i = 0; i < 16; i++) {
			if (!(p->c->present >> i & 1))
				continue;
			page = (const uint8_t *)mem.map + i * SNAP_PAGE_SIZE;
			if (memcmp(page, from, SNAP_PAGE_SIZE) != 0)
				abort();
			from += SNAP_PAGE_SIZE;
		}
	}
	mem_destroy(&mem);
	snap_close(s);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	/* global: made once, every input uses it */
	static struct image good;
	AUTO_FD fd = memfd_create("fuzz", MFD_CLOEXEC);
	struct packed p;
	size_t n;

	snap_part_make(&good, 4 * MIB);
	if (size < 3 || size > 2 * SNAP_CHUNK_SIZE)
		return 0;
	put_frame(&p, &good, data + 2, size - 2);
	set_pages(&p, (uint16_t)(data[0] + 256U * data[1]));
	n = ZSTD_decompress(p.raw, sizeof(p.raw), data + 2, size - 2);
	p.sound = p.c->present && n == p.c->raw_length;
	if (p.sound)
		p.c->crc = crc32c(0, p.raw, n);
	snap_seal(p.img.p, p.img.n);
	snap_use(fd, p.img.p, p.img.n);
	if (p.c->present && p.c->stored_length < p.c->raw_length)
		check(&p, fd);
	image_free(&p.img);
	return 0;
}
