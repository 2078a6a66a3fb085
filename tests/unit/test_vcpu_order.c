/* In which order a vCPU's state is read and written. Each rule has a bug behind
 * it: vcpu_state.c says which. KVM is the ioctl() below. */
#include "tests/unit/test.h"
#include "core/arch.h"
#include "core/arch/x86/host.h"
#include "core/arch/x86/vcpu_state.h"
#include "core/kvm.h"

#include <errno.h>
#include <string.h>

#define MAX_CALLS 64
#define NOW       5000
#define KHZ       2000000
#define TIMER     0x400ec /* LVT: TSC deadline mode, vector 0xec */

/* A call, or one MSR of one: those are what the order is about. */
struct call {
	unsigned long req;
	uint32_t msr;
	uint64_t value;
};

/* global: what was asked of KVM, and what it answers */
static struct {
	struct call call[MAX_CALLS];
	unsigned n;
	uint64_t deadline;
	uint32_t lvtt;
	bool refuse_xss;
} kvm;

/* What KVM lists: of each kind that is left out one, two to keep, one twice. */
static const struct {
	struct kvm_msr_list head;
	uint32_t index[8];
} kvm_list = {{.nmsrs = 8},
	{MSR_TSC, 0x12, MSR_EFER, 0x40000022, 0x808, 0xda0, 0x4b564d01, 0xda0}};

static void note(unsigned long req, uint32_t msr, uint64_t value)
{
	assert_true(kvm.n < MAX_CALLS);
	kvm.call[kvm.n++] = (struct call){req, msr, value};
}

static int get_msrs(struct kvm_msrs *m)
{
	for (uint32_t i = 0; i < m->nmsrs; i++) {
		struct kvm_msr_entry *e = &m->entries[i];

		note(KVM_GET_MSRS, e->index, 0);
		e->data = e->index == MSR_TSC            ? NOW
			  : e->index == MSR_TSC_DEADLINE ? kvm.deadline
							 : e->index;
		if (e->index == 0xda0 && kvm.refuse_xss)
			return (int)i;
	}
	return (int)m->nmsrs;
}

static int set_msrs(const struct kvm_msrs *m)
{
	for (uint32_t i = 0; i < m->nmsrs; i++)
		note(KVM_SET_MSRS, m->entries[i].index, m->entries[i].data);
	return (int)m->nmsrs;
}

int kvm_ioctl(int fd, unsigned long req, void *arg)
{
	struct kvm_lapic_state *l = arg;

	assert_int_equal(fd, 77);
	if (req == KVM_GET_MSRS)
		return get_msrs(arg);
	if (req == KVM_SET_MSRS)
		return set_msrs(arg);
	note(req, 0, 0);
	if (req == KVM_GET_MSR_INDEX_LIST) {
		memcpy(arg, &kvm_list, sizeof(kvm_list));
		return 0;
	}
	if (req == KVM_GET_LAPIC)
		lapic_write(l, LAPIC_LVTT, kvm.lvtt);
	return 0;
}

int kvm_ioctl_val(int fd, unsigned long req, unsigned long val)
{
	(void)fd;
	note(req, (uint32_t)val, 0);
	if (req == KVM_CHECK_EXTENSION)
		return VCPU_XSAVE_MIN;
	return req == KVM_GET_TSC_KHZ ? KHZ : 0;
}

/* Where in the list; each may be there once only. */
static unsigned at(unsigned long req, uint32_t msr)
{
	unsigned found = MAX_CALLS;

	for (unsigned i = 0; i < kvm.n; i++) {
		if (kvm.call[i].req != req || kvm.call[i].msr != msr)
			continue;
		assert_int_equal(found, MAX_CALLS);
		found = i;
	}
	if (found == MAX_CALLS)
		fail_msg("call 0x%lx (MSR 0x%x) is missing", req, msr);
	return found;
}

struct rig {
	struct machine m;
	struct vcpu v;
	struct arch_host host;
};

static void rig_make(struct rig *r)
{
	memset(r, 0, sizeof(*r));
	memset(&kvm, 0, sizeof(kvm));
	r->host.nmsrs = 3;
	r->host.msr[0] = 0xc0000081;
	r->host.msr[1] = 0xda0;
	r->host.msr[2] = 0x4b564d01;
	r->m.host = &r->host;
	r->m.vm_fd = 78;
	r->v.m = &r->m;
	r->v.fd = 77;
	r->v.s = arch_vcpu_state_create();
	assert_non_null(r->v.s);
	vcpu_state_reset(r->v.s, 0);
}

/* Nothing of it is what a new vCPU has. */
static void fill(struct vcpu_state *s)
{
	s->mp_state = KVM_MP_STATE_HALTED;
	s->cpuid_len = sizeof(s->cpuid[0]);
	s->xsave_len = VCPU_XSAVE_MIN;
	s->xcrs.nr_xcrs = 1;
	s->xcrs.xcrs[0].value = 7;
	s->debugregs.db[0] = 1;
	lapic_write(&s->lapic, LAPIC_LVTT, TIMER);
	s->events.nmi.pending = 1;
	s->msrs_len = 2 * sizeof(s->msrs[0]);
	s->msrs[0].index = 0xc0000081;
	s->msrs[1].index = 0x4b564d01;
	s->tsc = 1000;
	s->tsc_deadline = 1600;
	s->tsc_khz = KHZ / 2;
}

static void test_set(void **state)
{
	struct rig r;
	struct err e = {0};
	unsigned deadline;

	(void)state;
	rig_make(&r);
	fill(r.v.s);
	assert_int_equal(vcpu_state_set(&r.v, &e), 0);
	assert_int_equal(at(KVM_SET_CPUID2, 0), 0);
	assert_true(at(KVM_SET_TSC_KHZ, KHZ / 2) < at(KVM_SET_MSRS, MSR_TSC));
	/* SET_REGS forgets a pending exception */
	assert_true(at(KVM_SET_REGS, 0) < at(KVM_SET_VCPU_EVENTS, 0));
	assert_true(at(KVM_SET_MP_STATE, 0) < at(KVM_SET_VCPU_EVENTS, 0));
	/* the APIC base says how the APIC's page is read */
	assert_true(at(KVM_SET_SREGS, 0) < at(KVM_SET_LAPIC, 0));
	/* a deadline counts only in deadline mode, and from the TSC */
	deadline = at(KVM_SET_MSRS, MSR_TSC_DEADLINE);
	assert_true(at(KVM_SET_LAPIC, 0) < deadline);
	assert_true(at(KVM_SET_MSRS, 0xc0000081) < at(KVM_SET_MSRS, MSR_TSC));
	assert_true(at(KVM_SET_MSRS, 0x4b564d01) < at(KVM_SET_MSRS, MSR_TSC));
	assert_true(at(KVM_SET_MSRS, MSR_TSC) < deadline);
	assert_int_equal(kvm.call[deadline].value, NOW + 600);
	assert_int_equal(at(KVM_SET_VCPU_EVENTS, 0), kvm.n - 1);
	(void)at(KVM_SET_XSAVE, 0);
	(void)at(KVM_SET_XCRS, 0);
	(void)at(KVM_SET_DEBUGREGS, 0);
	free(r.v.s);
}

static void test_get(void **state)
{
	struct rig r;
	struct err e = {0};

	(void)state;
	rig_make(&r);
	kvm.lvtt = TIMER;
	kvm.deadline = 9999;
	assert_int_equal(vcpu_state_get(&r.v, &e), 0);
	/* takes in INIT and SIPI, which changes all the rest */
	assert_int_equal(at(KVM_GET_MP_STATE, 0), 0);
	assert_true(at(KVM_GET_LAPIC, 0) < at(KVM_GET_MSRS, MSR_TSC_DEADLINE));
	assert_true(
		at(KVM_GET_MSRS, MSR_TSC) < at(KVM_GET_MSRS, MSR_TSC_DEADLINE));
	assert_int_equal(at(KVM_GET_VCPU_EVENTS, 0), kvm.n - 1);
	assert_int_equal(r.v.s->tsc, NOW);
	assert_int_equal(r.v.s->tsc_deadline, 9999);
	assert_int_equal(r.v.s->msrs_len, 3 * sizeof(r.v.s->msrs[0]));
	free(r.v.s);
}

/* It has fired, its interrupt may not have arrived: due at once. */
static void test_deadline_gone(void **state)
{
	struct rig r;
	struct err e = {0};

	(void)state;
	rig_make(&r);
	kvm.lvtt = TIMER;
	assert_int_equal(vcpu_state_get(&r.v, &e), 0);
	assert_int_equal(r.v.s->tsc_deadline, NOW);
	/* masked, or of another mode: there is no deadline */
	kvm.lvtt = TIMER | 0x10000;
	kvm.n = 0;
	assert_int_equal(vcpu_state_get(&r.v, &e), 0);
	assert_int_equal(r.v.s->tsc_deadline, 0);
	kvm.lvtt = 0x200ec;
	kvm.n = 0;
	assert_int_equal(vcpu_state_get(&r.v, &e), 0);
	assert_int_equal(r.v.s->tsc_deadline, 0);
	free(r.v.s);
}

/* One that this KVM does not give stops a batch, not the rest of the list. */
static void test_msr_refused(void **state)
{
	struct rig r;
	struct err e = {0};

	(void)state;
	rig_make(&r);
	kvm.refuse_xss = true;
	assert_int_equal(vcpu_state_get(&r.v, &e), 0);
	assert_int_equal(r.v.s->msrs_len, 2 * sizeof(r.v.s->msrs[0]));
	assert_int_equal(r.v.s->msrs[1].index, 0x4b564d01);
	assert_int_equal(r.v.s->tsc, NOW);
	free(r.v.s);
}

static bool listed(const struct arch_host *h, uint32_t index)
{
	unsigned found = 0;

	for (uint32_t i = 0; i < h->nmsrs; i++)
		found += h->msr[i] == index;
	assert_true(found <= 1);
	return found;
}

static void test_msr_list(void **state)
{
	struct arch_host h = {0};
	struct err e = {0};

	(void)state;
	kvm.n = 0;
	assert_int_equal(host_list_msrs(&h, 77, false, &e), 0);
	assert_true(listed(&h, 0xda0) && listed(&h, 0x4b564d01));
	assert_false(listed(&h, MSR_TSC));
	assert_false(listed(&h, 0x12));
	assert_false(listed(&h, MSR_EFER));
	assert_false(listed(&h, 0x40000022));
	assert_false(listed(&h, 0x808));
	/* memory types always, machine check banks when asked for */
	assert_true(listed(&h, MSR_MTRR_DEF_TYPE) && listed(&h, 0x26f));
	assert_false(listed(&h, 0x400));
	assert_int_equal(host_list_msrs(&h, 77, true, &e), 0);
	assert_true(listed(&h, 0x400) && listed(&h, 0x47f));
	assert_false(listed(&h, 0x480));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_set),
		cmocka_unit_test(test_get),
		cmocka_unit_test(test_deadline_gone),
		cmocka_unit_test(test_msr_refused),
		cmocka_unit_test(test_msr_list),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
