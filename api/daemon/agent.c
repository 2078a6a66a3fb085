#include "api/daemon/machine.h"
#include "api/daemon/methods.h"

#include <errno.h>
#include <string.h>

/*
 * Methods "machine.exec", "machine.put" and "machine.get": one request to a
 * Linux guest's agent each, for clients that do not want to speak with it
 * themselves (machine.connect). What the guest answers is checked field by
 * field and handed on.
 */

/* Our patience beyond the time the machine itself keeps to. */
#define GRACE_MS 10000
#define FILE_MS  30000
#define MAX_ARGS 1024u

static const struct mp_limits limits = {.max_depth = 4, .max_elements = 64};

struct field {
	const char *name;
	msgpack_object_type type;
};

struct agent_method {
	const char *name;
	struct field result[8]; /* ends with an empty name */
};

#define NUMBER MSGPACK_OBJECT_POSITIVE_INTEGER
#define TRUTH  MSGPACK_OBJECT_BOOLEAN
#define BYTES  MSGPACK_OBJECT_BIN

static const struct agent_method exec_method = {"exec",
	{{"exit", NUMBER}, {"signal", NUMBER}, {"timed_out", TRUTH},
		{"stdout", BYTES}, {"stderr", BYTES}, {"truncated", TRUTH}}};
static const struct agent_method put_method = {"put", {{"size", NUMBER}}};
static const struct agent_method get_method = {"get",
	{{"data", BYTES}, {"eof", TRUTH}, {"size", NUMBER}, {"mode", NUMBER}}};

struct agent_op {
	struct request *r;
	const struct agent_method *method;
};

/* ---- the answer ---- */

static int check(
	const struct agent_method *am, const msgpack_object *o, struct err *e)
{
	for (const struct field *f = am->result; f->name; f++) {
		const msgpack_object *v = mp_get(o, f->name);

		if (!v || v->type != f->type)
			return err_set(e, -EIO,
				"the answer of the agent in the guest has no "
				"proper \"%s\"",
				f->name);
	}
	return 0;
}

static void hand_on(struct agent_op *op, const msgpack_object *o)
{
	msgpack_packer *p = request_begin(op->r);
	uint32_t n = 0;

	while (op->method->result[n].name)
		n++;
	(void)msgpack_pack_map(p, n);
	for (uint32_t i = 0; i < n; i++) {
		const char *name = op->method->result[i].name;

		mp_str(p, name);
		(void)msgpack_pack_object(p, *mp_get(o, name));
	}
	request_end(op->r);
}

static void answered(
	struct daemon *d, void *arg, struct ctl_packet *pk, const struct err *e)
{
	struct agent_op *op = arg;
	msgpack_unpacked up;
	struct err why = {0};
	int r;

	(void)d;
	if (!pk) {
		why = *e;
		/* The guest's own failures are not the client's. */
		if (why.code == -EBADMSG || why.code == -ECONNRESET ||
			why.code == -ECONNREFUSED)
			why.code = -EIO;
		request_fail(op->r, &why);
		free(op);
		return;
	}
	r = mp_unpack(pk->payload, pk->msg.len, &limits, &up, NULL);
	if (r)
		err_set(&why, -EIO, "the agent's answer is malformed");
	else
		r = check(op->method, &up.data, &why);
	if (r)
		request_fail(op->r, &why);
	else
		hand_on(op, &up.data);
	msgpack_unpacked_destroy(&up);
	free(op);
}

/* ---- the request ---- */

static int running(struct daemon *d, const char *id, struct machine_entry **m,
	struct err *e)
{
	int r = machine_get(d, id, m, e);

	if (r || (*m)->state == ENTRY_RUNNING)
		return r;
	return err_set(e, (*m)->state == ENTRY_ENDED ? -ENOENT : -EBUSY,
		"%s: the machine is %s", (*m)->id, machine_state(*m));
}

/* Call the method with the packed parameters in b, which is used up. */
static int ask(struct request *r, struct machine_entry *m,
	const struct agent_method *am, uint64_t timeout_ms, msgpack_sbuffer *b,
	struct err *e)
{
	struct ctl_msg msg = {.type = CTL_AGENT, .len = (uint32_t)b->size};
	struct agent_op *op = malloc(sizeof(*op));
	int rc;

	msg.agent.timeout_ms = (uint32_t)timeout_ms;
	if (op) {
		*op = (struct agent_op){r, am};
		rc = proc_call(r->d, &m->p,
			&(struct proc_request){.m = &msg,
				.payload = b->data,
				.timeout_ms = timeout_ms + GRACE_MS,
				.fn = answered,
				.arg = op},
			e);
	} else {
		rc = err_set(e, -ENOMEM, "no memory for a request");
	}
	if (rc)
		free(op);
	msgpack_sbuffer_destroy(b);
	return rc;
}

static void begin(msgpack_sbuffer *b, msgpack_packer *p,
	const struct agent_method *am, uint32_t nparams)
{
	msgpack_sbuffer_init(b);
	msgpack_packer_init(p, b, msgpack_sbuffer_write);
	(void)msgpack_sbuffer_write(b, am->name, strlen(am->name) + 1);
	(void)msgpack_pack_map(p, nparams);
}

static void pack_text(
	msgpack_packer *p, const char *key, const struct text *t, bool bytes)
{
	mp_str(p, key);
	if (bytes)
		mp_bin(p, t->p, t->n);
	else
		mp_strn(p, t->p, t->n);
}

static int check_argv(const msgpack_object *o, struct err *e)
{
	bool ok = o->type == MSGPACK_OBJECT_ARRAY && o->via.array.size &&
		  o->via.array.size <= MAX_ARGS;

	for (uint32_t i = 0; ok && i < o->via.array.size; i++)
		ok = o->via.array.ptr[i].type == MSGPACK_OBJECT_STR;
	return ok ? 0
		  : err_set(e, -EINVAL,
			    "argv: must be an array of 1 to %u strings",
			    MAX_ARGS);
}

static int check_env(const msgpack_object *o, struct err *e)
{
	bool ok = !o || (o->type == MSGPACK_OBJECT_MAP &&
				o->via.map.size <= MAX_ARGS);

	for (uint32_t i = 0; ok && o && i < o->via.map.size; i++)
		ok = o->via.map.ptr[i].key.type == MSGPACK_OBJECT_STR &&
		     o->via.map.ptr[i].val.type == MSGPACK_OBJECT_STR;
	return ok ? 0
		  : err_set(e, -EINVAL,
			    "env: must be a map of up to %u strings", MAX_ARGS);
}

int machine_exec_method(
	struct daemon *d, struct request *r, struct args *a, struct err *e)
{
	struct machine_entry *m = NULL;
	msgpack_sbuffer b;
	msgpack_packer p;
	int rc = check_argv(a->argv, e);

	if (!rc)
		rc = check_env(a->env, e);
	if (!rc)
		rc = running(d, a->id, &m, e);
	if (rc)
		return rc;
	begin(&b, &p, &exec_method,
		2U + (a->env != NULL) + (a->data.p != NULL) +
			(a->cwd.p != NULL));
	mp_key_u64(&p, "timeout_ms", a->timeout_ms);
	mp_str(&p, "argv");
	(void)msgpack_pack_object(&p, *a->argv);
	if (a->env) {
		mp_str(&p, "env");
		(void)msgpack_pack_object(&p, *a->env);
	}
	if (a->data.p)
		pack_text(&p, "stdin", &a->data, true);
	if (a->cwd.p)
		pack_text(&p, "cwd", &a->cwd, false);
	return ask(r, m, &exec_method, a->timeout_ms, &b, e);
}

int machine_put_method(
	struct daemon *d, struct request *r, struct args *a, struct err *e)
{
	struct machine_entry *m;
	msgpack_sbuffer b;
	msgpack_packer p;
	int rc = running(d, a->id, &m, e);

	if (rc)
		return rc;
	begin(&b, &p, &put_method, 5);
	pack_text(&p, "path", &a->file, false);
	pack_text(&p, "data", &a->data, true);
	mp_key_u64(&p, "mode", a->file_mode);
	mp_key_u64(&p, "offset", a->offset);
	mp_key_bool(&p, "eof", a->eof);
	return ask(r, m, &put_method, FILE_MS, &b, e);
}

int machine_get_method(
	struct daemon *d, struct request *r, struct args *a, struct err *e)
{
	struct machine_entry *m;
	msgpack_sbuffer b;
	msgpack_packer p;
	int rc = running(d, a->id, &m, e);

	if (rc)
		return rc;
	begin(&b, &p, &get_method, 3);
	pack_text(&p, "path", &a->file, false);
	mp_key_u64(&p, "offset", a->offset);
	mp_key_u64(&p, "length", a->length);
	return ask(r, m, &get_method, FILE_MS, &b, e);
}
