/*
 * What every virtio device has, whatever its transport: saved state, status
 * (virtio 1.2 sections 2.1 and 3.1), notifications.
 */
#include "core/log.h"
#include "core/virtio.h"

#include <errno.h>
#include <string.h>

#define DRIVER_BITS                                                            \
	(VIRTIO_S_ACKNOWLEDGE | VIRTIO_S_DRIVER | VIRTIO_S_DRIVER_OK |         \
		VIRTIO_S_FEATURES_OK | VIRTIO_S_FAILED)

/* Log lines about a broken driver, per device: the guest chooses how often. */
#define MAX_BROKEN_LINES 3

/* ---- saved state ---- */

static bool virtq_shape_ok(const struct virtq_state *vs)
{
	if (vs->ready > 1 || vs->size > VIRTQ_MAX_SIZE ||
		(vs->size & (vs->size - 1)))
		return false;
	if (!vs->ready)
		return true;
	return vs->size && !(vs->desc % 16) && !(vs->avail % 2) &&
	       !(vs->used % 4);
}

static int virtq_check(const void *state, struct err *e)
{
	if (!virtq_shape_ok(state))
		return err_set(e, -EBADMSG, "impossible virtqueue");
	return 0;
}

static const struct st_field virtq_fields[] = {
	ST_U(struct virtq_state, desc, 1),
	ST_U(struct virtq_state, avail, 1),
	ST_U(struct virtq_state, used, 1),
	ST_U(struct virtq_state, size, 1),
	ST_U(struct virtq_state, ready, 1),
	ST_U(struct virtq_state, next_avail, 1),
	ST_U(struct virtq_state, next_used, 1),
};

const struct st_desc virtq_state_desc = {
	.name = "virtqueue",
	.size = sizeof(struct virtq_state),
	.version = 1,
	.nfields = ARRAY_SIZE(virtq_fields),
	.fields = virtq_fields,
	.check = virtq_check,
};

static int virtio_check(const void *state, struct err *e)
{
	const struct virtio_state *s = state;

	if (s->status & ~(DRIVER_BITS | VIRTIO_S_NEEDS_RESET))
		return err_set(e, -EBADMSG, "unknown virtio status bits");
	if ((s->status & VIRTIO_S_DRIVER_OK &&
		    !(s->status & VIRTIO_S_FEATURES_OK)) ||
		(s->status & VIRTIO_S_FEATURES_OK &&
			!(s->driver_features & VIRTIO_F_VERSION_1)))
		return err_set(e, -EBADMSG, "impossible virtio status");
	if (s->isr & ~(VIRTIO_ISR_USED | VIRTIO_ISR_CONFIG))
		return err_set(e, -EBADMSG, "unknown interrupt status bits");
	for (unsigned i = 0; i < VIRTIO_MAX_QUEUES; i++) {
		if (!virtq_shape_ok(&s->vq[i]))
			return err_set(
				e, -EBADMSG, "impossible virtqueue %u", i);
	}
	return 0;
}

static const struct st_field virtio_fields[] = {
	ST_U(struct virtio_state, driver_features, 1),
	ST_U(struct virtio_state, status, 1),
	ST_U(struct virtio_state, isr, 1),
	ST_U(struct virtio_state, queue_sel, 1),
	ST_U(struct virtio_state, device_features_sel, 1),
	ST_U(struct virtio_state, driver_features_sel, 1),
	ST_U(struct virtio_state, config_generation, 1),
	ST_SUBS(struct virtio_state, vq, &virtq_state_desc, VIRTIO_MAX_QUEUES,
		1),
};

const struct st_desc virtio_state_desc = {
	.name = "virtio",
	.size = sizeof(struct virtio_state),
	.version = 1,
	.nfields = ARRAY_SIZE(virtio_fields),
	.fields = virtio_fields,
	.check = virtio_check,
};

/* ---- status and interrupts ---- */

bool virtio_live(const struct virtio_dev *vd)
{
	return (vd->s->status & (VIRTIO_S_DRIVER_OK | VIRTIO_S_NEEDS_RESET |
					VIRTIO_S_FAILED)) == VIRTIO_S_DRIVER_OK;
}

bool virtio_queue_live(const struct virtio_dev *vd, uint32_t q)
{
	return q < vd->nqueues && virtio_live(vd) && vd->s->vq[q].ready;
}

static void raise_irq(struct virtio_dev *vd)
{
	if (vd->irq_fd >= 0)
		eventfd_kick(vd->irq_fd);
}

void virtio_notify_used(struct virtio_dev *vd, uint32_t queues)
{
	bool irq = false, wake = false;

	if (!queues)
		return;
	pthread_mutex_lock(&vd->lock);
	for (uint32_t q = 0; q < vd->nqueues; q++) {
		if (!(queues & 1u << q))
			continue;
		irq |= virtq_wants_irq(vd, q);
		wake |= virtq_wants_wake(vd, q);
	}
	if (irq)
		vd->s->isr |= VIRTIO_ISR_USED;
	pthread_mutex_unlock(&vd->lock);
	if (irq)
		raise_irq(vd);
	if (wake)
		machine_door_wake(vd->dev.m);
}

static void config_changed(struct virtio_dev *vd)
{
	vd->s->config_generation++;
	vd->s->isr |= VIRTIO_ISR_CONFIG;
	raise_irq(vd);
	machine_door_wake(vd->dev.m);
}

void virtio_notify_config(struct virtio_dev *vd)
{
	pthread_mutex_lock(&vd->lock);
	if (virtio_live(vd))
		config_changed(vd);
	pthread_mutex_unlock(&vd->lock);
}

void virtio_broken(struct virtio_dev *vd, const char *why)
{
	if (vd->s->status & VIRTIO_S_NEEDS_RESET)
		return;
	vd->s->status |= VIRTIO_S_NEEDS_RESET;
	config_changed(vd);
	if (vd->nbroken++ < MAX_BROKEN_LINES)
		log_warning("%s: the guest's driver broke the rules: %s; "
			    "stopped until it resets the device",
			vd->dev.ops->name, why);
}

static void reset(struct virtio_dev *vd)
{
	uint32_t generation = vd->s->config_generation;

	memset(vd->s, 0, sizeof(*vd->s));
	vd->s->config_generation = generation;
	vd->no_notify = false;
	memset(vd->signalled_ok, 0, sizeof(vd->signalled_ok));
	vd->vops->reset(vd);
}

bool virtio_features_ok(const struct virtio_dev *vd)
{
	uint64_t f = vd->s->driver_features;

	return !(f & ~vd->features) && f & VIRTIO_F_VERSION_1;
}

/* The driver adds bits one by one (3.1.1); a step that is not due yet does not
 * stick, which it sees by reading back. */
void virtio_set_status(struct virtio_dev *vd, uint32_t v)
{
	const uint32_t old = vd->s->status;
	const uint32_t base = VIRTIO_S_ACKNOWLEDGE | VIRTIO_S_DRIVER;

	if (!v) {
		reset(vd);
		return;
	}
	v &= DRIVER_BITS;
	if (old & DRIVER_BITS & ~v)
		return; /* only a reset clears bits */
	if (v & ~old & VIRTIO_S_FEATURES_OK &&
		((v & base) != base || !virtio_features_ok(vd)))
		v &= ~VIRTIO_S_FEATURES_OK;
	if (!(v & VIRTIO_S_FEATURES_OK))
		v &= ~VIRTIO_S_DRIVER_OK;
	vd->s->status = v | (old & VIRTIO_S_NEEDS_RESET);
	if (v & ~old & VIRTIO_S_DRIVER_OK && virtio_live(vd))
		vd->vops->activate(vd);
}

/* ---- events ---- */

void virtio_event(struct virtio_dev *vd, uint32_t q)
{
	eventfd_drain(vd->kick_fd[q]);
	vd->vops->queue_ready(vd, q);
}

void virtio_rerun(struct virtio_dev *vd, uint32_t q)
{
	if (q < vd->nqueues && vd->kick_fd[q] >= 0)
		eventfd_kick(vd->kick_fd[q]);
}

void virtio_door(struct virtio_dev *vd)
{
	pthread_mutex_lock(&vd->lock);
	vd->no_notify = true;
	for (uint32_t q = 0; q < vd->nqueues; q++)
		virtq_set_no_notify(vd, q, true);
	pthread_mutex_unlock(&vd->lock);
}

void virtio_resumed(struct virtio_dev *vd)
{
	bool irq;

	pthread_mutex_lock(&vd->lock);
	irq = vd->s->isr != 0;
	pthread_mutex_unlock(&vd->lock);
	if (irq)
		raise_irq(vd);
}
