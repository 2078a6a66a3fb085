#include "core/arch/x86/elf.h"

#include <elf.h>
#include <errno.h>
#include <string.h>

#define MAX_PHDRS 64

static int src_read(
	const struct elf_src *s, uint64_t off, void *dst, uint64_t len)
{
	if (!range_inside(off, len, s->size))
		return -EINVAL;
	if (!s->buf)
		return pread_full(s->fd, dst, len, off);
	memcpy(dst, s->buf + off, len);
	return 0;
}

/* Say what it is instead, if we can tell. */
static int not_elf(const struct elf_src *s, const uint8_t *magic, struct err *e)
{
	char setup[4];

	/* Linux boot protocol: "HdrS" at 0x202 of a bzImage. */
	if (!src_read(s, 0x202, setup, sizeof(setup)) &&
		!memcmp(setup, "HdrS", sizeof(setup)))
		return err_set(e, -EOPNOTSUPP,
			"the kernel is a bzImage: this version boots ELF "
			"images (vmlinux) only; extract-vmlinux from the Linux "
			"sources makes one");
	if (magic[0] == 0x1f && magic[1] == 0x8b)
		return err_set(e, -EINVAL,
			"the kernel is gzip data: decompress it first");
	return err_set(e, -EINVAL, "the kernel is not an ELF image");
}

static int check_header(
	const struct elf_src *s, const Elf64_Ehdr *h, struct err *e)
{
	if (memcmp(h->e_ident, ELFMAG, SELFMAG) != 0)
		return not_elf(s, h->e_ident, e);
	if (h->e_ident[EI_CLASS] != ELFCLASS64 ||
		h->e_ident[EI_DATA] != ELFDATA2LSB)
		return err_set(e, -EINVAL,
			"the kernel is not a 64-bit little-endian ELF image");
	if (h->e_machine != EM_X86_64)
		return err_set(e, -EINVAL,
			"the kernel is for ELF machine %u, not x86-64",
			h->e_machine);
	if (h->e_type != ET_EXEC && h->e_type != ET_DYN)
		return err_set(e, -EINVAL,
			"the kernel is no executable: ELF type %u", h->e_type);
	if (h->e_phentsize != sizeof(Elf64_Phdr) || !h->e_phnum ||
		h->e_phnum > MAX_PHDRS)
		return err_set(e, -EINVAL,
			"the kernel has %u program headers of %u bytes; 1 to "
			"%d of %zu expected",
			h->e_phnum, h->e_phentsize, MAX_PHDRS,
			sizeof(Elf64_Phdr));
	return 0;
}

static int load_segment(const struct mem *mem, const struct elf_src *s,
	const Elf64_Phdr *p, uint64_t low, struct err *e)
{
	uint8_t *dst;
	int r;

	if (p->p_filesz > p->p_memsz ||
		!range_inside(p->p_offset, p->p_filesz, s->size))
		return err_set(e, -EINVAL,
			"segment at 0x%llx: 0x%llx bytes at 0x%llx of the file "
			"do not exist",
			(unsigned long long)p->p_paddr,
			(unsigned long long)p->p_filesz,
			(unsigned long long)p->p_offset);
	if (p->p_paddr < low)
		return err_set(e, -EINVAL,
			"segment at 0x%llx: below 0x%llx, where the boot data "
			"is",
			(unsigned long long)p->p_paddr,
			(unsigned long long)low);
	dst = mem_at(mem, p->p_paddr, p->p_memsz, MEM_WRITE);
	if (!dst)
		return err_set(e, -EINVAL,
			"segment at 0x%llx, 0x%llx bytes: outside the "
			"machine's "
			"memory; give it more",
			(unsigned long long)p->p_paddr,
			(unsigned long long)p->p_memsz);
	r = src_read(s, p->p_offset, dst, p->p_filesz);
	if (r < 0)
		return err_sys(e, r, "reading the kernel");
	/* The memory is new and zero: what is not in the file stays so. Only an
	 * overlap with an earlier segment would show, and means nothing. */
	return 0;
}

static int load_all(const struct mem *mem, const struct elf_src *s,
	const Elf64_Ehdr *h, uint64_t low, struct elf_image *out, struct err *e)
{
	Elf64_Phdr p;
	uint64_t end;
	int r;

	for (uint32_t i = 0; i < h->e_phnum; i++) {
		if (add_overflows(h->e_phoff, i * sizeof(p), &end) ||
			src_read(s, end, &p, sizeof(p)) < 0)
			return err_set(e, -EINVAL,
				"program header %u lies outside the file", i);
		if (p.p_type == PT_INTERP)
			return err_set(e, -EINVAL,
				"the kernel is a program for an operating "
				"system: it asks for an interpreter");
		if (p.p_type != PT_LOAD || !p.p_memsz)
			continue;
		r = load_segment(mem, s, &p, low, e);
		if (r < 0)
			return r;
		end = p.p_paddr + p.p_memsz; /* inside memory: no overflow */
		out->start = min_u64(out->start, p.p_paddr);
		if (end > out->end)
			out->end = end;
		/* Linux's entry is physical already; others give a virtual
		 * one. */
		if (h->e_entry - p.p_vaddr < p.p_memsz &&
			h->e_entry >= p.p_vaddr && p.p_vaddr != p.p_paddr)
			out->entry = h->e_entry - p.p_vaddr + p.p_paddr;
	}
	return 0;
}

int elf_load(const struct mem *mem, const struct elf_src *src, uint64_t low,
	struct elf_image *out, struct err *e)
{
	Elf64_Ehdr h;
	int r = src_read(src, 0, &h, sizeof(h));

	if (r == -EINVAL)
		return err_set(e, -EINVAL,
			"the kernel is %llu bytes: too short for an ELF image",
			(unsigned long long)src->size);
	if (r < 0)
		return err_sys(e, r, "reading the kernel");
	r = check_header(src, &h, e);
	if (r < 0)
		return r;
	out->entry = h.e_entry;
	out->start = UINT64_MAX;
	out->end = 0;
	r = load_all(mem, src, &h, low, out, e);
	if (r < 0)
		return r;
	if (out->start >= out->end)
		return err_set(e, -EINVAL, "the kernel has nothing to load");
	if (out->entry < out->start || out->entry >= out->end)
		return err_set(e, -EINVAL,
			"the kernel's entry 0x%llx is outside its segments",
			(unsigned long long)out->entry);
	return 0;
}
