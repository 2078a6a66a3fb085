/*
 * How it works: mp_check() needs two facts at any point of a message: how many
 * values are still owed (every container adds its children, every value takes
 * one away; 0 ends the message) and how deep it is, which takes a small array
 * of "children left" counters. Each value owed is at least one byte long, so
 * "position + owed" is a lower bound of the message's length: that is how a
 * message which promises too much is refused before it has arrived.
 */
#include "core/mp.h"

#include <errno.h>
#include <string.h>

const struct mp_limits mp_default_limits = {
	.max_depth = 16,
	.max_elements = 64 * 1024,
};

enum head_kind {
	HEAD_BODY,
	HEAD_ARRAY,
	HEAD_MAP,
	HEAD_BAD
};

/* The first bytes of a value. */
struct head {
	enum head_kind kind;
	uint32_t len_bytes; /* big-endian length or count after the tag */
	uint64_t body;      /* bytes after the head */
	uint64_t items;     /* values after the head */
};

/* Tags 0xc0..0xdf: https://github.com/msgpack/msgpack/blob/master/spec.md */
static const struct {
	uint8_t kind, len_bytes, fixed;
} tags[32] = {
	[0xc0 - 0xc0] = {HEAD_BODY, 0, 0}, /* nil */
	[0xc1 - 0xc0] = {HEAD_BAD, 0, 0},  /* never used */
	[0xc2 - 0xc0] = {HEAD_BODY, 0, 0}, /* false */
	[0xc3 - 0xc0] = {HEAD_BODY, 0, 0}, /* true */
	[0xc4 - 0xc0] = {HEAD_BODY, 1, 0}, /* bin */
	[0xc5 - 0xc0] = {HEAD_BODY, 2, 0},
	[0xc6 - 0xc0] = {HEAD_BODY, 4, 0},
	[0xc7 - 0xc0] = {HEAD_BODY, 1, 1}, /* ext: a type byte and a body */
	[0xc8 - 0xc0] = {HEAD_BODY, 2, 1},
	[0xc9 - 0xc0] = {HEAD_BODY, 4, 1},
	[0xca - 0xc0] = {HEAD_BODY, 0, 4}, /* float */
	[0xcb - 0xc0] = {HEAD_BODY, 0, 8},
	[0xcc - 0xc0] = {HEAD_BODY, 0, 1}, /* uint */
	[0xcd - 0xc0] = {HEAD_BODY, 0, 2},
	[0xce - 0xc0] = {HEAD_BODY, 0, 4},
	[0xcf - 0xc0] = {HEAD_BODY, 0, 8},
	[0xd0 - 0xc0] = {HEAD_BODY, 0, 1}, /* int */
	[0xd1 - 0xc0] = {HEAD_BODY, 0, 2},
	[0xd2 - 0xc0] = {HEAD_BODY, 0, 4},
	[0xd3 - 0xc0] = {HEAD_BODY, 0, 8},
	[0xd4 - 0xc0] = {HEAD_BODY, 0, 2}, /* fixext */
	[0xd5 - 0xc0] = {HEAD_BODY, 0, 3},
	[0xd6 - 0xc0] = {HEAD_BODY, 0, 5},
	[0xd7 - 0xc0] = {HEAD_BODY, 0, 9},
	[0xd8 - 0xc0] = {HEAD_BODY, 0, 17},
	[0xd9 - 0xc0] = {HEAD_BODY, 1, 0}, /* str */
	[0xda - 0xc0] = {HEAD_BODY, 2, 0},
	[0xdb - 0xc0] = {HEAD_BODY, 4, 0},
	[0xdc - 0xc0] = {HEAD_ARRAY, 2, 0},
	[0xdd - 0xc0] = {HEAD_ARRAY, 4, 0},
	[0xde - 0xc0] = {HEAD_MAP, 2, 0},
	[0xdf - 0xc0] = {HEAD_MAP, 4, 0},
};

static struct head head_of_tag(uint8_t tag)
{
	struct head h = {.kind = HEAD_BODY};

	if (tag >= 0x80 && tag <= 0x8f) {
		h.kind = HEAD_MAP;
		h.items = 2 * (tag & 15U);
	} else if (tag >= 0x90 && tag <= 0x9f) {
		h.kind = HEAD_ARRAY;
		h.items = tag & 15U;
	} else if (tag >= 0xa0 && tag <= 0xbf) {
		h.body = tag & 31U;
	} else if (tag >= 0xc0 && tag <= 0xdf) {
		h.kind = (enum head_kind)tags[tag - 0xc0].kind;
		h.len_bytes = tags[tag - 0xc0].len_bytes;
		h.body = tags[tag - 0xc0].fixed;
	}
	return h;
}

/* The length or count that follows the tag. */
static void head_length(struct head *h, const uint8_t *p)
{
	uint64_t v = 0;

	for (uint32_t i = 0; i < h->len_bytes; i++)
		v = v << 8 | p[i];
	if (h->kind == HEAD_BODY)
		h->body += v;
	else if (h->kind == HEAD_ARRAY)
		h->items += v;
	else
		h->items += 2 * v;
}

static int walk_head(struct mp_walk *w, const struct head *h)
{
	if (h->kind == HEAD_BAD)
		return -EBADMSG;
	if (h->kind != HEAD_BODY && w->depth >= w->max_depth)
		return -EBADMSG;
	if (h->items > w->max_elements - w->elements)
		return -EBADMSG;
	w->elements += h->items;
	w->owed += h->items;
	w->owed--;
	return 0;
}

/* The value is complete: close every container that ends with it. */
static void walk_close(struct mp_walk *w, uint64_t items)
{
	if (items) {
		w->left[w->depth++] = items;
		return;
	}
	while (w->depth && --w->left[w->depth - 1] == 0)
		w->depth--;
}

void mp_walk_init(struct mp_walk *w, const struct mp_limits *lim)
{
	memset(w, 0, sizeof(*w));
	w->owed = 1;
	w->elements = 1;
	w->max_depth = lim->max_depth < MP_STACK ? lim->max_depth : MP_STACK;
	w->max_elements = lim->max_elements;
}

int64_t mp_walk(
	struct mp_walk *w, const void *buf, size_t len, uint64_t max_len)
{
	const uint8_t *p = buf;

	if (max_len > INT64_MAX)
		max_len = INT64_MAX;
	if (!w->max_elements)
		return -EBADMSG;
	while (w->owed) {
		uint64_t pos = w->pos;
		struct head h;
		int rc;

		if (w->owed > max_len || pos > max_len - w->owed)
			return -E2BIG;
		if (pos >= len)
			return 0;
		h = head_of_tag(p[pos++]);
		if (h.len_bytes > len - pos)
			return h.len_bytes > max_len - pos ? -E2BIG : 0;
		head_length(&h, p + pos);
		rc = walk_head(w, &h);
		if (rc)
			return rc;
		w->pos = pos + h.len_bytes + h.body;
		walk_close(w, h.items);
	}
	if (w->pos > max_len)
		return -E2BIG;
	return w->pos > len ? 0 : (int64_t)w->pos;
}

int64_t mp_check(const void *buf, size_t len, uint64_t max_len,
	const struct mp_limits *lim)
{
	struct mp_walk w;

	mp_walk_init(&w, lim);
	return mp_walk(&w, buf, len, max_len);
}

int mp_unpack(const void *buf, size_t len, const struct mp_limits *lim,
	msgpack_unpacked *out, struct err *e)
{
	int64_t n = mp_check(buf, len, len, lim);
	size_t off = 0;

	msgpack_unpacked_init(out);
	if (n == 0 || n == -E2BIG)
		return err_set(
			e, -EBADMSG, "msgpack: cut short at %zu bytes", len);
	if (n < 0)
		return err_set(e, -EBADMSG,
			"msgpack: malformed, too deep or too many values");
	if ((uint64_t)n != len)
		return err_set(e, -EBADMSG, "msgpack: %llu stray bytes at end",
			(unsigned long long)(len - (uint64_t)n));
	switch (msgpack_unpack_next(out, buf, len, &off)) {
	case MSGPACK_UNPACK_SUCCESS:
	case MSGPACK_UNPACK_EXTRA_BYTES:
		return 0;
	case MSGPACK_UNPACK_NOMEM_ERROR:
		return err_set(e, -ENOMEM, "msgpack: out of memory");
	case MSGPACK_UNPACK_CONTINUE:
	case MSGPACK_UNPACK_PARSE_ERROR:
	default:
		return err_set(e, -EBADMSG, "msgpack: malformed");
	}
}

bool mp_str_eq(const msgpack_object *o, const char *s)
{
	size_t n = strlen(s);

	return o->type == MSGPACK_OBJECT_STR && o->via.str.size == n &&
	       memcmp(o->via.str.ptr, s, n) == 0;
}

const msgpack_object *mp_get(const msgpack_object *o, const char *key)
{
	if (!o || o->type != MSGPACK_OBJECT_MAP)
		return NULL;
	for (uint32_t i = 0; i < o->via.map.size; i++) {
		if (mp_str_eq(&o->via.map.ptr[i].key, key))
			return &o->via.map.ptr[i].val;
	}
	return NULL;
}

/* Packing can only fail for lack of memory, and then the buffer ends early:
 * whoever reads it finds it cut short. */
void mp_strn(msgpack_packer *p, const char *s, size_t n)
{
	(void)msgpack_pack_str_with_body(p, s, n);
}

void mp_str(msgpack_packer *p, const char *s)
{
	mp_strn(p, s, strlen(s));
}

void mp_bin(msgpack_packer *p, const void *data, size_t n)
{
	(void)msgpack_pack_bin_with_body(p, data, n);
}

void mp_key_u64(msgpack_packer *p, const char *key, uint64_t v)
{
	mp_str(p, key);
	(void)msgpack_pack_uint64(p, v);
}

void mp_key_str(msgpack_packer *p, const char *key, const char *v)
{
	mp_str(p, key);
	mp_str(p, v);
}

void mp_key_bool(msgpack_packer *p, const char *key, bool v)
{
	mp_str(p, key);
	if (v)
		(void)msgpack_pack_true(p);
	else
		(void)msgpack_pack_false(p);
}
