#include "api/daemon/admit.h"
#include "api/daemon/birth.h"
#include "api/daemon/feed.h"
#include "api/daemon/methods.h"

#include <errno.h>
#include <string.h>

/*
 * Methods "invoke" (a clone for one request, discarded after the answer) and
 * "machine.invoke" (a machine that goes on living).
 */

/* Our patience beyond the time the machine itself keeps to. */
#define GRACE_MS 2000

struct invoke_op {
	struct request *r;
	struct machine_entry *m; /* NULL until there is one */
	struct template *t;      /* NULL: machine.invoke */
	bool pooled;
	bool waiting;           /* for a clone: counted by pool_busy() */
	uint64_t began, handed; /* now_ns() */
	uint64_t timeout_ms;
	struct want want;
	size_t len;
	uint8_t *payload; /* owned; kept while there is no machine */
};

static void op_free(struct invoke_op *op)
{
	free(op->payload);
	free(op);
}

/* A request that has its machine is no reason to leave the pool empty. */
static void stop_waiting(struct daemon *d, struct invoke_op *op)
{
	if (op->waiting)
		pool_quiet(d);
	op->waiting = false;
}

static void finish(struct daemon *d, struct invoke_op *op)
{
	stop_waiting(d, op);
	op_free(op);
}

static void failed(struct daemon *d, struct invoke_op *op, const struct err *e)
{
	d->metrics.counter[COUNT_INVOKES_FAILED]++;
	request_fail(op->r, e);
	finish(d, op);
}

static void answer(
	struct daemon *d, struct invoke_op *op, const struct ctl_packet *pk)
{
	const struct ctl_invoked *us = &pk->msg.invoked;
	msgpack_packer *p = request_begin(op->r);

	(void)msgpack_pack_map(p, op->t ? 3 : 2);
	mp_str(p, "payload");
	mp_bin(p, pk->payload, pk->msg.len);
	if (op->t)
		mp_key_bool(p, "pooled", op->pooled);
	mp_str(p, "us");
	(void)msgpack_pack_map(p, 5);
	mp_key_u64(p, "take", (op->handed - op->began) / 1000);
	mp_key_u64(p, "go", us->go_us);
	mp_key_u64(p, "ready", us->ready_us);
	mp_key_u64(p, "answer", us->answer_us);
	mp_key_u64(p, "total", us_since(op->began));
	d->metrics.counter[COUNT_INVOKES]++;
	histogram_add(&d->metrics.hist[HIST_INVOKE], us_since(op->began));
	histogram_add(&d->metrics.hist[HIST_INVOKE_ANSWER], us->answer_us);
	if (op->t)
		op->t->invokes++;
	feed_answered(d, op->m);
	request_end(op->r);
}

static void answered(
	struct daemon *d, void *arg, struct ctl_packet *pk, const struct err *e)
{
	struct invoke_op *op = arg;
	struct machine_entry *m = op->t ? op->m : NULL;

	if (!pk) {
		struct err why = *e;

		/* The guest's own failures are not the client's. */
		if (why.code == -EREMOTEIO || why.code == -EBADMSG ||
			why.code == -ECONNRESET || why.code == -ECONNREFUSED)
			why.code = -EIO;
		failed(d, op, &why);
		if (m && m->state != ENTRY_ENDED)
			machine_discard(d, m);
		else if (m)
			machine_forget(d, m);
		return;
	}
	answer(d, op, pk);
	/* The answer is on its way; now the machine may go. */
	if (m) {
		d->metrics.counter[COUNT_DISCARDED]++;
		machine_discard(d, m);
	}
	finish(d, op);
}

static void hand_over(struct daemon *d, struct invoke_op *op,
	struct machine_entry *m, const void *payload, size_t len)
{
	struct ctl_msg msg = {.type = CTL_INVOKE, .len = (uint32_t)len};
	struct err e = {0};
	int r;

	op->m = m;
	op->handed = now_ns();
	msg.invoke.timeout_ms = (uint32_t)op->timeout_ms;
	r = proc_call(d, &m->p,
		&(struct proc_request){.m = &msg,
			.payload = payload,
			.timeout_ms = op->timeout_ms + GRACE_MS,
			.fn = answered,
			.arg = op},
		&e);
	if (r)
		answered(d, op, NULL, &e);
	else
		stop_waiting(d, op);
}

static void born(struct daemon *d, struct want *w, uint32_t index,
	struct machine_entry *m, const struct err *e)
{
	struct invoke_op *op = container_of(w, struct invoke_op, want);

	(void)index;
	if (m)
		hand_over(d, op, m, op->payload, op->len);
	else
		failed(d, op, e);
}

static struct invoke_op *op_create(struct request *r, const struct args *a)
{
	struct invoke_op *op = calloc(1, sizeof(*op));

	if (!op)
		return NULL;
	op->r = r;
	op->began = r->began;
	op->timeout_ms = a->timeout_ms;
	list_init(&op->want.link);
	return op;
}

static int fresh(struct daemon *d, struct invoke_op *op, const struct args *a,
	struct err *e)
{
	int r;

	op->payload = malloc(a->payload.n + 1);
	if (!op->payload)
		return err_set(e, -ENOMEM, "no memory for the payload");
	memcpy(op->payload, a->payload.p, a->payload.n);
	op->len = a->payload.n;
	r = admit_clones(d, op->t, 1, 1, e);
	if (r)
		return r;
	op->want.t = op->t;
	op->want.count = 1;
	op->want.timeout_ms = min_u64(op->timeout_ms, CLONE_ACK_MS);
	op->want.fn = born;
	op->waiting = true;
	pool_busy(d);
	want_start(d, &op->want);
	return 0;
}

int invoke_method(
	struct daemon *d, struct request *r, struct args *a, struct err *e)
{
	struct machine_entry *m = NULL;
	struct template *t;
	struct invoke_op *op;
	int rc = template_get(d, a->template, &t, e);

	if (rc)
		return rc;
	if (t->invoke_ms && a->timeout_ms > t->invoke_ms)
		a->timeout_ms = t->invoke_ms;
	if (a->mode != MODE_FRESH && t->nparked) {
		rc = admit_clones(d, t, 1, 0, e);
		if (rc)
			return rc;
	} else if (a->mode == MODE_POOLED) {
		return err_set(e, -EAGAIN, "no pooled clone is left");
	}
	op = op_create(r, a);
	if (!op)
		return err_set(e, -ENOMEM, "no memory for a request");
	op->t = t;
	if (a->mode != MODE_FRESH)
		m = pool_take(d, t);
	if (m) {
		op->pooled = true;
		op->waiting = true;
		pool_busy(d);
		hand_over(d, op, m, a->payload.p, a->payload.n);
		return 0;
	}
	rc = fresh(d, op, a, e);
	if (rc)
		op_free(op);
	return rc;
}

int machine_invoke_method(
	struct daemon *d, struct request *r, struct args *a, struct err *e)
{
	struct machine_entry *m;
	struct invoke_op *op;
	int rc = machine_get(d, a->id, &m, e);

	if (rc)
		return rc;
	if (m->state != ENTRY_RUNNING)
		return err_set(e, m->state == ENTRY_ENDED ? -ENOENT : -EBUSY,
			"%s: the machine is %s", m->id, machine_state(m));
	op = op_create(r, a);
	if (!op)
		return err_set(e, -ENOMEM, "no memory for a request");
	hand_over(d, op, m, a->payload.p, a->payload.n);
	return 0;
}
