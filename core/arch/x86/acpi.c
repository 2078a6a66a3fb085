/*
 * ACPI tables: RSDP -> XSDT -> FADT (hardware-reduced), MADT; FADT -> DSDT.
 * They are made when a machine boots, since its devices are known only then,
 * and after that are just memory. Sections are those of ACPI 6.4.
 */
#include "core/arch/x86/acpi.h"

#include "core/arch/x86/aml.h"
#include "core/arch/x86/ioapic.h"
#include "core/virtio.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define LAPIC_ADDR 0xfee00000

/* 5.2.6 */
struct header {
	char signature[4];
	uint32_t length;
	uint8_t revision, checksum;
	char oem_id[6], oem_table_id[8];
	uint32_t oem_revision;
	char creator_id[4];
	uint32_t creator_revision;
} __attribute__((packed));

/* 5.2.5.3 */
struct rsdp {
	char signature[8];
	uint8_t checksum;
	char oem_id[6];
	uint8_t revision;
	uint32_t rsdt, length;
	uint64_t xsdt;
	uint8_t extended_checksum, reserved[3];
} __attribute__((packed));
_Static_assert(sizeof(struct rsdp) == 36, "table 5.3");

/* 5.2.3.2; space 1: ports */
struct gas {
	uint8_t space, bits, offset, access;
	uint64_t addr;
} __attribute__((packed));

/* 5.2.9. What is not named is for hardware that is not there. */
struct fadt {
	struct header h;
	uint32_t facs, dsdt;
	uint8_t fixed_hardware[65]; /* offsets 44 to 108 */
	uint16_t boot_arch;
	uint8_t reserved;
	uint32_t flags;
	struct gas reset;
	uint8_t reset_value;
	uint16_t arm_boot_arch;
	uint8_t minor;
	uint64_t x_facs, x_dsdt;
	struct gas x_fixed_hardware[8];
	struct gas sleep_control, sleep_status;
	char hypervisor[8];
} __attribute__((packed));
_Static_assert(sizeof(struct fadt) == 276, "table 5.9");

#define BOOT_NO_VGA (1 << 2)
#define BOOT_NO_RTC (1 << 5)

#define FADT_WBINVD       (1U << 0)
#define FADT_NO_POWER_BTN (1U << 4)
#define FADT_NO_SLEEP_BTN (1U << 5)
#define FADT_RESET        (1U << 10)
#define FADT_HEADLESS     (1U << 12)
#define FADT_HW_REDUCED   (1U << 20)

/* The keyboard controller's "pulse the reset line". */
#define RESET_COMMAND 0xfe

/* 5.2.12 */
struct madt {
	struct header h;
	uint32_t lapic, flags;
} __attribute__((packed));
struct madt_cpu {
	uint8_t type, length, uid, apic_id;
	uint32_t flags;
} __attribute__((packed));
struct madt_ioapic {
	uint8_t type, length, id, reserved;
	uint32_t addr, gsi_base;
} __attribute__((packed));
struct madt_nmi {
	uint8_t type, length, uid;
	uint16_t flags;
	uint8_t lint;
} __attribute__((packed));

struct out {
	uint8_t *buf;
	size_t size, len;
	uint64_t base;
	bool full;
};

static uint8_t checksum(const void *p, size_t n)
{
	const uint8_t *b = p;
	uint8_t sum = 0;

	while (n--)
		sum = (uint8_t)(sum + *b++);
	return (uint8_t)-sum;
}

static struct header header(const char *signature, uint8_t revision)
{
	struct header h = {.revision = revision,
		.oem_id = {'T', 'H', 'A', 'W', ' ', ' '},
		.oem_table_id = {'T', 'H', 'A', 'W', 'V', 'M', ' ', ' '},
		.oem_revision = 1,
		.creator_id = {'T', 'H', 'A', 'W'},
		.creator_revision = 1};

	memcpy(h.signature, signature, sizeof(h.signature));
	return h;
}

/* Append what a table consists of; returns where it begins. */
static size_t put(struct out *o, const void *p, size_t n)
{
	size_t at = o->len;

	if (o->full || n > o->size - o->len) {
		o->full = true;
		return 0;
	}
	memcpy(o->buf + at, p, n);
	o->len += n;
	return at;
}

/* Tables begin at multiples of 16. */
static void align(struct out *o)
{
	static const uint8_t zero[16];

	(void)put(o, zero, -o->len & 15);
}

/* The table that begins at at is complete: length and checksum. */
static uint64_t finish(struct out *o, size_t at)
{
	uint32_t length = (uint32_t)(o->len - at);
	uint64_t addr = o->base + at;

	if (o->full)
		return 0;
	memcpy(o->buf + at + offsetof(struct header, length), &length, 4);
	o->buf[at + offsetof(struct header, checksum)] =
		checksum(o->buf + at, length);
	align(o);
	return addr;
}

static void dsdt_serial(struct aml *a)
{
	uint8_t res[AML_RES_MAX];
	size_t n = aml_res_io(res, 0, SERIAL_PORT, 8);

	n = aml_res_irq(res, n, SERIAL_GSI);
	aml_device(a, "COM1");
	aml_name_eisa(a, "_HID", "PNP0501");
	aml_name_int(a, "_UID", 1);
	aml_name_res(a, "_CRS", res, n);
	aml_end(a);
}

/* Linux' pvpanic driver knows this id. */
static void dsdt_panic(struct aml *a)
{
	uint8_t res[AML_RES_MAX];
	size_t n = aml_res_io(res, 0, ACPI_PORT_PANIC, 1);

	aml_device(a, "PNIC");
	aml_name_str(a, "_HID", "QEMU0001");
	aml_name_res(a, "_CRS", res, n);
	aml_end(a);
}

/* "LNRO0005" is what Linux' virtio_mmio driver goes by; _CCA: DMA is coherent
 * (6.2.17). */
static void dsdt_virtio(struct aml *a, uint32_t window)
{
	uint8_t res[AML_RES_MAX];
	size_t n = aml_res_memory(res, 0,
		(uint32_t)(VMMIO_BASE + window * VMMIO_SIZE),
		(uint32_t)VMMIO_SIZE);
	char name[8];

	(void)snprintf(name, sizeof(name), "VR%02u", window % 100);
	n = aml_res_irq(res, n, VMMIO_GSI_BASE + window);
	aml_device(a, name);
	aml_name_str(a, "_HID", "LNRO0005");
	aml_name_int(a, "_UID", window);
	aml_name_int(a, "_CCA", 1);
	aml_name_res(a, "_CRS", res, n);
	aml_end(a);
}

static void dsdt_generation(struct aml *a)
{
	uint8_t res[AML_RES_MAX];
	size_t n = aml_res_memory(res, 0, ACPI_VMCLOCK, PAGE_SIZE_4K);

	aml_device(a, "VGEN");
	/* The specification's id is none by ACPI's rules; the second is what
	 * its authors added for that reason. Drivers know one or both. */
	aml_name_str(a, "_HID", "THAW0001");
	aml_package(a, "_CID", 2);
	aml_str(a, "VM_Gen_Counter");
	aml_str(a, "VMGENCTR");
	aml_end(a);
	aml_name_str(a, "_DDN", "VM_Gen_Counter");
	aml_package(a, "ADDR", 2);
	aml_int(a, ACPI_VMGENID);
	aml_int(a, 0);
	aml_end(a);
	aml_end(a);
	aml_device(a, "VCLK");
	aml_name_str(a, "_HID", "AMZNC10C");
	aml_name_str(a, "_CID", "VMCLOCK");
	aml_name_str(a, "_DDN", "VMCLOCK");
	aml_name_res(a, "_CRS", res, n);
	aml_end(a);
	n = aml_res_irq(res, 0, ACPI_GED_GSI);
	aml_device(a, "GED_");
	aml_name_str(a, "_HID", "ACPI0013");
	aml_name_res(a, "_CRS", res, n);
	aml_method(a, "_EVT", 1);
	aml_if_arg0(a, ACPI_GED_GSI);
	aml_notify(a, "\\_SB_.VGEN", 0x80);
	aml_notify(a, "\\_SB_.VCLK", 0x80);
	aml_end(a);
	aml_end(a);
	aml_end(a);
}

static uint64_t dsdt(struct out *o, const struct acpi_layout *l)
{
	struct header h = header("DSDT", 2);
	size_t at = put(o, &h, sizeof(h));
	struct aml a = {
		.buf = o->buf + o->len,
		.size = o->size - o->len,
		.failed = o->full,
	};

	aml_scope(&a, "\\_SB_");
	dsdt_serial(&a);
	dsdt_panic(&a);
	for (uint32_t i = 0; i < l->nwindows; i++)
		dsdt_virtio(&a, l->window[i]);
	dsdt_generation(&a);
	aml_end(&a);
	/* 7.4.2: SLP_TYP of soft off, for both registers it may be in. */
	aml_package(&a, "_S5_", 4);
	aml_int(&a, ACPI_SLEEP_S5);
	aml_int(&a, 0);
	aml_int(&a, 0);
	aml_int(&a, 0);
	aml_end(&a);
	o->full = o->full || a.failed;
	o->len += a.failed ? 0 : a.len;
	return finish(o, at);
}

static struct gas port(uint16_t addr)
{
	return (struct gas){.space = 1, .bits = 8, .access = 1, .addr = addr};
}

static uint64_t fadt(struct out *o, uint64_t dsdt_addr)
{
	struct fadt t = {
		.h = header("FACP", 6),
		.dsdt = (uint32_t)dsdt_addr,
		.x_dsdt = dsdt_addr,
		.boot_arch = BOOT_NO_VGA | BOOT_NO_RTC,
		.flags = FADT_WBINVD | FADT_NO_POWER_BTN | FADT_NO_SLEEP_BTN |
			 FADT_RESET | FADT_HEADLESS | FADT_HW_REDUCED,
		.reset = port(ACPI_PORT_8042),
		.reset_value = RESET_COMMAND,
		.minor = 4,
		.sleep_control = port(ACPI_PORT_SLEEP),
		.sleep_status = port(ACPI_PORT_SLEEP + 1),
		.hypervisor = {'T', 'H', 'A', 'W'},
	};

	return finish(o, put(o, &t, sizeof(t)));
}

static uint64_t madt(struct out *o, uint32_t ncpus)
{
	struct madt t = {.h = header("APIC", 5), .lapic = LAPIC_ADDR};
	const struct madt_ioapic ioapic = {
		.type = 1, .length = sizeof(ioapic), .addr = IOAPIC_BASE};
	/* NMI on LINT1 of all of them */
	const struct madt_nmi nmi = {
		.type = 4, .length = sizeof(nmi), .uid = 0xff, .lint = 1};
	size_t at = put(o, &t, sizeof(t));

	for (uint32_t i = 0; i < ncpus; i++) {
		const struct madt_cpu cpu = {.length = sizeof(cpu),
			.uid = (uint8_t)i,
			.apic_id = (uint8_t)i,
			.flags = 1};

		(void)put(o, &cpu, sizeof(cpu));
	}
	(void)put(o, &ioapic, sizeof(ioapic));
	(void)put(o, &nmi, sizeof(nmi));
	return finish(o, at);
}

static uint64_t xsdt(struct out *o, uint64_t fadt_addr, uint64_t madt_addr)
{
	struct header h = header("XSDT", 1);
	size_t at = put(o, &h, sizeof(h));

	(void)put(o, &fadt_addr, sizeof(fadt_addr));
	(void)put(o, &madt_addr, sizeof(madt_addr));
	return finish(o, at);
}

int acpi_build(
	const struct acpi_layout *l, uint64_t base, uint8_t *buf, size_t size)
{
	struct out o = {.buf = buf, .size = size, .base = base};
	struct rsdp r = {
		.signature = {'R', 'S', 'D', ' ', 'P', 'T', 'R', ' '},
		.oem_id = {'T', 'H', 'A', 'W', ' ', ' '},
		.revision = 2,
		.length = sizeof(r),
	};
	uint64_t d, f, m;

	(void)put(&o, &r, sizeof(r));
	align(&o);
	d = dsdt(&o, l);
	f = fadt(&o, d);
	m = madt(&o, l->ncpus);
	r.xsdt = xsdt(&o, f, m);
	if (o.full)
		return -ENOSPC;
	r.checksum = checksum(&r, 20); /* those of ACPI 1.0 */
	r.extended_checksum = checksum(&r, sizeof(r));
	memcpy(buf, &r, sizeof(r));
	return (int)o.len;
}

int acpi_write(struct machine *m, uint64_t *rsdp, struct err *e)
{
	struct acpi_layout l = {.ncpus = m->ncpus};
	uint8_t *p = mem_at(&m->mem, ACPI_TABLES, ACPI_SIZE_MAX, MEM_WRITE);
	int r;

	if (!p)
		return err_set(e, -EINVAL, "no memory for the ACPI tables");
	for (unsigned i = 0; i < m->ndevs && l.nwindows < ACPI_MAX_WINDOWS;
		i++) {
		if (m->dev[i]->window)
			l.window[l.nwindows++] = m->dev[i]->window - 1;
	}
	r = acpi_build(&l, ACPI_TABLES, p, ACPI_SIZE_MAX);
	if (r < 0)
		return err_set(e, r, "the ACPI tables do not fit");
	*rsdp = ACPI_TABLES;
	return 0;
}
