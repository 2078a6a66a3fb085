#include "snapshot/source.h"

#include "core/crc32c.h"
#include "snapshot/internal.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>

_Static_assert(PSRC_WINDOW == SNAP_CHUNK_SIZE, "a window is a chunk");
_Static_assert(PSRC_MAX_FILES > SNAP_MAX_CHAIN, "a file for each level");

/* One file of the chain: the snapshot itself is 0, its n-th ancestor n. */
struct level {
	const struct snap *snap; /* borrowed */
	struct snap_leaf **leaf; /* owned, and each of them; by root index */
};

/* About as many as threads unpack at a time. */
#define MAX_IDLE 8

struct source {
	struct psrc src;
	pthread_mutex_t lock; /* level[].leaf[], idle, nidle */
	unsigned n;
	ZSTD_DCtx *idle[MAX_IDLE]; /* owned; to unpack with */
	unsigned nidle;
	struct level level[SNAP_MAX_CHAIN + 1];
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

static struct snap_leaf *known_leaf(
	struct source *s, const struct level *l, uint32_t root)
{
	struct snap_leaf *leaf;

	(void)pthread_mutex_lock(&s->lock);
	leaf = l->leaf[root];
	(void)pthread_mutex_unlock(&s->lock);
	return leaf;
}

/* From the file; somebody else may have been faster. NULL with e. */
static struct snap_leaf *read_leaf(
	struct source *s, const struct level *l, uint32_t root, struct err *e)
{
	struct snap_leaf *leaf = malloc(sizeof(*leaf));
	struct snap_leaf_at at;

	if (!leaf) {
		err_set(e, -ENOMEM, "no memory for the memory index");
		return NULL;
	}
	snap_leaf_locate(l->snap, root, &at);
	if (snap_read_leaf(l->snap, &at, leaf, e)) {
		free(leaf);
		return NULL;
	}
	(void)pthread_mutex_lock(&s->lock);
	if (l->leaf[root])
		free(leaf);
	else
		l->leaf[root] = leaf;
	leaf = l->leaf[root];
	(void)pthread_mutex_unlock(&s->lock);
	return leaf;
}

/* What this file has of the pages that are not found yet. */
static int add_piece(struct source *s, unsigned level,
	const struct snap_chunk *c, struct psrc_window *out, uint16_t *found,
	struct err *e)
{
	uint16_t want = (uint16_t)(c->present & ~*found);

	out->zero |= (uint16_t)(c->zero & ~*found);
	*found |= c->present | c->zero;
	if (!want)
		return 0;
	if (!snap_chunk_file(s->level[level].snap, c, e))
		return -EBADMSG;
	out->piece[out->n++] = (struct psrc_piece){
		.file = (int32_t)(level + c->file),
		.length = c->stored_length,
		.offset = c->offset,
		.pages = want,
		.plain = c->codec == SNAP_CODEC_RAW && want == c->present,
		.u32 = {c->crc, c->codec, c->present, c->stored_crc},
	};
	return 0;
}

static int source_map(struct psrc *src, uint64_t w, bool may_block,
	struct psrc_window *out, struct err *e)
{
	struct source *s = container_of(src, struct source, src);
	uint32_t root, chunk;
	uint16_t found = 0;

	memset(out, 0, sizeof(*out));
	if (!locate(s->level[0].snap, w * PSRC_WINDOW, &root, &chunk))
		return err_set(e, -EINVAL, "not inside guest memory");
	for (unsigned i = 0; i < s->n && found != 0xffff; i++) {
		const struct level *l = &s->level[i];
		const struct snap_leaf *leaf;

		if (!l->snap->root[root].offset)
			continue;
		leaf = known_leaf(s, l, root);
		if (!leaf && !may_block)
			return -EAGAIN;
		if (!leaf)
			leaf = read_leaf(s, l, root, e);
		if (!leaf)
			return e && e->code ? e->code : -EIO;
		if (add_piece(s, i, &leaf->chunk[chunk], out, &found, e))
			return -EBADMSG;
	}
	/* Of what no file has: zeros. */
	out->zero |= (uint16_t)~found;
	return 0;
}

static int bad_piece(
	uint64_t w, const struct psrc_piece *p, const char *why, struct err *e)
{
	return snap_bad(e, p->offset, p->length,
		"chunk of guest memory at 0x%llx: %s",
		(unsigned long long)(w * PSRC_WINDOW), why);
}

/* NULL: none is idle. */
static ZSTD_DCtx *take_idle(struct source *s)
{
	ZSTD_DCtx *z = NULL;

	(void)pthread_mutex_lock(&s->lock);
	if (s->nidle)
		z = s->idle[--s->nidle];
	(void)pthread_mutex_unlock(&s->lock);
	return z;
}

static void give_idle(struct source *s, ZSTD_DCtx *z)
{
	(void)pthread_mutex_lock(&s->lock);
	if (z && s->nidle < MAX_IDLE) {
		s->idle[s->nidle++] = z;
		z = NULL;
	}
	(void)pthread_mutex_unlock(&s->lock);
	(void)ZSTD_freeDCtx(z);
}

static int source_decode(struct psrc *src, uint64_t w,
	const struct psrc_piece *p, const struct psrc_buf *b, struct err *e)
{
	const uint8_t *raw = b->stored;
	uint32_t crc = p->u32[0], present = p->u32[2];
	size_t length =
		(size_t)__builtin_popcount(present) * (size_t)SNAP_PAGE_SIZE;

	if (p->u32[1] != SNAP_CODEC_RAW) {
		struct source *s = container_of(src, struct source, src);
		ZSTD_DCtx *z = take_idle(s);
		const char *why = snap_unpack_zstd(&z, b->stored, p->length,
			p->u32[3], b->scratch, (uint32_t)length);

		give_idle(s, z);
		if (why)
			return bad_piece(w, p, why, e);
		raw = b->scratch;
	} else if (length != p->length) {
		return bad_piece(w, p, "wrong length", e);
	}
	if (crc32c(0, raw, length) != crc)
		return bad_piece(w, p, "checksum mismatch", e);
	for (unsigned i = 0; b->win && i < PSRC_PAGES; i++) {
		if (p->pages >> i & 1)
			memcpy(b->win + i * SNAP_PAGE_SIZE, raw,
				SNAP_PAGE_SIZE);
		if (present >> i & 1)
			raw += SNAP_PAGE_SIZE;
	}
	return 0;
}

static void source_close(struct psrc *src)
{
	struct source *s = container_of(src, struct source, src);

	for (unsigned k = 0; k < s->n; k++) {
		struct level *l = &s->level[k];

		for (uint32_t i = 0; l->leaf && i < l->snap->mem.root_count;
			i++)
			free(l->leaf[i]);
		free(l->leaf);
	}
	while (s->nidle)
		(void)ZSTD_freeDCtx(s->idle[--s->nidle]);
	(void)pthread_mutex_destroy(&s->lock);
	free(s);
}

static const struct psrc_ops source_ops = {
	.name = "the snapshot's file",
	.map = source_map,
	.decode = source_decode,
	.close = source_close,
};

static int add_level(struct source *s, const struct snap *snap, struct err *e)
{
	struct level *l = &s->level[s->n];

	l->snap = snap;
	s->src.file[s->n] = snap->fd;
	s->src.nfiles = ++s->n;
	l->leaf = calloc(snap->mem.root_count, sizeof(struct snap_leaf *));
	return l->leaf ? 0 : err_set(e, -ENOMEM, "no memory for a page source");
}

int snap_source(struct snap *snap, struct psrc **out, struct err *e)
{
	struct source *s;
	int r = snap_check_chain(snap, e);

	*out = NULL;
	if (r)
		return r;
	s = calloc(1, sizeof(*s));
	if (!s)
		return err_set(e, -ENOMEM, "no memory for a page source");
	s->src.ops = &source_ops;
	s->src.size = snap->mem.memory_size;
	/* Of a chain nobody knows without reading all of its index. */
	s->src.pages = snap->parent ? 0 : snap->mem.pages_present;
	if (pthread_mutex_init(&s->lock, NULL)) {
		free(s);
		return err_set(e, -ENOMEM, "no memory for a page source");
	}
	for (const struct snap *p = snap; p && !r; p = p->parent)
		r = add_level(s, p, e);
	if (r) {
		source_close(&s->src);
		return r;
	}
	*out = &s->src;
	return 0;
}

/* In no file of the chain is there a page of this leaf. */
static bool leaf_is_zero(const struct snap *s, uint32_t i)
{
	for (; s; s = s->parent) {
		if (s->root[i].pages_present)
			return false;
		if (!s->parent)
			return !(s->h.flags & SNAP_FLAG_DIFF);
	}
	return false;
}

unsigned snap_zero_runs(
	const struct snap *s, struct mem_range *out, unsigned max)
{
	unsigned n = 0;

	for (uint32_t i = 0; i < s->mem.root_count; i++) {
		struct snap_leaf_at at;
		uint64_t start, end;

		if (!leaf_is_zero(s, i))
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
