#include "core/arch/x86/image.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

/* COMMAND_LINE_SIZE of Linux on x86, without the final zero byte. */
#define CMDLINE_MAX 2047

int image_open(int fd, struct image_src *out, struct err *e)
{
	struct stat st;

	*out = (struct image_src){.fd = fd};
	if (fstat(fd, &st))
		return err_sys(e, -errno, "the kernel");
	if (!S_ISREG(st.st_mode))
		return err_set(e, -EINVAL, "the kernel is not a regular file");
	out->size = (uint64_t)st.st_size;
	return 0;
}

int image_read(const struct image_src *s, uint64_t off, void *dst, uint64_t len)
{
	if (!range_inside(off, len, s->size))
		return -EINVAL;
	if (!s->buf)
		return pread_full(s->fd, dst, len, off);
	memcpy(dst, s->buf + off, len);
	return 0;
}

/* First bytes of what people take for a kernel. */
static const struct {
	uint8_t len, magic[6];
	const char *what;
} others[] = {
	{2, {0x1f, 0x8b}, "gzip data: decompress it first"},
	{6, {0xfd, '7', 'z', 'X', 'Z', 0}, "xz data: decompress it first"},
	{4, {0x28, 0xb5, 0x2f, 0xfd}, "zstd data: decompress it first"},
	{4, {0x02, 0x21, 0x4c, 0x18}, "lz4 data: decompress it first"},
	{6, {'0', '7', '0', '7', '0', '1'},
		"a cpio archive: is it the initrd?"},
	{2, {'#', '!'}, "a script"},
};

static int unknown(const uint8_t *magic, struct err *e)
{
	for (unsigned i = 0; i < ARRAY_SIZE(others); i++) {
		if (!memcmp(magic, others[i].magic, others[i].len))
			return err_set(
				e, -EINVAL, "the kernel is %s", others[i].what);
	}
	return err_set(
		e, -EINVAL, "the kernel is neither an ELF image nor a bzImage");
}

static int load(const struct mem *mem, const struct image_src *src,
	uint64_t low, struct image *out, struct err *e)
{
	uint8_t magic[8] = {0};
	int r;

	memset(out, 0, sizeof(*out));
	out->cmdline_max = CMDLINE_MAX;
	out->initrd_max = MEM_HOLE_START;
	if (src->size < sizeof(magic))
		return err_set(e, -EINVAL,
			"the kernel is %llu bytes: too short for an image",
			(unsigned long long)src->size);
	r = image_read(src, 0, magic, sizeof(magic));
	if (r < 0)
		return err_sys(e, r, "reading the kernel");
	if (!memcmp(magic, "\177ELF", 4))
		return elf_load(mem, src, low, out, e);
	if (bzimage_is(src))
		return bzimage_load(mem, src, low, out, e);
	return unknown(magic, e);
}

int image_probe(const struct image_src *src, struct image *out, struct err *e)
{
	return load(NULL, src, 0, out, e);
}

int image_load(const struct mem *mem, const struct image_src *src, uint64_t low,
	struct image *out, struct err *e)
{
	return load(mem, src, low, out, e);
}
