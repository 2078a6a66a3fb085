/*
 * How it works: memory is walked once, upwards, a leaf (8 MiB) at a time. For
 * each of its chunks, several threads at once, the present pages are packed,
 * checksummed, hashed and compressed. Then one thread looks up which of them
 * the file has already, gives the others their place, and hands all of it with
 * the leaf behind it to the output as one large write. Some leaves' writes are
 * under way while the next one is made. Only the root is kept: 16 bytes for
 * 8 MiB.
 *
 * A chunk counts as one that the file has, or an ancestor of it, only after its
 * bytes were compared: guests choose the content, and hashes can be made to
 * collide. What it is compared with is read from the file (a chunk that is
 * still on its way there is compared in memory).
 */
#include "snapshot/internal.h"
#include "core/crc32c.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#define BATCHES SNAP_OUTPUT_BATCHES
/* Compressing is slower than a disk, and takes a second buffer. */
#define ZSTD_BATCHES 3
#define RAW_SIZE     (SNAP_LEAF_CHUNKS * SNAP_CHUNK_SIZE)
/* Pieces of one write: chunks, what fills up to the leaf, the leaf. */
#define MAX_IOV (2 * SNAP_LEAF_CHUNKS + 2)

static const _Alignas(4096) uint8_t zero_page[SNAP_PAGE_SIZE];

/* What became of a chunk. */
struct made {
	uint16_t present, zero;
	uint32_t raw_length, stored_length, crc, stored_crc;
	uint64_t hash[2];
	uint8_t codec;
};

/* A leaf on its way. */
struct batch {
	uint8_t *raw;    /* owned: slot n holds the packed pages of chunk n */
	uint8_t *packed; /* owned: the same, compressed; NULL for raw */
	struct snap_leaf *leaf; /* owned */
	struct made made[SNAP_LEAF_CHUNKS];
	struct iovec iov[MAX_IOV];
	uint32_t root;
	uint32_t chunks;
	bool busy; /* its write may be under way */
};

struct writer {
	struct snap_memory_job *job;
	struct snap_pool *pool;
	struct snap_output *out;
	struct snap_dedupe dedupe;
	struct snap_ancestors ancestors;
	ZSTD_CCtx **zstd;  /* owned, one per thread */
	ZSTD_DCtx *unzstd; /* owned; to compare */
	struct err *why;   /* owned, one per thread */
	struct batch batch[BATCHES];
	unsigned nbatches; /* that are used */
	struct batch *b;   /* the one that is being made */
	uint8_t *compare;  /* owned: SNAP_CHUNK_SIZE, twice */
	uint64_t offset;   /* where the next leaf's data goes */
};

/* ---- one chunk; several threads ---- */

static void compress(struct writer *w, uint32_t n, unsigned slot)
{
	struct batch *b = w->b;
	struct made *m = &b->made[n];
	size_t len = ZSTD_compressCCtx(w->zstd[slot],
		b->packed + n * SNAP_CHUNK_SIZE, m->raw_length - 1,
		b->raw + n * SNAP_CHUNK_SIZE, m->raw_length,
		w->job->zstd_level);

	/* One that does not get shorter does not fit, and stays raw. */
	if (ZSTD_isError(len))
		return;
	m->codec = SNAP_CODEC_ZSTD;
	m->stored_length = (uint32_t)len;
	m->stored_crc = crc32c(0, b->packed + n * SNAP_CHUNK_SIZE, len);
}

static int make_chunk(void *arg, uint32_t n, unsigned slot)
{
	struct writer *w = arg;
	struct batch *b = w->b;
	struct made *m = &b->made[n];
	uint8_t *raw = b->raw + n * SNAP_CHUNK_SIZE;
	struct snap_got got = {.buf = raw};
	XXH128_hash_t h;
	int rc = w->job->in->window(w->job->in, n, slot, &got, &w->why[slot]);

	*m = (struct made){.present = got.present, .zero = got.zero};
	if (rc || !m->present)
		return rc;
	m->raw_length = (uint32_t)__builtin_popcount(m->present) *
			(uint32_t)SNAP_PAGE_SIZE;
	m->stored_length = m->raw_length;
	m->crc = crc32c(0, raw, m->raw_length);
	h = XXH3_128bits(raw, m->raw_length);
	m->hash[0] = h.low64;
	m->hash[1] = h.high64;
	if (w->job->zstd_level)
		compress(w, n, slot);
	return 0;
}

/* ---- chunks that the file has already ---- */

/* Its stored bytes: in a batch that is still on its way, or in the file. */
static int stored_bytes(struct writer *w, const struct snap_stored *s,
	uint8_t *buf, const uint8_t **out)
{
	for (unsigned i = 0; i < BATCHES; i++) {
		struct batch *b = &w->batch[i];

		if (!b->raw || !b->busy || b->root != s->root)
			continue;
		*out = (s->codec == SNAP_CODEC_RAW ? b->raw : b->packed) +
		       s->chunk * SNAP_CHUNK_SIZE;
		return 0;
	}
	/* Raw ones stand at multiples of a page, as O_DIRECT wants it. */
	*out = buf;
	return pread_full(w->job->fd, buf, s->stored_length, s->offset);
}

static bool same_bytes(struct writer *w, const struct snap_stored *s,
	const uint8_t *raw, uint32_t len)
{
	uint8_t *buf = w->compare, *unpacked = w->compare + SNAP_CHUNK_SIZE;
	const uint8_t *stored;

	if (stored_bytes(w, s, buf, &stored))
		return false;
	if (s->codec == SNAP_CODEC_RAW)
		return !memcmp(stored, raw, len);
	return !snap_unpack_zstd(&w->unzstd, stored, s->stored_length,
		       s->stored_crc, unpacked, len) &&
	       !memcmp(unpacked, raw, len);
}

static bool share_own(struct writer *w, const struct made *m,
	const uint8_t *raw, struct snap_chunk *c)
{
	const struct snap_stored *s =
		snap_dedupe_find(&w->dedupe, m->hash, m->raw_length);

	if (!s || !same_bytes(w, s, raw, m->raw_length))
		return false;
	c->offset = s->offset;
	c->stored_length = s->stored_length;
	c->codec = s->codec;
	c->stored_crc = s->stored_crc;
	return true;
}

static bool share_ancestors(
	struct writer *w, const uint8_t *raw, struct snap_chunk *c)
{
	struct snap_chunk other = *c;

	if (!snap_ancestors_find(
		    &w->ancestors, c->crc, c->raw_length, &other) ||
		!snap_ancestors_same(&w->ancestors, &other, raw, w->compare))
		return false;
	*c = other;
	return true;
}

/* Share the stored bytes of an equal chunk, or remember this one at c->offset.
 */
static bool share(struct writer *w, uint32_t n, struct snap_chunk *c)
{
	struct batch *b = w->b;
	const struct made *m = &b->made[n];
	const uint8_t *raw = b->raw + n * SNAP_CHUNK_SIZE;

	if (share_own(w, m, raw, c) || share_ancestors(w, raw, c)) {
		w->job->pages_shared += m->raw_length / SNAP_PAGE_SIZE;
		return true;
	}
	snap_dedupe_add(&w->dedupe,
		&(struct snap_stored){.hash = {m->hash[0], m->hash[1]},
			.offset = c->offset,
			.stored_length = m->stored_length,
			.raw_length = m->raw_length,
			.stored_crc = m->stored_crc,
			.root = b->root,
			.chunk = (uint16_t)n,
			.codec = m->codec});
	return false;
}

/* ---- one leaf ---- */

/* Pieces that follow each other in memory too become one. */
static void add_piece(struct batch *b, unsigned *niov, const void *p, size_t n)
{
	struct iovec *last = *niov ? &b->iov[*niov - 1] : NULL;

	if (last && (const uint8_t *)last->iov_base + last->iov_len == p) {
		last->iov_len += n;
		return;
	}
	memcpy(&b->iov[*niov].iov_base, &p, sizeof(p));
	b->iov[(*niov)++].iov_len = n;
}

static uint64_t place_chunk(
	struct writer *w, uint32_t n, uint64_t at, unsigned *niov)
{
	struct batch *b = w->b;
	const struct made *m = &b->made[n];
	struct snap_chunk *c = &b->leaf->chunk[n];
	uint64_t offset = at;

	/* Raw data stands at multiples of a page, compressed data anywhere. */
	if (m->codec == SNAP_CODEC_RAW)
		offset = align_up(at, SNAP_PAGE_SIZE);
	*c = (struct snap_chunk){.offset = offset,
		.stored_length = m->stored_length,
		.raw_length = m->raw_length,
		.crc = m->crc,
		.present = m->present,
		.zero = m->zero,
		.codec = m->codec,
		.stored_crc = m->stored_crc};
	if (share(w, n, c))
		return at;
	if (offset != at)
		add_piece(b, niov, zero_page, offset - at);
	add_piece(b, niov,
		(m->codec == SNAP_CODEC_RAW ? b->raw : b->packed) +
			n * SNAP_CHUNK_SIZE,
		m->stored_length);
	return offset + m->stored_length;
}

/* Give every chunk its place, the leaf behind them; start the write. */
static int put_leaf(struct writer *w, struct snap_root *root, struct err *e)
{
	struct batch *b = w->b;
	uint64_t at = w->offset;
	unsigned niov = 0;
	uint32_t present = 0, zero = 0;
	int rc;

	memset(b->leaf, 0, sizeof(*b->leaf));
	b->busy = true; /* its chunks may be equal to each other */
	for (uint32_t n = 0; n < b->chunks; n++) {
		const struct made *m = &b->made[n];

		b->leaf->chunk[n].zero = m->zero;
		if (m->present)
			at = place_chunk(w, n, at, &niov);
		present += (uint32_t)__builtin_popcount(m->present);
		zero += (uint32_t)__builtin_popcount(m->zero);
	}
	/* In a full snapshot a leaf without data says nothing new. */
	if (!present && !(w->job->in->diff && zero)) {
		b->busy = false;
		return 0;
	}
	if (at % SNAP_PAGE_SIZE) {
		uint64_t fill = SNAP_PAGE_SIZE - at % SNAP_PAGE_SIZE;

		add_piece(b, &niov, zero_page, fill);
		at += fill;
	}
	root->offset = at;
	root->crc = crc32c(0, b->leaf, sizeof(*b->leaf));
	root->pages_present = (uint16_t)present;
	root->pages_zero = (uint16_t)zero;
	add_piece(b, &niov, b->leaf, sizeof(*b->leaf));
	rc = snap_output_write(
		w->out, (unsigned)(b - w->batch), b->iov, niov, w->offset, e);
	w->offset = at + sizeof(*b->leaf);
	return rc;
}

static int make_leaf(
	struct writer *w, uint32_t i, struct snap_root *root, struct err *e)
{
	struct snap_input *in = w->job->in;
	const struct snap_region *r = in->region;
	uint64_t off;
	int rc;

	while (i >= r->first_leaf + r->leaf_count)
		r++;
	off = (i - r->first_leaf) * SNAP_LEAF_SPAN;
	w->b->root = i;
	w->b->chunks = (uint32_t)(min_u64(SNAP_LEAF_SPAN, r->size - off) /
				  SNAP_CHUNK_SIZE);
	rc = in->leaf(in, i, e);
	if (rc)
		return rc;
	rc = snap_pool_run(w->pool, make_chunk, w, w->b->chunks);
	if (!rc)
		return put_leaf(w, root, e);
	for (unsigned s = 0; s <= w->job->threads; s++) {
		if (e && w->why[s].code == rc) {
			*e = w->why[s];
			return rc;
		}
	}
	return err_sys(e, rc, "reading guest memory");
}

static int make_all(struct writer *w, struct snap_root *root, struct err *e)
{
	const struct snap_memory_job *job = w->job;
	uint64_t total = 0, done = 0;

	for (uint32_t i = 0; i < job->in->regions; i++)
		total += job->in->region[i].size;
	for (uint32_t i = 0; i < job->in->roots; i++) {
		struct batch *b = &w->batch[i % w->nbatches];
		int rc;

		rc = snap_output_wait(w->out, i % w->nbatches, e);
		if (rc)
			return rc;
		b->busy = false;
		w->b = b;
		rc = make_leaf(w, i, &root[i], e);
		if (rc)
			return rc;
		done = min_u64(done + b->chunks * SNAP_CHUNK_SIZE, total);
		if (job->progress && job->progress(job->arg, done, total))
			return err_set(e, -ECANCELED, "cancelled");
	}
	for (unsigned i = 0; i < w->nbatches; i++) {
		int rc = snap_output_wait(w->out, i, e);

		if (rc)
			return rc;
	}
	return 0;
}

/* ---- setting up ---- */

static int open_batches(struct writer *w)
{
	w->nbatches = w->job->zstd_level ? ZSTD_BATCHES : BATCHES;
	for (unsigned i = 0; i < w->nbatches; i++) {
		struct batch *b = &w->batch[i];

		b->raw = aligned_alloc(SNAP_PAGE_SIZE, RAW_SIZE);
		b->leaf = aligned_alloc(SNAP_PAGE_SIZE, sizeof(*b->leaf));
		if (w->job->zstd_level)
			b->packed = aligned_alloc(SNAP_PAGE_SIZE, RAW_SIZE);
		if (!b->raw || !b->leaf || (w->job->zstd_level && !b->packed))
			return -ENOMEM;
	}
	w->compare = aligned_alloc(SNAP_PAGE_SIZE, 2 * SNAP_CHUNK_SIZE);
	return w->compare ? 0 : -ENOMEM;
}

static int open_threads(struct writer *w)
{
	unsigned n = w->job->threads + 1;

	w->why = calloc(n, sizeof(*w->why));
	w->zstd = calloc(n, sizeof(ZSTD_CCtx *));
	if (!w->why || !w->zstd)
		return -ENOMEM;
	for (unsigned i = 0; w->job->zstd_level && i < n; i++) {
		w->zstd[i] = ZSTD_createCCtx();
		if (!w->zstd[i])
			return -ENOMEM;
	}
	return snap_pool_open(w->job->threads, &w->pool);
}

static void writer_free(struct writer *w)
{
	bool mine;

	/* First what may still use the buffers. */
	snap_pool_close(w->pool);
	mine = snap_output_close(w->out);
	for (unsigned i = 0; w->zstd && i <= w->job->threads; i++)
		(void)ZSTD_freeCCtx(w->zstd[i]);
	for (unsigned i = 0; mine && i < BATCHES; i++) {
		free(w->batch[i].raw);
		free(w->batch[i].packed);
		free(w->batch[i].leaf);
	}
	snap_dedupe_free(&w->dedupe);
	snap_ancestors_free(&w->ancestors);
	(void)ZSTD_freeDCtx(w->unzstd);
	free(w->zstd);
	free(w->why);
	free(w->compare);
	free(w);
}

/* Every chunk raw, and every leaf. */
static uint64_t most_bytes(const struct writer *w)
{
	return w->offset + (uint64_t)w->job->in->roots *
				   (SNAP_LEAF_SPAN + sizeof(struct snap_leaf));
}

int snap_write_memory(struct snap_memory_job *job, uint64_t *at,
	struct snap_root *root, struct err *e)
{
	struct writer *w = calloc(1, sizeof(*w));
	int rc;

	if (!w)
		return err_set(e, -ENOMEM, "snapshot: out of memory");
	w->job = job;
	w->offset = *at;
	rc = open_threads(w);
	if (!rc)
		rc = open_batches(w);
	if (rc)
		err_set(e, rc, "snapshot: out of memory");
	if (!rc)
		rc = snap_output_open(job->fd,
			job->zstd_level ? 0 : most_bytes(w), &w->out, e);
	if (!rc) {
		snap_ancestors_read(&w->ancestors, job->parent, job->pages);
		rc = make_all(w, root, e);
	}
	*at = w->offset;
	writer_free(w);
	return rc;
}
