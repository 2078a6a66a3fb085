/* Registers and MSRs by name, from sections that are whole and that are not. */
#include "tests/unit/test.h"
#include "core/arch.h"
#include "core/arch/x86/msr_name.h"
#include "core/arch/x86/vcpu_state.h"

#include <stdlib.h>
#include <string.h>

static uint64_t number(const msgpack_object *o, const char *a, const char *b)
{
	o = mp_get(o, a);
	o = o && b ? mp_get(o, b) : o;
	if (!o || o->type != MSGPACK_OBJECT_POSITIVE_INTEGER)
		fail_msg("no number %s.%s", a, b ? b : "");
	return o->via.u64;
}

/* What is said about a saved vCPU. */
static void describe(
	const void *buf, size_t n, msgpack_sbuffer *out, msgpack_unpacked *said)
{
	msgpack_unpacked map;
	msgpack_packer p;

	assert_int_equal(mp_unpack(buf, n, &mp_default_limits, &map, NULL), 0);
	msgpack_sbuffer_init(out);
	msgpack_packer_init(&p, out, msgpack_sbuffer_write);
	arch_vcpu_describe(&map.data, &p);
	assert_int_equal(
		mp_unpack(out->data, out->size, &mp_default_limits, said, NULL),
		0);
	msgpack_unpacked_destroy(&map);
}

static void test_whole(void **state)
{
	struct vcpu_state *s = arch_vcpu_state_create();
	msgpack_sbuffer saved, out;
	msgpack_unpacked said;
	const msgpack_object *o;

	(void)state;
	assert_non_null(s);
	vcpu_state_reset(s, 0);
	s->regs.rip = 0xfff0;
	s->regs.r15 = UINT64_MAX;
	s->sregs.cr3 = 0x5000;
	s->sregs.cs.selector = 0x10;
	s->sregs.cr0 = 0x80000011;
	s->sregs.efer = 0xd01;
	s->sregs.cs.l = 1;
	s->msrs[0].index = 0xc0000082;
	s->msrs[0].data = 0xffffffff81000000;
	s->msrs[1].index = 0x12345;
	s->msrs_len = 2 * sizeof(s->msrs[0]);
	msgpack_sbuffer_init(&saved);
	assert_int_equal(st_save(&vcpu_state_desc, s, &saved), 0);
	describe(saved.data, saved.size, &out, &said);
	o = &said.data;
	assert_int_equal(number(o, "general", "rip"), 0xfff0);
	assert_int_equal(number(o, "general", "r15"), UINT64_MAX);
	assert_int_equal(number(o, "control", "cr3"), 0x5000);
	assert_int_equal(number(mp_get(o, "segments"), "cs", "selector"), 0x10);
	assert_int_equal(number(o, "msrs", "IA32_LSTAR"), 0xffffffff81000000);
	assert_int_equal(number(o, "msrs", "0x12345"), 0);
	assert_true(mp_str_eq(mp_get(o, "mode"), "64-bit"));
	assert_true(mp_str_eq(mp_get(o, "state"), "runnable"));
	msgpack_unpacked_destroy(&said);
	msgpack_sbuffer_destroy(&out);
	msgpack_sbuffer_destroy(&saved);
	free(s);
}

/* Fields that are missing, short, or of another type are left out. */
static void test_broken(void **state)
{
	static const char *const maps[] = {
		"\x80",
		"\x81\xa4regs\xc4\x03"
		"abc",
		"\x82\xa5sregs\x07\xa4msrs\xa3"
		"abc",
		"\x81\xa4msrs\xc4\x05"
		"abcde",
		"\x81\xa8mp_state\xcd\xff\xff",
	};

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(maps); i++) {
		msgpack_sbuffer out;
		msgpack_unpacked said;

		describe(maps[i], strlen(maps[i]), &out, &said);
		assert_null(mp_get(&said.data, "general"));
		assert_int_equal(mp_get(&said.data, "msrs")->via.map.size, 0);
		msgpack_unpacked_destroy(&said);
		msgpack_sbuffer_destroy(&out);
	}
}

static void test_names(void **state)
{
	static const struct {
		uint32_t index;
		const char *name;
	} known[] = {
		{0x10, "IA32_TIME_STAMP_COUNTER"},
		{0x174, "IA32_SYSENTER_CS"},
		{0x200, "IA32_MTRR_PHYSBASE0"},
		{0x203, "IA32_MTRR_PHYSMASK1"},
		{0x277, "IA32_PAT"},
		{0x401, "IA32_MC0_STATUS"},
		{0x406, "IA32_MC1_ADDR"},
		{0x4b564d01, "MSR_KVM_SYSTEM_TIME_NEW"},
		{0xc0000102, "IA32_KERNEL_GS_BASE"},
		{0xc0011029, "MSR_AMD64_DE_CFG"},
		{0, "0x0"},
		{0xffffffff, "0xffffffff"},
	};
	char name[MSR_NAME_MAX];

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(known); i++)
		assert_string_equal(
			msr_name(known[i].index, name), known[i].name);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_whole),
		cmocka_unit_test(test_broken),
		cmocka_unit_test(test_names),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
