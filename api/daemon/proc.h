/*
 * Processes of the daemon: machines, clones, zygotes, helpers. Each has a
 * control socket and a pidfd, both watched; killing never needs the process's
 * cooperation.
 *
 * A proc stands inside its owner (machine_entry, zygote, helper), and .kind
 * says in which. When it ends for a reason of its own, the owner's *_gone() is
 * called once; after proc_kill() or proc_release() nothing more is reported.
 */
#ifndef THAW_API_DAEMON_PROC_H
#define THAW_API_DAEMON_PROC_H

#include "api/daemon/daemon.h"

enum proc_kind {
	PROC_MACHINE = 1, /* struct machine_entry, a child of ours */
	PROC_CLONE,       /* struct machine_entry, a child of a zygote */
	PROC_ZYGOTE,
	PROC_HELPER,
	PROC_WRITER, /* struct writer: holds a frozen machine */
	PROC_PAGER,  /* struct feed */
};

struct remote_name; /* snapshot/remote.h */

struct proc {
	struct watch on_ctl, on_exit;
	enum proc_kind kind;
	int sock, pidfd; /* owned; -1: none (not yet, or no more) */
	pid_t pid;       /* 0: not known yet */
	pid_t parent;    /* who must be the parent of a clone */
	bool trusted;    /* a child of ours, or its parent was checked */
	bool stopped;    /* released or killed: no more reports */
	uint32_t last_req;
	struct list calls;
	struct parents *parents; /* owned, may be NULL: see parents.h */
	/* Owned, may be NULL: its snapshot is on another host, and it is being
	 * set up. */
	struct remote_name *remote;
};

/* An answer: p is the message (status is 0, or more), or NULL and e says why
 * there is none. The callee may take descriptors out of p. */
typedef void call_fn(
	struct daemon *d, void *arg, struct ctl_packet *p, const struct err *e);

void proc_init(struct proc *p, enum proc_kind kind);
/* Start a thaw-machine; own_ns: give it a pid namespace if we may. */
int proc_spawn(
	struct daemon *d, struct proc *p, bool own_ns, struct err *e) MUST_USE;
/* Its snapshot is on another host: keep a copy of the name. */
int proc_set_remote(
	struct proc *p, const struct remote_name *n, struct err *e) MUST_USE;
/* It is set up: no file of the cache is for it any more. */
void proc_forget_remote(struct proc *p);
/* Take over socket and pidfd of a clone; owned on success only. */
int proc_adopt(struct daemon *d, struct proc *p, int sock, int pidfd,
	pid_t parent) MUST_USE;
/* What goes out with a request, and who hears of the answer. */
struct proc_request {
	struct ctl_msg *m; /* .req is set here */
	const void *payload;
	const struct ctl_fd *fds; /* stay the caller's */
	unsigned nfds;
	uint64_t timeout_ms; /* 0: no limit */
	call_fn *fn;
	void *arg;
};

/* Ask; fn is called exactly once unless a negative errno is returned. A
 * process that does not answer in time is killed first. */
int proc_call(struct daemon *d, struct proc *p, const struct proc_request *q,
	struct err *e) MUST_USE;
/* Without an answer. */
int proc_send(struct proc *p, struct ctl_msg *m, const void *payload,
	const struct ctl_fd *fds, unsigned nfds) MUST_USE;
/* SIGKILL and forget: pending calls fail with why. */
void proc_kill(struct daemon *d, struct proc *p, const struct err *why);
/* Forget, e.g. because it has ended. */
void proc_release(struct daemon *d, struct proc *p, const struct err *why);
/* SIGKILL only; the end will be noticed. False: the process is not ours. */
bool proc_signal(struct proc *p, int sig);
/* pid in our namespace, 0 when it is not known. The cheap one is a single
 * system call and needs Linux 6.13; the other reads a file of /proc. */
pid_t proc_pid(struct proc *p);
pid_t proc_pid_cheap(struct proc *p);

/* The loop's events. */
void proc_ctl_event(struct daemon *d, struct proc *p, uint32_t events);
void proc_exit_event(struct daemon *d, struct proc *p);
/* It has ended: what it said before that comes first. */
void proc_last_words(struct daemon *d, struct proc *p);

/* A child that nobody watches must still be waited for. */
void proc_remember(struct daemon *d, pid_t pid);
/* SIGCHLD: wait for children that were killed and forgotten. */
void proc_reap_orphans(struct daemon *d);
/* One printable line out of a hostile payload. */
void proc_text(const struct ctl_packet *p, char *out, size_t size);

#endif
