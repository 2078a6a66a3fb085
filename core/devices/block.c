/*
 * virtio-blk (virtio 1.2 section 5.2): the device, its configuration space,
 * saved state and life. How the files share the work: block_dev.h.
 */
#include "core/devices/block_dev.h"

#include <errno.h>
#include <string.h>
#include <sys/random.h>

#define BLOCK_DEVICE_ID 2u

/* 5.2.4; up to what our features make valid. */
struct block_config {
	uint64_t capacity; /* sectors */
	uint32_t size_max, seg_max;
	uint8_t geometry[4];
	uint32_t blk_size;
	uint8_t topology[8];
	uint8_t writeback, unused0;
	uint16_t num_queues;
	uint32_t max_discard_sectors, max_discard_seg;
	uint32_t discard_sector_alignment;
	uint32_t max_write_zeroes_sectors, max_write_zeroes_seg;
	uint8_t write_zeroes_may_unmap, unused1[3];
} __attribute__((packed));
_Static_assert(sizeof(struct block_config) == 60, "5.2.4");

static struct block *of_virtio(struct virtio_dev *vd)
{
	return container_of(vd, struct block, vd);
}

static struct block *of_device(struct device *d)
{
	return container_of(d, struct block, vd.dev);
}

/* ---- virtio_ops ---- */

static void block_config_read(
	struct virtio_dev *vd, uint64_t off, void *data, uint32_t len)
{
	const struct block *b = of_virtio(vd);
	const struct block_config c = {
		.capacity = b->s.size / BLOCK_SECTOR,
		.size_max = BLOCK_SIZE_MAX,
		.seg_max = BLOCK_SEG_MAX,
		.blk_size = BLOCK_SECTOR,
		.writeback = (uint8_t)b->s.writeback,
		.num_queues = (uint16_t)vd->nqueues,
		.max_discard_sectors = BLOCK_DISCARD_SECTORS,
		.max_discard_seg = BLOCK_DISCARD_SEGS,
		.discard_sector_alignment = DISK_BLOCK / BLOCK_SECTOR,
		.max_write_zeroes_sectors = BLOCK_DISCARD_SECTORS,
		.max_write_zeroes_seg = BLOCK_DISCARD_SEGS,
		.write_zeroes_may_unmap = 1,
	};

	memset(data, 0, len);
	if (range_inside(off, len, sizeof(c)))
		memcpy(data, (const uint8_t *)&c + off, len);
}

/* The cache mode is all that a driver may write (5.2.5). */
static void block_config_write(
	struct virtio_dev *vd, uint64_t off, const void *data, uint32_t len)
{
	struct block *b = of_virtio(vd);
	uint8_t v;

	if (off != offsetof(struct block_config, writeback) || len != 1 ||
		!(vd->s->driver_features & BLOCK_F_CONFIG_WCE))
		return;
	memcpy(&v, data, 1);
	/* What was written so far must be on the disk before the next request
	 * is answered; a vCPU thread does not wait for that. */
	if (!v && b->s.writeback)
		b->flush_owed = true;
	b->s.writeback = v ? 1 : 0;
}

static void block_activate(struct virtio_dev *vd)
{
	for (uint32_t q = 0; q < vd->nqueues; q++)
		virtio_rerun(vd, q);
}

static void block_reset(struct virtio_dev *vd)
{
	struct block *b = of_virtio(vd);

	block_ring_drain(b);
	b->waiting = 0;
	b->flush_lost = false;
	memset(b->part, 0, sizeof(b->part));
	b->s.writeback = 1;
}

/* Used buffers are announced without the lock. */
static void unlock_and_notify(struct block *b)
{
	uint32_t used = b->used;

	b->used = 0;
	pthread_mutex_unlock(&b->vd.lock);
	virtio_notify_used(&b->vd, used);
}

static void block_queue_ready(struct virtio_dev *vd, uint32_t q)
{
	struct block *b = of_virtio(vd);

	pthread_mutex_lock(&vd->lock);
	block_queue_run(b, q);
	unlock_and_notify(b);
}

static void ring_event(struct block *b)
{
	pthread_mutex_lock(&b->vd.lock);
	block_ring_reap(b);
	for (uint32_t q = 0; q < b->vd.nqueues; q++) {
		if (b->waiting & 1u << q)
			block_queue_run(b, q);
	}
	unlock_and_notify(b);
}

static const struct virtio_ops block_virtio_ops = {
	.device_id = BLOCK_DEVICE_ID,
	.nqueues = BLOCK_MAX_QUEUES,
	.features = VIRTIO_F_RINGS | BLOCK_F_SIZE_MAX | BLOCK_F_SEG_MAX |
		    BLOCK_F_BLK_SIZE | BLOCK_F_FLUSH,
	.config_read = block_config_read,
	.config_write = block_config_write,
	.activate = block_activate,
	.reset = block_reset,
	.queue_ready = block_queue_ready,
};

static uint64_t features_of(const struct machine_disk *d)
{
	uint64_t f = block_virtio_ops.features;

	if (d->read_only)
		f |= BLOCK_F_RO;
	else
		f |= BLOCK_F_CONFIG_WCE | BLOCK_F_DISCARD |
		     BLOCK_F_WRITE_ZEROES;
	if (d->queues > 1)
		f |= BLOCK_F_MQ;
	return f;
}

/* ---- saved state ---- */

static int block_check(const void *state, struct err *e)
{
	const struct block_state *s = state;

	if (s->size % BLOCK_SECTOR || s->size > DISK_MAX_SIZE ||
		s->writeback > 1 || s->reserved)
		return err_set(e, -EBADMSG, "block: impossible state");
	return 0;
}

static const struct st_field block_fields[] = {
	ST_SUBS(struct block_state, virtio, &virtio_state_desc, 1, 1),
	ST_U(struct block_state, size, 1),
	ST_UDEF(struct block_state, writeback, 1, 1),
	ST_U(struct block_state, reserved, 1),
	ST_U(struct block_state, layer, 2),
};

const struct st_desc block_state_desc = {
	.name = "virtio-blk",
	.size = sizeof(struct block_state),
	.version = 2,
	.nfields = ARRAY_SIZE(block_fields),
	.fields = block_fields,
	.check = block_check,
};

/* ---- device_ops ---- */

static bool block_wanted(const struct machine_config *c, uint32_t instance)
{
	return c->disk[instance].id[0] != 0;
}

static int block_create(struct machine *m, uint32_t instance,
	struct device **out, struct err *e)
{
	const struct machine_disk *cfg = &m->cfg.disk[instance];
	struct block *b;

	b = calloc(1, sizeof(*b));
	if (!b)
		return err_sys(e, -ENOMEM, "block");
	b->vd.dev.ops = &block_ops;
	b->vd.dev.m = m;
	b->cfg = cfg;
	virtio_mmio_init(&b->vd, &block_virtio_ops, &b->s.virtio,
		BLOCK_FIRST_SLOT + instance);
	b->vd.features = features_of(cfg);
	b->vd.nqueues = cfg->queues;
	b->s.writeback = 1;
	*out = &b->vd.dev;
	return 0;
}

static void *block_saved(struct device *d)
{
	return &of_device(d)->s;
}

static int no_overlay(const struct block *b, struct err *e)
{
	return err_set(e, -EINVAL,
		b->s.layer ? "disk \"%s\": what was written to its private "
			     "overlay is in a file of its own, which was not "
			     "given (overlays)"
			   : "disk \"%s\": what was written to its private "
			     "overlay was not kept with the snapshot "
			     "(overlays)",
		b->cfg->id);
}

static int open_disk(struct block *b, struct err *e)
{
	const struct machine_fds *f = &b->vd.dev.m->fds;
	const uint32_t i = b->vd.dev.instance;
	const int fd[DISK_NFILES] = {
		[DISK_BASE] = f->disk[i],
		[DISK_LAYER] = f->layer[i],
		[DISK_OVERLAY] = f->overlay[i],
	};
	int r;

	if (fd[DISK_BASE] < 0)
		return err_set(e, -EINVAL,
			"disk \"%s\" (%s): its file was not given", b->cfg->id,
			b->cfg->path);
	if (b->cfg->overlay && fd[DISK_OVERLAY] < 0)
		return no_overlay(b, e);
	r = disk_open(&b->disk, fd, b->s.size, b->cfg->read_only, e);
	if (r)
		return err_wrap(e, "disk \"%s\"", b->cfg->id);
	b->open = true;
	b->s.size = b->disk.size;
	if (b->disk.layer_id != b->s.layer)
		return err_set(e, -EINVAL,
			"disk \"%s\": its overlay's file belongs to another "
			"snapshot",
			b->cfg->id);
	/* Until it is exported again. */
	b->s.layer = 0;
	return 0;
}

static int block_realize(struct device *d, struct err *e)
{
	struct block *b = of_device(d);
	int r = open_disk(b, e);

	if (!r)
		r = virtio_mmio_realize(&b->vd, e);
	if (!r)
		block_ring_open(b);
	return r;
}

static void block_resumed(struct device *d)
{
	struct block *b = of_device(d);

	b->quiet = false;
	virtio_resumed(&b->vd);
	block_activate(&b->vd);
}

static int block_quiesce(struct device *d, struct err *e)
{
	struct block *b = of_device(d);

	(void)e;
	pthread_mutex_lock(&b->vd.lock);
	b->quiet = true;
	block_ring_drain(b);
	unlock_and_notify(b);
	return 0;
}

static void block_destroy(struct device *d)
{
	struct block *b = of_device(d);

	pthread_mutex_lock(&b->vd.lock);
	block_ring_drain(b);
	pthread_mutex_unlock(&b->vd.lock);
	block_ring_close(b);
	virtio_mmio_fini(&b->vd);
	if (b->open)
		disk_close(&b->disk);
	free(b);
}

static void block_io(struct device *d, uint32_t bar, uint64_t off, void *data,
	uint32_t len, bool write)
{
	(void)bar;
	virtio_mmio_io(&of_device(d)->vd, off, data, len, write);
}

static void block_event(struct device *d, uint32_t what, uint32_t events)
{
	struct block *b = of_device(d);

	(void)events;
	if (what < b->vd.nqueues)
		virtio_event(&b->vd, what);
	else if (what == BLOCK_W_RING)
		ring_event(b);
}

const struct device_ops block_ops = {
	.name = "block",
	.section = 0x3f8e61d2a95c7b04ULL,
	.state = &block_state_desc,
	.max_instances = MACHINE_MAX_DISKS,
	.wanted = block_wanted,
	.create = block_create,
	.saved = block_saved,
	.realize = block_realize,
	.resumed = block_resumed,
	.quiesce = block_quiesce,
	.destroy = block_destroy,
	.io = block_io,
	.event = block_event,
};

/* ---- core/block.h ---- */

void block_get_stats(
	const struct machine *m, unsigned i, struct block_stats *st)
{
	memset(st, 0, sizeof(*st));
	for (unsigned k = 0; k < m->ndevs; k++) {
		if (m->dev[k]->ops == &block_ops && m->dev[k]->instance == i)
			*st = of_device(m->dev[k])->stats;
	}
}

int block_freeze(struct machine *m, struct err *e)
{
	int r = 0;

	for (unsigned k = 0; k < m->ndevs && !r; k++) {
		struct block *b;

		if (m->dev[k]->ops != &block_ops)
			continue;
		b = of_device(m->dev[k]);
		r = disk_freeze(&b->disk, e);
		if (r)
			return err_wrap(e, "disk \"%s\"", b->cfg->id);
	}
	return r;
}

/* Its overlay into fd, or -1: it is not kept. */
static int export_one(struct block *b, int fd, struct err *e)
{
	uint64_t id = 0;
	int r;

	if (fd >= 0 && !b->cfg->overlay)
		return err_set(
			e, -EINVAL, "disk \"%s\" has no overlay", b->cfg->id);
	/* Twice the same is not to be expected, zero means none. */
	if (fd >= 0 && getrandom(&id, sizeof(id), 0) != sizeof(id))
		return err_sys(e, -errno, "getrandom");
	id |= fd >= 0;
	b->s.layer = 0;
	r = fd >= 0 ? disk_export(&b->disk, fd, id, e) : 0;
	if (r)
		return err_wrap(e, "disk \"%s\"", b->cfg->id);
	b->s.layer = id;
	return 0;
}

int block_export(struct machine *m, const int *fd, struct err *e)
{
	int r = 0;

	for (unsigned k = 0; k < m->ndevs && !r; k++) {
		if (m->dev[k]->ops == &block_ops)
			r = export_one(of_device(m->dev[k]),
				fd ? fd[m->dev[k]->instance] : -1, e);
	}
	return r;
}
