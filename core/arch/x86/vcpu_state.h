/*
 * One vCPU's saved state. In-kernel structures are kept as KVM gives them,
 * opaque, with their size (Linux arch/x86/include/uapi/asm/kvm.h: these are
 * ABI and only grow through new ioctls).
 *
 * A cold boot fills regs, sregs and what differs from a processor after reset;
 * cpuid stays empty and is made for this host when the vCPU is realized.
 */
#ifndef THAW_CORE_ARCH_X86_VCPU_STATE_H
#define THAW_CORE_ARCH_X86_VCPU_STATE_H

#include "core/vcpu.h"

#include <linux/kvm.h>

#define VCPU_MAX_CPUID 128
#define VCPU_MAX_MSRS  512
/* What KVM_GET_XSAVE2 may return: 11 KiB with every AMX tile. */
#define VCPU_XSAVE_MAX 16384
#define VCPU_XSAVE_MIN 4096 /* struct kvm_xsave */

/* Parts per million that the TSC's rate may be off without being scaled: what
 * clocks of the same kind of host differ by. */
#define VCPU_TSC_PPM 250

struct vcpu_state {
	struct kvm_regs regs;
	struct kvm_sregs sregs;
	struct kvm_debugregs debugregs;
	struct kvm_vcpu_events events;
	struct kvm_xcrs xcrs;
	struct kvm_lapic_state lapic;
	uint64_t tsc;          /* IA32_TSC when the vCPU was paused */
	uint64_t tsc_deadline; /* IA32_TSC_DEADLINE; see vcpu_time.c */
	uint32_t mp_state;     /* KVM_MP_STATE_* */
	uint32_t tsc_khz;      /* 0: not known, cannot be scaled */
	uint32_t cpuid_len;    /* bytes in use of the three below */
	uint32_t msrs_len;
	uint32_t xsave_len;
	uint32_t reserved[3]; /* no padding in front of xsave */
	struct kvm_cpuid_entry2 cpuid[VCPU_MAX_CPUID];
	struct kvm_msr_entry msrs[VCPU_MAX_MSRS];
	uint8_t xsave[VCPU_XSAVE_MAX] __attribute__((aligned(16)));
};

/* As a processor after power-on (SDM 3A table 9-1): vCPU 0 is about to run,
 * the others wait for their start-up interrupt. */
void vcpu_state_reset(struct vcpu_state *s, uint32_t id);
/* The local APIC after reset. */
void vcpu_lapic_reset(struct kvm_lapic_state *l, uint32_t id);

uint64_t apic_base_reset(uint32_t id);

uint32_t lapic_read(const struct kvm_lapic_state *l, uint32_t reg);
void lapic_write(struct kvm_lapic_state *l, uint32_t reg, uint32_t v);

/* One MSR of a vCPU. -ENXIO: KVM does not take it. */
int vcpu_msr_get(struct vcpu *v, uint32_t index, uint64_t *value) MUST_USE;
int vcpu_msr_set(struct vcpu *v, uint32_t index, uint64_t value) MUST_USE;

/* msr.c: all MSRs worth saving <-> s->msrs, and the TSC <-> s->tsc. A TSC of 0
 * is not written: a cold boot, it runs since the vCPU was created. */
int vcpu_msrs_get(struct vcpu *v, struct err *e) MUST_USE;
int vcpu_msrs_set(struct vcpu *v, struct err *e) MUST_USE;

/* vcpu_time.c: s->tsc_deadline <-> KVM. After the local APIC (it counts only in
 * deadline mode) and after the TSC. */
int vcpu_deadline_get(struct vcpu *v, struct err *e) MUST_USE;
int vcpu_deadline_set(struct vcpu *v, struct err *e) MUST_USE;

/* Register numbers (SDM 3A 11.4.1; SDM 4). */
#define LAPIC_ID        0x20
#define LAPIC_VER       0x30
#define LAPIC_DFR       0xe0
#define LAPIC_SPIV      0xf0
#define LAPIC_LVTT      0x320
#define LAPIC_LVT0      0x350
#define LAPIC_LVT1      0x360
#define LAPIC_LVT_ERROR 0x370
#define LAPIC_TMICT     0x380 /* initial count: 0 when the timer is off */
#define LAPIC_TMCCT     0x390 /* current count */

#define MSR_TSC           0x10
#define MSR_APIC_BASE     0x1b
#define MSR_TSC_ADJUST    0x3b
#define MSR_MISC_ENABLE   0x1a0
#define MSR_PAT           0x277
#define MSR_MTRR_DEF_TYPE 0x2ff
#define MSR_TSC_DEADLINE  0x6e0
#define MSR_EFER          0xc0000080
#define MSR_FS_BASE       0xc0000100
#define MSR_GS_BASE       0xc0000101

/* Linux Documentation/virt/kvm/x86/msr.rst: each holds a guest address. */
#define MSR_KVM_WALL_CLOCK  0x4b564d00
#define MSR_KVM_SYSTEM_TIME 0x4b564d01
#define MSR_KVM_ASYNC_PF    0x4b564d02
#define MSR_KVM_STEAL_TIME  0x4b564d03
#define MSR_KVM_PV_EOI      0x4b564d04

#endif
