/*
 * A virtio device against a hostile driver, the part that is the same for all:
 * the input is a program of small steps: bytes into rings, tables and buffers,
 * register and configuration writes of any width, chains, notifications, resets
 * and pauses. After each step what the device saved must be something that it
 * would load again.
 */
#ifndef THAW_TESTS_FUZZ_DEVICE_STEPS_H
#define THAW_TESTS_FUZZ_DEVICE_STEPS_H

#include "tests/unit/virtio_rig.h"

#include "core/log.h"

#include <string.h>

#define STEPS_MAX 300

struct steps {
	const uint8_t *p;
	size_t n;
	struct vrig r;
	uint64_t features; /* what a good driver takes */
	/* Byte 15 of a step: what the host does; may be NULL. */
	void (*host)(struct steps *s);
	void *arg;
};

static inline uint64_t steps_take(struct steps *s, size_t n)
{
	uint64_t v = 0;

	if (n > s->n)
		n = s->n;
	memcpy(&v, s->p, n);
	s->p += n;
	s->n -= n;
	return v;
}

static inline void steps_poke(struct steps *s)
{
	uint64_t at = RIG_RING(0) + steps_take(s, 3) % 0x180000;
	size_t n = steps_take(s, 1) % 64;

	if (n > s->n)
		n = s->n;
	if (n)
		memcpy(vrig_at(&s->r, at, n), s->p, n);
	s->p += n;
	s->n -= n;
}

static inline void steps_chain(struct steps *s)
{
	struct vrig_buf b[4];
	unsigned n = 1 + (unsigned)steps_take(s, 1) % 4;

	s->r.indirect = steps_take(s, 1) & 1;
	for (unsigned i = 0; i < n; i++) {
		b[i].addr = RIG_DATA + steps_take(s, 2) * 16;
		b[i].len = (uint32_t)steps_take(s, 2);
		b[i].write = steps_take(s, 1) & 1;
	}
	vrig_add(&s->r, (uint32_t)steps_take(s, 1) % s->r.vd->nqueues, b, n);
}

static inline void steps_register(struct steps *s)
{
	uint64_t off = steps_take(s, 2) % 0x200, v = steps_take(s, 8);
	uint32_t len = 1u << steps_take(s, 1) % 4;

	virtio_mmio_io(s->r.vd, off, &v, len, true);
	virtio_mmio_io(s->r.vd, off, &v, len, false);
}

/* A good one, with or without event indices, or any. */
static inline void steps_driver(struct steps *s)
{
	uint64_t how = steps_take(s, 1), f = s->features;

	if (how & 2)
		f &= ~VIRTIO_F_EVENT_IDX;
	vrig_driver(&s->r, how & 1 ? f : steps_take(s, 8));
}

static inline void steps_one(struct steps *s)
{
	const struct device_ops *ops = s->r.dev->ops;
	struct err e;

	switch (steps_take(s, 1) % 16) {
	case 0:
	case 1:
		steps_poke(s);
		break;
	case 2:
		vrig_set(&s->r, steps_take(s, 1) * 4,
			(uint32_t)steps_take(s, 4));
		break;
	case 3:
		steps_register(s);
		break;
	case 4:
		vrig_avail(&s->r, (uint32_t)steps_take(s, 1) % 4,
			(uint16_t)steps_take(s, 2));
		break;
	case 5:
		steps_driver(s);
		break;
	case 6:
		if (ops->quiesce(s->r.dev, &e))
			abort();
		ops->resumed(s->r.dev);
		vrig_run(&s->r);
		break;
	case 7:
		if (s->host)
			s->host(s);
		break;
	case 8:
	case 9:
	case 10:
		vrig_kick(&s->r, (uint32_t)steps_take(s, 1) % 4);
		break;
	default:
		steps_chain(s);
		break;
	}
}

static inline void steps_run(struct steps *s)
{
	const struct st_desc *d = s->r.dev->ops->state;
	const void *saved = s->r.dev->ops->saved(s->r.dev);

	log_init("fuzz", LOG_ERROR);
	vrig_driver(&s->r, s->features);
	for (unsigned i = 0; i < STEPS_MAX && s->n; i++) {
		steps_one(s);
		if (virtio_state_desc.check(s->r.vd->s, NULL) ||
			(d->check && d->check(saved, NULL)))
			abort();
	}
}

#endif
