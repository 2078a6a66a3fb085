/*
 * MACs of machines that are alive: who was given one (macs of a clone or a
 * restore), or has it by its configuration. No other machine is given it then,
 * and who asks is told who has it. Addresses that clones draw for themselves
 * are known to nobody but them.
 */
#ifndef THAW_API_DAEMON_MACS_H
#define THAW_API_DAEMON_MACS_H

#include "api/daemon/devfiles.h"

struct machine_entry;

/* Is each address that files give free, or m's own (NULL: nobody's yet)? -EBUSY
 * when it is not. */
int macs_check(struct daemon *d, const struct machine_entry *m,
	const struct devfiles *files, struct err *e) MUST_USE;
/* The same, and they are m's until macs_release(). Once for an entry. */
int macs_claim(struct daemon *d, struct machine_entry *m,
	const struct devfiles *files, struct err *e) MUST_USE;
/* A configuration's addresses become m's too, as far as they are free. */
void macs_note(struct daemon *d, struct machine_entry *m,
	const struct machine_config *cfg);
void macs_release(struct daemon *d, struct machine_entry *m);

#endif
