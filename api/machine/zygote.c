#include "api/machine/worker.h"

#include "core/log.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

/*
 * A zygote holds one template: a machine in state NEW, memory mapped and state
 * parsed, no KVM object, no thread. A clone is fork() and then the same
 * machine_realize() as any other machine. The zygote never touches the memory
 * mapping, so there are no page tables to copy and fork() stays short.
 *
 * Each clone gets a socket of its own; one end goes to the daemon together
 * with a pidfd, and both are closed here before the next fork, so that no
 * clone holds a descriptor of another one.
 */

/* Enough for every pid that Linux can give (PID_MAX_LIMIT). */
#define PID_LIMIT (4 * 1024 * 1024)

struct zygote {
	struct worker *w; /* borrowed; the template */
	int sigchld;      /* owned signalfd */
	uint64_t *number; /* owned: clone number by pid; sparse mapping */
	pid_t pid;
};

/* Where the number of the clone with this pid stands, or NULL. */
static uint64_t *number_of(struct zygote *z, pid_t pid)
{
	return z->number && pid > 0 && pid < PID_LIMIT ? &z->number[pid] : NULL;
}

static void reap(struct zygote *z)
{
	struct signalfd_siginfo si;
	int status;
	pid_t pid;

	if (read(z->sigchld, &si, sizeof(si)) < 0 && errno != EAGAIN)
		return;
	while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
		struct ctl_msg m = {.type = CTL_REAPED};
		uint64_t *number = number_of(z, pid);

		/* Ours is also the process that a clone forked to hold it
		 * frozen (core/freeze.c); it has no number. */
		if (!number || !*number)
			continue;
		m.reaped.number = *number;
		*number = 0;
		m.reaped.wait_status = status;
		if (worker_send(z->w, &m, NULL, NULL, 0))
			z->w->done = true;
	}
}

/* In the child: leave everything of the zygote behind but memory and state. */
static int child(
	struct zygote *z, struct ctl_packet *p, int ctl, uint64_t number)
{
	struct worker *w = z->w;
	struct err e;

	w->born = now_ns();
	(void)close(w->ctl);
	(void)close(z->sigchld);
	w->ctl = ctl;
	if (jail_tie(z->pid, &e))
		return 1;
	return clone_run(w, p, number);
}

/* Returns 1 in the child after it has lived (*code is set), else 0 or -errno.
 */
static int fork_one(struct zygote *z, struct ctl_packet *p, uint32_t i,
	int *code, struct err *e)
{
	const struct ctl_clone *c = &p->msg.clone;
	struct ctl_msg m = {.type = CTL_CLONED};
	struct ctl_fd fds[2];
	int pair[2], r = 0;
	uint64_t start, *number;
	pid_t pid;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair))
		return err_sys(e, -errno, "socket pair of a clone");
	start = now_ns();
	pid = fork();
	if (pid == 0) {
		(void)close(pair[0]);
		*code = child(z, p, pair[1], c->first + i);
		return 1;
	}
	(void)close(pair[1]);
	if (pid < 0) {
		r = err_sys(e, -errno, "fork of a clone");
		(void)close(pair[0]);
		return r;
	}
	m.cloned.fork_us = (uint32_t)((now_ns() - start) / 1000);
	m.cloned.number = c->first + i;
	m.cloned.pid = pid;
	number = number_of(z, pid);
	if (number)
		*number = c->first + i;
	fds[0] = (struct ctl_fd){pair[0], CTL_FD_SOCKET, 0};
	fds[1] = (struct ctl_fd){
		(int)syscall(SYS_pidfd_open, pid, 0), CTL_FD_PIDFD, 0};
	if (fds[1].fd < 0)
		r = err_sys(e, -errno, "pidfd of a clone");
	else
		r = worker_send(z->w, &m, NULL, fds, 2);
	/* A clone that the daemon never heard of sees its socket close. */
	(void)close(pair[0]);
	if (fds[1].fd >= 0)
		(void)close(fds[1].fd);
	return r;
}

static int check_clone(const struct ctl_packet *p, struct err *e)
{
	const struct ctl_clone *c = &p->msg.clone;

	if (p->msg.type != CTL_CLONE)
		return err_set(e, -EINVAL,
			"control message %u is not for a zygote", p->msg.type);
	if (!c->count || c->count > CTL_CLONE_BATCH ||
		(c->mode != CTL_CLONE_PARK && c->mode != CTL_CLONE_RUN) ||
		(p->msg.len && p->msg.len != sizeof(struct ctl_overrides)) ||
		(p->nfds && c->count != 1))
		return err_set(e, -EINVAL, "malformed clone request");
	return 0;
}

/* As fork_one(). */
static int serve_one(struct zygote *z, struct ctl_packet *p, int *code)
{
	struct ctl_msg m = {0};
	struct err e = {0};
	int r = check_clone(p, &e);

	for (uint32_t i = 0; !r && i < p->msg.clone.count; i++) {
		r = fork_one(z, p, i, code, &e);
		if (r == 1)
			return 1;
	}
	if (r)
		worker_reply_error(z->w, &p->msg, &e);
	else
		worker_reply(z->w, &p->msg, &m, NULL, NULL, 0);
	return 0;
}

static int open_zygote(struct zygote *z)
{
	sigset_t mask;

	sigemptyset(&mask);
	sigaddset(&mask, SIGCHLD);
	if (sigprocmask(SIG_BLOCK, &mask, NULL))
		return -errno;
	z->sigchld = signalfd(-1, &mask, SFD_CLOEXEC | SFD_NONBLOCK);
	if (z->sigchld < 0)
		return -errno;
	z->number = mmap(NULL, PID_LIMIT * sizeof(*z->number),
		PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (z->number == MAP_FAILED)
		return -errno;
	/* Clones have no use for it: keep fork() from copying it. */
	if (madvise(z->number, PID_LIMIT * sizeof(*z->number), MADV_DONTFORK))
		return -errno;
	z->pid = getpid();
	return 0;
}

int zygote_run(struct worker *w)
{
	struct zygote z = {.w = w};
	struct ctl_packet p;
	int code = 0, r;

	r = open_zygote(&z);
	if (r) {
		log_error("zygote: %s", strerror(-r));
		return 1;
	}
	struct pollfd pfd[2] = {{.fd = w->ctl, .events = POLLIN},
		{.fd = z.sigchld, .events = POLLIN}};

	while (!w->done) {
		if (poll(pfd, 2, -1) < 0 && errno != EINTR)
			return 1;
		/* Requests first: the dead can wait. */
		r = ctl_recv(w->ctl, &p, w->buf);
		if (r == 1) {
			if (serve_one(&z, &p, &code) == 1)
				return code;
			ctl_packet_free(&p);
			continue;
		}
		if (r != -EAGAIN)
			return r ? 1 : 0;
		if (pfd[1].revents)
			reap(&z);
	}
	return 1;
}
