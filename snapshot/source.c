#include "snapshot/source.h"

#include "core/crc32c.h"
#include "snapshot/internal.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <zstd.h>

_Static_assert(PSRC_WINDOW == SNAP_CHUNK_SIZE, "a window is a chunk");

struct source {
	struct psrc src;
	struct snap *snap;       /* borrowed */
	pthread_mutex_t lock;    /* leaf[] */
	struct snap_leaf **leaf; /* owned, and each of them; by root index */
};

/* Guest memory lies in one piece, region behind region. */
static bool locate(
	const struct snap *s, uint64_t offset, uint32_t *root, uint32_t *chunk)
{
	for (uint32_t i = 0; i < s->mem.region_count; i++) {
		const struct snap_region *r = &s->region[i];

		if (offset < r->size) {
			*root = r->first_leaf +
				(uint32_t)(offset / SNAP_LEAF_SPAN);
			*chunk = (uint32_t)(offset % SNAP_LEAF_SPAN /
					    SNAP_CHUNK_SIZE);
			return true;
		}
		offset -= r->size;
	}
	return false;
}

/* The leaf, from the file if it must be and may; *leaf stays as it is. */
static int get_leaf(struct source *s, uint32_t root, bool may_block,
	const struct snap_leaf **leaf, struct err *e)
{
	struct snap_leaf_at at;
	struct snap_leaf *new;
	int r;

	(void)pthread_mutex_lock(&s->lock);
	*leaf = s->leaf[root];
	(void)pthread_mutex_unlock(&s->lock);
	if (*leaf)
		return 0;
	if (!may_block)
		return -EAGAIN;
	new = malloc(sizeof(*new));
	if (!new)
		return err_set(e, -ENOMEM, "no memory for the memory index");
	snap_leaf_locate(s->snap, root, &at);
	r = snap_read_leaf(s->snap, &at, new, e);
	if (r) {
		free(new);
		return r;
	}
	(void)pthread_mutex_lock(&s->lock);
	if (s->leaf[root])
		free(new);
	else
		s->leaf[root] = new;
	*leaf = s->leaf[root];
	(void)pthread_mutex_unlock(&s->lock);
	return 0;
}

static int source_map(struct psrc *src, uint64_t w, bool may_block,
	struct psrc_window *out, struct err *e)
{
	struct source *s = container_of(src, struct source, src);
	const struct snap_leaf *leaf = NULL;
	const struct snap_chunk *c;
	uint32_t root, chunk;
	int r;

	*out = (struct psrc_window){.zero = 0xffff};
	if (!locate(s->snap, w * PSRC_WINDOW, &root, &chunk))
		return err_set(e, -EINVAL, "not inside guest memory");
	if (!s->snap->root[root].offset)
		return 0;
	r = get_leaf(s, root, may_block, &leaf, e);
	if (r || !leaf)
		return r ? r : -EIO;
	c = &leaf->chunk[chunk];
	out->zero = c->zero;
	if (!c->present)
		return 0;
	out->n = 1;
	out->piece[0] = (struct psrc_piece){
		.length = c->stored_length,
		.offset = c->offset,
		.pages = c->present,
		.plain = c->codec == SNAP_CODEC_RAW,
		.u32 = {c->crc, c->raw_length, c->codec},
	};
	return 0;
}

static int bad_piece(
	uint64_t w, const struct psrc_piece *p, const char *why, struct err *e)
{
	return snap_bad(e, p->offset, p->length,
		"chunk of guest memory at 0x%llx: %s",
		(unsigned long long)(w * PSRC_WINDOW), why);
}

static int source_decode(struct psrc *src, uint64_t w,
	const struct psrc_piece *p, const struct psrc_buf *b, struct err *e)
{
	const uint8_t *raw = b->stored;
	uint32_t crc = p->u32[0], length = p->u32[1];

	(void)src;
	if (!p->plain) {
		if (ZSTD_decompress(b->scratch, PSRC_WINDOW, b->stored,
			    p->length) != length)
			return bad_piece(w, p, "cannot be unpacked", e);
		raw = b->scratch;
	}
	if (crc32c(0, raw, length) != crc)
		return bad_piece(w, p, "checksum mismatch", e);
	for (unsigned i = 0; b->win && i < PSRC_PAGES; i++) {
		if (!(p->pages >> i & 1))
			continue;
		memcpy(b->win + i * SNAP_PAGE_SIZE, raw, SNAP_PAGE_SIZE);
		raw += SNAP_PAGE_SIZE;
	}
	return 0;
}

static void source_close(struct psrc *src)
{
	struct source *s = container_of(src, struct source, src);

	for (uint32_t i = 0; s->leaf && i < s->snap->mem.root_count; i++)
		free(s->leaf[i]);
	free(s->leaf);
	(void)pthread_mutex_destroy(&s->lock);
	free(s);
}

static const struct psrc_ops source_ops = {
	.name = "the snapshot's file",
	.map = source_map,
	.decode = source_decode,
	.close = source_close,
};

int snap_source(struct snap *snap, struct psrc **out, struct err *e)
{
	struct source *s;

	*out = NULL;
	if (snap->h.flags & SNAP_FLAG_DIFF)
		return err_set(e, -EOPNOTSUPP,
			"lazy loading of a diff is not possible: merge the "
			"chain first (thaw merge), or load eagerly");
	s = calloc(1, sizeof(*s));
	if (!s)
		return err_set(e, -ENOMEM, "no memory for a page source");
	s->src.ops = &source_ops;
	s->src.size = snap->mem.memory_size;
	s->src.pages = snap->mem.pages_present;
	s->src.nfiles = 1;
	s->src.file[0] = snap->fd;
	s->snap = snap;
	if (pthread_mutex_init(&s->lock, NULL)) {
		free(s);
		return err_set(e, -ENOMEM, "no memory for a page source");
	}
	s->leaf = calloc(snap->mem.root_count, sizeof(struct snap_leaf *));
	if (!s->leaf) {
		source_close(&s->src);
		return err_set(e, -ENOMEM, "no memory for a page source");
	}
	*out = &s->src;
	return 0;
}

unsigned snap_zero_runs(
	const struct snap *s, struct mem_range *out, unsigned max)
{
	unsigned n = 0;

	for (uint32_t i = 0; i < s->mem.root_count; i++) {
		struct snap_leaf_at at;
		uint64_t start, end;

		if (s->root[i].pages_present || (s->h.flags & SNAP_FLAG_DIFF))
			continue;
		snap_leaf_locate(s, i, &at);
		start = at.gpa - at.region->gpa;
		for (const struct snap_region *r = s->region; r < at.region;
			r++)
			start += r->size;
		end = start + at.chunks * SNAP_CHUNK_SIZE;
		if (n && out[n - 1].end == start)
			out[n - 1].end = end;
		else if (n < max)
			out[n++] = (struct mem_range){start, end};
	}
	return n;
}
