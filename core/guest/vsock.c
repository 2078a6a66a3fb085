/* How it works: vsock.h and virtio.h */
#include "core/guest/vsock.h"

#include "core/guest/agent.h"
#include "core/guest/clock.h"
#include "core/guest/cpu.h"
#include "core/guest/virtio.h"

#define EVENT_TRANSPORT_RESET 0u /* 5.10.6.7 */

#define SMALL_MACHINE  (48u << 20)
#define FIRST_OUR_PORT 49152u
#define MAX_PACKET     65536u
/* How long a peer may leave us without credit. */
#define STALL_NS 10000000000ULL

#define HEAD_DATA (RX_HEAD_SIZE - VSOCK_HDR_SIZE)
#define SLOT_DATA (TX_SLOT_SIZE - VSOCK_HDR_SIZE)

/* global: the one vsock device */
static struct {
	uint8_t *buffers;   /* NSTREAMS of buf_size */
	uint32_t alloc;     /* credit per stream */
	uint32_t buf_size;  /* alloc and one packet more, see stream_untake() */
	uint32_t tail_size; /* of a receive buffer */
	uint32_t next_port;
	bool in_place; /* vsock_send() left something in place */
} vs HOT;

static void set_sizes(uint64_t machine)
{
	vs.alloc = machine < SMALL_MACHINE ? 32u << 10 : 256u << 10;
	vs.tail_size = machine < SMALL_MACHINE ? 8u << 10 : 32u << 10;
	vs.buf_size = vs.alloc + vs.tail_size + 4096;
}

COLD uint64_t vsock_memory(uint64_t machine)
{
	set_sizes(machine);
	return (uint64_t)vs.buf_size * NSTREAMS +
	       (uint64_t)vs.tail_size * RX_BUFS;
}

COLD const char *vsock_init(uint64_t addr, uint8_t *mem, uint64_t size)
{
	uint64_t tails = (uint64_t)vs.tail_size * RX_BUFS;

	if (size < tails + (uint64_t)vs.buf_size * NSTREAMS)
		return "no memory for stream buffers";
	vs.buffers = mem + tails;
	vs.next_port = FIRST_OUR_PORT;
	for (unsigned i = 0; i < NSTREAMS; i++)
		stream_table()[i].index = (uint16_t)i;
	return virtio_init(addr, mem, vs.tail_size);
}

/* ---- the table ---- */

static struct stream *find(const struct vsock_hdr *h)
{
	struct stream *s = stream_table();

	for (unsigned i = 0; i < NSTREAMS; i++, s++) {
		if (s->state != STREAM_FREE && s->state != STREAM_DEAD &&
			s->peer_port == h->src_port &&
			s->our_port == h->dst_port && s->peer_cid == h->src_cid)
			return s;
	}
	return NULL;
}

static struct stream *new_stream(enum stream_state state)
{
	struct stream *s = stream_table();

	for (unsigned i = 0; i < NSTREAMS; i++, s++) {
		if (s->state != STREAM_FREE)
			continue;
		memset(s, 0, sizeof(*s));
		s->index = (uint16_t)i;
		s->state = (uint8_t)state;
		return s;
	}
	return NULL;
}

static void free_if_over(struct stream *s)
{
	if (s->state == STREAM_DEAD && !s->owed && !s->pinned)
		s->state = STREAM_FREE;
}

static void end_stream(struct stream *s, uint8_t owed)
{
	s->state = STREAM_DEAD;
	s->owed = owed;
	s->len = 0;
	agent_stream_over(s);
	free_if_over(s);
}

void stream_reset(struct stream *s)
{
	if (s->state != STREAM_DEAD)
		end_stream(s, 1u << OP_RST);
}

void stream_shutdown(struct stream *s, uint8_t how)
{
	if (s->state != STREAM_OPEN)
		return;
	s->shut |= how;
	s->owed |= 1u << OP_SHUTDOWN;
	if (s->shut == (SHUT_RCV | SHUT_SEND))
		s->state = STREAM_CLOSING;
}

void stream_hold(struct stream *s)
{
	s->pinned = 1;
}

void stream_let_go(struct stream *s)
{
	s->pinned = 0;
	free_if_over(s);
}

/* ---- out ---- */

static void head_for(struct stream *s, struct vsock_hdr *h, enum vsock_op op)
{
	*h = (struct vsock_hdr){
		.src_cid = s->our_cid,
		.dst_cid = s->peer_cid,
		.src_port = s->our_port,
		.dst_port = s->peer_port,
		.type = VSOCK_TYPE_STREAM,
		.op = (uint16_t)op,
		.flags = op == OP_SHUTDOWN ? s->shut : 0,
		.buf_alloc = vs.alloc,
		.fwd_cnt = s->fwd,
	};
	s->told = s->fwd;
	/* Every packet is a credit update. */
	s->owed &= (uint8_t) ~(1u << op | 1u << OP_CREDIT_UPDATE);
}

/* REQUEST and RESPONSE before anything else, RST last: in order of number. */
static bool send_owed_of(struct stream *s)
{
	for (unsigned op = OP_REQUEST; op <= OP_CREDIT_REQUEST; op++) {
		uint8_t *slot;

		if (!(s->owed & 1u << op))
			continue;
		slot = tx_slot();
		if (!slot)
			return false;
		head_for(
			s, (struct vsock_hdr *)(void *)slot, (enum vsock_op)op);
		tx_push(slot, VSOCK_HDR_SIZE, NULL, 0);
	}
	free_if_over(s);
	return true;
}

static void send_owed(void)
{
	struct stream *s = stream_table();

	for (unsigned i = 0; i < NSTREAMS; i++, s++) {
		if (s->owed && !send_owed_of(s))
			return;
	}
}

bool vsock_send_raw(const struct vsock_hdr *h, const void *p, uint32_t n)
{
	uint8_t *slot = tx_slot();

	if (!slot)
		return false;
	memcpy(slot, h, sizeof(*h));
	tx_push(slot, VSOCK_HDR_SIZE, p, n);
	return true;
}

static uint32_t credit(const struct stream *s)
{
	uint32_t used = s->sent - s->peer_fwd;

	return used < s->peer_alloc ? s->peer_alloc - used : 0;
}

static bool may_send(const struct stream *s)
{
	return s->state == STREAM_OPEN && !(s->shut & SHUT_SEND) &&
	       !(s->peer_shut & SHUT_RCV);
}

/* A slot and credit for this stream, or NULL when it is over. */
static uint8_t *wait_to_send(struct stream *s)
{
	uint64_t since = 0;
	uint8_t *slot;

	while (may_send(s)) {
		if (!(s->owed & 1u << OP_RESPONSE) && credit(s)) {
			slot = tx_slot();
			if (slot)
				return slot;
		}
		if (!since) {
			since = clock_ns();
			if (!credit(s))
				s->owed |= 1u << OP_CREDIT_REQUEST;
		} else if (clock_ns() - since > STALL_NS) {
			stream_reset(s);
			return NULL;
		}
		send_owed();
		vsock_sleep(1000000);
	}
	return NULL;
}

static uint32_t min32(uint32_t a, uint32_t b)
{
	return a < b ? a : b;
}

bool vsock_is_small(uint32_t len)
{
	return len <= SLOT_DATA;
}

bool vsock_send(struct stream *s, const void *a, uint32_t alen, const void *b,
	uint32_t blen)
{
	static const uint8_t none[1];
	const uint8_t *pa = a ? a : none, *pb = b ? b : none;

	send_owed_of(s);
	while (alen + blen) {
		uint8_t *slot = wait_to_send(s);
		uint32_t room, n, m;

		if (!slot)
			return false;
		room = min32(credit(s), MAX_PACKET);
		n = min32(min32(alen, SLOT_DATA), room);
		memcpy(slot + VSOCK_HDR_SIZE, pa, n);
		pa += n;
		alen -= n;
		room -= n;
		m = alen ? 0 : min32(blen, room);
		if (m && m == blen && n + m <= SLOT_DATA) {
			memcpy(slot + VSOCK_HDR_SIZE + n, pb, m);
			n += m;
			blen = m = 0;
		}
		head_for(s, (struct vsock_hdr *)(void *)slot, OP_RW);
		((struct vsock_hdr *)(void *)slot)->len = n + m;
		tx_push(slot, VSOCK_HDR_SIZE + n, pb, m);
		vs.in_place |= m > 0;
		s->sent += n + m;
		pb += m;
		blen -= m;
	}
	return true;
}

void vsock_drain(void)
{
	while (vs.in_place) {
		vs.in_place = !tx_idle();
		if (vs.in_place)
			vsock_sleep(1000000);
	}
}

void vsock_flush(void)
{
	if (tx_unseen())
		virtio_wait(0);
}

/* ---- in ---- */

static uint8_t *buffer_of(const struct stream *s)
{
	return vs.buffers + (uint64_t)s->index * vs.buf_size;
}

uint8_t *stream_data(struct stream *s)
{
	uint8_t *b = buffer_of(s);

	if (s->head)
		memmove(b, b + s->head, s->len);
	s->head = 0;
	return b;
}

static void taken(struct stream *s, uint32_t n)
{
	s->fwd += n;
	if (s->fwd - s->told >= vs.alloc / 2)
		s->owed |= 1u << OP_CREDIT_UPDATE;
}

void stream_take(struct stream *s, uint32_t n)
{
	s->head += n;
	s->len -= n;
	if (!s->len)
		s->head = 0;
	taken(s, n);
}

bool stream_untake(struct stream *s, const uint8_t *p, uint32_t n)
{
	uint8_t *b = buffer_of(s);

	if (n > vs.buf_size - s->len)
		return false;
	if (!n)
		return true;
	memmove(b + n, b + s->head, s->len);
	memcpy(b, p, n);
	s->head = 0;
	s->len += n;
	return true;
}

bool stream_is_filling(const struct stream *s)
{
	return s->len >= vs.alloc / 4;
}

static bool keep(struct stream *s, const uint8_t *p, uint32_t n)
{
	uint8_t *b = buffer_of(s);

	if (n > vs.buf_size - s->len)
		return false;
	if (n > vs.buf_size - s->len - s->head)
		b = stream_data(s);
	memcpy(b + s->head + s->len, p, n);
	s->len += n;
	return true;
}

static void got_data(struct stream *s, unsigned buf, uint32_t len)
{
	const uint8_t *p = rx_head(buf) + VSOCK_HDR_SIZE;
	uint32_t head = min32(len, HEAD_DATA);

	if (s->state != STREAM_OPEN)
		return;
	if (!s->len && !s->ours && head == len) {
		uint32_t n = agent_offer(s, p, len);

		if (s->state != STREAM_OPEN)
			return;
		taken(s, n);
		/* More may have come while a request was handled. */
		if (!stream_untake(s, p + n, len - n))
			stream_reset(s);
		return;
	}
	if (len && (!keep(s, p, head) || !keep(s, rx_tail(buf), len - head)))
		stream_reset(s); /* more than we gave credit for */
}

static void refuse(const struct vsock_hdr *h)
{
	const struct vsock_hdr rst = {
		.src_cid = h->dst_cid,
		.dst_cid = h->src_cid,
		.src_port = h->dst_port,
		.dst_port = h->src_port,
		.type = h->type,
		.op = OP_RST,
	};

	/* Best effort: with no slot free the peer finds out by itself. */
	if (h->op != OP_RST)
		(void)vsock_send_raw(&rst, NULL, 0);
}

static void got_request(const struct vsock_hdr *h)
{
	struct stream *s;

	if (h->dst_port != AGENT_VSOCK_PORT ||
		(h->src_cid | h->dst_cid) > UINT32_MAX) {
		refuse(h);
		return;
	}
	s = new_stream(STREAM_OPEN);
	if (!s) {
		refuse(h);
		return;
	}
	s->peer_cid = (uint32_t)h->src_cid;
	s->our_cid = (uint32_t)h->dst_cid;
	s->peer_port = h->src_port;
	s->our_port = h->dst_port;
	s->peer_alloc = h->buf_alloc;
	s->peer_fwd = h->fwd_cnt;
	s->owed = 1u << OP_RESPONSE;
}

static void got_shutdown(struct stream *s, uint32_t flags)
{
	s->peer_shut |= flags & (SHUT_RCV | SHUT_SEND);
	if (s->peer_shut == (SHUT_RCV | SHUT_SEND) && !s->ours)
		stream_reset(s);
}

static void got_packet(unsigned buf, uint32_t len)
{
	struct vsock_hdr h;
	struct stream *s;

	memcpy(&h, rx_head(buf), sizeof(h));
	if (len < sizeof(h) || h.len > len - sizeof(h))
		return;
	if (h.type != VSOCK_TYPE_STREAM) {
		refuse(&h);
		return;
	}
	s = find(&h);
	if (s && h.op == OP_REQUEST) {
		stream_reset(s);
		return;
	}
	if (!s) {
		if (h.op == OP_REQUEST)
			got_request(&h);
		else
			refuse(&h);
		return;
	}
	s->peer_alloc = h.buf_alloc;
	s->peer_fwd = h.fwd_cnt;
	switch (h.op) {
	case OP_RESPONSE:
		if (s->state == STREAM_CONNECTING)
			s->state = STREAM_OPEN;
		else
			stream_reset(s);
		break;
	case OP_RST:
		end_stream(s, 0);
		break;
	case OP_SHUTDOWN:
		got_shutdown(s, h.flags);
		break;
	case OP_RW:
		got_data(s, buf, h.len);
		break;
	case OP_CREDIT_UPDATE:
		break;
	case OP_CREDIT_REQUEST:
		s->owed |= 1u << OP_CREDIT_UPDATE;
		break;
	default:
		stream_reset(s);
		break;
	}
}

static void got_events(void)
{
	struct stream *s = stream_table();
	uint32_t id;

	while (event_pop(&id)) {
		if (id != EVENT_TRANSPORT_RESET)
			continue;
		for (unsigned i = 0; i < NSTREAMS; i++) {
			if (s[i].state != STREAM_FREE)
				end_stream(&s[i], 0);
		}
	}
}

bool vsock_poll(void)
{
	bool any = false;

	for (;;) {
		uint16_t n = rx_ready();

		/* Events are looked at between seeing packets and handling
		 * them: a packet that was sent after a reset must not be lost
		 * to that reset. */
		got_events();
		if (!n)
			break;
		any = true;
		while (n--) {
			uint32_t len;
			unsigned buf = rx_pop(&len);

			got_packet(buf, len);
			rx_recycle(buf);
			/* A function may have polled meanwhile. */
			if (n > rx_ready())
				n = rx_ready();
		}
	}
	send_owed();
	return any;
}

void vsock_sleep(uint32_t us)
{
	if (!vsock_poll()) {
		virtio_wait(us);
		(void)vsock_poll();
	}
}

COLD struct stream *vsock_connect(uint32_t port)
{
	struct stream *s = new_stream(STREAM_CONNECTING);

	if (!s)
		return NULL;
	s->ours = 1;
	s->pinned = 1;
	/* A clone's address is another than the template's. */
	s->our_cid = (uint32_t)virtio_cid();
	s->peer_cid = VSOCK_HOST_CID;
	s->our_port = vs.next_port++;
	if (!vs.next_port)
		vs.next_port = FIRST_OUR_PORT;
	s->peer_port = port;
	s->owed = 1u << OP_REQUEST;
	return s;
}

void vsock_wait(void)
{
	virtio_wait(DOOR_FOREVER);
}
