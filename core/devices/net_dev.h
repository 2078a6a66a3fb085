/*
 * Inside of the network device; for devices/net*.c only. From outside:
 * core/net.h.
 *
 *   net.c        the device: configuration space, saved state, life
 *   net_queue.c  packets both ways, control commands
 *   net_tap.c    the tap
 *
 * Packets carry the virtio header all the way: the tap speaks it
 * (IFF_VNET_HDR), so checksums and segmentation stay where they are cheap. The
 * kernel checks the header of a packet that the guest sends.
 *
 * Threads: queues are worked on by the loop thread under vd.lock.
 */
#ifndef THAW_CORE_DEVICES_NET_DEV_H
#define THAW_CORE_DEVICES_NET_DEV_H

#include "core/devices/limits.h"
#include "core/net.h"
#include "core/virtio.h"

/* Features (virtio 1.2, 5.1.3). */
#define NET_F_CSUM           (1ULL << 0)
#define NET_F_GUEST_CSUM     (1ULL << 1)
#define NET_F_MTU            (1ULL << 3)
#define NET_F_MAC            (1ULL << 5)
#define NET_F_GUEST_TSO4     (1ULL << 7)
#define NET_F_GUEST_TSO6     (1ULL << 8)
#define NET_F_HOST_TSO4      (1ULL << 11)
#define NET_F_HOST_TSO6      (1ULL << 12)
#define NET_F_MRG_RXBUF      (1ULL << 15)
#define NET_F_STATUS         (1ULL << 16)
#define NET_F_CTRL_VQ        (1ULL << 17)
#define NET_F_GUEST_ANNOUNCE (1ULL << 21)
#define NET_F_CTRL_MAC_ADDR  (1ULL << 23)

/* Link status (5.1.4). */
#define NET_S_LINK_UP  1u
#define NET_S_ANNOUNCE 2u

/* 5.1.2 */
enum {
	NET_Q_RX,
	NET_Q_TX,
	NET_Q_CTRL,
	NET_NQUEUES
};

/* Number of machine_watch() for the tap; 0 .. 2 are the queues. */
#define NET_W_TAP 8u

/* 5.1.6 */
struct net_hdr {
	uint8_t flags, gso_type;
	uint16_t hdr_len, gso_size, csum_start, csum_offset;
	uint16_t num_buffers;
};
_Static_assert(sizeof(struct net_hdr) == 12, "5.1.6");

#define NET_GSO_NONE  0u
#define NET_GSO_TCPV4 1u
#define NET_GSO_TCPV6 4u

/* A segmented packet of 64 KiB with its headers. */
#define NET_MAX_PACKET (sizeof(struct net_hdr) + 65550u)
/* Buffers that one packet is spread over at most; smaller ones than that needs
 * are of no use. Linux has them of 1.5 KiB and more. */
#define NET_MAX_BUFFERS 64u
/* Packets per queue and turn of the loop. */
#define NET_BUDGET 64u

struct net_state {
	struct virtio_state virtio;
	uint8_t mac[8];    /* 6 are in use */
	uint32_t announce; /* the driver was asked to announce itself */
	uint32_t reserved;
};
extern const struct st_desc net_state_desc;

struct net {
	struct virtio_dev vd; /* first */
	struct net_state s;
	const struct machine_net *cfg; /* borrowed from the machine's cfg */
	int tap;                       /* borrowed from the machine's fds, -1 */
	bool quiet;                    /* being saved */
	bool held;                     /* nothing goes out or comes in */
	bool can_read;                 /* edge-triggered: until EAGAIN */
	bool new_offloads;             /* the tap has to be told */
	struct virtq_chain *chain;     /* owned: NET_MAX_BUFFERS, when needed */
	uint8_t *packet;     /* owned: NET_MAX_PACKET bytes, made when needed */
	uint32_t packet_len; /* a packet that waits for buffers, 0: none */
	uint32_t used;       /* queues to notify */
	struct net_stats stats;
};

/* ---- net_tap.c ---- */
/* The tap speaks our header from now on. */
int net_tap_open(struct net *n, struct err *e) MUST_USE;
/* Tell the tap what the guest can take. */
void net_tap_offloads(struct net *n);

/* ---- net_queue.c ---- */
/* With the lock held. */
void net_queue_run(struct net *n, uint32_t q);
/* Drop what the guest has in its ring to be sent. */
void net_queue_drop_tx(struct net *n);

#endif
