/*
 * virtio-mmio transport, version 2 (virtio 1.2 section 4.2).
 *
 * How it works. Registers are accessed by vCPU threads under the device's
 * lock, all but those of the interrupt; queues are worked on by the loop
 * thread, which takes the same lock around each ring operation. A register
 * write is obeyed only in the status that allows it (3.1.1): features between
 * DRIVER and FEATURES_OK, queues between FEATURES_OK and DRIVER_OK. So once
 * DRIVER_OK stands, what was checked when a queue was made ready cannot change
 * under the loop thread, except by a reset. Anything else the driver does wrong
 * is dropped or breaks the device, never the machine.
 */
#include "core/irq.h"
#include "core/virtio.h"

#include <errno.h>
#include <string.h>

/* Registers (4.2.2). */
enum {
	R_MAGIC = 0x00,
	R_VERSION = 0x04,
	R_DEVICE_ID = 0x08,
	R_VENDOR_ID = 0x0c,
	R_DEVICE_FEATURES = 0x10,
	R_DEVICE_FEATURES_SEL = 0x14,
	R_DRIVER_FEATURES = 0x20,
	R_DRIVER_FEATURES_SEL = 0x24,
	R_QUEUE_SEL = 0x30,
	R_QUEUE_NUM_MAX = 0x34,
	R_QUEUE_NUM = 0x38,
	R_QUEUE_READY = 0x44,
	R_QUEUE_NOTIFY = 0x50,
	R_INTERRUPT_STATUS = 0x60,
	R_INTERRUPT_ACK = 0x64,
	R_STATUS = 0x70,
	R_QUEUE_DESC = 0x80, /* low, high */
	R_QUEUE_DRIVER = 0x90,
	R_QUEUE_DEVICE = 0xa0,
	R_SHM_FIRST = 0xb0, /* length and base of a region we do not have */
	R_SHM_LAST = 0xbc,
	R_CONFIG_GENERATION = 0xfc,
	R_CONFIG = 0x100,
};

#define MMIO_MAGIC   0x74726976u /* "virt" */
#define MMIO_VERSION 2u
#define MMIO_VENDOR  0x57414854u /* "THAW" */

/* ---- registers ---- */

static struct virtq_state *selected(struct virtio_dev *vd)
{
	uint32_t q = vd->s->queue_sel;

	return q < vd->nqueues ? &vd->s->vq[q] : NULL;
}

/* Queues are set up between FEATURES_OK and DRIVER_OK, before being ready. */
static bool may_set_up(
	const struct virtio_dev *vd, const struct virtq_state *vs)
{
	const uint32_t mask = VIRTIO_S_FEATURES_OK | VIRTIO_S_DRIVER_OK |
			      VIRTIO_S_NEEDS_RESET | VIRTIO_S_FAILED;

	return vs && !vs->ready &&
	       (vd->s->status & mask) == VIRTIO_S_FEATURES_OK;
}

static void set_ready(struct virtio_dev *vd, uint32_t v)
{
	struct virtq_state *vs = selected(vd);

	if (vs && !v) {
		vs->ready = 0; /* always allowed (4.2.2.2) */
		return;
	}
	if (!may_set_up(vd, vs))
		return;
	if (!virtq_valid(&vd->dev.m->mem, vs)) {
		virtio_broken(vd, "a queue outside guest memory");
		return;
	}
	vs->next_avail = vs->next_used = 0;
	vs->ready = 1;
}

static void set_half(uint64_t *v, uint64_t off, uint32_t half)
{
	if (off & 4)
		*v = (*v & 0xffffffffu) | (uint64_t)half << 32;
	else
		*v = (*v & ~0xffffffffULL) | half;
}

static void set_queue(struct virtio_dev *vd, uint64_t off, uint32_t v)
{
	struct virtq_state *vs = selected(vd);

	if (!may_set_up(vd, vs))
		return;
	switch (off & ~4ULL) {
	case R_QUEUE_DESC:
		set_half(&vs->desc, off, v);
		break;
	case R_QUEUE_DRIVER:
		set_half(&vs->avail, off, v);
		break;
	case R_QUEUE_DEVICE:
		set_half(&vs->used, off, v);
		break;
	default: /* R_QUEUE_NUM */
		if (v && v <= VIRTQ_MAX_SIZE && !(v & (v - 1)))
			vs->size = (uint16_t)v;
		break;
	}
}

static void set_features(struct virtio_dev *vd, uint32_t v)
{
	const uint32_t mask = VIRTIO_S_DRIVER | VIRTIO_S_FEATURES_OK;

	if ((vd->s->status & mask) != VIRTIO_S_DRIVER)
		return;
	if (vd->s->driver_features_sel < 2)
		set_half(&vd->s->driver_features,
			vd->s->driver_features_sel * 4ULL, v);
}

static void reg_write(struct virtio_dev *vd, uint64_t off, uint32_t v)
{
	switch (off) {
	case R_DEVICE_FEATURES_SEL:
		vd->s->device_features_sel = v;
		break;
	case R_DRIVER_FEATURES:
		set_features(vd, v);
		break;
	case R_DRIVER_FEATURES_SEL:
		vd->s->driver_features_sel = v;
		break;
	case R_QUEUE_SEL:
		vd->s->queue_sel = v;
		break;
	case R_QUEUE_READY:
		set_ready(vd, v);
		break;
	case R_QUEUE_NOTIFY: /* only where the ioeventfd did not match */
		virtio_rerun(vd, v);
		break;
	case R_STATUS:
		virtio_set_status(vd, v);
		break;
	case R_QUEUE_NUM:
	case R_QUEUE_DESC:
	case R_QUEUE_DESC + 4:
	case R_QUEUE_DRIVER:
	case R_QUEUE_DRIVER + 4:
	case R_QUEUE_DEVICE:
	case R_QUEUE_DEVICE + 4:
		set_queue(vd, off, v);
		break;
	default:
		break;
	}
}

static uint32_t device_features(const struct virtio_dev *vd)
{
	switch (vd->s->device_features_sel) {
	case 0:
		return (uint32_t)vd->features;
	case 1:
		return (uint32_t)(vd->features >> 32);
	default:
		return 0;
	}
}

static uint32_t reg_read(struct virtio_dev *vd, uint64_t off)
{
	const struct virtq_state *vs = selected(vd);

	switch (off) {
	case R_MAGIC:
		return MMIO_MAGIC;
	case R_VERSION:
		return MMIO_VERSION;
	case R_DEVICE_ID:
		return vd->vops->device_id;
	case R_VENDOR_ID:
		return MMIO_VENDOR;
	case R_DEVICE_FEATURES:
		return device_features(vd);
	case R_QUEUE_NUM_MAX:
		return vs ? VIRTQ_MAX_SIZE : 0;
	case R_QUEUE_READY:
		return vs ? vs->ready : 0;
	case R_STATUS:
		return vd->s->status;
	case R_CONFIG_GENERATION:
		return vd->s->config_generation;
	default:
		/* Shared memory that is not there has length and base -1. */
		return off >= R_SHM_FIRST && off <= R_SHM_LAST ? UINT32_MAX : 0;
	}
}

/* The two registers of each interrupt. They do not wait for the lock, which is
 * held for as long as a device works on a batch of buffers. */
static bool isr_io(struct virtio_dev *vd, uint64_t off, void *data,
	uint32_t len, bool write)
{
	uint32_t v;

	if (len != sizeof(v))
		return false;
	if (off == R_INTERRUPT_STATUS && !write) {
		v = vd->s->isr;
		memcpy(data, &v, sizeof(v));
		return true;
	}
	if (off == R_INTERRUPT_ACK && write) {
		memcpy(&v, data, sizeof(v));
		vd->s->isr &= ~v;
		return true;
	}
	return false;
}

void virtio_mmio_io(struct virtio_dev *vd, uint64_t off, void *data,
	uint32_t len, bool write)
{
	uint32_t v;

	if (isr_io(vd, off, data, len, write))
		return;
	pthread_mutex_lock(&vd->lock);
	if (off >= R_CONFIG && write) {
		vd->vops->config_write(vd, off - R_CONFIG, data, len);
	} else if (off >= R_CONFIG) {
		vd->vops->config_read(vd, off - R_CONFIG, data, len);
	} else if (len != sizeof(v) || off % sizeof(v)) {
		/* 4.2.2.2: 32 bits wide and aligned, nothing else */
		if (!write)
			memset(data, 0xff, len);
	} else if (write) {
		memcpy(&v, data, sizeof(v));
		reg_write(vd, off, v);
	} else {
		v = reg_read(vd, off);
		memcpy(data, &v, sizeof(v));
	}
	pthread_mutex_unlock(&vd->lock);
}

/* ---- life ---- */

void virtio_mmio_init(struct virtio_dev *vd, const struct virtio_ops *ops,
	struct virtio_state *s, uint32_t slot)
{
	vd->vops = ops;
	vd->features = ops->features;
	vd->nqueues = ops->nqueues;
	vd->s = s;
	vd->slot = slot;
	vd->dev.window = slot + 1;
	vd->irq_fd = -1;
	for (unsigned i = 0; i < VIRTIO_MAX_QUEUES; i++)
		vd->kick_fd[i] = -1;
	pthread_mutex_init(&vd->lock, NULL);
}

int virtio_mmio_realize(struct virtio_dev *vd, struct err *e)
{
	struct machine *m = vd->dev.m;
	const uint64_t base = VMMIO_BASE + vd->slot * VMMIO_SIZE;
	int r;

	/* A restored state names features that this device may not offer. */
	if (vd->s->status & VIRTIO_S_FEATURES_OK && !virtio_features_ok(vd))
		return err_set(e, -EBADMSG,
			"%s: the guest uses features that this device has not",
			vd->dev.ops->name);
	r = bus_add(&m->bus, BUS_MMIO, base, VMMIO_SIZE, &vd->dev, 0);
	if (r)
		return err_sys(e, r, "%s: MMIO window", vd->dev.ops->name);
	vd->irq_fd = irq_fd_create(m, VMMIO_GSI_BASE + vd->slot, e);
	if (vd->irq_fd < 0)
		return vd->irq_fd;
	for (uint32_t q = 0; q < vd->nqueues; q++) {
		vd->kick_fd[q] =
			irq_ioeventfd_create(m, base + R_QUEUE_NOTIFY, 4, q, e);
		if (vd->kick_fd[q] < 0)
			return vd->kick_fd[q];
		r = machine_watch(&vd->dev, vd->kick_fd[q], EPOLLIN, q);
		if (r)
			return err_sys(
				e, r, "%s: event loop", vd->dev.ops->name);
	}
	return 0;
}

void virtio_mmio_fini(struct virtio_dev *vd)
{
	for (unsigned i = 0; i < VIRTIO_MAX_QUEUES; i++) {
		if (vd->kick_fd[i] < 0)
			continue;
		machine_unwatch(&vd->dev, vd->kick_fd[i]);
		(void)close(vd->kick_fd[i]);
		vd->kick_fd[i] = -1;
	}
	if (vd->irq_fd >= 0)
		(void)close(vd->irq_fd);
	vd->irq_fd = -1;
	pthread_mutex_destroy(&vd->lock);
}
