/*
 * Cold boot: what goes into guest memory besides the kernel, and the parts of
 * boot.c that can be tested without KVM.
 *
 * Low memory, all of it inside the first MiB, which is there in every machine:
 *
 *   0x500    GDT: null, null, code 0x10, data 0x18 (the protocol's selectors)
 *   0x6000   PVH: hvm_start_info, module list, memory map
 *   0x7000   boot_params, the "zero page"
 *   0x8000   end of a first stack
 *   0x9000   page tables: PML4, PDPT, four page directories: 4 GiB identity
 *   0x20000  command line
 *   0x9e000  identity page (core/guest/abi.h)
 *   0x9f000  VMGenID, then VMClock at 0xd0000: only with ACPI (acpi.h)
 *   0xe0000  ACPI tables, only with ACPI
 *   1 MiB    from here the kernel may be loaded
 *
 * The guest is told that it may use what is below 0x9e000 and above 1 MiB.
 */
#ifndef THAW_CORE_ARCH_X86_BOOT_H
#define THAW_CORE_ARCH_X86_BOOT_H

#include "core/arch/x86/image.h"
#include "core/machine.h"

#define BOOT_GDT       0x500
#define BOOT_PVH_INFO  0x6000
#define BOOT_ZEROPAGE  0x7000
#define BOOT_STACK_TOP 0x8ff0
#define BOOT_PML4      0x9000
#define BOOT_CMDLINE   0x20000
#define BOOT_LOW_END   0x100000

/* Selectors of the boot protocol (boot.rst, "64-bit Boot Protocol"). */
#define BOOT_CODE_SEL 0x10
#define BOOT_DATA_SEL 0x18
#define BOOT_TSS_SEL  0x20
#define BOOT_GDT_SIZE (5 * 8)

/* What the boot data speaks of. */
struct boot_info {
	struct image img;
	uint64_t initrd, initrd_size; /* 0: none */
	uint32_t cmdline_len;
	uint64_t rsdp; /* 0: no ACPI */
};

/* boot_cmdline.c: the whole command line for this machine: what thaw sets
 * unless the configured one does (general kernels only), the configured one,
 * and what only a guest made for thaw understands. size: of out. -EINVAL when
 * it does not fit into max bytes. */
int boot_cmdline(const struct machine *m, const struct image *img, char *out,
	size_t size, struct err *e) MUST_USE;

/* boot_data.c */
/* GDT and page tables. */
int boot_write_tables(const struct mem *mem, struct err *e) MUST_USE;
/* boot_params for IMAGE_LINUX64, hvm_start_info for IMAGE_PVH. */
int boot_write_info(const struct mem *mem, const struct boot_info *b,
	struct err *e) MUST_USE;
/* Load an initrd (borrowed) as high as the kernel allows, clear of the kernel;
 * fills b->initrd and b->initrd_size. */
int boot_load_initrd(const struct mem *mem, int fd, struct boot_info *b,
	struct err *e) MUST_USE;

#endif
