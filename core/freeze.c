/*
 * How it works
 *
 * fork() of a private mapping is a snapshot of it: from then on, who writes a
 * page gets a copy. So memory is frozen by the fork itself, and the state of
 * vCPUs and devices, which machine_pause() has read into plain memory, with it.
 *
 * The child is made with CLONE_PARENT: its parent is ours, so it survives this
 * machine, and whoever waits for us waits for it. It has a parent-death signal
 * like every process of ours.
 *
 * It begins in a copy of a process that had more threads, and of these only the
 * calling one exists in it. What another thread held in that moment stays held
 * for ever. Therefore:
 *
 *   - at the fork every other thread must hold nothing: the vCPU threads are
 *     paused, which is to wait for m->run_cond in wait_paused() (vcpu.c),
 *     having taken nothing but m->lock, which waiting gives back. The locks of
 *     malloc() are free then, and the child may allocate;
 *   - so nothing may start another thread in a machine's process, unless it is
 *     known to wait in this moment, holding nothing;
 *   - the child takes no lock of the machine;
 *   - it may start threads. Of the C library's list of threads nobody holds the
 *     lock either, since none begins or ends at the fork; the vCPUs' that stay
 *     in it are never looked at again. What the library takes for the id of
 *     the calling thread is the parent's, since this is no fork() of its: so no
 *     mutex of a kind that looks at its owner (recursive, error checking,
 *     robust), no pthread_kill() and no pthread_cancel();
 *   - it ends with _exit(): what exit() would run belongs to the parent.
 *
 * The child closes every descriptor but one before anything else, and unmaps
 * what maps a vCPU: either would keep the VM alive after its machine. Rings
 * (io_uring) are the parent's as well: who makes one says MADV_DONTFORK.
 */
#include "core/freeze.h"
#include "core/block.h"
#include "core/dirty.h"
#include "core/vcpu.h"

#include <errno.h>
#include <linux/sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

static uint32_t us_since(uint64_t *t)
{
	uint64_t now = now_ns();
	uint32_t us = (uint32_t)((now - *t) / 1000);

	*t = now;
	return us;
}

static void close_others(int keep)
{
	unsigned k = (unsigned)keep;

	if (k > 3)
		(void)syscall(SYS_close_range, 3, k - 1, 0);
	(void)syscall(SYS_close_range, k + 1, ~0U, 0);
}

/* Nothing of what the kernel gave the parent is the child's. */
static int become_child(struct machine *m, const struct freeze *f, pid_t parent)
{
	if (prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) || getppid() != parent)
		return -ESRCH;
	close_others(f->keep);
	for (unsigned i = 0; i < m->ncpus; i++) {
		struct vcpu *v = m->cpu[i];

		if (v->run && munmap(v->run, v->run_size))
			return -errno;
		v->run = NULL;
		v->fd = -1;
	}
	m->vm_fd = m->kvm_fd = m->door_event = m->end_event = -1;
	m->loop = NULL;
	return 0;
}

/* 0 in the parent, 1 in the child. */
static int do_fork(struct machine *m, struct freeze *f, struct err *e)
{
	/* The signal of its end is that of this process. */
	struct clone_args a = {.flags = CLONE_PARENT | CLONE_PIDFD,
		.pidfd = (uint64_t)(uintptr_t)&f->pidfd};
	pid_t parent = getppid();
	long pid = syscall(SYS_clone3, &a, sizeof(a));

	if (pid < 0)
		return err_sys(e, -errno, "fork of the machine");
	if (pid > 0) {
		f->pid = (pid_t)pid;
		return 0;
	}
	f->pidfd = -1;
	if (become_child(m, f, parent))
		_exit(1);
	return 1;
}

/* Paused: take everything that must be of this moment. */
static int take(struct machine *m, struct freeze *f, struct err *e)
{
	struct dirty *d = m->mem.dirty;
	uint64_t t = now_ns();
	int r;

	/* Before the child has the devices' state. */
	r = block_export(m, f->overlay, e);
	/* After the state was read: reading it can make KVM write. */
	if (!r)
		r = dirty_collect(m, e);
	if (!r && d)
		r = dirty_take(d, &f->taken, e);
	if (r < 0)
		return r;
	f->us.dirty = us_since(&t);
	r = do_fork(m, f, e);
	f->us.fork = us_since(&t);
	if (r < 0 && d)
		dirty_settle(d, false);
	return r;
}

static int go_on(struct machine *m, struct freeze *f, struct err *e)
{
	uint64_t t = now_ns();
	int r = machine_resume(m, e);

	f->us.resume = us_since(&t);
	return r;
}

/* Nobody will hear of the child; without its socket it ends. */
static void give_up(struct machine *m, struct freeze *f)
{
	(void)close(f->pidfd);
	f->pidfd = -1;
	f->taken = NULL;
	if (m->mem.dirty)
		dirty_settle(m->mem.dirty, false);
}

static int check(const struct machine *m, struct err *e)
{
	if (m->mem.backing == MEM_BUILDER)
		return err_set(
			e, -EINVAL, "shared memory cannot be frozen by a fork");
	if (m->mem.dirty && m->mem.dirty->in_progress)
		return err_set(e, -EBUSY,
			"another snapshot of this machine is in progress");
	/* machine_pause() refuses the rest. */
	if (m->parked)
		return err_set(e, -EBUSY, "the machine is parked");
	return 0;
}

int freeze_fork(struct machine *m, struct freeze *f, struct err *e)
{
	bool was_paused = m->state == MACHINE_PAUSED;
	uint64_t start;
	int r;

	f->pidfd = -1;
	f->pid = 0;
	f->paused = false;
	f->taken = NULL;
	f->us = (struct freeze_us){0};
	r = check(m, e);
	/* Most of the log while the guest still runs. */
	if (!r)
		r = dirty_collect(m, e);
	if (r < 0)
		return r;
	start = now_ns();
	if (!was_paused)
		r = machine_pause(m, f->timeout_ms, e);
	if (r < 0)
		return r;
	if (!was_paused) {
		f->us.stop = m->us.stop;
		f->us.quiesce = m->us.quiesce;
		f->us.state = m->us.state;
	}
	r = take(m, f, e);
	if (r == 1)
		return 1;
	f->paused = !r && !was_paused && f->stay;
	if (!was_paused && !f->paused) {
		struct err why = {0};

		/* What happened first is what counts. */
		if (go_on(m, f, &why) && !r) {
			r = err_set(e, why.code, "%s", why.msg);
			give_up(m, f);
		}
	}
	if (!was_paused)
		f->us.pause = us_since(&start);
	return r;
}
