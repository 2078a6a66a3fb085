/*
 * Inside the agent client: its state and its calls. core/agent.c moves them,
 * core/agent_call.c packs them.
 */
#ifndef THAW_CORE_AGENT_CALL_H
#define THAW_CORE_AGENT_CALL_H

#include "core/agent.h"
#include "core/buf.h"

struct call {
	struct call *next;
	uint32_t id;
	bool sent;
	bool identity;
	uint32_t ips;      /* addresses that the answer must acknowledge */
	uint64_t deadline; /* 0: none */
	agent_done_fn *fn;
	void *arg;
	struct buf req; /* until sent */
};

struct agent {
	struct machine *m;      /* borrowed */
	struct vsock_stream *s; /* borrowed until closed(); NULL: none */
	bool open;
	bool refused; /* the last attempt ended so */
	uint64_t retry_at;
	uint32_t next_id;
	struct call *calls; /* owned, oldest first */
	struct buf in;
	struct mp_walk walk;
	unsigned busy; /* functions of ours below a callback */
	bool dead;     /* destroyed in a callback */
};

void agent_call_free(struct call *c);
/* Send it as soon as that is possible; owned from here, also when it fails. */
int agent_call_start(struct agent *a, struct call *c, uint64_t timeout_ns,
	agent_done_fn *fn, void *arg) MUST_USE;

#endif
