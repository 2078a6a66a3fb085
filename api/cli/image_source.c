#include "api/cli/image.h"

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <fcntl.h>
#include <search.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#define BLOCK 65536u

struct image_source {
	struct archive *a;
	struct archive_entry *ae;
	bool disk; /* a directory */
	char base[PATH_MAX];
	size_t base_len; /* of the directory's own path, with its slash */
	void *inodes;    /* owned; names of files with several links */
};

/* The first name of an inode of the directory. */
struct first {
	dev_t dev;
	ino_t ino;
	char path[];
};

int image_path(const char *in, char out[PATH_MAX])
{
	size_t n = 0;

	while (*in) {
		size_t len;

		in += strspn(in, "/");
		len = strcspn(in, "/");
		if (len == 2 && !memcmp(in, "..", 2))
			return -EBADMSG;
		if (len && !(len == 1 && *in == '.')) {
			if (n + len + 2 > PATH_MAX)
				return -EBADMSG;
			if (n)
				out[n++] = '/';
			memcpy(out + n, in, len);
			n += len;
		}
		in += len;
	}
	out[n] = '\0';
	return 0;
}

static int open_dir(struct image_source *s, const char *path, struct err *e)
{
	if (!realpath(path, s->base))
		return err_sys(e, -errno, "%s", path);
	s->base_len = strlen(s->base);
	s->disk = true;
	s->a = archive_read_disk_new();
	if (!s->a)
		return err_set(e, -ENOMEM, "no memory");
	(void)archive_read_disk_set_symlink_physical(s->a);
	/* Not the file systems mounted below it. */
	(void)archive_read_disk_set_behavior(
		s->a, ARCHIVE_READDISK_NO_TRAVERSE_MOUNTS);
	if (archive_read_disk_open(s->a, s->base) != ARCHIVE_OK)
		return err_set(
			e, -EIO, "%s: %s", path, archive_error_string(s->a));
	return 0;
}

static int open_tar(struct image_source *s, const char *path, struct err *e)
{
	s->a = archive_read_new();
	if (!s->a)
		return err_set(e, -ENOMEM, "no memory");
	(void)archive_read_support_format_tar(s->a);
	(void)archive_read_support_filter_gzip(s->a);
	(void)archive_read_support_filter_xz(s->a);
	(void)archive_read_support_filter_zstd(s->a);
	if (archive_read_open_filename(s->a, path, BLOCK) != ARCHIVE_OK)
		return err_set(e, -EBADMSG,
			"%s is neither a directory nor a tar (gzip, xz, "
			"zstd): %s",
			path, archive_error_string(s->a));
	return 0;
}

int image_source_open(
	struct image_source **out, const char *path, struct err *e)
{
	struct image_source *s;
	struct stat st;
	int r;

	*out = NULL;
	if (stat(path, &st))
		return err_sys(e, -errno, "%s", path);
	if (!S_ISDIR(st.st_mode) && !S_ISREG(st.st_mode))
		return err_set(e, -EINVAL,
			"%s is neither a directory nor a file", path);
	s = calloc(1, sizeof(*s));
	if (!s)
		return err_set(e, -ENOMEM, "no memory");
	s->ae = archive_entry_new();
	r = S_ISDIR(st.st_mode) ? open_dir(s, path, e) : open_tar(s, path, e);
	if (r)
		image_source_close(s);
	else
		*out = s;
	return r;
}

void image_source_close(struct image_source *s)
{
	if (!s)
		return;
	if (s->a)
		(void)archive_read_free(s->a);
	archive_entry_free(s->ae);
	tdestroy(s->inodes, free);
	free(s);
}

static int compare_first(const void *a, const void *b)
{
	const struct first *x = a, *y = b;

	if (x->dev != y->dev)
		return x->dev < y->dev ? -1 : 1;
	if (x->ino != y->ino)
		return x->ino < y->ino ? -1 : 1;
	return 0;
}

/* A file of the directory that has several names: links to the first one. */
static int find_first(
	struct image_source *s, struct image_item *it, struct err *e)
{
	size_t len = strlen(it->path) + 1;
	struct first *f = malloc(sizeof(*f) + len), **at;

	if (!f)
		return err_set(e, -ENOMEM, "no memory");
	f->dev = archive_entry_dev(s->ae);
	f->ino = (ino_t)archive_entry_ino64(s->ae);
	memcpy(f->path, it->path, len);
	at = tsearch(f, &s->inodes, compare_first);
	if (!at || *at != f) {
		if (at)
			memcpy(it->hardlink, (*at)->path,
				strlen((*at)->path) + 1);
		free(f);
	}
	return at ? 0 : err_set(e, -ENOMEM, "no memory");
}

static int convert(struct image_source *s, struct image_item *it, struct err *e)
{
	const char *path = archive_entry_pathname(s->ae);
	const char *hard = archive_entry_hardlink(s->ae);

	if (!path)
		return err_set(e, -EBADMSG, "an entry has no name");
	if (s->disk && !strncmp(path, s->base, s->base_len))
		path += s->base_len;
	if (image_path(path, it->path))
		return err_set(e, -EBADMSG,
			"\"%.200s\": a name that leads out of the image, or is "
			"too long",
			path);
	if (hard && image_path(hard, it->hardlink))
		return err_set(e, -EBADMSG,
			"\"%.200s\": a link that leads out of the image", hard);
	it->mode = archive_entry_mode(s->ae);
	it->uid = (uint32_t)archive_entry_uid(s->ae);
	it->gid = (uint32_t)archive_entry_gid(s->ae);
	it->rdev = archive_entry_rdev(s->ae);
	it->mtime = archive_entry_mtime(s->ae);
	it->size = S_ISREG(it->mode) && archive_entry_size(s->ae) > 0
			   ? (uint64_t)archive_entry_size(s->ae)
			   : 0;
	it->symlink = archive_entry_symlink(s->ae);
	it->ae = s->ae;
	it->from = s->a;
	if (s->disk && !S_ISDIR(it->mode) && archive_entry_nlink(s->ae) > 1)
		return find_first(s, it, e);
	return 0;
}

int image_source_next(
	struct image_source *s, struct image_item *it, struct err *e)
{
	int r = archive_read_next_header2(s->a, s->ae);

	memset(it, 0, sizeof(*it));
	if (r == ARCHIVE_EOF)
		return 0;
	if (r != ARCHIVE_OK && r != ARCHIVE_WARN)
		return err_set(e, -EBADMSG, "reading the source: %s",
			archive_error_string(s->a));
	if (s->disk)
		(void)archive_read_disk_descend(s->a);
	r = convert(s, it, e);
	return r ? r : 1;
}

/* ---- bytes ---- */

int image_bytes_open(
	struct image_bytes *b, const struct image_item *it, struct err *e)
{
	*b = (struct image_bytes){.it = it, .fd = -1};
	if (!it->file)
		return 0;
	b->fd = open(it->file, O_RDONLY | O_CLOEXEC);
	return b->fd < 0 ? err_sys(e, -errno, "%s", it->file) : 0;
}

ssize_t image_bytes_read(
	struct image_bytes *b, void *buf, size_t n, struct err *e)
{
	const struct image_item *it = b->it;
	ssize_t got;

	if (n > it->size - b->off)
		n = (size_t)(it->size - b->off);
	if (!n)
		return 0;
	if (it->file) {
		got = read(b->fd, buf, n);
		if (got < 0)
			err_sys(e, -errno, "reading %s", it->file);
	} else if (it->from) {
		got = archive_read_data(it->from, buf, n);
		if (got < 0)
			err_set(e, -EBADMSG, "%s: %s", it->path,
				archive_error_string(it->from));
	} else {
		memcpy(buf, (const char *)it->data + b->off, n);
		got = (ssize_t)n;
	}
	if (got < 0)
		return -EIO;
	if (!got) {
		err_set(e, -EBADMSG, "%s ends before its end", it->path);
		return -EBADMSG;
	}
	b->off += (uint64_t)got;
	return got;
}

void image_bytes_close(struct image_bytes *b)
{
	if (b->fd >= 0)
		(void)close(b->fd);
	b->fd = -1;
}
