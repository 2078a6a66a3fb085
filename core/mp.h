/*
 * msgpack, bounded.
 *
 * msgpack-c builds and takes apart messages; it trusts element counts, so a
 * five-byte message can make it allocate gigabytes. Every byte that comes from
 * outside (a client, a guest, a file) goes through mp_check() first, which
 * walks the bytes without allocating and enforces limits on depth, elements
 * and length. Only then may msgpack_unpack_next() see it.
 */
#ifndef THAW_CORE_MP_H
#define THAW_CORE_MP_H

#include "core/err.h"

#include <msgpack.h>

struct mp_limits {
	uint32_t max_depth;    /* containers inside containers */
	uint32_t max_elements; /* values in the whole message */
};

/* Suits requests and state sections: depth 16, 64 Ki values. */
extern const struct mp_limits mp_default_limits;

/*
 * Is there one complete object at buf? Returns its length, 0 when more bytes
 * are needed, -EBADMSG when the bytes are not msgpack (0xc1) or break a limit,
 * or -E2BIG when the object says it is longer than max_len.
 */
int64_t mp_check(const void *buf, size_t len, uint64_t max_len,
	const struct mp_limits *lim) MUST_USE;

/* msgpack-c's parser has a fixed stack of 32 containers. */
#define MP_STACK 32

/*
 * The same for an object that arrives in pieces, without looking at any byte
 * twice. Call mp_walk() again when more bytes have been added to buf; .pos is
 * where the next value begins and may lie behind the bytes that are there.
 * Whoever does not keep the bytes drops n <= min(len, .pos) of them from the
 * front and takes n from .pos.
 */
struct mp_walk {
	uint64_t left[MP_STACK]; /* children to come, per open container */
	uint32_t depth, max_depth;
	uint64_t owed;     /* values to come; 0: all heads were seen */
	uint64_t elements; /* values so far, promised ones included */
	uint64_t max_elements;
	uint64_t pos;
};
void mp_walk_init(struct mp_walk *w, const struct mp_limits *lim);
int64_t mp_walk(struct mp_walk *w, const void *buf, size_t len,
	uint64_t max_len) MUST_USE;

/* Unpack one object that fills buf exactly, after mp_check(). The zone in
 * *out owns the result (msgpack_unpacked_destroy()); bin and str values point
 * into buf, which must outlive it. */
int mp_unpack(const void *buf, size_t len, const struct mp_limits *lim,
	msgpack_unpacked *out, struct err *e) MUST_USE;

/* Look a key up in a map; NULL when absent or when o is not a map. */
const msgpack_object *mp_get(const msgpack_object *o, const char *key);
bool mp_str_eq(const msgpack_object *o, const char *s);

/* Packing: thin names over msgpack-c for what we write all the time. */
void mp_str(msgpack_packer *p, const char *s);
void mp_strn(msgpack_packer *p, const char *s, size_t n);
void mp_bin(msgpack_packer *p, const void *data, size_t n);
void mp_key_u64(msgpack_packer *p, const char *key, uint64_t v);
void mp_key_str(msgpack_packer *p, const char *key, const char *v);
void mp_key_bool(msgpack_packer *p, const char *key, bool v);

#endif
