#include "api/machine/worker.h"

#include "api/machine/attach.h"
#include "core/log.h"
#include "core/net.h"
#include "core/vcpu.h"
#include "core/vsock.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/*
 * The life of a clone, from fork on:
 *
 *   identity in memory -> VM with all state -> agent's identity call in the
 *   ring -> run -> acknowledged -> parked, or running -> control requests
 *
 * Nobody is told of the clone before its agent has acknowledged.
 */

#define PARK_PAUSE_MS 2000

struct hatch {
	struct worker *w;
	const struct ctl_clone *c;
	uint64_t started; /* now_ns() when the machine began to run */
	uint64_t stamped; /* wall_ns() that the guest was told last */
	unsigned clocks;  /* how often it was told again */
};

/* The guest's clock is behind by what lies between stamp and acknowledgement:
 * under a millisecond, or more where the host has too much to do. */
#define CLOCK_OFF_NS (20 * 1000000ULL)
#define CLOCK_TRIES  5

static void send_hatched(struct worker *w, struct ctl_msg *m, const char *text)
{
	m->type = CTL_HATCHED;
	m->len = (uint32_t)strlen(text);
	if (worker_send(w, m, text, NULL, 0))
		w->done = true;
}

static void failed(struct worker *w, const struct err *e)
{
	struct ctl_msg m = {.status = e->code < 0 ? e->code : -EIO};

	send_hatched(w, &m, e->msg);
	w->done = true;
}

static int park(struct worker *w, struct err *e)
{
	int r = machine_park(&w->m, PARK_PAUSE_MS, e);

	w->parked = !r;
	return r;
}

static void acknowledged(void *arg, int status, const msgpack_object *result,
	const struct err *err);

/* Linux keeps its own wall clock. One that is told late is told again before
 * anybody gets the clone; a parked one is told when it goes on. */
static bool set_clock_again(struct hatch *h)
{
	struct worker *w = h->w;

	if (w->m.cfg.builtin || w->m.told.tsc_khz ||
		h->c->mode != CTL_CLONE_RUN ||
		wall_ns() - h->stamped < CLOCK_OFF_NS ||
		h->clocks++ == CLOCK_TRIES)
		return false;
	h->stamped = wall_ns();
	return !agent_set_clock(
		w->agent, h->c->timeout_ms * 1000000ULL, acknowledged, h);
}

static void acknowledged(void *arg, int status, const msgpack_object *result,
	const struct err *err)
{
	struct hatch *h = arg;
	struct worker *w = h->w;
	struct ctl_msg m = {0};
	struct err e = {0};

	(void)result;
	/* An agent without a clock to set has said so; that is no failure. */
	if (status && !(h->clocks && status == -EREMOTEIO)) {
		failed(w, err);
		return;
	}
	if (!w->us.ack)
		w->us.ack = (uint32_t)((now_ns() - h->started) / 1000);
	if (!status && set_clock_again(h))
		return;
	if (h->c->mode == CTL_CLONE_PARK && park(w, &e)) {
		failed(w, &e);
		return;
	}
	m.hatched.us = w->us;
	memcpy(m.hatched.generation, w->id.generation, 16);
	memcpy(m.hatched.machine_id, w->id.machine_id, 16);
	send_hatched(w, &m, "");
}

/* Default names when the request gave none. */
static void names(struct ctl_overrides *o, uint64_t number)
{
	if (!o->hostname[0])
		(void)snprintf(o->hostname, sizeof(o->hostname), "%.40s-%llu",
			o->template_name, (unsigned long long)number);
}

static int build(struct worker *w, struct ctl_packet *p,
	struct ctl_overrides *o, struct err *e)
{
	int listener = ctl_take(p, CTL_FD_LISTENER, 0);
	int r = worker_arm(w, e);

	if (!r)
		r = attach_devices(&w->m, p, o, e);
	if (!r)
		r = attach_new_macs(&w->m, o, e);
	if (!r)
		r = worker_new_identity(w, o, e);
	if (!r)
		r = worker_realize(w, e);
	if (!r && !w->m.vsock)
		r = err_set(e, -EOPNOTSUPP,
			"a template without vsock has no agent");
	if (!r) {
		net_restored(&w->m, true);
		r = vsock_reset(w->m.vsock, w->id.vsock_cid, e);
	}
	if (!r && listener >= 0)
		return vsock_listen(w->m.vsock, listener, e);
	if (listener >= 0)
		(void)close(listener);
	return r;
}

int clone_run(struct worker *w, struct ctl_packet *p, uint64_t number)
{
	struct ctl_clone request = p->msg.clone;
	const struct ctl_clone *c = &request;
	struct hatch h = {.w = w, .c = &request};
	struct ctl_overrides o = {0};
	struct err e = {0};
	int r;

	if (p->msg.len)
		memcpy(&o, p->payload, sizeof(o));
	names(&o, number);
	/* No two clones of one request share an address. */
	if (o.cid)
		o.cid += (uint32_t)(number - c->first);
	w->clone = true;
	w->role = CTL_ROLE_MACHINE;
	r = build(w, p, &o, &e);
	/* What was not taken is nobody's. */
	ctl_packet_free(p);
	if (!r)
		r = machine_set_time(&w->m, &e);
	if (!r) {
		h.stamped = w->id.wall_ns = wall_ns();
		r = agent_identity(w->agent, &w->id, c->timeout_ms * 1000000ULL,
			acknowledged, &h);
		if (r)
			err_sys(&e, r, "calling the agent");
	}
	h.started = now_ns();
	if (!r)
		r = machine_resume(&w->m, &e);
	if (r) {
		failed(w, &e);
		return 1;
	}
	return worker_run(w);
}
