/*
 * An agent client and a fake guest whose agent is the test.
 */
#ifndef THAW_TESTS_UNIT_AGENT_RIG_H
#define THAW_TESTS_UNIT_AGENT_RIG_H

#include "tests/unit/fake_guest.h"

#include "core/agent.h"

#define RIG_SECOND 1000000000ULL

/* What the last callbacks said. */
struct seen {
	int calls;
	int status;
	char text[500];
	char code; /* first letter of the agent's error */
	uint8_t payload[64];
	size_t len;
	struct agent *again; /* call once more from the callback */
	struct agent *kill;  /* destroy in the callback */
};

struct rig {
	struct fake_guest g;
	struct agent *a;
	uint32_t port; /* of the host's side */
	struct seen seen;
};

/* An agent_done_fn; arg is a struct seen. */
void rig_done(
	void *arg, int status, const msgpack_object *o, const struct err *e);
void rig_init(struct rig *r);
void rig_fini(struct rig *r);
/* The guest accepts the connection; the REQUEST is in *p. */
void rig_accept(struct rig *r, struct fg_packet *p);
void rig_answer(struct rig *r, const void *data, size_t len);
/* [1, id, nil, true] */
void rig_ok(struct rig *r, uint8_t id);
/* Open the stream by a ping (id 0) that is answered. */
void rig_open(struct rig *r);

#endif
