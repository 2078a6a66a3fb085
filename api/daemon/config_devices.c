/*
 * "devices" of a configuration: one table of keys, each with the types that
 * have it. A device is parsed into a struct config_device and then put where
 * its type belongs; what must hold among the devices is checked by the same
 * code as for a snapshot (core/machine_devices.c).
 */
#include "api/daemon/config.h"
#include "core/devices/limits.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

enum {
	T_VSOCK = 1,
	T_RNG = 2,
	T_BLOCK = 4,
	T_NET = 8,
};

struct config_device {
	unsigned type, given; /* T_*; types that the keys given allow */
	char id[MACHINE_ID_MAX];
	uint64_t cid;
	struct machine_disk disk;
	struct path_arg path;
	struct machine_net net;
	int64_t tap_fd;
	bool has_mac;
};

static int wrong(const char *path, const char *what, struct err *e)
{
	return err_set(e, -EINVAL, "%s: %s", path, what);
}

/* Which types have the key that is being parsed? */
static void only_for(struct config *c, unsigned types)
{
	c->dev->given &= types;
}

static int parse_type(const msgpack_object *v, const char *path,
	struct config *c, struct err *e)
{
	static const struct {
		const char *name;
		unsigned type;
	} types[] = {
		{"vsock", T_VSOCK},
		{"rng", T_RNG},
		{"block", T_BLOCK},
		{"net", T_NET},
	};

	for (size_t i = 0; i < ARRAY_SIZE(types); i++) {
		if (mp_str_eq(v, types[i].name))
			c->dev->type = types[i].type;
	}
	return c->dev->type ? 0 : wrong(path, "no such device type", e);
}

static int parse_id(const msgpack_object *v, const char *path, struct config *c,
	struct err *e)
{
	return param_name(v, path, sizeof(c->dev->id), c->dev->id, e);
}

static int parse_cid(const msgpack_object *v, const char *path,
	struct config *c, struct err *e)
{
	only_for(c, T_VSOCK);
	return param_uint(
		v, path, CONFIG_DEFAULT_CID, UINT32_MAX - 1, &c->dev->cid, e);
}

static int parse_path(const msgpack_object *v, const char *path,
	struct config *c, struct err *e)
{
	struct machine_disk *d = &c->dev->disk;

	only_for(c, T_BLOCK);
	if (v->type == MSGPACK_OBJECT_STR)
		(void)snprintf(d->path, sizeof(d->path), "%.*s",
			(int)min_u64(v->via.str.size, sizeof(d->path) - 1),
			v->via.str.ptr);
	else
		(void)snprintf(d->path, sizeof(d->path), "descriptor");
	return param_path(v, path, &c->dev->path, e);
}

static int parse_bool(
	const msgpack_object *v, const char *path, uint32_t *out, struct err *e)
{
	if (v->type != MSGPACK_OBJECT_BOOLEAN)
		return wrong(path, "must be true or false", e);
	*out = v->via.boolean;
	return 0;
}

static int parse_read_only(const msgpack_object *v, const char *path,
	struct config *c, struct err *e)
{
	only_for(c, T_BLOCK);
	return parse_bool(v, path, &c->dev->disk.read_only, e);
}

static int parse_overlay(const msgpack_object *v, const char *path,
	struct config *c, struct err *e)
{
	only_for(c, T_BLOCK);
	return parse_bool(v, path, &c->dev->disk.overlay, e);
}

static int parse_serial(const msgpack_object *v, const char *path,
	struct config *c, struct err *e)
{
	struct text t = {0};
	int r;

	only_for(c, T_BLOCK);
	r = param_text(v, path, MACHINE_SERIAL_MAX, &t, e);
	if (!r)
		memcpy(c->dev->disk.serial, t.p, t.n);
	return r;
}

static int parse_queues(const msgpack_object *v, const char *path,
	struct config *c, struct err *e)
{
	uint64_t n = 1;
	int r;

	only_for(c, T_BLOCK);
	r = param_uint(v, path, 1, BLOCK_MAX_QUEUES, &n, e);
	c->dev->disk.queues = (uint32_t)n;
	return r;
}

static int parse_tap(const msgpack_object *v, const char *path,
	struct config *c, struct err *e)
{
	struct machine_net *n = &c->dev->net;
	struct text t = {0};
	uint64_t fd = 0;
	int r;

	only_for(c, T_NET);
	if (v->type != MSGPACK_OBJECT_STR) {
		r = param_uint(v, path, 0, INT32_MAX, &fd, e);
		c->dev->tap_fd = (int64_t)fd;
		(void)snprintf(n->tap, sizeof(n->tap), "descriptor");
		return r;
	}
	/* IFNAMSIZ, with the zero byte */
	r = param_text(v, path, sizeof(n->tap) - 1, &t, e);
	if (!r && !t.n)
		return wrong(path, "is empty", e);
	if (!r)
		memcpy(n->tap, t.p, t.n);
	return r;
}

/* scanf() would take blanks and signs for digits. */
static bool mac_of(const char s[17], uint8_t mac[6])
{
	static const char digits[] = "0123456789abcdef0123456789ABCDEF";

	memset(mac, 0, 6);
	for (unsigned i = 0; i < 17; i++) {
		const char *d = s[i] ? strchr(digits, s[i]) : NULL;

		if (i % 3 == 2) {
			if (s[i] != ':')
				return false;
			continue;
		}
		if (!d)
			return false;
		mac[i / 3] = (uint8_t)(mac[i / 3] << 4 | (d - digits) % 16);
	}
	return true;
}

int config_parse_mac(const msgpack_object *v, const char *path, uint8_t mac[6],
	struct err *e)
{
	if (v->type != MSGPACK_OBJECT_STR || v->via.str.size != 17 ||
		!mac_of(v->via.str.ptr, mac))
		return wrong(path, "must be like \"02:00:00:00:00:01\"", e);
	if (mac[0] & 1)
		return wrong(path, "is a group's address, not a station's", e);
	return 0;
}

static int parse_mac(const msgpack_object *v, const char *path,
	struct config *c, struct err *e)
{
	only_for(c, T_NET);
	c->dev->has_mac = true;
	return config_parse_mac(v, path, c->dev->net.mac, e);
}

static int parse_mtu(const msgpack_object *v, const char *path,
	struct config *c, struct err *e)
{
	uint64_t n = 0;
	int r;

	only_for(c, T_NET);
	r = param_uint(v, path, NET_MIN_MTU, UINT16_MAX, &n, e);
	c->dev->net.mtu = (uint16_t)n;
	return r;
}

const struct config_key config_device_keys[] = {
	{"type", "string", "required",
		"What it is: `\"block\"`, `\"net\"`, `\"vsock\"` or `\"rng\"`. "
		"A machine has at most one vsock and one rng, 8 disks and 8 "
		"network interfaces.",
		parse_type},
	{"id", "name", "`disk0` .., `net0` ..",
		"Names the device in overrides and messages; no two devices "
		"have the same.",
		parse_id},
	{"path", "path", "required", "block: a raw disk image.", parse_path},
	{"read_only", "bool", "false",
		"block: the guest cannot write; the file is opened for reading "
		"only.",
		parse_read_only},
	{"overlay", "bool", "false",
		"block: writes go to a private file that ends with the "
		"machine, "
		"never to `path`. A template and its clones always do so.",
		parse_overlay},
	{"serial", "string", "the id", "block: the serial number, 20 bytes.",
		parse_serial},
	{"queues", "number", "1", "block: request queues, 1 to 4.",
		parse_queues},
	{"tap", "name or descriptor", "none",
		"net: a tap interface that exists. Without it the link is "
		"down.",
		parse_tap},
	{"mac", "string", "random", "net: the address the guest sees.",
		parse_mac},
	{"mtu", "number", "none", "net: told to the guest.", parse_mtu},
	{"cid", "number", "3",
		"vsock: the guest's context id. Clones get one each.",
		parse_cid},
};
const unsigned nconfig_device_keys = ARRAY_SIZE(config_device_keys);

/* ---- into the configuration ---- */

static int add_vsock(struct config *c, const char *where, struct err *e)
{
	if (c->nvsocks++)
		return wrong(where, "a machine has one vsock", e);
	c->mc.vsock_cid =
		c->dev->cid ? (uint32_t)c->dev->cid : CONFIG_DEFAULT_CID;
	return 0;
}

static int add_rng(struct config *c, const char *where, struct err *e)
{
	if (c->mc.rng)
		return wrong(where, "a machine has one rng", e);
	c->mc.rng = 1;
	return 0;
}

static int add_block(struct config *c, const char *where, struct err *e)
{
	struct config_device *dev = c->dev;
	struct machine_disk *d = &dev->disk;

	if (c->ndisks == MACHINE_MAX_DISKS)
		return wrong(where, "a machine has at most 8 disks", e);
	if (!dev->path.path.p && dev->path.fd < 0)
		return err_set(e, -EINVAL, "%s.path: is missing", where);
	if (dev->id[0])
		memcpy(d->id, dev->id, sizeof(d->id));
	else
		(void)snprintf(d->id, sizeof(d->id), "disk%u", c->ndisks);
	if (!d->serial[0])
		(void)snprintf(d->serial, sizeof(d->serial), "%.*s",
			MACHINE_SERIAL_MAX, d->id);
	if (!d->queues)
		d->queues = 1;
	c->disk[c->ndisks] = dev->path;
	c->mc.disk[c->ndisks++] = *d;
	return 0;
}

/* Locally administered, of one station. */
static int draw_mac(uint8_t mac[6], struct err *e)
{
	if (getrandom(mac, 6, 0) != 6)
		return err_sys(e, -errno, "getrandom");
	mac[0] = (uint8_t)((mac[0] & 0xfc) | 0x02);
	return 0;
}

static int add_net(struct config *c, const char *where, struct err *e)
{
	struct config_device *dev = c->dev;
	struct machine_net *n = &dev->net;
	int r = 0;

	if (c->nnets == MACHINE_MAX_NETS)
		return wrong(
			where, "a machine has at most 8 network interfaces", e);
	if (dev->id[0])
		memcpy(n->id, dev->id, sizeof(n->id));
	else
		(void)snprintf(n->id, sizeof(n->id), "net%u", c->nnets);
	if (!dev->has_mac)
		r = draw_mac(n->mac, e);
	c->tap_fd[c->nnets] = dev->tap_fd;
	c->mc.net[c->nnets++] = *n;
	return r;
}

static int add(struct config *c, const char *where, struct err *e)
{
	if (!c->dev->type)
		return err_set(e, -EINVAL, "%s.type: is missing", where);
	if (!(c->dev->given & c->dev->type))
		return wrong(where, "has a key that is not of its type", e);
	switch (c->dev->type) {
	case T_VSOCK:
		return add_vsock(c, where, e);
	case T_RNG:
		return add_rng(c, where, e);
	case T_BLOCK:
		return add_block(c, where, e);
	default:
		return add_net(c, where, e);
	}
}

int config_parse_devices(const msgpack_object *v, const char *path,
	struct config *c, struct err *e)
{
	char where[64];

	if (v->type != MSGPACK_OBJECT_ARRAY)
		return wrong(path, "must be an array", e);
	c->mc.vsock_cid = 0;
	for (uint32_t i = 0; i < v->via.array.size; i++) {
		struct config_device dev = {
			.given = ~0u, .path = {.fd = -1}, .tap_fd = -1};
		int r;

		(void)snprintf(where, sizeof(where), "%s[%u]", path, i);
		c->dev = &dev;
		r = config_parse_map(&v->via.array.ptr[i], where,
			config_device_keys, nconfig_device_keys, c, e);
		if (!r)
			r = add(c, where, e);
		c->dev = NULL;
		if (r)
			return r;
	}
	return machine_devices_check(&c->mc, e);
}
