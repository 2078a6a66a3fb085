#include "api/machine/worker.h"

#include <errno.h>
#include <string.h>

/*
 * CTL_AGENT: any method of the agent's, for a machine that runs. The daemon
 * made the parameters and looks at the result; here they only pass.
 */

/* A command may use all of its time; the agent's answer comes after that. */
#define LATE_NS (5 * 1000000000ULL)

static int code_of(const msgpack_object *error)
{
	/* Names of docs/api.md; what is not here is an internal error. */
	static const struct {
		const char *name;
		int code;
	} codes[] = {
		{"invalid", -EINVAL},
		{"not_found", -ENOENT},
		{"exists", -EEXIST},
		{"busy", -EBUSY},
		{"denied", -EACCES},
		{"unsupported", -EOPNOTSUPP},
		{"timeout", -ETIMEDOUT},
		{"exhausted", -ENOSPC},
	};
	const msgpack_object *o = mp_get(error, "code");

	for (size_t i = 0; o && i < ARRAY_SIZE(codes); i++) {
		if (mp_str_eq(o, codes[i].name))
			return codes[i].code;
	}
	return -EIO;
}

/* The built-in guest's agent, and functions', know only invokes. */
static bool knows_not(const msgpack_object *error)
{
	const msgpack_object *o = mp_get(error, "message");

	return o && mp_str_eq(o, "unknown method");
}

static void fail(struct worker_call *c, int status, const msgpack_object *error,
	const struct err *why)
{
	struct err e = *why;

	if (status == -EREMOTEIO && knows_not(error))
		err_set(&e, -EOPNOTSUPP,
			"this guest's agent takes no commands and files; that "
			"needs a Linux guest with thaw-agent");
	else if (status == -EREMOTEIO)
		e.code = code_of(error);
	worker_reply_error(c->w, &c->request, &e);
}

static void answered(void *arg, int status, const msgpack_object *result,
	const struct err *why)
{
	struct worker_call *c = arg;
	struct ctl_msg m = {0};
	struct err e = {0};
	msgpack_sbuffer out;
	msgpack_packer pk;

	c->used = false;
	if (status) {
		fail(c, status, result, why);
		return;
	}
	msgpack_sbuffer_init(&out);
	msgpack_packer_init(&pk, &out, msgpack_sbuffer_write);
	if (msgpack_pack_object(&pk, *result) || out.size > UINT32_MAX) {
		err_set(&e, -ENOMEM, "no memory for the agent's answer");
		worker_reply_error(c->w, &c->request, &e);
	} else {
		m.len = (uint32_t)out.size;
		worker_reply(c->w, &c->request, &m, out.data, NULL, 0);
	}
	msgpack_sbuffer_destroy(&out);
}

int worker_agent(struct worker *w, struct ctl_packet *p, struct err *e)
{
	struct agent_request q = {.method = (const char *)p->payload};
	size_t n = p->msg.len ? strnlen(q.method, p->msg.len) + 1 : 0;
	struct worker_call *c;
	int r;

	if (!n || n > p->msg.len)
		return err_set(e, -EINVAL, "no method");
	if (!w->agent)
		return err_set(e, -EOPNOTSUPP, "the machine has no vsock");
	if (w->m.state == MACHINE_DEAD)
		return err_set(e, -EINVAL, "the guest has ended");
	if (w->m.state != MACHINE_RUNNING)
		return err_set(e, -EBUSY, "the machine is paused");
	c = worker_call_get(w, &p->msg);
	if (!c)
		return err_set(e, -EBUSY, "%d requests are in flight",
			WORKER_MAX_INVOKES);
	q.params = p->payload + n;
	q.len = p->msg.len - n;
	r = agent_call(w->agent, &q,
		p->msg.agent.timeout_ms * 1000000ULL + LATE_NS, answered, c);
	if (!r)
		return 0;
	c->used = false;
	return err_sys(e, r, "handing the request to the agent");
}
