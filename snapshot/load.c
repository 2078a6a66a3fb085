/*
 * Guest memory out of a snapshot and its ancestors.
 *
 * How it works: one piece of work is a leaf, 8 MiB of guest memory. A thread
 * reads the leaves of all files for it, then fetches the stored pieces; what
 * lies one behind the other in a file is one read. While one thread checks and
 * copies, another one waits for the disk. Every chunk is checked in a buffer of
 * ours before a byte of it is placed.
 */
#include "snapshot/internal.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define LOAD_SPAN (1024 * KIB) /* a read, at most */

struct piece {
	struct snap_extent x;
	uint32_t chunk;
};

struct slot {
	struct snap_leaves leaves;
	uint8_t *raw;        /* owned: SNAP_CHUNK_SIZE */
	uint8_t *span;       /* owned: LOAD_SPAN */
	struct piece *piece; /* owned: one leaf's */
	ZSTD_DCtx *zstd;     /* owned */
	struct err e;
};

struct load {
	const struct snap *s;
	struct mem *mem;
	struct slot *slot; /* owned */
	unsigned nslots;
	bool unchecked;
};

static int check_same_regions(
	const struct snap *s, const struct mem *mem, struct err *e)
{
	bool same = s->mem.region_count == mem->nregions;

	for (unsigned i = 0; same && i < mem->nregions; i++)
		same = s->region[i].gpa == mem->region[i].gpa &&
		       s->region[i].size == mem->region[i].size;
	if (!same)
		return err_set(e, -EBADMSG,
			"the memory regions of the snapshot are not those of "
			"the machine");
	return 0;
}

/* ---- placing ---- */

/* Copy runs of pages in `take` from the packed bytes to where they belong. */
static int place_pages(const struct mem *mem, gpa_t gpa,
	const struct snap_extent *x, const uint8_t *packed, struct err *e)
{
	unsigned page = 0, run;

	while (page < SNAP_CHUNK_PAGES) {
		for (run = 0; page + run < SNAP_CHUNK_PAGES &&
			      (x->take >> (page + run) & 1);)
			run++;
		if (run && mem_write(mem, gpa + page * SNAP_PAGE_SIZE, packed,
				   run * SNAP_PAGE_SIZE))
			return err_set(e, -EFAULT, "guest memory is smaller");
		packed += run * SNAP_PAGE_SIZE;
		page += run;
		/* a page of the data that something newer replaces */
		if (page < SNAP_CHUNK_PAGES) {
			if (x->c.present >> page & 1)
				packed += SNAP_PAGE_SIZE;
			page++;
		}
	}
	return 0;
}

/* One fault for a window instead of one a page: half again as fast. Only where
 * all of it is written: untouched pages must not come into being. A kernel that
 * cannot (before 5.14) faults page by page. */
static void populate(const struct mem *mem, gpa_t gpa, uint16_t take)
{
	void *to;

	if (take != 0xffff)
		return;
	to = mem_at(mem, gpa, SNAP_CHUNK_SIZE, MEM_WRITE);
	if (to)
		(void)madvise(to, SNAP_CHUNK_SIZE, MADV_POPULATE_WRITE);
}

static int place(struct load *l, struct slot *sl, const struct snap_leaf_at *at,
	const struct piece *p, const uint8_t *stored, struct err *e)
{
	gpa_t gpa = at->gpa + p->chunk * SNAP_CHUNK_SIZE;
	bool raw = p->x.c.codec == SNAP_CODEC_RAW;
	struct err why = {0};

	if (!(raw && l->unchecked) &&
		snap_chunk_decode(
			&p->x.c, &sl->zstd, stored, raw ? NULL : sl->raw, &why))
		return snap_bad(e, p->x.c.offset, p->x.c.stored_length,
			"chunk %u (guest 0x%llx): %s",
			at->root * SNAP_LEAF_CHUNKS + p->chunk,
			(unsigned long long)gpa, why.msg);
	populate(l->mem, gpa, p->x.take);
	return place_pages(l->mem, gpa, &p->x, raw ? stored : sl->raw, e);
}

/* ---- reading ---- */

static int collect(struct slot *sl, const struct snap_leaf_at *at, uint32_t *n,
	struct err *e)
{
	struct snap_window w;

	*n = 0;
	for (uint32_t c = 0; c < at->chunks; c++) {
		int rc = snap_leaves_window(&sl->leaves, c, &w, e);

		if (rc)
			return rc;
		for (unsigned i = 0; i < w.n; i++)
			sl->piece[(*n)++] =
				(struct piece){.x = w.ext[i], .chunk = c};
	}
	return 0;
}

static int by_place(const void *a, const void *b)
{
	const struct piece *x = a, *y = b;

	/* any order of the files will do */
	if (x->x.file != y->x.file)
		return (uintptr_t)x->x.file < (uintptr_t)y->x.file ? -1 : 1;
	return (x->x.c.offset > y->x.c.offset) -
	       (x->x.c.offset < y->x.c.offset);
}

/* How many pieces from the first one on one read can get, and its length. */
static uint32_t span_of(const struct piece *p, uint32_t n, uint64_t *len)
{
	uint64_t end = p->x.c.offset + p->x.c.stored_length;
	uint32_t k = 1;

	for (; k < n && p[k].x.file == p->x.file; k++) {
		uint64_t e2 = p[k].x.c.offset + p[k].x.c.stored_length;

		/* what is shared, and small gaps, come along */
		if (p[k].x.c.offset > end + SNAP_PAGE_SIZE ||
			e2 > p->x.c.offset + LOAD_SPAN)
			break;
		if (e2 > end)
			end = e2;
	}
	*len = end - p->x.c.offset;
	return k;
}

static int load_leaf(void *arg, uint32_t i, unsigned slot)
{
	struct load *l = arg;
	struct slot *sl = &l->slot[slot];
	struct snap_leaf_at at;
	uint32_t n = 0, k;
	uint64_t len;
	int rc;

	snap_leaf_locate(l->s, i, &at);
	rc = snap_leaves_read(&sl->leaves, i, &sl->e);
	if (!rc)
		rc = collect(sl, &at, &n, &sl->e);
	if (!rc && n)
		qsort(sl->piece, n, sizeof(sl->piece[0]), by_place);
	for (uint32_t at_piece = 0; at_piece < n && !rc; at_piece += k) {
		const struct piece *p = &sl->piece[at_piece];

		k = span_of(p, n - at_piece, &len);
		rc = snap_pread(
			p->x.file->fd, sl->span, len, p->x.c.offset, &sl->e);
		for (uint32_t j = 0; j < k && !rc; j++)
			rc = place(l, sl, &at, &p[j],
				sl->span + (p[j].x.c.offset - p->x.c.offset),
				&sl->e);
	}
	return rc;
}

/* ---- all of it ---- */

static int slots_open(struct load *l, unsigned n, struct err *e)
{
	l->slot = calloc(n, sizeof(*l->slot));
	if (!l->slot)
		return err_set(e, -ENOMEM, "snapshot: out of memory");
	for (l->nslots = 0; l->nslots < n; l->nslots++) {
		struct slot *sl = &l->slot[l->nslots];

		snap_leaves_init(&sl->leaves, l->s);
		sl->raw = malloc(SNAP_CHUNK_SIZE);
		sl->span = malloc(LOAD_SPAN);
		sl->piece = calloc(SNAP_LEAF_CHUNKS * SNAP_CHUNK_PAGES,
			sizeof(*sl->piece));
		if (!sl->raw || !sl->span || !sl->piece) {
			l->nslots++;
			return err_set(e, -ENOMEM, "snapshot: out of memory");
		}
	}
	return 0;
}

static void slots_close(struct load *l)
{
	for (unsigned i = 0; i < l->nslots; i++) {
		snap_leaves_fini(&l->slot[i].leaves);
		free(l->slot[i].raw);
		free(l->slot[i].span);
		free(l->slot[i].piece);
		(void)ZSTD_freeDCtx(l->slot[i].zstd);
	}
	free(l->slot);
}

static int load(struct snap *s, struct mem *mem, unsigned threads,
	bool unchecked, struct err *e)
{
	struct load l = {.s = s, .mem = mem, .unchecked = unchecked};
	struct snap_pool *pool = NULL;
	int rc = check_same_regions(s, mem, e);

	if (!rc)
		rc = snap_check_chain(s, e);
	if (rc)
		return rc;
	if (snap_pool_open(threads, &pool))
		return err_set(e, -ENOMEM, "snapshot: out of memory");
	rc = slots_open(&l, threads + 1, e);
	if (!rc) {
		rc = snap_pool_run(pool, load_leaf, &l, s->mem.root_count);
		for (unsigned i = 0; rc && i < l.nslots; i++) {
			if (e && l.slot[i].e.code == rc)
				*e = l.slot[i].e;
		}
	}
	snap_pool_close(pool);
	slots_close(&l);
	return rc;
}

int snap_load_memory(
	struct snap *s, struct mem *mem, unsigned threads, struct err *e)
{
	return load(s, mem, threads, false, e);
}

int snap_load_unchecked(
	struct snap *s, struct mem *mem, unsigned threads, struct err *e)
{
	return load(s, mem, threads, true, e);
}
