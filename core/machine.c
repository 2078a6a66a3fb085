/*
 * How it works
 *
 * machine_init() and whatever fills memory and state make plain memory only, so
 * that a zygote can fork it. machine_realize() puts it into KVM, in this order:
 *
 *   1. KVM_CREATE_VM
 *   2. what vCPUs depend on: the interrupt controller (a vCPU gets its local
 *      APIC when it is created, and only if this came first)
 *   3. memory slots: before any device registers on KVM's I/O bus, because
 *      both replace structures that readers hold, and a slot then waits for
 *      a grace period (7 ms measured)
 *   4. vCPUs with their state; their threads start and wait
 *   5. the VM's clock
 *   6. devices: eventfds, bus ranges; interrupts they raise now find the
 *      local APICs restored
 *
 * Pausing goes the other way: vCPUs out first, then devices finish what is in
 * flight (they may raise interrupts), then the local APICs and the rest are
 * read.
 */
#include "core/arch.h"
#include "core/dirty.h"
#include "core/kvm.h"

#include <errno.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <string.h>
#include <sys/eventfd.h>

static void close_fd(int *fd)
{
	if (*fd >= 0)
		(void)close(*fd);
	*fd = -1;
}

static int init_locks(struct machine *m, struct err *e)
{
	pthread_condattr_t attr;
	int r = pthread_condattr_init(&attr);

	if (!r)
		r = pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	if (!r)
		r = pthread_mutex_init(&m->lock, NULL);
	if (!r)
		r = pthread_cond_init(&m->run_cond, &attr);
	if (!r)
		r = pthread_cond_init(&m->pause_cond, &attr);
	return r ? err_sys(e, -r, "locks") : 0;
}

static int create_device(struct machine *m, const struct device_ops *ops,
	uint32_t instance, struct err *e)
{
	struct device *d = NULL;
	int r;

	if (m->ndevs == MACHINE_MAX_DEVICES)
		return err_set(e, -ENOSPC, "more than %u devices",
			MACHINE_MAX_DEVICES);
	r = ops->create(m, instance, &d, e);
	if (r < 0)
		return r;
	d->ops = ops;
	d->m = m;
	d->index = m->ndevs;
	d->instance = instance;
	m->dev[m->ndevs++] = d;
	return 0;
}

static int create_devices(struct machine *m, struct err *e)
{
	for (unsigned i = 0; device_types[i]; i++) {
		const struct device_ops *ops = device_types[i];
		uint32_t n = ops->max_instances ? ops->max_instances : 1;

		for (uint32_t k = 0; k < n; k++) {
			int r = 0;

			if (device_wanted(ops, &m->cfg, k))
				r = create_device(m, ops, k, e);
			if (r < 0)
				return r;
		}
	}
	return 0;
}

static void init_fds(struct machine_fds *f)
{
	for (unsigned i = 0; i < MACHINE_MAX_DISKS; i++)
		f->disk[i] = f->layer[i] = f->overlay[i] = -1;
	for (unsigned i = 0; i < MACHINE_MAX_NETS; i++)
		f->tap[i] = -1;
}

static void close_fds(struct machine_fds *f)
{
	for (unsigned i = 0; i < MACHINE_MAX_DISKS; i++) {
		close_fd(&f->disk[i]);
		close_fd(&f->layer[i]);
		close_fd(&f->overlay[i]);
	}
	for (unsigned i = 0; i < MACHINE_MAX_NETS; i++)
		close_fd(&f->tap[i]);
}

int machine_init(
	struct machine *m, const struct machine_config *cfg, struct err *e)
{
	int r;

	memset(m, 0, sizeof(*m));
	m->mem.fd = m->mem.uffd = -1;
	m->kvm_fd = -1;
	m->vm_fd = -1;
	m->door_event = -1;
	m->end_event = -1;
	init_fds(&m->fds);
	r = machine_config_desc.check(cfg, e);
	if (r < 0)
		return r;
	m->cfg = *cfg;
	r = init_locks(m, e);
	if (!r)
		r = vcpu_signals_init(e);
	for (uint32_t i = 0; !r && i < cfg->cpus; i++) {
		r = vcpu_create(m, i, e);
		if (!r)
			m->ncpus++;
	}
	if (!r)
		r = create_devices(m, e);
	if (r < 0)
		machine_destroy(m);
	return r;
}

void machine_destroy(struct machine *m)
{
	for (unsigned i = 0; i < m->ncpus; i++)
		vcpu_destroy(m->cpu[i]);
	m->ncpus = 0;
	while (m->ndevs) {
		struct device *d = m->dev[--m->ndevs];

		d->ops->destroy(d);
	}
	close_fd(&m->vm_fd);
	if (m->loop && m->door_event >= 0)
		loop_del(m->loop, m->door_event);
	if (m->loop && m->end_event >= 0)
		loop_del(m->loop, m->end_event);
	close_fd(&m->door_event);
	close_fd(&m->end_event);
	close_fds(&m->fds);
	free(m->host);
	m->host = NULL;
	mem_destroy(&m->mem);
}

static int wrong_state(const struct machine *m, const char *what, struct err *e)
{
	if (m->state == MACHINE_DEAD)
		return err_set(e, -EBUSY,
			"cannot %s: the machine has ended: %s", what,
			m->end.text);
	return err_set(e, -EBUSY, "cannot %s: the machine is %s", what,
		machine_state_name(m->state));
}

int machine_probe_kernel(
	struct machine_config *cfg, int kernel_fd, struct err *e)
{
	return arch_probe_kernel(kernel_fd, cfg, e);
}

int machine_boot(struct machine *m, int kernel_fd, int initrd_fd, struct err *e)
{
	if (m->state != MACHINE_NEW)
		return wrong_state(m, "boot", e);
	return arch_boot(m, kernel_fd, initrd_fd, e);
}

int machine_prepare(struct machine *m, int kvm_fd, struct err *e)
{
	int r;

	if (m->state != MACHINE_NEW)
		return wrong_state(m, "prepare", e);
	r = arch_host_probe(m, kvm_fd, e);
	return r < 0 ? r : arch_host_try(m, kvm_fd, e);
}

static int create_vm(struct machine *m, struct err *e)
{
	m->vm_fd = kvm_ioctl_val(m->kvm_fd, KVM_CREATE_VM, 0);
	if (m->vm_fd < 0)
		return err_sys(e, m->vm_fd, "KVM_CREATE_VM");
	return arch_vm_init(m, e);
}

/* One slot per region, even where several mappings lie in it: KVM looks the
 * host address up page by page. */
static int set_slots(struct machine *m, struct err *e)
{
	const struct mem_region *reg;
	uint32_t slot = 0;
	int r = dirty_open_log(m, e);

	if (r < 0)
		return r;
	for_each_region (&m->mem, reg) {
		struct kvm_userspace_memory_region k = {
			.slot = slot++,
			.flags = m->mem.dirty ? KVM_MEM_LOG_DIRTY_PAGES : 0,
			.guest_phys_addr = reg->gpa,
			.memory_size = reg->size,
			.userspace_addr = (uintptr_t)reg->host,
		};

		r = kvm_ioctl(m->vm_fd, KVM_SET_USER_MEMORY_REGION, &k);
		if (r < 0)
			return err_sys(e, r, "memory slot of %llu MiB",
				(unsigned long long)(reg->size / MIB));
	}
	return 0;
}

static int make_event(struct machine *m, int *fd, uint32_t type, struct err *e)
{
	union ev_ref ref = {.type = type};
	int r;

	*fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (*fd < 0)
		return err_sys(e, -errno, "eventfd");
	r = loop_add(m->loop, *fd, EPOLLIN, ref);
	return r < 0 ? err_sys(e, r, "event loop") : 0;
}

static int realize_devices(struct machine *m, struct err *e)
{
	int r;

	for (unsigned i = 0; i < m->ndevs; i++) {
		r = m->dev[i]->ops->realize(m->dev[i], e);
		if (r < 0)
			return err_wrap(e, "%s", m->dev[i]->ops->name);
	}
	return 0;
}

static uint32_t us_since(uint64_t *t)
{
	uint64_t now = now_ns();
	uint32_t us = (uint32_t)((now - *t) / 1000);

	*t = now;
	return us;
}

static int realize_steps(struct machine *m, struct err *e)
{
	uint64_t t = now_ns();
	int r = create_vm(m, e);

	if (r < 0)
		return r;
	m->us.vm = us_since(&t);
	r = set_slots(m, e);
	if (r < 0)
		return r;
	m->us.slots = us_since(&t);
	r = make_event(m, &m->door_event, MACHINE_EV_DOOR, e);
	if (!r)
		r = make_event(m, &m->end_event, MACHINE_EV_END, e);
	for (unsigned i = 0; !r && i < m->ncpus; i++)
		r = vcpu_realize(m->cpu[i], e);
	if (!r)
		r = arch_vm_set(m, e);
	if (r < 0)
		return r;
	m->us.cpus = us_since(&t);
	r = realize_devices(m, e);
	m->us.devices = us_since(&t);
	return r;
}

int machine_realize(struct machine *m, int kvm_fd, struct err *e)
{
	int r;

	if (m->state != MACHINE_NEW)
		return wrong_state(m, "build", e);
	if (!m->loop || !m->mem.map)
		return err_set(e, -EINVAL, "the machine has no %s",
			m->loop ? "memory" : "event loop");
	if (m->mem.size != m->cfg.memory)
		return err_set(e, -EINVAL,
			"memory is %llu bytes, the configuration says %llu",
			(unsigned long long)m->mem.size,
			(unsigned long long)m->cfg.memory);
	r = arch_host_probe(m, kvm_fd, e);
	if (r < 0)
		return r;
	m->kvm_fd = kvm_fd;
	r = realize_steps(m, e);
	m->kvm_fd = -1;
	if (!r)
		m->state = MACHINE_BUILT;
	return r;
}

/* Devices first: what they have for the guest is then there when it starts. */
static void let_run(struct machine *m, bool tell)
{
	for (unsigned i = 0; i < m->ndevs; i++) {
		if (m->dev[i]->ops->resumed)
			m->dev[i]->ops->resumed(m->dev[i]);
	}
	for (unsigned i = 0; i < m->ncpus; i++) {
		if (tell)
			vcpu_tell_paused(m->cpu[i]);
		vcpu_resume(m->cpu[i]);
	}
}

int machine_resume(struct machine *m, struct err *e)
{
	bool parked;

	if (m->state != MACHINE_BUILT && m->state != MACHINE_PAUSED)
		return wrong_state(m, "resume", e);
	m->state = MACHINE_RUNNING;
	parked = m->parked;
	m->parked = false;
	/* A clone's machine_set_time() has told it. */
	let_run(m, m->cfg.acpi && !parked);
	return 0;
}

static int stop_vcpus(struct machine *m, uint32_t timeout_ms, struct err *e)
{
	uint64_t deadline = now_ns() + timeout_ms * 1000000ULL;

	for (unsigned i = 0; i < m->ncpus; i++)
		vcpu_ask_pause(m->cpu[i]);
	for (unsigned i = 0; i < m->ncpus; i++) {
		if (vcpu_wait_paused(m->cpu[i], deadline) < 0)
			return err_set(e, -ETIMEDOUT,
				"vCPU %u does not stop: it may wait for memory "
				"that does not come",
				i);
	}
	return 0;
}

static int quiesce_devices(struct machine *m, struct err *e)
{
	int r;

	for (unsigned i = 0; i < m->ndevs; i++) {
		if (!m->dev[i]->ops->quiesce)
			continue;
		r = m->dev[i]->ops->quiesce(m->dev[i], e);
		if (r < 0)
			return err_wrap(e, "%s", m->dev[i]->ops->name);
	}
	return 0;
}

int machine_pause(struct machine *m, uint32_t timeout_ms, struct err *e)
{
	uint64_t t = now_ns();
	bool stopped;
	int r;

	if (m->state != MACHINE_RUNNING)
		return wrong_state(m, "pause", e);
	r = stop_vcpus(m, timeout_ms, e);
	stopped = !r;
	m->us.stop = us_since(&t);
	if (!r)
		r = quiesce_devices(m, e);
	m->us.quiesce = us_since(&t);
	for (unsigned i = 0; !r && i < m->ncpus; i++)
		r = vcpu_state_get(m->cpu[i], e);
	if (!r)
		r = arch_vm_get(m, e);
	m->us.state = us_since(&t);
	if (r < 0) {
		/* As if it had not been asked. A vCPU that did not come out
		 * cannot be told: KVM would wait for it. */
		let_run(m, m->cfg.acpi && stopped);
		return r;
	}
	m->state = MACHINE_PAUSED;
	return 0;
}

int machine_park(struct machine *m, uint32_t timeout_ms, struct err *e)
{
	int r;

	if (m->state != MACHINE_RUNNING)
		return wrong_state(m, "park", e);
	r = stop_vcpus(m, timeout_ms, e);
	if (!r)
		r = quiesce_devices(m, e);
	for (unsigned i = 0; !r && i < m->ncpus; i++)
		r = vcpu_time_stop(m->cpu[i], e);
	if (!r)
		r = arch_vm_get(m, e);
	if (r < 0)
		return r;
	m->parked = true;
	m->state = MACHINE_PAUSED;
	return 0;
}
