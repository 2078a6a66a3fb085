/* msgpack: https://github.com/msgpack/msgpack/blob/master/spec.md */
#include "core/guest/gmp.h"

/* Head of an object: type, size of the length or number after the first byte,
 * and what the first byte itself says. */
struct head {
	enum gmp_type type;
	uint8_t size; /* bytes of a big-endian number that follow */
	uint64_t n;   /* when size is 0 */
};

static bool head_fixed(uint8_t b, struct head *h)
{
	h->size = 0;
	if (b < 0x80) {
		h->type = GMP_UINT;
		h->n = b;
	} else if (b < 0x90) {
		h->type = GMP_MAP;
		h->n = b & 15;
	} else if (b < 0xa0) {
		h->type = GMP_ARRAY;
		h->n = b & 15;
	} else if (b < 0xc0) {
		h->type = GMP_STR;
		h->n = b & 31;
	} else if (b >= 0xe0) {
		h->type = GMP_INT;
		h->n = (uint64_t)(int8_t)b;
	} else {
		return false;
	}
	return true;
}

/* 0xc0 to 0xdf; fixext gets the length it stands for. */
static bool head_wide(uint8_t b, struct head *h)
{
	static const struct {
		uint8_t type, size;
	} wide[32] = {
		{GMP_NIL, 0},
		{0xff, 0},
		{GMP_BOOL, 0},
		{GMP_BOOL, 0},
		{GMP_BIN, 1},
		{GMP_BIN, 2},
		{GMP_BIN, 4},
		{GMP_EXT, 1},
		{GMP_EXT, 2},
		{GMP_EXT, 4},
		{GMP_FLOAT, 4},
		{GMP_FLOAT, 8},
		{GMP_UINT, 1},
		{GMP_UINT, 2},
		{GMP_UINT, 4},
		{GMP_UINT, 8},
		{GMP_INT, 1},
		{GMP_INT, 2},
		{GMP_INT, 4},
		{GMP_INT, 8},
		{GMP_EXT, 0},
		{GMP_EXT, 0},
		{GMP_EXT, 0},
		{GMP_EXT, 0},
		{GMP_EXT, 0},
		{GMP_STR, 1},
		{GMP_STR, 2},
		{GMP_STR, 4},
		{GMP_ARRAY, 2},
		{GMP_ARRAY, 4},
		{GMP_MAP, 2},
		{GMP_MAP, 4},
	};

	if (wide[b - 0xc0].type == 0xff)
		return false;
	h->type = (enum gmp_type)wide[b - 0xc0].type;
	h->size = wide[b - 0xc0].size;
	h->n = 0;
	if (h->type == GMP_BOOL)
		h->n = b & 1;
	else if (h->type == GMP_EXT && !h->size)
		h->n = 1ULL << (b - 0xd4);
	return true;
}

static uint64_t sign_extend(uint64_t v, unsigned bytes)
{
	unsigned shift = 64 - 8 * bytes;

	return (uint64_t)((int64_t)(v << shift) >> shift);
}

static bool has_bytes(enum gmp_type t)
{
	return t == GMP_STR || t == GMP_BIN || t == GMP_EXT;
}

/* Read a head at in->p: 1, 0 when cut, or GMP_MALFORMED. Leaves in->p behind
 * the head; for str, bin and ext o->n counts the bytes that follow (of ext also
 * its type). */
static int read_head(struct gmp_in *in, struct gmp_obj *o)
{
	struct head h;
	uint8_t b;

	if (in->p == in->end)
		return 0;
	b = *in->p;
	if (!head_fixed(b, &h) && !head_wide(b, &h))
		return GMP_MALFORMED;
	if ((uint64_t)(in->end - in->p) < 1u + h.size)
		return 0;
	in->p++;
	for (unsigned i = 0; i < h.size; i++)
		h.n = h.n << 8 | *in->p++;
	if (h.type == GMP_INT && h.size) {
		h.n = sign_extend(h.n, h.size);
		if (!(h.n >> 63))
			h.type = GMP_UINT;
	}
	if (h.type == GMP_EXT)
		h.n++;
	o->type = h.type;
	o->n = h.n;
	o->p = in->p;
	return 1;
}

int64_t gmp_scan(const uint8_t *p, uint64_t len, uint64_t max)
{
	struct gmp_in in = {p, p + len};
	uint32_t left[GMP_MAX_DEPTH + 1] = {1}; /* objects due per level */
	unsigned depth = 0;
	uint32_t seen = 0;

	for (;;) {
		struct gmp_obj o;
		int r;

		while (!left[depth]) {
			if (!depth--)
				return in.p - p;
		}
		r = read_head(&in, &o);
		if (r <= 0)
			return r;
		left[depth]--;
		if (++seen > GMP_MAX_ELEMENTS)
			return GMP_MALFORMED;
		if (o.type == GMP_ARRAY || o.type == GMP_MAP) {
			if (o.n > GMP_MAX_ELEMENTS || depth == GMP_MAX_DEPTH)
				return GMP_MALFORMED;
			left[++depth] = (uint32_t)o.n << (o.type == GMP_MAP);
		} else if (has_bytes(o.type)) {
			uint64_t at = (uint64_t)(in.p - p);

			if (at > max || o.n > max - at)
				return GMP_TOO_BIG;
			if (o.n > len - at)
				return 0;
			in.p += o.n;
		}
	}
}

bool gmp_next(struct gmp_in *in, struct gmp_obj *o)
{
	if (read_head(in, o) <= 0)
		return false;
	if (!has_bytes(o->type))
		return true;
	if (o->n > (uint64_t)(in->end - in->p))
		return false;
	in->p += o->n;
	return true;
}

bool gmp_skip(struct gmp_in *in)
{
	uint64_t len = (uint64_t)(in->end - in->p);
	int64_t n = gmp_scan(in->p, len, len);

	if (n <= 0)
		return false;
	in->p += n;
	return true;
}

/* ---- writing ---- */

static void put(struct gmp_out *o, const void *p, size_t n)
{
	if (n > o->cap - o->n) {
		o->overflow = true;
		return;
	}
	memcpy(o->p + o->n, p, n);
	o->n += (uint32_t)n;
}

static void put_head(struct gmp_out *o, uint8_t b, uint64_t v, unsigned size)
{
	uint8_t h[9] = {b};

	for (unsigned i = size; i; i--, v >>= 8)
		h[i] = (uint8_t)v;
	put(o, h, 1 + size);
}

void gmp_put_nil(struct gmp_out *o)
{
	put_head(o, 0xc0, 0, 0);
}

void gmp_put_uint(struct gmp_out *o, uint64_t v)
{
	if (v < 0x80)
		put_head(o, (uint8_t)v, 0, 0);
	else if (v <= UINT8_MAX)
		put_head(o, 0xcc, v, 1);
	else if (v <= UINT16_MAX)
		put_head(o, 0xcd, v, 2);
	else if (v <= UINT32_MAX)
		put_head(o, 0xce, v, 4);
	else
		put_head(o, 0xcf, v, 8);
}

void gmp_put_array(struct gmp_out *o, uint8_t n)
{
	put_head(o, (uint8_t)(0x90 | n), 0, 0);
}

void gmp_put_array16(struct gmp_out *o, uint16_t n)
{
	put_head(o, 0xdc, n, 2);
}

void gmp_put_map(struct gmp_out *o, uint8_t n)
{
	put_head(o, (uint8_t)(0x80 | n), 0, 0);
}

void gmp_put_str(struct gmp_out *o, const void *s, size_t n)
{
	if (n < 32)
		put_head(o, (uint8_t)(0xa0 | n), 0, 0);
	else if (n <= UINT8_MAX)
		put_head(o, 0xd9, n, 1);
	else
		put_head(o, 0xdb, n, 4);
	put(o, s, n);
}

void gmp_put_cstr(struct gmp_out *o, const char *s)
{
	gmp_put_str(o, s, strlen(s));
}

void gmp_put_bin_head(struct gmp_out *o, uint32_t n)
{
	if (n <= UINT8_MAX)
		put_head(o, 0xc4, n, 1);
	else if (n <= UINT16_MAX)
		put_head(o, 0xc5, n, 2);
	else
		put_head(o, 0xc6, n, 4);
}

void gmp_put_bin(struct gmp_out *o, const void *p, uint32_t n)
{
	gmp_put_bin_head(o, n);
	put(o, p, n);
}
