/*
 * Packets from the guest. One that breaks the rules of a stream ends that
 * stream (RST); one that belongs to no stream gets an RST of its own, of which
 * VSOCK_MAX_REPLIES can wait before the guest's transmit queue has to.
 */
#include "core/devices/vsock_dev.h"

#include <errno.h>

/* Data is handed on in pieces of this size, copied first: the guest may change
 * its buffer at any time. Small ones need no allocation. */
#define PIECE       (16 * KIB)
#define SMALL_PIECE 1024u

bool vsock_reply_full(const struct vsock *v)
{
	return v->nreplies == VSOCK_MAX_REPLIES;
}

/* drain_tx() looks for room before it takes a packet. */
static void reply_rst(struct vsock *v, const struct vsock_hdr *h)
{
	if (h->op == VSOCK_OP_RST || vsock_reply_full(v))
		return;
	if (!v->reply)
		v->reply = calloc(VSOCK_MAX_REPLIES, sizeof(*v->reply));
	if (!v->reply)
		return;
	v->reply[(v->reply_head + v->nreplies++) % VSOCK_MAX_REPLIES] =
		(struct vsock_reply){
			.src_cid = h->dst_cid,
			.dst_cid = h->src_cid,
			.src_port = h->dst_port,
			.dst_port = h->src_port,
			.type = h->type,
		};
}

/* Every packet carries the guest's side of the credit. False: it claims to
 * have read more than it was sent. */
static bool take_credit(struct vsock_stream *s, const struct vsock_hdr *h)
{
	uint32_t more = h->fwd_cnt - s->peer_fwd;

	if (more > s->sent - s->peer_fwd)
		return false;
	s->peer_fwd = h->fwd_cnt;
	s->peer_alloc = h->buf_alloc;
	if (vsock_stream_credit(s))
		s->asked = false;
	vsock_stream_poke(s);
	return true;
}

static void on_request(struct vsock *v, const struct vsock_hdr *h)
{
	struct vsock_stream *s = v->dial ? vsock_stream_new(v, VS_DIAL) : NULL;

	if (!s) {
		reply_rst(v, h);
		return;
	}
	vsock_stream_ports(s, h->dst_port, h->src_port);
	s->peer_alloc = h->buf_alloc;
	s->cookie = ++v->next_cookie;
	vsock_set_deadline(s, VSOCK_OPEN_TIMEOUT);
	v->dial(v->dial_arg, h->dst_port, s->cookie);
}

static void on_response(struct vsock_stream *s)
{
	if (s->state != VS_CONNECT) {
		vsock_stream_kill(s, -ECONNRESET, true);
		return;
	}
	s->state = VS_OPEN;
	s->deadline = 0;
	vsock_stream_poke(s);
	if (!s->ops)
		vsock_unix_opened(s);
	else if (s->ops->opened)
		s->ops->opened(s->arg);
}

static void on_shutdown(struct vsock_stream *s, uint32_t flags)
{
	s->peer_shut |= (uint8_t)(flags & VSOCK_SHUT_BOTH);
	if (s->state != VS_OPEN)
		vsock_stream_kill(s, -ECONNRESET, true);
	else if (!s->ops)
		vsock_unix_shut(s);
	else if (s->peer_shut)
		vsock_stream_kill(s, 0, true);
}

static void hand_on(struct vsock_stream *s, const void *p, uint32_t n)
{
	if (!s->ops) {
		vsock_unix_write(s, p, n);
		return;
	}
	s->ops->data(s->arg, p, n);
	if (s->state == VS_OPEN)
		vsock_stream_forwarded(s, n);
}

static void on_data(struct vsock_stream *s, const struct vsock_hdr *h,
	const struct virtq_chain *c)
{
	size_t off = sizeof(*h), end = off + h->len;
	uint8_t small[SMALL_PIECE];
	AUTO_FREE uint8_t *big = NULL;
	uint8_t *p = small;
	size_t room = sizeof(small);

	if (s->state != VS_OPEN || s->peer_shut & VSOCK_SHUT_SEND ||
		h->len > s->alloc - (s->got - s->fwd)) {
		vsock_stream_kill(s, -ECONNRESET, true);
		return;
	}
	if (h->len > sizeof(small)) {
		big = malloc(PIECE);
		if (!big) {
			vsock_stream_kill(s, -ENOMEM, true);
			return;
		}
		p = big;
		room = PIECE;
	}
	s->got += h->len;
	s->v->stats.tx_bytes += h->len;
	while (off < end && s->state == VS_OPEN) {
		size_t n = min_u64(room, end - off);

		n = vsock_tx_read(s->v, c, off, p, n);
		if (!n)
			return; /* and the stream ends with its driver */
		hand_on(s, p, (uint32_t)n);
		off += n;
	}
}

static void on_packet(struct vsock_stream *s, const struct vsock_hdr *h,
	const struct virtq_chain *c)
{
	if (h->op == VSOCK_OP_RST) {
		vsock_stream_kill(s,
			s->state == VS_CONNECT ? -ECONNREFUSED : -ECONNRESET,
			false);
		return;
	}
	if (!take_credit(s, h)) {
		vsock_stream_kill(s, -ECONNRESET, true);
		return;
	}
	switch (h->op) {
	case VSOCK_OP_RESPONSE:
		on_response(s);
		break;
	case VSOCK_OP_SHUTDOWN:
		on_shutdown(s, h->flags);
		break;
	case VSOCK_OP_RW:
		on_data(s, h, c);
		break;
	case VSOCK_OP_CREDIT_UPDATE:
		break;
	case VSOCK_OP_CREDIT_REQUEST:
		s->owed |= VS_OWE_UPDATE;
		vsock_stream_poke(s);
		break;
	default:
		vsock_stream_kill(s, -ECONNRESET, true);
		break;
	}
}

void vsock_stream_packet(
	struct vsock *v, const struct vsock_hdr *h, const struct virtq_chain *c)
{
	/* Also after a change of CID the guest may still use its old one. */
	bool ours = h->type == VSOCK_TYPE_STREAM &&
		    h->dst_cid == VSOCK_CID_HOST &&
		    h->src_cid == v->s.guest_cid;
	struct vsock_stream *s = NULL;

	if (ours)
		s = vsock_stream_find(v, h->dst_port, h->src_port);
	if (s && s->state == VS_DEAD)
		return; /* its RST is on the way */
	if (s && !(s->owed & VS_OWE_REQUEST))
		on_packet(s, h, c);
	else if (!s && ours && h->op == VSOCK_OP_REQUEST)
		on_request(v, h);
	else
		reply_rst(v, h);
}
