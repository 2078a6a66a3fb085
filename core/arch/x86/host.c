#include "core/arch/x86/host.h"
#include "core/arch.h"
#include "core/arch/x86/cpuid.h"
#include "core/arch/x86/ioapic.h"
#include "core/kvm.h"

#include <errno.h>
#include <linux/kvm.h>
#include <sys/mman.h>

int arch_host_probe(struct machine *m, int kvm_fd, struct err *e)
{
	struct arch_host *h;
	int r;

	if (m->host)
		return 0;
	r = kvm_ioctl_val(kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
	if (r < 0 || (size_t)r < sizeof(struct kvm_run))
		return err_set(e, -EIO, "KVM_GET_VCPU_MMAP_SIZE: %d", r);
	h = calloc(1, sizeof(*h));
	if (!h)
		return err_set(e, -ENOMEM, "no memory");
	h->run_size = (uint32_t)r;
	r = kvm_ioctl_val(kvm_fd, KVM_CHECK_EXTENSION, KVM_CAP_SYNC_REGS);
	h->sync_regs = r > 0 ? (uint32_t)r : 0;
	r = host_list_msrs(h, kvm_fd, m->cfg.acpi, e);
	if (r < 0) {
		free(h);
		return r;
	}
	m->host = h;
	return 0;
}

size_t arch_run_size(const struct machine *m)
{
	return m->host->run_size;
}

/* What setting the time would do, learnt on a vCPU nobody will run. */
static int try_time(struct vcpu *v, struct err *e)
{
	struct arch_host *h = v->m->host;
	const uint64_t back = 1ULL << 40;
	uint64_t before = 0, after = 0;
	int r = vcpu_msr_get(v, MSR_TSC, &before);

	if (!r)
		r = vcpu_msr_set(v, MSR_TSC, before - back);
	if (!r)
		r = vcpu_msr_get(v, MSR_TSC, &after);
	if (r < 0)
		return err_sys(e, r, "vCPU %u: setting the TSC", v->id);
	h->tsc_fixed = after - before < back;
	h->no_kvmclock_ctrl = kvm_ioctl_val(v->fd, KVM_KVMCLOCK_CTRL, 0) < 0;
	return 0;
}

/* Give each vCPU's state to a vCPU that is thrown away. */
static int try_vcpus(struct machine *m, int vm, struct err *e)
{
	int r = 0;

	for (unsigned i = 0; !r && i < m->ncpus; i++) {
		struct vcpu v = {.m = m, .id = i, .s = m->cpu[i]->s};

		v.fd = kvm_ioctl_val(vm, KVM_CREATE_VCPU, i);
		if (v.fd < 0)
			return err_sys(e, v.fd, "vCPU %u: KVM_CREATE_VCPU", i);
		r = vcpu_state_set(&v, e);
		if (!r && !i)
			r = try_time(&v, e);
		(void)close(v.fd);
	}
	return r;
}

/* Memory for the throw-away VM, not the machine's: KVM writes some MSRs' values
 * through to guest memory, and what the zygote has touched is copied in every
 * fork. Guests made for thaw use no such MSR. */
static int try_memory(
	const struct machine *m, int vm, uint8_t **scratch, struct err *e)
{
	const struct mem_region *reg;
	uint32_t slot = 0;
	int r;

	if (!m->cfg.acpi)
		return 0;
	*scratch = mmap(NULL, m->mem.size, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (*scratch == MAP_FAILED) {
		*scratch = NULL;
		return err_sys(e, -errno, "memory to try the host");
	}
	for_each_region (&m->mem, reg) {
		struct kvm_userspace_memory_region k = {
			.slot = slot++,
			.guest_phys_addr = reg->gpa,
			.memory_size = reg->size,
			.userspace_addr = (uintptr_t)*scratch + reg->offset,
		};

		r = kvm_ioctl(vm, KVM_SET_USER_MEMORY_REGION, &k);
		if (r < 0)
			return err_sys(e, r, "memory slot");
	}
	return 0;
}

int arch_host_try(struct machine *m, int kvm_fd, struct err *e)
{
	struct kvm_enable_cap split = {
		.cap = KVM_CAP_SPLIT_IRQCHIP,
		.args = {IOAPIC_PINS},
	};
	int r = arch_compat_machine(m, kvm_fd, e);
	uint8_t *scratch = NULL;
	AUTO_FD vm = -1;

	if (r < 0)
		return r;
	vm = kvm_ioctl_val(kvm_fd, KVM_CREATE_VM, 0);
	if (vm < 0)
		return err_sys(e, vm, "KVM_CREATE_VM");
	r = kvm_ioctl(vm, KVM_ENABLE_CAP, &split);
	if (r < 0)
		return err_sys(e, r, "split irqchip");
	r = try_memory(m, vm, &scratch, e);
	m->kvm_fd = kvm_fd;
	if (!r)
		r = try_vcpus(m, vm, e);
	m->kvm_fd = -1;
	m->host->tried = !r;
	if (scratch)
		(void)munmap(scratch, m->mem.size);
	return r;
}
