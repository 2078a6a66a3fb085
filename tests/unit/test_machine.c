/* Configuration and state checks, opening KVM, and booting into memory: all
 * that needs no KVM. */
#include "tests/unit/test.h"
#include "core/arch/x86/vcpu_state.h"
#include "core/kvm.h"
#include "core/machine.h"

#include <asm/bootparam.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

static struct machine_config good(void)
{
	return (struct machine_config){
		.memory = 4 * MIB, .cpus = 1, .vsock_cid = 3};
}

static void refused(const struct machine_config *cfg, const char *field)
{
	struct machine m;
	struct err e = {0};

	assert_int_equal(machine_init(&m, cfg, &e), -EINVAL);
	if (strncmp(e.msg, field, strlen(field)) != 0)
		fail_msg("\"%s\" does not name \"%s\"", e.msg, field);
}

static void test_config(void **state)
{
	struct machine_config c = good();
	struct machine m;
	struct err e;

	(void)state;
	assert_int_equal(machine_init(&m, &c, &e), 0);
	assert_int_equal(m.ncpus, 1);
	assert_non_null(m.vsock);
	machine_destroy(&m);
	c.memory = 0;
	refused(&c, "memory");
	c.memory = 5 * MIB;
	refused(&c, "memory");
	c.memory = 2 * MIB;
	refused(&c, "memory");
	c.memory = MEM_MAX + 2 * MIB;
	refused(&c, "memory");
	c = good();
	c.cpus = 0;
	refused(&c, "cpus");
	c.cpus = MACHINE_MAX_CPUS + 1;
	refused(&c, "cpus");
	c = good();
	c.vsock_cid = 2;
	refused(&c, "vsock_cid");
	c.vsock_cid = ~0U;
	refused(&c, "vsock_cid");
	c = good();
	c.builtin = 2;
	refused(&c, "builtin");
	c = good();
	c.reserved = 1;
	refused(&c, "reserved");
	c = good();
	memset(c.kernel, 'k', sizeof(c.kernel));
	refused(&c, "kernel");
	c = good();
	memset(c.cmdline, 'c', sizeof(c.cmdline));
	refused(&c, "cmdline");
}

static void test_state_names(void **state)
{
	(void)state;
	for (unsigned i = 0; i < MACHINE_NSTATES_; i++)
		assert_non_null(machine_state_name((enum machine_state)i));
	assert_string_equal(machine_state_name(MACHINE_NSTATES_), "unknown");
	assert_string_equal(kvm_kind_name(KVM_NKINDS_), "unknown");
}

static void bad_vcpu(const struct vcpu_state *s, const char *field)
{
	struct err e = {0};

	assert_int_equal(vcpu_state_desc.check(s, &e), -EBADMSG);
	if (strncmp(e.msg, field, strlen(field)) != 0)
		fail_msg("\"%s\" does not name \"%s\"", e.msg, field);
}

static void test_vcpu_check(void **state)
{
	struct vcpu_state *s = calloc(1, sizeof(*s));
	struct err e;

	(void)state;
	assert_non_null(s);
	for (uint32_t id = 0; id < 2; id++) {
		vcpu_state_reset(s, id);
		assert_int_equal(vcpu_state_desc.check(s, &e), 0);
	}
	s->cpuid_len = 41;
	bad_vcpu(s, "cpuid");
	s->cpuid_len = sizeof(s->cpuid) + sizeof(s->cpuid[0]);
	bad_vcpu(s, "cpuid");
	vcpu_state_reset(s, 0);
	s->msrs_len = 15;
	bad_vcpu(s, "msrs");
	vcpu_state_reset(s, 0);
	s->xsave_len = VCPU_XSAVE_MIN - 1;
	bad_vcpu(s, "xsave");
	s->xsave_len = VCPU_XSAVE_MAX + 1;
	bad_vcpu(s, "xsave");
	vcpu_state_reset(s, 0);
	s->xcrs.nr_xcrs = 17;
	bad_vcpu(s, "xcrs");
	vcpu_state_reset(s, 0);
	s->mp_state = 9;
	bad_vcpu(s, "mp_state");
	vcpu_state_reset(s, 0);
	s->tsc_khz = ~0U;
	bad_vcpu(s, "tsc_khz");
	vcpu_state_reset(s, 0);
	s->reserved[2] = 1;
	bad_vcpu(s, "reserved");
	free(s);
}

static void no_kvm(const char *path, int code, const char *text)
{
	struct kvm_host h;
	struct err e = {0};

	assert_int_equal(kvm_open(path, &h, &e), code);
	if (!strstr(e.msg, text))
		fail_msg("\"%s\" does not say \"%s\"", e.msg, text);
	assert_int_equal(h.fd, code == -EOPNOTSUPP ? -1 : h.fd);
	kvm_close(&h);
}

static void test_kvm_open(void **state)
{
	(void)state;
	no_kvm("/dev/does-not-exist", -ENOENT, "does not exist");
	no_kvm("/dev/null", -EOPNOTSUPP, "is not KVM");
}

#define ZEROPAGE 0x7000
#define CMDLINE  0x20000

static void boot(struct machine *m, const struct machine_config *cfg, int want,
	struct err *e)
{
	assert_int_equal(machine_init(m, cfg, e), 0);
	assert_int_equal(
		mem_create(&m->mem, cfg->memory, MEM_PRIVATE, -1, e), 0);
	assert_int_equal(machine_boot(m, -1, -1, e), want);
}

/* The built-in guest in memory, the zero page and the command line. */
static void test_boot(void **state)
{
	struct machine_config cfg = good();
	struct boot_params bp;
	struct machine m;
	struct err e;
	char line[200];
	uint64_t end = 0;

	(void)state;
	cfg.memory = 3 * GIB + 64 * MIB;
	cfg.builtin = 1;
	(void)snprintf(cfg.cmdline, sizeof(cfg.cmdline), "a=b");
	boot(&m, &cfg, 0, &e);
	assert_int_equal(mem_read(&m.mem, ZEROPAGE, &bp, sizeof(bp)), 0);
	assert_int_equal(bp.hdr.cmd_line_ptr, CMDLINE);
	assert_int_equal(bp.e820_entries, 4);
	for (unsigned i = 0; i < 4; i++) {
		/* in order, nothing twice, the identity page reserved */
		assert_true(bp.e820_table[i].addr >= end);
		end = bp.e820_table[i].addr + bp.e820_table[i].size;
		if (bp.e820_table[i].addr <= IDENT_GPA && IDENT_GPA < end)
			assert_int_equal(bp.e820_table[i].type, 2);
	}
	assert_true(bp.e820_table[2].addr + bp.e820_table[2].size ==
		    MEM_HOLE_START);
	assert_true(bp.e820_table[3].addr == MEM_HOLE_END);
	assert_true(end == MEM_HOLE_END + 64 * MIB);
	assert_int_equal(mem_read(&m.mem, CMDLINE, line, sizeof(line)), 0);
	assert_string_equal(line,
		"a=b thaw.ident=0x9e000 virtio_mmio.device=4K@0xd0000000:5");
	assert_true(m.cpu[0]->s->regs.rsi == ZEROPAGE);
	assert_true(m.cpu[0]->s->sregs.cs.l == 1);
	machine_destroy(&m);
}

static void test_boot_cmdline_long(void **state)
{
	struct machine_config cfg = good();
	struct machine m;
	struct err e;

	(void)state;
	memset(cfg.cmdline, 'x', sizeof(cfg.cmdline) - 1);
	boot(&m, &cfg, -EINVAL, &e);
	assert_int_equal(strncmp(e.msg, "cmdline", 7), 0);
	machine_destroy(&m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_config),
		cmocka_unit_test(test_state_names),
		cmocka_unit_test(test_vcpu_check),
		cmocka_unit_test(test_kvm_open),
		cmocka_unit_test(test_boot),
		cmocka_unit_test(test_boot_cmdline_long),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
