/*
 * A virtio device without KVM and a driver that does what a test says: real
 * guest memory, event loop and register accesses; only the eventfds that KVM
 * would serve are plain ones. For any device but vsock (fake_guest.h).
 */
#ifndef THAW_TESTS_UNIT_VIRTIO_RIG_H
#define THAW_TESTS_UNIT_VIRTIO_RIG_H

#include "core/virtio.h"

#define RIG_MEMORY (4 * MIB)
#define RIG_QSIZE  64u
/* Where things are in guest memory. */
#define RIG_RING(q)  (0x10000ULL * ((q) + 1))
#define RIG_AVAIL(q) (RIG_RING(q) + 0x2000)
#define RIG_USED(q)  (RIG_RING(q) + 0x4000)
#define RIG_TABLE    0x80000ULL  /* indirect tables */
#define RIG_DATA     0x100000ULL /* buffers, to the end */

struct vrig {
	struct machine m;
	struct loop loop;
	struct device *dev;
	struct virtio_dev *vd;
	uint64_t base; /* its registers */
	bool indirect;
	int wait_ms; /* for what the kernel still works on */
	struct {
		uint16_t avail, used, desc;
	} q[VIRTIO_MAX_QUEUES];
};

struct vrig_buf {
	uint64_t addr;
	uint32_t len;
	bool write;
};

/* cfg and fds are copied; what fds names stays the caller's. */
void vrig_init(struct vrig *r, const struct device_ops *ops,
	const struct machine_config *cfg, const struct machine_fds *fds);
void vrig_fini(struct vrig *r);
uint32_t vrig_reg(struct vrig *r, uint64_t off);
void vrig_set(struct vrig *r, uint64_t off, uint32_t v);
uint32_t vrig_status(struct vrig *r);
/* All of a driver's start: these features besides VERSION_1. */
void vrig_driver(struct vrig *r, uint64_t features);
/* Queues as after power-on. */
void vrig_clear_rings(struct vrig *r);
void *vrig_at(struct vrig *r, gpa_t gpa, uint64_t len);
/* Make a chain available; its head. Nobody is told. */
uint16_t vrig_add(
	struct vrig *r, uint32_t q, const struct vrig_buf *b, unsigned n);
void vrig_desc(struct vrig *r, uint32_t q, uint16_t i, uint64_t addr,
	uint32_t len, uint16_t flags, uint16_t next);
void vrig_avail(struct vrig *r, uint32_t q, uint16_t head);
/* Notify and run the loop until nothing happens. */
void vrig_kick(struct vrig *r, uint32_t q);
void vrig_run(struct vrig *r);
/* The next used element: false when there is none. */
bool vrig_used(struct vrig *r, uint32_t q, uint32_t *id, uint32_t *len);

#endif
