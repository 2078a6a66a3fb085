#include "api/cli/chain.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

static bool same_uuid(const struct snap_uuid *a, const struct snap_uuid *b)
{
	return !memcmp(a->b, b->b, sizeof(a->b));
}

static int open_file(const char *path, struct chain_file *f, struct err *e)
{
	int rc;

	f->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (f->fd < 0)
		return err_set(e, -errno, "%s", strerror(errno));
	(void)snprintf(f->path, sizeof(f->path), "%s", path);
	rc = snap_peek(f->fd, &f->is, e);
	if (rc) {
		(void)close(f->fd);
		f->fd = -1;
	}
	return rc;
}

/* A name beside the file, or as it is when it is absolute. */
static int beside(const char *file, const char *name, char out[PATH_MAX])
{
	const char *slash = strrchr(file, '/');
	int dir = slash && name[0] != '/' ? (int)(slash - file) + 1 : 0;
	int n = snprintf(out, PATH_MAX, "%.*s%s", dir, file, name);

	return n > 0 && n < PATH_MAX ? 0 : -ENAMETOOLONG;
}

/* Is what stands there the parent of child? 0: it is open in f. */
static int try_path(const struct chain_file *child, const char *path,
	struct chain_file *f, struct err *why)
{
	char is[SNAP_UUID_STR];
	struct err e = {0};
	int rc = open_file(path, f, &e);

	if (rc == -ENOENT)
		return rc;
	if (rc)
		return err_set(why, -ESTALE, "%.200s: %.200s", path, e.msg);
	if (same_uuid(&f->is.uuid, &child->is.parent_uuid) &&
		!memcmp(f->is.digest, child->is.parent_digest, 16))
		return 0;
	snap_uuid_str(&f->is.uuid, is);
	(void)close(f->fd);
	f->fd = -1;
	if (same_uuid(&f->is.uuid, &child->is.parent_uuid))
		return err_set(why, -ESTALE,
			"%.200s has been changed since the diff was made",
			path);
	return err_set(why, -ESTALE, "%.200s is snapshot %s", path, is);
}

static int find_parent(const struct chain_file *child, const char *const *more,
	unsigned nmore, struct chain_file *f, struct err *e)
{
	const char *hint = child->is.parent_path, *base;
	char path[PATH_MAX], uuid[SNAP_UUID_STR];
	struct err why = {0}, other = {0};

	for (unsigned i = 0; i < nmore; i++) {
		if (!try_path(child, more[i], f, &other))
			return 0;
	}
	base = strrchr(hint, '/');
	base = base ? base + 1 : hint;
	if (*hint && !beside(child->path, hint, path) &&
		!try_path(child, path, f, &why))
		return 0;
	if (*base && base != hint && !beside(child->path, base, path) &&
		!try_path(child, path, f, &why))
		return 0;
	snap_uuid_str(&child->is.parent_uuid, uuid);
	if (why.code)
		return err_set(e, -ESTALE,
			"%.200s builds on snapshot %s, but %.300s", child->path,
			uuid, why.msg);
	return err_set(e, -ENOENT,
		"%.200s builds on snapshot %s, which is neither at \"%.300s\" "
		"nor beside it",
		child->path, uuid, hint);
}

int file_chain_open(const char *path, const char *const *more, unsigned nmore,
	struct file_chain *c, struct err *e)
{
	int rc;

	memset(c, 0, sizeof(*c));
	c->file = calloc(SNAP_MAX_CHAIN + 1, sizeof(*c->file));
	if (!c->file)
		return err_set(e, -ENOMEM, "out of memory");
	rc = open_file(path, &c->file[0], e);
	if (rc) {
		file_chain_close(c);
		return err_wrap(e, "%.200s", path);
	}
	c->n = 1;
	while (c->file[c->n - 1].is.diff && !c->missing.code) {
		const struct chain_file *child = &c->file[c->n - 1];

		c->missing_uuid = child->is.parent_uuid;
		if (c->n > SNAP_MAX_CHAIN)
			(void)err_set(&c->missing, -EOPNOTSUPP,
				"%.200s: a chain of more than %d snapshots",
				path, SNAP_MAX_CHAIN);
		else if (!find_parent(child, more, nmore, &c->file[c->n],
				 &c->missing))
			c->n++;
	}
	return 0;
}

void file_chain_close(struct file_chain *c)
{
	for (unsigned i = 0; c->file && i < c->n; i++)
		(void)close(c->file[i].fd);
	free(c->file);
	c->file = NULL;
	c->n = 0;
}
