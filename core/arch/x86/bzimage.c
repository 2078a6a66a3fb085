/*
 * bzImage (Documentation/arch/x86/boot.rst): real-mode setup sectors, which are
 * not used, then the 64-bit kernel with its own decompressor. It is entered at
 * its 64-bit entry point, 0x200 bytes behind its start.
 */
#include "core/arch/x86/image.h"

#include <errno.h>
#include <string.h>

#define HDR_OFFSET   0x1f1
#define MAGIC_OFFSET 0x202
#define HDRS         0x53726448 /* "HdrS" */
#define ENTRY64      0x200
#define SECTOR       512
/* 2.12: the first version that says whether there is a 64-bit entry. */
#define MIN_VERSION 0x020c

bool bzimage_is(const struct image_src *src)
{
	uint32_t magic = 0;

	return !image_read(src, MAGIC_OFFSET, &magic, sizeof(magic)) &&
	       magic == HDRS;
}

static int check_header(const struct setup_header *h, struct err *e)
{
	if (h->version < MIN_VERSION)
		return err_set(e, -EOPNOTSUPP,
			"the kernel speaks boot protocol %u.%02u; thaw needs "
			"2.12 (Linux 3.8)",
			h->version >> 8, h->version & 0xff);
	if (!(h->loadflags & LOADED_HIGH))
		return err_set(e, -EOPNOTSUPP,
			"the kernel is a zImage, for memory below 1 MiB");
	if (!(h->xloadflags & XLF_KERNEL_64))
		return err_set(e, -EOPNOTSUPP,
			"the kernel is 32-bit: thaw boots 64-bit kernels");
	return 0;
}

/* Where it goes: where it would like to, or, if it can be moved, as low as it
 * may. It unpacks itself in place, in init_size bytes. */
static int choose_start(const struct mem *mem, const struct setup_header *h,
	uint64_t low, uint64_t size, struct image *out, struct err *e)
{
	uint64_t need = h->init_size > size ? h->init_size : size;
	uint64_t at = h->pref_address ? h->pref_address : low;
	uint64_t top = mem->region[0].size;

	if ((at < low || !range_inside(at, need, top)) &&
		h->relocatable_kernel) {
		uint64_t a = h->kernel_alignment;

		if (!a || a & (a - 1))
			return err_set(e, -EINVAL,
				"the kernel's alignment is 0x%llx",
				(unsigned long long)a);
		at = align_up(low, a);
	}
	if (at < low || !range_inside(at, need, top))
		return err_set(e, -EINVAL,
			"the kernel needs %llu MiB of memory from %llu MiB on; "
			"the machine has %llu MiB: give it more",
			(unsigned long long)((need + MIB - 1) / MIB),
			(unsigned long long)(at / MIB),
			(unsigned long long)(mem->size / MIB));
	out->start = at;
	out->end = at + need;
	out->entry = at + ENTRY64;
	return 0;
}

static int read_header(
	const struct image_src *src, struct setup_header *h, struct err *e)
{
	uint8_t jump = 0;
	uint64_t len;
	int r;

	/* The jump at 0x200 says where the header ends (boot.rst, "the real
	 * mode kernel header"): older kernels have a shorter one. */
	r = image_read(src, 0x201, &jump, sizeof(jump));
	if (!r) {
		len = min_u64(
			(uint64_t)MAGIC_OFFSET + jump - HDR_OFFSET, sizeof(*h));
		memset(h, 0, sizeof(*h));
		r = image_read(src, HDR_OFFSET, h, len);
	}
	if (r == -EINVAL)
		return err_set(e, r, "the kernel's setup header is cut off");
	if (r < 0)
		return err_sys(e, r, "reading the kernel");
	return check_header(h, e);
}

int bzimage_load(const struct mem *mem, const struct image_src *src,
	uint64_t low, struct image *out, struct err *e)
{
	struct setup_header *h = &out->hdr;
	uint64_t off, size, end;
	void *dst;
	int r = read_header(src, h, e);

	if (r < 0)
		return r;
	off = ((h->setup_sects ? h->setup_sects : 4) + 1ULL) * SECTOR;
	size = h->syssize * 16ULL;
	end = off + size;
	if (size <= ENTRY64 || !range_inside(off, size, src->size))
		return err_set(e, -EINVAL,
			"the kernel is truncated: it says that it has %llu "
			"bytes, the file has %llu",
			(unsigned long long)end, (unsigned long long)src->size);
	out->general = true;
	out->how = IMAGE_LINUX64;
	if (h->cmdline_size)
		out->cmdline_max =
			(uint32_t)min_u64(h->cmdline_size, out->cmdline_max);
	out->initrd_max = min_u64(h->initrd_addr_max + 1ULL, out->initrd_max);
	if (!mem)
		return 0;
	r = choose_start(mem, h, low, size, out, e);
	if (r < 0)
		return r;
	dst = mem_at(mem, out->start, size, MEM_WRITE);
	if (!dst)
		return err_set(e, -EINVAL, "the kernel is not inside memory");
	r = image_read(src, off, dst, size);
	return r < 0 ? err_sys(e, r, "reading the kernel") : 0;
}
