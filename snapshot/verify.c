/*
 * How it works: everything a restore would read is read and checked the same
 * way, and every byte range that belongs to something is noted. At the end the
 * ranges are sorted: two may not overlap (except chunks that share one stored
 * copy), and what lies between them must be zero. So no bit of the file goes
 * unchecked.
 */
#include "snapshot/internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct extent {
	uint64_t offset;
	uint64_t length : 63;
	uint64_t shared : 1; /* chunk data */
};

/* What a thread found. */
struct slot {
	struct extent *ext; /* owned */
	size_t n, cap;
	uint8_t *buf;    /* owned: SPAN */
	uint8_t *raw;    /* owned: SNAP_CHUNK_SIZE */
	ZSTD_DCtx *zstd; /* owned */
	uint64_t chunks;
	struct err e;
};

struct verify {
	struct snap *s;
	struct slot *slot; /* owned; [0] is also the main thread's */
	unsigned nslots;
	uint32_t first; /* root entry of this round's first piece of work */
	struct snap_verified *out;
	int (*progress)(void *arg, uint64_t done, uint64_t total);
	void *arg;
	uint64_t before, total; /* bytes of files of the chain, for progress */
};

#define SPAN (1024 * KIB) /* a read, at most */
/* Leaves between two calls of progress: 256 MiB of guest memory. */
#define ROUND 32

static int note(struct slot *v, uint64_t offset, uint64_t length, bool shared,
	struct err *e)
{
	struct extent *bigger;

	if (v->n == v->cap) {
		size_t cap = v->cap ? 2 * v->cap : 1024;

		bigger = reallocarray(v->ext, cap, sizeof(*bigger));
		if (!bigger)
			return err_set(e, -ENOMEM, "verify: out of memory");
		v->ext = bigger;
		v->cap = cap;
	}
	v->ext[v->n++] = (struct extent){
		.offset = offset,
		.length = length & INT64_MAX,
		.shared = shared,
	};
	return 0;
}

/* ---- sections ---- */

static int verify_parts(struct snap *s, struct err *e)
{
	struct machine_config cfg;
	int rc = snap_read_config(s, &cfg, e);

	return rc ? rc : snap_check_parts(s, &cfg, e);
}

/* A state section whose table is known: as a restore would load it. */
static int verify_state(struct verify *v, const struct snap_section *sec,
	const struct st_desc *d, const msgpack_object *map, struct err *e)
{
	const msgpack_object *version = mp_get(map, "v");
	AUTO_FREE void *state = NULL;

	if (!version || version->type != MSGPACK_OBJECT_POSITIVE_INTEGER ||
		version->via.u64 != sec->version)
		return snap_bad(e, sec->offset, sec->stored_length,
			"section %.16s: two versions", sec->name);
	state = malloc(d->size);
	if (!state)
		return err_set(e, -ENOMEM, "verify: out of memory");
	return snap_load_section(v->s, sec, d, state, e);
}

static int verify_section(
	struct verify *v, const struct snap_section *sec, struct err *e)
{
	const struct st_desc *d = snap_section_desc(sec->tag);
	AUTO_FREE uint8_t *buf = NULL;
	struct err why = {0};
	msgpack_unpacked msg;
	int rc;

	if (d || sec->tag == SNAP_TAG_METADATA)
		rc = snap_read_section(v->s, sec, SNAP_MAX_STATE, &buf, e);
	else
		rc = snap_check_section(v->s, sec, v->slot[0].buf, e);
	if (!rc)
		rc = note(
			&v->slot[0], sec->offset, sec->stored_length, false, e);
	if (rc || !buf)
		return rc;
	rc = mp_unpack(buf, sec->stored_length, &mp_default_limits, &msg, &why);
	if (rc)
		rc = snap_bad(e, sec->offset, sec->stored_length,
			"section %.16s: %.200s", sec->name, why.msg);
	else if (msg.data.type != MSGPACK_OBJECT_MAP)
		rc = snap_bad(e, sec->offset, sec->stored_length,
			"section %.16s: not a map", sec->name);
	else if (d)
		rc = verify_state(v, sec, d, &msg.data, e);
	msgpack_unpacked_destroy(&msg);
	return rc;
}

static int verify_sections(struct verify *v, struct err *e)
{
	struct snap *s = v->s;
	int rc;

	rc = note(&v->slot[0], 0, sizeof(s->h), false, e);
	if (!rc)
		rc = note(&v->slot[0], s->h.section_table_offset,
			s->h.section_count * sizeof(*s->sec), false, e);
	for (uint32_t i = 0; i < s->h.section_count && !rc; i++)
		rc = verify_section(v, &s->sec[i], e);
	return rc ? rc : verify_parts(s, e);
}

/* ---- memory ---- */

static int chunk_bad(const struct snap_leaf_at *at, uint32_t n,
	const struct snap_chunk *c, const struct err *why, struct err *e)
{
	return snap_bad(e, c->offset, c->stored_length,
		"chunk %u (guest 0x%llx): %s", at->root * SNAP_LEAF_CHUNKS + n,
		(unsigned long long)(at->gpa + n * SNAP_CHUNK_SIZE), why->msg);
}

/* Data that stands in this file: what follows each other is one read. */
static int verify_span(struct verify *v, struct slot *sl,
	const struct snap_leaf_at *at, const struct snap_leaf *leaf,
	uint32_t *next)
{
	const struct snap_chunk *first = &leaf->chunk[*next];
	uint64_t end = first->offset;
	struct err why = {0};
	uint32_t n = *next;
	int rc;

	for (; n < at->chunks; n++) {
		const struct snap_chunk *c = &leaf->chunk[n];

		if (!c->present)
			continue;
		if (c->file || c->offset < end ||
			c->offset > end + SNAP_PAGE_SIZE ||
			c->offset + c->stored_length > first->offset + SPAN)
			break;
		end = c->offset + c->stored_length;
	}
	rc = snap_pread(
		v->s->fd, sl->buf, end - first->offset, first->offset, &sl->e);
	for (uint32_t i = *next; i < n && !rc; i++) {
		const struct snap_chunk *c = &leaf->chunk[i];
		bool raw = c->codec == SNAP_CODEC_RAW;

		if (!c->present)
			continue;
		if (snap_chunk_decode(c, &sl->zstd,
			    sl->buf + (c->offset - first->offset),
			    raw ? NULL : sl->raw, &why))
			rc = chunk_bad(at, i, c, &why, &sl->e);
		else
			rc = note(
				sl, c->offset, c->stored_length, true, &sl->e);
		sl->chunks++;
	}
	*next = n;
	return rc;
}

/* Data in an ancestor. Where the chain breaks off before that one there is
 * nothing to look at; whoever needs all of it looks for what is missing. */
static int verify_other(struct verify *v, struct slot *sl,
	const struct snap_leaf_at *at, uint32_t n, const struct snap_chunk *c)
{
	const struct snap *s = v->s;
	unsigned level = 0;

	for (; level < c->file && s->parent; level++)
		s = s->parent;
	if (level < c->file && (s->h.flags & SNAP_FLAG_DIFF))
		return 0;
	sl->chunks++;
	return snap_read_chunk(v->s, at, n, c, sl->raw, &sl->e);
}

static int verify_leaf(void *arg, uint32_t i, unsigned slot)
{
	struct verify *v = arg;
	struct slot *sl = &v->slot[slot];
	struct snap_leaf_at at;
	struct snap_leaf leaf;
	int rc;

	i += v->first;
	if (!v->s->root[i].offset)
		return 0;
	snap_leaf_locate(v->s, i, &at);
	rc = snap_read_leaf(v->s, &at, &leaf, &sl->e);
	if (!rc)
		rc = note(
			sl, v->s->root[i].offset, sizeof(leaf), false, &sl->e);
	for (uint32_t n = 0; n < at.chunks && !rc;) {
		const struct snap_chunk *c = &leaf.chunk[n];

		if (c->present && !c->file)
			rc = verify_span(v, sl, &at, &leaf, &n);
		else if (c->present)
			rc = verify_other(v, sl, &at, n++, c);
		else
			n++;
	}
	return rc;
}

static int verify_memory(
	struct verify *v, struct snap_pool *pool, struct err *e)
{
	uint32_t roots = v->s->mem.root_count;

	for (v->first = 0; v->first < roots; v->first += ROUND) {
		uint32_t n = (uint32_t)min_u64(ROUND, roots - v->first);
		uint64_t done;
		int rc = snap_pool_run(pool, verify_leaf, v, n);

		for (unsigned i = 0; rc && i < v->nslots; i++) {
			if (e && v->slot[i].e.code == rc)
				*e = v->slot[i].e;
		}
		if (rc)
			return rc;
		done = v->s->h.file_length * (v->first + n) / roots;
		if (v->progress &&
			v->progress(v->arg, v->before + done, v->total))
			return err_set(e, -ECANCELED, "cancelled");
	}
	return 0;
}

/* ---- what belongs to nothing ---- */

static int by_offset(const void *a, const void *b)
{
	const struct extent *x = a, *y = b;

	return (x->offset > y->offset) - (x->offset < y->offset);
}

static int verify_gap(
	struct verify *v, uint64_t from, uint64_t to, struct err *e)
{
	while (from < to) {
		uint64_t len = min_u64(to - from, SPAN);
		int rc = snap_pread(v->s->fd, v->slot[0].buf, len, from, e);

		if (rc)
			return rc;
		if (!snap_is_zero(v->slot[0].buf, len))
			return snap_bad(e, from, len,
				"belongs to nothing and is not zero");
		from += len;
	}
	return 0;
}

/* Everybody's findings into the main thread's. */
static int gather(struct verify *v, struct err *e)
{
	for (unsigned i = 1; i < v->nslots; i++) {
		const struct slot *sl = &v->slot[i];

		for (size_t k = 0; k < sl->n; k++) {
			int rc = note(&v->slot[0], sl->ext[k].offset,
				sl->ext[k].length, sl->ext[k].shared, e);

			if (rc)
				return rc;
		}
	}
	return 0;
}

static int verify_extents(struct verify *v, struct err *e)
{
	const struct extent *last = NULL;
	struct slot *all = &v->slot[0];
	uint64_t end = 0;
	int rc = gather(v, e);

	if (rc)
		return rc;
	qsort(all->ext, all->n, sizeof(*all->ext), by_offset);
	for (size_t i = 0; i < all->n; i++) {
		const struct extent *x = &all->ext[i];

		if (last && x->offset < end) {
			if (x->shared && last->shared &&
				x->offset == last->offset &&
				x->length == last->length)
				continue;
			return snap_bad(e, x->offset, x->length,
				"overlaps bytes %llu-%llu",
				(unsigned long long)last->offset,
				(unsigned long long)end - 1);
		}
		rc = verify_gap(v, end, x->offset, e);
		if (rc)
			return rc;
		end = x->offset + x->length;
		last = x;
	}
	return verify_gap(v, end, v->s->h.file_length, e);
}

/* ---- all of it ---- */

static int slots_open(struct verify *v, unsigned n, struct err *e)
{
	v->slot = calloc(n, sizeof(*v->slot));
	if (!v->slot)
		return err_set(e, -ENOMEM, "verify: out of memory");
	v->nslots = n;
	for (unsigned i = 0; i < n; i++) {
		v->slot[i].buf = malloc(SPAN);
		v->slot[i].raw = malloc(SNAP_CHUNK_SIZE);
		if (!v->slot[i].buf || !v->slot[i].raw)
			return err_set(e, -ENOMEM, "verify: out of memory");
	}
	return 0;
}

static void slots_close(struct verify *v)
{
	for (unsigned i = 0; i < v->nslots; i++) {
		free(v->slot[i].buf);
		free(v->slot[i].raw);
		free(v->slot[i].ext);
		(void)ZSTD_freeDCtx(v->slot[i].zstd);
	}
	free(v->slot);
}

/* Below this, starting threads takes longer than they save. */
#define SMALL_FILE (8 * MIB)

static int verify_file(struct verify *v, unsigned threads, struct err *e)
{
	struct snap_pool *pool = NULL;
	int rc;

	if (v->s->h.file_length < SMALL_FILE)
		threads = 0;
	rc = slots_open(v, threads + 1, e);
	if (!rc && snap_pool_open(threads, &pool))
		rc = err_set(e, -ENOMEM, "verify: out of memory");
	if (!rc)
		rc = verify_sections(v, e);
	if (!rc)
		rc = verify_memory(v, pool, e);
	if (!rc)
		rc = verify_extents(v, e);
	snap_pool_close(pool);
	for (unsigned i = 0; i < v->nslots; i++)
		v->out->chunks += v->slot[i].chunks;
	slots_close(v);
	return rc;
}

int snap_verify(struct snap *s, unsigned threads, struct snap_verified *out,
	int (*progress)(void *arg, uint64_t done, uint64_t total), void *arg,
	struct err *e)
{
	struct verify v = {.out = out, .progress = progress, .arg = arg};
	char uuid[SNAP_UUID_STR];
	int rc = 0;

	memset(out, 0, sizeof(*out));
	out->uuid = *snap_get_uuid(s);
	out->pages_present = s->mem.pages_present;
	out->pages_zero = s->mem.pages_zero;
	for (v.s = s; v.s; v.s = v.s->parent)
		v.total += v.s->h.file_length;
	out->file_bytes = v.total;
	for (v.s = s; v.s && !rc; v.s = v.s->parent) {
		rc = verify_file(&v, threads, e);
		if (rc == -EBADMSG && v.s != s) {
			snap_uuid_str(snap_get_uuid(v.s), uuid);
			rc = err_wrap(e, "ancestor %s", uuid);
		}
		v.before += v.s->h.file_length;
		out->files++;
	}
	return rc;
}

int snap_verify_fd(int fd, struct snap_verified *out,
	int (*progress)(void *arg, uint64_t done, uint64_t total), void *arg,
	struct err *e)
{
	struct snap *s;
	int rc = snap_open(fd, &s, e);

	if (rc)
		return rc;
	rc = snap_verify(s, SNAP_LOAD_THREADS, out, progress, arg, e);
	snap_close(s);
	return rc;
}
