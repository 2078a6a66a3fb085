/*
 * Cold boot: Linux 64-bit boot protocol (Documentation/arch/x86/boot.rst,
 * "64-bit Boot Protocol") for ELF kernels.
 *
 * Low memory, all below the reserved identity page:
 *
 *   0x500    GDT: null, null, code 0x10, data 0x18 (the protocol's selectors)
 *   0x7000   boot_params, the "zero page"; RSI points here
 *   0x8000   end of a first stack
 *   0x9000   page tables: PML4, PDPT, four page directories: 4 GiB identity
 *   0x20000  command line
 *   0x9e000  identity page (core/guest/abi.h)
 *   1 MiB    from here the kernel may be loaded
 */
#include "core/arch.h"
#include "core/arch/x86/elf.h"
#include "core/arch/x86/vcpu_state.h"
#include "core/virtio.h"

#include <asm/bootparam.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#define GDT_ADDR     0x500
#define ZEROPAGE     0x7000
#define STACK_TOP    0x8ff0
#define PML4_ADDR    0x9000
#define PDPT_ADDR    0xa000
#define PD_ADDR      0xb000
#define NPD          4
#define CMDLINE_ADDR 0x20000
#define HIGH_START   0x100000
/* COMMAND_LINE_SIZE of Linux on x86, with the final NUL */
#define CMDLINE_SIZE 2048

#define E820_RAM      1
#define E820_RESERVED 2

/* GDT entries: type and s, l or db, granularity; base 0, limit 4 GiB. */
#define GDT_CODE64 0x00af9b000000ffffULL
#define GDT_DATA   0x00cf93000000ffffULL
#define CODE_SEL   0x10
#define DATA_SEL   0x18

/* SDM 3A 2.5, 2.2.1 */
#define CR0_PE   1ULL
#define CR0_ET   (1ULL << 4)
#define CR0_NE   (1ULL << 5)
#define CR0_PG   (1ULL << 31)
#define CR4_PAE  (1ULL << 5)
#define EFER_LME (1ULL << 8)
#define EFER_LMA (1ULL << 10)

/* SDM 3A 4.5: present, writable; a 2 MiB page */
#define PT_TABLE 0x3ULL
#define PT_LARGE 0x83ULL

/* SDM 3A 12.11.2.1: MTRRs on, default write-back */
#define MTRR_ON_WB 0x806
/* SDM 4: fast strings; as after a BIOS */
#define MISC_FAST_STRING 1

extern const unsigned char guest_builtin_start[], guest_builtin_end[];

static int no_room(struct err *e)
{
	return err_set(e, -EINVAL, "no memory for the boot data");
}

static int write_tables(const struct mem *mem, struct err *e)
{
	static const uint64_t gdt[] = {0, 0, GDT_CODE64, GDT_DATA};
	uint64_t *pml4 = mem_at(mem, PML4_ADDR, 4096, MEM_WRITE);
	uint64_t *pdpt = mem_at(mem, PDPT_ADDR, 4096, MEM_WRITE);
	uint64_t *pd = mem_at(mem, PD_ADDR, NPD * 4096, MEM_WRITE);

	if (!pml4 || !pdpt || !pd ||
		mem_write(mem, GDT_ADDR, gdt, sizeof(gdt)) < 0)
		return no_room(e);
	pml4[0] = PDPT_ADDR | PT_TABLE;
	for (uint64_t i = 0; i < NPD; i++)
		pdpt[i] = (PD_ADDR + i * 4096) | PT_TABLE;
	for (uint64_t i = 0; i < NPD * 512ULL; i++)
		pd[i] = i << 21 | PT_LARGE;
	return 0;
}

static void e820_add(
	struct boot_params *bp, uint64_t start, uint64_t end, uint32_t type)
{
	struct boot_e820_entry *t;

	if (start >= end || bp->e820_entries >= E820_MAX_ENTRIES_ZEROPAGE)
		return;
	t = &bp->e820_table[bp->e820_entries++];
	t->addr = start;
	t->size = end - start;
	t->type = type;
}

static void fill_e820(struct boot_params *bp, const struct mem *mem)
{
	e820_add(bp, 0, IDENT_GPA, E820_RAM);
	/* The identity page up to where a BIOS area would be, then the legacy
	 * hole. */
	e820_add(bp, IDENT_GPA, HIGH_START, E820_RESERVED);
	e820_add(bp, HIGH_START, mem->region[0].size, E820_RAM);
	if (mem->nregions > 1)
		e820_add(bp, mem->region[1].gpa,
			mem->region[1].gpa + mem->region[1].size, E820_RAM);
}

static int write_zeropage(
	const struct mem *mem, size_t cmdline_len, struct err *e)
{
	struct boot_params bp;

	memset(&bp, 0, sizeof(bp));
	bp.hdr.boot_flag = 0xaa55;
	bp.hdr.header = 0x53726448; /* "HdrS" */
	bp.hdr.type_of_loader = 0xff;
	bp.hdr.loadflags = 1; /* LOADED_HIGH */
	bp.hdr.kernel_alignment = 0x1000000;
	bp.hdr.cmd_line_ptr = CMDLINE_ADDR;
	bp.hdr.cmdline_size = (uint32_t)cmdline_len;
	fill_e820(&bp, mem);
	return mem_write(mem, ZEROPAGE, &bp, sizeof(bp)) < 0 ? no_room(e) : 0;
}

static bool append(char *buf, size_t *len, const char *text)
{
	size_t n = strlen(text);

	if (*len + n + 1 > CMDLINE_SIZE)
		return false;
	memcpy(buf + *len, text, n + 1);
	*len += n;
	return true;
}

/* What the configuration says, then what only the machine knows. */
static int write_cmdline(struct machine *m, size_t *out_len, struct err *e)
{
	char line[CMDLINE_SIZE] = "";
	char word[96];
	size_t len = 0;
	uint32_t slot;
	bool fits;

	fits = append(line, &len, m->cfg.cmdline);
	(void)snprintf(word, sizeof(word), "%sthaw.ident=0x%x", len ? " " : "",
		IDENT_GPA);
	fits = fits && append(line, &len, word);
	for (unsigned i = 0; i < m->ndevs; i++) {
		if (!m->dev[i]->window)
			continue;
		slot = m->dev[i]->window - 1;
		(void)snprintf(word, sizeof(word),
			" virtio_mmio.device=4K@0x%llx:%u",
			VMMIO_BASE + slot * VMMIO_SIZE, VMMIO_GSI_BASE + slot);
		fits = fits && append(line, &len, word);
	}
	if (!fits)
		return err_set(e, -EINVAL,
			"cmdline: %zu bytes leave no room for what the machine "
			"adds; the limit is %d in all",
			strlen(m->cfg.cmdline), CMDLINE_SIZE - 1);
	*out_len = len;
	return mem_write(&m->mem, CMDLINE_ADDR, line, len + 1) < 0 ? no_room(e)
								   : 0;
}

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

static void boot_vcpu(struct vcpu_state *s, uint64_t entry)
{
	struct kvm_sregs *r = &s->sregs;

	s->regs.rip = entry;
	s->regs.rsp = STACK_TOP;
	s->regs.rbp = STACK_TOP;
	s->regs.rsi = ZEROPAGE;
	r->cs = segment(CODE_SEL, 11, true);
	r->ds = r->es = r->fs = r->gs = r->ss = segment(DATA_SEL, 3, false);
	r->gdt.base = GDT_ADDR;
	r->gdt.limit = 4 * 8 - 1;
	r->idt.base = 0;
	r->idt.limit = 0;
	r->cr0 = CR0_PE | CR0_ET | CR0_NE | CR0_PG;
	r->cr3 = PML4_ADDR;
	r->cr4 = CR4_PAE;
	r->efer = EFER_LME | EFER_LMA;
}

static int load_kernel(
	struct machine *m, int fd, struct elf_image *img, struct err *e)
{
	struct elf_src src = {.fd = fd};
	struct stat st;

	if (fd < 0) {
		src.buf = guest_builtin_start;
		src.size = (uint64_t)(guest_builtin_end - guest_builtin_start);
	} else {
		if (fstat(fd, &st))
			return err_sys(e, -errno, "the kernel");
		if (!S_ISREG(st.st_mode))
			return err_set(
				e, -EINVAL, "the kernel is not a regular file");
		src.size = (uint64_t)st.st_size;
	}
	return elf_load(&m->mem, &src, HIGH_START, img, e);
}

int arch_boot(struct machine *m, int kernel_fd, struct err *e)
{
	struct elf_image img = {0};
	size_t len = 0;
	int r = load_kernel(m, kernel_fd, &img, e);

	if (!r)
		r = write_tables(&m->mem, e);
	if (!r)
		r = write_cmdline(m, &len, e);
	if (!r)
		r = write_zeropage(&m->mem, len, e);
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
	boot_vcpu(m->cpu[0]->s, img.entry);
	return 0;
}
