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
	uint32_t isr;
	uint32_t queue_sel;
	uint32_t device_features_sel;
	uint32_t driver_features_sel;
	uint32_t config_generation;
	struct virtq_state vq[VIRTIO_MAX_QUEUES];
};
extern const struct st_desc virtio_state_desc;

struct virtio_dev;

/* All on the loop thread with the device's lock held, but config_read and
 * reset, which run on a vCPU thread with the lock held. */
struct virtio_ops {
	uint32_t device_id; /* virtio 1.2 section 5 */
	uint32_t nqueues;
	uint64_t features; /* offered, VIRTIO_F_VERSION_1 included */
	void (*config_read)(struct virtio_dev *vd, uint64_t off, void *data,
		uint32_t len);
	void (*config_write)(struct virtio_dev *vd, uint64_t off,
		const void *data, uint32_t len);
	void (*activate)(struct virtio_dev *vd); /* DRIVER_OK was set */
	void (*reset)(struct virtio_dev *vd);
	void (*queue_ready)(struct virtio_dev *vd, uint32_t q); /* notified */
};

struct virtio_dev {
	struct device dev;
	const struct virtio_ops *vops;
	struct virtio_state *s; /* borrowed from the device's saved struct */
	uint32_t slot;          /* virtio-mmio window number */
	pthread_mutex_t lock;
	int irq_fd;             /* owned */
	int kick_fd[VIRTIO_MAX_QUEUES]; /* owned ioeventfds */
	bool no_notify;         /* the guest uses the door */
};

/* Transport side, called by the device's own create/realize/destroy. */
void virtio_mmio_init(struct virtio_dev *vd, const struct virtio_ops *ops,
	struct virtio_state *s, uint32_t slot);
int virtio_mmio_realize(struct virtio_dev *vd, struct err *e) MUST_USE;
void virtio_mmio_fini(struct virtio_dev *vd);
void virtio_mmio_io(struct virtio_dev *vd, uint64_t off, void *data,
	uint32_t len, bool write);
/* Used buffers were published: interrupt (unless suppressed) and door. */
void virtio_notify_used(struct virtio_dev *vd, uint32_t q);
/* The driver broke the rules: NEEDS_RESET, config interrupt, queues stop. */
void virtio_broken(struct virtio_dev *vd, const char *why);

/* Split virtqueue (2.7). One descriptor chain, copied out of guest memory and
 * checked: at most VIRTQ_MAX_SIZE segments inside guest memory, device-
 * readable ones first. */
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

/* 1: a chain was taken; 0: none; -EBADMSG: the ring is broken (the caller
 * calls virtio_broken()). */
int virtq_pop(struct virtio_dev *vd, uint32_t q, struct virtq_chain *c)
	MUST_USE;
/* Put the last popped chain back (nothing was done with it). */
void virtq_unpop(struct virtio_dev *vd, uint32_t q);
/* Publish a chain as used with this many bytes written. */
int virtq_push(struct virtio_dev *vd, uint32_t q, uint16_t head, uint32_t len)
	MUST_USE;
/* Copy between chain segments and a buffer; returns bytes copied. */
size_t virtq_chain_read(const struct virtq_chain *c, size_t off, void *dst,
	size_t len);
size_t virtq_chain_write(const struct virtq_chain *c, size_t off,
	const void *src, size_t len);

#endif
