/* A snapshot and its ancestors as what is written into a new one. */
#include "snapshot/internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static int chain_leaf(struct snap_input *in, uint32_t i, struct err *e)
{
	struct snap_input_chain *x =
		container_of(in, struct snap_input_chain, in);

	return snap_leaves_read(&x->leaves, i, e);
}

static int read_extent(const struct snap_extent *x, ZSTD_DCtx **z,
	uint8_t *stored, uint8_t *raw, struct err *e)
{
	struct err why = {0};
	int rc = snap_pread(
		x->file->fd, stored, x->c.stored_length, x->c.offset, e);

	if (rc)
		return rc;
	if (snap_chunk_decode(&x->c, z, stored, raw, &why))
		return snap_bad(e, x->c.offset, x->c.stored_length, "chunk: %s",
			why.msg);
	return 0;
}

static int chain_window(struct snap_input *in, uint32_t n, unsigned slot,
	struct snap_got *got, struct err *e)
{
	const struct snap_input_chain *x =
		container_of(in, struct snap_input_chain, in);
	uint8_t *stored = x->buf + slot * 3 * SNAP_CHUNK_SIZE;
	uint8_t *raw = stored + SNAP_CHUNK_SIZE;
	uint8_t *window = raw + SNAP_CHUNK_SIZE;
	uint8_t *to = got->buf;
	struct snap_window w;
	int rc = snap_leaves_window(&x->leaves, n, &w, e);

	got->present = 0;
	for (unsigned i = 0; i < w.n && !rc; i++) {
		const struct snap_extent *ext = &w.ext[i];

		rc = read_extent(ext, &x->zstd[slot], stored, raw, e);
		if (rc)
			return rc;
		snap_unpack_pages(window, raw, ext->c.present, ext->take);
		got->present |= ext->take;
	}
	for (unsigned i = 0; i < SNAP_CHUNK_PAGES; i++) {
		if (!(got->present >> i & 1))
			continue;
		memcpy(to, window + i * SNAP_PAGE_SIZE, SNAP_PAGE_SIZE);
		to += SNAP_PAGE_SIZE;
	}
	/* Pages that a diff does not speak of stay so. */
	got->zero = in->diff ? w.named_zero : w.zero;
	return rc;
}

int snap_input_chain(struct snap_input_chain *x, const struct snap *s, bool own,
	unsigned threads, struct err *e)
{
	struct snap_input *in = &x->in;

	memset(x, 0, sizeof(*x));
	x->nthreads = threads + 1;
	x->buf = malloc(x->nthreads * 3 * SNAP_CHUNK_SIZE);
	x->zstd = calloc(x->nthreads, sizeof(ZSTD_DCtx *));
	if (!x->buf || !x->zstd) {
		free(x->buf);
		free(x->zstd);
		return err_set(e, -ENOMEM, "snapshot: out of memory");
	}
	in->leaf = chain_leaf;
	in->window = chain_window;
	in->diff = own && (s->h.flags & SNAP_FLAG_DIFF);
	in->regions = s->mem.region_count;
	in->roots = s->mem.root_count;
	memcpy(in->region, s->region, sizeof(in->region));
	snap_leaves_init(&x->leaves, s);
	if (in->diff)
		x->leaves.nfiles = 1;
	return 0;
}

void snap_input_chain_fini(struct snap_input_chain *x)
{
	snap_leaves_fini(&x->leaves);
	for (unsigned i = 0; i < x->nthreads; i++)
		(void)ZSTD_freeDCtx(x->zstd[i]);
	free(x->zstd);
	free(x->buf);
}
