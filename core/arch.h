/*
 * What the machine asks of the processor architecture (core/arch/x86/).
 * Loop thread unless said otherwise.
 */
#ifndef THAW_CORE_ARCH_H
#define THAW_CORE_ARCH_H

#include "core/machine.h"
#include "core/vcpu.h"

/* Right after KVM_CREATE_VM: what must be there before slots and vCPUs. */
int arch_vm_init(struct machine *m, struct err *e) MUST_USE;
/* Fill m->host if it is not there yet (cheap). */
int arch_host_probe(struct machine *m, int kvm_fd, struct err *e) MUST_USE;
/* Would this host take the vCPUs' state? Tried in a VM that is thrown away. */
int arch_host_try(struct machine *m, int kvm_fd, struct err *e) MUST_USE;
/* m->saved <-> KVM. */
int arch_vm_get(struct machine *m, struct err *e) MUST_USE;
int arch_vm_set(struct machine *m, struct err *e) MUST_USE;
/* dirty_mark() the pages that KVM writes to on its own: clock, steal time and
 * so on, from the vCPUs' saved MSRs. */
void arch_dirty_kvm(const struct machine *m);
/* The guest's clock, the counter and its rate, for the identity page. */
void arch_time_now(struct machine *m, struct ident *id);

/* Is this file (a kernel) one that boots here, and does it want ACPI? Sets
 * cfg->acpi. */
int arch_probe_kernel(
	int fd, struct machine_config *cfg, struct err *e) MUST_USE;
/* Load the kernel and the initrd (-1: none) and fill cpu[]->s. */
int arch_boot(struct machine *m, int kernel_fd, int initrd_fd,
	struct err *e) MUST_USE;
/* A new identity, for what of the architecture tells a guest of it. */
int arch_new_generation(struct machine *m, const uint8_t generation[16],
	struct err *e) MUST_USE;

/* vCPU thread: an exit that only this architecture has. False: not known. */
bool arch_vcpu_exit(struct vcpu *v);

/* Pack a map that describes the host's processor, for people. Any thread. */
void arch_cpu_describe(msgpack_packer *p);

/* Pack a map of registers by name from the map of a vCPU's section, which may
 * be of any version and hold anything. Any thread. */
void arch_vcpu_describe(const msgpack_object *map, msgpack_packer *p);

/* compat.c: what this host can do, and whether a saved vCPU (the first of
 * cpus) can go on here. fn is called for each difference, in words. Any thread;
 * the host is a plain struct, freed with free(). */
#define ARCH_COMPAT_TEXT 360
typedef void arch_compat_fn(void *arg, const char *text);
struct arch_compat;
int arch_compat_host(
	int kvm_fd, struct arch_compat **out, struct err *e) MUST_USE;
void arch_compat_check(const struct arch_compat *h, const struct vcpu_state *s,
	uint32_t cpus, arch_compat_fn *fn, void *arg);
/* Before any KVM object of a restored machine is made: -EOPNOTSUPP, with all
 * differences named. */
int arch_compat_machine(
	const struct machine *m, int kvm_fd, struct err *e) MUST_USE;

/* Bytes of a vCPU's struct kvm_run and what follows it. */
size_t arch_run_size(const struct machine *m);
/* A vCPU's state, zeroed; freed with free(). */
struct vcpu_state *arch_vcpu_state_create(void);

#endif
