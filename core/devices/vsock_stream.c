/*
 * Streams: the table, what they send to the guest, credit, their end (virtio
 * 1.2 sections 5.10.6.3 to 5.10.6.6). What the guest sends to them:
 * vsock_packet.c.
 *
 * How it works. A stream that has something for the guest stands on the send
 * list (once); each turn puts one packet into one receive buffer, so streams
 * share the queue evenly. What is owed besides data is a set of flags, so a
 * guest that provokes answers without taking them makes nothing grow.
 */
#include "core/devices/vsock_dev.h"

#include <errno.h>

/* ---- table ---- */

static unsigned hash(uint32_t host_port, uint32_t guest_port)
{
	uint32_t h = host_port * 0x9e3779b1u ^ guest_port * 0x85ebca6bu;

	return (h >> 16 ^ h) % VSOCK_HASH;
}

struct vsock_stream *vsock_stream_find(
	const struct vsock *v, uint32_t host_port, uint32_t guest_port)
{
	uint16_t i = v->hash[hash(host_port, guest_port)];

	for (; i != VSOCK_NO_SLOT; i = v->slot[i]->hash_next) {
		struct vsock_stream *s = v->slot[i];

		if (s->host_port == host_port && s->guest_port == guest_port)
			return s;
	}
	return NULL;
}

static int free_slot(const struct vsock *v)
{
	for (unsigned n = 0; n < VSOCK_MAX_STREAMS; n++) {
		unsigned i = (v->slot_hint + n) % VSOCK_MAX_STREAMS;

		if (!v->slot[i])
			return (int)i;
	}
	return -1;
}

struct vsock_stream *vsock_stream_new(
	struct vsock *v, enum vsock_stream_state state)
{
	int i = free_slot(v);
	struct vsock_stream *s = i < 0 ? NULL : calloc(1, sizeof(*s));

	if (!s) {
		v->stats.refused++;
		return NULL;
	}
	s->v = v;
	s->slot = (uint16_t)i;
	s->state = state;
	s->fd = -1;
	s->alloc = VSOCK_ALLOC_UNIX;
	v->slot[i] = s;
	v->slot_hint = (unsigned)i + 1;
	v->nstreams++;
	v->stats.streams++;
	return s;
}

void vsock_stream_ports(
	struct vsock_stream *s, uint32_t host_port, uint32_t guest_port)
{
	uint16_t *head = &s->v->hash[hash(host_port, guest_port)];

	s->host_port = host_port;
	s->guest_port = guest_port;
	s->hash_next = *head;
	s->hashed = true;
	*head = s->slot;
}

static void unhash(struct vsock_stream *s)
{
	struct vsock *v = s->v;
	uint16_t *p = &v->hash[hash(s->host_port, s->guest_port)];

	if (!s->hashed)
		return;
	while (*p != s->slot)
		p = &v->slot[*p]->hash_next;
	*p = s->hash_next;
	s->hashed = false;
}

void vsock_stream_free(struct vsock_stream *s)
{
	struct vsock *v = s->v;

	unhash(s);
	v->slot[s->slot] = NULL;
	v->nstreams--;
	buf_free(&s->out);
	buf_free(&s->in);
	free(s);
}

void vsock_stream_free_dead(struct vsock *v)
{
	struct vsock_stream *s = v->send_head, *next;

	if (!v->some_to_free)
		return;
	v->some_to_free = false;
	v->send_head = v->send_tail = NULL;
	for (; s; s = next) {
		next = s->next;
		s->queued = false;
		if (!s->to_free)
			vsock_stream_poke(s);
	}
	for (unsigned i = 0; i < VSOCK_MAX_STREAMS; i++) {
		if (v->slot[i] && v->slot[i]->to_free)
			vsock_stream_free(v->slot[i]);
	}
}

/* ---- what there is to send ---- */

uint32_t vsock_stream_credit(const struct vsock_stream *s)
{
	uint32_t in_flight = s->sent - s->peer_fwd;

	/* The guest may take back what it granted. */
	return in_flight < s->peer_alloc ? s->peer_alloc - in_flight : 0;
}

static bool has_data(const struct vsock_stream *s)
{
	if (s->state != VS_OPEN || s->peer_shut & VSOCK_SHUT_RCV ||
		s->our_shut & VSOCK_SHUT_SEND)
		return false;
	return s->ops ? s->out.len != 0 : s->can_read;
}

void vsock_stream_poke(struct vsock_stream *s)
{
	struct vsock *v = s->v;
	bool data = has_data(s);

	if (data && !vsock_stream_credit(s) && !s->asked) {
		/* Once: the guest tells by itself when it has read on. */
		s->asked = true;
		s->owed |= VS_OWE_ASK;
	}
	if (s->queued || s->to_free)
		return;
	if (!s->owed && !(data && vsock_stream_credit(s)))
		return;
	s->queued = true;
	s->next = NULL;
	if (v->send_head)
		v->send_tail->next = s;
	else
		v->send_head = s;
	v->send_tail = s;
}

static uint32_t put_packet(struct vsock_stream *s, struct virtq_chain *c,
	enum vsock_op op, uint32_t len, uint32_t flags)
{
	const struct vsock_hdr h = {
		.src_cid = VSOCK_CID_HOST,
		.dst_cid = s->v->s.guest_cid,
		.src_port = s->host_port,
		.dst_port = s->guest_port,
		.len = len,
		.type = VSOCK_TYPE_STREAM,
		.op = (uint16_t)op,
		.flags = flags,
		.buf_alloc = s->alloc,
		.fwd_cnt = s->fwd,
	};

	s->told = s->fwd;
	s->owed &= ~(1u << op | VS_OWE_UPDATE);
	return (uint32_t)virtq_chain_write(c, 0, &h, sizeof(h)) + len;
}

static uint32_t put_data(struct vsock_stream *s, struct virtq_chain *c)
{
	uint32_t max = c->write_len - (uint32_t)sizeof(struct vsock_hdr);
	uint32_t n = vsock_stream_credit(s);

	if (max > VSOCK_MAX_PACKET)
		max = VSOCK_MAX_PACKET;
	if (n > max)
		n = max;
	if (!n)
		return 0;
	if (s->ops) {
		n = (uint32_t)min_u64(n, s->out.len);
		n = (uint32_t)virtq_chain_write(
			c, sizeof(struct vsock_hdr), buf_data(&s->out), n);
		buf_consume(&s->out, n);
	} else {
		n = vsock_unix_read(s, c, n);
		if (!n)
			return 0;
	}
	s->sent += n;
	s->v->stats.rx_bytes += n;
	return put_packet(s, c, VSOCK_OP_RW, n, 0);
}

uint32_t vsock_stream_fill(struct vsock_stream *s, struct virtq_chain *c)
{
	uint32_t n;

	if (s->owed & VS_OWE_RST) {
		s->owed = 0;
		s->to_free = true;
		s->v->some_to_free = true;
		return put_packet(s, c, VSOCK_OP_RST, 0, 0);
	}
	if (s->owed & VS_OWE_REQUEST)
		return put_packet(s, c, VSOCK_OP_REQUEST, 0, 0);
	if (s->owed & VS_OWE_RESPONSE)
		return put_packet(s, c, VSOCK_OP_RESPONSE, 0, 0);
	if (has_data(s)) {
		n = put_data(s, c);
		if (n)
			return n;
	}
	/* After put_data(): reading may have found the end. */
	if (s->owed & VS_OWE_SHUTDOWN)
		return put_packet(s, c, VSOCK_OP_SHUTDOWN, 0, s->our_shut);
	if (s->owed & VS_OWE_ASK)
		return put_packet(s, c, VSOCK_OP_CREDIT_REQUEST, 0, 0);
	if (s->owed & VS_OWE_UPDATE)
		return put_packet(s, c, VSOCK_OP_CREDIT_UPDATE, 0, 0);
	return 0;
}

void vsock_stream_forwarded(struct vsock_stream *s, uint32_t n)
{
	s->fwd += n;
	/* Rarely enough to be cheap, early enough not to stall the guest. */
	if (s->fwd - s->told >= s->alloc / 4) {
		s->owed |= VS_OWE_UPDATE;
		vsock_stream_poke(s);
	}
}

void vsock_stream_shut(struct vsock_stream *s, uint8_t flags)
{
	if (s->state != VS_OPEN || (s->our_shut & flags) == flags)
		return;
	s->our_shut |= flags;
	s->owed |= VS_OWE_SHUTDOWN;
	if (s->our_shut == VSOCK_SHUT_BOTH)
		vsock_set_deadline(s, VSOCK_LINGER_TIMEOUT);
	vsock_stream_poke(s);
}

/* ---- the end of a stream ---- */

void vsock_stream_kill(struct vsock_stream *s, int err, bool rst)
{
	const struct vsock_stream_ops *ops = s->ops;
	bool known = s->state != VS_LINE && !(s->owed & VS_OWE_REQUEST);

	if (s->state == VS_DEAD)
		return;
	if (s->state == VS_CONNECT)
		s->v->stats.refused++;
	s->state = VS_DEAD;
	s->ops = NULL;
	s->deadline = 0;
	s->owed = rst && known ? VS_OWE_RST : 0;
	buf_free(&s->out);
	buf_free(&s->in);
	vsock_unix_close(s);
	if (!s->owed) {
		s->to_free = true;
		s->v->some_to_free = true;
	}
	vsock_stream_poke(s);
	if (ops)
		ops->closed(s->arg, err);
}

static void drop(struct vsock_stream *s)
{
	vsock_stream_kill(s, -ECONNRESET, false);
	s->owed = 0; /* one that was dead already may owe its RST */
	s->to_free = true;
	s->v->some_to_free = true;
}

void vsock_stream_drop_all(struct vsock *v, bool keep_unsent)
{
	v->nreplies = 0;
	v->reply_head = 0;
	/* First all, then each: callbacks may connect anew. */
	for (unsigned i = 0; i < VSOCK_MAX_STREAMS; i++) {
		struct vsock_stream *s = v->slot[i];

		/* What the guest never heard of, the next driver will. */
		if (s)
			s->lost = !keep_unsent ||
				  !(s->state == VS_LINE ||
					  s->owed & VS_OWE_REQUEST);
	}
	for (unsigned i = 0; i < VSOCK_MAX_STREAMS; i++) {
		if (v->slot[i] && v->slot[i]->lost)
			drop(v->slot[i]);
	}
}

/* ---- core/vsock.h ---- */

struct vsock_stream *vsock_connect(struct vsock *v, uint32_t port,
	const struct vsock_stream_ops *ops, void *arg)
{
	struct vsock_stream *s = vsock_stream_new(v, VS_CONNECT);

	if (!s) {
		errno = ENOBUFS;
		return NULL;
	}
	vsock_begin(v);
	s->ops = ops;
	s->arg = arg;
	s->alloc = VSOCK_ALLOC_OWN;
	s->owed = VS_OWE_REQUEST;
	vsock_stream_ports(s, vsock_new_port(v), port);
	vsock_stream_poke(s);
	vsock_end(v);
	return s;
}

int vsock_send(struct vsock_stream *s, const void *p, size_t n)
{
	struct vsock *v = s->v;
	int r;

	if (n > VSOCK_MAX_QUEUED - s->out.len)
		return -ENOBUFS;
	r = buf_append(&s->out, p, n);
	if (r)
		return r;
	vsock_begin(v);
	vsock_stream_poke(s);
	vsock_end(v);
	return 0;
}

int vsock_send_buf(struct vsock_stream *s, struct buf *b)
{
	struct vsock *v = s->v;
	int r;

	if (s->out.len || b->len > VSOCK_MAX_QUEUED) {
		r = vsock_send(s, buf_data(b), b->len);
		if (!r)
			buf_free(b);
		return r;
	}
	buf_free(&s->out);
	s->out = *b;
	*b = (struct buf){0};
	vsock_begin(v);
	vsock_stream_poke(s);
	vsock_end(v);
	return 0;
}

void vsock_close(struct vsock_stream *s)
{
	struct vsock *v = s->v;

	s->ops = NULL;
	vsock_begin(v);
	vsock_stream_kill(s, 0, true);
	vsock_end(v);
}
