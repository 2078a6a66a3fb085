/*
 * How it works: everything a restore would read is read and checked the same
 * way, and every byte range that belongs to something is noted. At the end the
 * ranges are sorted: two may not overlap (except chunks that share one stored
 * copy), and what lies between them must be zero. So no bit of the file goes
 * unchecked.
 */
#include "snapshot/internal.h"
#include "core/vcpu.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct extent {
	uint64_t offset;
	uint64_t length : 63;
	uint64_t shared : 1; /* chunk data */
};

struct verify {
	struct snap *s;
	struct extent *ext; /* owned */
	size_t n, cap;
	uint8_t *buf; /* owned: SNAP_CHUNK_SIZE */
	struct snap_verified *out;
	int (*progress)(void *arg, uint64_t done, uint64_t total);
	void *arg;
	uint64_t done; /* bytes of chunk data read */
};

static int note(struct verify *v, uint64_t offset, uint64_t length, bool shared,
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

/* What the configuration asks for is there, as far as every machine has it. */
static int verify_parts(struct snap *s, struct err *e)
{
	struct machine_config cfg;
	uint32_t vcpus = 0;
	int rc = snap_read_config(s, &cfg, e);

	if (rc)
		return rc;
	if (!snap_find(s, SNAP_TAG_MACHINE, 0))
		return snap_bad(e, 0, 0, "there is no section for machine");
	for (uint32_t i = 0; i < s->h.section_count; i++) {
		const struct snap_section *sec = &s->sec[i];
		bool vcpu = sec->tag == SNAP_TAG_VCPU;

		vcpus += vcpu ? 1 : 0;
		if (sec->index >= (vcpu ? cfg.cpus : 1) &&
			snap_section_desc(sec->tag))
			return snap_bad(e, sec->offset, sec->stored_length,
				"section %.16s: the configuration has no such "
				"part",
				sec->name);
	}
	if (vcpus != cfg.cpus)
		return snap_bad(e, 0, 0,
			"%u vCPU sections, the configuration has %u vCPUs",
			vcpus, cfg.cpus);
	return 0;
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
		rc = snap_check_section(v->s, sec, v->buf, e);
	if (!rc)
		rc = note(v, sec->offset, sec->stored_length, false, e);
	if (rc || sec->tag == SNAP_TAG_MEMORY)
		return rc;
	if (!buf)
		return snap_check_unknown(sec, e);
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

	rc = note(v, 0, sizeof(s->h), false, e);
	if (!rc)
		rc = note(v, s->h.section_table_offset,
			s->h.section_count * sizeof(*s->sec), false, e);
	for (uint32_t i = 0; i < s->h.section_count && !rc; i++)
		rc = verify_section(v, &s->sec[i], e);
	return rc ? rc : verify_parts(s, e);
}

/* ---- memory ---- */

static int verify_leaf(struct verify *v, uint32_t i, struct err *e)
{
	struct snap_leaf_at at;
	struct snap_leaf leaf;
	int rc;

	snap_leaf_locate(v->s, i, &at);
	rc = snap_read_leaf(v->s, &at, &leaf, e);
	if (!rc)
		rc = note(v, v->s->root[i].offset, sizeof(leaf), false, e);
	for (uint32_t n = 0; n < at.chunks && !rc; n++) {
		const struct snap_chunk *c = &leaf.chunk[n];

		if (!c->present)
			continue;
		rc = snap_read_chunk(v->s, &at, n, c, v->buf, e);
		if (!rc)
			rc = note(v, c->offset, c->stored_length, true, e);
		v->out->chunks++;
		v->done += c->stored_length;
	}
	return rc;
}

static int verify_memory(struct verify *v, struct err *e)
{
	uint64_t total = v->s->mem.pages_present * SNAP_PAGE_SIZE;
	int rc = 0;

	for (uint32_t i = 0; i < v->s->mem.root_count && !rc; i++) {
		if (!v->s->root[i].offset)
			continue;
		rc = verify_leaf(v, i, e);
		if (!rc && v->progress && v->progress(v->arg, v->done, total))
			rc = err_set(e, -ECANCELED, "cancelled");
	}
	return rc;
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
		uint64_t len = min_u64(to - from, SNAP_CHUNK_SIZE);
		int rc = snap_pread(v->s->fd, v->buf, len, from, e);

		if (rc)
			return rc;
		if (!snap_is_zero(v->buf, len))
			return snap_bad(e, from, len,
				"belongs to nothing and is not zero");
		from += len;
	}
	return 0;
}

static int verify_extents(struct verify *v, struct err *e)
{
	const struct extent *last = NULL;
	uint64_t end = 0;

	qsort(v->ext, v->n, sizeof(*v->ext), by_offset);
	for (size_t i = 0; i < v->n; i++) {
		const struct extent *x = &v->ext[i];
		int rc;

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

int snap_verify(int fd, struct snap_verified *out,
	int (*progress)(void *arg, uint64_t done, uint64_t total), void *arg,
	struct err *e)
{
	struct verify v = {.out = out, .progress = progress, .arg = arg};
	int rc;

	memset(out, 0, sizeof(*out));
	rc = snap_open(fd, &v.s, e);
	if (rc)
		return rc;
	out->uuid = *snap_get_uuid(v.s);
	out->file_bytes = v.s->h.file_length;
	out->pages_present = v.s->mem.pages_present;
	out->pages_zero = v.s->mem.pages_zero;
	v.buf = malloc(SNAP_CHUNK_SIZE);
	if (!v.buf)
		rc = err_set(e, -ENOMEM, "verify: out of memory");
	if (!rc)
		rc = verify_sections(&v, e);
	if (!rc)
		rc = verify_memory(&v, e);
	if (!rc)
		rc = verify_extents(&v, e);
	free(v.buf);
	free(v.ext);
	snap_close(v.s);
	return rc;
}
