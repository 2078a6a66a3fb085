/*
 * msgpack-rpc on a stream: framing and the heads of messages.
 *
 *   request       [0, id, method, params]
 *   response      [1, id, error, result]
 *   notification  [2, method, params]
 *   https://github.com/msgpack-rpc/msgpack-rpc/blob/master/spec.md
 *
 * The reader takes bytes as they come and gives out whole messages. It trusts
 * nothing: depth and number of values are bounded, a message that is longer
 * than its method allows is skipped without being kept, and memory follows the
 * bytes that have arrived, not those that were promised.
 */
#ifndef THAW_API_RPC_H
#define THAW_API_RPC_H

#include "core/mp.h"

/* Longest request of a method without a payload, and with one. */
#define RPC_MAX_REQUEST 51200
#define RPC_MAX_PAYLOAD (6 * MIB)
/* Everything around a payload: names, numbers, other parameters. */
#define RPC_PAYLOAD_ROOM 65536

enum rpc_kind {
	RPC_REQUEST,
	RPC_RESPONSE,
	RPC_NOTIFICATION,
	RPC_TOO_LONG, /* a request over its limit; only .id is set */
};

/* A message. Pointers are valid until the next rpc_space(). */
struct rpc_msg {
	enum rpc_kind kind;
	uint64_t id;
	const char *method; /* not zero-terminated */
	size_t method_len;
	uint64_t begin, end; /* its place in the stream */
	const void *data;    /* the whole message, for mp_unpack() */
	size_t len;
};

/* Longest message allowed for a method. */
typedef uint64_t rpc_limit_fn(const char *method, size_t len);

struct rpc_reader {
	struct mp_walk walk;
	const struct mp_limits *limits; /* borrowed */
	rpc_limit_fn *limit_of;
	uint8_t *buf; /* owned; the current message begins at buf[start] */
	size_t cap, start, len;
	uint64_t base; /* place of buf[0] in the stream */
	struct rpc_msg head;
	uint64_t limit;
	uint64_t skipped; /* bytes of the current message already dropped */
	bool have_head, skipping;
};

void rpc_reader_init(struct rpc_reader *r, rpc_limit_fn *limit_of,
	const struct mp_limits *limits);
void rpc_reader_fini(struct rpc_reader *r);
/* Room for at least one more byte: *p, and how much as the result, or -ENOMEM.
 * Messages given out before become invalid. */
int64_t rpc_space(struct rpc_reader *r, uint8_t **p) MUST_USE;
/* n bytes were put into that room. */
void rpc_filled(struct rpc_reader *r, size_t n);
/* 1: *m is the next message; 0: more bytes are needed; -EBADMSG: the stream is
 * not msgpack-rpc or breaks a bound, and no more can be read from it. */
int rpc_next(struct rpc_reader *r, struct rpc_msg *m) MUST_USE;
/* Place in the stream of the next byte to be filled in. */
uint64_t rpc_position(const struct rpc_reader *r);

/* The heads of what a server sends; the result, or the map of a notification,
 * follows. */
void rpc_pack_answer(msgpack_packer *p, uint64_t id);
/* id NULL: nil, for a message whose id could not be read. */
void rpc_pack_error(
	msgpack_packer *p, const uint64_t *id, int code, const char *text);
void rpc_pack_notification(msgpack_packer *p, const char *method);

/* API code of a negative errno: "invalid", "not_found", ... (core/err.h). */
const char *rpc_code(int code);

#endif
