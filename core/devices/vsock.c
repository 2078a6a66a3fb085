/*
 * virtio-vsock (virtio 1.2 section 5.10): the device and its queues. How the
 * three files share the work, and what a pass is: vsock_dev.h.
 */
#include "core/devices/vsock_dev.h"

#include <errno.h>
#include <string.h>

/* Chains per pass and direction; more waits for the next turn of the loop, so
 * that a guest that never stops cannot keep the loop from other work. */
#define PASS_BUDGET (2u * VIRTQ_MAX_SIZE)

#define EVENT_TRANSPORT_RESET 0u /* 5.10.6.7 */

#define VSOCK_DEVICE_ID 19u
#define VSOCK_SLOT      0u

/* Host-side ports start here: above what guests use for services. */
#define FIRST_HOST_PORT 0x40000000u

#define CID_FIRST 3u /* 0-2 and the last are reserved (5.10.4) */
#define CID_LAST  0xfffffffeu

/* ---- rings: each operation under the lock, none after a reset ---- */

static int ring_pop(struct vsock *v, uint32_t q, struct virtq_chain *c)
{
	int r = 0;

	pthread_mutex_lock(&v->vd.lock);
	if (!v->was_reset && !v->quiet) {
		r = virtq_pop(&v->vd, q, c);
		if (r < 0)
			virtio_broken(&v->vd, "malformed ring");
	}
	pthread_mutex_unlock(&v->vd.lock);
	if (r < 0)
		v->must_drop = true;
	return r > 0;
}

static void ring_unpop(struct vsock *v, uint32_t q)
{
	pthread_mutex_lock(&v->vd.lock);
	if (!v->was_reset)
		virtq_unpop(&v->vd, q);
	pthread_mutex_unlock(&v->vd.lock);
}

static void broken(struct vsock *v, const char *why)
{
	pthread_mutex_lock(&v->vd.lock);
	if (!v->was_reset)
		virtio_broken(&v->vd, why);
	pthread_mutex_unlock(&v->vd.lock);
	v->must_drop = true;
}

static void ring_push(struct vsock *v, uint32_t q, uint16_t head, uint32_t len)
{
	int r = 0;

	pthread_mutex_lock(&v->vd.lock);
	if (!v->was_reset)
		r = virtq_push(&v->vd, q, head, len);
	pthread_mutex_unlock(&v->vd.lock);
	v->used |= 1u << q;
	if (r)
		broken(v, "used ring outside guest memory");
}

/* ---- guest to host ---- */

static void tx_packet(struct vsock *v, const struct virtq_chain *c)
{
	struct vsock_hdr h;

	if (virtq_chain_read(c, 0, &h, sizeof(h)) < sizeof(h) ||
		h.len > c->read_len - sizeof(h)) {
		broken(v, "packet shorter than its header says");
		return;
	}
	vsock_stream_packet(v, &h, c);
}

static void drain_tx(struct vsock *v)
{
	struct virtq_chain c;

	for (unsigned n = 0; n < PASS_BUDGET; n++) {
		v->tx_blocked = vsock_reply_full(v);
		if (v->tx_blocked || !ring_pop(v, VSOCK_Q_TX, &c))
			return;
		tx_packet(v, &c);
		ring_push(v, VSOCK_Q_TX, c.head, 0);
	}
	virtio_rerun(&v->vd, VSOCK_Q_TX);
}

/* ---- host to guest ---- */

static void reset_told(struct vsock *v)
{
	pthread_mutex_lock(&v->vd.lock);
	v->s.reset_owed = 0;
	pthread_mutex_unlock(&v->vd.lock);
}

/* Is the guest told of a restore? Nothing else reaches it before. */
static bool event_sent(struct vsock *v)
{
	const uint32_t event = EVENT_TRANSPORT_RESET;
	struct virtq_chain c;
	bool owed, listens;

	pthread_mutex_lock(&v->vd.lock);
	owed = v->s.reset_owed;
	listens = v->s.virtio.vq[VSOCK_Q_EVENT].ready;
	pthread_mutex_unlock(&v->vd.lock);
	if (!owed)
		return true;
	if (!listens) {
		reset_told(v); /* a driver without that queue: nobody to tell */
		return true;
	}
	if (!ring_pop(v, VSOCK_Q_EVENT, &c))
		return false;
	if (virtq_chain_write(&c, 0, &event, sizeof(event)) < sizeof(event)) {
		broken(v, "event buffer too small");
		return false;
	}
	ring_push(v, VSOCK_Q_EVENT, c.head, sizeof(event));
	reset_told(v);
	return true;
}

static uint32_t fill_reply(struct vsock *v, struct virtq_chain *c)
{
	const struct vsock_reply *r = &v->reply[v->reply_head];
	const struct vsock_hdr h = {
		.src_cid = r->src_cid,
		.dst_cid = r->dst_cid,
		.src_port = r->src_port,
		.dst_port = r->dst_port,
		.type = r->type,
		.op = VSOCK_OP_RST,
	};

	v->reply_head = (v->reply_head + 1) % VSOCK_MAX_REPLIES;
	v->nreplies--;
	return (uint32_t)virtq_chain_write(c, 0, &h, sizeof(h));
}

/* The next packet for the guest: replies first, then streams in turn. */
static uint32_t next_packet(struct vsock *v, struct virtq_chain *c)
{
	if (v->nreplies)
		return fill_reply(v, c);
	while (v->send_head) {
		struct vsock_stream *s = v->send_head;
		uint32_t n;

		v->send_head = s->next;
		s->queued = false;
		n = vsock_stream_fill(s, c);
		vsock_stream_poke(s);
		if (n)
			return n;
	}
	return 0;
}

static void fill_rx(struct vsock *v)
{
	struct virtq_chain c;

	for (unsigned n = 0; n < PASS_BUDGET; n++) {
		uint32_t len;

		if ((!v->nreplies && !v->send_head) ||
			!ring_pop(v, VSOCK_Q_RX, &c))
			return;
		if (c.write_len <= sizeof(struct vsock_hdr)) {
			broken(v, "receive buffer too small");
			return;
		}
		len = next_packet(v, &c);
		if (!len) {
			ring_unpop(v, VSOCK_Q_RX);
			return;
		}
		ring_push(v, VSOCK_Q_RX, c.head, len);
	}
	virtio_rerun(&v->vd, VSOCK_Q_RX);
}

/* ---- passes ---- */

void vsock_begin(struct vsock *v)
{
	v->depth++;
}

void vsock_end(struct vsock *v)
{
	uint32_t used;

	if (v->depth > 1) {
		v->depth--;
		return;
	}
	if (event_sent(v))
		fill_rx(v);
	vsock_stream_free_dead(v);
	vsock_unix_arm(v);
	if (v->tx_blocked && !vsock_reply_full(v))
		virtio_rerun(&v->vd, VSOCK_Q_TX);
	if (v->must_drop)
		virtio_rerun(&v->vd, VSOCK_Q_RX);
	used = v->used;
	v->used = 0;
	v->depth = 0;
	virtio_notify_used(&v->vd, used);
}

/* Streams end with the driver that knew them. Only passes that come from the
 * loop do this: closed() may not be called from inside vsock_send(). */
static void drop_lost(struct vsock *v)
{
	bool lost;

	pthread_mutex_lock(&v->vd.lock);
	lost = v->was_reset || v->must_drop;
	v->was_reset = false;
	pthread_mutex_unlock(&v->vd.lock);
	v->must_drop = false;
	if (lost)
		vsock_stream_drop_all(v, true);
}

static void full_pass(struct vsock *v)
{
	vsock_begin(v);
	drop_lost(v);
	drain_tx(v);
	vsock_end(v);
}

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
	full_pass(of_virtio(vd));
}

static const struct virtio_ops vsock_virtio_ops = {
	.device_id = VSOCK_DEVICE_ID,
	.nqueues = VSOCK_NQUEUES,
	.features = VIRTIO_F_VERSION_1,
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

static int vsock_create(struct machine *m, struct device **out, struct err *e)
{
	const uint32_t cid = m->cfg.vsock_cid;
	struct vsock *v;

	*out = NULL;
	if (!cid)
		return 0;
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
	full_pass(v);
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
	full_pass(v);
}

static void vsock_event(struct device *d, uint32_t what, uint32_t events)
{
	struct vsock *v = of_device(d);

	if (what < VSOCK_NQUEUES) {
		virtio_event(&v->vd, what);
		return;
	}
	vsock_begin(v);
	drop_lost(v);
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
