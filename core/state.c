/*
 * How it works: saving walks the table and writes; loading first fills the
 * whole struct with defaults, then walks the map that came and looks every key
 * up in the table, and last runs the check() functions, inner ones first. So
 * no byte of the struct is ever uninitialised, whatever the input.
 *
 * A field that the writer's version "v" did not have yet is refused: no thaw
 * ever wrote such a map. Keys that no version knows are ignored, so that a
 * table may grow a field without a new version when old readers can do without
 * it.
 */
#include "core/state.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define ST_MAX_FIELDS  256  /* of one table */
#define ST_MAX_ENTRIES 1024 /* of one map: known and unknown keys */

static const struct mp_limits st_limits = {
	.max_depth = 16,
	.max_elements = 64 * 1024,
};

static uint64_t uint_get(const void *p, uint32_t size)
{
	uint64_t v = 0;

	/* little-endian hosts only: the low bytes come first */
	memcpy(&v, p, size);
	return v;
}

static bool uint_fits(uint64_t v, uint32_t size)
{
	return size >= 8 || v >> (8 * size) == 0;
}

static const void *elem_in(
	const struct st_field *f, const void *state, uint32_t i)
{
	return (const uint8_t *)state + f->offset + (size_t)i * f->size;
}

static void *elem_out(const struct st_field *f, void *state, uint32_t i)
{
	return (uint8_t *)state + f->offset + (size_t)i * f->size;
}

/* ---- saving ---- */

/* msgpack-c's return codes are lost between its layers; this one sticks. */
struct st_out {
	msgpack_sbuffer *buf;
	int rc;
};

static int out_write(void *data, const char *buf, size_t len)
{
	struct st_out *o = data;

	if (!o->rc && msgpack_sbuffer_write(o->buf, buf, len))
		o->rc = -ENOMEM;
	return o->rc;
}

static void save_struct(const struct st_desc *d, const void *state,
	msgpack_packer *p, struct st_out *o);

static void save_one(const struct st_field *f, const void *state, uint32_t i,
	msgpack_packer *p, struct st_out *o)
{
	const void *v = elem_in(f, state, i);
	uint32_t len;

	switch (f->kind) {
	case ST_UINT:
		(void)msgpack_pack_uint64(p, uint_get(v, f->size));
		break;
	case ST_BYTES:
		mp_bin(p, v, f->size);
		break;
	case ST_BLOB:
		memcpy(&len, (const uint8_t *)state + f->len_offset, 4);
		if (len > f->size)
			o->rc = -EINVAL;
		else
			mp_bin(p, v, len);
		break;
	case ST_SUB:
		save_struct(f->sub, v, p, o);
		break;
	case ST_NKINDS_:
	default:
		o->rc = -EINVAL;
		break;
	}
}

static void save_struct(const struct st_desc *d, const void *state,
	msgpack_packer *p, struct st_out *o)
{
	(void)msgpack_pack_map(p, d->nfields + 1U);
	mp_key_u64(p, "v", d->version);
	for (uint32_t n = 0; n < d->nfields && !o->rc; n++) {
		const struct st_field *f = &d->fields[n];

		mp_str(p, f->name);
		if (f->count != 1)
			(void)msgpack_pack_array(p, f->count);
		for (uint32_t i = 0; i < f->count; i++)
			save_one(f, state, i, p, o);
	}
}

int st_save(const struct st_desc *d, const void *state, msgpack_sbuffer *buf)
{
	struct st_out o = {.buf = buf};
	size_t before = buf->size;
	msgpack_packer p;

	msgpack_packer_init(&p, &o, out_write);
	save_struct(d, state, &p, &o);
	if (o.rc)
		buf->size = before;
	return o.rc;
}

/* ---- loading ---- */

struct st_mark {
	size_t len;
	bool dotted; /* there is a field in the path already */
};

struct st_in {
	char path[200]; /* "virtio-vsock: vq[1].size" */
	struct st_mark at;
	struct err *e;
};

static int PRINTF(2, 3) refuse(struct st_in *in, const char *fmt, ...)
{
	char text[160];
	va_list ap;

	va_start(ap, fmt);
	(void)vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	return err_set(in->e, -EBADMSG, "%s: %s", in->path, text);
}

/* Append a field, or an index when name is NULL; returns what path_cut() needs
 * to take it back. */
static struct st_mark path_add(
	struct st_in *in, const char *name, uint32_t index)
{
	struct st_mark old = in->at;
	size_t room = sizeof(in->path) - old.len;
	char *end = in->path + old.len;
	int n;

	if (name)
		n = snprintf(end, room, "%s%s", old.dotted ? "." : ": ", name);
	else
		n = snprintf(end, room, "[%u]", index);
	if (n > 0)
		in->at.len += min_u64((size_t)n, room - 1);
	in->at.dotted = true;
	return old;
}

static void path_cut(struct st_in *in, struct st_mark old)
{
	in->at = old;
	in->path[old.len] = '\0';
}

static void defaults(const struct st_desc *d, void *state)
{
	for (uint32_t n = 0; n < d->nfields; n++) {
		const struct st_field *f = &d->fields[n];

		for (uint32_t i = 0; i < f->count; i++) {
			if (f->kind == ST_SUB)
				defaults(f->sub, elem_out(f, state, i));
			else if (f->kind == ST_UINT)
				memcpy(elem_out(f, state, i), &f->def, f->size);
		}
	}
}

static int load_struct(const struct st_desc *d, void *state,
	const msgpack_object *o, struct st_in *in);

static int load_uint(const struct st_field *f, void *to,
	const msgpack_object *o, struct st_in *in)
{
	if (o->type != MSGPACK_OBJECT_POSITIVE_INTEGER)
		return refuse(in, "not an unsigned integer");
	if (!uint_fits(o->via.u64, f->size))
		return refuse(in, "%llu does not fit into %u bits",
			(unsigned long long)o->via.u64, 8 * f->size);
	memcpy(to, &o->via.u64, f->size);
	return 0;
}

static int load_bytes(const struct st_field *f, void *to,
	const msgpack_object *o, struct st_in *in)
{
	if (o->type != MSGPACK_OBJECT_BIN)
		return refuse(in, "not binary");
	if (o->via.bin.size != f->size)
		return refuse(
			in, "%u bytes, must be %u", o->via.bin.size, f->size);
	memcpy(to, o->via.bin.ptr, f->size);
	return 0;
}

static int load_blob(const struct st_field *f, void *state,
	const msgpack_object *o, struct st_in *in)
{
	if (o->type != MSGPACK_OBJECT_BIN)
		return refuse(in, "not binary");
	if (o->via.bin.size > f->size)
		return refuse(in, "%u bytes, at most %u fit", o->via.bin.size,
			f->size);
	if (o->via.bin.size)
		memcpy(elem_out(f, state, 0), o->via.bin.ptr, o->via.bin.size);
	memcpy((uint8_t *)state + f->len_offset, &o->via.bin.size, 4);
	return 0;
}

static int load_one(const struct st_field *f, void *state, uint32_t i,
	const msgpack_object *o, struct st_in *in)
{
	void *to = elem_out(f, state, i);

	switch (f->kind) {
	case ST_UINT:
		return load_uint(f, to, o, in);
	case ST_BYTES:
		return load_bytes(f, to, o, in);
	case ST_BLOB:
		return load_blob(f, state, o, in);
	case ST_SUB:
		return load_struct(f->sub, to, o, in);
	case ST_NKINDS_:
	default:
		return refuse(in, "table error: unknown kind");
	}
}

static int load_field(const struct st_field *f, void *state,
	const msgpack_object *o, struct st_in *in)
{
	if (f->count == 1)
		return load_one(f, state, 0, o, in);
	if (o->type != MSGPACK_OBJECT_ARRAY)
		return refuse(in, "not an array");
	if (o->via.array.size != f->count)
		return refuse(in, "%u elements, must be %u", o->via.array.size,
			f->count);
	for (uint32_t i = 0; i < f->count; i++) {
		struct st_mark old = path_add(in, NULL, i);
		int rc = load_one(f, state, i, &o->via.array.ptr[i], in);

		if (rc)
			return rc;
		path_cut(in, old);
	}
	return 0;
}

/* The map's "v", which must be there exactly once. */
static int load_version(const struct st_desc *d, const msgpack_object_map *map,
	struct st_in *in, uint16_t *version)
{
	const msgpack_object *v = NULL;
	uint32_t seen = 0;

	for (uint32_t i = 0; i < map->size; i++) {
		if (map->ptr[i].key.type != MSGPACK_OBJECT_STR)
			return refuse(in, "a key is not a string");
		if (mp_str_eq(&map->ptr[i].key, "v")) {
			v = &map->ptr[i].val;
			seen++;
		}
	}
	if (seen != 1)
		return refuse(in, "v: %s", seen ? "named twice" : "missing");
	if (v->type != MSGPACK_OBJECT_POSITIVE_INTEGER || v->via.u64 == 0)
		return refuse(in, "v: not a version");
	if (v->via.u64 > d->version)
		return refuse(in, "v: version %llu, this thaw reads up to %u",
			(unsigned long long)v->via.u64, d->version);
	*version = (uint16_t)v->via.u64;
	return 0;
}

/* Index of the field, or -1. */
static int find_field(const struct st_desc *d, const msgpack_object *key)
{
	for (uint32_t n = 0; n < d->nfields; n++) {
		if (mp_str_eq(key, d->fields[n].name))
			return (int)n;
	}
	return -1;
}

static int load_entry(const struct st_desc *d, void *state, uint16_t version,
	const msgpack_object_kv *kv, struct st_in *in, uint8_t *seen)
{
	int n = find_field(d, &kv->key);
	const struct st_field *f;
	struct st_mark old;
	int rc;

	if (n < 0)
		return 0;
	f = &d->fields[n];
	old = path_add(in, f->name, 0);
	if (seen[n])
		return refuse(in, "named twice");
	seen[n] = 1;
	if (f->since > version)
		return refuse(in, "is of version %u, the map is of version %u",
			f->since, version);
	rc = load_field(f, state, &kv->val, in);
	if (rc)
		return rc;
	path_cut(in, old);
	return 0;
}

static int load_struct(const struct st_desc *d, void *state,
	const msgpack_object *o, struct st_in *in)
{
	uint8_t seen[ST_MAX_FIELDS] = {0};
	uint16_t version = 0;
	int rc;

	if (o->type != MSGPACK_OBJECT_MAP)
		return refuse(in, "not a map");
	if (d->nfields > ST_MAX_FIELDS || o->via.map.size > ST_MAX_ENTRIES)
		return refuse(in, "too many entries");
	rc = load_version(d, &o->via.map, in, &version);
	if (rc)
		return rc;
	for (uint32_t i = 0; i < o->via.map.size; i++) {
		rc = load_entry(
			d, state, version, &o->via.map.ptr[i], in, seen);
		if (rc)
			return rc;
	}
	return 0;
}

static int check_struct(
	const struct st_desc *d, const void *state, struct st_in *in)
{
	struct err why = {0};

	for (uint32_t n = 0; n < d->nfields; n++) {
		const struct st_field *f = &d->fields[n];
		struct st_mark old, one;

		if (f->kind != ST_SUB)
			continue;
		old = path_add(in, f->name, 0);
		for (uint32_t i = 0; i < f->count; i++) {
			int rc;

			one = (f->count == 1) ? in->at : path_add(in, NULL, i);
			rc = check_struct(f->sub, elem_in(f, state, i), in);
			if (rc)
				return rc;
			path_cut(in, one);
		}
		path_cut(in, old);
	}
	if (d->check && d->check(state, &why))
		return refuse(in, "%.150s", why.msg[0] ? why.msg : "refused");
	return 0;
}

int st_load(const struct st_desc *d, void *state, const void *buf, size_t len,
	struct err *e)
{
	struct st_in in = {.e = e};
	struct err why = {0};
	msgpack_unpacked msg;
	int rc;

	(void)snprintf(in.path, sizeof(in.path), "%.100s", d->name);
	in.at.len = strlen(in.path);
	memset(state, 0, d->size);
	defaults(d, state);
	rc = mp_unpack(buf, len, &st_limits, &msg, &why);
	if (rc)
		rc = err_set(e, rc, "%s: %s", d->name, why.msg);
	else
		rc = load_struct(d, state, &msg.data, &in);
	if (!rc)
		rc = check_struct(d, state, &in);
	msgpack_unpacked_destroy(&msg);
	return rc;
}

/* ---- for tests ---- */

void st_coverage(const struct st_desc *d, uint8_t *hits)
{
	for (uint32_t n = 0; n < d->nfields; n++) {
		const struct st_field *f = &d->fields[n];

		for (uint32_t i = 0; i < f->count; i++) {
			uint8_t *at = hits + f->offset + (size_t)i * f->size;

			if (f->kind == ST_SUB) {
				st_coverage(f->sub, at);
				continue;
			}
			for (uint32_t b = 0; b < f->size; b++)
				at[b]++;
		}
		for (uint32_t b = 0; f->kind == ST_BLOB && b < 4; b++)
			hits[f->len_offset + b]++;
	}
}
