/*
 * virtio: the interface between a device and its transport (virtio 1.2).
 *
 * A device (devices/vsock.c ...) fills a struct virtio_dev and knows nothing
 * of the transport; the transport (virtio_mmio.c, PCI later) knows nothing of
 * what the device does. Saved: struct virtio_state, embedded in the device's
 * saved struct, so one section per device holds both.
 */
#ifndef THAW_CORE_VIRTIO_H
#define THAW_CORE_VIRTIO_H

#include "core/machine.h"

#define VIRTIO_MAX_QUEUES 4
#define VIRTQ_MAX_SIZE    256

/* Saved per queue; all values were written by the guest: hostile. */
struct virtq_state {
	uint64_t desc, avail, used; /* guest addresses */
	uint16_t size;
	uint16_t ready;
	uint16_t next_avail; /* our position in the avail ring */
	uint16_t next_used;
};
extern const struct st_desc virtq_state_desc;

struct virtio_state {
	uint64_t driver_features;
	uint32_t status;
	_Atomic uint32_t isr; /* the one field that needs no lock */
	uint32_t queue_sel;
	uint32_t device_features_sel;
	uint32_t driver_features_sel;
	uint32_t config_generation;
	struct virtq_state vq[VIRTIO_MAX_QUEUES];
};
extern const struct st_desc virtio_state_desc;

struct virtio_dev;

/* queue_ready runs on the loop thread without the lock. The others run with
 * the lock held, on a vCPU thread: they may not wait, call out or touch what
 * belongs to the loop thread. */
struct virtio_ops {
	uint32_t device_id; /* virtio 1.2 section 5 */
	uint32_t nqueues;
	uint64_t features; /* offered by all of them, VERSION_1 included */
	void (*config_read)(
		struct virtio_dev *vd, uint64_t off, void *data, uint32_t len);
	void (*config_write)(struct virtio_dev *vd, uint64_t off,
		const void *data, uint32_t len);
	void (*activate)(struct virtio_dev *vd); /* DRIVER_OK was set */
	void (*reset)(struct virtio_dev *vd);
	void (*queue_ready)(struct virtio_dev *vd, uint32_t q); /* notified */
};

/* Device status bits (2.1). */
#define VIRTIO_S_ACKNOWLEDGE 1u
#define VIRTIO_S_DRIVER      2u
#define VIRTIO_S_DRIVER_OK   4u
#define VIRTIO_S_FEATURES_OK 8u
#define VIRTIO_S_NEEDS_RESET 64u
#define VIRTIO_S_FAILED      128u

/* Features of every device (6). */
#define VIRTIO_F_INDIRECT_DESC (1ULL << 28)
#define VIRTIO_F_EVENT_IDX     (1ULL << 29)
#define VIRTIO_F_VERSION_1     (1ULL << 32)
#define VIRTIO_F_RINGS                                                         \
	(VIRTIO_F_VERSION_1 | VIRTIO_F_INDIRECT_DESC | VIRTIO_F_EVENT_IDX)

/* Interrupt status bits (4.2.2). */
#define VIRTIO_ISR_USED   1u
#define VIRTIO_ISR_CONFIG 2u

struct virtio_dev {
	struct device dev;
	const struct virtio_ops *vops;
	uint64_t features; /* offered: vops->features, and what its device adds
			    * before realize */
	uint32_t nqueues;  /* vops->nqueues, unless its device says fewer */
	struct virtio_state *s; /* borrowed from the device's saved struct */
	uint32_t slot;          /* virtio-mmio window number */
	pthread_mutex_t lock;   /* guards *s, the rings, no_notify */
	int irq_fd;             /* owned; -1 before realize */
	int kick_fd[VIRTIO_MAX_QUEUES]; /* owned ioeventfds; -1 before */
	bool no_notify;                 /* the guest uses the door */
	/* EVENT_IDX: the used index at the last interrupt, per queue; only
	 * meaningful where signalled_ok. */
	uint16_t signalled[VIRTIO_MAX_QUEUES];
	bool signalled_ok[VIRTIO_MAX_QUEUES];
	uint32_t nbroken; /* how often; log lines are limited by it */
};

/*
 * Transport side, called by the device's own create/realize/destroy. The
 * transport's kick fds use the numbers 0 .. nqueues - 1 of machine_watch().
 */
void virtio_mmio_init(struct virtio_dev *vd, const struct virtio_ops *ops,
	struct virtio_state *s, uint32_t slot);
int virtio_mmio_realize(struct virtio_dev *vd, struct err *e) MUST_USE;
void virtio_mmio_fini(struct virtio_dev *vd);
void virtio_mmio_io(struct virtio_dev *vd, uint64_t off, void *data,
	uint32_t len, bool write);

/* A kick fd is ready: drains it, calls queue_ready. */
void virtio_event(struct virtio_dev *vd, uint32_t q);
/* Make queue_ready(q) run again soon, from any thread. */
void virtio_rerun(struct virtio_dev *vd, uint32_t q);
/* The guest came to the door: from now on its rings say NO_NOTIFY. */
void virtio_door(struct virtio_dev *vd);
/* Raise again what was pending when the machine was saved. */
void virtio_resumed(struct virtio_dev *vd);

/* Used buffers were published on these queues (bit q: queue q): interrupt,
 * unless suppressed, and door. Once per pass, without the lock. */
void virtio_notify_used(struct virtio_dev *vd, uint32_t queues);
/* The configuration changed. Without the lock. */
void virtio_notify_config(struct virtio_dev *vd);
/* The driver broke the rules: NEEDS_RESET, config interrupt, queues stop until
 * the driver resets the device. With the lock held. */
void virtio_broken(struct virtio_dev *vd, const char *why);

/* The driver wrote the status register. With the lock held. */
void virtio_set_status(struct virtio_dev *vd, uint32_t v);
/* The driver took VERSION_1 and nothing that was not offered. */
bool virtio_features_ok(const struct virtio_dev *vd);
/* DRIVER_OK, and neither broken nor FAILED. With the lock held. */
bool virtio_live(const struct virtio_dev *vd);
/* The queue can be used: live and ready. With the lock held. */
bool virtio_queue_live(const struct virtio_dev *vd, uint32_t q);

/* Split virtqueue (2.7), all with the lock held. One descriptor chain, copied
 * out of guest memory and checked: at most VIRTQ_MAX_SIZE segments inside guest
 * memory, device-readable ones first. The bytes that seg[].p points to can
 * still change at any time. */
struct virtq_seg {
	void *p; /* borrowed from guest memory */
	uint32_t len;
};
struct virtq_chain {
	uint16_t head;
	uint16_t nread, nwrite;
	uint32_t read_len, write_len;
	struct virtq_seg seg[VIRTQ_MAX_SIZE]; /* nread readable, then nwrite */
};

/* Size, alignment and place in guest memory of a queue's three parts. */
bool virtq_valid(const struct mem *m, const struct virtq_state *vs);

/* 1: a chain was taken; 0: none, or the queue does not run; -EBADMSG: the ring
 * is broken (the caller calls virtio_broken()). */
int virtq_pop(
	struct virtio_dev *vd, uint32_t q, struct virtq_chain *c) MUST_USE;
/* Put the last popped chain back (nothing was done with it). */
void virtq_unpop(struct virtio_dev *vd, uint32_t q);
/* Publish a chain as used with this many bytes written; a queue that does not
 * run any more is no error. */
int virtq_push(struct virtio_dev *vd, uint32_t q, uint16_t head,
	uint32_t len) MUST_USE;
/* Several at once: the driver sees all of them or none. */
struct virtq_used {
	uint32_t id; /* head of the chain */
	uint32_t len;
};
int virtq_push_all(struct virtio_dev *vd, uint32_t q,
	const struct virtq_used *u, unsigned n) MUST_USE;
/* Does the driver want to be woken for this queue (2.7.7)? With EVENT_IDX the
 * answer is for all that was used since the last question. */
bool virtq_wants_irq(struct virtio_dev *vd, uint32_t q);
/* Is a guest at the door to be woken for this queue's used buffers? */
bool virtq_wants_wake(struct virtio_dev *vd, uint32_t q);
/* How many buffers the driver has ever made available (modulo 2^16), and see to
 * it that it notifies us of the next one. */
uint16_t virtq_watch_avail(struct virtio_dev *vd, uint32_t q);
/* Set or clear VIRTQ_USED_F_NO_NOTIFY (2.7.10). */
void virtq_set_no_notify(struct virtio_dev *vd, uint32_t q, bool on);

/* Copy between the readable (read) or writable (write) part of a chain and a
 * buffer, from a byte offset in that part; returns bytes copied. */
size_t virtq_chain_read(
	const struct virtq_chain *c, size_t off, void *dst, size_t len);
size_t virtq_chain_write(
	const struct virtq_chain *c, size_t off, const void *src, size_t len);

#endif
