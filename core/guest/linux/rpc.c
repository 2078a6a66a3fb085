#include "core/guest/linux/agent.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* msgpack-rpc */
#define RPC_REQUEST  0u
#define RPC_RESPONSE 1u
#define RPC_NOTIFY   2u

static int pack_write(void *data, const char *p, size_t n)
{
	return buf_append(data, p, n);
}

/* ---- answers ---- */

static void begin(struct ta_conn *c, const struct ta_req *q, msgpack_packer *pk)
{
	msgpack_packer_init(pk, &c->out, pack_write);
	msgpack_pack_array(pk, 4);
	msgpack_pack_uint32(pk, RPC_RESPONSE);
	if (q)
		msgpack_pack_uint64(pk, q->id);
	else
		msgpack_pack_nil(pk);
}

/* The request has had its answer. The connection if somebody wants it. */
static struct ta_conn *answered(struct ta *t, const struct ta_req *q)
{
	struct ta_conn *c = ta_conn_of(t, q);

	if (c && c->pending)
		c->pending--;
	return c && !q->notify ? c : NULL;
}

bool ta_result(
	struct ta *t, const struct ta_req *q, uint32_t n, msgpack_packer *pk)
{
	struct ta_conn *c = answered(t, q);

	if (!c)
		return false;
	begin(c, q, pk);
	msgpack_pack_nil(pk);
	msgpack_pack_map(pk, n);
	return true;
}

void ta_result_end(struct ta *t, const struct ta_req *q)
{
	struct ta_conn *c = ta_conn_of(t, q);

	if (c)
		ta_conn_flush(t, c);
}

static const char *code_name(int code)
{
	switch (-code) {
	case EINVAL:
	case ENAMETOOLONG:
	case ENOTDIR:
	case EISDIR:
		return "invalid";
	case ENOENT:
		return "not_found";
	case EEXIST:
		return "exists";
	case EBUSY:
	case EAGAIN:
		return "busy";
	case EACCES:
	case EPERM:
	case EROFS:
		return "denied";
	case EOPNOTSUPP:
		return "unsupported";
	case EBADMSG:
		return "corrupt";
	case ETIMEDOUT:
		return "timeout";
	case ENOMEM:
	case ENOSPC:
	case EMFILE:
	case E2BIG:
		return "exhausted";
	default:
		return "internal";
	}
}

static void pack_error(msgpack_packer *pk, const char *code, const char *msg)
{
	msgpack_pack_map(pk, 2);
	mp_key_str(pk, "code", code);
	mp_key_str(pk, "message", msg);
	msgpack_pack_nil(pk);
}

void ta_fail(struct ta *t, const struct ta_req *q, const struct err *e)
{
	struct ta_conn *c = answered(t, q);
	msgpack_packer pk;

	if (!c)
		return;
	begin(c, q, &pk);
	pack_error(&pk, code_name(e->code), e->msg);
	ta_conn_flush(t, c);
}

bool ta_notify(struct ta *t, const struct ta_req *q, const char *method,
	uint32_t n, msgpack_packer *pk)
{
	struct ta_conn *c = ta_conn_of(t, q);

	if (!c)
		return false;
	msgpack_packer_init(pk, &c->out, pack_write);
	msgpack_pack_array(pk, 3);
	msgpack_pack_uint32(pk, RPC_NOTIFY);
	mp_str(pk, method);
	msgpack_pack_array(pk, 1);
	msgpack_pack_map(pk, n);
	return true;
}

void ta_bad_message(struct ta *t, struct ta_conn *c, const char *why)
{
	msgpack_packer pk;

	/* No more from this peer; what it has asked for is still answered. */
	c->eof = true;
	begin(c, NULL, &pk);
	pack_error(&pk, "invalid", why);
	ta_conn_flush(t, c);
}

/* ---- parameters ---- */

int ta_get_u64(const msgpack_object *params, const char *key, uint64_t max,
	uint64_t *v, struct err *e)
{
	const msgpack_object *o = mp_get(params, key);

	if (!o)
		return 0;
	if (o->type != MSGPACK_OBJECT_POSITIVE_INTEGER || o->via.u64 > max)
		return err_set(e, -EINVAL, "%s must be a number up to %llu",
			key, (unsigned long long)max);
	*v = o->via.u64;
	return 0;
}

int ta_get_bool(
	const msgpack_object *params, const char *key, bool *v, struct err *e)
{
	const msgpack_object *o = mp_get(params, key);

	if (!o)
		return 0;
	if (o->type != MSGPACK_OBJECT_BOOLEAN)
		return err_set(e, -EINVAL, "%s must be true or false", key);
	*v = o->via.boolean;
	return 0;
}

int ta_get_bytes(const msgpack_object *params, const char *key, const void **p,
	size_t *n, struct err *e)
{
	const msgpack_object *o = mp_get(params, key);

	*p = NULL;
	*n = 0;
	if (!o)
		return 0;
	if (o->type == MSGPACK_OBJECT_BIN) {
		*p = o->via.bin.ptr;
		*n = o->via.bin.size;
	} else if (o->type == MSGPACK_OBJECT_STR) {
		*p = o->via.str.ptr;
		*n = o->via.str.size;
	} else {
		return err_set(e, -EINVAL, "%s must be bytes", key);
	}
	return 0;
}

int ta_get_text(const msgpack_object *params, const char *key, char *out,
	size_t size, struct err *e)
{
	const void *p;
	size_t n;
	int r = ta_get_bytes(params, key, &p, &n, e);

	if (r)
		return r;
	if (n >= size || (n && memchr(p, 0, n)))
		return err_set(e, -EINVAL,
			"%s must be a string of up to %zu bytes without a zero "
			"byte",
			key, size - 1);
	if (n)
		memcpy(out, p, n);
	out[n] = '\0';
	return 0;
}

/* ---- requests ---- */

static int ta_poweroff(struct ta *t, const struct ta_req *q,
	const msgpack_object *params, struct err *e)
{
	msgpack_packer pk;
	int r;

	(void)params;
	r = t->sys->poweroff(t);
	if (r)
		return err_sys(e, r, "powering off");
	if (ta_result(t, q, 0, &pk))
		ta_result_end(t, q);
	return 0;
}

static const struct {
	const char *name;
	ta_method *fn;
} methods[] = {
	{"ping", ta_ping},
	{"identity", ta_identity},
	{"clock", ta_clock},
	{"invoke", ta_invoke},
	{"exec", ta_exec_start},
	{"input", ta_exec_input},
	{"signal", ta_exec_signal},
	{"put", ta_put},
	{"get", ta_get},
	{"poweroff", ta_poweroff},
};

static void call(struct ta *t, const struct ta_req *q,
	const msgpack_object *name, const msgpack_object *params)
{
	struct err e = {0};

	for (size_t i = 0; i < ARRAY_SIZE(methods); i++) {
		if (!mp_str_eq(name, methods[i].name))
			continue;
		if (methods[i].fn(t, q, params, &e))
			ta_fail(t, q, &e);
		return;
	}
	err_set(&e, -ENOENT, "unknown method");
	ta_fail(t, q, &e);
}

static bool is_u64(const msgpack_object *o, uint64_t v)
{
	return o->type == MSGPACK_OBJECT_POSITIVE_INTEGER && o->via.u64 == v;
}

/* [0, id, method, [map]] or [2, method, [map]]; the map may be left out. */
void ta_message(struct ta *t, struct ta_conn *c, const msgpack_object *o)
{
	struct ta_req q = {
		.conn = (uint32_t)(c - t->conn), .serial = c->serial};
	const msgpack_object *f = o->via.array.ptr, *m, *args;

	if (o->type == MSGPACK_OBJECT_ARRAY && o->via.array.size == 3 &&
		is_u64(&f[0], RPC_NOTIFY)) {
		q.notify = true;
		m = &f[1];
	} else if (o->type == MSGPACK_OBJECT_ARRAY && o->via.array.size == 4 &&
		   is_u64(&f[0], RPC_REQUEST) &&
		   f[1].type == MSGPACK_OBJECT_POSITIVE_INTEGER) {
		q.id = f[1].via.u64;
		m = &f[2];
	} else {
		ta_bad_message(t, c, "not a msgpack-rpc request");
		return;
	}
	args = m + 1;
	if (m->type != MSGPACK_OBJECT_STR ||
		args->type != MSGPACK_OBJECT_ARRAY ||
		args->via.array.size > 1 ||
		(args->via.array.size &&
			args->via.array.ptr->type != MSGPACK_OBJECT_MAP)) {
		ta_bad_message(t, c, "not a msgpack-rpc request");
		return;
	}
	c->pending++;
	call(t, &q, m, args->via.array.size ? args->via.array.ptr : NULL);
}
