/*
 * Admission: limits on machines, descriptors and memory, checked before
 * anything is made. Over a limit is -EAGAIN ("exhausted"), at once. What was
 * admitted counts as reserved until MemAvailable shows it.
 */
#ifndef THAW_API_DAEMON_ADMIT_H
#define THAW_API_DAEMON_ADMIT_H

#include "api/daemon/template.h"

int admit_init(struct daemon *d, struct err *e) MUST_USE;
void admit_fini(struct daemon *d);

/* total clones are handed out, fresh of them must be made. On success the
 * memory of the fresh ones is reserved. */
int admit_clones(struct daemon *d, const struct template *t, uint64_t total,
	uint64_t fresh, struct err *e) MUST_USE;
int admit_pool(struct daemon *d, const struct template *t, uint64_t n,
	struct err *e) MUST_USE;
/* One machine of its own; reserves on success. */
int admit_machine(
	struct daemon *d, struct machine_entry *m, struct err *e) MUST_USE;
/* What a clone is expected to cost. */
uint64_t admit_clone_bytes(const struct template *t);

void admit_reserve(struct daemon *d, uint64_t bytes);
void admit_unreserve(struct daemon *d, uint64_t bytes);
/* The memory of m shows in MemAvailable now, or is not needed. */
void admit_release(struct daemon *d, struct machine_entry *m);
/* Bytes, at most 5 ms old. */
uint64_t admit_available(struct daemon *d);

#endif
