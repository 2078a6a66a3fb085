/* What a guest is shown, and whether another host can show it too. */
#include "tests/unit/test.h"
#include "core/arch/x86/cpuid.h"

#include <errno.h>
#include <string.h>

static const struct kvm_cpuid_entry2 host[] = {
	{.function = 0, .eax = 0x1c, .ebx = 1},
	{.function = 1,
		.eax = 0xa10f11,
		.ebx = 0xff020800,
		.ecx = 0x200000,
		.edx = 0x178bfbff},
	{.function = 2},
	{.function = 4, .flags = 1, .eax = 0xfc01c121, .ebx = 3, .ecx = 3},
	{.function = 7, .flags = 1, .eax = 1, .ebx = 0x1800002, .edx = 4},
	{.function = 0xa, .eax = 0x7300802},
	{.function = 0xb, .flags = 1, .eax = 5, .ebx = 99},
	{.function = 0xd, .flags = 1, .eax = 7},
	{.function = 0x80000008, .eax = 0x3030, .ecx = 0x7001},
	{.function = 0x8000001e, .eax = 77},
};

static bool has(const struct kvm_cpuid_entry2 *t, int n, uint32_t function)
{
	for (int i = 0; i < n; i++) {
		if (t[i].function == function)
			return true;
	}
	return false;
}

static struct kvm_cpuid_entry2 get(const struct kvm_cpuid_entry2 *t, int n,
	uint32_t function, uint32_t index)
{
	for (int i = 0; i < n; i++) {
		if (t[i].function == function && t[i].index == index)
			return t[i];
	}
	fail_msg("no leaf 0x%x.%u", function, index);
	return (struct kvm_cpuid_entry2){0};
}

static void test_filter(void **state)
{
	struct kvm_cpuid_entry2 out[VCPU_MAX_CPUID];
	struct kvm_cpuid_entry2 e;
	int n = cpuid_filter(host, ARRAY_SIZE(host), 2, 4, out);

	(void)state;
	assert_true(n > 0);
	e = get(out, n, 1, 0);
	assert_int_equal(e.ebx, 2u << 24 | 4 << 16 | 0x0800);
	/* hypervisor, TSC deadline, x2APIC; HTT for more than one */
	assert_int_equal(e.ecx, 1u << 31 | 1 << 24 | 1 << 21);
	assert_true(e.edx & 1 << 28);
	assert_false(has(out, n, 2));
	assert_false(has(out, n, 0xa));
	assert_false(has(out, n, 0x8000001e));
	e = get(out, n, 4, 0);
	assert_int_equal(e.eax, 3u << 26 | 0x121);
	e = get(out, n, 0xb, 1);
	assert_int_equal(e.eax, 2);
	assert_int_equal(e.ebx, 4);
	assert_int_equal(e.edx, 2);
	e = get(out, n, 0x80000008, 0);
	assert_int_equal(e.ecx, 2 << 12 | 3);
}

static void test_one_cpu(void **state)
{
	struct kvm_cpuid_entry2 out[VCPU_MAX_CPUID];
	int n = cpuid_filter(host, ARRAY_SIZE(host), 0, 1, out);

	(void)state;
	assert_false(get(out, n, 1, 0).edx & 1 << 28);
	assert_int_equal(get(out, n, 0xb, 1).eax, 0);
	/* the same again for what was made */
	assert_int_equal(get(out, n, 0xb, 0).ebx, 1);
}

static void test_too_many(void **state)
{
	struct kvm_cpuid_entry2 out[VCPU_MAX_CPUID], in[VCPU_MAX_CPUID + 1];

	(void)state;
	memset(in, 0, sizeof(in));
	for (uint32_t i = 0; i < ARRAY_SIZE(in); i++) {
		in[i].function = 0x80000000 + i * 0x1000;
		in[i].eax = 1;
	}
	assert_int_equal(cpuid_filter(in, ARRAY_SIZE(in), 0, 1, out), -ENOSPC);
}

static void test_missing(void **state)
{
	struct kvm_cpuid_entry2 out[VCPU_MAX_CPUID];
	int n = cpuid_filter(host, ARRAY_SIZE(host), 0, 4, out);
	uint32_t bits = 1;
	char reg[4];

	(void)state;
	/* what was made from a host's leaves fits that host */
	assert_int_equal(cpuid_missing(out, (uint32_t)n, host, ARRAY_SIZE(host),
				 reg, &bits),
		0);
	assert_int_equal(bits, 0);
	for (int i = 0; i < n; i++) {
		if (out[i].function == 7)
			out[i].ebx |= 1 << 16;
	}
	assert_int_equal(cpuid_missing(out, (uint32_t)n, host, ARRAY_SIZE(host),
				 reg, &bits),
		7);
	assert_int_equal(bits, 1 << 16);
	assert_string_equal(reg, "EBX");
	/* a leaf that is not there at all */
	assert_int_equal(
		cpuid_missing(out, (uint32_t)n, NULL, 0, reg, &bits), 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_filter),
		cmocka_unit_test(test_one_cpu),
		cmocka_unit_test(test_too_many),
		cmocka_unit_test(test_missing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
