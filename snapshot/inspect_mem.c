/*
 * How it works: one pass over the leaves (4 KiB for 8 MiB of guest memory; no
 * chunk data is read) gives the numbers of each region and, when asked for, a
 * cell for every page of the map. The kernel is told about all leaves first,
 * so that a cold file costs one trip to the disk and not one for each leaf.
 *
 * Stored data that two chunks share is found with a set of offsets: each
 * stored leaf is a page of the file, so the set is never larger than the file.
 */
#include "snapshot/inspect.h"
#include "snapshot/map.h"
#include "uffd/ws.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

struct region_stats {
	uint64_t pages, present, zero, inherited, deduplicated, unreadable;
	uint64_t chunks, zstd_chunks;
	uint64_t raw_bytes, stored_bytes; /* of the data this file holds */
};

struct walk {
	struct inspect *in;
	struct region_stats st[SNAP_MAX_REGIONS];
	uint64_t *seen; /* owned: offsets, open addressing, 0: free */
	uint64_t mask;
	uint8_t *cells; /* owned: one for each `scale` pages; NULL: no map */
	uint64_t scale;
};

/* Was this offset there before? */
static bool seen_before(struct walk *w, uint64_t offset)
{
	uint64_t at = offset * 0x9e3779b97f4a7c15ULL >> 20 & w->mask;

	while (w->seen[at]) {
		if (w->seen[at] == offset)
			return true;
		at = (at + 1) & w->mask;
	}
	w->seen[at] = offset;
	return false;
}

static void cell(struct walk *w, uint64_t page, enum snap_cell c)
{
	uint8_t *to;

	if (!w->cells)
		return;
	to = &w->cells[page / w->scale];
	/* of several pages the most telling one counts */
	if ((uint8_t)c > *to)
		*to = (uint8_t)c;
}

static void chunk_stats(
	struct region_stats *st, const struct snap_chunk *c, bool shared)
{
	uint64_t present = (uint64_t)__builtin_popcount(c->present);

	st->present += present;
	st->zero += (uint64_t)__builtin_popcount(c->zero);
	if (shared)
		st->deduplicated += present;
	if (!present || shared)
		return;
	st->chunks++;
	st->zstd_chunks += c->codec == SNAP_CODEC_ZSTD ? 1 : 0;
	st->raw_bytes += c->raw_length;
	st->stored_bytes += c->stored_length;
}

static void one_chunk(struct walk *w, struct region_stats *st,
	const struct snap_chunk *c, uint64_t first)
{
	bool shared = c->present && (c->file || seen_before(w, c->offset));

	chunk_stats(st, c, shared);
	for (unsigned n = 0; n < SNAP_CHUNK_PAGES; n++) {
		if (c->present >> n & 1)
			cell(w, first + n,
				shared ? SNAP_CELL_SHARED : SNAP_CELL_PRESENT);
		else if (c->zero >> n & 1)
			cell(w, first + n, SNAP_CELL_ZERO);
		else
			cell(w, first + n, SNAP_CELL_INHERITED);
	}
}

static void all_pages(
	struct walk *w, uint64_t first, uint64_t n, enum snap_cell c)
{
	for (uint64_t i = 0; w->cells && i < n; i++)
		cell(w, first + i, c);
}

/* Leaf i, whose first page is number `first` of all. */
static void one_leaf(struct walk *w, uint32_t i, uint64_t first)
{
	const struct snap *s = &w->in->s;
	struct region_stats *st;
	struct snap_leaf_at at;
	struct snap_leaf leaf;
	struct err e = {0};
	uint64_t pages;

	snap_leaf_locate(s, i, &at);
	st = &w->st[at.region - s->region];
	pages = (uint64_t)at.chunks * SNAP_CHUNK_PAGES;
	st->pages += pages;
	if (!s->root[i].offset) {
		bool diff = s->h.flags & SNAP_FLAG_DIFF;

		*(diff ? &st->inherited : &st->zero) += pages;
		all_pages(w, first, pages,
			diff ? SNAP_CELL_INHERITED : SNAP_CELL_ZERO);
		return;
	}
	if (!inspect_sound(w->in, snap_read_leaf(s, &at, &leaf, &e), &e)) {
		st->unreadable += pages;
		all_pages(w, first, pages, SNAP_CELL_UNREADABLE);
		return;
	}
	st->inherited +=
		pages - s->root[i].pages_present - s->root[i].pages_zero;
	for (uint32_t n = 0; n < at.chunks; n++)
		one_chunk(w, st, &leaf.chunk[n],
			first + (uint64_t)n * SNAP_CHUNK_PAGES);
}

/* Allocations and a hint to the kernel for what is to come. */
static int begin(struct walk *w, struct err *e)
{
	const struct snap *s = &w->in->s;
	uint64_t stored = 0, size = 64;

	for (uint32_t i = 0; i < s->mem.root_count; i++) {
		if (!s->root[i].offset)
			continue;
		stored++;
		(void)posix_fadvise(s->fd, (off_t)s->root[i].offset,
			sizeof(struct snap_leaf), POSIX_FADV_WILLNEED);
	}
	while (size < 2 * stored * SNAP_LEAF_CHUNKS)
		size *= 2;
	w->mask = size - 1;
	w->seen = calloc(size, sizeof(*w->seen));
	if (!w->seen)
		return err_set(e, -ENOMEM, "inspect: out of memory");
	if (!w->in->o->map)
		return 0;
	w->scale = 1;
	while (s->mem.memory_size / SNAP_PAGE_SIZE / w->scale > SNAP_MAP_MAX)
		w->scale *= 2;
	w->cells =
		calloc(s->mem.memory_size / SNAP_PAGE_SIZE / w->scale + 1, 1);
	return w->cells ? 0 : err_set(e, -ENOMEM, "inspect: out of memory");
}

static void pack_region(msgpack_packer *p, const struct snap_region *r,
	const struct region_stats *st)
{
	(void)msgpack_pack_map(p, 12);
	mp_key_u64(p, "gpa", r->gpa);
	mp_key_u64(p, "bytes", r->size);
	mp_key_u64(p, "pages", st->pages);
	mp_key_u64(p, "pages_present", st->present);
	mp_key_u64(p, "pages_zero", st->zero);
	mp_key_u64(p, "pages_inherited", st->inherited);
	mp_key_u64(p, "pages_deduplicated", st->deduplicated);
	mp_key_u64(p, "pages_unreadable", st->unreadable);
	mp_key_u64(p, "chunks", st->chunks);
	mp_key_u64(p, "zstd_chunks", st->zstd_chunks);
	mp_key_u64(p, "raw_bytes", st->raw_bytes);
	mp_key_u64(p, "stored_bytes", st->stored_bytes);
}

static void pack_memory(struct walk *w)
{
	const struct snap *s = &w->in->s;
	msgpack_packer *p = w->in->out;

	inspect_key(w->in, "memory");
	(void)msgpack_pack_map(p, 6);
	mp_key_u64(p, "bytes", s->mem.memory_size);
	mp_key_u64(p, "pages_present", s->mem.pages_present);
	mp_key_u64(p, "pages_zero", s->mem.pages_zero);
	mp_key_u64(p, "chunk_bytes", s->mem.chunk_size);
	mp_key_u64(p, "data_offset", s->mem.data_offset);
	mp_str(p, "regions");
	(void)msgpack_pack_array(p, s->mem.region_count);
	for (uint32_t i = 0; i < s->mem.region_count; i++)
		pack_region(p, &s->region[i], &w->st[i]);
}

static void pack_map(struct walk *w)
{
	const struct snap *s = &w->in->s;
	msgpack_packer *p = w->in->out;

	inspect_key(w->in, "map");
	(void)msgpack_pack_map(p, 3);
	mp_key_u64(p, "pages_per_cell", w->scale);
	mp_key_bool(p, "diff", (s->h.flags & SNAP_FLAG_DIFF) != 0);
	mp_str(p, "cells");
	mp_bin(p, w->cells, s->mem.memory_size / SNAP_PAGE_SIZE / w->scale);
}

/* Mark the pages of the working set; a set that does not fit is an error of its
 * own and none of the snapshot's. */
static void add_working_set(struct walk *w)
{
	const struct snap *s = &w->in->s;
	uint64_t pages = s->mem.memory_size / SNAP_PAGE_SIZE;
	struct ws set = {.bits = NULL};
	uint8_t digest[16];
	struct err e = {0};
	int rc = ws_read(w->in->o->ws_fd, &set, &e);

	if (!rc)
		rc = snap_digest(s, digest);
	if (!rc)
		rc = ws_check(&set, s->h.uuid, digest, pages, &e);
	if (rc && !e.code)
		(void)err_sys(&e, rc, "digest of a snapshot");
	if (rc)
		(void)err_wrap(&e, "working set (the file beside it)");
	(void)inspect_sound(w->in, rc, &e);
	for (uint64_t i = 0; i < pages && !rc; i++) {
		if (ws_has(&set, i))
			w->cells[i / w->scale] |= SNAP_CELL_WORKING;
	}
	ws_fini(&set);
}

void inspect_memory(struct inspect *in)
{
	struct walk w = {.in = in};
	struct err e = {0};
	uint64_t first = 0;

	if (inspect_sound(in, begin(&w, &e), &e)) {
		for (uint32_t i = 0; i < in->s.mem.root_count; i++) {
			struct snap_leaf_at at;

			one_leaf(&w, i, first);
			snap_leaf_locate(&in->s, i, &at);
			first += (uint64_t)at.chunks * SNAP_CHUNK_PAGES;
		}
		pack_memory(&w);
		if (w.cells && in->o->ws_fd > 0)
			add_working_set(&w);
		if (w.cells)
			pack_map(&w);
	}
	free(w.seen);
	free(w.cells);
}

void inspect_leaves(struct inspect *in)
{
	const struct snap *s = &in->s;

	(void)msgpack_pack_array(in->out, s->mem.root_count);
	for (uint32_t i = 0; i < s->mem.root_count; i++) {
		struct snap_leaf_at at;

		snap_leaf_locate(s, i, &at);
		(void)msgpack_pack_map(in->out, 5);
		mp_key_u64(in->out, "gpa", at.gpa);
		mp_key_u64(in->out, "pages",
			(uint64_t)at.chunks * SNAP_CHUNK_PAGES);
		mp_key_u64(in->out, "pages_present", s->root[i].pages_present);
		mp_key_u64(in->out, "pages_zero", s->root[i].pages_zero);
		mp_key_u64(in->out, "offset", s->root[i].offset);
	}
}
