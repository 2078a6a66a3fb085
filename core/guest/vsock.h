/*
 * Streams over virtio-vsock. Nothing here blocks but vsock_send() and
 * vsock_drain(), and both go on receiving meanwhile: data that nobody can take
 * now waits in the stream's buffer, and credit keeps it from overflowing.
 *
 * Small incoming data is offered to agent_offer() where it lies.
 */
#ifndef THAW_CORE_GUEST_VSOCK_H
#define THAW_CORE_GUEST_VSOCK_H

#include "core/guest/stream.h"

#define VSOCK_HOST_CID 2

/* 5.10.6 */
struct vsock_hdr {
	uint64_t src_cid, dst_cid;
	uint32_t src_port, dst_port;
	uint32_t len;
	uint16_t type, op;
	uint32_t flags;
	uint32_t buf_alloc, fwd_cnt;
} __attribute__((packed));
#define VSOCK_HDR_SIZE 44
_Static_assert(sizeof(struct vsock_hdr) == VSOCK_HDR_SIZE, "5.10.6");

#define VSOCK_TYPE_STREAM 1

enum vsock_op {
	OP_REQUEST = 1,
	OP_RESPONSE,
	OP_RST,
	OP_SHUTDOWN,
	OP_RW,
	OP_CREDIT_UPDATE,
	OP_CREDIT_REQUEST,
};

/* Start the device at addr. mem: memory for buffers, as much as
 * vsock_memory() said for this size of the machine. NULL, or what is wrong. */
uint64_t vsock_memory(uint64_t machine);
const char *vsock_init(uint64_t addr, uint8_t *mem, uint64_t size);

/* Handle all that came in, send what is owed. True when anything came. */
bool vsock_poll(void);
/* As vsock_poll(), after sleeping at most this long when nothing came. */
void vsock_sleep(uint32_t us);

/* Send a (copied) and then b (read in place until vsock_drain(), unless all
 * fits one small packet). False: the stream is over. */
bool vsock_send(struct stream *s, const void *a, uint32_t alen, const void *b,
	uint32_t blen);
/* Would vsock_send() copy both? */
bool vsock_is_small(uint32_t len);
/* Until the device has read all that vsock_send() left in place. */
void vsock_drain(void);
/* Sleep until something comes, without looking first. */
void vsock_wait(void);
/* Packets wait for the host to hear of them: tell it now. */
void vsock_flush(void);

/* The s->len bytes that wait in the stream's buffer; they stay where they are,
 * whatever comes, until some are taken. */
uint8_t *stream_data(struct stream *s);
/* Take n of them. */
void stream_take(struct stream *s, uint32_t n);
/* Put bytes that were taken back before the others. False: no room. */
bool stream_untake(struct stream *s, const uint8_t *p, uint32_t n);
/* So much waits that the peer may be held back by lack of credit. */
bool stream_is_filling(const struct stream *s);
/* Tell the peer that we stop sending (and receiving). */
void stream_shutdown(struct stream *s, uint8_t how);
/* End it now. */
void stream_reset(struct stream *s);
/* Hold a stream: it is not reused, whatever happens, until let go. */
void stream_hold(struct stream *s);
void stream_let_go(struct stream *s);

/* A stream to a port of the host, held, CONNECTING; NULL when there are too
 * many. */
struct stream *vsock_connect(uint32_t port);
/* Any packet, without a stream: for tests of the host. False: no room now. */
bool vsock_send_raw(const struct vsock_hdr *h, const void *p, uint32_t n);

#endif
