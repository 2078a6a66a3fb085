#include "api/daemon/admit.h"
#include "api/daemon/birth.h"
#include "api/daemon/events.h"
#include "api/daemon/listener.h"
#include "api/daemon/macs.h"
#include "api/daemon/methods.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/*
 * Method "clone": pooled clones are told to go, the rest is wanted from the
 * zygote; the answer is given when all have arrived or failed. Indexes below
 * .pooled are pooled clones, the rest is want index + pooled.
 */
struct result {
	char id[ID_LEN]; /* "": failed */
	uint32_t us;
	struct ctl_times steps;
	int code;
	char *error; /* owned */
};

struct clone_op {
	struct daemon *d;
	struct request *r;
	struct template *t;
	uint32_t count, pooled, done, made;
	bool stream, bind;
	uint64_t began;
	struct want want;
	struct result *result;           /* owned, count of them */
	struct ctl_overrides *overrides; /* owned: per index, or NULL */
	char (*name)[NAME_LEN];          /* owned: per index, or NULL */
	struct path_arg *vsock;          /* owned: per index, or NULL */
	char *paths;                     /* owned: what vsock points into */
	struct devfiles *files;          /* owned: per index, or NULL */
};

/* A pooled clone on its way. */
struct go {
	struct clone_op *op;
	struct machine_entry *m;
	uint32_t index;
};

static void op_free(struct clone_op *op)
{
	for (uint32_t i = 0; op->result && i < op->count; i++)
		free(op->result[i].error);
	free(op->result);
	free(op->overrides);
	free(op->name);
	free(op->vsock);
	free(op->paths);
	for (uint32_t i = 0; op->files && i < op->count; i++)
		devfiles_close(&op->files[i]);
	free(op->files);
	free(op);
}

static void pack_clone(msgpack_packer *p, const struct result *res, bool pooled)
{
	(void)msgpack_pack_map(p, 4);
	mp_key_str(p, "id", res->id);
	mp_key_u64(p, "us", res->us);
	mp_key_bool(p, "pooled", pooled);
	mp_str(p, "steps");
	(void)msgpack_pack_map(p, 4);
	mp_key_u64(p, "fork", res->steps.fork);
	mp_key_u64(p, "build", res->steps.build);
	mp_key_u64(p, "ack", res->steps.ack);
	mp_key_u64(p, "go", res->steps.go);
}

static void pack_errors(msgpack_packer *p, const struct clone_op *op)
{
	mp_str(p, "errors");
	(void)msgpack_pack_array(p, op->count - op->made);
	for (uint32_t i = 0; i < op->count; i++) {
		const struct result *res = &op->result[i];

		if (res->id[0])
			continue;
		(void)msgpack_pack_map(p, 3);
		mp_key_u64(p, "index", i);
		mp_key_str(p, "code", rpc_code(res->code));
		mp_key_str(p, "message",
			res->error ? res->error : "no memory for the reason");
	}
}

static void all_failed(struct clone_op *op)
{
	struct err e = {0};

	err_set(&e, op->result[0].code, "%s",
		op->result[0].error ? op->result[0].error : "failed");
	request_fail(op->r, &e);
}

static void answer(struct clone_op *op)
{
	msgpack_packer *p;

	if (!op->made) {
		all_failed(op);
		return;
	}
	p = request_begin(op->r);
	(void)msgpack_pack_map(p, 3);
	mp_str(p, "clones");
	(void)msgpack_pack_array(p, op->made);
	for (uint32_t i = 0; i < op->count; i++) {
		if (op->result[i].id[0])
			pack_clone(p, &op->result[i], i < op->pooled);
	}
	pack_errors(p, op);
	mp_key_u64(p, "us", us_since(op->began));
	request_end(op->r);
}

static void one_done(struct daemon *d, struct clone_op *op)
{
	if (++op->done < op->count)
		return;
	answer(op);
	op_free(op);
	pool_quiet(d);
}

static void failed(struct daemon *d, struct clone_op *op, uint32_t index,
	const struct err *e)
{
	op->result[index].code = e->code;
	op->result[index].error = strdup(e->msg);
	one_done(d, op);
}

static void stream(struct daemon *d, struct clone_op *op, uint32_t index)
{
	struct conn *c = op->r->conn;
	msgpack_packer *p = c ? notify_begin(d, c, "clone") : NULL;

	if (!p)
		return;
	(void)msgpack_pack_map(p, 4);
	mp_key_u64(p, "req", op->r->id);
	mp_key_u64(p, "index", index);
	mp_key_str(p, "id", op->result[index].id);
	mp_key_u64(p, "us", op->result[index].us);
	notify_end(d, c);
}

static void made(struct daemon *d, struct clone_op *op, uint32_t index,
	struct machine_entry *m)
{
	struct result *res = &op->result[index];
	struct err e = {.code = -ECONNRESET, .msg = "the client has gone"};

	(void)snprintf(res->id, sizeof(res->id), "%s", m->id);
	res->us = us_since(op->began);
	res->steps = m->us;
	op->made++;
	histogram_add(&d->metrics.hist[index < op->pooled ? HIST_CLONE_POOLED
							  : HIST_CLONE_FRESH],
		res->us);
	events_machine(d, "machine.created", m);
	if (op->bind && op->r->conn)
		machine_bind(m, op->r->conn);
	else if (op->bind)
		machine_kill(d, m, &e);
	if (op->stream)
		stream(d, op, index);
	one_done(d, op);
}

static void born(struct daemon *d, struct want *w, uint32_t index,
	struct machine_entry *m, const struct err *e)
{
	struct clone_op *op = container_of(w, struct clone_op, want);

	if (m)
		made(d, op, op->pooled + index, m);
	else
		failed(d, op, op->pooled + index, e);
}

static int prepare(struct daemon *d, struct want *w, uint32_t index,
	struct machine_entry *m, struct clone_files *files, struct err *e)
{
	struct clone_op *op = container_of(w, struct clone_op, want);
	uint32_t i = op->pooled + index;
	/* Another request may have been quicker. */
	int r = macs_claim(d, m, &op->files[i], e);

	if (r)
		return r;
	if (op->name && op->name[i][0])
		m->name = strdup(op->name[i]);
	/* They change hands. */
	files->dev = op->files[i];
	devfiles_init(&op->files[i]);
	if (!op->vsock || (!op->vsock[i].path.p && op->vsock[i].fd < 0))
		return 0;
	files->listener =
		listener_create(d, op->r, &op->vsock[i], &m->listener, e);
	return files->listener < 0 ? files->listener : 0;
}

static void went(
	struct daemon *d, void *arg, struct ctl_packet *p, const struct err *e)
{
	struct go *g = arg;
	struct clone_op *op = g->op;
	struct machine_entry *m = g->m;
	uint32_t index = g->index;

	free(g);
	if (!p) {
		struct err why = *e;

		machine_kill(d, m, &why);
		failed(d, op, index, &why);
		return;
	}
	m->us.go = p->msg.invoked.go_us;
	histogram_add(&d->metrics.hist[HIST_GO], m->us.go);
	made(d, op, index, m);
}

static void send_go(struct daemon *d, struct clone_op *op, uint32_t index,
	struct machine_entry *m)
{
	struct ctl_msg msg = {.type = CTL_GO};
	struct go *g = malloc(sizeof(*g));
	struct err e = {.code = -ENOMEM, .msg = "no memory for a clone"};

	if (g) {
		*g = (struct go){op, m, index};
		if (op->name && op->name[index][0])
			m->name = strdup(op->name[index]);
		if (!proc_call(d, &m->p,
			    &(struct proc_request){.m = &msg,
				    .timeout_ms = op->want.timeout_ms,
				    .fn = went,
				    .arg = g},
			    &e))
			return;
	}
	free(g);
	machine_kill(d, m, &e);
	failed(d, op, index, &e);
}

/* By name, before anything is made. */
static int check_ids(const struct clone_op *op, uint32_t i, struct err *e)
{
	const struct devfiles *f = &op->files[i];

	for (unsigned k = 0; k < f->ndisks; k++) {
		if (machine_find_disk(&op->t->cfg, f->disk[k].id) < 0)
			return err_set(e, -EINVAL,
				"overrides.disks: template \"%s\" has no disk "
				"\"%s\"",
				op->t->name, f->disk[k].id);
	}
	for (unsigned k = 0; k < f->nnets; k++) {
		if (machine_find_net(&op->t->cfg, f->net[k].id) < 0)
			return err_set(e, -EINVAL,
				"overrides: template \"%s\" has no network "
				"interface \"%s\"",
				op->t->name, f->net[k].id);
		if (f->net[k].ip.ip[0] && op->t->cfg.builtin)
			return err_set(e, -EOPNOTSUPP,
				"overrides.ips: the agent of the built-in "
				"guest sets no addresses");
	}
	return 0;
}

static const char *clash(const struct devfiles *a, const struct devfiles *b)
{
	const char *what = NULL;

	for (unsigned i = 0; i < a->nnets && !what; i++) {
		for (unsigned k = 0; k < b->nnets && !what; k++)
			what = devfiles_net_clash(&a->net[i], &b->net[k]);
	}
	return what;
}

/* Between the clones of one request. */
static int check_twins(const struct clone_op *op, struct err *e)
{
	for (uint32_t i = 0; i < op->count; i++) {
		for (uint32_t k = 0; k < i; k++) {
			const char *what = clash(&op->files[i], &op->files[k]);

			if (op->overrides[i].cid &&
				op->overrides[i].cid == op->overrides[k].cid)
				return err_set(e, -EINVAL,
					"overrides: clones %u and %u get the "
					"cid %u",
					k, i, op->overrides[i].cid);
			if (what)
				return err_set(e, -EINVAL,
					"overrides: clones %u and %u get the "
					"same %s",
					k, i, what);
		}
	}
	return 0;
}

static int parse_override(
	struct clone_op *op, uint32_t i, const msgpack_object *o, struct err *e)
{
	struct devfiles_maps maps = {0};
	uint64_t cid = 0;
	int r = 0;

	if (o->type != MSGPACK_OBJECT_MAP)
		return err_set(e, -EINVAL,
			"overrides: must be a map or an array of maps");
	for (uint32_t k = 0; !r && k < o->via.map.size; k++) {
		const msgpack_object_kv *kv = &o->via.map.ptr[k];

		if (mp_str_eq(&kv->key, "name"))
			r = param_name(&kv->val, "overrides.name", NAME_LEN,
				op->name[i], e);
		else if (mp_str_eq(&kv->key, "hostname"))
			r = param_host(&kv->val, "overrides.hostname",
				op->overrides[i].hostname, e);
		else if (mp_str_eq(&kv->key, "cid"))
			r = param_uint(&kv->val, "overrides.cid", 3,
				UINT32_MAX - 1, &cid, e);
		else if (mp_str_eq(&kv->key, "vsock"))
			r = param_path(
				&kv->val, "overrides.vsock", &op->vsock[i], e);
		else if (mp_str_eq(&kv->key, "disks"))
			maps.disks = &kv->val;
		else if (mp_str_eq(&kv->key, "taps"))
			maps.taps = &kv->val;
		else if (mp_str_eq(&kv->key, "macs"))
			maps.macs = &kv->val;
		else if (mp_str_eq(&kv->key, "ips"))
			maps.ips = &kv->val;
		else
			r = err_set(e, -EINVAL,
				"overrides: unknown key \"%.*s\"",
				kv->key.type == MSGPACK_OBJECT_STR
					? (int)min_u64(kv->key.via.str.size, 64)
					: 0,
				kv->key.via.str.ptr);
	}
	op->overrides[i].cid = (uint32_t)cid;
	if (!r)
		r = devfiles_overrides(op->r, &maps, &op->files[i], e);
	return r ? r : check_ids(op, i, e);
}

/* Paths point into the request, which is gone when they are used. */
static int keep_paths(struct clone_op *op, struct err *e)
{
	size_t n = 0;
	char *at;

	for (uint32_t i = 0; i < op->count; i++)
		n += op->vsock[i].path.n;
	op->paths = at = malloc(n + 1);
	if (!at)
		return err_set(e, -ENOMEM, "no memory for overrides");
	for (uint32_t i = 0; i < op->count; i++) {
		struct text *t = &op->vsock[i].path;

		if (!t->p)
			continue;
		memcpy(at, t->p, t->n);
		t->p = at;
		at += t->n;
	}
	return 0;
}

/* Which overrides need a fresh clone? */
static bool needs_fresh(const struct clone_op *op)
{
	for (uint32_t i = 0; op->overrides && i < op->count; i++) {
		if (op->overrides[i].hostname[0] || op->overrides[i].cid ||
			op->vsock[i].path.p || op->vsock[i].fd >= 0 ||
			op->files[i].ndisks || op->files[i].nnets)
			return true;
	}
	return false;
}

static int parse_overrides(
	struct clone_op *op, const msgpack_object *o, struct err *e)
{
	bool list = o && o->type == MSGPACK_OBJECT_ARRAY;
	int r = 0;

	if (!o)
		return 0;
	if (list && o->via.array.size != op->count)
		return err_set(e, -EINVAL, "overrides: %u maps for %u clones",
			o->via.array.size, op->count);
	op->overrides = calloc(op->count, sizeof(*op->overrides));
	op->name = calloc(op->count, sizeof(*op->name));
	op->vsock = calloc(op->count, sizeof(*op->vsock));
	op->files = calloc(op->count, sizeof(*op->files));
	for (uint32_t i = 0; op->files && i < op->count; i++)
		devfiles_init(&op->files[i]);
	if (!op->overrides || !op->name || !op->vsock || !op->files)
		return err_set(e, -ENOMEM, "no memory for overrides");
	for (uint32_t i = 0; i < op->count; i++)
		op->vsock[i].fd = -1;
	for (uint32_t i = 0; !r && i < op->count; i++)
		r = parse_override(op, i, list ? &o->via.array.ptr[i] : o, e);
	if (!r && !list && op->count > 1 && needs_fresh(op))
		return err_set(e, -EINVAL,
			"overrides: only name can be the same "
			"for %u clones: give one map for each",
			op->count);
	if (!r && list)
		r = check_twins(op, e);
	for (uint32_t i = 0; !r && i < op->count; i++)
		r = macs_check(op->d, NULL, &op->files[i], e);
	return r ? r : keep_paths(op, e);
}

/* How many come out of the pool. */
static int split(struct clone_op *op, uint64_t mode, struct err *e)
{
	bool fresh = needs_fresh(op);

	if (mode == MODE_POOLED && fresh)
		return err_set(e, -EINVAL,
			"overrides: all but name need fresh clones");
	if (mode == MODE_POOLED)
		op->pooled = op->count;
	else if (mode == MODE_ANY && !fresh)
		op->pooled = (uint32_t)min_u64(op->count, op->t->nparked);
	return 0;
}

static void start(struct daemon *d, struct clone_op *op)
{
	struct err none = {.code = -EAGAIN,
		.msg = "no pooled clone is left (mode \"fresh\" or \"any\" "
		       "makes one)"};
	uint32_t pooled = op->pooled, count = op->count;
	struct want *w = &op->want;

	pool_busy(d);
	w->t = op->t;
	w->count = count - pooled;
	w->fn = born;
	if (op->overrides) {
		w->overrides = op->overrides + pooled;
		w->prepare = prepare;
	}
	/* The last result frees op. */
	list_init(&w->link);
	for (uint32_t i = 0; i < pooled; i++) {
		struct machine_entry *m = pool_take(d, op->t);
		bool last = i + 1 == count;

		if (m)
			send_go(d, op, i, m);
		else
			failed(d, op, i, &none);
		if (last)
			return;
	}
	want_start(d, w);
}

static int begin(struct daemon *d, struct clone_op *op, const struct args *a,
	struct err *e)
{
	int r;

	op->result = calloc(op->count, sizeof(*op->result));
	if (!op->result)
		return err_set(
			e, -ENOMEM, "no memory for %u results", op->count);
	r = parse_overrides(op, a->overrides, e);
	if (!r)
		r = split(op, a->mode, e);
	if (!r)
		r = admit_clones(
			d, op->t, op->count, op->count - op->pooled, e);
	return r;
}

int clone_method(
	struct daemon *d, struct request *r, struct args *a, struct err *e)
{
	struct clone_op *op;
	struct template *t;
	int rc = template_get(d, a->template, &t, e);

	if (rc)
		return rc;
	op = calloc(1, sizeof(*op));
	if (!op)
		return err_set(e, -ENOMEM, "no memory for a request");
	op->d = d;
	op->r = r;
	op->t = t;
	op->count = (uint32_t)a->count;
	op->stream = a->stream;
	op->bind = a->bind;
	op->began = r->began;
	op->want.timeout_ms = a->timeout_ms;
	rc = begin(d, op, a, e);
	if (rc) {
		op_free(op);
		return rc;
	}
	start(d, op);
	return 0;
}
