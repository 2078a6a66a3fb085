/* Boot a stub, the door, how guests end. */
#include "tests/kvm/kvm_test.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

/* for (;;) { door(forever); count at 0x2000 ++; } */
static const uint8_t sleeper[] = {
	0x66, 0xba, 0xa0, 0x07,                   /* mov dx, 0x7a0 */
	0xb8, 0xff, 0xff, 0xff, 0xff,             /* mov eax, -1 */
	0xef,                                     /* out dx, eax */
	0xff, 0x04, 0x25, 0x00, 0x20, 0x00, 0x00, /* inc dword [0x2000] */
	0xeb, 0xed,                               /* jmp start */
};

static uint32_t peek(struct stub *s, gpa_t at)
{
	uint32_t v = 0;

	assert_int_equal(mem_read(&s->m.mem, at, &v, sizeof(v)), 0);
	return v;
}

static void test_boot_to_door(void **state)
{
	struct machine_config cfg;
	struct stub s;
	struct err e = { 0 };

	(void)state;
	if (!stub_kvm(&s))
		skip();
	stub_config(&cfg);
	stub_build(&s, &cfg, sleeper, sizeof(sleeper));
	assert_int_equal(s.m.state, MACHINE_BUILT);
	assert_int_equal(machine_resume(&s.m, &e), 0);
	for (unsigned i = 1; i <= 100; i++) {
		stub_wait_doors(&s, i);
		assert_int_equal(peek(&s, 0x2000), i - 1);
		machine_door_wake(&s.m);
	}
	print_message("us: vm %u slots %u cpus %u devices %u\n", s.m.us.vm,
		s.m.us.slots, s.m.us.cpus, s.m.us.devices);
	stub_destroy(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_boot_to_door),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
