/*
 * Client of the agent in the guest: msgpack-rpc on vsock port 1024. One
 * stream, opened on first use and kept; requests are answered in any order.
 * The guest is hostile: answers are bounded and checked. Loop thread.
 */
#ifndef THAW_CORE_AGENT_H
#define THAW_CORE_AGENT_H

#include "core/machine.h"
#include "core/mp.h"

struct agent;

#define AGENT_MAX_PAYLOAD (6 * MIB)

/* status 0: result is the answer (valid during the call only). Else a negative
 * errno with e set: -ETIMEDOUT, -ECONNREFUSED, -ECONNRESET, -EBADMSG, or
 * -EREMOTEIO when the agent itself answered with an error; result is that
 * error then, and NULL with the others. */
typedef void agent_done_fn(void *arg, int status, const msgpack_object *result,
	const struct err *e);

struct agent *agent_create(struct machine *m);
/* Pending calls are dropped without a callback. */
void agent_destroy(struct agent *a);

/* Ping is answered when the agent is ready for invokes: a Linux guest's agent
 * waits for its handler. 0, or -errno without a callback. timeout_ns 0: no
 * limit. A refused connection is tried again until then (the guest may still be
 * booting). */
int agent_ping(struct agent *a, uint64_t timeout_ns, agent_done_fn *fn,
	void *arg) MUST_USE;
/* With the interfaces of m->net_was and m->net_ip. */
int agent_identity(struct agent *a, const struct identity *id,
	uint64_t timeout_ns, agent_done_fn *fn, void *arg) MUST_USE;
int agent_invoke(struct agent *a, const void *payload, size_t len,
	uint64_t timeout_ns, agent_done_fn *fn, void *arg) MUST_USE;

/* Any method of the agent's. */
struct agent_request {
	const char *method;
	const void *params; /* one msgpack map */
	size_t len;
};
int agent_call(struct agent *a, const struct agent_request *q,
	uint64_t timeout_ns, agent_done_fn *fn, void *arg) MUST_USE;

/* What time it is, for a Linux guest that was parked or told long ago (the
 * built-in guest has its time from the identity page). It arrives ahead of
 * every call made after it, and the guest's clock is then wrong by no more than
 * the answer took. */
int agent_set_clock(struct agent *a, uint64_t timeout_ns, agent_done_fn *fn,
	void *arg) MUST_USE;

/* The next moment (now_ns() scale) at which agent_tick() must be called, or 0:
 * the owner folds it into its loop's timeout. */
uint64_t agent_deadline(const struct agent *a);
void agent_tick(struct agent *a);

#endif
