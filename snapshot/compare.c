/*
 * How it works: state is compared as msgpack, section by section and field by
 * field, so that fields of any version have names; a vCPU by its registers.
 */
#include "core/arch.h"
#include "snapshot/compare.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_FIELDS 65536
#define PATH_SIZE  200

void found_init(struct found *f)
{
	msgpack_sbuffer_init(&f->buf);
	msgpack_packer_init(&f->p, &f->buf, msgpack_sbuffer_write);
	f->n = 0;
}

void found_pack(struct found *f, const char *key, msgpack_packer *out)
{
	mp_str(out, key);
	(void)msgpack_pack_array(out, f->n);
	if (f->n)
		(void)out->callback(out->data, f->buf.data, f->buf.size);
	msgpack_sbuffer_destroy(&f->buf);
}

/* ---- state ---- */

static bool equal(const msgpack_object *a, const msgpack_object *b)
{
	return a && b ? msgpack_object_equal(*a, *b) : a == b;
}

/* Long bytes are not shown whole: where they differ is. */
static void pack_side(msgpack_packer *p, const msgpack_object *o)
{
	char text[40];

	if (o && o->type == MSGPACK_OBJECT_BIN && o->via.bin.size > 64) {
		(void)snprintf(text, sizeof(text), "%u bytes", o->via.bin.size);
		mp_str(p, text);
	} else if (o && o->type != MSGPACK_OBJECT_MAP &&
		   o->type != MSGPACK_OBJECT_ARRAY) {
		(void)msgpack_pack_object(p, *o);
	} else if (o) {
		mp_str(p, "(there)");
	} else {
		(void)msgpack_pack_nil(p);
	}
}

static void differ(struct found *f, const char *path, const msgpack_object *a,
	const msgpack_object *b)
{
	if (f->n >= MAX_FIELDS)
		return;
	f->n++;
	(void)msgpack_pack_map(&f->p, 3);
	mp_key_str(&f->p, "field", path);
	mp_str(&f->p, "a");
	pack_side(&f->p, a);
	mp_str(&f->p, "b");
	pack_side(&f->p, b);
}

static void compare_value(struct found *f, const char *path,
	const msgpack_object *a, const msgpack_object *b);

static void compare_maps(struct found *f, const char *path,
	const msgpack_object *a, const msgpack_object *b)
{
	char sub[PATH_SIZE];

	for (unsigned side = 0; side < 2; side++) {
		const msgpack_object *from = side ? b : a;
		const msgpack_object *in = side ? a : b;

		for (uint32_t i = 0; i < from->via.map.size; i++) {
			const msgpack_object_kv *kv = &from->via.map.ptr[i];
			const msgpack_object *other;
			char name[100];

			if (kv->key.type != MSGPACK_OBJECT_STR)
				continue;
			(void)snprintf(name, sizeof(name), "%.*s",
				(int)kv->key.via.str.size, kv->key.via.str.ptr);
			(void)snprintf(
				sub, sizeof(sub), "%.90s.%s", path, name);
			other = mp_get(in, name);
			if (!side)
				compare_value(f, sub, &kv->val, other);
			else if (!other)
				differ(f, sub, NULL, &kv->val);
		}
	}
}

static void compare_value(struct found *f, const char *path,
	const msgpack_object *a, const msgpack_object *b)
{
	char sub[PATH_SIZE];

	if (equal(a, b))
		return;
	if (!a || !b || a->type != b->type) {
		differ(f, path, a, b);
	} else if (a->type == MSGPACK_OBJECT_MAP) {
		compare_maps(f, path, a, b);
	} else if (a->type == MSGPACK_OBJECT_ARRAY &&
		   a->via.array.size == b->via.array.size) {
		for (uint32_t i = 0; i < a->via.array.size; i++) {
			(void)snprintf(sub, sizeof(sub), "%.180s[%u]", path, i);
			compare_value(f, sub, &a->via.array.ptr[i],
				&b->via.array.ptr[i]);
		}
	} else {
		differ(f, path, a, b);
	}
}

struct section {
	uint8_t *buf; /* owned */
	msgpack_unpacked msg;
	msgpack_sbuffer said; /* of a vCPU: its registers by name */
	msgpack_unpacked regs;
	bool vcpu;
};

static void section_free(struct section *x)
{
	if (x->vcpu) {
		msgpack_unpacked_destroy(&x->regs);
		msgpack_sbuffer_destroy(&x->said);
	}
	msgpack_unpacked_destroy(&x->msg);
	free(x->buf);
}

static int section_read(struct snap *s, const struct snap_section *sec,
	struct section *x, struct err *e)
{
	struct err why = {0};
	msgpack_packer p;
	int rc;

	memset(x, 0, sizeof(*x));
	rc = snap_read_section(s, sec, SNAP_MAX_STATE, &x->buf, e);
	if (rc)
		return rc;
	if (mp_unpack(x->buf, sec->stored_length, &mp_default_limits, &x->msg,
		    &why))
		return snap_bad(e, sec->offset, sec->stored_length,
			"section %.16s: %.200s", sec->name, why.msg);
	if (sec->tag != SNAP_TAG_VCPU || s->h.arch != SNAP_ARCH_HOST)
		return 0;
	x->vcpu = true;
	msgpack_sbuffer_init(&x->said);
	msgpack_packer_init(&p, &x->said, msgpack_sbuffer_write);
	arch_vcpu_describe(&x->msg.data, &p);
	if (mp_unpack(x->said.data, x->said.size, &mp_default_limits, &x->regs,
		    &why))
		return err_set(e, -ENOMEM, "compare: out of memory");
	return 0;
}

/* What registers by name do not say. */
static void compare_rest(struct found *f, const char *path,
	const msgpack_object *a, const msgpack_object *b)
{
	static const char *const names[] = {"cpuid", "xsave"};
	char sub[PATH_SIZE];

	for (unsigned i = 0; i < ARRAY_SIZE(names); i++) {
		(void)snprintf(sub, sizeof(sub), "%.90s.%s", path, names[i]);
		compare_value(f, sub, mp_get(a, names[i]), mp_get(b, names[i]));
	}
}

/* Sections that nobody knows may hold anything, and be of any length. */
static int same_bytes(struct snap *a, struct snap *b,
	const struct snap_section *x, const struct snap_section *y, bool *same,
	struct err *e)
{
	AUTO_FREE uint8_t *buf = malloc(2 * SNAP_CHUNK_SIZE);
	uint8_t *other;
	uint64_t len;
	int rc;

	if (!buf)
		return err_set(e, -ENOMEM, "compare: out of memory");
	other = buf + SNAP_CHUNK_SIZE;
	rc = snap_check_section(a, x, buf, e);
	if (!rc)
		rc = snap_check_section(b, y, buf, e);
	*same = x->stored_length == y->stored_length && x->crc == y->crc;
	for (uint64_t at = 0; !rc && *same && at < x->stored_length;
		at += len) {
		len = min_u64(x->stored_length - at, SNAP_CHUNK_SIZE);
		rc = snap_pread(a->fd, buf, len, x->offset + at, e);
		if (!rc)
			rc = snap_pread(b->fd, other, len, y->offset + at, e);
		*same = !rc && !memcmp(buf, other, len);
	}
	return rc;
}

static void say_bytes(
	const struct snap_section *sec, char text[64], msgpack_object *o)
{
	int n = snprintf(text, 64, "%llu bytes, checksum %08x",
		(unsigned long long)sec->stored_length, sec->crc);

	o->type = MSGPACK_OBJECT_STR;
	o->via.str.ptr = text;
	o->via.str.size = (uint32_t)n;
}

static int compare_unknown(struct found *f, struct snap *a, struct snap *b,
	const struct snap_section *x, const struct snap_section *y,
	struct err *e)
{
	char name[17], text[2][64];
	msgpack_object ox, oy;
	bool same = false;
	int rc = same_bytes(a, b, x, y, &same, e);

	if (rc || same)
		return rc;
	(void)snprintf(name, sizeof(name), "%.16s", x->name);
	say_bytes(x, text[0], &ox);
	say_bytes(y, text[1], &oy);
	differ(f, name, &ox, &oy);
	return 0;
}

static int compare_section(struct found *f, struct snap *a, struct snap *b,
	const struct snap_section *x, const struct snap_section *y,
	struct err *e)
{
	struct section sx, sy = {0};
	char name[17];
	int rc;

	(void)snprintf(name, sizeof(name), "%.16s", x->name);
	rc = section_read(a, x, &sx, e);
	if (!rc)
		rc = section_read(b, y, &sy, e);
	if (!rc && sx.vcpu && sy.vcpu) {
		compare_value(f, name, &sx.regs.data, &sy.regs.data);
		compare_rest(f, name, &sx.msg.data, &sy.msg.data);
	} else if (!rc) {
		compare_value(f, name, &sx.msg.data, &sy.msg.data);
	}
	section_free(&sx);
	section_free(&sy);
	return rc;
}

/* Metadata are notes and not state; memory is compared as memory. */
static bool is_state(const struct snap_section *sec)
{
	return sec->tag != SNAP_TAG_METADATA && sec->tag != SNAP_TAG_MEMORY;
}

static int compare_state(
	struct found *f, struct snap *a, struct snap *b, struct err *e)
{
	const msgpack_object there = {.type = MSGPACK_OBJECT_MAP};
	char name[17];
	int rc = 0;

	for (uint32_t i = 0; i < a->h.section_count && !rc; i++) {
		const struct snap_section *x = &a->sec[i], *y;

		if (!is_state(x))
			continue;
		y = snap_find(b, x->tag, x->index);
		(void)snprintf(name, sizeof(name), "%.16s", x->name);
		if (y && snap_section_known(x))
			rc = compare_section(f, a, b, x, y, e);
		else if (y)
			rc = compare_unknown(f, a, b, x, y, e);
		else
			differ(f, name, &there, NULL);
	}
	for (uint32_t i = 0; i < b->h.section_count && !rc; i++) {
		const struct snap_section *y = &b->sec[i];

		(void)snprintf(name, sizeof(name), "%.16s", y->name);
		if (is_state(y) && !snap_find(a, y->tag, y->index))
			differ(f, name, NULL, &there);
	}
	return rc;
}

static bool same_regions(const struct snap *a, const struct snap *b)
{
	return a->mem.region_count == b->mem.region_count &&
	       !memcmp(a->region, b->region,
		       a->mem.region_count * sizeof(a->region[0]));
}

int snap_compare(struct snap *a, struct snap *b, msgpack_packer *out,
	bool *same, struct err *e)
{
	bool alike = same_regions(a, b);
	struct found state, ranges;
	uint64_t pages = 0;
	int rc;

	found_init(&state);
	found_init(&ranges);
	rc = compare_state(&state, a, b, e);
	if (!rc && alike)
		rc = compare_memory(&ranges, a, b, &pages, e);
	*same = !rc && !state.n && alike && !pages;
	(void)msgpack_pack_map(out, 5);
	mp_key_bool(out, "same", *same);
	mp_key_bool(out, "same_layout", alike);
	mp_key_u64(out, "pages", pages);
	found_pack(&state, "state", out);
	found_pack(&ranges, "ranges", out);
	return rc;
}
