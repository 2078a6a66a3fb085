/*
 * The queues of the vsock device and the passes over them (vsock_dev.h says
 * what a pass is).
 */
#include "core/devices/vsock_dev.h"

/* Chains per pass and direction; more waits for the next turn of the loop, so
 * that a guest that never stops cannot keep the loop from other work. */
#define PASS_BUDGET (2u * VIRTQ_MAX_SIZE)

#define EVENT_TRANSPORT_RESET 0u /* 5.10.6.7 */

/*
 * ---- rings: all with the lock held, none after a reset ----
 *
 * What is written into a chain, is so in the same hold of the lock in which it
 * was taken: when the driver's reset returns, the buffers are its own again.
 * Nothing waits meanwhile, sockets do not block.
 */

static void broken(struct vsock *v, const char *why)
{
	if (!v->was_reset)
		virtio_broken(&v->vd, why);
	v->must_drop = true;
}

static bool ring_pop(struct vsock *v, uint32_t q, struct virtq_chain *c)
{
	int r = 0;

	if (!v->was_reset && !v->quiet)
		r = virtq_pop(&v->vd, q, c);
	if (r < 0)
		broken(v, "malformed ring");
	return r > 0;
}

static void ring_push(struct vsock *v, uint32_t q, uint16_t head, uint32_t len)
{
	v->used |= 1u << q;
	if (!v->was_reset && virtq_push(&v->vd, q, head, len))
		broken(v, "used ring outside guest memory");
}

/* ---- guest to host ---- */

static bool tx_pop(struct vsock *v, struct virtq_chain *c, struct vsock_hdr *h)
{
	bool ok;

	pthread_mutex_lock(&v->vd.lock);
	ok = ring_pop(v, VSOCK_Q_TX, c);
	if (ok && (virtq_chain_read(c, 0, h, sizeof(*h)) < sizeof(*h) ||
			  h->len > c->read_len - sizeof(*h))) {
		broken(v, "packet shorter than its header says");
		ok = false;
	}
	pthread_mutex_unlock(&v->vd.lock);
	return ok;
}

static void tx_push(struct vsock *v, uint16_t head)
{
	pthread_mutex_lock(&v->vd.lock);
	ring_push(v, VSOCK_Q_TX, head, 0);
	pthread_mutex_unlock(&v->vd.lock);
}

size_t vsock_tx_read(struct vsock *v, const struct virtq_chain *c, size_t off,
	void *p, size_t n)
{
	pthread_mutex_lock(&v->vd.lock);
	n = v->was_reset ? 0 : virtq_chain_read(c, off, p, n);
	pthread_mutex_unlock(&v->vd.lock);
	return n;
}

static void drain_tx(struct vsock *v)
{
	struct virtq_chain c;
	struct vsock_hdr h;

	for (unsigned n = 0; n < PASS_BUDGET; n++) {
		v->tx_blocked = vsock_reply_full(v);
		if (v->tx_blocked || !tx_pop(v, &c, &h))
			return;
		vsock_stream_packet(v, &h, &c);
		tx_push(v, c.head);
	}
	virtio_rerun(&v->vd, VSOCK_Q_TX);
}

/* ---- host to guest ---- */

/* The built-in guest looks at events first, in one thread: no need to wait for
 * another round. */
static void await_ack(struct vsock *v)
{
	if (v->vd.dev.m->cfg.builtin)
		return;
	v->ack_after = virtq_watch_avail(&v->vd, VSOCK_Q_EVENT);
	v->ack_awaited = true;
}

static bool send_event(struct vsock *v)
{
	const uint32_t event = EVENT_TRANSPORT_RESET;
	struct virtq_chain c;

	if (!v->s.reset_owed)
		return true;
	if (!v->s.virtio.vq[VSOCK_Q_EVENT].ready) {
		/* A driver without that queue: nobody to tell. */
		v->s.reset_owed = 0;
		return true;
	}
	if (!ring_pop(v, VSOCK_Q_EVENT, &c))
		return false;
	if (virtq_chain_write(&c, 0, &event, sizeof(event)) < sizeof(event)) {
		broken(v, "event buffer too small");
		return false;
	}
	await_ack(v);
	ring_push(v, VSOCK_Q_EVENT, c.head, sizeof(event));
	v->s.reset_owed = 0;
	return true;
}

/* Is the guest told of a restore? Nothing else reaches it before. */
static bool event_sent(struct vsock *v)
{
	bool sent;

	pthread_mutex_lock(&v->vd.lock);
	sent = send_event(v);
	pthread_mutex_unlock(&v->vd.lock);
	return sent;
}

/* Has the guest dealt with the event? Linux's driver handles events and packets
 * at the same time, and one that came first would be reset with the streams of
 * before. It gives the buffer back when it is done. */
static bool acknowledged(struct vsock *v)
{
	if (!v->ack_awaited)
		return true;
	pthread_mutex_lock(&v->vd.lock);
	v->ack_awaited =
		!v->was_reset &&
		virtq_watch_avail(&v->vd, VSOCK_Q_EVENT) == v->ack_after;
	pthread_mutex_unlock(&v->vd.lock);
	return !v->ack_awaited;
}

static uint32_t fill_reply(struct vsock *v, struct virtq_chain *c)
{
	const struct vsock_reply *r = &v->reply[v->reply_head];
	const struct vsock_hdr h = {
		.src_cid = r->src_cid,
		.dst_cid = r->dst_cid,
		.src_port = r->src_port,
		.dst_port = r->dst_port,
		.type = r->type,
		.op = VSOCK_OP_RST,
	};

	v->reply_head = (v->reply_head + 1) % VSOCK_MAX_REPLIES;
	v->nreplies--;
	return (uint32_t)virtq_chain_write(c, 0, &h, sizeof(h));
}

/* The next packet for the guest: replies first, then streams in turn. */
static uint32_t next_packet(struct vsock *v, struct virtq_chain *c)
{
	if (v->nreplies)
		return fill_reply(v, c);
	while (v->send_head) {
		struct vsock_stream *s = v->send_head;
		uint32_t n;

		v->send_head = s->next;
		s->queued = false;
		n = vsock_stream_fill(s, c);
		vsock_stream_poke(s);
		if (n)
			return n;
	}
	return 0;
}

/* One packet into one chain; false: no packet, or no chain. */
static bool fill_one(struct vsock *v)
{
	struct virtq_chain c;
	uint32_t len;

	if ((!v->nreplies && !v->send_head) || !ring_pop(v, VSOCK_Q_RX, &c))
		return false;
	if (c.write_len <= sizeof(struct vsock_hdr)) {
		broken(v, "receive buffer too small");
		return false;
	}
	len = next_packet(v, &c);
	if (len)
		ring_push(v, VSOCK_Q_RX, c.head, len);
	else
		virtq_unpop(&v->vd, VSOCK_Q_RX);
	return len;
}

static void fill_rx(struct vsock *v)
{
	bool more = true;

	for (unsigned n = 0; more && n < PASS_BUDGET; n++) {
		pthread_mutex_lock(&v->vd.lock);
		more = fill_one(v);
		pthread_mutex_unlock(&v->vd.lock);
	}
	if (more)
		virtio_rerun(&v->vd, VSOCK_Q_RX);
}

/* ---- passes ---- */

void vsock_begin(struct vsock *v)
{
	v->depth++;
}

void vsock_end(struct vsock *v)
{
	uint32_t used;

	if (v->depth > 1) {
		v->depth--;
		return;
	}
	if (event_sent(v) && acknowledged(v))
		fill_rx(v);
	vsock_stream_free_dead(v);
	vsock_unix_arm(v);
	if (v->tx_blocked && !vsock_reply_full(v))
		virtio_rerun(&v->vd, VSOCK_Q_TX);
	if (v->must_drop)
		virtio_rerun(&v->vd, VSOCK_Q_RX);
	used = v->used;
	v->used = 0;
	v->depth = 0;
	virtio_notify_used(&v->vd, used);
}

void vsock_drop_lost(struct vsock *v)
{
	bool lost;

	pthread_mutex_lock(&v->vd.lock);
	lost = v->was_reset || v->must_drop;
	v->was_reset = false;
	pthread_mutex_unlock(&v->vd.lock);
	v->must_drop = false;
	if (lost)
		vsock_stream_drop_all(v, true);
}

void vsock_full_pass(struct vsock *v)
{
	vsock_begin(v);
	vsock_drop_lost(v);
	drain_tx(v);
	vsock_end(v);
}
