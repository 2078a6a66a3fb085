/* How it works: virtio.h */
#include "core/guest/virtio.h"

#include "core/guest/cpu.h"

/* Registers (4.2.2) */
enum {
	R_MAGIC = 0x00,
	R_VERSION = 0x04,
	R_DEVICE_ID = 0x08,
	R_DEVICE_FEATURES = 0x10,
	R_DEVICE_FEATURES_SEL = 0x14,
	R_DRIVER_FEATURES = 0x20,
	R_DRIVER_FEATURES_SEL = 0x24,
	R_QUEUE_SEL = 0x30,
	R_QUEUE_NUM_MAX = 0x34,
	R_QUEUE_NUM = 0x38,
	R_QUEUE_READY = 0x44,
	R_STATUS = 0x70,
	R_QUEUE_DESC = 0x80,
	R_QUEUE_DRIVER = 0x90,
	R_QUEUE_DEVICE = 0xa0,
	R_CONFIG = 0x100,
};

#define MAGIC        0x74726976u
#define VSOCK_DEVICE 19u

/* 2.1 */
#define S_ACKNOWLEDGE 1u
#define S_DRIVER      2u
#define S_DRIVER_OK   4u
#define S_FEATURES_OK 8u

/* bit 32, in the upper half of the features */
#define F_VERSION_1_HIGH 1u

/* 2.7.5, 2.7.6 */
#define DESC_NEXT          1u
#define DESC_WRITE         2u
#define AVAIL_NO_INTERRUPT 1u

/* Nobody waits for what was sent, but for want of a slot: tx_want(). */
#define TX_FLAGS (AVAIL_NO_INTERRUPT | DOOR_AVAIL_F_NO_WAKE)

enum {
	Q_RX,
	Q_TX,
	Q_EVENT,
	NQUEUES
};

struct desc {
	uint64_t addr;
	uint32_t len;
	uint16_t flags, next;
};

struct used_elem {
	uint32_t id, len;
};

#define RING_TYPES(name, n)                                                    \
	struct name##_avail {                                                  \
		uint16_t flags, idx, ring[n], event;                           \
	};                                                                     \
	struct name##_used {                                                   \
		uint16_t flags, idx;                                           \
		struct used_elem ring[n];                                      \
		uint16_t event;                                                \
	}

#define RX_DESCS (2 * RX_BUFS)
#define TX_DESCS (2 * TX_SLOTS)

#define ALL_SLOTS ((1u << TX_SLOTS) - 1)

RING_TYPES(rx, RX_DESCS);
RING_TYPES(tx, TX_DESCS);
RING_TYPES(ev, EV_BUFS);

/* All that is written on the way to an answer, but for packets that come in. */
struct io_page {
	struct desc rx_desc[RX_DESCS], tx_desc[TX_DESCS], ev_desc[EV_BUFS];
	struct rx_avail rx_avail;
	struct tx_avail tx_avail;
	struct ev_avail ev_avail;
	struct rx_used rx_used;
	struct tx_used tx_used;
	struct ev_used ev_used;
	uint32_t ev_buf[EV_BUFS][2];
	uint16_t rx_seen, tx_seen, ev_seen; /* used entries taken */
	uint16_t tx_told;                   /* avail entries the door told of */
	uint16_t tx_busy;                   /* bit per slot */
	uint64_t mmio;
	uint8_t tx_slot[TX_SLOTS][TX_SLOT_SIZE];
	struct stream stream[NSTREAMS];
};

/* global: memory shared with the device */
static struct io_page io HOT_IO;
_Static_assert(sizeof(struct io_page) <= 4096, "one page");
/* global: as above; the first part of every receive buffer */
static uint8_t rx_heads[RX_BUFS][RX_HEAD_SIZE] HOT_IO;
_Static_assert(sizeof(rx_heads) == 4096, "one page");

static uint32_t reg_read(uint32_t reg)
{
	return mmio_read(io.mmio + reg);
}

static void reg_write(uint32_t reg, uint32_t v)
{
	mmio_write(io.mmio + reg, v);
}

static void reg_write64(uint32_t reg, const void *p)
{
	reg_write(reg, (uint32_t)(uintptr_t)p);
	reg_write(reg + 4, (uint32_t)((uintptr_t)p >> 32));
}

static COLD void fill_rings(uint8_t *tails, uint32_t tail_size)
{
	for (unsigned i = 0; i < RX_BUFS; i++) {
		struct desc *d = &io.rx_desc[2 * i];

		d[0] = (struct desc){
			.addr = (uintptr_t)rx_heads[i],
			.len = RX_HEAD_SIZE,
			.flags = DESC_NEXT | DESC_WRITE,
			.next = (uint16_t)(2 * i + 1),
		};
		d[1] = (struct desc){
			.addr = (uintptr_t)(tails + (uint64_t)i * tail_size),
			.len = tail_size,
			.flags = DESC_WRITE,
		};
		io.rx_avail.ring[i] = (uint16_t)(2 * i);
	}
	for (unsigned i = 0; i < TX_SLOTS; i++)
		io.tx_desc[2 * i].addr = (uintptr_t)io.tx_slot[i];
	for (unsigned i = 0; i < EV_BUFS; i++) {
		io.ev_desc[i] = (struct desc){
			.addr = (uintptr_t)io.ev_buf[i],
			.len = sizeof(io.ev_buf[i]),
			.flags = DESC_WRITE,
		};
		io.ev_avail.ring[i] = (uint16_t)i;
	}
	io.rx_avail.idx = RX_BUFS;
	io.ev_avail.idx = EV_BUFS;
	io.rx_avail.flags = AVAIL_NO_INTERRUPT;
	io.tx_avail.flags = TX_FLAGS;
	io.ev_avail.flags = AVAIL_NO_INTERRUPT;
}

static COLD bool start_queue(uint32_t q, uint32_t size, const void *desc,
	const void *avail, const void *used)
{
	reg_write(R_QUEUE_SEL, q);
	if (reg_read(R_QUEUE_NUM_MAX) < size)
		return false;
	reg_write(R_QUEUE_NUM, size);
	reg_write64(R_QUEUE_DESC, desc);
	reg_write64(R_QUEUE_DRIVER, avail);
	reg_write64(R_QUEUE_DEVICE, used);
	reg_write(R_QUEUE_READY, 1);
	return true;
}

/* 3.1.1 */
COLD const char *virtio_init(uint64_t addr, uint8_t *tails, uint32_t tail_size)
{
	uint32_t status = S_ACKNOWLEDGE | S_DRIVER;

	io.mmio = addr;
	if (reg_read(R_MAGIC) != MAGIC || reg_read(R_VERSION) != 2)
		return "no virtio-mmio device of version 2";
	if (reg_read(R_DEVICE_ID) != VSOCK_DEVICE)
		return "the device is no vsock";
	reg_write(R_STATUS, 0);
	reg_write(R_STATUS, S_ACKNOWLEDGE);
	reg_write(R_STATUS, status);
	reg_write(R_DEVICE_FEATURES_SEL, 1);
	if (!(reg_read(R_DEVICE_FEATURES) & F_VERSION_1_HIGH))
		return "the device lacks VIRTIO_F_VERSION_1";
	reg_write(R_DRIVER_FEATURES_SEL, 0);
	reg_write(R_DRIVER_FEATURES, 0);
	reg_write(R_DRIVER_FEATURES_SEL, 1);
	reg_write(R_DRIVER_FEATURES, F_VERSION_1_HIGH);
	status |= S_FEATURES_OK;
	reg_write(R_STATUS, status);
	if (!(reg_read(R_STATUS) & S_FEATURES_OK))
		return "the device refuses our features";
	fill_rings(tails, tail_size);
	if (!start_queue(
		    Q_RX, RX_DESCS, io.rx_desc, &io.rx_avail, &io.rx_used) ||
		!start_queue(Q_TX, TX_DESCS, io.tx_desc, &io.tx_avail,
			&io.tx_used) ||
		!start_queue(Q_EVENT, EV_BUFS, io.ev_desc, &io.ev_avail,
			&io.ev_used))
		return "the device's queues are too small";
	reg_write(R_STATUS, status | S_DRIVER_OK);
	return NULL;
}

COLD uint64_t virtio_cid(void)
{
	return reg_read(R_CONFIG) | (uint64_t)reg_read(R_CONFIG + 4) << 32;
}

struct stream *stream_table(void)
{
	return io.stream;
}

/* ---- receive ---- */

uint16_t rx_ready(void)
{
	uint16_t idx = __atomic_load_n(&io.rx_used.idx, __ATOMIC_ACQUIRE);

	return (uint16_t)(idx - io.rx_seen);
}

unsigned rx_pop(uint32_t *len)
{
	struct used_elem e = io.rx_used.ring[io.rx_seen % RX_DESCS];

	io.rx_seen++;
	*len = e.len;
	return e.id / 2 % RX_BUFS;
}

uint8_t *rx_head(unsigned buf)
{
	return rx_heads[buf];
}

uint8_t *rx_tail(unsigned buf)
{
	return (uint8_t *)(uintptr_t)io.rx_desc[2 * buf + 1].addr;
}

bool rx_is_head(const void *p)
{
	return (uintptr_t)p - (uintptr_t)rx_heads < sizeof(rx_heads);
}

void rx_recycle(unsigned buf)
{
	uint16_t idx = io.rx_avail.idx;

	io.rx_avail.ring[idx % RX_DESCS] = (uint16_t)(2 * buf);
	__atomic_store_n(
		&io.rx_avail.idx, (uint16_t)(idx + 1), __ATOMIC_RELEASE);
}

bool event_pop(uint32_t *id)
{
	uint16_t idx = __atomic_load_n(&io.ev_used.idx, __ATOMIC_ACQUIRE);
	uint32_t buf;

	if (idx == io.ev_seen)
		return false;
	buf = io.ev_used.ring[io.ev_seen++ % EV_BUFS].id % EV_BUFS;
	*id = io.ev_buf[buf][0];
	idx = io.ev_avail.idx;
	io.ev_avail.ring[idx % EV_BUFS] = (uint16_t)buf;
	__atomic_store_n(
		&io.ev_avail.idx, (uint16_t)(idx + 1), __ATOMIC_RELEASE);
	return true;
}

/* ---- transmit ---- */

static void tx_reap(void)
{
	uint16_t idx = __atomic_load_n(&io.tx_used.idx, __ATOMIC_ACQUIRE);

	while (io.tx_seen != idx) {
		uint32_t id = io.tx_used.ring[io.tx_seen++ % TX_DESCS].id;

		io.tx_busy &= (uint16_t) ~(1u << (id / 2 % TX_SLOTS));
	}
}

/* Be woken at the door when the device has taken a packet, or not.
 *
 * Once on it stays on until all slots were seen free. So whoever found no slot,
 * and then sleeps, is woken, even when somebody else reaped meanwhile: the
 * machine counted the packet that was taken, and does not begin that sleep. */
static void tx_want(bool on)
{
	uint16_t flags = on ? AVAIL_NO_INTERRUPT : TX_FLAGS;

	if (io.tx_avail.flags == flags)
		return;
	io.tx_avail.flags = flags;
	/* The used ring is looked at after this (2.7.7.2). */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	tx_reap();
}

uint8_t *tx_slot(void)
{
	tx_reap();
	if (!io.tx_busy)
		tx_want(false);
	else if (io.tx_busy == ALL_SLOTS)
		tx_want(true);
	for (unsigned i = 0; i < TX_SLOTS; i++) {
		if (!(io.tx_busy & 1u << i))
			return io.tx_slot[i];
	}
	return NULL;
}

void tx_push(const uint8_t *slot, uint32_t n, const void *p, uint32_t m)
{
	unsigned i = (unsigned)(slot - io.tx_slot[0]) / TX_SLOT_SIZE;
	struct desc *d = &io.tx_desc[2 * i];
	uint16_t idx = io.tx_avail.idx;

	d[0].len = n;
	d[0].flags = m ? DESC_NEXT : 0;
	d[0].next = (uint16_t)(2 * i + 1);
	d[1].addr = (uintptr_t)p;
	d[1].len = m;
	io.tx_busy |= (uint16_t)(1u << i);
	io.tx_avail.ring[idx % TX_DESCS] = (uint16_t)(2 * i);
	__atomic_store_n(
		&io.tx_avail.idx, (uint16_t)(idx + 1), __ATOMIC_RELEASE);
}

bool tx_idle(void)
{
	tx_reap();
	tx_want(io.tx_busy);
	return !io.tx_busy;
}

bool tx_unseen(void)
{
	return io.tx_told != io.tx_avail.idx;
}

void virtio_wait(uint32_t us)
{
	io.tx_told = io.tx_avail.idx;
	door_wait(us);
}
