#include "api/daemon/conn.h"

#include "api/daemon/methods.h"
#include "core/log.h"

#include <errno.h>
#include <string.h>

/* When a connection ends, its requests go on and answer into d->nowhere. */

int request_take_fd(struct request *r, int64_t i, struct err *e)
{
	if (i < 0 || (uint64_t)i >= r->nfds || r->fds[i] < 0)
		return err_set(e, -EINVAL,
			"no descriptor number %lld came with the request",
			(long long)i);
	return take_fd(&r->fds[i]);
}

static void request_free(struct request *r)
{
	for (unsigned i = 0; i < r->nfds; i++) {
		if (r->fds[i] >= 0)
			(void)close(r->fds[i]);
	}
	if (r->conn) {
		list_del(&r->link);
		r->conn->inflight--;
	}
	free(r);
}

/* The packer into a connection, or NULL when too much waits there already. */
static msgpack_packer *pack_into(struct daemon *d, struct conn *c)
{
	msgpack_sbuffer *out = &d->nowhere;

	msgpack_sbuffer_clear(&d->nowhere);
	if (c && !c->doomed && c->out.size - c->out_sent > CONN_OUT_MAX) {
		log_warning("a client of pid %d does not read: disconnected",
			c->peer.pid);
		d->metrics.counter[COUNT_SLOW_CLIENTS]++;
		conn_doom(d, c);
	}
	if (c && !c->doomed)
		out = &c->out;
	msgpack_packer_init(&d->packer, out, msgpack_sbuffer_write);
	return &d->packer;
}

static void flush(struct daemon *d, struct conn *c)
{
	if (c && !c->corked && !c->doomed)
		conn_flush(d, c);
}

msgpack_packer *request_begin(struct request *r)
{
	msgpack_packer *p = pack_into(r->d, r->conn);

	rpc_pack_answer(p, r->id);
	return p;
}

void request_end(struct request *r)
{
	struct conn *c = r->conn;
	struct daemon *d = r->d;

	request_free(r);
	flush(d, c);
}

void request_fail(struct request *r, const struct err *e)
{
	msgpack_packer *p = pack_into(r->d, r->conn);

	r->d->metrics.counter[COUNT_ERRORS]++;
	rpc_pack_error(p, &r->id, e->code, e->msg);
	request_end(r);
}

msgpack_packer *notify_begin(
	struct daemon *d, struct conn *c, const char *method)
{
	msgpack_packer *p = pack_into(d, c);

	if (c->doomed)
		return NULL;
	rpc_pack_notification(p, method);
	return p;
}

void notify_end(struct daemon *d, struct conn *c)
{
	flush(d, c);
}

/* Errors found before there is a request. */
static void refuse(
	struct daemon *d, struct conn *c, uint64_t id, const struct err *e)
{
	msgpack_packer *p = pack_into(d, c);

	d->metrics.counter[COUNT_ERRORS]++;
	rpc_pack_error(p, &id, e->code, e->msg);
	flush(d, c);
}

static struct request *request_create(
	struct daemon *d, struct conn *c, const struct rpc_msg *m)
{
	struct request *r = calloc(1, sizeof(*r));

	if (!r)
		return NULL;
	r->d = d;
	r->conn = c;
	r->id = m->id;
	r->began = now_ns();
	if (c->nfds && c->fds_at <= m->end) {
		memcpy(r->fds, c->fds, c->nfds * sizeof(int));
		r->nfds = c->nfds;
		c->nfds = 0;
	}
	list_add(&c->requests, &r->link);
	c->inflight++;
	return r;
}

static void call(struct request *r, const struct rpc_msg *m)
{
	msgpack_unpacked msg;
	struct err e = {0};
	int rc;

	rc = mp_unpack(m->data, m->len, &mp_default_limits, &msg, &e);
	if (rc == 0) {
		const msgpack_object_array *a = &msg.data.via.array;

		rc = method_call(r->d, r, a->size > 3 ? &a->ptr[3] : NULL, &e);
		msgpack_unpacked_destroy(&msg);
	}
	if (rc < 0)
		request_fail(r, &e);
}

void request_receive(struct daemon *d, struct conn *c, const struct rpc_msg *m)
{
	struct request *r = NULL;
	struct err e = {0};

	d->metrics.counter[COUNT_REQUESTS]++;
	if (m->kind == RPC_TOO_LONG) {
		err_set(&e, -EINVAL,
			"request of %llu bytes: at most %d, with a payload "
			"6 MiB",
			(unsigned long long)(m->end - m->begin),
			RPC_MAX_REQUEST);
	} else if (c->inflight >= CONN_MAX_INFLIGHT) {
		err_set(&e, -EBUSY,
			"%d requests of this connection are in flight",
			CONN_MAX_INFLIGHT);
	} else if (d->stopping) {
		err_set(&e, -EBUSY, "the daemon is stopping");
	} else {
		r = request_create(d, c, m);
		if (!r)
			err_set(&e, -ENOMEM, "no memory for a request");
	}
	if (!r) {
		refuse(d, c, m->id, &e);
		return;
	}
	r->method = method_find(m->method, m->method_len);
	if (r->method) {
		call(r, m);
		return;
	}
	err_set(&e, -ENOENT, "no method \"%.*s\"",
		(int)min_u64(m->method_len, 64), m->method);
	request_fail(r, &e);
}
