/* Notifications "event" to the connections that asked for them. */
#ifndef THAW_API_DAEMON_EVENTS_H
#define THAW_API_DAEMON_EVENTS_H

#include "api/daemon/template.h"

void events_machine(
	struct daemon *d, const char *type, const struct machine_entry *m);
void events_template(
	struct daemon *d, const char *type, const struct template *t);
/* text: NULL, how far it is, the path, or why it failed. */
void events_snapshot(
	struct daemon *d, const char *type, const char *id, const char *text);
void events_zygote(
	struct daemon *d, const struct template *t, const char *text);

#endif
