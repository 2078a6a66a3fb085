#include "tests/unit/virtio_rig.h"

#include "tests/unit/fake_irq.h"

#include <stdio.h>
#include <string.h>

static void must(bool ok, const char *what)
{
	if (ok)
		return;
	(void)fprintf(stderr, "rig: %s\n", what);
	abort();
}

void vrig_init(struct vrig *r, const struct device_ops *ops,
	const struct machine_config *cfg, const struct machine_fds *fds)
{
	struct err e = {0};

	fake_irq();
	memset(r, 0, sizeof(*r));
	r->m.cfg = *cfg;
	r->m.fds = *fds;
	r->m.vm_fd = r->m.kvm_fd = -1;
	must(!pthread_mutex_init(&r->m.lock, NULL), "mutex");
	must(!pthread_cond_init(&r->m.run_cond, NULL), "cond");
	must(!loop_init(&r->loop), "loop");
	r->m.loop = &r->loop;
	must(!mem_create(&r->m.mem, RIG_MEMORY, MEM_PRIVATE, -1, &e), e.msg);
	must(!ops->create(&r->m, 0, &r->dev, &e), e.msg);
	must(r->dev, "no device");
	r->dev->m = &r->m;
	r->m.dev[r->m.ndevs++] = r->dev;
	r->vd = container_of(r->dev, struct virtio_dev, dev);
	r->base = VMMIO_BASE + r->vd->slot * VMMIO_SIZE;
	if (ops->realize(r->dev, &e))
		must(false, e.msg);
}

void vrig_fini(struct vrig *r)
{
	r->dev->ops->destroy(r->dev);
	mem_destroy(&r->m.mem);
	loop_fini(&r->loop);
	(void)pthread_cond_destroy(&r->m.run_cond);
	(void)pthread_mutex_destroy(&r->m.lock);
}

uint32_t vrig_reg(struct vrig *r, uint64_t off)
{
	uint32_t v = 0;

	bus_access(&r->m.bus, BUS_MMIO, r->base + off, &v, 4, false);
	return v;
}

void vrig_set(struct vrig *r, uint64_t off, uint32_t v)
{
	bus_access(&r->m.bus, BUS_MMIO, r->base + off, &v, 4, true);
}

uint32_t vrig_status(struct vrig *r)
{
	return vrig_reg(r, 0x70);
}

void *vrig_at(struct vrig *r, gpa_t gpa, uint64_t len)
{
	void *p = mem_at(&r->m.mem, gpa, len, MEM_WRITE);

	must(p, "address outside guest memory");
	return p;
}

void vrig_clear_rings(struct vrig *r)
{
	memset(vrig_at(r, RIG_RING(0), RIG_TABLE - RIG_RING(0)), 0,
		RIG_TABLE - RIG_RING(0));
	memset(r->q, 0, sizeof(r->q));
}

static void queue_up(struct vrig *r, uint32_t q)
{
	vrig_set(r, 0x30, q);
	vrig_set(r, 0x38, RIG_QSIZE);
	vrig_set(r, 0x80, (uint32_t)RIG_RING(q));
	vrig_set(r, 0x84, 0);
	vrig_set(r, 0x90, (uint32_t)RIG_AVAIL(q));
	vrig_set(r, 0x94, 0);
	vrig_set(r, 0xa0, (uint32_t)RIG_USED(q));
	vrig_set(r, 0xa4, 0);
	vrig_set(r, 0x44, 1);
}

void vrig_driver(struct vrig *r, uint64_t features)
{
	vrig_set(r, 0x70, 0);
	vrig_clear_rings(r);
	vrig_set(r, 0x70, 1);
	vrig_set(r, 0x70, 3);
	features |= VIRTIO_F_VERSION_1;
	vrig_set(r, 0x24, 0);
	vrig_set(r, 0x20, (uint32_t)features);
	vrig_set(r, 0x24, 1);
	vrig_set(r, 0x20, (uint32_t)(features >> 32));
	vrig_set(r, 0x70, 11);
	for (uint32_t q = 0; q < r->vd->nqueues; q++)
		queue_up(r, q);
	vrig_set(r, 0x70, 15);
	vrig_run(r);
}

static void put_desc(
	void *at, const struct vrig_buf *b, uint16_t flags, uint16_t next)
{
	uint8_t *p = at;

	memcpy(p, &b->addr, 8);
	memcpy(p + 8, &b->len, 4);
	flags |= b->write ? 2 : 0;
	memcpy(p + 12, &flags, 2);
	memcpy(p + 14, &next, 2);
}

void vrig_desc(struct vrig *r, uint32_t q, uint16_t i, uint64_t addr,
	uint32_t len, uint16_t flags, uint16_t next)
{
	const struct vrig_buf b = {addr, len, false};

	put_desc(vrig_at(r, RIG_RING(q) + 16ULL * i, 16), &b, flags, next);
}

void vrig_avail(struct vrig *r, uint32_t q, uint16_t head)
{
	uint16_t *ring = vrig_at(r, RIG_AVAIL(q), 6 + 2 * RIG_QSIZE);

	ring[2 + r->q[q].avail++ % RIG_QSIZE] = head;
	__atomic_store_n(&ring[1], r->q[q].avail, __ATOMIC_RELEASE);
}

static uint16_t add_indirect(
	struct vrig *r, uint32_t q, const struct vrig_buf *b, unsigned n)
{
	const uint16_t head = (uint16_t)(r->q[q].desc++ % RIG_QSIZE);
	const uint64_t table = RIG_TABLE + 0x1000ULL * head;

	for (unsigned i = 0; i < n; i++)
		put_desc(vrig_at(r, table + 16ULL * i, 16), &b[i], i + 1 < n,
			(uint16_t)(i + 1));
	vrig_desc(r, q, head, table, 16 * n, 4, 0);
	return head;
}

uint16_t vrig_add(
	struct vrig *r, uint32_t q, const struct vrig_buf *b, unsigned n)
{
	uint16_t head = (uint16_t)(r->q[q].desc % RIG_QSIZE);

	if (r->indirect) {
		head = add_indirect(r, q, b, n);
	} else {
		for (unsigned i = 0; i < n; i++) {
			uint32_t at = r->q[q].desc++ % RIG_QSIZE;

			put_desc(vrig_at(r, RIG_RING(q) + 16ULL * at, 16),
				&b[i], i + 1 < n,
				(uint16_t)((at + 1) % RIG_QSIZE));
		}
	}
	vrig_avail(r, q, head);
	return head;
}

void vrig_run(struct vrig *r)
{
	struct epoll_event ev[16];
	int n;

	for (int idle = 0; idle < 2;) {
		n = loop_wait(&r->loop, ev, 16, idle ? r->wait_ms : 0);
		idle = n ? 0 : idle + 1;
		for (int i = 0; i < n; i++) {
			union ev_ref ref = {.u64 = ev[i].data.u64};

			machine_event(&r->m, ref, ev[i].events);
		}
	}
}

void vrig_kick(struct vrig *r, uint32_t q)
{
	vrig_set(r, 0x50, q);
	vrig_run(r);
}

bool vrig_used(struct vrig *r, uint32_t q, uint32_t *id, uint32_t *len)
{
	uint8_t *used = vrig_at(r, RIG_USED(q), 6 + 8 * RIG_QSIZE);
	uint16_t idx;

	memcpy(&idx, used + 2, 2);
	if (idx == r->q[q].used)
		return false;
	memcpy(id, used + 4 + 8 * (r->q[q].used % RIG_QSIZE), 4);
	memcpy(len, used + 8 + 8 * (r->q[q].used % RIG_QSIZE), 4);
	r->q[q].used++;
	return true;
}
