/* The parts of a VM that only x86 has. */
#include "core/arch.h"
#include "core/arch/x86/acpi.h"
#include "core/arch/x86/host.h"
#include "core/arch/x86/ioapic.h"
#include "core/arch/x86/vcpu_state.h"
#include "core/kvm.h"

#include <errno.h>
#include <linux/kvm.h>
#include <x86intrin.h>

/* Three pages in the device hole where VT-x without "unrestricted guest" keeps
 * a task state segment, and one before them for its page table
 * (KVM_SET_TSS_ADDR, KVM_SET_IDENTITY_MAP_ADDR). No guest sees them in its
 * memory map. */
#define TSS_ADDR 0xfffbd000UL

const struct kvm_cap arch_kvm_caps[] = {
	{"SPLIT_IRQCHIP", KVM_CAP_SPLIT_IRQCHIP, true,
		"local APICs in the kernel, IOAPIC outside (Linux 4.4)"},
	{"EXT_CPUID", KVM_CAP_EXT_CPUID, true, "the guest's CPUID"},
	{"VCPU_EVENTS", KVM_CAP_VCPU_EVENTS, true, "saving vCPUs"},
	{"DEBUGREGS", KVM_CAP_DEBUGREGS, true, "saving vCPUs"},
	{"XSAVE", KVM_CAP_XSAVE, true, "saving vCPUs"},
	{"XCRS", KVM_CAP_XCRS, true, "saving vCPUs"},
	{"ADJUST_CLOCK", KVM_CAP_ADJUST_CLOCK, true, "the guest's clock"},
	{"SIGNAL_MSI", KVM_CAP_SIGNAL_MSI, true, "device interrupts"},
	{"IRQ_ROUTING", KVM_CAP_IRQ_ROUTING, true, "device interrupts"},
	{"SET_TSS_ADDR", KVM_CAP_SET_TSS_ADDR, false,
		"real mode on older Intel processors"},
	{"XSAVE2", KVM_CAP_XSAVE2, false,
		"guests with more than 4 KiB of vector state (AMX)"},
	{"SYNC_REGS", KVM_CAP_SYNC_REGS, false,
		"registers without a system call of their own"},
	{"GET_TSC_KHZ", KVM_CAP_GET_TSC_KHZ, false, "moving between hosts"},
	{"TSC_CONTROL", KVM_CAP_TSC_CONTROL, false,
		"restoring on a host with another TSC rate"},
	{"TSC_DEADLINE_TIMER", KVM_CAP_TSC_DEADLINE_TIMER, false,
		"the guest's cheapest timer"},
	{"KVMCLOCK_CTRL", KVM_CAP_KVMCLOCK_CTRL, false,
		"no soft-lockup reports after a pause"},
	{"X86_SMM", KVM_CAP_X86_SMM, false, "nothing; shown for information"},
	{NULL, 0, false, NULL},
};

int arch_vm_init(struct machine *m, struct err *e)
{
	struct kvm_enable_cap split = {
		.cap = KVM_CAP_SPLIT_IRQCHIP,
		.args = {IOAPIC_PINS},
	};
	int r = kvm_ioctl_val(m->vm_fd, KVM_SET_TSS_ADDR, TSS_ADDR);

	if (r < 0 && r != -EINVAL && r != -ENOTTY)
		return err_sys(e, r, "KVM_SET_TSS_ADDR");
	r = kvm_ioctl(m->vm_fd, KVM_ENABLE_CAP, &split);
	return r < 0 ? err_sys(e, r, "split irqchip") : 0;
}

int arch_vm_get(struct machine *m, struct err *e)
{
	struct kvm_clock_data c = {0};
	int r = kvm_ioctl(m->vm_fd, KVM_GET_CLOCK, &c);

	if (r < 0)
		return err_sys(e, r, "KVM_GET_CLOCK");
	m->saved.clock_ns = c.clock;
	m->saved.wall_ns = wall_ns();
	return 0;
}

/* Flags 0: the clock goes on from where it stopped, so that a guest's
 * monotonic time does not jump; wall time comes with the identity page. */
int arch_vm_set(struct machine *m, struct err *e)
{
	struct kvm_clock_data c = {.clock = m->saved.clock_ns};
	int r;

	if (!m->saved.clock_ns)
		return 0;
	r = kvm_ioctl(m->vm_fd, KVM_SET_CLOCK, &c);
	return r < 0 ? err_sys(e, r, "KVM_SET_CLOCK") : 0;
}

int arch_new_generation(
	struct machine *m, const uint8_t generation[16], struct err *e)
{
	return acpi_new_generation(m, generation, e);
}

void arch_time_now(struct machine *m, struct ident *id)
{
	struct kvm_clock_data c = {0};
	struct vcpu *v = m->cpu[0];
	uint64_t tsc;

	id->tsc_khz = v->s->tsc_khz;
	id->tsc = __rdtsc();
	id->clock_ns = m->saved.clock_ns;
	if (v->fd < 0)
		return;
	if (!m->host->tsc_fixed && !vcpu_msr_get(v, MSR_TSC, &tsc))
		id->tsc = tsc;
	if (kvm_ioctl(m->vm_fd, KVM_GET_CLOCK, &c) >= 0)
		id->clock_ns = c.clock;
}

bool arch_vcpu_exit(struct vcpu *v)
{
	if (v->run->exit_reason != KVM_EXIT_IOAPIC_EOI)
		return false;
	ioapic_eoi(v->m, v->run->eoi.vector);
	return true;
}
