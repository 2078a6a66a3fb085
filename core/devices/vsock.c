/*
 * virtio-vsock (virtio 1.2 section 5.10): the device, its saved state and its
 * life. How the files share the work, and what a pass is: vsock_dev.h.
 */
#include "core/devices/vsock_dev.h"

#include <errno.h>
#include <string.h>

#define VSOCK_DEVICE_ID 19u
#define VSOCK_SLOT      0u

/* Host-side ports start here: above what guests use for services. */
#define FIRST_HOST_PORT 0x40000000u

#define CID_FIRST 3u /* 0-2 and the last are reserved (5.10.4) */
#define CID_LAST  0xfffffffeu

/* ---- virtio_ops ---- */

static struct vsock *of_virtio(struct virtio_dev *vd)
{
	return container_of(vd, struct vsock, vd);
}

static void vsock_config_read(
	struct virtio_dev *vd, uint64_t off, void *data, uint32_t len)
{
	const uint64_t cid = of_virtio(vd)->s.guest_cid;

	memset(data, 0, len);
	if (range_inside(off, len, sizeof(cid)))
		memcpy(data, (const uint8_t *)&cid + off, len);
}

static void vsock_config_write(
	struct virtio_dev *vd, uint64_t off, const void *data, uint32_t len)
{
	/* The whole space is read-only (5.10.4). */
	(void)vd, (void)off, (void)data, (void)len;
}

static void vsock_activate(struct virtio_dev *vd)
{
	virtio_rerun(vd, VSOCK_Q_RX);
}

static void vsock_virtio_reset(struct virtio_dev *vd)
{
	struct vsock *v = of_virtio(vd);

	v->was_reset = true;
	v->s.reset_owed = 0;
	virtio_rerun(vd, VSOCK_Q_RX);
}

static void vsock_queue_ready(struct virtio_dev *vd, uint32_t q)
{
	(void)q; /* looking at the others costs one load each */
	vsock_full_pass(of_virtio(vd));
}

static const struct virtio_ops vsock_virtio_ops = {
	.device_id = VSOCK_DEVICE_ID,
	.nqueues = VSOCK_NQUEUES,
	.features = VIRTIO_F_RINGS,
	.config_read = vsock_config_read,
	.config_write = vsock_config_write,
	.activate = vsock_activate,
	.reset = vsock_virtio_reset,
	.queue_ready = vsock_queue_ready,
};

/* ---- saved state ---- */

static bool cid_ok(uint32_t cid)
{
	return cid >= CID_FIRST && cid <= CID_LAST;
}

static int vsock_check(const void *state, struct err *e)
{
	const struct vsock_state *s = state;

	if (!cid_ok(s->guest_cid))
		return err_set(
			e, -EBADMSG, "vsock: reserved CID %u", s->guest_cid);
	if (s->reset_owed > 1 || s->next_port < FIRST_HOST_PORT ||
		s->next_port > UINT32_MAX)
		return err_set(e, -EBADMSG, "vsock: impossible state");
	return 0;
}

static const struct st_field vsock_fields[] = {
	ST_SUBS(struct vsock_state, virtio, &virtio_state_desc, 1, 1),
	ST_UDEF(struct vsock_state, guest_cid, 1, CID_FIRST),
	ST_UDEF(struct vsock_state, reset_owed, 1, 1),
	ST_UDEF(struct vsock_state, next_port, 1, FIRST_HOST_PORT),
};

const struct st_desc vsock_state_desc = {
	.name = "virtio-vsock",
	.size = sizeof(struct vsock_state),
	.version = 1,
	.nfields = ARRAY_SIZE(vsock_fields),
	.fields = vsock_fields,
	.check = vsock_check,
};

uint32_t vsock_new_port(struct vsock *v)
{
	uint32_t port = (uint32_t)v->s.next_port++;

	/* UINT32_MAX is VMADDR_PORT_ANY */
	if (v->s.next_port >= UINT32_MAX)
		v->s.next_port = FIRST_HOST_PORT;
	return port;
}

/* ---- device_ops ---- */

static struct vsock *of_device(struct device *d)
{
	return container_of(d, struct vsock, vd.dev);
}

static bool vsock_wanted(const struct machine_config *c, uint32_t instance)
{
	(void)instance;
	return c->vsock_cid != 0;
}

static int vsock_create(struct machine *m, uint32_t instance,
	struct device **out, struct err *e)
{
	const uint32_t cid = m->cfg.vsock_cid;
	struct vsock *v;

	(void)instance;
	*out = NULL;
	if (!cid_ok(cid))
		return err_set(e, -EINVAL,
			"vsock CID %u is reserved; use %u or more", cid,
			CID_FIRST);
	v = calloc(1, sizeof(*v));
	if (!v)
		return err_sys(e, -ENOMEM, "vsock");
	v->vd.dev.ops = &vsock_ops;
	v->vd.dev.m = m;
	virtio_mmio_init(&v->vd, &vsock_virtio_ops, &v->s.virtio, VSOCK_SLOT);
	v->s.guest_cid = cid;
	v->s.next_port = FIRST_HOST_PORT;
	memset(v->hash, 0xff, sizeof(v->hash)); /* VSOCK_NO_SLOT */
	v->listen_fd = -1;
	v->timer_fd = -1;
	m->vsock = v;
	*out = &v->vd.dev;
	return 0;
}

static void *vsock_saved(struct device *d)
{
	return &of_device(d)->s;
}

static int vsock_realize(struct device *d, struct err *e)
{
	return virtio_mmio_realize(&of_device(d)->vd, e);
}

static void vsock_resumed(struct device *d)
{
	struct vsock *v = of_device(d);

	v->quiet = false;
	virtio_resumed(&v->vd);
	vsock_full_pass(v);
}

/* Nothing is ever in flight between passes; sockets may go on being ready, but
 * the rings stay as they are. */
static int vsock_quiesce(struct device *d, struct err *e)
{
	(void)e;
	of_device(d)->quiet = true;
	return 0;
}

static void close_watched(struct vsock *v, int *fd)
{
	if (*fd < 0)
		return;
	machine_unwatch(&v->vd.dev, *fd);
	(void)close(*fd);
	*fd = -1;
}

static void vsock_destroy(struct device *d)
{
	struct vsock *v = of_device(d);

	for (unsigned i = 0; i < VSOCK_MAX_STREAMS; i++) {
		if (!v->slot[i])
			continue;
		vsock_unix_close(v->slot[i]);
		vsock_stream_free(v->slot[i]);
	}
	close_watched(v, &v->listen_fd);
	close_watched(v, &v->timer_fd);
	virtio_mmio_fini(&v->vd);
	d->m->vsock = NULL;
	free(v->reply);
	free(v);
}

static void vsock_io(struct device *d, uint32_t bar, uint64_t off, void *data,
	uint32_t len, bool write)
{
	(void)bar;
	virtio_mmio_io(&of_device(d)->vd, off, data, len, write);
}

static void vsock_kick(struct device *d)
{
	struct vsock *v = of_device(d);

	virtio_door(&v->vd);
	vsock_full_pass(v);
}

static void vsock_event(struct device *d, uint32_t what, uint32_t events)
{
	struct vsock *v = of_device(d);

	if (what < VSOCK_NQUEUES) {
		virtio_event(&v->vd, what);
		return;
	}
	vsock_begin(v);
	vsock_drop_lost(v);
	if (what == VSOCK_W_TIMER)
		vsock_unix_timer(v);
	else if (what == VSOCK_W_LISTEN)
		vsock_unix_accept(v);
	else if (what - VSOCK_W_STREAM < VSOCK_MAX_STREAMS &&
		 v->slot[what - VSOCK_W_STREAM])
		vsock_unix_event(v->slot[what - VSOCK_W_STREAM], events);
	vsock_end(v);
}

const struct device_ops vsock_ops = {
	.name = "vsock",
	.section = 0xf65b1ef0b5047f07ULL,
	.state = &vsock_state_desc,
	.wanted = vsock_wanted,
	.create = vsock_create,
	.saved = vsock_saved,
	.realize = vsock_realize,
	.resumed = vsock_resumed,
	.quiesce = vsock_quiesce,
	.destroy = vsock_destroy,
	.io = vsock_io,
	.kick = vsock_kick,
	.event = vsock_event,
};

/* ---- core/vsock.h ---- */

int vsock_reset(struct vsock *v, uint32_t cid, struct err *e)
{
	if (cid && !cid_ok(cid))
		return err_set(e, -EINVAL, "vsock CID %u is reserved", cid);
	vsock_begin(v);
	vsock_stream_drop_all(v, false);
	pthread_mutex_lock(&v->vd.lock);
	if (cid && cid != v->s.guest_cid) {
		v->s.guest_cid = cid;
		v->s.virtio.config_generation++;
	}
	v->s.reset_owed = (v->s.virtio.status & VIRTIO_S_DRIVER_OK) ? 1 : 0;
	pthread_mutex_unlock(&v->vd.lock);
	v->vd.dev.m->cfg.vsock_cid = v->s.guest_cid;
	vsock_end(v);
	return 0;
}

void vsock_get_stats(const struct vsock *v, struct vsock_stats *st)
{
	*st = v->stats;
}
