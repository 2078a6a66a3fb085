/* What the daemon knows about itself and its host. */
#ifndef THAW_API_DAEMON_INFO_H
#define THAW_API_DAEMON_INFO_H

#include "api/daemon/daemon.h"

/* Start the helper that probes KVM, and read what needs no helper. */
void info_init(struct daemon *d);
void info_fini(struct daemon *d);
/* The helper printed something, or ended. */
void info_event(struct daemon *d);
/* Before the first client is served: wait, within limits, until the probe has
 * ended, so that nobody is told that a host has no KVM while we do not know. */
void info_wait(struct daemon *d);

#endif
