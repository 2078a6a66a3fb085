/*
 * Chunks that a diff need not store, because an ancestor holds them.
 *
 * How it works: the leaves of the ancestors say of every stored chunk its
 * checksum and length, so the table of them costs 4 KiB read for 8 MiB of guest
 * memory and no chunk data. The nearest ancestor comes first, and no more is
 * read than a share of what the diff itself is long: a small diff does not wait
 * for a large index. A hit says where to look; the writer reads and compares.
 *
 * Nothing here is an error: an ancestor or leaf that cannot be read or is
 * damaged is one that nothing is shared with.
 */
#include "snapshot/internal.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#define FIRST 1024U
/* 24 bytes each: 48 MiB. At most half of the slots are used: 64 GiB of pages
 * that are not zero. */
#define MOST (2U * 1024 * 1024)
/* Guests choose the content and so the checksums: they must not be able to make
 * one long run of used slots. */
#define PROBES 32U

/* Of what the diff holds, this part may be read of its ancestors' index. */
#define SHARE 8

static uint64_t worth_reading(uint64_t pages)
{
	return pages * SNAP_PAGE_SIZE / SHARE;
}

static uint64_t index_bytes(const struct snap *s)
{
	uint64_t n = 0;

	for (uint32_t i = 0; i < s->mem.root_count; i++)
		n += s->root[i].pages_present ? sizeof(struct snap_leaf) : 0;
	return n;
}

bool snap_worth_opening(const struct snap *parent, uint64_t pages)
{
	uint64_t have = 0;

	for (const struct snap *s = parent; s; s = s->parent)
		have += index_bytes(s);
	return have + sizeof(struct snap_leaf) <= worth_reading(pages);
}

/* ---- the table ---- */

static struct snap_held *place_for(
	const struct snap_ancestors *a, uint32_t crc, uint32_t pages)
{
	size_t i = (crc * 0x9e3779b97f4a7c15ULL >> 32) + pages;

	for (unsigned k = 0; k < PROBES; k++) {
		struct snap_held *h = &a->slot[(i + k) & (a->cap - 1)];

		if (!h->pages || (h->crc == crc && h->pages == pages))
			return h;
	}
	return NULL;
}

static bool grow(struct snap_ancestors *a)
{
	size_t old = a->cap;
	struct snap_held *from = a->slot, *to;

	if (old == MOST)
		return false;
	to = calloc(old ? 2 * old : FIRST, sizeof(*to));
	if (!to)
		return false;
	a->slot = to;
	a->cap = old ? 2 * old : FIRST;
	for (size_t i = 0; i < old; i++) {
		if (!from[i].pages)
			continue;
		to = place_for(a, from[i].crc, from[i].pages);
		if (to)
			*to = from[i];
	}
	free(from);
	return true;
}

/* False: the table is as large as it may be. */
static bool add(struct snap_ancestors *a, const struct snap_chunk *c,
	unsigned level, const struct snap *owner)
{
	unsigned file = level + c->file;
	struct snap_held *h;

	if (!c->present || file > a->nfiles || !owner)
		return true;
	if (a->n >= a->cap / 2 && !grow(a))
		return false;
	h = place_for(a, c->crc, c->raw_length / (uint32_t)SNAP_PAGE_SIZE);
	if (!h || h->pages)
		return true;
	*h = (struct snap_held){
		.offset = c->offset,
		.stored_length = c->stored_length,
		.crc = c->crc,
		.stored_crc = c->stored_crc,
		.pages = (uint8_t)(c->raw_length / SNAP_PAGE_SIZE),
		.file = (uint8_t)file,
		.codec = c->codec,
	};
	a->n++;
	return true;
}

/* ---- reading ---- */

/* The kernel hears of all leaves first: one trip to the disk, not many. */
static void announce(const struct snap *s, uint64_t most)
{
	for (uint32_t i = 0; i < s->mem.root_count && most; i++) {
		if (!s->root[i].pages_present)
			continue;
		(void)posix_fadvise(s->fd, (off_t)s->root[i].offset,
			sizeof(struct snap_leaf), POSIX_FADV_WILLNEED);
		most--;
	}
}

/* Returns how many leaves may still be read. */
static uint64_t read_file(
	struct snap_ancestors *a, unsigned level, uint64_t most)
{
	const struct snap *s = a->file[level];
	struct snap_leaf_at at;
	struct snap_leaf leaf;

	announce(s, most);
	for (uint32_t i = 0; i < s->mem.root_count && most; i++) {
		if (!s->root[i].pages_present)
			continue;
		most--;
		snap_leaf_locate(s, i, &at);
		if (snap_read_leaf(s, &at, &leaf, NULL))
			continue;
		for (uint32_t n = 0; n < at.chunks; n++) {
			const struct snap_chunk *c = &leaf.chunk[n];

			if (!add(a, c, level, snap_chunk_file(s, c, NULL)))
				return 0;
		}
	}
	return most;
}

void snap_ancestors_read(
	struct snap_ancestors *a, const struct snap *parent, uint64_t pages)
{
	uint64_t most = worth_reading(pages) / sizeof(struct snap_leaf);

	memset(a, 0, sizeof(*a));
	for (const struct snap *s = parent; s && a->nfiles < SNAP_MAX_CHAIN;
		s = s->parent)
		a->file[++a->nfiles] = s;
	for (unsigned level = 1; level <= a->nfiles && most; level++)
		most = read_file(a, level, most);
}

void snap_ancestors_free(struct snap_ancestors *a)
{
	free(a->slot);
	(void)ZSTD_freeDCtx(a->zstd);
	memset(a, 0, sizeof(*a));
}

bool snap_ancestors_find(const struct snap_ancestors *a, uint32_t crc,
	uint32_t raw_length, struct snap_chunk *c)
{
	const struct snap_held *h = NULL;

	if (a->cap)
		h = place_for(a, crc, raw_length / (uint32_t)SNAP_PAGE_SIZE);
	if (!h || !h->pages)
		return false;
	c->offset = h->offset;
	c->stored_length = h->stored_length;
	c->stored_crc = h->stored_crc;
	c->file = h->file;
	c->codec = h->codec;
	return true;
}

bool snap_ancestors_same(struct snap_ancestors *a, const struct snap_chunk *c,
	const uint8_t *raw, uint8_t *buf)
{
	uint8_t *stored = buf, *unpacked = buf + SNAP_CHUNK_SIZE;
	bool packed = c->codec != SNAP_CODEC_RAW;

	if (snap_pread(a->file[c->file]->fd, stored, c->stored_length,
		    c->offset, NULL) ||
		snap_chunk_decode(
			c, &a->zstd, stored, packed ? unpacked : NULL, NULL))
		return false;
	return !memcmp(packed ? unpacked : stored, raw, c->raw_length);
}
