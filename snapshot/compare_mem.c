/*
 * How it works: memory is compared chunk by chunk, each put together from the
 * files of its chain. Two that are made of the same stored bytes of the same
 * files are the same without being read: of a diff and its parent only what
 * changed is.
 */
#include "snapshot/compare.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define MAX_RANGES 65536

struct side {
	const struct snap *snap;   /* borrowed: the newest file */
	struct snap_leaves leaves; /* owned */
	struct snap_window win;
	uint8_t *buf; /* owned: the window, then a chunk's stored and raw bytes
		       */
	ZSTD_DCtx *zstd; /* owned */
};

struct memory {
	struct side a, b;
	struct found *ranges; /* borrowed */
	uint64_t pages;
	uint64_t from, to; /* the range at hand, in pages; to 0: none */
};

static int side_init(struct side *d, const struct snap *s, struct err *e)
{
	d->snap = s;
	snap_leaves_init(&d->leaves, s);
	d->buf = malloc(3 * SNAP_CHUNK_SIZE);
	return d->buf ? 0 : err_set(e, -ENOMEM, "compare: out of memory");
}

static void side_free(struct side *d)
{
	if (d->snap)
		snap_leaves_fini(&d->leaves);
	free(d->buf);
	(void)ZSTD_freeDCtx(d->zstd);
}

static int side_read(struct side *d, gpa_t gpa, struct err *e)
{
	uint8_t *stored = d->buf + SNAP_CHUNK_SIZE;
	uint8_t *raw = stored + SNAP_CHUNK_SIZE;
	struct err why = {0};

	memset(d->buf, 0, SNAP_CHUNK_SIZE);
	for (unsigned i = 0; i < d->win.n; i++) {
		const struct snap_extent *x = &d->win.ext[i];
		int rc = snap_pread(x->file->fd, stored, x->c.stored_length,
			x->c.offset, e);

		if (rc)
			return rc;
		if (snap_chunk_decode(&x->c, &d->zstd, stored, raw, &why))
			return snap_bad(e, x->c.offset, x->c.stored_length,
				"chunk of guest 0x%llx: %.200s",
				(unsigned long long)gpa, why.msg);
		snap_unpack_pages(d->buf, raw, x->c.present, x->take);
	}
	return 0;
}

/* The same snapshot, whichever file it is read from. */
static bool same_file(const struct snap *a, const struct snap *b)
{
	return a->h.crc == b->h.crc && !memcmp(a->h.uuid, b->h.uuid, 16);
}

/* The same stored bytes of the same files? */
static bool same_pieces(
	const struct snap_window *a, const struct snap_window *b)
{
	if (a->zero != b->zero || a->n != b->n)
		return false;
	for (unsigned i = 0; i < a->n; i++) {
		const struct snap_extent *x = &a->ext[i], *y = &b->ext[i];

		if (x->c.offset != y->c.offset || x->c.crc != y->c.crc ||
			x->c.present != y->c.present || x->take != y->take ||
			!same_file(x->file, y->file))
			return false;
	}
	return true;
}

/* A window of guest memory, which has no holes, as a guest address. */
static gpa_t gpa_of(const struct snap *s, uint64_t page)
{
	uint64_t at = page * SNAP_PAGE_SIZE;

	for (uint32_t i = 0; i < s->mem.region_count; i++) {
		if (at < s->region[i].size)
			return s->region[i].gpa + at;
		at -= s->region[i].size;
	}
	return 0;
}

static void end_range(struct memory *m)
{
	if (m->to && m->ranges->n < MAX_RANGES) {
		m->ranges->n++;
		(void)msgpack_pack_map(&m->ranges->p, 2);
		mp_key_u64(&m->ranges->p, "gpa", gpa_of(m->a.snap, m->from));
		mp_key_u64(&m->ranges->p, "pages", m->to - m->from);
	}
	m->to = 0;
}

static void differing_page(struct memory *m, uint64_t page)
{
	m->pages++;
	/* a range does not go over the gap between two regions */
	if (m->to != page ||
		gpa_of(m->a.snap, page) !=
			gpa_of(m->a.snap, page - 1) + SNAP_PAGE_SIZE) {
		end_range(m);
		m->from = page;
	}
	m->to = page + 1;
}

/* Window n of a leaf; first: the number of its first page. */
static int compare_window(
	struct memory *m, uint32_t n, uint64_t first, struct err *e)
{
	gpa_t gpa = gpa_of(m->a.snap, first);
	int rc = snap_leaves_window(&m->a.leaves, n, &m->a.win, e);

	if (!rc)
		rc = snap_leaves_window(&m->b.leaves, n, &m->b.win, e);
	if (rc || same_pieces(&m->a.win, &m->b.win))
		return rc;
	rc = side_read(&m->a, gpa, e);
	if (!rc)
		rc = side_read(&m->b, gpa, e);
	for (unsigned i = 0; i < SNAP_CHUNK_PAGES && !rc; i++) {
		if (memcmp(m->a.buf + i * SNAP_PAGE_SIZE,
			    m->b.buf + i * SNAP_PAGE_SIZE, SNAP_PAGE_SIZE) != 0)
			differing_page(m, first + i);
	}
	return rc;
}

static int compare_all(struct memory *m, struct err *e)
{
	const struct snap *a = m->a.snap;
	uint64_t first = 0;
	int rc = 0;

	for (uint32_t i = 0; i < a->mem.root_count && !rc; i++) {
		struct snap_leaf_at at;

		snap_leaf_locate(a, i, &at);
		rc = snap_leaves_read(&m->a.leaves, i, e);
		if (!rc)
			rc = snap_leaves_read(&m->b.leaves, i, e);
		for (uint32_t n = 0; n < at.chunks && !rc; n++) {
			rc = compare_window(m, n, first, e);
			first += SNAP_CHUNK_PAGES;
		}
	}
	end_range(m);
	return rc;
}

int compare_memory(struct found *ranges, struct snap *a, struct snap *b,
	uint64_t *pages, struct err *e)
{
	struct memory *m = calloc(1, sizeof(*m));
	int rc;

	if (!m)
		return err_set(e, -ENOMEM, "compare: out of memory");
	m->ranges = ranges;
	rc = side_init(&m->a, a, e);
	if (!rc)
		rc = side_init(&m->b, b, e);
	if (!rc)
		rc = compare_all(m, e);
	*pages = m->pages;
	side_free(&m->a);
	side_free(&m->b);
	free(m);
	return rc;
}
