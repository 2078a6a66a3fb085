/*
 * Cold boot of a kernel: Linux' 64-bit boot protocol
 * (Documentation/arch/x86/boot.rst) or PVH (Xen's docs/misc/pvh.pandoc).
 * What stands where in low memory: boot.h.
 */
#include "core/arch/x86/boot.h"
#include "core/arch.h"
#include "core/arch/x86/acpi.h"
#include "core/arch/x86/vcpu_state.h"

#include <errno.h>
#include <string.h>

/* SDM 3A 2.5, 2.2.1 */
#define CR0_PE   1ULL
#define CR0_ET   (1ULL << 4)
#define CR0_NE   (1ULL << 5)
#define CR0_PG   (1ULL << 31)
#define CR4_PAE  (1ULL << 5)
#define EFER_LME (1ULL << 8)
#define EFER_LMA (1ULL << 10)

/* SDM 3A 12.11.2.1: MTRRs on, default write-back */
#define MTRR_ON_WB 0x806
/* SDM 4: fast strings; as after a BIOS */
#define MISC_FAST_STRING 1

extern const unsigned char guest_builtin_start[], guest_builtin_end[];

static struct kvm_segment segment(uint16_t sel, uint8_t type, bool code)
{
	return (struct kvm_segment){
		.limit = 0xffffffff,
		.selector = sel,
		.type = type,
		.present = 1,
		.db = !code,
		.s = 1,
		.l = code,
		.g = 1,
	};
}

static void add_msr(struct vcpu_state *s, uint32_t index, uint64_t value)
{
	struct kvm_msr_entry *m =
		&s->msrs[s->msrs_len / (uint32_t)sizeof(s->msrs[0])];

	m->index = index;
	m->data = value;
	s->msrs_len += (uint32_t)sizeof(*m);
}

static void boot_segments(struct kvm_sregs *r, bool code64)
{
	r->cs = segment(BOOT_CODE_SEL, 11, code64);
	r->ds = r->es = r->fs = r->gs = r->ss =
		segment(BOOT_DATA_SEL, 3, false);
	r->gdt.base = BOOT_GDT;
	r->gdt.limit = BOOT_GDT_SIZE - 1;
	r->idt.base = 0;
	r->idt.limit = 0;
}

static void boot_linux64(struct vcpu_state *s, uint64_t entry)
{
	struct kvm_sregs *r = &s->sregs;

	s->regs.rip = entry;
	s->regs.rsp = BOOT_STACK_TOP;
	s->regs.rbp = BOOT_STACK_TOP;
	s->regs.rsi = BOOT_ZEROPAGE;
	boot_segments(r, true);
	r->cr0 = CR0_PE | CR0_ET | CR0_NE | CR0_PG;
	r->cr3 = BOOT_PML4;
	r->cr4 = CR4_PAE;
	r->efer = EFER_LME | EFER_LMA;
}

/* 32-bit protected mode without paging, flat segments, a TSS of 0x67. */
static void boot_pvh(struct vcpu_state *s, uint64_t entry)
{
	struct kvm_sregs *r = &s->sregs;

	s->regs.rip = entry;
	s->regs.rbx = BOOT_PVH_INFO;
	boot_segments(r, false);
	r->tr = (struct kvm_segment){.limit = 0x67,
		.selector = BOOT_TSS_SEL,
		.type = 11,
		.present = 1};
	r->cr0 = CR0_PE | CR0_ET;
}

static int open_kernel(int fd, struct image_src *src, struct err *e)
{
	if (fd >= 0)
		return image_open(fd, src, e);
	*src = (struct image_src){.buf = guest_builtin_start,
		.fd = -1,
		.size = (uint64_t)(guest_builtin_end - guest_builtin_start)};
	return 0;
}

int arch_probe_kernel(int fd, struct machine_config *cfg, struct err *e)
{
	struct image_src src;
	struct image img = {0};
	int r = image_open(fd, &src, e);

	if (!r)
		r = image_probe(&src, &img, e);
	cfg->acpi = !r && img.general;
	return r;
}

/* Everything that the kernel finds in memory. */
static int fill_memory(struct machine *m, int kernel, int initrd,
	struct image *img, struct err *e)
{
	char line[MACHINE_CMDLINE_MAX];
	struct boot_info b = {0};
	struct image_src src;
	int r = open_kernel(kernel, &src, e);

	if (!r)
		r = image_load(&m->mem, &src, BOOT_LOW_END, &b.img, e);
	if (!r)
		r = boot_cmdline(m, &b.img, line, sizeof(line), e);
	if (!r && initrd >= 0)
		r = boot_load_initrd(&m->mem, initrd, &b, e);
	if (!r)
		r = boot_write_tables(&m->mem, e);
	if (!r && m->cfg.acpi)
		r = acpi_write(m, &b.rsdp, e);
	if (r < 0)
		return r;
	b.cmdline_len = (uint32_t)strlen(line);
	if (mem_write(&m->mem, BOOT_CMDLINE, line, b.cmdline_len + 1) < 0)
		return err_set(e, -EINVAL, "no memory for the command line");
	*img = b.img;
	return boot_write_info(&m->mem, &b, e);
}

int arch_boot(struct machine *m, int kernel_fd, int initrd_fd, struct err *e)
{
	struct image img = {0};
	int r = fill_memory(m, kernel_fd, initrd_fd, &img, e);

	if (r < 0)
		return r;
	for (unsigned i = 0; i < m->ncpus; i++) {
		struct vcpu_state *s = m->cpu[i]->s;

		vcpu_state_reset(s, i);
		add_msr(s, MSR_MTRR_DEF_TYPE, MTRR_ON_WB);
		add_msr(s, MSR_MISC_ENABLE, MISC_FAST_STRING);
		/* Without a BIOS nobody else sets it: NMI on LINT1. */
		if (!m->cfg.builtin)
			lapic_write(&s->lapic, LAPIC_LVT1, 0x400);
	}
	if (img.how == IMAGE_PVH)
		boot_pvh(m->cpu[0]->s, img.entry);
	else
		boot_linux64(m->cpu[0]->s, img.entry);
	return 0;
}
