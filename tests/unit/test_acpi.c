/* The ACPI tables: byte by byte where it is easy, by the reference compiler
 * (iasl) for the rest; and the device behind them. */
#include "tests/unit/test.h"
#include "core/arch/x86/acpi.h"
#include "core/arch/x86/aml.h"
#include "core/device.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>

#define SIZE 16384

static uint8_t sum(const uint8_t *p, size_t n)
{
	unsigned s = 0;

	while (n--)
		s += *p++;
	return (uint8_t)s;
}

static uint32_t get32(const uint8_t *p)
{
	uint32_t v;

	memcpy(&v, p, sizeof(v));
	return v;
}

static uint64_t get64(const uint8_t *p)
{
	uint64_t v;

	memcpy(&v, p, sizeof(v));
	return v;
}

/* A table at a guest address, its checksum checked. */
static const uint8_t *table(
	const uint8_t *buf, uint64_t base, uint64_t addr, const char *signature)
{
	const uint8_t *t = buf + (addr - base);

	assert_true(addr > base && addr + 36 < base + SIZE);
	assert_memory_equal(t, signature, 4);
	assert_int_equal(sum(t, get32(t + 4)), 0);
	assert_int_equal(addr % 16, 0);
	return t;
}

static const struct acpi_layout two = {
	.ncpus = 2, .nwindows = 2, .window = {0, 17}};

static void test_tables(void **state)
{
	const uint64_t base = 0xe0000;
	const uint8_t *t, *x;
	uint8_t buf[SIZE];
	int n = acpi_build(&two, base, buf, sizeof(buf));

	(void)state;
	assert_true(n > 0);
	assert_memory_equal(buf, "RSD PTR ", 8);
	assert_int_equal(sum(buf, 20), 0);
	assert_int_equal(sum(buf, 36), 0);
	x = table(buf, base, get64(buf + 24), "XSDT");
	assert_int_equal(get32(x + 4), 36 + 2 * 8);
	t = table(buf, base, get64(x + 36), "FACP");
	assert_int_equal(get32(t + 4), 276);
	assert_true(get32(t + 112) & 1 << 20); /* hardware-reduced */
	assert_true(get64(t + 120) == 0x64);   /* reset register */
	assert_int_equal(t[128], 0xfe);
	assert_true(get64(t + 248) == ACPI_PORT_SLEEP);
	assert_true(get64(t + 140) == get32(t + 40));
	(void)table(buf, base, get64(t + 140), "DSDT");
	t = table(buf, base, get64(x + 44), "APIC");
	/* two processors, one IOAPIC, one NMI */
	assert_int_equal(get32(t + 4), 44 + 2 * 8 + 12 + 6);
	assert_int_equal(t[44 + 8 + 3], 1); /* APIC id of the second */
	assert_int_equal(get32(t + 44 + 16 + 4), 0xfec00000);
	/* every byte of room counts */
	assert_int_equal(acpi_build(&two, base, buf, (size_t)n), n);
	for (size_t size = 0; size < (size_t)n; size += 7)
		assert_int_equal(acpi_build(&two, base, buf, size), -ENOSPC);
}

static void test_all_devices(void **state)
{
	struct acpi_layout l = {.ncpus = 32, .nwindows = ACPI_MAX_WINDOWS};
	uint8_t buf[SIZE];

	(void)state;
	for (uint32_t i = 0; i < l.nwindows; i++)
		l.window[i] = i;
	assert_true(acpi_build(&l, ACPI_TABLES, buf, sizeof(buf)) > 0);
}

/* What iasl reads must be what was meant, without a complaint. */
static void test_iasl(void **state)
{
	char dir[] = "/tmp/thaw-acpi-XXXXXX", cmd[200], text[20000] = "";
	uint8_t buf[SIZE];
	const uint8_t *d;
	FILE *f;
	size_t n;

	(void)state;
	if (system("command -v iasl >/dev/null"))
		skip();
	assert_true(acpi_build(&two, ACPI_TABLES, buf, sizeof(buf)) > 0);
	d = memmem(buf, sizeof(buf), "DSDT", 4);
	assert_non_null(d);
	assert_non_null(mkdtemp(dir));
	(void)snprintf(cmd, sizeof(cmd), "%s/dsdt.aml", dir);
	f = fopen(cmd, "w");
	assert_non_null(f);
	assert_int_equal(fwrite(d, 1, get32(d + 4), f), get32(d + 4));
	assert_int_equal(fclose(f), 0);
	/* apart and together again */
	(void)snprintf(cmd, sizeof(cmd),
		"cd %s && iasl -d dsdt.aml >log 2>&1 && iasl dsdt.dsl >>log "
		"2>&1; cat log dsdt.dsl; cd / && rm -r %s",
		dir, dir);
	f = popen(cmd, "r");
	assert_non_null(f);
	n = fread(text, 1, sizeof(text) - 1, f);
	assert_true(n > 0);
	assert_int_equal(pclose(f), 0);
	if (!strstr(text, "Compilation successful. 0 Errors, 0 Warnings"))
		fail_msg("%s", text);
	assert_non_null(strstr(text, "\"LNRO0005\""));
	assert_non_null(strstr(text, "0xD0011000"));  /* window 17 */
	assert_non_null(strstr(text, "0x00000016,")); /* its interrupt */
	assert_non_null(strstr(text, "EisaId (\"PNP0501\")"));
	assert_non_null(strstr(text, "Notify (\\_SB.VGEN, 0x80)"));
	assert_non_null(strstr(text, "Name (_S5, Package"));
}

/* Lengths of one, two and three bytes (ACPI 6.4 20.2.4). */
static void test_pkg_length(void **state)
{
	static const struct {
		size_t content; /* behind the length and the name */
		uint8_t len[3];
	} cases[] = {
		{0, {5}},
		{58, {63}},
		{59, {0x41, 0x04}},
		{4089, {0x4f, 0xff}},
		{4090, {0x81, 0x00, 0x01}},
	};
	static uint8_t buf[8192], zero[4096];

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		struct aml a = {.buf = buf, .size = sizeof(buf)};
		size_t n = cases[i].len[0] >> 6;

		aml_scope(&a, "TEST");
		aml_raw(&a, zero, cases[i].content);
		aml_end(&a);
		assert_false(a.failed);
		assert_memory_equal(buf + 1, cases[i].len, n + 1);
		assert_memory_equal(buf + 2 + n, "TEST", 4);
		assert_int_equal(a.len, 1 + 1 + n + 4 + cases[i].content);
	}
}

static void test_aml_misuse(void **state)
{
	uint8_t buf[64];
	struct aml a = {.buf = buf, .size = sizeof(buf)};

	(void)state;
	aml_end(&a);
	assert_true(a.failed);
	a = (struct aml){.buf = buf, .size = sizeof(buf)};
	aml_path(&a, "LONGER");
	assert_true(a.failed);
	a = (struct aml){.buf = buf, .size = sizeof(buf)};
	for (int i = 0; i < AML_DEPTH + 1; i++)
		aml_method(&a, "M___", 0);
	assert_true(a.failed);
}

/* ---- the device ---- */

struct rig {
	struct machine m;
	struct device *d;
};

static void rig_make(struct rig *r)
{
	const struct machine_config cfg = {
		.memory = 4 * MIB, .cpus = 1, .acpi = 1};
	struct err e;

	assert_int_equal(machine_init(&r->m, &cfg, &e), 0);
	assert_int_equal(
		mem_create(&r->m.mem, cfg.memory, MEM_PRIVATE, -1, &e), 0);
	r->d = NULL;
	for (unsigned i = 0; i < r->m.ndevs; i++) {
		if (r->m.dev[i]->ops == &acpi_ops)
			r->d = r->m.dev[i];
	}
	assert_non_null(r->d);
}

static void out(struct rig *r, uint32_t bar, uint8_t v)
{
	acpi_ops.io(r->d, bar, 0, &v, 1, true);
}

static void test_ends(void **state)
{
	struct rig r;
	uint8_t v = 0xff;

	(void)state;
	rig_make(&r);
	acpi_ops.io(r.d, 2, 0, &v, 1, false);
	assert_int_equal(v, 0); /* ready for a command */
	out(&r, 2, 0xd1);
	out(&r, 1, 0xfe);          /* data, not a command */
	out(&r, 0, 5 << 2);        /* a type, but not "enable" */
	out(&r, 0, 0x20 | 3 << 2); /* a sleep nobody offered */
	assert_int_equal(r.m.end.kind, MACHINE_END_NONE);
	out(&r, 0, 0x20 | 5 << 2);
	assert_int_equal(r.m.end.kind, MACHINE_END_POWEROFF);
	machine_destroy(&r.m);
	rig_make(&r);
	acpi_ops.io(r.d, 3, 0, &v, 1, false);
	assert_int_equal(v, 3);
	out(&r, 3, 4); /* an event of a later version */
	assert_int_equal(r.m.end.kind, MACHINE_END_NONE);
	out(&r, 3, 1);
	assert_int_equal(r.m.end.kind, MACHINE_END_CRASH);
	machine_destroy(&r.m);
	rig_make(&r);
	out(&r, 2, 0xfe);
	assert_int_equal(r.m.end.kind, MACHINE_END_REBOOT);
	machine_destroy(&r.m);
}

static void test_generation(void **state)
{
	struct identity id = {.wall_ns = 1};
	uint8_t vmgenid[16], page[112], before[112];
	struct rig r;
	struct err e;

	(void)state;
	rig_make(&r);
	memcpy(id.generation, "0123456789abcdef", 16);
	assert_int_equal(machine_set_identity(&r.m, &id, &e), 0);
	assert_int_equal(mem_read(&r.m.mem, ACPI_VMGENID, vmgenid, 16), 0);
	assert_memory_equal(vmgenid, id.generation, 16);
	assert_int_equal(mem_read(&r.m.mem, ACPI_VMCLOCK, before, 112), 0);
	assert_memory_equal(before, "VCLK", 4);
	assert_int_equal(get32(before + 12) % 2, 0);
	/* the next one: everything that tells them apart has changed */
	memcpy(id.generation, "ABCDEFGHIJKLMNOP", 16);
	assert_int_equal(machine_set_identity(&r.m, &id, &e), 0);
	assert_int_equal(mem_read(&r.m.mem, ACPI_VMCLOCK, page, 112), 0);
	assert_int_equal(get32(page + 12), get32(before + 12) + 2);
	assert_true(get64(page + 16) != get64(before + 16));
	assert_true(get64(page + 104) != get64(before + 104));
	assert_true(get64(page + 24) & 1 << 8);
	machine_destroy(&r.m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_tables),
		cmocka_unit_test(test_all_devices),
		cmocka_unit_test(test_iasl),
		cmocka_unit_test(test_pkg_length),
		cmocka_unit_test(test_aml_misuse),
		cmocka_unit_test(test_ends),
		cmocka_unit_test(test_generation),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
