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

static int filter(const struct kvm_cpuid_entry2 *in, uint32_t n, uint32_t id,
	uint32_t ncpus, struct kvm_cpuid_entry2 *out)
{
	return cpuid_filter(
		in, n, &(struct cpuid_shape){.id = id, .ncpus = ncpus}, out);
}

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
	int n = filter(host, ARRAY_SIZE(host), 2, 4, out);

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
	/* AMD's, on a host that is not */
	e = get(out, n, 0x80000008, 0);
	assert_int_equal(e.ecx, 0);
}

/* Made-up processors of both makers, with what their guests look at. */
static const struct kvm_cpuid_entry2 intel[] = {
	{.function = 0, .eax = 0x1f, .ebx = 0x756e6547},
	{.function = 1, .ecx = 1 << 15 | 1 << 5, .edx = 1},
	/* 32 KiB L1, 1 MiB L2, 32 MiB L3 shared by many */
	{.function = 4, .flags = 1, .eax = 0x1c004121, .ebx = 0x1c0003f},
	{.function = 4, .index = 2, .flags = 1, .eax = 0x1c004143, .ebx = 1},
	{.function = 4, .index = 3, .flags = 1, .eax = 0x1c03c163, .ebx = 1},
	{.function = 0xa, .eax = 0x7300805},
	{.function = 0xb, .flags = 1, .ebx = 2},
	{.function = 0x1f, .flags = 1, .ebx = 2},
	{.function = 0x40000000, .eax = 0x40000001, .ebx = 0x4b4d564b},
	{.function = 0x40000001, .eax = 0x1000},
	{.function = 0x80000000, .eax = 0x80000008},
	{.function = 0x80000001, .ecx = 1, .edx = 1},
	{.function = 0x80000008, .eax = 0x3030},
};

static const struct kvm_cpuid_entry2 amd[] = {
	{.function = 0, .eax = 0x10, .ebx = 0x68747541},
	{.function = 1, .edx = 1},
	{.function = 0x40000000, .eax = 0x40000001, .ebx = 0x4b4d564b},
	{.function = 0x80000000, .eax = 0x80000022},
	{.function = 0x80000001,
		.ecx = 1 << 22 | 1 << 23 | 1 << 2 | 1,
		.edx = 1},
	/* 32 KiB 8-way L1 data, 64 KiB 4-way instructions, 64-byte lines */
	{.function = 0x80000005, .ecx = 0x20080140, .edx = 0x40040140},
	/* 512 KiB 8-way L2, 32 MiB 16-way L3 */
	{.function = 0x80000006, .ecx = 0x2006140, .edx = 0x1008140},
	{.function = 0x80000008, .eax = 0x3030, .ecx = 0x703f},
	{.function = 0x8000000a, .eax = 1, .ebx = 0x8000, .edx = 0x1d},
	{.function = 0x8000001e, .eax = 5, .ebx = 0x105},
	{.function = 0x80000022, .eax = 1},
};

static void test_intel(void **state)
{
	struct kvm_cpuid_entry2 out[VCPU_MAX_CPUID];
	const struct cpuid_shape s = {.id = 5, .ncpus = 6, .tsc_khz = 2100000};
	int n = cpuid_filter(intel, ARRAY_SIZE(intel), &s, out);
	struct kvm_cpuid_entry2 e;

	(void)state;
	/* no performance counters, whatever asks for them */
	assert_false(get(out, n, 1, 0).ecx & 1 << 15);
	assert_false(has(out, n, 0xa));
	/* nor guests of its own */
	assert_false(get(out, n, 1, 0).ecx & 1 << 5);
	/* 6 cores: L1 for each alone, L3 for all 8 places of the package */
	assert_int_equal(get(out, n, 4, 0).eax, 5u << 26 | 0x121);
	assert_int_equal(get(out, n, 4, 3).eax, 5u << 26 | 7 << 14 | 0x163);
	for (uint32_t f = 0xb; f <= 0x1f; f += 0x1f - 0xb) {
		e = get(out, n, f, 0);
		assert_int_equal(e.eax, 0);
		assert_int_equal(e.ebx, 1);
		assert_int_equal(e.ecx, 0x100);
		e = get(out, n, f, 1);
		assert_int_equal(e.eax, 3);
		assert_int_equal(e.ebx, 6);
		assert_int_equal(e.ecx, 0x201);
		assert_int_equal(e.edx, 5);
		assert_int_equal(get(out, n, f, 2).ecx, 2);
	}
	e = get(out, n, 0x40000000, 0);
	assert_int_equal(e.eax, 0x40000010);
	assert_int_equal(get(out, n, 0x40000010, 0).eax, 2100000);
	assert_int_equal(get(out, n, 0x40000010, 0).ebx, 1000000);
	/* nothing of AMD's */
	assert_int_equal(get(out, n, 0x80000001, 0).ecx, 1);
	assert_false(has(out, n, 0x8000001d));
	assert_false(has(out, n, 0x8000001e));
}

static void test_amd(void **state)
{
	struct kvm_cpuid_entry2 out[VCPU_MAX_CPUID];
	const struct cpuid_shape s = {.id = 2, .ncpus = 3};
	int n = cpuid_filter(amd, ARRAY_SIZE(amd), &s, out);
	struct kvm_cpuid_entry2 in[ARRAY_SIZE(amd)];
	struct kvm_cpuid_entry2 e;

	(void)state;
	/* no guests of its own */
	assert_int_equal(get(out, n, 0x80000001, 0).ecx, 1 << 22 | 3);
	assert_false(has(out, n, 0x8000000a));
	assert_int_equal(get(out, n, 0x80000008, 0).ecx, 2 << 12 | 2);
	e = get(out, n, 0x8000001e, 0);
	assert_int_equal(e.eax, 2);
	assert_int_equal(e.ebx, 2);
	assert_int_equal(e.ecx, 0);
	/* L1 data, L1 instructions, L2 for each alone, L3 for all */
	e = get(out, n, 0x8000001d, 0);
	assert_int_equal(e.eax, 0x121);
	assert_int_equal(e.ebx, 63 | 7 << 22);
	assert_int_equal(e.ecx, 63);
	assert_int_equal(get(out, n, 0x8000001d, 1).eax, 0x122);
	assert_int_equal(get(out, n, 0x8000001d, 2).eax, 0x143);
	assert_int_equal(get(out, n, 0x8000001d, 2).ecx, 1023);
	e = get(out, n, 0x8000001d, 3);
	assert_int_equal(e.eax, 0x163 | 2 << 14);
	assert_int_equal(e.ecx, 32 * 1024 / 16 * 1024 / 64 - 1);
	assert_false(has(out, n, 0x80000022));
	/* no timing without a rate, and none where KVM is not named */
	assert_int_equal(get(out, n, 0x40000000, 0).eax, 0x40000001);
	assert_false(has(out, n, 0x40000010));
	/* the extension goes when its leaves are out of reach */
	memcpy(in, amd, sizeof(in));
	in[3].eax = 0x80000008;
	n = cpuid_filter(in, ARRAY_SIZE(in), &s, out);
	assert_int_equal(get(out, n, 0x80000001, 0).ecx, 3);
	assert_false(has(out, n, 0x8000001e));
}

static void test_one_cpu(void **state)
{
	struct kvm_cpuid_entry2 out[VCPU_MAX_CPUID];
	int n = filter(host, ARRAY_SIZE(host), 0, 1, out);

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
	assert_int_equal(filter(in, ARRAY_SIZE(in), 0, 1, out), -ENOSPC);
}

static void test_missing(void **state)
{
	struct kvm_cpuid_entry2 out[VCPU_MAX_CPUID];
	int n = filter(host, ARRAY_SIZE(host), 0, 4, out);
	struct kvm_cpuid_entry2 old[ARRAY_SIZE(host)];
	struct cpuid_lack lack[2], more[2];
	char name[CPUID_NAME_MAX];

	(void)state;
	/* what was made from a host's leaves fits that host */
	assert_int_equal(cpuid_missing(out, (uint32_t)n, host, ARRAY_SIZE(host),
				 lack, 2),
		0);
	for (int i = 0; i < n; i++) {
		if (out[i].function == 7)
			out[i].ebx |= 1 << 16;
	}
	assert_int_equal(cpuid_missing(out, (uint32_t)n, host, ARRAY_SIZE(host),
				 lack, 2),
		1);
	assert_int_equal(lack[0].function, 7);
	assert_int_equal(lack[0].bits, 1 << 16);
	assert_string_equal(cpuid_name(&lack[0], 16, name), "avx512f");
	/* a guest that was shown virtualisation before it was left out */
	for (int i = 0; i < n; i++) {
		if (out[i].function == 7)
			out[i].ebx = 0;
		if (out[i].function == 1)
			out[i].ecx |= 1 << 5;
	}
	memcpy(old, host, sizeof(host));
	old[1].ecx |= 1 << 5;
	assert_int_equal(
		cpuid_missing(out, (uint32_t)n, old, ARRAY_SIZE(host), more, 2),
		0);
	lack[0].reg = 2;
	assert_string_equal(
		cpuid_name(&lack[0], 31, name), "CPUID.7.0:ECX bit 31");
	/* leaves that are not there at all; no more than asked for */
	assert_true(cpuid_missing(out, (uint32_t)n, NULL, 0, lack, 2) > 2);
	assert_int_equal(lack[0].function, 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_filter),
		cmocka_unit_test(test_intel),
		cmocka_unit_test(test_amd),
		cmocka_unit_test(test_one_cpu),
		cmocka_unit_test(test_too_many),
		cmocka_unit_test(test_missing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
