/*
 * Inside of the vsock device; for devices/vsock*.c only. From outside:
 * core/vsock.h.
 *
 *   vsock.c         the device: saved state, life cycle
 *   vsock_queue.c   queues and passes
 *   vsock_stream.c  streams: table, packets to the guest, credit
 *   vsock_packet.c  packets from the guest
 *   vsock_unix.c    host sockets behind streams: CONNECT line, dialling, time
 *
 * Passes. Everything that may put something into the rings happens between
 * vsock_begin() and vsock_end(), which nest. The outermost vsock_end() fills
 * the guest's receive buffers, frees what died, and notifies the guest once.
 * So an answer that a callback sends reaches the guest with the same wake-up.
 *
 * Threads. All loop thread. Only ring operations and saved state are shared
 * with vCPU threads (register accesses): under vd.lock. A reset by the driver
 * happens on a vCPU thread: it sets was_reset, and from then on neither rings
 * nor buffers are touched until the loop thread has dropped the streams.
 */
#ifndef THAW_CORE_DEVICES_VSOCK_DEV_H
#define THAW_CORE_DEVICES_VSOCK_DEV_H

#include "core/virtio.h"
#include "core/vsock.h"

/* virtio 1.2, 5.10.2 */
enum {
	VSOCK_Q_RX,
	VSOCK_Q_TX,
	VSOCK_Q_EVENT,
	VSOCK_NQUEUES
};

/* Numbers of machine_watch(); 0 .. 2 are the queues. */
enum {
	VSOCK_W_TIMER = 8,
	VSOCK_W_LISTEN,
	VSOCK_W_STREAM = 16
};

#define VSOCK_CID_HOST 2u

/* 5.10.6 */
struct vsock_hdr {
	uint64_t src_cid, dst_cid;
	uint32_t src_port, dst_port;
	uint32_t len;
	uint16_t type, op;
	uint32_t flags;
	uint32_t buf_alloc, fwd_cnt;
} __attribute__((packed));
_Static_assert(sizeof(struct vsock_hdr) == 44, "5.10.6");

#define VSOCK_TYPE_STREAM 1u

enum vsock_op {
	VSOCK_OP_INVALID,
	VSOCK_OP_REQUEST,
	VSOCK_OP_RESPONSE,
	VSOCK_OP_RST,
	VSOCK_OP_SHUTDOWN,
	VSOCK_OP_RW,
	VSOCK_OP_CREDIT_UPDATE,
	VSOCK_OP_CREDIT_REQUEST,
	VSOCK_NOPS_
};

#define VSOCK_SHUT_RCV  1u /* I will receive no more */
#define VSOCK_SHUT_SEND 2u /* I will send no more */
#define VSOCK_SHUT_BOTH 3u

/* What the guest may send before it hears of our reading on: for streams that
 * end in this process (read at once, nothing is kept), and for sockets (kept
 * until the client reads). */
#define VSOCK_ALLOC_OWN  (1 * MIB)
#define VSOCK_ALLOC_UNIX (64 * KIB)

/* Largest packet to the guest; what Linux uses both ways. */
#define VSOCK_MAX_PACKET (64 * KIB)

/* Answers to packets that belong to no stream; when they are all waiting, the
 * guest's transmit queue waits too. */
#define VSOCK_MAX_REPLIES 64u

#define VSOCK_NS_PER_S       1000000000ULL
#define VSOCK_LINE_TIMEOUT   (5 * VSOCK_NS_PER_S)  /* CONNECT line */
#define VSOCK_OPEN_TIMEOUT   (10 * VSOCK_NS_PER_S) /* REQUEST, dial */
#define VSOCK_LINGER_TIMEOUT (8 * VSOCK_NS_PER_S)  /* both sides shut */
#define VSOCK_ACCEPT_PAUSE   (VSOCK_NS_PER_S / 10) /* out of descriptors */

#define VSOCK_LINE_MAX 32u /* "CONNECT 4294967295\n" is 19 */
#define VSOCK_HASH     64u
#define VSOCK_NO_SLOT  UINT16_MAX

enum vsock_stream_state {
	VS_LINE,    /* socket: the CONNECT line is not complete */
	VS_CONNECT, /* REQUEST is on its way or waits for the guest's answer */
	VS_DIAL,    /* the guest's REQUEST waits for vsock_accept() */
	VS_OPEN,
	VS_DEAD, /* nothing behind it; RST may still have to go out */
};

/* Packets without data that this stream owes to the guest. */
#define VS_OWE_REQUEST  (1u << VSOCK_OP_REQUEST)
#define VS_OWE_RESPONSE (1u << VSOCK_OP_RESPONSE)
#define VS_OWE_RST      (1u << VSOCK_OP_RST)
#define VS_OWE_SHUTDOWN (1u << VSOCK_OP_SHUTDOWN)
#define VS_OWE_UPDATE   (1u << VSOCK_OP_CREDIT_UPDATE)
#define VS_OWE_ASK      (1u << VSOCK_OP_CREDIT_REQUEST)

struct vsock_stream {
	struct vsock *v;
	uint16_t slot;
	uint16_t hash_next; /* slot */
	enum vsock_stream_state state;
	uint32_t host_port, guest_port;
	uint32_t owed; /* VS_OWE_* */
	bool hashed;   /* the ports are known */
	bool queued;   /* on the list of those with something to send */
	bool to_free;  /* at the end of the pass */
	bool lost;     /* vsock_stream_drop_all() will end it */
	struct vsock_stream *next; /* that list */
	uint64_t deadline;         /* now_ns() scale; 0: none */
	uint64_t cookie;           /* VS_DIAL */

	/* Credit (5.10.6.3), byte counts modulo 2^32. */
	uint32_t peer_alloc, peer_fwd; /* as the guest said last */
	uint32_t sent;                 /* to the guest */
	uint32_t got;                  /* from the guest */
	uint32_t fwd;                  /* of those, passed on */
	uint32_t told;                 /* fwd as the guest knows it */
	uint32_t alloc;
	bool asked; /* CREDIT_REQUEST sent, no news since */

	uint8_t peer_shut; /* VSOCK_SHUT_* the guest sent */
	uint8_t our_shut;  /* VSOCK_SHUT_* that we owe or sent */

	/* streams of this process */
	const struct vsock_stream_ops *ops; /* NULL: a socket */
	void *arg;
	struct buf out; /* to the guest */

	/* sockets */
	int fd;        /* owned, -1 */
	bool can_read; /* edge-triggered: until EAGAIN */
	bool hup;      /* the client is gone altogether */
	struct buf in; /* from the guest, not yet taken by the client */
};

/* An RST for a packet that belongs to no stream: its header turned round. */
struct vsock_reply {
	uint64_t src_cid, dst_cid;
	uint32_t src_port, dst_port;
	uint16_t type;
};

/* Saved; guarded by vd.lock where vCPU threads look. */
struct vsock_state {
	struct virtio_state virtio;
	uint32_t guest_cid;
	uint32_t reset_owed; /* TRANSPORT_RESET is not in the event queue yet */
	uint64_t next_port;  /* host-side ports: not used twice, not even after
				a restore, when the guest may still remember */
};

extern const struct st_desc vsock_state_desc;

struct vsock {
	struct virtio_dev vd; /* first */
	struct vsock_state s;
	bool was_reset; /* under vd.lock; see above */

	bool quiet;         /* being saved: rings are left alone */
	bool tx_blocked;    /* replies were full */
	bool ack_awaited;   /* the driver has not returned the event's buffer */
	uint16_t ack_after; /* what virtq_watch_avail() said before */
	bool must_drop;     /* the device broke: streams end at the next pass */
	unsigned depth;     /* of passes */
	uint32_t used;      /* queues to notify at the end of the pass */
	bool timer_stale;

	struct vsock_stream *slot[VSOCK_MAX_STREAMS]; /* owned */
	uint16_t hash[VSOCK_HASH];
	unsigned nstreams;
	unsigned slot_hint;
	uint64_t next_cookie;
	struct vsock_stream *send_head, *send_tail;
	bool some_to_free;

	struct vsock_reply *reply; /* owned, made when first needed */
	unsigned reply_head, nreplies;

	int listen_fd; /* owned, -1 */
	bool listen_paused;
	uint64_t listen_again; /* when paused */
	int timer_fd;          /* owned, made when first needed, -1 */
	vsock_dial_fn *dial;
	void *dial_arg;
	struct vsock_stats stats;
};

/* ---- vsock.c ---- */
uint32_t vsock_new_port(struct vsock *v);

/* ---- vsock_queue.c ---- */
void vsock_begin(struct vsock *v);
void vsock_end(struct vsock *v);
/* Streams end with the driver that knew them. Only in passes that come from
 * the loop: closed() may not be called from inside vsock_send(). */
void vsock_drop_lost(struct vsock *v);
/* Both directions, all queues. */
void vsock_full_pass(struct vsock *v);

/* From a packet of the guest: n bytes, or 0 when the driver has reset the
 * device meanwhile. */
size_t vsock_tx_read(struct vsock *v, const struct virtq_chain *c, size_t off,
	void *p, size_t n);

/* ---- vsock_stream.c ---- */
/* NULL when the table is full or memory is. */
struct vsock_stream *vsock_stream_new(
	struct vsock *v, enum vsock_stream_state state);
/* The ports are known: make it findable. */
void vsock_stream_ports(
	struct vsock_stream *s, uint32_t host_port, uint32_t guest_port);
struct vsock_stream *vsock_stream_find(
	const struct vsock *v, uint32_t host_port, uint32_t guest_port);
/* Put on the send list when it has something to send. */
void vsock_stream_poke(struct vsock_stream *s);
/* End: tell the guest (rst) unless it knows or never heard of it, and whoever
 * is behind it. */
void vsock_stream_kill(struct vsock_stream *s, int err, bool rst);
void vsock_stream_drop_all(struct vsock *v, bool keep_unsent);
void vsock_stream_free_dead(struct vsock *v);
void vsock_stream_free(struct vsock_stream *s);
/* How much the guest lets us send now. */
uint32_t vsock_stream_credit(const struct vsock_stream *s);
/* Bytes from the guest were passed on. */
void vsock_stream_forwarded(struct vsock_stream *s, uint32_t n);
/* Tell the guest that we stop sending and/or receiving. */
void vsock_stream_shut(struct vsock_stream *s, uint8_t flags);
/* One packet of this stream into the guest's buffers: its length, or 0 when it
 * has nothing to send after all. */
uint32_t vsock_stream_fill(struct vsock_stream *s, struct virtq_chain *c);

/* ---- vsock_packet.c ---- */
/* A packet from the guest, header already copied; data still in c. Not while
 * vsock_reply_full(). */
void vsock_stream_packet(struct vsock *v, const struct vsock_hdr *h,
	const struct virtq_chain *c);
bool vsock_reply_full(const struct vsock *v);

/* ---- vsock_unix.c ---- */
void vsock_unix_event(struct vsock_stream *s, uint32_t events);
void vsock_unix_accept(struct vsock *v);
void vsock_unix_timer(struct vsock *v);
/* Arm the timer for the earliest deadline. */
void vsock_unix_arm(struct vsock *v);
void vsock_set_deadline(struct vsock_stream *s, uint64_t after_ns);
/* The guest accepted: "OK port". */
void vsock_unix_opened(struct vsock_stream *s);
/* From the client straight into guest buffers, at most max bytes: bytes read,
 * or 0 when there are none now. */
uint32_t vsock_unix_read(
	struct vsock_stream *s, struct virtq_chain *c, uint32_t max);
/* Bytes from the guest to the client; what it does not take now is kept. */
void vsock_unix_write(struct vsock_stream *s, const void *p, size_t n);
/* The guest's shutdown flags changed. */
void vsock_unix_shut(struct vsock_stream *s);
void vsock_unix_close(struct vsock_stream *s);

#endif
