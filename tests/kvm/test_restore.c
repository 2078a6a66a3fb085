/* State out of one machine, through the wire format, into another. */
#include "core/arch/x86/vcpu_state.h"
#include "tests/kvm/kvm_test.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#define ROUNDS 12

/* Stop the guest anywhere, move it, ROUNDS times; then it is told to end.
 * Returns which of s[2] it ended in. */
static unsigned move_about(struct stub s[2], bool prepare)
{
	struct err e = {0};
	unsigned cur = 0;

	stub_resume(&s[0]);
	for (unsigned moves = 0; moves < ROUNDS; moves++) {
		stub_poll(&s[cur], 3);
		stub_pause(&s[cur]);
		assert_true(stub_kvm(&s[!cur]));
		stub_copy(&s[cur], &s[!cur]);
		stub_destroy(&s[cur]);
		cur = !cur;
		if (prepare && machine_prepare(&s[cur].m, s[cur].kvm.fd, &e))
			fail_msg("%s", e.msg);
		stub_realize(&s[cur]);
		assert_int_equal(machine_set_time(&s[cur].m, &e), 0);
		stub_resume(&s[cur]);
	}
	stub_poke(&s[cur], 0x2018, 1);
	stub_wait_end(&s[cur]);
	assert_string_equal(s[cur].m.end.text, "power off");
	return cur;
}

static uint64_t peek64(struct stub *s, gpa_t at)
{
	return stub_peek(s, at) | (uint64_t)stub_peek(s, at + 4) << 32;
}

/* The sum comes out right. */
static void moved_lcg(bool prepare)
{
	struct machine_config cfg;
	struct stub s[2], *end;
	uint64_t want = 0, steps;

	if (!stub_kvm(&s[0]))
		skip();
	stub_config(&cfg);
	stub_build(&s[0], &cfg, STUB(lcg));
	end = &s[move_about(s, prepare)];
	steps = peek64(end, 0x2008);
	assert_true(steps > ROUNDS);
	for (uint64_t i = 0; i < steps; i++)
		want = want * 6364136223846793005ULL + 1442695040888963407ULL;
	assert_true(peek64(end, 0x2010) == want);
	stub_destroy(end);
}

/* No value that was being read is lost. */
static void test_moved_reading(void **state)
{
	struct machine_config cfg;
	struct stub s[2], *end;

	(void)state;
	if (!stub_kvm(&s[0]))
		skip();
	stub_config(&cfg);
	stub_build(&s[0], &cfg, STUB(reader));
	end = &s[move_about(s, true)];
	assert_true(peek64(end, 0x2008) > ROUNDS);
	stub_destroy(end);
}

static void test_moved(void **state)
{
	(void)state;
	moved_lcg(false);
}

static void test_moved_prepared(void **state)
{
	(void)state;
	moved_lcg(true);
}

/* FXSAVE image (SDM 1, 13.4): x87 control at 0, MXCSR 24, XMM0 at 160; the
 * XSAVE header at 512 says that x87 and SSE are in use. */
static void fill_state(struct vcpu_state *s)
{
	static const uint64_t in_use = 3;
	static const uint32_t mxcsr = 0x1f80;
	static const uint16_t fcw = 0x37f;

	s->xsave_len = VCPU_XSAVE_MIN;
	memcpy(s->xsave, &fcw, sizeof(fcw));
	memcpy(s->xsave + 24, &mxcsr, sizeof(mxcsr));
	memcpy(s->xsave + 512, &in_use, sizeof(in_use));
	for (unsigned i = 0; i < 256; i++)
		s->xsave[160 + i] = (uint8_t)(i * 7 + 1);
	s->regs.r12 = 0x1122334455667788;
	s->regs.r15 = ~0ULL;
	s->debugregs.db[0] = 0x1234;
	s->sregs.cr2 = 0xabcdef;
	/* LSTAR, KERNEL_GS_BASE */
	s->msrs[0] = (struct kvm_msr_entry){
		.index = 0xc0000082, .data = 0xffff800000001000};
	s->msrs[1] =
		(struct kvm_msr_entry){.index = 0xc0000102, .data = 0x7000};
	s->msrs_len = 2 * sizeof(s->msrs[0]);
	lapic_write(&s->lapic, 0x80, 0x20); /* task priority ... */
	s->sregs.cr8 = 2;                   /* ... which CR8 shows */
}

static uint64_t msr_of(const struct vcpu_state *s, uint32_t index)
{
	for (unsigned i = 0; i < s->msrs_len / sizeof(s->msrs[0]); i++) {
		if (s->msrs[i].index == index)
			return s->msrs[i].data;
	}
	return 0;
}

static void check_state(const struct vcpu_state *s)
{
	struct vcpu_state want;

	memset(&want, 0, sizeof(want));
	fill_state(&want);
	assert_memory_equal(s->xsave + 160, want.xsave + 160, 256);
	assert_true(s->regs.r12 == want.regs.r12);
	assert_true(s->regs.r15 == want.regs.r15);
	assert_true(s->debugregs.db[0] == want.debugregs.db[0]);
	assert_true(s->sregs.cr2 == want.sregs.cr2);
	assert_true(msr_of(s, 0xc0000082) == want.msrs[0].data);
	assert_true(msr_of(s, 0xc0000102) == want.msrs[1].data);
	assert_int_equal(lapic_read(&s->lapic, 0x80), 0x20);
}

static void carry(bool prepare)
{
	struct machine_config cfg;
	struct stub a, b;
	struct err e = {0};

	if (!stub_kvm(&a))
		skip();
	stub_config(&cfg);
	stub_boot(&a, &cfg, STUB(sleeper));
	fill_state(a.m.cpu[0]->s);
	stub_realize(&a);
	stub_resume(&a);
	stub_wait_doors(&a, 1);
	stub_pause(&a);
	check_state(a.m.cpu[0]->s);
	assert_true(stub_kvm(&b));
	stub_copy(&a, &b);
	if (prepare && machine_prepare(&b.m, b.kvm.fd, &e))
		fail_msg("%s", e.msg);
	stub_realize(&b);
	stub_resume(&b);
	/* The guest was asleep at the door: it wakes, looks, comes again. */
	stub_wait_doors(&b, 1);
	assert_int_equal(stub_peek(&b, 0x2000), 1);
	stub_pause(&b);
	check_state(b.m.cpu[0]->s);
	assert_memory_equal(&a.m.cpu[0]->s->xcrs, &b.m.cpu[0]->s->xcrs,
		sizeof(struct kvm_xcrs));
	assert_memory_equal(&a.m.cpu[0]->s->lapic, &b.m.cpu[0]->s->lapic,
		sizeof(struct kvm_lapic_state));
	stub_destroy(&a);
	stub_destroy(&b);
}

static void test_carry(void **state)
{
	(void)state;
	carry(false);
}

static void test_carry_prepared(void **state)
{
	(void)state;
	carry(true);
}

/* Paused before its first instruction, a machine is still complete. */
static void test_pause_at_once(void **state)
{
	struct machine_config cfg;
	struct stub a, b;
	struct err e = {0};

	(void)state;
	if (!stub_kvm(&a))
		skip();
	stub_config(&cfg);
	stub_boot(&a, &cfg, STUB(sleeper));
	fill_state(a.m.cpu[0]->s);
	assert_int_equal(machine_prepare(&a.m, a.kvm.fd, &e), 0);
	stub_realize(&a);
	stub_resume(&a);
	stub_pause(&a);
	check_state(a.m.cpu[0]->s);
	assert_true(stub_kvm(&b));
	stub_copy(&a, &b);
	stub_realize(&b);
	stub_resume(&b);
	stub_wait_doors(&b, 1);
	stub_destroy(&a);
	stub_destroy(&b);
}

/* Every vCPU of several is saved and restored; the others wait for SIPI. */
static void test_smp(void **state)
{
	struct machine_config cfg;
	struct stub a, b;

	(void)state;
	if (!stub_kvm(&a))
		skip();
	stub_config(&cfg);
	cfg.cpus = 4;
	stub_build(&a, &cfg, STUB(sleeper));
	stub_resume(&a);
	stub_wait_doors(&a, 1);
	stub_pause(&a);
	assert_int_equal(a.m.cpu[3]->s->mp_state, KVM_MP_STATE_UNINITIALIZED);
	assert_true(stub_kvm(&b));
	stub_copy(&a, &b);
	stub_realize(&b);
	stub_resume(&b);
	stub_wait_doors(&b, 1);
	stub_pause(&b);
	assert_int_equal(b.m.cpu[3]->s->mp_state, KVM_MP_STATE_UNINITIALIZED);
	stub_destroy(&a);
	stub_destroy(&b);
}

/* A file that says what no host can do: refused, with what and why. */
static void test_hostile_state(void **state)
{
	struct machine_config cfg;
	struct err e = {0};
	struct stub a;

	(void)state;
	for (unsigned k = 0; k < 4; k++) {
		struct vcpu_state *s;

		if (!stub_kvm(&a))
			skip();
		stub_config(&cfg);
		stub_boot(&a, &cfg, STUB(sleeper));
		s = a.m.cpu[0]->s;
		fill_state(s);
		if (k == 0)
			s->sregs.cr4 = ~0ULL;
		else if (k == 1)
			s->msrs[0].index = 0xdeadbeef;
		else if (k == 2)
			memset(s->xsave + 512, 0xff, 64);
		else
			s->cpuid[0] = (struct kvm_cpuid_entry2){
				.function = 7, .ecx = ~0U};
		if (k == 3)
			s->cpuid_len = sizeof(s->cpuid[0]);
		assert_true(machine_prepare(&a.m, a.kvm.fd, &e) < 0);
		print_message("%s\n", e.msg);
		assert_true(machine_realize(&a.m, a.kvm.fd, &e) < 0 || k == 3);
		stub_destroy(&a);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_moved),
		cmocka_unit_test(test_moved_prepared),
		cmocka_unit_test(test_moved_reading),
		cmocka_unit_test(test_carry),
		cmocka_unit_test(test_carry_prepared),
		cmocka_unit_test(test_pause_at_once),
		cmocka_unit_test(test_smp),
		cmocka_unit_test(test_hostile_state),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
