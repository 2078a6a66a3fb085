#include "api/daemon/writer.h"

#include "api/daemon/conn.h"
#include "api/daemon/devfiles.h"
#include "api/daemon/zygote.h"
#include "core/log.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

/* Longer than a machine lets its vCPUs take (WORKER_PAUSE_MS). */
#define FREEZE_PATIENCE_MS 10000
/* The same where overlays are written out meanwhile. */
#define OVERLAYS_PATIENCE_MS 600000

/* The callback that everything leads to, once. */
static void say(struct daemon *d, struct writer *w, struct ctl_packet *p,
	const struct err *e)
{
	if (w->said)
		return;
	w->said = true;
	w->job.output = -1;
	w->job.fn->written(d, w->job.arg, p, e);
}

static void fail(struct daemon *d, struct writer *w, const struct err *e)
{
	struct err why = *e;

	if (w->adopted && !w->p.stopped)
		proc_kill(d, &w->p, &why);
	say(d, w, NULL, &why);
}

void writer_cancel(struct daemon *d, struct writer *w, const struct err *why)
{
	if (!w->said)
		fail(d, w, why);
}

void writer_gone(struct daemon *d, struct writer *w, int status)
{
	struct err e = {.code = -EIO};

	if (status >= 0 && WIFSIGNALED(status))
		(void)snprintf(e.msg, sizeof(e.msg),
			"the process that writes the snapshot was killed by "
			"signal %d",
			WTERMSIG(status));
	else
		(void)snprintf(e.msg, sizeof(e.msg),
			"the process that writes the snapshot ended early");
	/* Its pending call ends with e, and so does this. */
	proc_release(d, &w->p, &e);
	say(d, w, NULL, &e);
}

void writer_message(struct daemon *d, struct writer *w, struct ctl_packet *p)
{
	const struct ctl_progress *q = &p->msg.progress;

	if (p->msg.type != CTL_PROGRESS)
		log_debug("a writer sent control message %u", p->msg.type);
	else if (w->job.fn->progress && !w->said && q->done <= q->total)
		w->job.fn->progress(d, w->job.arg, q->done, q->total);
}

static void write_done(
	struct daemon *d, void *arg, struct ctl_packet *p, const struct err *e)
{
	struct writer *w = arg;

	if (p)
		say(d, w, p, NULL);
	else
		fail(d, w, e);
}

/* The child's own page map: of a copy that nobody changes. -1: not to be had,
 * which the child can live with unless it is a diff. */
static int open_pagemap(struct writer *w)
{
	char path[64];
	pid_t pid = proc_pid(&w->p);
	int fd;

	if (pid <= 0)
		return -1;
	(void)snprintf(path, sizeof(path), "/proc/%d/pagemap", (int)pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	/* Only if it still is that process: a number can be given again. */
	if (fd >= 0 &&
		syscall(SYS_pidfd_send_signal, w->p.pidfd, 0, NULL, 0) != 0) {
		(void)close(fd);
		fd = -1;
	}
	return fd;
}

static int ask_to_write(struct daemon *d, struct writer *w, struct err *e)
{
	struct ctl_msg m = {.type = CTL_WRITE, .write = w->job.how};
	AUTO_FD pagemap = open_pagemap(w);
	struct ctl_fd fds[2] = {{w->job.output, CTL_FD_OUTPUT, 0},
		{pagemap, CTL_FD_PAGEMAP, 0}};
	int r = w->job.fn->hint ? w->job.fn->hint(d, w->job.arg, &w->p.parents,
					  &w->hint, e)
				: 0;

	if (r)
		return r;
	m.len = w->hint ? (uint32_t)strlen(w->hint) : 0;
	/* No time limit: it takes as long as the disk does, and whoever waits
	 * may cancel. */
	return proc_call(d, &w->p,
		&(struct proc_request){.m = &m,
			.payload = w->hint,
			.fds = fds,
			.nfds = pagemap >= 0 ? 2 : 1,
			.fn = write_done,
			.arg = w},
		e);
}

static int adopt(
	struct daemon *d, struct writer *w, struct ctl_packet *p, struct err *e)
{
	int pidfd = ctl_fd(p, CTL_FD_PIDFD, 0);
	pid_t parent = getpid();

	if (pidfd < 0)
		return err_set(e, -EIO, "the machine forked no process");
	if (w->m->kind == ENTRY_CLONE) {
		if (!w->m->z)
			return err_set(e, -EIO, "the clone has no zygote");
		parent = w->m->z->p.pid;
	}
	if (proc_adopt(d, &w->p, w->sock, pidfd, parent))
		return err_set(e, -EMFILE, "no descriptor for a snapshot");
	(void)ctl_take(p, CTL_FD_PIDFD, 0);
	w->sock = -1;
	w->adopted = true;
	(void)proc_pid(&w->p); /* to be waited for */
	/* The machine may have been taken over and name any process. */
	if (!proc_signal(&w->p, 0))
		return err_set(e, -EIO,
			"the machine named a process that is not its own");
	return 0;
}

static void is_frozen(
	struct daemon *d, void *arg, struct ctl_packet *p, const struct err *e)
{
	struct writer *w = arg;
	struct err why = {0};
	int r;

	if (!p) {
		fail(d, w, e);
		return;
	}
	r = w->m ? adopt(d, w, p, &why)
		 : err_set(&why, -ESRCH, "the machine is gone");
	/* Cancelled meanwhile. */
	if (!r && w->said)
		r = err_set(&why, -ECANCELED, "cancelled");
	if (!r && w->job.fn->frozen)
		w->job.fn->frozen(d, w->job.arg, &p->msg.split);
	if (!r)
		r = ask_to_write(d, w, &why);
	if (r)
		fail(d, w, &why);
}

/*
 * A machine that is killed between its fork and its answer leaves a child whose
 * pid we never learn. It ends by itself, since its socket closes, but as it is
 * a child of ours somebody must wait for it. Every child that we know is waited
 * for as soon as it ends; so one that is still there at the next look is not.
 */
#define STRAY_NS     250000000ULL
#define STRAY_ROUNDS 8

static void look_for_strays(struct daemon *d, struct deadline *dl)
{
	siginfo_t si = {0};

	(void)dl;
	if (waitid(P_ALL, 0, &si, WEXITED | WNOHANG | WNOWAIT))
		return; /* no children at all */
	if (si.si_pid && si.si_pid == d->strays.seen) {
		(void)waitpid(si.si_pid, NULL, WNOHANG);
		d->strays.seen = 0;
		d->strays.rounds = STRAY_ROUNDS;
	} else {
		d->strays.seen = si.si_pid;
	}
	if (d->strays.rounds--)
		deadline_set(&d->deadlines, &d->strays.look,
			now_ns() + STRAY_NS, look_for_strays);
}

static void expect_stray(struct daemon *d)
{
	d->strays.rounds = STRAY_ROUNDS;
	d->strays.seen = 0;
	deadline_set(&d->deadlines, &d->strays.look, now_ns() + STRAY_NS,
		look_for_strays);
}

static void finish(
	struct daemon *d, struct writer *w, const struct ctl_settled *s)
{
	static const struct ctl_settled none;

	if (w->m)
		w->m->writer = NULL;
	w->m = NULL;
	if (w->adopted && !w->p.stopped) {
		struct err e = {.code = -ESRCH, .msg = "not needed any more"};

		proc_kill(d, &w->p, &e);
	}
	if (w->sock >= 0)
		(void)close(w->sock);
	w->sock = -1;
	if (!w->adopted)
		expect_stray(d);
	list_del(&w->link);
	w->job.fn->settled(d, w->job.arg, s ? s : &none);
	free(w->hint);
	w->hint = NULL;
	daemon_bury(d, w);
}

static void settled(
	struct daemon *d, void *arg, struct ctl_packet *p, const struct err *e)
{
	(void)e;
	finish(d, arg, p ? &p->msg.settled : NULL);
}

void writer_settle(struct daemon *d, struct writer *w, bool kept,
	const struct ctl_written *what)
{
	struct ctl_msg m = {.type = CTL_SETTLE};
	struct err e = {0};

	m.settle.kept = kept;
	if (kept && what) {
		m.settle.uuid = what->uuid;
		memcpy(m.settle.digest, what->digest, sizeof(what->digest));
	}
	/* A cancelled freeze may still be under way: the machine takes one
	 * message after the other. */
	if (!w->m || proc_call(d, &w->m->p,
			     &(struct proc_request){.m = &m,
				     .timeout_ms = FREEZE_PATIENCE_MS,
				     .fn = settled,
				     .arg = w},
			     &e))
		finish(d, w, NULL);
}

void writer_machine_ended(struct writer *w)
{
	w->m = NULL;
}

struct writer *writer_begin(struct daemon *d, struct machine_entry *m,
	const struct writer_job *job, struct err *e)
{
	struct ctl_msg msg = {.type = CTL_SNAPSHOT, .snapshot = job->what};
	struct ctl_fd fds[1 + DEVFILES_MAX_FDS];
	const struct devfiles *f = job->overlays;
	struct writer *w;
	unsigned nfds = 1;
	int pair[2], r;

	if (m->writer) {
		err_set(e, -EBUSY,
			"%s: another snapshot of this machine is in progress",
			m->id);
		return NULL;
	}
	w = calloc(1, sizeof(*w));
	if (!w) {
		err_set(e, -ENOMEM, "no memory for a snapshot");
		return NULL;
	}
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair)) {
		err_sys(e, -errno, "control socket");
		free(w);
		return NULL;
	}
	proc_init(&w->p, PROC_WRITER);
	w->m = m;
	w->job = *job;
	w->job.overlays = NULL;
	w->sock = pair[0];
	fds[0] = (struct ctl_fd){pair[1], CTL_FD_SOCKET, 0};
	if (f) {
		nfds = devfiles_fds(f, fds, nfds);
		msg.len = f->ndisks * (uint32_t)sizeof(f->disk[0]);
	}
	r = proc_call(d, &m->p,
		&(struct proc_request){.m = &msg,
			.payload = f ? f->disk : NULL,
			.fds = fds,
			.nfds = nfds,
			.timeout_ms = msg.len ? OVERLAYS_PATIENCE_MS
					      : FREEZE_PATIENCE_MS,
			.fn = is_frozen,
			.arg = w},
		e);
	(void)close(pair[1]);
	if (r) {
		(void)close(pair[0]);
		free(w);
		return NULL;
	}
	list_add(&d->writers, &w->link);
	m->writer = w;
	return w;
}
