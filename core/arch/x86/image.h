/*
 * Kernel images: ELF executables (System V gABI chapters 4 and 5) and Linux'
 * bzImage (Documentation/arch/x86/boot.rst). They are put into guest memory as
 * they are; a bzImage unpacks itself when it runs.
 *
 * An image is hostile: every number is checked before use.
 */
#ifndef THAW_CORE_ARCH_X86_IMAGE_H
#define THAW_CORE_ARCH_X86_IMAGE_H

#include "core/mem.h"

#include <asm/bootparam.h>

/* Where the image's bytes come from: buf when it is not NULL, else fd. */
struct image_src {
	const uint8_t *buf; /* borrowed */
	int fd;             /* borrowed; a regular file */
	uint64_t size;
};

/* How to enter it. */
enum image_entry {
	IMAGE_LINUX64, /* long mode, boot_params in RSI */
	IMAGE_PVH,     /* 32-bit protected mode, hvm_start_info in EBX */
};

struct image {
	uint64_t entry;      /* physical */
	uint64_t start, end; /* memory that the kernel needs for itself */
	enum image_entry how;
	/* It is a kernel that looks for ACPI, not a guest made for thaw: a
	 * bzImage, or an ELF image with notes of "Linux" or "Xen". */
	bool general;
	uint32_t cmdline_max;    /* bytes without the zero byte */
	uint64_t initrd_max;     /* an initrd must end at or below this */
	struct setup_header hdr; /* bzImage: its own; else zero */
};

/* An open file as a source; -EINVAL when it is not a regular one. */
int image_open(int fd, struct image_src *out, struct err *e) MUST_USE;

/* len bytes at off. -EINVAL: not all of them are in the image. */
int image_read(const struct image_src *s, uint64_t off, void *dst,
	uint64_t len) MUST_USE;

/* What is it, without loading anything? Fills .general and nothing else.
 * -EINVAL: no kernel image that thaw knows; the message says what it is. */
int image_probe(
	const struct image_src *src, struct image *out, struct err *e) MUST_USE;

/* Load into [low, end of memory). -EINVAL: not an image that can be loaded
 * here (the message says why); or the error of reading the file. */
int image_load(const struct mem *mem, const struct image_src *src, uint64_t low,
	struct image *out, struct err *e) MUST_USE;

/* elf.c, bzimage.c: the two kinds. Probing leaves the memory alone (mem NULL).
 * image_load() has set the limits to those of a kernel that names none. */
int elf_load(const struct mem *mem, const struct image_src *src, uint64_t low,
	struct image *out, struct err *e) MUST_USE;
int bzimage_load(const struct mem *mem, const struct image_src *src,
	uint64_t low, struct image *out, struct err *e) MUST_USE;
/* Is there a bzImage's signature? */
bool bzimage_is(const struct image_src *src);

#endif
