/* What the daemon knows about itself and its host. */
#ifndef THAW_API_DAEMON_INFO_H
#define THAW_API_DAEMON_INFO_H

#include "api/daemon/daemon.h"

/* Start the helper that probes KVM, and read what needs no helper. */
void info_init(struct daemon *d);
void info_fini(struct daemon *d);
/* The helper printed something, or ended. */
void info_event(struct daemon *d);

#endif
