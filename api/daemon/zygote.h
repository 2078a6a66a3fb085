/* The process that forks a template's clones; see zygote.c. */
#ifndef THAW_API_DAEMON_ZYGOTE_H
#define THAW_API_DAEMON_ZYGOTE_H

#include "api/daemon/template.h"

struct zygote {
	struct proc p;
	struct template *t;   /* borrowed */
	struct list link;     /* template.retired */
	struct list clones;   /* machine_entry.of_zygote */
	unsigned outstanding; /* asked for, not yet hatched */
	unsigned children;    /* forked, not yet reaped */
	struct feed *feed;    /* borrowed: whose base it has; NULL: complete */
	bool ready, retired;
};

/* A new one, when the template has none. Failure is handled: it is tried again
 * a few times, then the template is FAILED. */
void zygote_start(struct daemon *d, struct template *t);
/* It could not be started, or died: again after a while, or FAILED. */
void zygote_lost(struct daemon *d, struct template *t, const struct err *why);
void zygote_kill(struct daemon *d, struct zygote *z, const struct err *why);
/* Keep the base that came with an answer, if it is sealed. */
void zygote_keep_base(struct template *t, struct ctl_packet *p);

void zygote_message(struct daemon *d, struct zygote *z, struct ctl_packet *p);
void zygote_gone(struct daemon *d, struct zygote *z, int status);

#endif
