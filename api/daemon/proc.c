#include "api/daemon/proc.h"

#include "api/daemon/feed.h"
#include "api/daemon/helper.h"
#include "api/daemon/machine.h"
#include "api/daemon/parents.h"
#include "api/daemon/spawn.h"
#include "api/daemon/writer.h"
#include "api/daemon/zygote.h"
#include "core/log.h"
#include "snapshot/remote.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>

/* A machine that floods its control socket gets this much of a turn. */
#define MESSAGES_PER_EVENT 32

struct call {
	struct list link;
	struct deadline deadline;
	struct proc *p;
	uint32_t req, type;
	call_fn *fn;
	void *arg;
};

void proc_init(struct proc *p, enum proc_kind kind)
{
	memset(p, 0, sizeof(*p));
	p->on_ctl.type = EV_CTL;
	p->on_exit.type = EV_EXIT;
	p->kind = kind;
	p->sock = -1;
	p->pidfd = -1;
	list_init(&p->calls);
}

int proc_adopt(
	struct daemon *d, struct proc *p, int sock, int pidfd, pid_t parent)
{
	int r;

	p->sock = sock;
	p->pidfd = pidfd;
	p->parent = parent;
	r = loop_add(
		&d->loop, sock, EPOLLIN, (union ev_ref){.ptr = &p->on_ctl});
	if (!r) {
		r = loop_add(&d->loop, pidfd, EPOLLIN,
			(union ev_ref){.ptr = &p->on_exit});
		if (r)
			loop_del(&d->loop, sock);
	}
	if (r) {
		p->sock = -1;
		p->pidfd = -1;
	}
	return r;
}

int proc_set_remote(struct proc *p, const struct remote_name *n, struct err *e)
{
	p->remote = malloc(sizeof(*n));
	if (!p->remote)
		return err_set(e, -ENOMEM, "no memory for a name");
	*p->remote = *n;
	return 0;
}

void proc_forget_remote(struct proc *p)
{
	free(p->remote);
	p->remote = NULL;
}

static void call_end(struct daemon *d, struct call *c, struct ctl_packet *pk,
	const struct err *e)
{
	call_fn *fn = c->fn;
	void *arg = c->arg;

	deadline_clear(&d->deadlines, &c->deadline);
	list_del(&c->link);
	free(c);
	fn(d, arg, pk, e);
}

static void drop_socket(struct daemon *d, struct proc *p)
{
	if (p->sock < 0)
		return;
	/* epoll forgets a descriptor only when its last copy is closed */
	loop_del(&d->loop, p->sock);
	(void)close(p->sock);
	p->sock = -1;
}

static void drop_pidfd(struct daemon *d, struct proc *p)
{
	if (p->pidfd < 0)
		return;
	loop_del(&d->loop, p->pidfd);
	(void)close(p->pidfd);
	p->pidfd = -1;
}

void proc_release(struct daemon *d, struct proc *p, const struct err *why)
{
	p->stopped = true;
	drop_socket(d, p);
	drop_pidfd(d, p);
	while (!list_empty(&p->calls))
		call_end(d, container_of(p->calls.next, struct call, link),
			NULL, why);
	parents_free(p->parents);
	p->parents = NULL;
	proc_forget_remote(p);
}

/* The process itself enforces the time; this is for one that is stuck. */
static void call_late(struct daemon *d, struct deadline *dl)
{
	struct call *c = container_of(dl, struct call, deadline);
	struct proc *p = c->p;
	struct err e = {0};

	err_set(&e, -ETIMEDOUT,
		"the machine process did not answer in time "
		"and was killed");
	/* The end is noticed by pidfd like any other. */
	(void)proc_signal(p, SIGKILL);
	call_end(d, c, NULL, &e);
}

int proc_call(struct daemon *d, struct proc *p, const struct proc_request *q,
	struct err *e)
{
	struct call *c;
	int r;

	if (p->sock < 0)
		return err_set(e, -EBUSY,
			"the machine's process has no "
			"control socket");
	c = calloc(1, sizeof(*c));
	if (!c)
		return err_set(e, -ENOMEM, "no memory for a request");
	if (++p->last_req == 0)
		p->last_req = 1;
	q->m->req = p->last_req;
	r = ctl_send(p->sock, q->m, q->payload, q->fds, q->nfds);
	if (r) {
		free(c);
		if (r == -EAGAIN)
			return err_set(e, -EBUSY,
				"the machine does not read its requests");
		return err_sys(e, r, "control socket");
	}
	c->p = p;
	c->req = q->m->req;
	c->type = q->m->type;
	c->fn = q->fn;
	c->arg = q->arg;
	list_add(&p->calls, &c->link);
	if (q->timeout_ms)
		deadline_set(&d->deadlines, &c->deadline,
			now_ns() + q->timeout_ms * 1000000, call_late);
	return 0;
}

int proc_send(struct proc *p, struct ctl_msg *m, const void *payload,
	const struct ctl_fd *fds, unsigned nfds)
{
	return p->sock < 0 ? -EPIPE : ctl_send(p->sock, m, payload, fds, nfds);
}

bool proc_signal(struct proc *p, int sig)
{
	if (p->pidfd < 0)
		return true;
	/* A zygote that was taken over could name any process: see to it that
	 * this one is a child of that zygote. */
	if (!p->trusted && !proc_is_child(p))
		return false;
	p->trusted = true;
	return syscall(SYS_pidfd_send_signal, p->pidfd, sig, NULL, 0) == 0 ||
	       errno == ESRCH;
}

void proc_remember(struct daemon *d, pid_t pid)
{
	pid_t *list = d->orphans;

	if (d->norphans == d->orphans_cap) {
		size_t cap = d->orphans_cap ? 2 * d->orphans_cap : 16;

		list = realloc(d->orphans, cap * sizeof(*list));
		if (!list)
			return;
		d->orphans = list;
		d->orphans_cap = cap;
	}
	list[d->norphans++] = pid;
}

void proc_kill(struct daemon *d, struct proc *p, const struct err *why)
{
	if (!proc_signal(p, SIGKILL) && p->kind == PROC_CLONE)
		machine_not_ours(container_of(p, struct machine_entry, p));
	if (p->kind != PROC_CLONE && p->pid && p->pidfd >= 0)
		proc_remember(d, p->pid);
	proc_release(d, p, why);
}

void proc_reap_orphans(struct daemon *d)
{
	size_t kept = 0;

	for (size_t i = 0; i < d->norphans; i++) {
		if (waitpid(d->orphans[i], NULL, WNOHANG) == 0)
			d->orphans[kept++] = d->orphans[i];
	}
	d->norphans = kept;
}

void proc_text(const struct ctl_packet *p, char *out, size_t size)
{
	size_t n = 0;

	for (uint32_t i = 0; i < p->msg.len && n + 1 < size; i++) {
		char ch = (char)p->payload[i];

		out[n++] = ch >= 0x20 && ch < 0x7f ? ch : '?';
	}
	out[n] = 0;
}

/* An answer to a call of ours; false: there is no such call. */
static bool answered(struct daemon *d, struct proc *p, struct ctl_packet *pk)
{
	list_for_each(it, &p->calls)
	{
		struct call *c = container_of(it, struct call, link);
		struct err e = {0};
		char text[300];

		if (c->req != pk->msg.req || c->type != pk->msg.type)
			continue;
		if (pk->msg.status >= 0) {
			call_end(d, c, pk, NULL);
			return true;
		}
		proc_text(pk, text, sizeof(text));
		err_set(&e, pk->msg.status < -4095 ? -EIO : pk->msg.status,
			"%s", text[0] ? text : "the machine gave no reason");
		call_end(d, c, NULL, &e);
		return true;
	}
	return false;
}

static void initiative(struct daemon *d, struct proc *p, struct ctl_packet *pk)
{
	if (pk->msg.type == CTL_PARENT) {
		parents_answer(d, p, pk);
		return;
	}
	switch (p->kind) {
	case PROC_MACHINE:
	case PROC_CLONE:
		machine_message(
			d, container_of(p, struct machine_entry, p), pk);
		break;
	case PROC_ZYGOTE:
		zygote_message(d, container_of(p, struct zygote, p), pk);
		break;
	case PROC_WRITER:
		writer_message(d, container_of(p, struct writer, p), pk);
		break;
	case PROC_PAGER:
		feed_message(d, container_of(p, struct feed, p), pk);
		break;
	case PROC_HELPER:
	default:
		helper_message(d, container_of(p, struct helper, p), pk);
		break;
	}
}

/* What it left of itself: -1 when that is not ours to know. */
static int wait_status(const struct proc *p)
{
	siginfo_t si = {0};

	if (p->kind == PROC_CLONE || p->pidfd < 0)
		return -1;
	if (waitid(P_PIDFD, (id_t)p->pidfd, &si, WEXITED | WNOHANG) ||
		!si.si_pid)
		return -1;
	return si.si_code == CLD_EXITED ? (si.si_status & 0xff) << 8
					: si.si_status & 0x7f;
}

static void gone(struct daemon *d, struct proc *p)
{
	int status = wait_status(p);

	drop_socket(d, p);
	drop_pidfd(d, p);
	switch (p->kind) {
	case PROC_MACHINE:
	case PROC_CLONE:
		machine_gone(
			d, container_of(p, struct machine_entry, p), status);
		break;
	case PROC_ZYGOTE:
		zygote_gone(d, container_of(p, struct zygote, p), status);
		break;
	case PROC_WRITER:
		writer_gone(d, container_of(p, struct writer, p), status);
		break;
	case PROC_PAGER:
		feed_gone(d, container_of(p, struct feed, p), status);
		break;
	case PROC_HELPER:
	default:
		helper_gone(d, container_of(p, struct helper, p), status);
		break;
	}
}

/* 1: go on, 0: nothing more to read, negative: the socket is of no use */
static int read_one(struct daemon *d, struct proc *p)
{
	struct ctl_packet pk;
	int r = ctl_recv(p->sock, &pk, d->ctl_buf);

	if (r == -EAGAIN)
		return 0;
	if (r <= 0)
		return -1;
	if (!(pk.msg.flags & CTL_F_REPLY))
		initiative(d, p, &pk);
	else if (!answered(d, p, &pk))
		log_debug("an answer that nobody asked for");
	ctl_packet_free(&pk);
	return 1;
}

void proc_ctl_event(struct daemon *d, struct proc *p, uint32_t events)
{
	int r = 1;

	(void)events;
	for (int i = 0; i < MESSAGES_PER_EVENT && r == 1 && !p->stopped; i++)
		r = read_one(d, p);
	if (r >= 0 || p->stopped)
		return;
	drop_socket(d, p);
	if (!proc_signal(p, SIGKILL) || p->kind == PROC_CLONE)
		gone(d, p); /* its zygote will say how it ended */
}

void proc_last_words(struct daemon *d, struct proc *p)
{
	for (int i = 0; i < 256 && !p->stopped; i++) {
		if (p->sock < 0 || read_one(d, p) != 1)
			break;
	}
}

void proc_exit_event(struct daemon *d, struct proc *p)
{
	proc_last_words(d, p);
	if (!p->stopped)
		gone(d, p);
}
