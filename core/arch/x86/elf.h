/*
 * ELF kernel images (System V ABI, gABI chapters 4 and 5): statically linked
 * 64-bit x86 executables, segments placed at their physical addresses.
 *
 * The image is hostile: every number is checked before use.
 */
#ifndef THAW_CORE_ARCH_X86_ELF_H
#define THAW_CORE_ARCH_X86_ELF_H

#include "core/mem.h"

/* Where the image's bytes come from: buf when it is not NULL, else fd. */
struct elf_src {
	const uint8_t *buf; /* borrowed */
	int fd;             /* borrowed; a regular file */
	uint64_t size;
};

struct elf_image {
	uint64_t entry;      /* physical */
	uint64_t start, end; /* guest memory it covers */
};

/* Segments must lie in [low, mem end) and inside one region. -EINVAL: not an
 * image that can be loaded (the message says why); -EOPNOTSUPP: a kind of
 * kernel thaw does not boot; or the error of reading the file. */
int elf_load(const struct mem *mem, const struct elf_src *src, uint64_t low,
	struct elf_image *out, struct err *e) MUST_USE;

#endif
