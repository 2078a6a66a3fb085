/*
 * How it works
 *
 * One thread per vCPU runs one loop. All it can wait for is in one place, under
 * m->lock on m->run_cond: being told to go on, and the door (door.c). So no
 * wake-up can fall between two waits.
 *
 * Pausing: the loop thread sets want_pause and run->immediate_exit and sends
 * SIGRTMIN. A thread in KVM_RUN comes out with EINTR; one that is about to
 * enter comes straight out because of immediate_exit (KVM looks at signals
 * again after it has read the flag, so nothing is lost between); one that waits
 * gets the broadcast. The signal's handler does nothing, its delivery is all.
 * immediate_exit is only written under the lock and equals want_pause ||
 * want_exit there.
 *
 * paused is set by the thread and cleared by whoever resumes it: a thread that
 * is resumed and asked again before it got to run says so again.
 *
 * An access that KVM handed to us is finished by KVM in the next KVM_RUN (the
 * result goes into a register, the instruction pointer moves on). Before
 * reporting paused the thread therefore enters KVM_RUN once more: with
 * immediate_exit set it finishes the access and comes out before the guest
 * runs.
 *
 * Threads: the functions below are for the loop thread, but for those that say
 * "vCPU thread".
 */
#include "core/arch.h"
#include "core/kvm.h"

#include <errno.h>
#include <linux/kvm.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>

#ifdef __has_feature /* clang's way to say it */
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define VCPU_STACK (1 * MIB)
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define VCPU_STACK (1 * MIB)
#endif
#ifndef VCPU_STACK
/* A thousand machines are alive at once. The deepest user is a device's io(),
 * a few KiB; static TLS is in here too. */
#define VCPU_STACK (64 * KIB)
#endif

int vcpu_create(struct machine *m, uint32_t id, struct err *e)
{
	struct vcpu *v = calloc(1, sizeof(*v));

	if (!v)
		return err_set(e, -ENOMEM, "vCPU %u: no memory", id);
	v->s = arch_vcpu_state_create();
	if (!v->s) {
		free(v);
		return err_set(e, -ENOMEM, "vCPU %u: no memory", id);
	}
	v->m = m;
	v->id = id;
	v->fd = -1;
	v->want_pause = true;
	v->paused = true;
	m->cpu[id] = v;
	return 0;
}

static void set_immediate_exit(struct vcpu *v)
{
	__atomic_store_n(&v->run->immediate_exit, v->want_pause || v->want_exit,
		__ATOMIC_RELAXED);
}

void vcpu_destroy(struct vcpu *v)
{
	if (!v)
		return;
	if (v->started) {
		pthread_mutex_lock(&v->m->lock);
		v->want_exit = true;
		set_immediate_exit(v);
		pthread_mutex_unlock(&v->m->lock);
		pthread_cond_broadcast(&v->m->run_cond);
		pthread_kill(v->thread, SIGRTMIN);
		pthread_join(v->thread, NULL);
	}
	if (v->run)
		munmap(v->run, v->run_size);
	if (v->fd >= 0)
		close(v->fd);
	free(v->s);
	free(v);
}

static uint64_t load_value(const uint8_t *p, uint32_t len)
{
	uint64_t v = 0;

	memcpy(&v, p, len < sizeof(v) ? len : sizeof(v));
	return v;
}

/* vCPU thread */
static void exit_io(struct vcpu *v)
{
	struct kvm_run *run = v->run;
	uint8_t *p = (uint8_t *)run + run->io.data_offset;
	uint32_t size = run->io.size;
	bool out = run->io.direction == KVM_EXIT_IO_OUT;
	uint16_t port = run->io.port;

	v->io_pending = true;
	for (uint32_t i = 0; i < run->io.count; i++, p += size) {
		if (out && port >= DOOR_PORT && port < DOOR_PORT + DOOR_SIZE)
			door_io(v, (uint16_t)(port - DOOR_PORT), size,
				(uint32_t)load_value(p, size));
		else
			bus_access(&v->m->bus, BUS_PORT, port, p, size, out);
	}
}

/* vCPU thread */
static void exit_internal_error(struct vcpu *v)
{
	const struct kvm_run *run = v->run;
	char hex[15 * 3 + 1] = "";
	size_t n = 0;

	if (run->internal.suberror != KVM_INTERNAL_ERROR_EMULATION) {
		machine_end(v->m, MACHINE_END_ERROR,
			"vCPU %u: KVM internal error %u", v->id,
			run->internal.suberror);
		return;
	}
	if (run->emulation_failure.ndata >= 1 &&
		(run->emulation_failure.flags &
			KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES))
		n = run->emulation_failure.insn_size;
	if (n > sizeof(run->emulation_failure.insn_bytes))
		n = sizeof(run->emulation_failure.insn_bytes);
	for (size_t i = 0; i < n; i++)
		(void)snprintf(hex + 3 * i, sizeof(hex) - 3 * i, " %02x",
			run->emulation_failure.insn_bytes[i]);
	machine_end(v->m, MACHINE_END_ERROR,
		"vCPU %u: KVM cannot emulate the instruction%s%s", v->id,
		n ? ":" : "", hex);
}

/* vCPU thread */
static void exit_system_event(struct vcpu *v)
{
	switch (v->run->system_event.type) {
	case KVM_SYSTEM_EVENT_SHUTDOWN:
		machine_end(v->m, MACHINE_END_POWEROFF, "power off");
		break;
	case KVM_SYSTEM_EVENT_RESET:
		machine_end(v->m, MACHINE_END_REBOOT, "reset");
		break;
	default:
		machine_end(v->m, MACHINE_END_CRASH, "system event %u",
			v->run->system_event.type);
		break;
	}
	v->ended = true;
}

/* vCPU thread: the one exit switch. */
static void vcpu_exit(struct vcpu *v)
{
	struct kvm_run *run = v->run;

	switch (run->exit_reason) {
	case KVM_EXIT_IO:
		exit_io(v);
		return;
	case KVM_EXIT_MMIO:
		v->io_pending = true;
		bus_access(&v->m->bus, BUS_MMIO, run->mmio.phys_addr,
			run->mmio.data, run->mmio.len, run->mmio.is_write);
		return;
	case KVM_EXIT_HLT: /* the local APICs are in the kernel: not seen */
	case KVM_EXIT_INTR:
	case KVM_EXIT_IRQ_WINDOW_OPEN:
		return;
	case KVM_EXIT_SYSTEM_EVENT:
		exit_system_event(v);
		return;
	case KVM_EXIT_SHUTDOWN:
		machine_end(v->m, MACHINE_END_SHUTDOWN, "vCPU %u: triple fault",
			v->id);
		break;
	case KVM_EXIT_FAIL_ENTRY:
		machine_end(v->m, MACHINE_END_ERROR,
			"vCPU %u: the processor refused its state, reason "
			"0x%llx",
			v->id,
			(unsigned long long)
				run->fail_entry.hardware_entry_failure_reason);
		break;
	case KVM_EXIT_INTERNAL_ERROR:
		exit_internal_error(v);
		break;
	default:
		if (arch_vcpu_exit(v))
			return;
		machine_end(v->m, MACHINE_END_ERROR,
			"vCPU %u: unknown exit reason %u", v->id,
			run->exit_reason);
		break;
	}
	v->ended = true;
}

/* vCPU thread: into the guest until its next exit, or a signal. */
static void run_once(struct vcpu *v)
{
	int code;

	v->io_pending = false;
	if (!ioctl(v->fd, KVM_RUN, 0)) {
		vcpu_exit(v);
		return;
	}
	code = -errno;
	/* EAGAIN: a vCPU that waits for its start-up interrupt. */
	if (code == -EINTR || code == -EAGAIN)
		return;
	machine_end(v->m, MACHINE_END_ERROR, "vCPU %u: KVM_RUN: %s", v->id,
		strerror(-code));
	v->ended = true;
}

/* vCPU thread, m->lock held: something is asked of us. */
static void wait_paused(struct vcpu *v)
{
	struct machine *m = v->m;
	uint64_t began;

	/* Finishing one string instruction can hand us the next part. */
	while (v->io_pending && !v->want_exit && !v->ended) {
		pthread_mutex_unlock(&m->lock);
		run_once(v);
		pthread_mutex_lock(&m->lock);
	}
	began = now_ns();
	while (v->want_pause && !v->want_exit) {
		v->paused = true;
		pthread_cond_signal(&m->pause_cond);
		pthread_cond_wait(&m->run_cond, &m->lock);
	}
	if (v->door_waiting && v->door_until)
		v->door_until += now_ns() - began;
}

/* vCPU thread, m->lock held. */
static void wait_door(struct vcpu *v)
{
	struct timespec ts;

	if (!v->door_until) {
		pthread_cond_wait(&v->m->run_cond, &v->m->lock);
		return;
	}
	ts.tv_sec = (time_t)(v->door_until / 1000000000ULL);
	ts.tv_nsec = (long)(v->door_until % 1000000000ULL);
	pthread_cond_timedwait(&v->m->run_cond, &v->m->lock, &ts);
}

static void *vcpu_thread(void *arg)
{
	struct vcpu *v = arg;
	struct machine *m = v->m;
	int r = m->vcpu_jail ? m->vcpu_jail(m->vcpu_jail_arg) : 0;

	if (r < 0) {
		machine_end(m, MACHINE_END_ERROR,
			"vCPU %u: cannot confine its thread: %s", v->id,
			strerror(-r));
		v->ended = true;
	}
	pthread_mutex_lock(&m->lock);
	while (!v->want_exit) {
		if (v->want_pause) {
			wait_paused(v);
		} else if (v->ended) {
			pthread_cond_wait(&m->run_cond, &m->lock);
		} else if (v->door_waiting && !door_is_open(v)) {
			wait_door(v);
		} else {
			door_leave(v);
			pthread_mutex_unlock(&m->lock);
			run_once(v);
			pthread_mutex_lock(&m->lock);
		}
	}
	pthread_mutex_unlock(&m->lock);
	return NULL;
}

static int start_thread(struct vcpu *v)
{
	pthread_attr_t attr;
	sigset_t mask;
	int r = pthread_attr_init(&attr);

	if (r)
		return -r;
	/* Signals are for the loop thread, but for the one that pauses. */
	sigfillset(&mask);
	sigdelset(&mask, SIGRTMIN);
	r = pthread_attr_setsigmask_np(&attr, &mask);
	if (!r)
		r = pthread_attr_setstacksize(&attr, VCPU_STACK);
	if (!r)
		r = pthread_create(&v->thread, &attr, vcpu_thread, v);
	pthread_attr_destroy(&attr);
	v->started = !r;
	return -r;
}

static void on_kick(int sig)
{
	(void)sig;
}

int vcpu_signals_init(struct err *e)
{
	struct sigaction sa = {.sa_handler = on_kick};

	/* No SA_RESTART: KVM_RUN must come back. */
	if (sigaction(SIGRTMIN, &sa, NULL))
		return err_sys(e, -errno, "sigaction");
	return 0;
}

int vcpu_realize(struct vcpu *v, struct err *e)
{
	struct machine *m = v->m;
	void *p;
	int r;

	v->fd = kvm_ioctl_val(m->vm_fd, KVM_CREATE_VCPU, v->id);
	if (v->fd < 0)
		return err_sys(e, v->fd, "vCPU %u: KVM_CREATE_VCPU", v->id);
	v->run_size = arch_run_size(m);
	p = mmap(NULL, v->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, v->fd,
		0);
	if (p == MAP_FAILED)
		return err_sys(e, -errno, "vCPU %u: mmap of kvm_run", v->id);
	v->run = p;
	set_immediate_exit(v);
	r = vcpu_state_set(v, e);
	if (r < 0)
		return r;
	r = start_thread(v);
	if (r < 0)
		return err_sys(e, r, "vCPU %u: cannot start its thread", v->id);
	return 0;
}

void vcpu_resume(struct vcpu *v)
{
	pthread_mutex_lock(&v->m->lock);
	v->want_pause = false;
	v->paused = false;
	set_immediate_exit(v);
	pthread_mutex_unlock(&v->m->lock);
	pthread_cond_broadcast(&v->m->run_cond);
}

void vcpu_ask_pause(struct vcpu *v)
{
	bool waiting;

	if (!v->started)
		return;
	pthread_mutex_lock(&v->m->lock);
	waiting = v->paused;
	v->want_pause = true;
	set_immediate_exit(v);
	pthread_mutex_unlock(&v->m->lock);
	if (waiting)
		return;
	pthread_cond_broadcast(&v->m->run_cond);
	pthread_kill(v->thread, SIGRTMIN);
}

int vcpu_wait_paused(struct vcpu *v, uint64_t deadline_ns)
{
	struct timespec ts = {
		.tv_sec = (time_t)(deadline_ns / 1000000000ULL),
		.tv_nsec = (long)(deadline_ns % 1000000000ULL),
	};
	int r = 0;

	pthread_mutex_lock(&v->m->lock);
	while (!v->paused && r != ETIMEDOUT)
		r = pthread_cond_timedwait(&v->m->pause_cond, &v->m->lock, &ts);
	r = v->paused ? 0 : -ETIMEDOUT;
	pthread_mutex_unlock(&v->m->lock);
	return r;
}
