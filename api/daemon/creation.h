/* Making a template: see creation.c. */
#ifndef THAW_API_DAEMON_CREATION_H
#define THAW_API_DAEMON_CREATION_H

#include "api/daemon/template.h"

/* The template's first zygote is ready, or will never be. Both do nothing
 * when no creation is in progress. */
void creation_ready(struct daemon *d, struct template *t);
void creation_failed(
	struct daemon *d, struct template *t, const struct err *why);

#endif
