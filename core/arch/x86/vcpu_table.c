/* The state table of a vCPU, its check, and its state after power-on. */
#include "core/arch.h"
#include "core/arch/x86/vcpu_state.h"

#include <errno.h>
#include <string.h>

static const struct st_field fields[] = {
	ST_RAW(struct vcpu_state, regs, 1),
	ST_RAW(struct vcpu_state, sregs, 1),
	ST_RAW(struct vcpu_state, debugregs, 1),
	ST_RAW(struct vcpu_state, events, 1),
	ST_RAW(struct vcpu_state, xcrs, 1),
	ST_RAW(struct vcpu_state, lapic, 1),
	ST_U(struct vcpu_state, tsc, 1),
	ST_U(struct vcpu_state, tsc_deadline, 1),
	ST_U(struct vcpu_state, mp_state, 1),
	ST_U(struct vcpu_state, tsc_khz, 1),
	ST_ARR(struct vcpu_state, reserved, 1),
	ST_VAR(struct vcpu_state, cpuid, cpuid_len, 1),
	ST_VAR(struct vcpu_state, msrs, msrs_len, 1),
	ST_VAR(struct vcpu_state, xsave, xsave_len, 1),
};

/* KVM checks what it is given; here is what we rely on ourselves. */
static int state_check(const void *state, struct err *e)
{
	const struct vcpu_state *s = state;

	if (s->cpuid_len % sizeof(s->cpuid[0]) ||
		s->cpuid_len > sizeof(s->cpuid))
		return err_set(e, -EBADMSG, "cpuid: %u bytes is no table",
			s->cpuid_len);
	if (s->msrs_len % sizeof(s->msrs[0]) || s->msrs_len > sizeof(s->msrs))
		return err_set(
			e, -EBADMSG, "msrs: %u bytes is no table", s->msrs_len);
	if (s->xsave_len && (s->xsave_len < VCPU_XSAVE_MIN ||
				    s->xsave_len > VCPU_XSAVE_MAX))
		return err_set(e, -EBADMSG,
			"xsave: %u bytes; %u to %u expected", s->xsave_len,
			VCPU_XSAVE_MIN, VCPU_XSAVE_MAX);
	if (s->xcrs.nr_xcrs > ARRAY_SIZE(s->xcrs.xcrs))
		return err_set(
			e, -EBADMSG, "xcrs: %u entries", s->xcrs.nr_xcrs);
	if (s->mp_state > KVM_MP_STATE_SIPI_RECEIVED)
		return err_set(
			e, -EBADMSG, "mp_state: %u is unknown", s->mp_state);
	/* 100 GHz; above 2^31 KVM would take it for negative. */
	if (s->tsc_khz > 100000000)
		return err_set(e, -EBADMSG, "tsc_khz: %u", s->tsc_khz);
	if (s->reserved[0] || s->reserved[1] || s->reserved[2])
		return err_set(e, -EBADMSG, "reserved: not zero");
	return 0;
}

const struct st_desc vcpu_state_desc = {
	.name = "vcpu",
	.size = sizeof(struct vcpu_state),
	.version = 1,
	.nfields = ARRAY_SIZE(fields),
	.fields = fields,
	.check = state_check,
};

uint32_t lapic_read(const struct kvm_lapic_state *l, uint32_t reg)
{
	uint32_t v;

	memcpy(&v, l->regs + reg, sizeof(v));
	return v;
}

void lapic_write(struct kvm_lapic_state *l, uint32_t reg, uint32_t v)
{
	memcpy(l->regs + reg, &v, sizeof(v));
}

/* SDM 3A 11.4.7.1. vCPU 0's LINT0 is ExtINT unmasked, as KVM makes it for
 * guests without a BIOS (KVM_X86_QUIRK_LINT0_REENABLED). */
void vcpu_lapic_reset(struct kvm_lapic_state *l, uint32_t id)
{
	memset(l, 0, sizeof(*l));
	lapic_write(l, LAPIC_ID, id << 24);
	lapic_write(l, LAPIC_VER, 0x50014);
	lapic_write(l, LAPIC_DFR, 0xffffffff);
	lapic_write(l, LAPIC_SPIV, 0xff);
	for (uint32_t reg = LAPIC_LVTT; reg <= LAPIC_LVT_ERROR; reg += 0x10)
		lapic_write(l, reg, 0x10000);
	if (!id)
		lapic_write(l, LAPIC_LVT0, 0x700);
}

/* SDM 3A 11.4.4: enabled; bit 8: the processor that boots. */
uint64_t apic_base_reset(uint32_t id)
{
	return 0xfee00000 | 1 << 11 | (id ? 0 : 1 << 8);
}

static struct kvm_segment segment(uint8_t type, uint8_t s)
{
	return (struct kvm_segment){
		.limit = 0xffff,
		.type = type,
		.present = 1,
		.s = s,
	};
}

void vcpu_state_reset(struct vcpu_state *s, uint32_t id)
{
	struct kvm_sregs *r = &s->sregs;

	memset(s, 0, sizeof(*s));
	s->regs.rflags = 2;
	s->regs.rip = 0xfff0;
	r->cs = segment(11, 1);
	r->cs.selector = 0xf000;
	r->cs.base = 0xffff0000;
	r->ds = r->es = r->fs = r->gs = r->ss = segment(3, 1);
	r->tr = segment(11, 0);
	r->ldt = segment(2, 0);
	r->gdt.limit = r->idt.limit = 0xffff;
	r->cr0 = 0x60000010; /* CD, NW, ET */
	r->apic_base = apic_base_reset(id);
	s->debugregs.dr6 = 0xffff0ff0;
	s->debugregs.dr7 = 0x400;
	s->mp_state = id ? KVM_MP_STATE_UNINITIALIZED : KVM_MP_STATE_RUNNABLE;
	vcpu_lapic_reset(&s->lapic, id);
}

_Static_assert(_Alignof(struct vcpu_state) <= _Alignof(max_align_t),
	"calloc() aligns it");

struct vcpu_state *arch_vcpu_state_create(void)
{
	return calloc(1, sizeof(struct vcpu_state));
}
