/*
 * ELF kernels: statically linked 64-bit x86 executables, segments placed at
 * their physical addresses. Entered in long mode as Linux is (boot.rst), or,
 * when a note asks for it, by the PVH protocol (Xen's
 * docs/misc/pvh.pandoc, include/public/elfnote.h).
 */
#include "core/arch/x86/image.h"

#include <elf.h>
#include <errno.h>
#include <string.h>

#define MAX_PHDRS 64
/* Linux' notes are less than 1 KiB. */
#define MAX_NOTES (64 * KIB)
/* XEN_ELFNOTE_PHYS32_ENTRY: where PVH enters. */
#define NOTE_PVH_ENTRY 18

static int check_header(const Elf64_Ehdr *h, struct err *e)
{
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

static int load_segment(const struct mem *mem, const struct image_src *s,
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
	if (!mem)
		return 0;
	dst = mem_at(mem, p->p_paddr, p->p_memsz, MEM_WRITE);
	if (!dst)
		return err_set(e, -EINVAL,
			"segment at 0x%llx, 0x%llx bytes: outside the "
			"machine's "
			"memory; give it more",
			(unsigned long long)p->p_paddr,
			(unsigned long long)p->p_memsz);
	r = image_read(s, p->p_offset, dst, p->p_filesz);
	if (r < 0)
		return err_sys(e, r, "reading the kernel");
	/* The memory is new and zero: what is not in the file stays so. Only an
	 * overlap with an earlier segment would show, and means nothing. */
	return 0;
}

/* What one note says of how the image wants to be used. */
static void take_note(const Elf64_Nhdr *n, const uint8_t *name,
	const uint8_t *desc, struct image *out)
{
	bool xen = n->n_namesz == 4 && !memcmp(name, "Xen", 4);
	uint64_t entry = 0;

	if (n->n_namesz == 6 && !memcmp(name, "Linux", 6))
		out->general = true;
	if (!xen)
		return;
	out->general = true;
	if (n->n_type != NOTE_PVH_ENTRY || n->n_descsz < 4)
		return;
	memcpy(&entry, desc, min_u64(n->n_descsz, sizeof(entry)));
	out->how = IMAGE_PVH;
	out->entry = entry;
}

static int read_notes(const struct image_src *s, const Elf64_Phdr *p,
	struct image *out, struct err *e)
{
	AUTO_FREE uint8_t *buf = NULL;
	uint64_t at = 0, name, desc, next;
	Elf64_Nhdr n;
	int r;

	if (p->p_filesz > MAX_NOTES)
		return err_set(e, -EINVAL, "the kernel's notes have %llu bytes",
			(unsigned long long)p->p_filesz);
	buf = malloc(p->p_filesz + 1);
	if (!buf)
		return err_set(e, -ENOMEM, "no memory");
	r = image_read(s, p->p_offset, buf, p->p_filesz);
	if (r == -EINVAL)
		return err_set(e, r, "the kernel's notes lie outside the file");
	if (r < 0)
		return err_sys(e, r, "reading the kernel");
	while (range_inside(at, sizeof(n), p->p_filesz)) {
		memcpy(&n, buf + at, sizeof(n));
		name = at + sizeof(n);
		desc = name + align_up(n.n_namesz, 4);
		next = desc + align_up(n.n_descsz, 4);
		/* A note that makes no sense says nothing. */
		if (desc + n.n_descsz > p->p_filesz)
			break;
		take_note(&n, buf + name, buf + desc, out);
		at = next;
	}
	return 0;
}

static int load_all(const struct mem *mem, const struct image_src *s,
	const Elf64_Ehdr *h, uint64_t low, struct image *out, struct err *e)
{
	Elf64_Phdr p;
	uint64_t end;
	int r;

	for (uint32_t i = 0; i < h->e_phnum; i++) {
		if (add_overflows(h->e_phoff, i * sizeof(p), &end) ||
			image_read(s, end, &p, sizeof(p)) < 0)
			return err_set(e, -EINVAL,
				"program header %u lies outside the file", i);
		if (p.p_type == PT_INTERP)
			return err_set(e, -EINVAL,
				"the kernel is a program for an operating "
				"system: it asks for an interpreter");
		if (p.p_type == PT_NOTE) {
			r = read_notes(s, &p, out, e);
			if (r < 0)
				return r;
		}
		if (p.p_type != PT_LOAD || !p.p_memsz)
			continue;
		r = load_segment(mem, s, &p, low, e);
		if (r < 0)
			return r;
		if (add_overflows(p.p_paddr, p.p_memsz, &end))
			return err_set(e, -EINVAL,
				"segment at 0x%llx: it has no end",
				(unsigned long long)p.p_paddr);
		out->start = min_u64(out->start, p.p_paddr);
		if (end > out->end)
			out->end = end;
		/* Linux's entry is physical already; others give a virtual
		 * one. */
		if (out->how == IMAGE_LINUX64 &&
			h->e_entry - p.p_vaddr < p.p_memsz &&
			h->e_entry >= p.p_vaddr && p.p_vaddr != p.p_paddr)
			out->entry = h->e_entry - p.p_vaddr + p.p_paddr;
	}
	return 0;
}

int elf_load(const struct mem *mem, const struct image_src *src, uint64_t low,
	struct image *out, struct err *e)
{
	Elf64_Ehdr h;
	int r = image_read(src, 0, &h, sizeof(h));

	if (r == -EINVAL)
		return err_set(e, -EINVAL,
			"the kernel is %llu bytes: too short for an ELF image",
			(unsigned long long)src->size);
	if (r < 0)
		return err_sys(e, r, "reading the kernel");
	r = check_header(&h, e);
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
