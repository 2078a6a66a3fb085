#include "api/machine/attach.h"

#include "core/net.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

static void replace(int *fd, int given)
{
	if (given < 0)
		return;
	if (*fd >= 0)
		(void)close(*fd);
	*fd = given;
}

static int attach_disk(struct machine *m, struct ctl_packet *p,
	const struct ctl_overrides *o, unsigned i, struct err *e)
{
	int k = machine_find_disk(&m->cfg, o->disk[i].id);

	if (k < 0)
		return err_set(e, -EINVAL, "the machine has no disk \"%s\"",
			o->disk[i].id);
	replace(&m->fds.disk[k], ctl_take(p, CTL_FD_DISK, i));
	replace(&m->fds.layer[k], ctl_take(p, CTL_FD_LAYER, i));
	replace(&m->fds.overlay[k], ctl_take(p, CTL_FD_OVERLAY, i));
	return 0;
}

static int attach_net(struct machine *m, struct ctl_packet *p,
	const struct ctl_overrides *o, unsigned i, struct err *e)
{
	const struct ctl_net *n = &o->net[i];
	int k = machine_find_net(&m->cfg, n->id);

	if (k < 0)
		return err_set(e, -EINVAL,
			"the machine has no network interface \"%s\"", n->id);
	replace(&m->fds.tap[k], ctl_take(p, CTL_FD_TAP, i));
	if (n->tap[0])
		memcpy(m->cfg.net[k].tap, n->tap, sizeof(n->tap));
	if (n->has_mac)
		net_set_mac(m, (unsigned)k, n->mac);
	if (n->ip.ip[0] && (!m->vsock || m->cfg.builtin))
		return err_set(e, -EOPNOTSUPP,
			"interface \"%s\": an address needs a Linux guest with "
			"thaw-agent and a vsock",
			n->id);
	m->net_ip[k] = n->ip;
	return 0;
}

int attach_devices(struct machine *m, struct ctl_packet *p,
	const struct ctl_overrides *o, struct err *e)
{
	int r = 0;

	if (o->ndisks > MACHINE_MAX_DISKS || o->nnets > MACHINE_MAX_NETS)
		return err_set(e, -EINVAL, "malformed overrides");
	for (unsigned i = 0; i < o->ndisks && !r; i++)
		r = attach_disk(m, p, o, i, e);
	for (unsigned i = 0; i < o->nnets && !r; i++)
		r = attach_net(m, p, o, i, e);
	return r ? r : machine_devices_check(&m->cfg, e);
}

int attach_clone_disks(struct machine *m, struct err *e)
{
	for (unsigned i = 0; i < MACHINE_MAX_DISKS; i++) {
		struct machine_disk *d = &m->cfg.disk[i];

		if (d->id[0] && m->fds.disk[i] < 0)
			return err_set(e, -EINVAL,
				"disk \"%s\" (%.200s): its file was not given",
				d->id, d->path);
		if (d->overlay && m->fds.layer[i] < 0)
			return err_set(e, -EINVAL,
				"disk \"%s\": what was written to its private "
				"overlay is not in the snapshot",
				d->id);
		if (d->id[0] && !d->read_only)
			d->overlay = 1;
	}
	return 0;
}

static bool has_mac(const struct ctl_overrides *o, const char *id)
{
	for (unsigned i = 0; i < o->nnets; i++) {
		if (o->net[i].has_mac && !strcmp(o->net[i].id, id))
			return true;
	}
	return false;
}

int attach_new_macs(
	struct machine *m, const struct ctl_overrides *o, struct err *e)
{
	for (unsigned i = 0; i < MACHINE_MAX_NETS; i++) {
		const char *id = m->cfg.net[i].id;
		uint8_t mac[6];

		if (!id[0] || has_mac(o, id))
			continue;
		if (getrandom(mac, sizeof(mac), 0) != sizeof(mac))
			return err_sys(e, -errno, "getrandom");
		/* locally administered, of one station */
		mac[0] = (uint8_t)((mac[0] & 0xfc) | 0x02);
		net_set_mac(m, i, mac);
	}
	return 0;
}
