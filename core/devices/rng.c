/*
 * virtio-rng (virtio 1.2 section 5.4): entropy of the host for the guest.
 *
 * How it works: every buffer is filled from getrandom() at the moment the
 * guest asks, in this process. Nothing is drawn ahead, so clones of one zygote
 * never share a byte.
 */
#include "core/virtio.h"

#include <errno.h>
#include <string.h>
#include <sys/random.h>

#define RNG_DEVICE_ID 4u
#define RNG_SLOT      1u
#define RNG_QUEUE     0u

/* A request is cut to this; the guest asks again (5.4.6.1 allows fewer bytes
 * than the buffer has). Linux asks for 64. */
#define RNG_MAX_BYTES 4096u
/* Requests per turn of the loop. */
#define RNG_BUDGET 16u

struct rng_state {
	struct virtio_state virtio;
};

struct rng {
	struct virtio_dev vd; /* first */
	struct rng_state s;
	bool quiet; /* being saved */
};

static struct rng *of_virtio(struct virtio_dev *vd)
{
	return container_of(vd, struct rng, vd);
}

static struct rng *of_device(struct device *d)
{
	return container_of(d, struct rng, vd.dev);
}

/* getrandom() straight into guest memory: 0 or -errno. */
static int fill(const struct virtq_chain *c, uint32_t *len)
{
	uint32_t left = RNG_MAX_BYTES;

	*len = 0;
	for (unsigned i = c->nread; i < c->nread + c->nwrite && left; i++) {
		uint32_t n = (uint32_t)min_u64(c->seg[i].len, left);
		ssize_t r;

		do
			r = getrandom(c->seg[i].p, n, 0);
		while (r < 0 && errno == EINTR);
		if (r < 0)
			return -errno;
		*len += (uint32_t)r;
		left -= (uint32_t)r;
		if ((uint32_t)r < n)
			break;
	}
	return 0;
}

/* With the lock held. 1: go on. */
static int serve_one(struct rng *g)
{
	struct virtq_chain c;
	uint32_t len;
	int r = virtq_pop(&g->vd, RNG_QUEUE, &c);

	if (r <= 0) {
		if (r)
			virtio_broken(&g->vd, "malformed ring");
		return 0;
	}
	if (c.nread || !c.nwrite) {
		virtio_broken(&g->vd, "a request without a buffer to fill");
		return 0;
	}
	/* No entropy is an empty answer, never bytes of another kind. */
	if (fill(&c, &len))
		len = 0;
	if (virtq_push(&g->vd, RNG_QUEUE, c.head, len))
		virtio_broken(&g->vd, "used ring outside guest memory");
	return 1;
}

static void rng_queue_ready(struct virtio_dev *vd, uint32_t q)
{
	struct rng *g = of_virtio(vd);
	unsigned n = 0;

	(void)q;
	pthread_mutex_lock(&vd->lock);
	while (!g->quiet && n < RNG_BUDGET && serve_one(g))
		n++;
	pthread_mutex_unlock(&vd->lock);
	if (n)
		virtio_notify_used(vd, 1u << RNG_QUEUE);
	if (n == RNG_BUDGET)
		virtio_rerun(vd, RNG_QUEUE);
}

/* There is no configuration space (5.4.4). */
static void rng_config_read(
	struct virtio_dev *vd, uint64_t off, void *data, uint32_t len)
{
	(void)vd, (void)off;
	memset(data, 0, len);
}

static void rng_config_write(
	struct virtio_dev *vd, uint64_t off, const void *data, uint32_t len)
{
	(void)vd, (void)off, (void)data, (void)len;
}

static void rng_activate(struct virtio_dev *vd)
{
	virtio_rerun(vd, RNG_QUEUE);
}

static void rng_reset(struct virtio_dev *vd)
{
	(void)vd; /* nothing is in flight outside the lock */
}

static const struct virtio_ops rng_virtio_ops = {
	.device_id = RNG_DEVICE_ID,
	.nqueues = 1,
	.features = VIRTIO_F_RINGS,
	.config_read = rng_config_read,
	.config_write = rng_config_write,
	.activate = rng_activate,
	.reset = rng_reset,
	.queue_ready = rng_queue_ready,
};

static const struct st_field rng_fields[] = {
	ST_SUBS(struct rng_state, virtio, &virtio_state_desc, 1, 1),
};

static const struct st_desc rng_state_desc = {
	.name = "virtio-rng",
	.size = sizeof(struct rng_state),
	.version = 1,
	.nfields = ARRAY_SIZE(rng_fields),
	.fields = rng_fields,
};

static bool rng_wanted(const struct machine_config *c, uint32_t instance)
{
	(void)instance;
	return c->rng != 0;
}

static int rng_create(struct machine *m, uint32_t instance, struct device **out,
	struct err *e)
{
	struct rng *g;

	(void)instance;
	g = calloc(1, sizeof(*g));
	if (!g)
		return err_sys(e, -ENOMEM, "rng");
	g->vd.dev.ops = &rng_ops;
	g->vd.dev.m = m;
	virtio_mmio_init(&g->vd, &rng_virtio_ops, &g->s.virtio, RNG_SLOT);
	*out = &g->vd.dev;
	return 0;
}

static void *rng_saved(struct device *d)
{
	return &of_device(d)->s;
}

static int rng_realize(struct device *d, struct err *e)
{
	return virtio_mmio_realize(&of_device(d)->vd, e);
}

static void rng_resumed(struct device *d)
{
	struct rng *g = of_device(d);

	g->quiet = false;
	virtio_resumed(&g->vd);
	rng_queue_ready(&g->vd, RNG_QUEUE);
}

static int rng_quiesce(struct device *d, struct err *e)
{
	(void)e;
	of_device(d)->quiet = true;
	return 0;
}

static void rng_destroy(struct device *d)
{
	struct rng *g = of_device(d);

	virtio_mmio_fini(&g->vd);
	free(g);
}

static void rng_io(struct device *d, uint32_t bar, uint64_t off, void *data,
	uint32_t len, bool write)
{
	(void)bar;
	virtio_mmio_io(&of_device(d)->vd, off, data, len, write);
}

static void rng_event(struct device *d, uint32_t what, uint32_t events)
{
	(void)events;
	if (what == RNG_QUEUE)
		virtio_event(&of_device(d)->vd, what);
}

const struct device_ops rng_ops = {
	.name = "rng",
	.section = 0x5b0c2a97e41d8f63ULL,
	.state = &rng_state_desc,
	.wanted = rng_wanted,
	.create = rng_create,
	.saved = rng_saved,
	.realize = rng_realize,
	.resumed = rng_resumed,
	.quiesce = rng_quiesce,
	.destroy = rng_destroy,
	.io = rng_io,
	.event = rng_event,
};
