/* Snapshots against hosts that are made up. */
#include "tests/unit/test.h"
#include "core/arch/x86/compat.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct said {
	char text[4][ARCH_COMPAT_TEXT];
	unsigned n;
};

static void note(void *arg, const char *text)
{
	struct said *s = arg;

	assert_in_range(s->n, 0, 3);
	strcpy(s->text[s->n++], text);
}

static const struct kvm_cpuid_entry2 amd[] = {
	{.function = 0,
		.eax = 0x10,
		.ebx = 0x68747541,
		.ecx = 0x444d4163,
		.edx = 0x69746e65},
	{.function = 1, .ecx = 1u << 28 | 1u << 25, .edx = 1u << 26},
	{.function = 7, .ebx = 1 << 5 | 1 << 29},
};

struct rig {
	struct arch_compat h;
	struct vcpu_state *s;
	struct said said;
};

/* A host, and a state that was saved on it. */
static void rig_init(struct rig *r)
{
	memset(r, 0, sizeof(*r));
	r->s = arch_vcpu_state_create();
	assert_non_null(r->s);
	memcpy(r->h.cpuid, amd, sizeof(amd));
	r->h.ncpuid = ARRAY_SIZE(amd);
	r->h.msr[0] = 0xc0000082;
	r->h.nmsrs = 1;
	r->h.max_cpus = 4;
	r->h.tsc_khz = 2000000;
	r->h.xsave_size = 4096;
	memcpy(r->s->cpuid, amd, sizeof(amd));
	r->s->cpuid_len = sizeof(amd);
	r->s->msrs[0].index = 0xc0000082;
	r->s->msrs[0].data = 1;
	r->s->msrs_len = sizeof(r->s->msrs[0]);
	r->s->tsc_khz = 2000000;
	r->s->xsave_len = 4096;
}

/* How many differences there are; the first one contains text. */
static void expect(struct rig *r, uint32_t cpus, unsigned n, const char *text)
{
	arch_compat_check(&r->h, r->s, cpus, note, &r->said);
	assert_int_equal(r->said.n, n);
	if (n && !strstr(r->said.text[0], text))
		fail_msg("no \"%s\" in \"%s\"", text, r->said.text[0]);
	free(r->s);
}

static void test_same(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r);
	expect(&r, 4, 0, NULL);
}

static void test_vendor(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r);
	r.h.cpuid[0].ebx = 0x756e6547; /* GenuineIntel */
	r.h.cpuid[0].edx = 0x49656e69;
	r.h.cpuid[0].ecx = 0x6c65746e;
	expect(&r, 1, 1,
		"a processor of AuthenticAMD, this host has one of "
		"GenuineIntel");
}

static void test_features(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r);
	r.h.cpuid[1].ecx = 1u << 25;
	r.h.cpuid[2].ebx = 1 << 5 | 1 << 16; /* more is no harm */
	expect(&r, 1, 1, "lacks: avx sha_ni");
}

/* A text that is too long ends, and says so. */
static void test_many_features(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r);
	memset(&r.s->cpuid[1].eax, 0xff, 16);
	memset(&r.s->cpuid[2].eax, 0xff, 16);
	expect(&r, 1, 1, "lacks: sse3");
	assert_non_null(strstr(r.said.text[0], " ..."));
}

static void test_msrs(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r);
	r.s->msrs[1].index = 0xda0;
	r.s->msrs[2].index = 0x122;
	r.s->msrs[2].data = 3;
	r.s->msrs_len = 3 * sizeof(r.s->msrs[0]);
	expect(&r, 1, 1, "MSR IA32_TSX_CTRL = 0x3");
}

static void test_tsc(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r);
	r.h.tsc_khz = 2000499; /* within 250 ppm */
	expect(&r, 1, 0, NULL);
	rig_init(&r);
	r.h.tsc_khz = 2600000;
	expect(&r, 1, 1, "2000000 kHz, this host's at 2600000 kHz");
	rig_init(&r);
	r.h.tsc_khz = 2600000;
	r.h.tsc_scaling = true;
	expect(&r, 1, 0, NULL);
	rig_init(&r);
	r.h.tsc_khz = 0;
	expect(&r, 1, 0, NULL);
}

static void test_sizes(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r);
	r.s->xsave_len = 8192;
	expect(&r, 1, 1, "8192 bytes of vector state");
	rig_init(&r);
	expect(&r, 5, 1, "5 vCPUs, this host's KVM takes 4");
	/* lengths that no loader lets through do no harm */
	rig_init(&r);
	r.s->cpuid_len = UINT32_MAX;
	r.s->msrs_len = UINT32_MAX;
	r.h.nmsrs = 0;
	r.s->msrs[0].data = 0;
	expect(&r, 1, 0, NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_same),
		cmocka_unit_test(test_vendor),
		cmocka_unit_test(test_features),
		cmocka_unit_test(test_many_features),
		cmocka_unit_test(test_msrs),
		cmocka_unit_test(test_tsc),
		cmocka_unit_test(test_sizes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
