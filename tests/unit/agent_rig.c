#include "tests/unit/test.h"
#include "tests/unit/agent_rig.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

void rig_done(
	void *arg, int status, const msgpack_object *o, const struct err *e)
{
	struct seen *s = arg;
	const msgpack_object *p;

	s->calls++;
	s->status = status;
	if (status) {
		/* Only what the agent itself said has more to it. */
		assert_int_equal(o != NULL, status == -EREMOTEIO);
		if (mp_get(o, "code"))
			s->code = mp_get(o, "code")->via.str.ptr[0];
		assert_int_equal(e->code, status);
		(void)snprintf(s->text, sizeof(s->text), "%s", e->msg);
	} else {
		p = mp_get(o, "payload");
		if (p && p->type == MSGPACK_OBJECT_BIN) {
			s->len = p->via.bin.size;
			if (s->len <= sizeof(s->payload))
				memcpy(s->payload, p->via.bin.ptr, s->len);
		}
	}
	if (s->again) {
		struct agent *a = s->again;

		s->again = NULL;
		assert_int_equal(agent_ping(a, RIG_SECOND, rig_done, s), 0);
	}
	if (s->kill) {
		agent_destroy(s->kill);
		s->kill = NULL;
	}
}

void rig_init(struct rig *r)
{
	memset(r, 0, sizeof(*r));
	fg_init(&r->g);
	fg_driver(&r->g);
	r->a = agent_create(&r->g.m);
	assert_non_null(r->a);
}

void rig_fini(struct rig *r)
{
	agent_destroy(r->a);
	fg_fini(&r->g);
}

/* The guest accepts the connection; the call's packet is in *p. */
void rig_accept(struct rig *r, struct fg_packet *p)
{
	fg_expect(&r->g, p, VSOCK_OP_REQUEST);
	assert_int_equal(p->h.dst_port, AGENT_VSOCK_PORT);
	r->port = p->h.src_port;
	fg_send(&r->g, VSOCK_OP_RESPONSE, AGENT_VSOCK_PORT, r->port, 0, NULL,
		0);
}

void rig_answer(struct rig *r, const void *data, size_t len)
{
	fg_send(&r->g, VSOCK_OP_RW, AGENT_VSOCK_PORT, r->port, 0, data,
		(uint32_t)len);
}

/* [1, id, nil, true] */
void rig_ok(struct rig *r, uint8_t id)
{
	const uint8_t ok[] = {0x94, 1, id, 0xc0, 0xc3};

	rig_answer(r, ok, sizeof(ok));
}

/* Open the stream by a ping that is answered. */
void rig_open(struct rig *r)
{
	struct fg_packet p;

	assert_int_equal(agent_ping(r->a, RIG_SECOND, rig_done, &r->seen), 0);
	rig_accept(r, &p);
	fg_expect(&r->g, &p, VSOCK_OP_RW);
	rig_ok(r, 0);
	assert_int_equal(r->seen.calls, 1);
	assert_int_equal(r->seen.status, 0);
	memset(&r->seen, 0, sizeof(r->seen));
}
