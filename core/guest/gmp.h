/*
 * msgpack for the agent: strict, bounded, without allocation.
 *
 * A message comes from the host over a stream and may be cut anywhere.
 * gmp_scan() walks it once; only a message that it found complete is read with
 * gmp_next(), which therefore cannot run over the end of a sound one, and stops
 * at the end of any other.
 */
#ifndef THAW_CORE_GUEST_GMP_H
#define THAW_CORE_GUEST_GMP_H

#include "core/guest/lib.h"

#define GMP_MAX_DEPTH    8
#define GMP_MAX_ELEMENTS 1024

enum gmp_type {
	GMP_NIL,
	GMP_BOOL, /* n: 0 or 1 */
	GMP_UINT, /* n */
	GMP_INT,  /* negative; n is the two's complement */
	GMP_FLOAT,
	GMP_STR,   /* p, n bytes */
	GMP_BIN,   /* p, n bytes */
	GMP_EXT,   /* p, n bytes */
	GMP_ARRAY, /* n elements follow */
	GMP_MAP,   /* n pairs follow */
};

struct gmp_in {
	const uint8_t *p, *end;
};

struct gmp_obj {
	enum gmp_type type;
	uint64_t n;
	const uint8_t *p;
};

enum {
	GMP_MALFORMED = -1,
	GMP_TOO_BIG = -2
};

/* Length of the object at p, 0 when it needs more than len bytes,
 * GMP_MALFORMED (a limit counts), or GMP_TOO_BIG when it says that it is longer
 * than max. */
int64_t gmp_scan(const uint8_t *p, uint64_t len, uint64_t max);

/* The next object (of a container only its head). False at the end. */
bool gmp_next(struct gmp_in *in, struct gmp_obj *o);
/* Past the next object with all that is in it. */
bool gmp_skip(struct gmp_in *in);

/* Writing. What does not fit sets overflow and is dropped. */
struct gmp_out {
	uint8_t *p;
	uint32_t n, cap;
	bool overflow;
};

void gmp_put_nil(struct gmp_out *o);
void gmp_put_uint(struct gmp_out *o, uint64_t v);
void gmp_put_array(struct gmp_out *o, uint8_t n); /* up to 15 */
void gmp_put_map(struct gmp_out *o, uint8_t n);   /* up to 15 */
void gmp_put_str(struct gmp_out *o, const void *s, size_t n);
void gmp_put_cstr(struct gmp_out *o, const char *s);
/* The head alone, or the head and the bytes. */
void gmp_put_bin_head(struct gmp_out *o, uint32_t n);
void gmp_put_bin(struct gmp_out *o, const void *p, uint32_t n);
void gmp_put_array16(struct gmp_out *o, uint16_t n);

#endif
