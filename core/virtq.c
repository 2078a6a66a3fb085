/*
 * Split virtqueue, virtio 1.2 section 2.7.
 *
 * How it works. The guest may rewrite every byte of a ring while we look at
 * it. So each value is loaded once (atomically: the compiler may not load it
 * again), checked, and only the copy is used. Our positions (next_avail,
 * next_used) are our own and never read back from the guest. No loop runs
 * longer than the queue's size. A chain's buffers become pointers through
 * mem_at(), which is also where writes are noted.
 */
#include "core/virtio.h"

#include <errno.h>
#include <stdatomic.h>
#include <string.h>

/* Descriptor (2.7.5): 16 bytes. */
#define DESC_SIZE       16u
#define DESC_F_NEXT     1u
#define DESC_F_WRITE    2u
#define DESC_F_INDIRECT 4u

/* Available ring (2.7.6): flags, idx, ring[size]. */
#define AVAIL_FLAGS          0u
#define AVAIL_IDX            1u
#define AVAIL_RING           2u
#define AVAIL_F_NO_INTERRUPT 1u

/* Used ring (2.7.8): flags, idx, ring[size] of {u32 id, u32 len}. */
#define USED_FLAGS       0u
#define USED_IDX         1u
#define USED_HEAD        4u
#define USED_ELEM        8u
#define USED_F_NO_NOTIFY 1u

struct desc {
	uint64_t addr;
	uint32_t len;
	uint16_t flags;
	uint16_t next;
};

/* With the two bytes of used_event (2.7.7) behind the ring, which are there
 * whether they are in use or not (2.7.6). */
static _Atomic uint16_t *avail_at(
	const struct mem *m, const struct virtq_state *vs)
{
	return mem_at(m, vs->avail, 6 + 2ULL * vs->size, MEM_READ);
}

static uint8_t *used_at(const struct mem *m, const struct virtq_state *vs,
	enum mem_access access)
{
	return mem_at(m, vs->used,
		USED_HEAD + USED_ELEM * (uint64_t)vs->size + 2, access);
}

static _Atomic uint64_t *desc_at(
	const struct mem *m, const struct virtq_state *vs)
{
	return mem_at(m, vs->desc, DESC_SIZE * (uint64_t)vs->size, MEM_READ);
}

bool virtq_valid(const struct mem *m, const struct virtq_state *vs)
{
	if (!vs->size || vs->size > VIRTQ_MAX_SIZE ||
		(vs->size & (vs->size - 1)))
		return false;
	/* Alignments of 2.7: the atomic loads rely on them. */
	if (vs->desc % 16 || vs->avail % 2 || vs->used % 4)
		return false;
	return desc_at(m, vs) && avail_at(m, vs) && used_at(m, vs, MEM_READ);
}

/* Two loads of 8 bytes, so that a descriptor is seen once. */
static struct desc load_desc(const _Atomic uint64_t *table, uint32_t i)
{
	uint64_t lo, hi;

	lo = atomic_load_explicit(&table[2 * i], memory_order_relaxed);
	hi = atomic_load_explicit(&table[2 * i + 1], memory_order_relaxed);
	return (struct desc){
		.addr = lo,
		.len = (uint32_t)hi,
		.flags = (uint16_t)(hi >> 32),
		.next = (uint16_t)(hi >> 48),
	};
}

/* Append one descriptor to the chain; -EBADMSG when it breaks a rule. */
static int add_seg(
	const struct mem *m, struct virtq_chain *c, const struct desc *d)
{
	bool write = d->flags & DESC_F_WRITE;
	uint32_t *total = write ? &c->write_len : &c->read_len;
	struct virtq_seg *seg = &c->seg[c->nread + c->nwrite];

	/* Empty buffers have no meaning; readable after writable is against
	 * 2.7.4.2. */
	if (d->flags & DESC_F_INDIRECT || !d->len || (!write && c->nwrite) ||
		c->nread + c->nwrite >= VIRTQ_MAX_SIZE)
		return -EBADMSG;
	if (__builtin_add_overflow(*total, d->len, total))
		return -EBADMSG;
	seg->p = mem_at(m, d->addr, d->len, write ? MEM_WRITE : MEM_READ);
	seg->len = d->len;
	if (!seg->p)
		return -EBADMSG;
	if (write)
		c->nwrite++;
	else
		c->nread++;
	return 0;
}

/* The table that an indirect descriptor refers to (2.7.5.3): it stands alone or
 * last in its chain, and does not refer to another one. */
static int walk_indirect(
	const struct mem *m, struct virtq_chain *c, const struct desc *ref)
{
	const uint32_t n = ref->len / DESC_SIZE;
	const _Atomic uint64_t *table;
	uint32_t i = 0;

	if (ref->flags & (DESC_F_NEXT | DESC_F_WRITE) || !n ||
		ref->len % DESC_SIZE || ref->addr % sizeof(uint64_t))
		return -EBADMSG;
	table = mem_at(m, ref->addr, ref->len, MEM_READ);
	if (!table)
		return -EBADMSG;
	for (unsigned k = 0; k < VIRTQ_MAX_SIZE; k++) {
		struct desc d;
		int r;

		if (i >= n)
			return -EBADMSG;
		d = load_desc(table, i);
		r = add_seg(m, c, &d);
		if (r || !(d.flags & DESC_F_NEXT))
			return r;
		i = d.next;
	}
	return -EBADMSG;
}

static int walk(const struct mem *m, const struct virtq_state *vs,
	bool indirect, struct virtq_chain *c)
{
	_Atomic uint64_t *table = desc_at(m, vs);
	uint32_t i = c->head;
	int r;

	if (!table)
		return -EBADMSG;
	for (unsigned n = 0; n < vs->size; n++) {
		struct desc d;

		if (i >= vs->size)
			return -EBADMSG;
		d = load_desc(table, i);
		if (d.flags & DESC_F_INDIRECT && indirect)
			return walk_indirect(m, c, &d);
		r = add_seg(m, c, &d);
		if (r)
			return r;
		if (!(d.flags & DESC_F_NEXT))
			return 0;
		i = d.next;
	}
	return -EBADMSG; /* longer than the table: it loops */
}

static bool has(const struct virtio_dev *vd, uint64_t feature)
{
	return vd->s->driver_features & feature;
}

/* Ask to be notified of the buffer behind index at (2.7.10). Returns the avail
 * index as it was after that: a driver that added one before sees the old
 * value. */
static uint16_t rearm(struct virtio_dev *vd, const struct virtq_state *vs,
	const _Atomic uint16_t *avail, uint16_t at)
{
	_Atomic uint16_t *event;
	uint8_t *used = used_at(&vd->dev.m->mem, vs, MEM_WRITE);

	if (used) {
		event = (_Atomic uint16_t *)(void *)(used + USED_HEAD +
						     USED_ELEM * vs->size);
		atomic_store_explicit(event, at, memory_order_relaxed);
	}
	atomic_thread_fence(memory_order_seq_cst);
	return atomic_load_explicit(&avail[AVAIL_IDX], memory_order_acquire);
}

int virtq_pop(struct virtio_dev *vd, uint32_t q, struct virtq_chain *c)
{
	const struct mem *m = &vd->dev.m->mem;
	struct virtq_state *vs;
	_Atomic uint16_t *avail;
	uint16_t idx;
	int r;

	if (!virtio_queue_live(vd, q))
		return 0;
	vs = &vd->s->vq[q];
	/* Again at each use: these values may come from a snapshot file. */
	if (!virtq_valid(m, vs))
		return -EBADMSG;
	avail = avail_at(m, vs);
	if (!avail)
		return -EBADMSG;
	/* Acquire: what the driver wrote before the index is visible. */
	idx = atomic_load_explicit(&avail[AVAIL_IDX], memory_order_acquire);
	if (idx == vs->next_avail && has(vd, VIRTIO_F_EVENT_IDX))
		idx = rearm(vd, vs, avail, idx);
	if (idx == vs->next_avail)
		return 0;
	if ((uint16_t)(idx - vs->next_avail) > vs->size)
		return -EBADMSG;
	c->head = atomic_load_explicit(
		&avail[AVAIL_RING + vs->next_avail % vs->size],
		memory_order_relaxed);
	c->nread = c->nwrite = 0;
	c->read_len = c->write_len = 0;
	r = walk(m, vs, has(vd, VIRTIO_F_INDIRECT_DESC), c);
	if (r)
		return r;
	vs->next_avail++;
	return 1;
}

uint16_t virtq_watch_avail(struct virtio_dev *vd, uint32_t q)
{
	const _Atomic uint16_t *avail;
	struct virtq_state *vs;
	uint16_t idx;

	if (!virtio_queue_live(vd, q))
		return 0;
	vs = &vd->s->vq[q];
	avail = avail_at(&vd->dev.m->mem, vs);
	if (!avail)
		return 0;
	idx = atomic_load_explicit(&avail[AVAIL_IDX], memory_order_acquire);
	if (has(vd, VIRTIO_F_EVENT_IDX))
		(void)rearm(vd, vs, avail, idx);
	return idx;
}

void virtq_unpop(struct virtio_dev *vd, uint32_t q)
{
	if (virtio_queue_live(vd, q))
		vd->s->vq[q].next_avail--;
}

int virtq_push(struct virtio_dev *vd, uint32_t q, uint16_t head, uint32_t len)
{
	return virtq_push_all(vd, q, &(struct virtq_used){head, len}, 1);
}

int virtq_push_all(struct virtio_dev *vd, uint32_t q,
	const struct virtq_used *u, unsigned n)
{
	struct virtq_state *vs;
	uint8_t *used;

	if (!virtio_queue_live(vd, q))
		return 0;
	vs = &vd->s->vq[q];
	used = used_at(&vd->dev.m->mem, vs, MEM_WRITE);
	if (!used)
		return -EBADMSG;
	for (unsigned i = 0; i < n; i++, vs->next_used++)
		memcpy(used + USED_HEAD +
				USED_ELEM * (size_t)(vs->next_used % vs->size),
			&u[i], sizeof(u[i]));
	/* Release: the element and the buffers are visible before the index. */
	atomic_store_explicit((_Atomic uint16_t *)(void *)used + USED_IDX,
		vs->next_used, memory_order_release);
	return 0;
}

/* The driver did not set this flag. */
static bool flag_clear(struct virtio_dev *vd, uint32_t q, uint16_t flag)
{
	_Atomic uint16_t *avail;

	if (!virtio_queue_live(vd, q))
		return false;
	avail = avail_at(&vd->dev.m->mem, &vd->s->vq[q]);
	/* The flag must be read after the used index was published: the driver
	 * clears it and then looks at the index (2.7.7.2). */
	atomic_thread_fence(memory_order_seq_cst);
	return avail && !(atomic_load_explicit(
				  &avail[AVAIL_FLAGS], memory_order_relaxed) &
				flag);
}

/* vring_need_event() of 2.7.7.2: was the index that the driver waits for
 * among those used since the last interrupt? */
static bool event_passed(struct virtio_dev *vd, uint32_t q)
{
	const struct virtq_state *vs = &vd->s->vq[q];
	uint16_t old = vd->signalled[q], event;
	bool known = vd->signalled_ok[q];
	_Atomic uint16_t *avail;

	if (!virtio_queue_live(vd, q))
		return false;
	avail = avail_at(&vd->dev.m->mem, vs);
	if (!avail)
		return false;
	vd->signalled[q] = vs->next_used;
	vd->signalled_ok[q] = true;
	atomic_thread_fence(memory_order_seq_cst);
	event = atomic_load_explicit(
		&avail[AVAIL_RING + vs->size], memory_order_relaxed);
	return !known || (uint16_t)(vs->next_used - event - 1) <
				 (uint16_t)(vs->next_used - old);
}

bool virtq_wants_irq(struct virtio_dev *vd, uint32_t q)
{
	if (has(vd, VIRTIO_F_EVENT_IDX))
		return event_passed(vd, q);
	return flag_clear(vd, q, AVAIL_F_NO_INTERRUPT);
}

bool virtq_wants_wake(struct virtio_dev *vd, uint32_t q)
{
	return flag_clear(vd, q, DOOR_AVAIL_F_NO_WAKE);
}

void virtq_set_no_notify(struct virtio_dev *vd, uint32_t q, bool on)
{
	uint16_t want = on ? USED_F_NO_NOTIFY : 0;
	struct virtq_state *vs;
	void *used;
	_Atomic uint16_t *flags;

	if (!virtio_queue_live(vd, q))
		return;
	vs = &vd->s->vq[q];
	used = used_at(&vd->dev.m->mem, vs, MEM_READ);
	if (!used)
		return;
	flags = (_Atomic uint16_t *)used + USED_FLAGS;
	/* A clone must not copy a page to write what stands there already. */
	if (atomic_load_explicit(flags, memory_order_relaxed) == want)
		return;
	used = used_at(&vd->dev.m->mem, vs, MEM_WRITE);
	if (used)
		atomic_store_explicit(flags, want, memory_order_relaxed);
}

/* Walk n segments from byte off; to_guest says which way. */
static size_t copy(const struct virtq_seg *seg, unsigned n, size_t off,
	void *buf, size_t len, bool to_guest)
{
	uint8_t *b = buf;
	size_t done = 0;

	for (; n && done < len; n--, seg++) {
		size_t part;

		if (off >= seg->len) {
			off -= seg->len;
			continue;
		}
		part = seg->len - off;
		if (part > len - done)
			part = len - done;
		if (to_guest)
			memcpy((uint8_t *)seg->p + off, b + done, part);
		else
			memcpy(b + done, (uint8_t *)seg->p + off, part);
		done += part;
		off = 0;
	}
	/* What was copied is what the caller sees: no second look. */
	atomic_signal_fence(memory_order_seq_cst);
	return done;
}

size_t virtq_chain_read(
	const struct virtq_chain *c, size_t off, void *dst, size_t len)
{
	return copy(c->seg, c->nread, off, dst, len, false);
}

size_t virtq_chain_write(
	const struct virtq_chain *c, size_t off, const void *src, size_t len)
{
	/* copy() only reads buf when to_guest. */
	return copy(c->seg + c->nread, c->nwrite, off, (void *)(uintptr_t)src,
		len, true);
}
