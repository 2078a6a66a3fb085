/*
 * Files behind the devices of a machine on their way from a client to the
 * machine's process: images and taps are opened with the client's rights,
 * overlays are made in the state directory and have no name.
 *
 * A struct devfiles owns its descriptors. devfiles_fill() puts ids and
 * addresses into the overrides, devfiles_fds() the descriptors into a message;
 * the process finds the devices by id (api/machine/attach.h).
 */
#ifndef THAW_API_DAEMON_DEVFILES_H
#define THAW_API_DAEMON_DEVFILES_H

#include "api/daemon/config.h"

/* Most that devfiles_fds() gives. */
#define DEVFILES_MAX_FDS (3 * MACHINE_MAX_DISKS + MACHINE_MAX_NETS)

struct devfiles {
	unsigned ndisks, nnets;
	struct ctl_disk disk[MACHINE_MAX_DISKS];
	struct ctl_net net[MACHINE_MAX_NETS];
	int image[MACHINE_MAX_DISKS]; /* owned, -1 */
	int layer[MACHINE_MAX_DISKS];
	int overlay[MACHINE_MAX_DISKS];
	int tap[MACHINE_MAX_NETS];
};

/* What a clone gets on its way. */
struct clone_files {
	int listener; /* owned: vsock unix socket, -1 */
	struct devfiles dev;
};

void devfiles_init(struct devfiles *f);
void devfiles_close(struct devfiles *f);

/* What a configuration names. dir >= 0: it is a template's builder: every
 * writable disk gets an overlay, whatever it says (c->mc is changed), which is
 * the file ID.overlay in that directory. */
int devfiles_of_config(struct daemon *d, struct request *r, struct config *c,
	int dir, struct devfiles *f, struct err *e) MUST_USE;
/* The maps of overrides; any may be NULL. */
struct devfiles_maps {
	const msgpack_object *disks; /* {id: file} */
	const msgpack_object *taps, *macs, *ips;
	const msgpack_object *overlays; /* {id: file}, of machine.snapshot */
};
int devfiles_overrides(struct request *r, const struct devfiles_maps *maps,
	struct devfiles *f, struct err *e) MUST_USE;
/* Empty files that overlays are to be written to, {id: file}: as disks with
 * .overlay only. */
int devfiles_exports(struct request *r, const msgpack_object *overlays,
	struct devfiles *f, struct err *e) MUST_USE;
/* "mac" or "ip" when both are given the same, else NULL. */
const char *devfiles_net_clash(
	const struct ctl_net *a, const struct ctl_net *b);
/* A fresh overlay for each writable disk of a template, for one clone. */
int devfiles_clone_overlays(struct daemon *d, const struct machine_config *cfg,
	struct devfiles *f, struct err *e) MUST_USE;
/* Has the configuration disks that a clone must not write to? */
bool devfiles_need_overlays(const struct machine_config *cfg);
/* A file without a name in the state directory. */
int devfiles_new_overlay(struct daemon *d, struct err *e) MUST_USE;

void devfiles_fill(const struct devfiles *f, struct ctl_overrides *o);
/* Appends to fds[], which has room for DEVFILES_MAX_FDS more; returns n. */
unsigned devfiles_fds(const struct devfiles *f, struct ctl_fd *fds, unsigned n);

#endif
