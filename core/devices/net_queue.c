/*
 * How it works. To the host a packet goes with one writev() straight from the
 * guest's buffers. From the host it is read into a buffer of ours first: how
 * many of the guest's buffers it takes is known only then. All of them become
 * used with one update of the index, so a driver never sees half a packet.
 */
#include "core/devices/net_dev.h"

#include <errno.h>
#include <string.h>
#include <sys/uio.h>

/* Control commands (5.1.6.5). */
#define CTRL_MAC          1u
#define CTRL_MAC_ADDR_SET 1u
#define CTRL_ANNOUNCE     3u
#define CTRL_ANNOUNCE_ACK 0u
#define CTRL_OK           0u
#define CTRL_ERR          1u

/* ---- rings ---- */

/* 1: a chain; 0: none now. */
static int pop(struct net *n, uint32_t q, struct virtq_chain *c)
{
	int r = virtq_pop(&n->vd, q, c);

	if (r < 0)
		virtio_broken(&n->vd, "malformed ring");
	return r > 0;
}

static void push(
	struct net *n, uint32_t q, const struct virtq_used *u, unsigned count)
{
	if (virtq_push_all(&n->vd, q, u, count))
		virtio_broken(&n->vd, "used ring outside guest memory");
	n->used |= 1u << q;
}

/* ---- from the guest ---- */

static bool transmit(struct net *n, const struct virtq_chain *c)
{
	struct iovec iov[VIRTQ_MAX_SIZE];
	ssize_t r;

	if (n->tap < 0 || n->held || c->read_len > NET_MAX_PACKET)
		return false;
	for (unsigned i = 0; i < c->nread; i++) {
		iov[i].iov_base = c->seg[i].p;
		iov[i].iov_len = c->seg[i].len;
	}
	do
		r = writev(n->tap, iov, c->nread);
	while (r < 0 && errno == EINTR);
	/* Whatever is wrong with it: the packet is lost, the guest goes on. */
	return r > 0;
}

static int send_one(struct net *n)
{
	struct virtq_chain c;

	if (!pop(n, NET_Q_TX, &c))
		return 0;
	if (c.read_len < sizeof(struct net_hdr)) {
		virtio_broken(&n->vd, "packet shorter than its header");
		return 0;
	}
	if (transmit(n, &c)) {
		n->stats.tx_packets++;
		n->stats.tx_bytes += c.read_len - sizeof(struct net_hdr);
	} else {
		n->stats.tx_dropped++;
	}
	push(n, NET_Q_TX, &(struct virtq_used){c.head, 0}, 1);
	return 1;
}

/* ---- to the guest ---- */

static bool read_packet(struct net *n)
{
	struct net_hdr *h;
	ssize_t r;

	if (n->packet_len)
		return true;
	if (!n->can_read || n->tap < 0)
		return false;
	if (!n->packet)
		n->packet = malloc(NET_MAX_PACKET);
	if (!n->packet)
		return false;
	do
		r = read(n->tap, n->packet, NET_MAX_PACKET);
	while (r < 0 && errno == EINTR);
	if (r < (ssize_t)sizeof(*h)) {
		n->can_read = false;
		return false;
	}
	h = (struct net_hdr *)(void *)n->packet;
	h->num_buffers = 1;
	/* 5.1.6.4.1: no flags for a driver that did not ask for them. */
	if (!(n->s.virtio.driver_features & NET_F_GUEST_CSUM))
		h->flags = 0;
	n->packet_len = (uint32_t)r;
	return true;
}

/* What lay in the tap when it was told may be for a driver that took more. */
static bool driver_takes(const struct net *n)
{
	const struct net_hdr *h = (const void *)n->packet;
	const uint64_t f = n->s.virtio.driver_features;

	switch (h->gso_type) {
	case NET_GSO_NONE:
		return true;
	case NET_GSO_TCPV4:
		return f & NET_F_GUEST_TSO4;
	case NET_GSO_TCPV6:
		return f & NET_F_GUEST_TSO6;
	default:
		return false;
	}
}

static void drop(struct net *n)
{
	n->packet_len = 0;
	n->stats.rx_dropped++;
}

/* The buffers a packet needs, or none. Returns how many; *enough says whether
 * they hold all of it. */
static unsigned gather(
	struct net *n, struct virtq_chain *chain, unsigned max, bool *enough)
{
	uint64_t room = 0;
	unsigned k = 0;

	while (room < n->packet_len && k < max && pop(n, NET_Q_RX, &chain[k])) {
		if (chain[k].write_len < sizeof(struct net_hdr)) {
			virtio_broken(&n->vd, "receive buffer too small");
			return 0;
		}
		room += chain[k++].write_len;
	}
	*enough = room >= n->packet_len;
	return k;
}

static void spread(
	struct net *n, const struct virtq_chain *chain, unsigned count)
{
	struct net_hdr *h = (struct net_hdr *)(void *)n->packet;
	struct virtq_used u[NET_MAX_BUFFERS];
	uint32_t done = 0;

	h->num_buffers = (uint16_t)count;
	for (unsigned i = 0; i < count; i++) {
		u[i].id = chain[i].head;
		u[i].len = (uint32_t)virtq_chain_write(
			&chain[i], 0, n->packet + done, n->packet_len - done);
		done += u[i].len;
	}
	n->stats.rx_packets++;
	n->stats.rx_bytes += n->packet_len - sizeof(*h);
	n->packet_len = 0;
	push(n, NET_Q_RX, u, count);
}

/* 1: go on. */
static int receive_one(struct net *n, struct virtq_chain *chain)
{
	const bool merge = n->s.virtio.driver_features & NET_F_MRG_RXBUF;
	const unsigned max = merge ? NET_MAX_BUFFERS : 1;
	bool enough = false;
	unsigned k;

	if (!virtio_queue_live(&n->vd, NET_Q_RX) || !read_packet(n))
		return 0;
	if (n->held || !driver_takes(n)) {
		drop(n);
		return 1;
	}
	k = gather(n, chain, max, &enough);
	if (enough) {
		spread(n, chain, k);
		return 1;
	}
	for (unsigned i = 0; i < k; i++)
		virtq_unpop(&n->vd, NET_Q_RX);
	/* As many as may be, and still too small: it will never fit. Fewer:
	 * more may come. */
	if (k == max)
		drop(n);
	return k == max;
}

static int receive_some(struct net *n)
{
	unsigned k = 0;

	if (!n->chain)
		n->chain = malloc(NET_MAX_BUFFERS * sizeof(*n->chain));
	while (n->chain && k < NET_BUDGET && receive_one(n, n->chain))
		k++;
	return k == NET_BUDGET;
}

/* ---- control ---- */

static uint8_t command(struct net *n, const struct virtq_chain *c)
{
	uint8_t head[2], mac[6];

	if (virtq_chain_read(c, 0, head, sizeof(head)) < sizeof(head))
		return CTRL_ERR;
	if (head[0] == CTRL_ANNOUNCE && head[1] == CTRL_ANNOUNCE_ACK) {
		n->s.announce = 0;
		return CTRL_OK;
	}
	if (head[0] == CTRL_MAC && head[1] == CTRL_MAC_ADDR_SET &&
		c->read_len == sizeof(head) + sizeof(mac) &&
		virtq_chain_read(c, sizeof(head), mac, sizeof(mac)) ==
			sizeof(mac)) {
		memcpy(n->s.mac, mac, sizeof(mac));
		return CTRL_OK;
	}
	return CTRL_ERR;
}

static int control_one(struct net *n)
{
	struct virtq_chain c;
	uint8_t ack;

	if (!pop(n, NET_Q_CTRL, &c))
		return 0;
	if (!c.write_len) {
		virtio_broken(&n->vd, "control command without a place for "
				      "its answer");
		return 0;
	}
	ack = command(n, &c);
	(void)virtq_chain_write(&c, c.write_len - 1, &ack, 1);
	push(n, NET_Q_CTRL, &(struct virtq_used){c.head, 1}, 1);
	return 1;
}

/* ---- queues ---- */

/* No more than a ring has: a guest that goes on filling it gets its turn. */
void net_queue_drop_tx(struct net *n)
{
	const bool held = n->held;

	if (n->quiet || !virtio_live(&n->vd))
		return;
	n->held = true;
	for (unsigned k = 0; k < VIRTQ_MAX_SIZE && send_one(n); k++)
		;
	n->held = held;
}

void net_queue_run(struct net *n, uint32_t q)
{
	unsigned k = 0;
	bool more = false;

	if (n->quiet || !virtio_live(&n->vd))
		return;
	if (n->new_offloads)
		net_tap_offloads(n);
	switch (q) {
	case NET_Q_RX:
		more = receive_some(n);
		break;
	case NET_Q_TX:
		while (k < NET_BUDGET && send_one(n))
			k++;
		more = k == NET_BUDGET;
		break;
	default:
		while (k < NET_BUDGET && control_one(n))
			k++;
		more = k == NET_BUDGET;
		break;
	}
	if (more)
		virtio_rerun(&n->vd, q);
}
