/*
 * One vsock stream (virtio 1.2 section 5.10.6). In a header of its own because
 * the table lies in the same page as the rings (virtio.c).
 */
#ifndef THAW_CORE_GUEST_STREAM_H
#define THAW_CORE_GUEST_STREAM_H

#include "core/guest/lib.h"

#define NSTREAMS 16

enum stream_state {
	STREAM_FREE,
	STREAM_CONNECTING, /* our REQUEST is on its way */
	STREAM_OPEN,
	STREAM_CLOSING, /* we sent SHUTDOWN and wait for RST */
	STREAM_DEAD,    /* over; RST may be owed, somebody may hold it */
};

#define SHUT_RCV  1u
#define SHUT_SEND 2u

struct stream {
	uint8_t state;
	uint8_t ours;      /* opened by us: data is for a function */
	uint8_t pinned;    /* do not free: somebody holds it */
	uint8_t peer_shut; /* SHUT_* that the peer sent */
	uint8_t shut;      /* SHUT_* that we send with OP_SHUTDOWN */
	uint8_t owed;      /* bit per operation that is to be sent */
	uint16_t index;
	uint32_t peer_cid, our_cid; /* the upper halves are 0 (5.10.6) */
	uint32_t peer_port, our_port;
	/* Credit, byte counts modulo 2^32. */
	uint32_t peer_alloc, peer_fwd, sent;
	uint32_t fwd, told; /* taken from the peer's bytes; as it knows */
	/* Bytes that nobody took yet: [head, head + len) of its buffer. */
	uint32_t head, len;
};

/* NSTREAMS of them. */
struct stream *stream_table(void);

#endif
