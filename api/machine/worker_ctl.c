#include "api/machine/worker.h"

#include "core/block.h"
#include "core/log.h"
#include "core/serial.h"
#include "core/vsock.h"

#include <errno.h>
#include <string.h>

/* One control request each; see api/ctl.h. */

static void ok(struct worker *w, const struct ctl_msg *request)
{
	struct ctl_msg m = {0};

	worker_reply(w, request, &m, NULL, NULL, 0);
}

static int pause_machine(struct worker *w, struct err *e)
{
	if (w->m.state == MACHINE_PAUSED || w->m.state == MACHINE_BUILT)
		return 0;
	return machine_pause(&w->m, WORKER_PAUSE_MS, e);
}

/* How far behind a guest's clock may stay, and how often it is told again. */
#define CLOCK_OFF_NS (20 * 1000000ULL)
#define CLOCK_TRIES  5
#define CLOCK_MS     10000

static void tell_time(struct worker *w);

/* It was behind by no more than this took. Nobody waits for it. */
static void clock_told(void *arg, int status, const msgpack_object *result,
	const struct err *e)
{
	struct worker *w = arg;

	(void)result;
	(void)e;
	if (!status && !w->m.told.tsc_khz &&
		now_ns() - w->clock.told > CLOCK_OFF_NS && w->clock.tries)
		tell_time(w);
	else
		w->clock.tries = 0;
}

static void tell_time(struct worker *w)
{
	w->clock.told = now_ns();
	w->clock.tries--;
	if (agent_set_clock(w->agent, CLOCK_MS * 1000000ULL, clock_told, w))
		w->clock.tries = 0;
}

/* Linux keeps its own wall clock, which has stood still. */
void worker_tell_time(struct worker *w)
{
	if (!w->agent || w->m.cfg.builtin || w->clock.tries)
		return;
	w->clock.tries = CLOCK_TRIES;
	tell_time(w);
}

/* The moment a parked or restored machine starts to live. */
static int set_time(struct worker *w, struct err *e)
{
	int r = machine_set_time(&w->m, e);

	/* It is in the ring before the guest runs. */
	if (!r && w->parked)
		worker_tell_time(w);
	return r;
}

/* With its time set; since is when that began, for the timings. */
static int go_on(struct worker *w, uint64_t since, struct err *e)
{
	int r = machine_resume(&w->m, e);

	w->parked = false;
	w->held = false;
	w->us.go = (uint32_t)((now_ns() - since) / 1000);
	return r;
}

static int go(struct worker *w, struct err *e)
{
	uint64_t t = now_ns();
	int r = set_time(w, e);

	if (!r)
		return go_on(w, t, e);
	w->parked = false;
	w->held = false;
	return r;
}

static void identity_acknowledged(void *arg, int status,
	const msgpack_object *result, const struct err *e)
{
	struct worker_call *c = arg;

	(void)result;
	if (!status)
		worker_tell_time(c->w);
	if (status)
		worker_reply_error(c->w, &c->request, e);
	else
		ok(c->w, &c->request);
	c->used = false;
}

/* First resume of a restored machine: it learns who it is. */
static int resume_restored(
	struct worker *w, const struct ctl_msg *request, struct err *e)
{
	struct worker_call *c = worker_call_get(w, request);
	int r;

	if (!c)
		return err_set(e, -EBUSY, "too many requests");
	r = agent_identity(
		w->agent, &w->id, 10000000000ULL, identity_acknowledged, c);
	if (r) {
		c->used = false;
		return err_sys(e, r, "asking the agent");
	}
	w->needs_identity = false;
	return go(w, e);
}

static int do_resume(struct worker *w, struct ctl_packet *p, struct err *e)
{
	int r;

	if (w->m.state == MACHINE_DEAD)
		return err_set(e, -EINVAL, "the guest has ended");
	if (w->needs_identity && w->agent)
		return resume_restored(w, &p->msg, e);
	r = w->m.state == MACHINE_RUNNING ? 0 : go(w, e);
	if (!r)
		ok(w, &p->msg);
	return r;
}

static int do_pause(struct worker *w, struct ctl_packet *p, struct err *e)
{
	int r = pause_machine(w, e);

	if (!r) {
		w->held = false;
		ok(w, &p->msg);
	}
	return r;
}

/* A builder becomes a file and a base, and is gone. */
static int do_freeze(struct worker *w, struct ctl_packet *p, struct err *e)
{
	int fd = ctl_fd(p, CTL_FD_OUTPUT, 0);
	struct snap_write_opts o = {0};
	struct snap_written out;
	struct ctl_msg m = {0};
	uint64_t start = now_ns();
	AUTO_FD base = -1;
	int r;

	if (w->role != CTL_ROLE_BUILDER || fd < 0)
		return err_set(e, -EINVAL, "freeze needs a builder and a file");
	r = pause_machine(w, e);
	if (!r)
		r = block_freeze(&w->m, e);
	if (!r)
		r = snap_write(&w->m, fd, &o, &out, e);
	if (r)
		return r;
	base = mem_seal_base(&w->m.mem, e);
	if (base < 0)
		return base;
	m.frozen.uuid = out.uuid;
	m.frozen.bytes = out.file_bytes;
	m.frozen.pages = out.pages_present;
	m.frozen.total_us = (uint32_t)((now_ns() - start) / 1000);
	worker_reply(w, &p->msg, &m, NULL,
		&(struct ctl_fd){base, CTL_FD_BASE, 0}, 1);
	w->done = true;
	return 0;
}

static void invoked(void *arg, int status, const msgpack_object *result,
	const struct err *e)
{
	struct worker_call *c = arg;
	struct ctl_msg m = {0};
	const msgpack_object *o = mp_get(result, "payload");
	struct err bad = {0};

	c->used = false;
	if (status) {
		worker_reply_error(c->w, &c->request, e);
		return;
	}
	if (!o || o->type != MSGPACK_OBJECT_BIN ||
		o->via.bin.size > AGENT_MAX_PAYLOAD) {
		err_set(&bad, -EBADMSG, "the agent's answer has no payload");
		worker_reply_error(c->w, &c->request, &bad);
		return;
	}
	m.len = o->via.bin.size;
	m.invoked.go_us = c->w->us.go;
	m.invoked.ready_us = (uint32_t)((c->ready - c->start) / 1000);
	m.invoked.answer_us = (uint32_t)((now_ns() - c->ready) / 1000);
	worker_reply(c->w, &c->request, &m, o->via.bin.ptr, NULL, 0);
}

static int do_invoke(struct worker *w, struct ctl_packet *p, struct err *e)
{
	uint64_t since, since_set;
	struct worker_call *c;
	int r = 0;

	if (!w->agent)
		return err_set(e, -EOPNOTSUPP, "the machine has no vsock");
	if (w->m.state == MACHINE_DEAD)
		return err_set(e, -EINVAL, "the guest has ended");
	if (w->m.state == MACHINE_PAUSED && !w->parked && !w->held)
		return err_set(e, -EBUSY, "the machine is paused");
	c = worker_call_get(w, &p->msg);
	if (!c)
		return err_set(e, -EBUSY, "%d invokes are in flight",
			WORKER_MAX_INVOKES);
	since = now_ns();
	if (w->parked)
		r = set_time(w, e);
	if (r) {
		c->used = false;
		w->done = true;
		return r;
	}
	/* The request is in the ring before the guest runs: no wake-up. */
	since_set = now_ns() - since;
	r = agent_invoke(w->agent, p->payload, p->msg.len,
		p->msg.invoke.timeout_ms * 1000000ULL, invoked, c);
	if (r) {
		c->used = false;
		return err_sys(e, r, "handing the request to the agent");
	}
	if (w->parked)
		r = go_on(w, now_ns() - since_set, e);
	c->ready = now_ns();
	if (r) {
		/* Half alive: the daemon gets the error, then the end. */
		c->used = false;
		w->done = true;
	}
	return r;
}

static int do_go(struct worker *w, struct ctl_packet *p, struct err *e)
{
	struct ctl_msg m = {0};
	int r;

	if (!w->parked)
		return err_set(e, -EINVAL, "the clone is not parked");
	r = go(w, e);
	if (r)
		return r;
	m.invoked.go_us = w->us.go;
	worker_reply(w, &p->msg, &m, NULL, NULL, 0);
	return 0;
}

static int do_input(struct worker *w, struct ctl_packet *p, struct err *e)
{
	size_t n = serial_queue_input(&w->m, p->payload, p->msg.len);

	(void)e;
	if (n < p->msg.len)
		log_warning("the guest does not read its console: %zu bytes of "
			    "input are lost",
			p->msg.len - n);
	return 0;
}

static int do_dialed(struct worker *w, struct ctl_packet *p, struct err *e)
{
	(void)e;
	if (w->m.vsock)
		vsock_accept(w->m.vsock, p->msg.dial.cookie,
			ctl_take(p, CTL_FD_STREAM, 0));
	return 0;
}

static int do_paged(struct worker *w, struct ctl_packet *p, struct err *e)
{
	(void)p;
	(void)e;
	w->m.mem.complete = true;
	return 0;
}

static int do_connect(struct worker *w, struct ctl_packet *p, struct err *e)
{
	int fd;

	if (!w->m.vsock)
		return err_set(e, -EOPNOTSUPP, "the machine has no vsock");
	if (w->m.state == MACHINE_DEAD)
		return err_set(e, -EINVAL, "the guest has ended");
	fd = ctl_take(p, CTL_FD_STREAM, 0);
	if (fd < 0)
		return err_set(e, -EINVAL, "no socket came with the request");
	vsock_add_client(w->m.vsock, fd);
	ok(w, &p->msg);
	return 0;
}

static int do_stop(struct worker *w, struct ctl_packet *p, struct err *e)
{
	(void)e;
	ok(w, &p->msg);
	w->done = true;
	return 0;
}

/* A parked clone can only be started: its timers are stopped, and its state is
 * not all read (machine_park()). */
static bool needs_awake(uint32_t type)
{
	return type == CTL_PAUSE || type == CTL_RESUME ||
	       type == CTL_SNAPSHOT || type == CTL_WAIT_READY;
}

void worker_message(struct worker *w, struct ctl_packet *p)
{
	struct err e = {0};
	int r;

	if (w->parked && needs_awake(p->msg.type)) {
		err_set(&e, -EBUSY, "the clone is parked in a pool");
		worker_reply_error(w, &p->msg, &e);
		return;
	}
	switch ((enum ctl_type)p->msg.type) {
	case CTL_WAIT_READY:
		worker_wait_ready(w, p);
		return;
	case CTL_PAUSE:
		r = do_pause(w, p, &e);
		break;
	case CTL_RESUME:
		r = do_resume(w, p, &e);
		break;
	case CTL_STOP:
		r = do_stop(w, p, &e);
		break;
	case CTL_SNAPSHOT:
		r = worker_snapshot(w, p, &e);
		break;
	case CTL_SETTLE:
		r = worker_settle(w, p, &e);
		break;
	case CTL_FREEZE:
		r = do_freeze(w, p, &e);
		break;
	case CTL_GO:
		r = do_go(w, p, &e);
		break;
	case CTL_INVOKE:
		r = do_invoke(w, p, &e);
		break;
	case CTL_AGENT:
		r = worker_agent(w, p, &e);
		break;
	case CTL_INPUT:
		r = do_input(w, p, &e);
		break;
	case CTL_DIALED:
		r = do_dialed(w, p, &e);
		break;
	case CTL_PAGED:
		r = do_paged(w, p, &e);
		break;
	case CTL_CONNECT:
		r = do_connect(w, p, &e);
		break;
	case CTL_ATTACH:
	case CTL_DETACH:
	case CTL_ALIVE:
	case CTL_FILL:
	case CTL_RECORDED:
	case CTL_UFFD:
	case CTL_PAGER:
	case CTL_SETUP:
	case CTL_CLONE:
	case CTL_INSPECT:
	case CTL_CLONED:
	case CTL_REAPED:
	case CTL_HATCHED:
	case CTL_ENDED:
	case CTL_CONSOLE:
	case CTL_DIAL:
	case CTL_WRITE:
	case CTL_PROGRESS:
	case CTL_PARENT:
	default:
		r = err_set(&e, -EINVAL,
			"control message %u is not for a machine", p->msg.type);
	}
	if (r)
		worker_reply_error(w, &p->msg, &e);
}
