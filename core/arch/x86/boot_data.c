/* What a kernel is told at boot, and its initrd: see boot.h. */
#include "core/arch/x86/boot.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#define PDPT_ADDR 0xa000
#define PD_ADDR   0xb000
#define NPD       4

/* Type and s, l or db, granularity; base 0, limit 4 GiB; a busy 32-bit TSS
 * (SDM 3A 3.4.5, 7.2.2). */
#define GDT_CODE64 0x00af9b000000ffffULL
#define GDT_DATA   0x00cf93000000ffffULL
#define GDT_TSS    0x00008b0000000067ULL

/* SDM 3A 4.5: present, writable; a 2 MiB page */
#define PT_TABLE 0x3ULL
#define PT_LARGE 0x83ULL

#define E820_RAM      1
#define E820_RESERVED 2

/* Xen's include/public/arch-x86/hvm/start_info.h, version 1. */
#define PVH_MAGIC 0x336ec578

struct pvh_module {
	uint64_t addr, size, cmdline, reserved;
};
struct pvh_memory {
	uint64_t addr, size;
	uint32_t type, reserved;
};
struct pvh_info {
	uint32_t magic, version, flags, nmodules;
	uint64_t modules, cmdline, rsdp, memory;
	uint32_t nmemory, reserved;
};
#define PVH_MODULES (BOOT_PVH_INFO + 0x100)
#define PVH_MEMORY  (BOOT_PVH_INFO + 0x200)

struct map_entry {
	uint64_t start, end;
	uint32_t type;
};
#define MAP_MAX 4

static int no_room(struct err *e)
{
	return err_set(e, -EINVAL, "no memory for the boot data");
}

int boot_write_tables(const struct mem *mem, struct err *e)
{
	static const uint64_t gdt[BOOT_GDT_SIZE / 8] = {
		0, 0, GDT_CODE64, GDT_DATA, GDT_TSS};
	uint64_t *pml4 = mem_at(mem, BOOT_PML4, 4096, MEM_WRITE);
	uint64_t *pdpt = mem_at(mem, PDPT_ADDR, 4096, MEM_WRITE);
	uint64_t *pd = mem_at(mem, PD_ADDR, NPD * 4096, MEM_WRITE);

	if (!pml4 || !pdpt || !pd ||
		mem_write(mem, BOOT_GDT, gdt, sizeof(gdt)) < 0)
		return no_room(e);
	pml4[0] = PDPT_ADDR | PT_TABLE;
	for (uint64_t i = 0; i < NPD; i++)
		pdpt[i] = (PD_ADDR + i * 4096) | PT_TABLE;
	for (uint64_t i = 0; i < NPD * 512ULL; i++)
		pd[i] = i << 21 | PT_LARGE;
	return 0;
}

static unsigned memory_map(const struct mem *mem, struct map_entry map[MAP_MAX])
{
	unsigned n = 0;

	map[n++] = (struct map_entry){0, IDENT_GPA, E820_RAM};
	/* The identity page up to where a BIOS would end. */
	map[n++] = (struct map_entry){IDENT_GPA, BOOT_LOW_END, E820_RESERVED};
	map[n++] =
		(struct map_entry){BOOT_LOW_END, mem->region[0].size, E820_RAM};
	if (mem->nregions > 1)
		map[n++] = (struct map_entry){mem->region[1].gpa,
			mem->region[1].gpa + mem->region[1].size, E820_RAM};
	return n;
}

static int write_zeropage(
	const struct mem *mem, const struct boot_info *b, struct err *e)
{
	struct map_entry map[MAP_MAX];
	struct boot_params bp;

	memset(&bp, 0, sizeof(bp));
	bp.hdr = b->img.hdr;
	bp.hdr.boot_flag = 0xaa55;
	bp.hdr.header = 0x53726448; /* "HdrS" */
	bp.hdr.type_of_loader = 0xff;
	bp.hdr.loadflags |= LOADED_HIGH;
	if (!bp.hdr.kernel_alignment)
		bp.hdr.kernel_alignment = 0x1000000;
	bp.hdr.cmd_line_ptr = BOOT_CMDLINE;
	bp.hdr.cmdline_size = b->cmdline_len;
	bp.hdr.ramdisk_image = (uint32_t)b->initrd;
	bp.hdr.ramdisk_size = (uint32_t)b->initrd_size;
	bp.acpi_rsdp_addr = b->rsdp;
	bp.e820_entries = (uint8_t)memory_map(mem, map);
	for (unsigned i = 0; i < bp.e820_entries; i++) {
		bp.e820_table[i].addr = map[i].start;
		bp.e820_table[i].size = map[i].end - map[i].start;
		bp.e820_table[i].type = map[i].type;
	}
	return mem_write(mem, BOOT_ZEROPAGE, &bp, sizeof(bp)) < 0 ? no_room(e)
								  : 0;
}

static int write_pvh(
	const struct mem *mem, const struct boot_info *b, struct err *e)
{
	struct map_entry map[MAP_MAX];
	struct pvh_memory memory[MAP_MAX] = {0};
	struct pvh_module initrd = {.addr = b->initrd, .size = b->initrd_size};
	struct pvh_info info = {
		.magic = PVH_MAGIC,
		.version = 1,
		.nmodules = b->initrd_size != 0,
		.modules = PVH_MODULES,
		.cmdline = BOOT_CMDLINE,
		.rsdp = b->rsdp,
		.memory = PVH_MEMORY,
		.nmemory = memory_map(mem, map),
	};

	for (unsigned i = 0; i < info.nmemory; i++) {
		memory[i].addr = map[i].start;
		memory[i].size = map[i].end - map[i].start;
		memory[i].type = map[i].type;
	}
	if (mem_write(mem, BOOT_PVH_INFO, &info, sizeof(info)) < 0 ||
		mem_write(mem, PVH_MODULES, &initrd, sizeof(initrd)) < 0 ||
		mem_write(mem, PVH_MEMORY, memory, sizeof(memory)) < 0)
		return no_room(e);
	return 0;
}

int boot_write_info(
	const struct mem *mem, const struct boot_info *b, struct err *e)
{
	return b->img.how == IMAGE_PVH ? write_pvh(mem, b, e)
				       : write_zeropage(mem, b, e);
}

int boot_load_initrd(
	const struct mem *mem, int fd, struct boot_info *b, struct err *e)
{
	uint64_t top = min_u64(mem->region[0].size, b->img.initrd_max);
	uint64_t low = align_up(b->img.end, PAGE_SIZE_4K);
	struct stat st;
	uint64_t size;
	void *dst;
	int r;

	if (fstat(fd, &st))
		return err_sys(e, -errno, "the initrd");
	if (!S_ISREG(st.st_mode))
		return err_set(e, -EINVAL, "the initrd is not a regular file");
	size = (uint64_t)st.st_size;
	if (!size)
		return err_set(e, -EINVAL, "the initrd is empty");
	top = align_down(top, PAGE_SIZE_4K);
	if (low > top || align_up(size, PAGE_SIZE_4K) > top - low)
		return err_set(e, -EINVAL,
			"the initrd has %llu MiB; beside the kernel there is "
			"room for %llu MiB: give the machine more memory",
			(unsigned long long)((size + MIB - 1) / MIB),
			(unsigned long long)(low > top ? 0
						       : (top - low) / MIB));
	b->initrd = top - align_up(size, PAGE_SIZE_4K);
	b->initrd_size = size;
	dst = mem_at(mem, b->initrd, size, MEM_WRITE);
	if (!dst)
		return no_room(e);
	r = pread_full(fd, dst, size, 0);
	return r < 0 ? err_sys(e, r, "reading the initrd") : 0;
}
