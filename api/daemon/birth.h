/*
 * Making clones. Whoever needs some fills in a struct want and starts it; the
 * template's zygote serves the wants in turn, a few clones at a time, so that
 * a large one does not hold up a small one.
 */
#ifndef THAW_API_DAEMON_BIRTH_H
#define THAW_API_DAEMON_BIRTH_H

#include "api/daemon/template.h"

/* How long a clone may take until its agent has acknowledged. */
#define CLONE_ACK_MS 10000

struct want;

/* m has been born (running, acknowledged), or is NULL and e says why not.
 * Called once per index; the want may be freed in the last call. */
typedef void want_fn(struct daemon *d, struct want *w, uint32_t index,
	struct machine_entry *m, const struct err *e);
/* Before index is asked for: finish the entry and fill files (empty), which are
 * closed afterwards. */
typedef int want_prepare_fn(struct daemon *d, struct want *w, uint32_t index,
	struct machine_entry *m, struct clone_files *files, struct err *e);

struct want {
	struct list link; /* template.wants while there is more to ask for */
	struct template *t;
	uint32_t count, asked;
	uint64_t timeout_ms; /* of one clone, from its fork on */
	/* NULL, or one per index: then each is asked for by itself. */
	const struct ctl_overrides *overrides; /* borrowed */
	want_fn *fn;
	want_prepare_fn *prepare; /* may be NULL */
	struct deadline late;     /* how long it may wait for a zygote */
};

/* Admission has been passed: the memory of all clones is reserved. */
void want_start(struct daemon *d, struct want *w);
/* Tell all that are not asked for yet. */
void want_fail(struct daemon *d, struct want *w, const struct err *e);

/* Ask a template's zygote for what is wanted, as far as its window goes. */
void birth_feed(struct daemon *d, struct template *t);
/* Ask for up to n clones for the pool; returns how many. */
unsigned birth_fill(struct daemon *d, struct template *t, unsigned n);

/* CTL_CLONED, CTL_HATCHED, and any failure before that. */
void birth_cloned(struct daemon *d, struct zygote *z, struct ctl_packet *p);
void birth_hatched(
	struct daemon *d, struct machine_entry *m, struct ctl_packet *p);
void birth_failed(
	struct daemon *d, struct machine_entry *m, const struct err *e);

#endif
