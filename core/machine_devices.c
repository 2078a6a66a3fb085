/*
 * The parts of the configuration that devices are made from: their state
 * tables and what must hold among them.
 */
#include "core/devices/limits.h"
#include "core/machine.h"

#include <errno.h>
#include <string.h>

/* Printable, terminated, zero bytes behind it: it is shown to people. */
static bool is_text(const char *s, size_t size)
{
	size_t n = strnlen(s, size);

	if (n == size)
		return false;
	for (size_t i = 0; i < n; i++) {
		if (s[i] < ' ' || s[i] > '~')
			return false;
	}
	for (size_t i = n; i < size; i++) {
		if (s[i])
			return false;
	}
	return true;
}

/* ---- disks ---- */

static const struct st_field disk_fields[] = {
	ST_RAW(struct machine_disk, id, 1),
	ST_RAW(struct machine_disk, path, 1),
	ST_RAW(struct machine_disk, serial, 1),
	ST_U(struct machine_disk, read_only, 1),
	ST_U(struct machine_disk, overlay, 1),
	ST_U(struct machine_disk, queues, 1),
	ST_U(struct machine_disk, reserved, 1),
};

static int disk_check(const void *state, struct err *e)
{
	const struct machine_disk *d = state;

	if (!is_text(d->id, sizeof(d->id)) ||
		!memchr(d->path, 0, sizeof(d->path)) ||
		!is_text(d->serial, sizeof(d->serial)))
		return err_set(e, -EINVAL, "disk: id, path or serial: no text");
	if (strlen(d->serial) > MACHINE_SERIAL_MAX)
		return err_set(e, -EINVAL,
			"disk \"%s\": serial: longer than %d bytes", d->id,
			MACHINE_SERIAL_MAX);
	if (d->read_only > 1 || d->overlay > 1 || d->reserved)
		return err_set(e, -EINVAL,
			"disk \"%s\": read_only, overlay or reserved is "
			"neither 0 nor 1",
			d->id);
	if (d->id[0] && (!d->queues || d->queues > BLOCK_MAX_QUEUES))
		return err_set(e, -EINVAL,
			"disk \"%s\": queues: %u; it must be 1 to %u", d->id,
			d->queues, BLOCK_MAX_QUEUES);
	if (d->read_only && d->overlay)
		return err_set(e, -EINVAL,
			"disk \"%s\": a read-only disk needs no overlay",
			d->id);
	return 0;
}

const struct st_desc machine_disk_desc = {
	.name = "disk",
	.size = sizeof(struct machine_disk),
	.version = 1,
	.nfields = ARRAY_SIZE(disk_fields),
	.fields = disk_fields,
	.check = disk_check,
};

/* ---- network interfaces ---- */

static const struct st_field net_fields[] = {
	ST_RAW(struct machine_net, id, 1),
	ST_RAW(struct machine_net, tap, 1),
	ST_RAW(struct machine_net, mac, 1),
	ST_U(struct machine_net, mtu, 1),
};

static int net_check(const void *state, struct err *e)
{
	static const uint8_t none[6];
	const struct machine_net *n = state;

	if (!is_text(n->id, sizeof(n->id)) || !is_text(n->tap, sizeof(n->tap)))
		return err_set(e, -EINVAL, "net: id or tap: no text");
	if (!n->id[0])
		return 0;
	if (n->mac[0] & 1 || !memcmp(n->mac, none, sizeof(none)))
		return err_set(e, -EINVAL,
			"net \"%s\": mac: not an address of one station",
			n->id);
	if (n->mtu && n->mtu < NET_MIN_MTU)
		return err_set(e, -EINVAL,
			"net \"%s\": mtu: %u; it must be %u to 65535", n->id,
			n->mtu, NET_MIN_MTU);
	return 0;
}

const struct st_desc machine_net_desc = {
	.name = "net",
	.size = sizeof(struct machine_net),
	.version = 1,
	.nfields = ARRAY_SIZE(net_fields),
	.fields = net_fields,
	.check = net_check,
};

/* ---- together ---- */

static const char *id_of(const struct machine_config *c, unsigned i)
{
	return i < MACHINE_MAX_DISKS ? c->disk[i].id
				     : c->net[i - MACHINE_MAX_DISKS].id;
}

static int check_twins(const struct machine_config *c, struct err *e)
{
	for (unsigned i = 0; i < MACHINE_MAX_DISKS + MACHINE_MAX_NETS; i++) {
		for (unsigned k = 0; k < i && id_of(c, i)[0]; k++) {
			if (!strcmp(id_of(c, i), id_of(c, k)))
				return err_set(e, -EINVAL,
					"two devices have the id \"%s\"",
					id_of(c, i));
		}
	}
	for (unsigned i = 0; i < MACHINE_MAX_NETS; i++) {
		for (unsigned k = 0; k < i && c->net[i].id[0]; k++) {
			if (c->net[k].id[0] &&
				!memcmp(c->net[i].mac, c->net[k].mac, 6))
				return err_set(e, -EINVAL,
					"net \"%s\" and \"%s\" have the same "
					"mac",
					c->net[k].id, c->net[i].id);
		}
	}
	return 0;
}

int machine_devices_check(const struct machine_config *c, struct err *e)
{
	int r = 0;

	for (unsigned i = 0; i < MACHINE_MAX_DISKS && !r; i++)
		r = disk_check(&c->disk[i], e);
	for (unsigned i = 0; i < MACHINE_MAX_NETS && !r; i++)
		r = net_check(&c->net[i], e);
	if (!r && c->rng > 1)
		r = err_set(e, -EINVAL, "rng: %u is neither 0 nor 1", c->rng);
	return r ? r : check_twins(c, e);
}

int machine_find_disk(const struct machine_config *c, const char *id)
{
	for (int i = 0; i < MACHINE_MAX_DISKS; i++) {
		if (c->disk[i].id[0] && !strcmp(c->disk[i].id, id))
			return i;
	}
	return -1;
}

int machine_find_net(const struct machine_config *c, const char *id)
{
	for (int i = 0; i < MACHINE_MAX_NETS; i++) {
		if (c->net[i].id[0] && !strcmp(c->net[i].id, id))
			return i;
	}
	return -1;
}
