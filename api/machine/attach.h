/*
 * What the daemon opened for the devices of a machine: taken out of a control
 * message and put where the devices look for it (struct machine_fds).
 */
#ifndef THAW_API_MACHINE_ATTACH_H
#define THAW_API_MACHINE_ATTACH_H

#include "api/ctl.h"

/* After machine_init() and before machine_realize(). Descriptors that m->fds
 * has already (a clone inherits its zygote's) give way to given ones. An id
 * that the machine has not is refused, and so is what the overrides make
 * impossible. */
int attach_devices(struct machine *m, struct ctl_packet *p,
	const struct ctl_overrides *o, struct err *e) MUST_USE;
/* Clones never write to a template's disks: each writable one gets a private
 * overlay. For zygotes. */
int attach_clone_disks(struct machine *m, struct err *e) MUST_USE;
/* Addresses of its own for a clone, where the overrides name none. */
int attach_new_macs(struct machine *m, const struct ctl_overrides *o,
	struct err *e) MUST_USE;

#endif
