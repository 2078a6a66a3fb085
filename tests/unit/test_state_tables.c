/* The generic checks over every state table that thaw has. */
#include "tests/unit/test.h"
#include "tests/unit/snap_fake.h"
#include "tests/unit/state_generic.h"
#include "core/vcpu.h"

static void test_config(void **state)
{
	struct machine m;

	(void)state;
	fake_machine(&m, 8 * MIB, MEM_PRIVATE);
	st_test_generic(&machine_config_desc, &m.cfg);
	machine_destroy(&m);
}

static void test_machine(void **state)
{
	struct machine m;

	(void)state;
	fake_machine(&m, 8 * MIB, MEM_PRIVATE);
	st_test_generic(&machine_state_desc, NULL);
	st_test_generic(&machine_state_desc, &m.saved);
	machine_destroy(&m);
}

static void test_vcpu(void **state)
{
	struct machine m;

	(void)state;
	fake_machine(&m, 8 * MIB, MEM_PRIVATE);
	st_test_generic(&vcpu_state_desc, NULL);
	st_test_generic(&vcpu_state_desc, m.cpu[1]->s);
	machine_destroy(&m);
}

static void test_devices(void **state)
{
	struct machine m;
	unsigned types = 0;

	(void)state;
	fake_machine(&m, 8 * MIB, MEM_PRIVATE);
	while (device_types[types])
		types++;
	/* the fake machine has one of each, so that none escapes, and a second
	 * disk and network interface */
	assert_int_equal(m.ndevs, types + 2);
	for (unsigned i = 0; i < m.ndevs; i++) {
		const struct device_ops *ops = m.dev[i]->ops;

		print_message("%s\n", ops->name);
		st_test_generic(ops->state, ops->saved(m.dev[i]));
	}
	machine_destroy(&m);
}

/* Tags tell sections apart; a name fits into the section table. */
static void test_tags(void **state)
{
	(void)state;
	for (unsigned i = 0; device_types[i]; i++) {
		const struct device_ops *a = device_types[i];

		assert_true(a->section != 0);
		assert_true(a->section >> 32 != 0);
		assert_in_range(__builtin_strlen(a->name), 1, 15);
		assert_true(a->section != SNAP_TAG_CONFIG &&
			    a->section != SNAP_TAG_METADATA &&
			    a->section != SNAP_TAG_MACHINE &&
			    a->section != SNAP_TAG_VCPU &&
			    a->section != SNAP_TAG_MEMORY);
		for (unsigned j = 0; j < i; j++)
			assert_true(a->section != device_types[j]->section);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_config),
		cmocka_unit_test(test_machine),
		cmocka_unit_test(test_vcpu),
		cmocka_unit_test(test_devices),
		cmocka_unit_test(test_tags),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
