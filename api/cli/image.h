/*
 * thaw image build: a disk or an initrd from a directory or a tar.
 *
 * How it works. Entries come one by one from a source (libarchive reads tars
 * and directories) and go into a sink: an ext4 file system, written with
 * libext2fs after mke2fs has made it, or a cpio archive. Nothing is unpacked on
 * the host, so it takes no rights to keep owners and device nodes, and a tar
 * cannot reach any file but the image. Every path is brought into one form
 * ("a/b", no "..") and looked up in a tree of what is in the image so far: what
 * lies below something that is no directory is refused.
 */
#ifndef THAW_API_CLI_IMAGE_H
#define THAW_API_CLI_IMAGE_H

#include "core/err.h"

#include <limits.h>
#include <sys/types.h>

struct archive;
struct archive_entry;

struct image_item {
	char path[PATH_MAX]; /* in the one form */
	mode_t mode;         /* type and permissions */
	uint32_t uid, gid;
	dev_t rdev;
	int64_t mtime;
	uint64_t size;
	const char *symlink;      /* borrowed; its target as it stands */
	char hardlink[PATH_MAX];  /* path of the first name, or "" */
	struct archive_entry *ae; /* borrowed; extended attributes, or NULL */
	struct archive *from;     /* borrowed; the bytes: one of these three */
	const char *file;         /* borrowed; a file of the host */
	const void *data;         /* borrowed */
};

/* Read the bytes of a regular file in order: the number, 0 at the end. */
struct image_bytes {
	const struct image_item *it;
	int fd; /* owned; -1 */
	uint64_t off;
};
int image_bytes_open(struct image_bytes *b, const struct image_item *it,
	struct err *e) MUST_USE;
ssize_t image_bytes_read(
	struct image_bytes *b, void *buf, size_t n, struct err *e);
void image_bytes_close(struct image_bytes *b);

/* image_source.c */
struct image_source;
int image_source_open(
	struct image_source **out, const char *path, struct err *e) MUST_USE;
/* 1: *it is the next entry; 0: the end; -errno. */
int image_source_next(
	struct image_source *s, struct image_item *it, struct err *e) MUST_USE;
void image_source_close(struct image_source *s);
/* "./a//b/" -> "a/b"; -EBADMSG for "..", or what is too long. */
int image_path(const char *in, char out[PATH_MAX]) MUST_USE;

/* A name in the image. */
struct image_node {
	char *path; /* owned */
	mode_t mode;
	uint32_t ino; /* the sink's */
	char *link;   /* owned; of a symbolic link */
};

struct image;
struct image_sink_ops {
	/* Make the empty image in fd. */
	int (*begin)(struct image *im, struct err *e);
	/* One entry; .ino of node is the sink's to set. A hard link's node
	 * has that of its first name. */
	int (*add)(struct image *im, const struct image_item *it,
		const struct image_node *parent, struct image_node *node,
		struct err *e);
	int (*end)(struct image *im, struct err *e);
	void (*free)(struct image *im);
};
extern const struct image_sink_ops image_ext4, image_cpio;

struct image {
	const struct image_sink_ops *ops;
	int fd;                  /* borrowed: the file */
	uint64_t size;           /* ext4: of the file; 0: as needed */
	uint64_t bytes, entries; /* what the source holds */
	const char *label;
	void *tree; /* owned; of struct image_node */
	void *sink; /* owned by ops */
	uint32_t next_ino;
};

/* image.c */
int image_begin(struct image *im, struct err *e) MUST_USE;
int image_add(
	struct image *im, const struct image_item *it, struct err *e) MUST_USE;
int image_end(struct image *im, struct err *e) MUST_USE;
void image_free(struct image *im);
const struct image_node *image_find(struct image *im, const char *path);
/* "sbin/x" -> "usr/sbin/x" where sbin is a link to usr/sbin in the image. */
void image_resolve(struct image *im, const char *path, char out[PATH_MAX]);
/* Parts of what the tool itself adds; nothing when the name is taken. */
int image_add_dir(struct image *im, const char *path, mode_t mode,
	struct err *e) MUST_USE;
int image_add_link(struct image *im, const char *path, const char *target,
	struct err *e) MUST_USE;
int image_add_file(struct image *im, const char *path, const char *file,
	mode_t mode, struct err *e) MUST_USE;

/* image_init.c: process 1 of the guest. */
enum image_init {
	IMAGE_INIT_ANY,   /* the source's own, else the agent */
	IMAGE_INIT_AGENT, /* the agent, instead of the source's own */
	IMAGE_INIT_OWN    /* the source's own; the agent is its service */
};
/* Is this entry of the source what the kernel starts? */
bool image_is_init(const struct image_item *it, bool initrd);
int image_add_init(struct image *im, enum image_init how, bool initrd,
	struct err *e) MUST_USE;

/* image_modules.c: the modules of dir (lib/modules/VERSION) that thaw's
 * devices need, and their needs, unpacked. *n counts them. */
int image_add_modules(
	struct image *im, const char *dir, unsigned *n, struct err *e) MUST_USE;

#endif
