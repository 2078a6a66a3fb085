/*
 * virtio-net (virtio 1.2 section 5.1) over a tap interface: the device, its
 * configuration space, saved state and life. net_queue.c has the queues.
 */
#include "core/devices/net_dev.h"

#include <errno.h>
#include <string.h>

#define NET_DEVICE_ID 1u

/* 5.1.4; up to what our features make valid. */
struct net_config {
	uint8_t mac[6];
	uint16_t status;
	uint16_t max_queue_pairs;
	uint16_t mtu;
} __attribute__((packed));

static struct net *of_virtio(struct virtio_dev *vd)
{
	return container_of(vd, struct net, vd);
}

static struct net *of_device(struct device *d)
{
	return container_of(d, struct net, vd.dev);
}

/* ---- virtio_ops ---- */

static void net_config_read(
	struct virtio_dev *vd, uint64_t off, void *data, uint32_t len)
{
	const struct net *n = of_virtio(vd);
	struct net_config c = {
		.max_queue_pairs = 1,
		.mtu = n->cfg->mtu,
	};

	memcpy(c.mac, n->s.mac, 6);
	if (n->tap >= 0)
		c.status |= NET_S_LINK_UP;
	if (n->s.announce)
		c.status |= NET_S_ANNOUNCE;
	memset(data, 0, len);
	if (range_inside(off, len, sizeof(c)))
		memcpy(data, (const uint8_t *)&c + off, len);
}

static void net_config_write(
	struct virtio_dev *vd, uint64_t off, const void *data, uint32_t len)
{
	/* Read-only for drivers of this version (5.1.4.1). */
	(void)vd, (void)off, (void)data, (void)len;
}

static void net_activate(struct virtio_dev *vd)
{
	of_virtio(vd)->new_offloads = true;
	for (uint32_t q = 0; q < vd->nqueues; q++)
		virtio_rerun(vd, q);
}

static void net_reset(struct virtio_dev *vd)
{
	struct net *n = of_virtio(vd);

	n->packet_len = 0; /* it was for the driver of before */
	n->s.announce = 0;
	memcpy(n->s.mac, n->cfg->mac, 6);
}

static void net_queue_ready(struct virtio_dev *vd, uint32_t q)
{
	struct net *n = of_virtio(vd);
	uint32_t used;

	pthread_mutex_lock(&vd->lock);
	net_queue_run(n, q);
	used = n->used;
	n->used = 0;
	pthread_mutex_unlock(&vd->lock);
	virtio_notify_used(vd, used);
}

static const struct virtio_ops net_virtio_ops = {
	.device_id = NET_DEVICE_ID,
	.nqueues = NET_NQUEUES,
	.features = VIRTIO_F_RINGS | NET_F_CSUM | NET_F_GUEST_CSUM | NET_F_MAC |
		    NET_F_GUEST_TSO4 | NET_F_GUEST_TSO6 | NET_F_HOST_TSO4 |
		    NET_F_HOST_TSO6 | NET_F_MRG_RXBUF | NET_F_STATUS |
		    NET_F_CTRL_VQ | NET_F_GUEST_ANNOUNCE | NET_F_CTRL_MAC_ADDR,
	.config_read = net_config_read,
	.config_write = net_config_write,
	.activate = net_activate,
	.reset = net_reset,
	.queue_ready = net_queue_ready,
};

/* ---- saved state ---- */

static int net_check(const void *state, struct err *e)
{
	const struct net_state *s = state;

	if (s->announce > 1 || s->reserved)
		return err_set(e, -EBADMSG, "net: impossible state");
	return 0;
}

static const struct st_field net_fields[] = {
	ST_SUBS(struct net_state, virtio, &virtio_state_desc, 1, 1),
	ST_RAW(struct net_state, mac, 1),
	ST_U(struct net_state, announce, 1),
	ST_U(struct net_state, reserved, 1),
};

const struct st_desc net_state_desc = {
	.name = "virtio-net",
	.size = sizeof(struct net_state),
	.version = 1,
	.nfields = ARRAY_SIZE(net_fields),
	.fields = net_fields,
	.check = net_check,
};

/* ---- device_ops ---- */

static bool net_wanted(const struct machine_config *c, uint32_t instance)
{
	return c->net[instance].id[0] != 0;
}

static int net_create(struct machine *m, uint32_t instance, struct device **out,
	struct err *e)
{
	const struct machine_net *cfg = &m->cfg.net[instance];
	struct net *n;

	n = calloc(1, sizeof(*n));
	if (!n)
		return err_sys(e, -ENOMEM, "net");
	n->vd.dev.ops = &net_ops;
	n->vd.dev.m = m;
	n->cfg = cfg;
	n->tap = -1;
	virtio_mmio_init(&n->vd, &net_virtio_ops, &n->s.virtio,
		NET_FIRST_SLOT + instance);
	if (cfg->mtu)
		n->vd.features |= NET_F_MTU;
	memcpy(n->s.mac, cfg->mac, 6);
	*out = &n->vd.dev;
	return 0;
}

static void *net_saved(struct device *d)
{
	return &of_device(d)->s;
}

static int net_realize(struct device *d, struct err *e)
{
	struct net *n = of_device(d);
	int r = virtio_mmio_realize(&n->vd, e);

	if (r)
		return r;
	n->tap = d->m->fds.tap[d->instance];
	if (n->tap < 0)
		return 0;
	/* Edge-triggered: a packet without a buffer for it would wake the loop
	 * again and again. */
	r = net_tap_open(n, e);
	if (!r) {
		r = machine_watch(d, n->tap, EPOLLIN | EPOLLET, NET_W_TAP);
		if (r)
			err_sys(e, r, "event loop");
	}
	return r ? err_wrap(e, "net \"%s\" (tap %s)", n->cfg->id, n->cfg->tap)
		 : 0;
}

static void net_resumed(struct device *d)
{
	struct net *n = of_device(d);

	n->quiet = false;
	virtio_resumed(&n->vd);
	/* The tap is another one, perhaps: it has to be told what the guest
	 * can take. */
	pthread_mutex_lock(&n->vd.lock);
	net_activate(&n->vd);
	pthread_mutex_unlock(&n->vd.lock);
}

/* A packet that was read and not yet taken is lost, as on any network. */
static int net_quiesce(struct device *d, struct err *e)
{
	(void)e;
	of_device(d)->quiet = true;
	return 0;
}

static void net_destroy(struct device *d)
{
	struct net *n = of_device(d);

	if (n->tap >= 0)
		machine_unwatch(d, n->tap);
	virtio_mmio_fini(&n->vd);
	free(n->packet);
	free(n->chain);
	free(n);
}

static void net_io(struct device *d, uint32_t bar, uint64_t off, void *data,
	uint32_t len, bool write)
{
	(void)bar;
	virtio_mmio_io(&of_device(d)->vd, off, data, len, write);
}

static void net_event(struct device *d, uint32_t what, uint32_t events)
{
	struct net *n = of_device(d);

	(void)events;
	if (what < NET_NQUEUES) {
		virtio_event(&n->vd, what);
	} else if (what == NET_W_TAP) {
		n->can_read = true;
		net_queue_ready(&n->vd, NET_Q_RX);
	}
}

const struct device_ops net_ops = {
	.name = "net",
	.section = 0xa47d20c5936eb81fULL,
	.state = &net_state_desc,
	.max_instances = MACHINE_MAX_NETS,
	.wanted = net_wanted,
	.create = net_create,
	.saved = net_saved,
	.realize = net_realize,
	.resumed = net_resumed,
	.quiesce = net_quiesce,
	.destroy = net_destroy,
	.io = net_io,
	.event = net_event,
};

/* ---- core/net.h ---- */

static struct net *find(const struct machine *m, unsigned i)
{
	for (unsigned k = 0; k < m->ndevs; k++) {
		if (m->dev[k]->ops == &net_ops && m->dev[k]->instance == i)
			return of_device(m->dev[k]);
	}
	return NULL;
}

void net_get_stats(const struct machine *m, unsigned i, struct net_stats *st)
{
	const struct net *n = find(m, i);

	memset(st, 0, sizeof(*st));
	if (n)
		*st = n->stats;
}

/* A driver has read the address, and goes by .mac until it sets another. */
static bool has_driver(const struct net *n)
{
	return (n->s.virtio.status & (VIRTIO_S_DRIVER | VIRTIO_S_FAILED)) ==
	       VIRTIO_S_DRIVER;
}

void net_set_mac(struct machine *m, unsigned i, const uint8_t mac[6])
{
	struct net *n = find(m, i);

	memcpy(m->cfg.net[i].mac, mac, 6);
	memset(m->net_was[i], 0, sizeof(m->net_was[i]));
	if (!n)
		return;
	/* What the template was configured with says nothing: its guest may
	 * have set an address of its own since. */
	if (!has_driver(n))
		memcpy(n->s.mac, mac, 6);
	else if (memcmp(n->s.mac, mac, 6) != 0)
		memcpy(m->net_was[i], n->s.mac, 6);
}

const uint8_t *net_driver_mac(const struct machine *m, unsigned i)
{
	const struct net *n = find(m, i);

	return n ? n->s.mac : m->cfg.net[i].mac;
}

static void announce(struct net *n)
{
	pthread_mutex_lock(&n->vd.lock);
	n->s.announce = virtio_live(&n->vd) && n->tap >= 0 &&
			n->s.virtio.driver_features & NET_F_GUEST_ANNOUNCE;
	pthread_mutex_unlock(&n->vd.lock);
	virtio_notify_config(&n->vd);
}

void net_restored(struct machine *m, bool identity)
{
	bool hold = false;

	for (unsigned i = 0; identity && i < MACHINE_MAX_NETS; i++)
		hold |= net_is_told(m, i);
	for (unsigned i = 0; i < MACHINE_MAX_NETS; i++) {
		struct net *n = find(m, i);

		if (n && hold)
			n->held = true;
		else if (n)
			announce(n);
	}
}

/* What the guest has in its ring until now, it sent as who it was. */
static void release(struct net *n)
{
	uint32_t used;

	pthread_mutex_lock(&n->vd.lock);
	net_queue_drop_tx(n);
	n->held = false;
	used = n->used;
	n->used = 0;
	pthread_mutex_unlock(&n->vd.lock);
	virtio_notify_used(&n->vd, used);
	announce(n);
}

void net_identified(struct machine *m)
{
	for (unsigned i = 0; i < MACHINE_MAX_NETS; i++) {
		struct net *n = find(m, i);

		/* A driver without the command for it has told nobody. */
		if (n && net_mac_is_new(m, i) &&
			!(n->s.virtio.driver_features & NET_F_CTRL_MAC_ADDR))
			memcpy(n->s.mac, n->cfg->mac, 6);
		/* Once more, it would be told what it is already. */
		memset(m->net_was[i], 0, sizeof(m->net_was[i]));
		if (n && n->held)
			release(n);
	}
}
