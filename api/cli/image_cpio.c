/* An initrd: an uncompressed cpio in the "newc" format
 * (Documentation/driver-api/early-userspace/buffer-format.rst). */
#include "api/cli/image.h"

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <sys/stat.h>

#define CHUNK 65536u

static int failed(struct image *im, struct err *e)
{
	return err_set(e, -EIO, "writing the initrd: %s",
		archive_error_string(im->sink));
}

static int cpio_begin(struct image *im, struct err *e)
{
	struct archive *a = archive_write_new();

	if (!a)
		return err_set(e, -ENOMEM, "no memory");
	im->sink = a;
	im->next_ino = 1;
	if (archive_write_set_format_cpio_newc(a) != ARCHIVE_OK ||
		archive_write_open_fd(a, im->fd) != ARCHIVE_OK)
		return failed(im, e);
	return 0;
}

static int copy(struct image *im, const struct image_item *it, struct err *e)
{
	static const struct image_bytes none = {.fd = -1};
	struct image_bytes b = none;
	char chunk[CHUNK];
	ssize_t n;
	int r = image_bytes_open(&b, it, e);

	while (!r && (n = image_bytes_read(&b, chunk, sizeof(chunk), e))) {
		if (n < 0)
			r = (int)n;
		else if (archive_write_data(im->sink, chunk, (size_t)n) != n)
			r = failed(im, e);
	}
	image_bytes_close(&b);
	return r;
}

static int cpio_add(struct image *im, const struct image_item *it,
	const struct image_node *parent, struct image_node *node, struct err *e)
{
	struct archive_entry *ae;
	bool data = S_ISREG(node->mode) && !it->hardlink[0];
	int r = 0;

	(void)parent;
	if (!it->path[0])
		return 0; /* the root is there */
	if (!it->hardlink[0] && !node->ino)
		node->ino = im->next_ino++;
	ae = archive_entry_new();
	if (!ae)
		return err_set(e, -ENOMEM, "no memory");
	archive_entry_set_pathname(ae, it->path);
	archive_entry_set_mode(ae, node->mode);
	archive_entry_set_uid(ae, it->uid);
	archive_entry_set_gid(ae, it->gid);
	archive_entry_set_rdev(ae, it->rdev);
	archive_entry_set_mtime(ae, it->mtime, 0);
	archive_entry_set_ino64(ae, node->ino);
	/* The kernel remembers only files with several names, and those of a
	 * tar are not known before its end; the bytes stand with the first. */
	archive_entry_set_nlink(ae, S_ISDIR(node->mode)   ? 2
				    : S_ISREG(node->mode) ? 2
							  : 1);
	archive_entry_set_size(ae, data ? (int64_t)it->size : 0);
	if (S_ISLNK(node->mode) && it->symlink)
		archive_entry_set_symlink(ae, it->symlink);
	if (archive_write_header(im->sink, ae) != ARCHIVE_OK)
		r = failed(im, e);
	archive_entry_free(ae);
	return !r && data ? copy(im, it, e) : r;
}

static int cpio_end(struct image *im, struct err *e)
{
	return archive_write_close(im->sink) == ARCHIVE_OK ? 0 : failed(im, e);
}

static void cpio_free(struct image *im)
{
	if (im->sink)
		(void)archive_write_free(im->sink);
	im->sink = NULL;
}

const struct image_sink_ops image_cpio = {
	.begin = cpio_begin,
	.add = cpio_add,
	.end = cpio_end,
	.free = cpio_free,
};
