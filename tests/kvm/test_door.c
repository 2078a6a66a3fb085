/* Boot a stub, the door, pausing, and how guests end. */
#include "tests/kvm/kvm_test.h"

#include <setjmp.h>
#include <stdarg.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

/* Every test starts with a machine of its own, or is skipped. */
#define START(s, code)                                                         \
	do {                                                                   \
		struct machine_config cfg_;                                    \
                                                                               \
		if (!stub_kvm(&(s)))                                           \
			skip();                                                \
		stub_config(&cfg_);                                            \
		stub_build(&(s), &cfg_, code);                                 \
	} while (0)

static void test_boot_to_door(void **state)
{
	struct stub s;

	(void)state;
	START(s, STUB(sleeper));
	assert_int_equal(s.m.state, MACHINE_BUILT);
	stub_resume(&s);
	for (unsigned i = 1; i <= 100; i++) {
		stub_wait_doors(&s, i);
		assert_int_equal(stub_peek(&s, 0x2000), i - 1);
		machine_door_wake(&s.m);
	}
	stub_destroy(&s);
}

/* A buffer used while the guest was not at the door is not slept over. */
static void test_no_lost_wakeup(void **state)
{
	struct stub s;

	(void)state;
	START(s, STUB(sleeper));
	machine_door_wake(&s.m);
	stub_resume(&s);
	/* Both visits may be one event here. */
	for (unsigned i = 0; i < 1000 && !stub_peek(&s, 0x2000); i++)
		stub_poll(&s, 10);
	stub_poll(&s, 10);
	assert_int_equal(stub_peek(&s, 0x2000), 1);
	stub_destroy(&s);
}

static void test_timed_wait(void **state)
{
	struct stub s;
	uint64_t t;

	(void)state;
	START(s, STUB(timed));
	stub_poke(&s, 0x2004, 50000);
	t = now_ns();
	stub_resume(&s);
	stub_wait_doors(&s, 3);
	t = now_ns() - t;
	assert_true(t >= 99000000);
	assert_true(t < 5000000000);
	stub_destroy(&s);
}

/* The time left when paused goes on after the resume. */
static void test_timed_wait_paused(void **state)
{
	struct stub s;

	(void)state;
	START(s, STUB(timed));
	stub_poke(&s, 0x2004, 200000);
	stub_resume(&s);
	stub_wait_doors(&s, 1);
	stub_pause(&s);
	usleep(250000);
	stub_resume(&s);
	stub_poll(&s, 20);
	assert_int_equal(s.doors, 1);
	assert_int_equal(stub_peek(&s, 0x2000), 0);
	stub_wait_doors(&s, 2);
	stub_destroy(&s);
}

static void pause_often(struct stub *s)
{
	uint32_t before = 0, after;

	for (unsigned i = 0; i < 100; i++) {
		stub_pause(s);
		assert_int_equal(s->m.state, MACHINE_PAUSED);
		before = stub_peek(s, 0x2000);
		stub_poll(s, 0);
		assert_int_equal(stub_peek(s, 0x2000), before);
		stub_resume(s);
		stub_poll(s, 1);
	}
	for (unsigned i = 0; i < 1000; i++) {
		after = stub_peek(s, 0x2000);
		if (after != before)
			return;
		machine_door_wake(&s->m);
		stub_poll(s, 10);
	}
	fail_msg("the guest does not go on");
}

static void test_pause_spinner(void **state)
{
	struct stub s;

	(void)state;
	START(s, STUB(spinner));
	stub_resume(&s);
	pause_often(&s);
	stub_destroy(&s);
}

static void test_pause_sleeper(void **state)
{
	struct stub s;

	(void)state;
	START(s, STUB(sleeper));
	stub_resume(&s);
	stub_wait_doors(&s, 1);
	pause_often(&s);
	stub_destroy(&s);
}

/* A string instruction is left half way, its pending part completed. */
static void test_pause_string(void **state)
{
	struct stub s;

	(void)state;
	START(s, STUB(string));
	stub_resume(&s);
	pause_often(&s);
	stub_destroy(&s);
}

static void test_park(void **state)
{
	struct stub s;
	struct err e = {0};

	(void)state;
	START(s, STUB(sleeper));
	stub_resume(&s);
	stub_wait_doors(&s, 1);
	for (unsigned i = 1; i <= 20; i++) {
		assert_int_equal(machine_park(&s.m, 10000, &e), 0);
		assert_true(s.m.parked);
		assert_int_equal(machine_set_time(&s.m, &e), 0);
		stub_resume(&s);
		assert_false(s.m.parked);
		machine_door_wake(&s.m);
		stub_wait_doors(&s, i + 1);
	}
	stub_destroy(&s);
}

static void ends(uint64_t event, const char *crash, enum machine_end_kind kind,
	const char *text)
{
	struct stub s;
	struct err e = {0};

	START(s, STUB(event));
	stub_poke(&s, 0x2000, event);
	if (crash)
		assert_int_equal(
			mem_write(&s.m.mem,
				IDENT_GPA + offsetof(struct ident, crash),
				crash, strlen(crash) + 1),
			0);
	stub_resume(&s);
	stub_wait_end(&s);
	assert_int_equal(s.m.end.kind, kind);
	assert_non_null(strstr(s.m.end.text, text));
	assert_int_equal(machine_pause(&s.m, 100, &e), -EBUSY);
	assert_int_equal(machine_resume(&s.m, &e), -EBUSY);
	stub_destroy(&s);
}

static void test_ends(void **state)
{
	static char huge[4000];

	(void)state;
	ends(DOOR_EV_POWEROFF, NULL, MACHINE_END_POWEROFF, "power off");
	ends(DOOR_EV_REBOOT, NULL, MACHINE_END_REBOOT, "reboot");
	ends(DOOR_EV_CRASH, "out\x1b of\x80 cheese", MACHINE_END_CRASH,
		"out? of? cheese");
	ends(DOOR_EV_CRASH, "", MACHINE_END_CRASH, "without a text");
	ends(77, NULL, MACHINE_END_CRASH, "unknown event 77");
	/* not ended by a NUL */
	memset(huge, 'x', 3000);
	ends(DOOR_EV_CRASH, huge, MACHINE_END_CRASH, "xxxx");
}

static void test_triple_fault(void **state)
{
	struct stub s;

	(void)state;
	START(s, STUB(triple));
	stub_resume(&s);
	stub_wait_end(&s);
	assert_int_equal(s.m.end.kind, MACHINE_END_SHUTDOWN);
	stub_destroy(&s);
}

static void test_life_cycle(void **state)
{
	struct machine_config cfg;
	struct stub s;
	struct err e = {0};

	(void)state;
	if (!stub_kvm(&s))
		skip();
	stub_config(&cfg);
	stub_boot(&s, &cfg, STUB(sleeper));
	assert_int_equal(machine_resume(&s.m, &e), -EBUSY);
	assert_int_equal(machine_pause(&s.m, 100, &e), -EBUSY);
	assert_int_equal(machine_set_time(&s.m, &e), -EBUSY);
	stub_realize(&s);
	assert_int_equal(machine_realize(&s.m, s.kvm.fd, &e), -EBUSY);
	assert_int_equal(machine_boot(&s.m, -1, -1, &e), -EBUSY);
	assert_int_equal(machine_pause(&s.m, 100, &e), -EBUSY);
	stub_resume(&s);
	assert_int_equal(machine_resume(&s.m, &e), -EBUSY);
	/* before the guest came anywhere */
	stub_pause(&s);
	assert_int_equal(machine_pause(&s.m, 100, &e), -EBUSY);
	stub_destroy(&s);
}

static void test_identity(void **state)
{
	struct identity id = {.generation = {1, 2, 3}, .seed = {9}};
	struct ident page;
	struct stub s;
	struct err e = {0};
	uint64_t clock;

	(void)state;
	START(s, STUB(sleeper));
	assert_int_equal(machine_set_identity(&s.m, &id, &e), 0);
	stub_resume(&s);
	stub_wait_doors(&s, 1);
	stub_pause(&s);
	assert_int_equal(machine_set_time(&s.m, &e), 0);
	assert_int_equal(mem_read(&s.m.mem, IDENT_GPA, &page, sizeof(page)), 0);
	assert_true(page.magic == IDENT_MAGIC);
	assert_memory_equal(page.generation, id.generation, 16);
	assert_memory_equal(page.seed, id.seed, sizeof(page.seed));
	assert_true(wall_ns() - page.wall_ns < 5000000000);
	assert_true(page.tsc_khz > 100000);
	clock = page.clock_ns;
	assert_true(clock > 0);
	/* The clock does not jump over a pause. */
	stub_resume(&s);
	stub_pause(&s);
	usleep(300000);
	assert_int_equal(machine_set_time(&s.m, &e), 0);
	assert_int_equal(mem_read(&s.m.mem, IDENT_GPA, &page, sizeof(page)), 0);
	assert_true(page.clock_ns >= clock);
	assert_true(page.clock_ns - clock < 250000000);
	stub_destroy(&s);
}

static int fail_jail(void *arg)
{
	(void)arg;
	return -EPERM;
}

static void test_jail_fails(void **state)
{
	struct machine_config cfg;
	struct stub s;

	(void)state;
	if (!stub_kvm(&s))
		skip();
	stub_config(&cfg);
	stub_boot(&s, &cfg, STUB(sleeper));
	s.m.vcpu_jail = fail_jail;
	stub_realize(&s);
	stub_wait_end(&s);
	assert_int_equal(s.m.end.kind, MACHINE_END_ERROR);
	assert_int_equal(stub_peek(&s, 0x2000), 0);
	stub_destroy(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_boot_to_door),
		cmocka_unit_test(test_no_lost_wakeup),
		cmocka_unit_test(test_timed_wait),
		cmocka_unit_test(test_timed_wait_paused),
		cmocka_unit_test(test_pause_spinner),
		cmocka_unit_test(test_pause_sleeper),
		cmocka_unit_test(test_pause_string),
		cmocka_unit_test(test_park),
		cmocka_unit_test(test_ends),
		cmocka_unit_test(test_triple_fault),
		cmocka_unit_test(test_life_cycle),
		cmocka_unit_test(test_identity),
		cmocka_unit_test(test_jail_fails),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
