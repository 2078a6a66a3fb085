/*
 * One thaw-machine process at work: a machine, its agent client, its control
 * socket and the event loop they share.
 *
 * A process becomes a worker by one of two ways: exec'd by the daemon (roles
 * machine, builder, restore: setup.c), or forked from a zygote (clone.c). From
 * then on both run worker_run(), which answers control requests until the
 * machine or the daemon is gone. Everything here runs on the main thread.
 */
#ifndef THAW_API_MACHINE_WORKER_H
#define THAW_API_MACHINE_WORKER_H

#include "api/ctl.h"
#include "api/machine/console.h"
#include "api/machine/jail.h"
#include "core/agent.h"
#include "core/kvm.h"
#include "uffd/uffd.h"

#define WORKER_MAX_INVOKES 64
#define WORKER_READY_TEXT  256
/* A vCPU that does not leave the guest for so long is stuck for good. */
#define WORKER_PAUSE_MS 2000

/* An agent call that a control request waits for. */
struct worker_call {
	struct worker *w;
	struct ctl_msg request;
	bool used;
	uint64_t start, ready; /* now_ns() */
};

/* A snapshot that a diff can name as its parent. */
struct worker_parent {
	bool known;
	struct snap_uuid uuid;
	uint8_t digest[16];
};

struct worker {
	enum ctl_role role;
	bool clone;          /* forked from a zygote */
	bool parked;         /* a clone that waits for CTL_GO */
	bool held;           /* paused until its snapshot is settled */
	uint64_t held_since; /* now_ns() */
	bool needs_identity; /* restored: the first resume applies it */
	bool done;           /* leave worker_run() */
	int ctl;             /* owned */
	uint8_t *buf;        /* owned; CTL_INLINE + 1 bytes for ctl_recv() */

	struct loop loop;
	struct machine m;
	bool have_machine;
	struct agent *agent; /* owned; NULL without vsock */
	struct jail jail;
	struct kvm_host kvm;   /* open until the VM exists */
	struct uffd_host uffd; /* open until lazy memory is registered */
	int handler; /* owned: socket to an external pager, held for life; -1 */

	struct console con;

	/* What this machine was made from, and its last snapshot (at first the
	 * same): parents of diffs. */
	struct worker_parent origin, last;

	struct identity id;
	struct ctl_times us;
	uint64_t born; /* now_ns() at process start or fork */

	struct worker_call call[WORKER_MAX_INVOKES];

	/* The guest's clock is being set. */
	struct {
		uint64_t told;  /* now_ns() */
		unsigned tries; /* that are left; 0: none under way */
	} clock;

	/* CTL_WAIT_READY in progress */
	struct {
		struct ctl_msg request;
		uint64_t deadline, at; /* now_ns(); 0: none */
		char text[WORKER_READY_TEXT];
		char seen[2 * WORKER_READY_TEXT]; /* end of the console */
		size_t nseen;
	} wait;
};

void worker_init(struct worker *w, int ctl);
void worker_fini(struct worker *w);

/* Event loop until the end; returns the process's exit code. */
int worker_run(struct worker *w);

/* Fresh generation, seed, machine id; names from the overrides (may be NULL).
 * Writes the identity page: the machine must not have run since it was made.
 */
int worker_new_identity(struct worker *w, const struct ctl_overrides *o,
	struct err *e) MUST_USE;
/* Lazy memory: register it and have the daemon tell the pager; before anything
 * touches it. Other memory: nothing. */
int worker_arm(struct worker *w, struct err *e) MUST_USE;
/* Create the VM; devices, agent, console and the thread filter in place. */
int worker_realize(struct worker *w, struct err *e) MUST_USE;

/* worker_ctl.c: one control message; worker_ready.c: readiness */
void worker_message(struct worker *w, struct ctl_packet *p);
void worker_wait_ready(struct worker *w, struct ctl_packet *p);
void worker_ready_console(struct worker *w, const char *p, size_t n);
void worker_ready_tick(struct worker *w);
/* A Linux guest is told the time, ahead of any later call. */
void worker_tell_time(struct worker *w);
/* A free call slot, or NULL. */
struct worker_call *worker_call_get(
	struct worker *w, const struct ctl_msg *request);
/* ctl_send(), but waits a bounded time for room in the socket. */
int worker_send(const struct worker *w, struct ctl_msg *m, const void *payload,
	const struct ctl_fd *fds, unsigned nfds) MUST_USE;
/* Answer, with the same patience. */
void worker_reply(struct worker *w, const struct ctl_msg *request,
	struct ctl_msg *answer, const void *payload, const struct ctl_fd *fds,
	unsigned nfds);
void worker_reply_error(
	struct worker *w, const struct ctl_msg *request, const struct err *e);

/* worker_agent.c: CTL_AGENT */
int worker_agent(
	struct worker *w, struct ctl_packet *p, struct err *e) MUST_USE;
/* worker_snapshot.c: CTL_SNAPSHOT and CTL_SETTLE */
int worker_snapshot(
	struct worker *w, struct ctl_packet *p, struct err *e) MUST_USE;
int worker_settle(
	struct worker *w, struct ctl_packet *p, struct err *e) MUST_USE;
/* frozen.c: life of the process that holds a frozen machine; w is its copy of
 * the worker, sock its control socket. */
struct frozen {
	int sock;
	bool diff, live;
	enum ctl_against against;
	const uint64_t *taken; /* NULL: changes are not tracked */
};
void frozen_run(struct worker *w, const struct frozen *f)
	__attribute__((noreturn));

/* setup.c: CTL_SETUP for every role. Returns the process's exit code. */
int setup_run(int ctl);
/* zygote.c: serve CTL_CLONE until the daemon is gone. In a clone it returns
 * after worker_run() with that exit code. */
int zygote_run(struct worker *w);
/* pager.c: make the pager that the message asks for; then its life. */
struct pager_proc;
int pager_setup(struct worker *w, struct ctl_packet *p, struct pager_proc **out,
	struct err *e) MUST_USE;
/* A descriptor of the base, the caller's. */
int pager_take_base(const struct pager_proc *pp) MUST_USE;
int pager_run(struct pager_proc *pp);
/* clone.c: in the child, right after fork; p is the CTL_CLONE message, whose
 * descriptors are the child's own copies. */
int clone_run(struct worker *w, struct ctl_packet *p, uint64_t number);

#endif
