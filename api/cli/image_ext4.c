/* A disk: ext4, made by mke2fs and filled through libext2fs. */
#include "api/cli/image.h"

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <ext2fs/ext2_fs.h>
#include <ext2fs/ext2fs.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>

#define BLOCK 4096u
#define CHUNK 65536u
/* Room for a guest that writes, and for the journal. */
#define SPARE  (64 * MIB)
#define INODES 4096u

static ext2_filsys fs_of(const struct image *im)
{
	return im->sink;
}

static int failed(struct err *e, errcode_t r, const char *path)
{
	if (r == EXT2_ET_BLOCK_ALLOC_FAIL || r == EXT2_ET_INODE_ALLOC_FAIL ||
		r == ENOSPC)
		return err_set(e, -ENOSPC,
			"/%.200s does not fit into the disk; --size makes it "
			"larger",
			path);
	return err_set(e, -EIO, "/%.200s: ext4: %s", path, error_message(r));
}

/* ---- making it ---- */

static int run_mke2fs(
	const char *file, uint64_t inodes, const char *label, struct err *e)
{
	static const char *const where[] = {
		"mke2fs", "/usr/sbin/mke2fs", "/sbin/mke2fs"};
	char count[32], name[64];
	char *argv[] = {name, (char[]){"-q"}, (char[]){"-F"}, (char[]){"-t"},
		(char[]){"ext4"}, (char[]){"-b"}, (char[]){"4096"},
		(char[]){"-m"}, (char[]){"0"}, (char[]){"-N"}, count,
		(char[]){"-L"}, (char *)(uintptr_t)label, (char[]){"-E"},
		(char[]){"root_owner=0:0,lazy_itable_init=1,nodiscard"},
		(char *)(uintptr_t)file, NULL};
	pid_t pid = 0;
	int r = ENOENT, status;

	(void)snprintf(
		count, sizeof(count), "%llu", (unsigned long long)inodes);
	for (size_t i = 0; r && i < ARRAY_SIZE(where); i++) {
		(void)snprintf(name, sizeof(name), "%s", where[i]);
		r = posix_spawnp(&pid, name, NULL, NULL, argv, environ);
	}
	if (r)
		return err_set(e, -EOPNOTSUPP,
			"mke2fs cannot be run (%s): install e2fsprogs, or make "
			"an initrd with --initrd",
			strerror(r));
	while (waitpid(pid, &status, 0) < 0) {
		if (errno != EINTR)
			return err_sys(e, -errno, "waiting for mke2fs");
	}
	if (!WIFEXITED(status) || WEXITSTATUS(status))
		return err_set(e, -EIO, "mke2fs failed%s",
			WIFEXITED(status) ? ", its message stands above" : "");
	return 0;
}

static int ext4_begin(struct image *im, struct err *e)
{
	uint64_t inodes = im->entries + im->entries / 4 + INODES;
	char path[64];
	ext2_filsys fs;
	errcode_t r;
	int err;

	if (!im->size)
		im->size = im->bytes + im->bytes / 16 + inodes * 256 + SPARE;
	im->size = align_up(im->size, MIB);
	if (ftruncate(im->fd, (off_t)im->size))
		return err_sys(e, -errno, "making a file of %llu MiB",
			(unsigned long long)(im->size / MIB));
	/* The file may have no name yet. */
	(void)snprintf(
		path, sizeof(path), "/proc/%d/fd/%d", (int)getpid(), im->fd);
	err = run_mke2fs(path, inodes, im->label, e);
	if (err)
		return err;
	initialize_ext2_error_table();
	r = ext2fs_open(path, EXT2_FLAG_RW | EXT2_FLAG_64BITS, 0, 0,
		unix_io_manager, &fs);
	if (!r) {
		im->sink = fs;
		r = ext2fs_read_bitmaps(fs);
	}
	return r ? failed(e, r, "") : 0;
}

/* ---- entries ---- */

/* Link a name into its directory, which grows when it is full. */
static errcode_t link_name(ext2_filsys fs, ext2_ino_t dir, const char *name,
	ext2_ino_t ino, int type)
{
	errcode_t r = ext2fs_link(fs, dir, name, ino, type);

	if (r == EXT2_ET_DIR_NO_SPACE) {
		r = ext2fs_expand_dir(fs, dir);
		if (!r)
			r = ext2fs_link(fs, dir, name, ino, type);
	}
	return r;
}

static int dir_type(mode_t mode)
{
	switch (mode & S_IFMT) {
	case S_IFREG:
		return EXT2_FT_REG_FILE;
	case S_IFCHR:
		return EXT2_FT_CHRDEV;
	case S_IFBLK:
		return EXT2_FT_BLKDEV;
	case S_IFIFO:
		return EXT2_FT_FIFO;
	case S_IFSOCK:
		return EXT2_FT_SOCK;
	case S_IFLNK:
		return EXT2_FT_SYMLINK;
	default:
		return EXT2_FT_UNKNOWN;
	}
}

static void set_device(struct ext2_inode *in, dev_t dev)
{
	unsigned ma = major(dev), mi = minor(dev);

	/* As the kernel's old_encode_dev() and new_encode_dev(). */
	if (ma < 256 && mi < 256)
		in->i_block[0] = ma << 8 | mi;
	else
		in->i_block[1] = (mi & 0xff) | ma << 8 | (mi & ~0xffU) << 12;
}

static errcode_t new_inode(ext2_filsys fs, ext2_ino_t dir,
	const struct image_item *it, const char *name, ext2_ino_t *ino)
{
	struct ext2_inode in = {0};
	errcode_t r = ext2fs_new_inode(fs, dir, (int)it->mode, NULL, ino);

	if (!r)
		r = link_name(fs, dir, name, *ino, dir_type(it->mode));
	if (r)
		return r;
	ext2fs_inode_alloc_stats2(fs, *ino, +1, 0);
	in.i_mode = (uint16_t)it->mode;
	in.i_links_count = 1;
	if (S_ISCHR(it->mode) || S_ISBLK(it->mode))
		set_device(&in, it->rdev);
	if (S_ISREG(it->mode)) {
		ext2_extent_handle_t h;

		in.i_flags |= EXT4_EXTENTS_FL;
		r = ext2fs_extent_open2(fs, *ino, &in, &h);
		if (r)
			return r;
		ext2fs_extent_free(h);
		r = ext2fs_inode_size_set(fs, &in, (ext2_off64_t)it->size);
	}
	return r ? r : ext2fs_write_new_inode(fs, *ino, &in);
}

static int fill_file(struct image *im, const struct image_item *it,
	ext2_ino_t ino, struct err *e)
{
	struct image_bytes b;
	ext2_file_t f;
	char chunk[CHUNK];
	errcode_t r = ext2fs_file_open(fs_of(im), ino, EXT2_FILE_WRITE, &f);
	ssize_t n;
	int err;

	if (r)
		return failed(e, r, it->path);
	err = image_bytes_open(&b, it, e);
	while (!err && (n = image_bytes_read(&b, chunk, sizeof(chunk), e))) {
		const char *p = chunk;

		err = n < 0 ? (int)n : 0;
		while (!err && n > 0) {
			unsigned done = 0;

			r = ext2fs_file_write(f, p, (unsigned)n, &done);
			if (r)
				err = failed(e, r, it->path);
			p += done;
			n -= done;
		}
	}
	image_bytes_close(&b);
	r = ext2fs_file_close(f);
	return err || !r ? err : failed(e, r, it->path);
}

static errcode_t make_dir(
	ext2_filsys fs, ext2_ino_t dir, const char *name, ext2_ino_t *ino)
{
	errcode_t r = ext2fs_mkdir(fs, dir, 0, name);

	if (r == EXT2_ET_DIR_NO_SPACE) {
		r = ext2fs_expand_dir(fs, dir);
		if (!r)
			r = ext2fs_mkdir(fs, dir, 0, name);
	}
	return r ? r
		 : ext2fs_lookup(fs, dir, name, (int)strlen(name), NULL, ino);
}

static errcode_t make_symlink(ext2_filsys fs, ext2_ino_t dir, const char *name,
	const char *target, ext2_ino_t *ino)
{
	errcode_t r = ext2fs_symlink(fs, dir, 0, name, target);

	if (r == EXT2_ET_DIR_NO_SPACE) {
		r = ext2fs_expand_dir(fs, dir);
		if (!r)
			r = ext2fs_symlink(fs, dir, 0, name, target);
	}
	return r ? r
		 : ext2fs_lookup(fs, dir, name, (int)strlen(name), NULL, ino);
}

static errcode_t hard_link(ext2_filsys fs, ext2_ino_t dir, const char *name,
	const struct image_node *node)
{
	struct ext2_inode in;
	errcode_t r = ext2fs_read_inode(fs, node->ino, &in);

	if (!r)
		r = link_name(fs, dir, name, node->ino, dir_type(node->mode));
	if (r)
		return r;
	in.i_links_count++;
	return ext2fs_write_inode(fs, node->ino, &in);
}

static errcode_t set_xattrs(
	ext2_filsys fs, ext2_ino_t ino, struct archive_entry *ae)
{
	struct ext2_xattr_handle *h;
	const char *name;
	const void *value;
	size_t n;
	errcode_t r, r2;

	if (!ae || !archive_entry_xattr_reset(ae))
		return 0;
	r = ext2fs_xattrs_open(fs, ino, &h);
	if (r)
		return r;
	r = ext2fs_xattrs_read(h);
	while (!r &&
		archive_entry_xattr_next(ae, &name, &value, &n) == ARCHIVE_OK)
		r = ext2fs_xattr_set(h, name, value, n);
	r2 = ext2fs_xattrs_close(&h);
	return r ? r : r2;
}

static errcode_t set_owner(
	ext2_filsys fs, const struct image_item *it, ext2_ino_t ino)
{
	struct ext2_inode in;
	errcode_t r = ext2fs_read_inode(fs, ino, &in);

	if (r)
		return r;
	in.i_mode = (uint16_t)((in.i_mode & S_IFMT) | (it->mode & 07777));
	in.i_uid = (uint16_t)it->uid;
	in.i_gid = (uint16_t)it->gid;
	ext2fs_set_i_uid_high(in, (uint16_t)(it->uid >> 16));
	ext2fs_set_i_gid_high(in, (uint16_t)(it->gid >> 16));
	in.i_mtime = in.i_ctime = in.i_atime = (uint32_t)it->mtime;
	return ext2fs_write_inode(fs, ino, &in);
}

static errcode_t make_entry(struct image *im, const struct image_item *it,
	ext2_ino_t dir, ext2_ino_t *ino)
{
	const char *slash = strrchr(it->path, '/');
	const char *name = slash ? slash + 1 : it->path;
	ext2_filsys fs = fs_of(im);

	if (S_ISDIR(it->mode))
		return make_dir(fs, dir, name, ino);
	if (S_ISLNK(it->mode))
		return make_symlink(
			fs, dir, name, it->symlink ? it->symlink : "", ino);
	return new_inode(fs, dir, it, name, ino);
}

static int ext4_add(struct image *im, const struct image_item *it,
	const struct image_node *parent, struct image_node *node, struct err *e)
{
	const char *slash = strrchr(it->path, '/');
	ext2_filsys fs = fs_of(im);
	ext2_ino_t ino = node->ino;
	errcode_t r = 0;
	int err;

	if (!it->path[0]) {
		ino = node->ino = EXT2_ROOT_INO;
	} else if (it->hardlink[0]) {
		r = hard_link(
			fs, parent->ino, slash ? slash + 1 : it->path, node);
		return r ? failed(e, r, it->path) : 0;
	} else if (!ino) {
		r = make_entry(im, it, parent->ino, &ino);
		node->ino = ino;
	}
	if (!r && S_ISREG(it->mode)) {
		err = fill_file(im, it, ino, e);
		if (err)
			return err;
	}
	if (!r)
		r = set_owner(fs, it, ino);
	if (!r)
		r = set_xattrs(fs, ino, it->ae);
	return r ? failed(e, r, it->path) : 0;
}

static int ext4_end(struct image *im, struct err *e)
{
	ext2_filsys fs = fs_of(im);
	errcode_t r = ext2fs_close_free(&fs);

	im->sink = NULL;
	return r ? failed(e, r, "") : 0;
}

static void ext4_free(struct image *im)
{
	ext2_filsys fs = fs_of(im);

	if (fs)
		ext2fs_free(fs);
	im->sink = NULL;
}

const struct image_sink_ops image_ext4 = {
	.begin = ext4_begin,
	.add = ext4_add,
	.end = ext4_end,
	.free = ext4_free,
};
