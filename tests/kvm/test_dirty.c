/* The dirty log of a machine that runs: nothing that changed is missing. */
#include "core/arch/x86/vcpu_state.h"
#include "core/dirty.h"
#include "tests/kvm/kvm_test.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#define PAGES (4 * MIB / PAGE_SIZE_4K)

static bool bit(const uint64_t *bits, uint64_t page)
{
	return bits[page / 64] >> page % 64 & 1;
}

/* A tracked machine whose guest writes to the pages of 2 MiB to end. */
static void build(struct stub *s, gpa_t end)
{
	struct machine_config cfg;
	struct err e = {0};

	stub_config(&cfg);
	stub_boot(s, &cfg, STUB(rounds));
	if (dirty_start(&s->m.mem, &e))
		fail_msg("%s", e.msg);
	stub_realize(s);
	stub_poke(s, 0x2008, end);
}

static const uint64_t *pause_and_take(struct stub *s)
{
	const uint64_t *bits = NULL;
	struct err e = {0};

	stub_pause(s);
	if (dirty_collect(&s->m, &e) || dirty_take(s->m.mem.dirty, &bits, &e))
		fail_msg("%s", e.msg);
	return bits;
}

/* Every page that differs from old has its bit. Returns how many differ. */
static unsigned check(struct stub *s, const uint8_t *old, const uint64_t *bits)
{
	unsigned n = 0;

	for (uint64_t i = 0; i < PAGES; i++) {
		uint64_t at = i * PAGE_SIZE_4K;

		if (!memcmp(s->m.mem.map + at, old + at, PAGE_SIZE_4K))
			continue;
		n++;
		if (!bit(bits, i))
			fail_msg("page %llu changed unseen",
				(unsigned long long)i);
	}
	return n;
}

/* Rounds of running and collecting, also in the middle of running; every other
 * snapshot is lost. Against a copy from the last one that was kept. */
static void test_nothing_missed(void **state)
{
	uint8_t *old = malloc(4 * MIB);
	const uint64_t *bits;
	struct err e = {0};
	struct stub s;

	(void)state;
	if (!stub_kvm(&s)) {
		free(old);
		skip();
	}
	assert_non_null(old);
	build(&s, 0x300000);
	memcpy(old, s.m.mem.map, 4 * MIB);
	for (unsigned round = 0; round < 12; round++) {
		bool kept = round % 2;

		stub_resume(&s);
		for (unsigned i = 0; i < 3; i++) {
			stub_poll(&s, 2);
			assert_int_equal(dirty_collect(&s.m, &e), 0);
		}
		stub_poll(&s, 3);
		bits = pause_and_take(&s);
		assert_true(check(&s, old, bits) > 1);
		/* and not simply all of them */
		assert_false(bit(bits, 0x3ff000 / PAGE_SIZE_4K));
		assert_true(dirty_count(bits, PAGES / 64) < PAGES / 2);
		dirty_settle(s.m.mem.dirty, kept);
		if (kept)
			memcpy(old, s.m.mem.map, 4 * MIB);
	}
	/* Nobody ran since. */
	assert_int_equal(dirty_collect(&s.m, &e), 0);
	assert_true(dirty_count(s.m.mem.dirty->since, PAGES / 64) <= 1);
	stub_destroy(&s);
	free(old);
}

/* What KVM writes itself counts even when its log says nothing. */
static void test_kvm_pages(void **state)
{
	struct kvm_msr_entry *msr;
	const uint64_t *bits;
	struct err e = {0};
	struct stub s;

	(void)state;
	if (!stub_kvm(&s))
		skip();
	build(&s, 0x300000);
	msr = s.m.cpu[0]->s->msrs;
	msr[0] = (struct kvm_msr_entry){
		.index = MSR_KVM_SYSTEM_TIME, .data = 0x380001};
	msr[1] = (struct kvm_msr_entry){
		.index = MSR_KVM_STEAL_TIME, .data = 0x390fe1};
	msr[2] = (struct kvm_msr_entry){.index = 0x277, .data = 0x3a0000};
	msr[3] = (struct kvm_msr_entry){
		.index = MSR_KVM_PV_EOI, .data = 0xffffffff0001};
	s.m.cpu[0]->s->msrs_len = 4 * sizeof(*msr);
	assert_int_equal(dirty_collect(&s.m, &e), 0);
	assert_int_equal(dirty_take(s.m.mem.dirty, &bits, &e), 0);
	assert_true(bit(bits, 0x380));
	assert_true(bit(bits, 0x390));
	assert_true(bit(bits, 0x391));
	assert_false(bit(bits, 0x3a0));
	stub_destroy(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_nothing_missed),
		cmocka_unit_test(test_kvm_pages),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
