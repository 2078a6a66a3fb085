#include "api/machine/worker.h"

#include "api/machine/console.h"
#include "api/machine/handler.h"
#include "core/log.h"
#include "core/vsock.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

enum {
	EV_CTL = 1,
	EV_CONSOLE
};

#define EVENTS_AT_ONCE 32
/* A daemon that does not read for so long is taken for dead. */
#define SEND_PATIENCE_MS 10000

void worker_init(struct worker *w, int ctl)
{
	memset(w, 0, sizeof(*w));
	w->ctl = ctl;
	w->kvm.fd = -1;
	w->uffd.dev = w->handler = -1;
	w->con.event = -1;
	w->loop.epfd = -1;
	w->born = now_ns();
}

void worker_fini(struct worker *w)
{
	if (w->agent)
		agent_destroy(w->agent);
	if (w->have_machine)
		machine_destroy(&w->m);
	console_close(&w->con);
	loop_fini(&w->loop);
	jail_fini(&w->jail);
	kvm_close(&w->kvm);
	uffd_host_close(&w->uffd);
	if (w->handler >= 0)
		(void)close(w->handler);
	if (w->ctl >= 0)
		(void)close(w->ctl);
	free(w->buf);
}

int worker_send(const struct worker *w, struct ctl_msg *m, const void *payload,
	const struct ctl_fd *fds, unsigned nfds)
{
	struct pollfd pfd = {.fd = w->ctl, .events = POLLOUT};
	int r;

	do {
		r = ctl_send(w->ctl, m, payload, fds, nfds);
	} while (r == -EAGAIN && poll(&pfd, 1, SEND_PATIENCE_MS) > 0);
	return r;
}

void worker_reply(struct worker *w, const struct ctl_msg *request,
	struct ctl_msg *answer, const void *payload, const struct ctl_fd *fds,
	unsigned nfds)
{
	int r;

	ctl_make_reply(request, answer);
	r = worker_send(w, answer, payload, fds, nfds);
	/* Without its daemon a machine has no reason to go on. */
	if (r)
		w->done = true;
}

void worker_reply_error(
	struct worker *w, const struct ctl_msg *request, const struct err *e)
{
	struct ctl_msg m = {.status = e->code < 0 ? e->code : -EIO};

	m.len = (uint32_t)strlen(e->msg);
	worker_reply(w, request, &m, e->msg, NULL, 0);
}

struct worker_call *worker_call_get(
	struct worker *w, const struct ctl_msg *request)
{
	for (unsigned i = 0; i < WORKER_MAX_INVOKES; i++) {
		struct worker_call *c = &w->call[i];

		if (c->used)
			continue;
		*c = (struct worker_call){.w = w,
			.request = *request,
			.used = true,
			.start = now_ns()};
		return c;
	}
	return NULL;
}

int worker_new_identity(
	struct worker *w, const struct ctl_overrides *o, struct err *e)
{
	struct identity *id = &w->id;

	memset(id, 0, sizeof(*id));
	/* One call for all random bytes: the fields stand side by side. */
	_Static_assert(offsetof(struct identity, hostname) ==
			       16 + IDENT_SEED_SIZE + 16,
		"random fields first");
	if (getrandom(id, offsetof(struct identity, hostname), 0) !=
		(ssize_t)offsetof(struct identity, hostname))
		return err_sys(e, -errno, "getrandom");
	if (o) {
		memcpy(id->hostname, o->hostname, sizeof(id->hostname));
		id->hostname[sizeof(id->hostname) - 1] = 0;
		id->vsock_cid = o->cid;
	}
	id->wall_ns = wall_ns();
	return machine_set_identity(&w->m, id, e);
}

int worker_arm(struct worker *w, struct err *e)
{
	struct ctl_msg m = {.type = CTL_UFFD};
	struct ctl_fd fds[2];
	int r;

	if (w->m.mem.backing != MEM_LAZY)
		return 0;
	r = uffd_arm(&w->uffd, &w->m.mem, e);
	uffd_host_close(&w->uffd);
	if (r || w->m.mem.uffd < 0)
		return r;
	m.uffd.addr = (uintptr_t)w->m.mem.map;
	fds[0] = (struct ctl_fd){w->m.mem.uffd, CTL_FD_UFFD, 0};
	fds[1] = (struct ctl_fd){w->handler, CTL_FD_PAGER, 0};
	r = worker_send(w, &m, NULL, fds, w->handler >= 0 ? 2 : 1);
	if (r)
		return err_sys(e, r, "handing the memory to its pager");
	return w->handler >= 0 ? handler_give(w->handler, &w->m.mem, e) : 0;
}

/* A guest connects to a host port: a machine opens nothing, so the daemon
 * connects and sends the descriptor. */
static void dial(void *arg, uint32_t port, uint64_t cookie)
{
	struct ctl_msg m = {.type = CTL_DIAL};
	struct worker *w = arg;

	m.dial.port = port;
	m.dial.cookie = cookie;
	if (ctl_send(w->ctl, &m, NULL, NULL, 0))
		vsock_accept(w->m.vsock, cookie, -1);
}

static int vcpu_jail(void *arg)
{
	const struct worker *w = arg;

	return jail_vcpu(&w->jail);
}

int worker_realize(struct worker *w, struct err *e)
{
	int r;

	r = loop_init(&w->loop);
	if (r)
		return err_sys(e, r, "epoll");
	w->m.loop = &w->loop;
	w->m.vcpu_jail = vcpu_jail;
	w->m.vcpu_jail_arg = w;
	if (w->ctl >= 0)
		r = loop_add(&w->loop, w->ctl, EPOLLIN,
			(union ev_ref){.type = EV_CTL});
	if (r)
		return err_sys(e, r, "watching the control socket");
	r = console_open(&w->con, &w->m, (union ev_ref){.type = EV_CONSOLE}, e);
	if (r)
		return r;
	r = machine_realize(&w->m, w->kvm.fd, e);
	if (r)
		return r;
	/* The VM holds what it needs; no way is left to make another. */
	kvm_close(&w->kvm);
	if (w->ctl >= 0) {
		r = jail_rings(e);
		if (r)
			return r;
	}
	if (w->m.vsock) {
		w->agent = agent_create(&w->m);
		if (!w->agent)
			return err_set(e, -ENOMEM, "no memory for the agent");
		vsock_set_dial(w->m.vsock, dial, w);
	}
	w->us.build = (uint32_t)((now_ns() - w->born) / 1000);
	return 0;
}

static void read_ctl(struct worker *w)
{
	struct ctl_packet p;
	int r;

	/* A few at a time: the guest's own events want their turn. */
	for (int i = 0; i < 8 && !w->done; i++) {
		r = ctl_recv(w->ctl, &p, w->buf);
		if (r == -EAGAIN)
			return;
		if (r <= 0) {
			w->done = true;
			return;
		}
		worker_message(w, &p);
		ctl_packet_free(&p);
	}
}

/* The guest ended: tell the daemon how, then leave. */
static void guest_ended(struct worker *w)
{
	struct ctl_msg m = {.type = CTL_ENDED};

	/* Its last words may not have had their turn yet. */
	console_flush(w);
	m.ended.kind = w->m.end.kind;
	m.len = (uint32_t)strnlen(w->m.end.text, sizeof(w->m.end.text));
	/* A daemon that is gone has no use for it. */
	(void)!worker_send(w, &m, w->m.end.text, NULL, 0);
	w->done = true;
}

static int next_timeout(const struct worker *w)
{
	uint64_t at = w->agent ? agent_deadline(w->agent) : 0;
	uint64_t now;

	if (w->wait.at && (!at || w->wait.at < at))
		at = w->wait.at;
	if (w->wait.deadline && (!at || w->wait.deadline < at))
		at = w->wait.deadline;
	if (!at)
		return -1;
	now = now_ns();
	if (at <= now)
		return 0;
	return (int)min_u64((at - now + 999999) / 1000000, 60000);
}

static void dispatch(struct worker *w, const struct epoll_event *ev)
{
	union ev_ref ref = {.u64 = ev->data.u64};

	if (ref.type >= MACHINE_EV_BASE)
		machine_event(&w->m, ref, ev->events);
	else if (ref.type == EV_CTL)
		read_ctl(w);
	else if (ref.type == EV_CONSOLE)
		console_flush(w);
}

int worker_run(struct worker *w)
{
	struct epoll_event ev[EVENTS_AT_ONCE];

	while (!w->done) {
		int n = loop_wait(
			&w->loop, ev, EVENTS_AT_ONCE, next_timeout(w));

		if (n < 0) {
			log_error("epoll_wait: %s", strerror(-n));
			return 1;
		}
		for (int i = 0; i < n && !w->done; i++)
			dispatch(w, &ev[i]);
		if (w->agent)
			agent_tick(w->agent);
		worker_ready_tick(w);
		/* Not sooner: a vCPU thread may be writing .end just now. */
		if (w->m.state == MACHINE_DEAD && !w->done)
			guest_ended(w);
	}
	return 0;
}
