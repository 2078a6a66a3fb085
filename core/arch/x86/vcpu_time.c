/*
 * A vCPU's time: TSC, TSC deadline, LAPIC timer.
 *
 * How it works
 *
 * The TSC goes on from the value it had when the vCPU was paused. Where it
 * cannot be set (software KVM: KVM_SET_MSRS succeeds and does nothing) it is
 * what it is, and an armed deadline is moved by the difference: the timer
 * fires after the time that was left. So the TSC is read back after setting.
 *
 * A deadline that reads 0 while the local APIC timer is in deadline mode may
 * have just expired with its interrupt not yet delivered; restoring 0 would
 * disarm the timer of a guest that waits for exactly this interrupt and never
 * arms it again. It is then taken to be due now: one timer interrupt too many
 * is harmless, one too few is not.
 *
 * Parking stops both timers in KVM (a parked periodic timer would cost the
 * host an interrupt each period) and keeps their values here.
 */
#include "core/arch/x86/host.h"
#include "core/arch/x86/vcpu_state.h"
#include "core/kvm.h"

#include <errno.h>

struct one_msr {
	struct kvm_msrs head;
	struct kvm_msr_entry entry;
};

int vcpu_msr_get(struct vcpu *v, uint32_t index, uint64_t *value)
{
	struct one_msr q = {.head.nmsrs = 1, .entry.index = index};
	int r = kvm_ioctl(v->fd, KVM_GET_MSRS, &q);

	if (r < 0)
		return r;
	*value = q.entry.data;
	return r == 1 ? 0 : -ENXIO;
}

int vcpu_msr_set(struct vcpu *v, uint32_t index, uint64_t value)
{
	struct one_msr q = {
		.head.nmsrs = 1,
		.entry = {.index = index, .data = value},
	};
	int r = kvm_ioctl(v->fd, KVM_SET_MSRS, &q);

	if (r < 0)
		return r;
	return r == 1 ? 0 : -ENXIO;
}

/* SDM 3A 11.5.1: LVT timer bits 18:17 are 10b in TSC-deadline mode, bit 16
 * masks it. */
static bool deadline_mode(const struct vcpu_state *s)
{
	uint32_t lvtt = lapic_read(&s->lapic, LAPIC_LVTT);

	return (lvtt & 0x60000) == 0x40000 && !(lvtt & 0x10000);
}

int vcpu_deadline_get(struct vcpu *v, struct err *e)
{
	struct vcpu_state *s = v->s;
	int r;

	s->tsc_deadline = 0;
	if (!deadline_mode(s))
		return 0;
	r = vcpu_msr_get(v, MSR_TSC_DEADLINE, &s->tsc_deadline);
	if (r < 0)
		return err_sys(e, r, "vCPU %u: reading the deadline", v->id);
	if (!s->tsc_deadline)
		s->tsc_deadline = s->tsc;
	return 0;
}

int vcpu_deadline_set(struct vcpu *v, struct err *e)
{
	struct vcpu_state *s = v->s;
	uint64_t now;
	int r;

	if (!s->tsc_deadline)
		return 0;
	r = vcpu_msr_get(v, MSR_TSC, &now);
	if (!r)
		r = vcpu_msr_set(
			v, MSR_TSC_DEADLINE, s->tsc_deadline - s->tsc + now);
	return r < 0 ? err_sys(e, r, "vCPU %u: setting the deadline", v->id)
		     : 0;
}

int vcpu_time_stop(struct vcpu *v, struct err *e)
{
	struct vcpu_state *s = v->s;
	struct kvm_lapic_state stopped;
	int r = kvm_ioctl(v->fd, KVM_GET_LAPIC, &s->lapic);

	if (r < 0)
		return err_sys(e, r, "vCPU %u: KVM_GET_LAPIC", v->id);
	if (!v->m->host->tsc_fixed || deadline_mode(s))
		r = vcpu_msr_get(v, MSR_TSC, &s->tsc);
	if (r < 0)
		return err_sys(e, r, "vCPU %u: reading the TSC", v->id);
	r = vcpu_deadline_get(v, e);
	if (r < 0)
		return r;
	if (s->tsc_deadline) {
		r = vcpu_msr_set(v, MSR_TSC_DEADLINE, 0);
	} else if (lapic_read(&s->lapic, LAPIC_TMICT)) {
		stopped = s->lapic;
		lapic_write(&stopped, LAPIC_TMICT, 0);
		r = kvm_ioctl(v->fd, KVM_SET_LAPIC, &stopped);
	}
	return r < 0 ? err_sys(e, r, "vCPU %u: stopping its timer", v->id) : 0;
}

/* Only a counting timer makes the LAPIC depend on time. Interrupts that came
 * meanwhile are in KVM's copy: that one is changed and put back. */
static int restart_timer(struct vcpu *v, struct err *e)
{
	const struct kvm_lapic_state *saved = &v->s->lapic;
	struct kvm_lapic_state l;
	int r;

	if (v->s->tsc_deadline || !lapic_read(saved, LAPIC_TMICT))
		return 0;
	r = kvm_ioctl(v->fd, KVM_GET_LAPIC, &l);
	if (r < 0)
		return err_sys(e, r, "vCPU %u: KVM_GET_LAPIC", v->id);
	lapic_write(&l, LAPIC_TMICT, lapic_read(saved, LAPIC_TMICT));
	lapic_write(&l, LAPIC_TMCCT, lapic_read(saved, LAPIC_TMCCT));
	r = kvm_ioctl(v->fd, KVM_SET_LAPIC, &l);
	return r < 0 ? err_sys(e, r, "vCPU %u: KVM_SET_LAPIC", v->id) : 0;
}

int vcpu_time_set(struct vcpu *v, struct err *e)
{
	const struct arch_host *h = v->m->host;
	struct vcpu_state *s = v->s;
	int r = restart_timer(v, e);

	if (r < 0)
		return r;
	if (!h->tsc_fixed) {
		r = vcpu_msr_set(v, MSR_TSC, s->tsc);
		if (r < 0)
			return err_sys(e, r, "vCPU %u: setting the TSC", v->id);
	}
	r = vcpu_deadline_set(v, e);
	if (r < 0)
		return r;
	vcpu_tell_paused(v);
	return 0;
}

/* So that a guest kernel does not take the gap for a soft lockup; where it has
 * no kvm-clock this fails, and there is nothing to tell. */
void vcpu_tell_paused(struct vcpu *v)
{
	if (!v->m->host->no_kvmclock_ctrl)
		(void)kvm_ioctl_val(v->fd, KVM_KVMCLOCK_CTRL, 0);
}
