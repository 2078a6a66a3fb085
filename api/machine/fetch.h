/* Everything of a remote snapshot but its chunks (CTL_ROLE_FETCH). */
#ifndef THAW_API_MACHINE_FETCH_H
#define THAW_API_MACHINE_FETCH_H

#include "api/ctl.h"

int fetch_snapshot(struct ctl_packet *p, struct ctl_setup_done *done,
	struct err *e) MUST_USE;

#endif
