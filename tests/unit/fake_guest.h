/*
 * A machine without KVM and the driver's side of its vsock device: real guest
 * memory, real event loop, real register accesses; only the eventfds that KVM
 * would serve are plain ones. For tests and fuzzing of devices and their users.
 */
#ifndef THAW_TESTS_UNIT_FAKE_GUEST_H
#define THAW_TESTS_UNIT_FAKE_GUEST_H

#include "core/devices/vsock_dev.h"

#define FG_CID      7u
#define FG_QSIZE    64u
#define FG_RX_SIZE  4096u
#define FG_MEMORY   (4 * MIB)
#define FG_TX_SIZE  (128 * KIB) /* each of FG_TX_SLOTS */
#define FG_TX_SLOTS 8u

/* Where things are in guest memory. */
#define FG_RING(q)  (0x10000ULL * ((q) + 1))
#define FG_DESC(q)  (FG_RING(q))
#define FG_AVAIL(q) (FG_RING(q) + 0x2000)
#define FG_USED(q)  (FG_RING(q) + 0x4000)
#define FG_RX_BUF   0x100000ULL
#define FG_TX_BUF   0x200000ULL

/* virtio-mmio registers that tests name */
enum {
	FG_R_DEVICE_FEATURES = 0x10,
	FG_R_DEVICE_FEATURES_SEL = 0x14,
	FG_R_DRIVER_FEATURES = 0x20,
	FG_R_DRIVER_FEATURES_SEL = 0x24,
	FG_R_QUEUE_SEL = 0x30,
	FG_R_QUEUE_NUM_MAX = 0x34,
	FG_R_QUEUE_NUM = 0x38,
	FG_R_QUEUE_READY = 0x44,
	FG_R_QUEUE_NOTIFY = 0x50,
	FG_R_ISR = 0x60,
	FG_R_ISR_ACK = 0x64,
	FG_R_STATUS = 0x70,
	FG_R_DESC = 0x80,
	FG_R_DRIVER = 0x90,
	FG_R_DEVICE = 0xa0,
	FG_R_GENERATION = 0xfc,
	FG_R_CONFIG = 0x100,
};

struct fg_queue {
	uint16_t avail; /* our idx */
	uint16_t used;  /* consumed */
};

struct fake_guest {
	struct machine m;
	struct loop loop;
	struct device *dev;
	struct vsock *v;
	struct fg_queue q[VSOCK_NQUEUES];
	unsigned tx_slot;
	/* What the driver says of its side of a stream in every packet. */
	uint32_t buf_alloc, fwd_cnt;
	bool repost; /* give receive buffers back at once */
};

struct fg_packet {
	struct vsock_hdr h;
	uint8_t data[FG_RX_SIZE];
};

void fg_init(struct fake_guest *g);
void fg_fini(struct fake_guest *g);

uint32_t fg_reg(struct fake_guest *g, uint64_t off);
void fg_set(struct fake_guest *g, uint64_t off, uint32_t v);
/* The whole driver initialisation, 32 receive and 4 event buffers posted. */
void fg_driver(struct fake_guest *g);
void fg_driver_queues(struct fake_guest *g);
/* Rings as after power-on, driver's positions too. */
void fg_clear_rings(struct fake_guest *g);

/* Pointer into guest memory; aborts the test when outside. */
void *fg_at(struct fake_guest *g, gpa_t gpa, uint64_t len);
struct fg_desc {
	uint64_t addr;
	uint32_t len;
	uint16_t flags, next;
};
void fg_put_desc(
	struct fake_guest *g, uint32_t q, uint16_t i, const struct fg_desc *d);
#define fg_desc(g, q, i, ...)                                                  \
	fg_put_desc(g, q, i, &(struct fg_desc){__VA_ARGS__})
/* Make head available. */
void fg_avail(struct fake_guest *g, uint32_t q, uint16_t head);
uint16_t fg_used_idx(struct fake_guest *g, uint32_t q);
/* Post one receive buffer (slot i) of this size. */
void fg_post_rx(struct fake_guest *g, uint16_t i, uint32_t size);
void fg_post_event(struct fake_guest *g, uint16_t i);
/* Come to the door, then run the loop until nothing happens. */
void fg_kick(struct fake_guest *g);
/* Run the loop until nothing happens. */
void fg_run(struct fake_guest *g);

/* Send: operation, ports as the guest sees them (its own, the host's), flags,
 * data and its length. */
struct fg_message {
	enum vsock_op op;
	uint32_t src, dst, flags;
	const void *data;
	uint32_t len;
};
void fg_send_message(struct fake_guest *g, const struct fg_message *msg);
#define fg_send(g, ...) fg_send_message(g, &(struct fg_message){__VA_ARGS__})
void fg_send_raw(struct fake_guest *g, const struct vsock_hdr *h,
	const void *data, uint32_t len);
/* The next packet from the host: false when there is none. */
bool fg_recv(struct fake_guest *g, struct fg_packet *p);
/* The next packet must be this operation. */
void fg_expect(struct fake_guest *g, struct fg_packet *p, enum vsock_op op);
/* No packet may be there. */
void fg_expect_none(struct fake_guest *g);

/* Deterministic pseudo-random numbers; print the seed when a test fails. */
static inline uint32_t fg_random(uint32_t *seed)
{
	*seed ^= *seed << 13;
	*seed ^= *seed >> 17;
	*seed ^= *seed << 5;
	return *seed;
}

#endif
