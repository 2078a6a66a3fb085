#include "snapshot/files.h"

#include "core/mp.h"
#include "snapshot/internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static bool same_uuid(const struct snap_uuid *a, const struct snap_uuid *b)
{
	return !memcmp(a->b, b->b, sizeof(a->b));
}

static const char *name_of(const struct snap_file *f)
{
	return f->path[0] ? f->path : "the snapshot";
}

static const char *name_of_found(const struct snap_file *f)
{
	return f->path[0] ? f->path : "what was found";
}

/* ---- following ---- */

/* Is the file in f, whose path is known, the parent of child? */
static int check(
	const struct snap_file *child, struct snap_file *f, struct err *e)
{
	char is[SNAP_UUID_STR];
	struct err why = {0};

	if (snap_peek(f->fd, &f->is, &why))
		return err_set(e, why.code, "%.200s: %.200s", name_of_found(f),
			why.msg);
	if (same_uuid(&f->is.uuid, &child->is.parent_uuid) &&
		!memcmp(f->is.digest, child->is.parent_digest, 16))
		return 0;
	if (same_uuid(&f->is.uuid, &child->is.parent_uuid))
		return err_set(e, -ESTALE,
			"%.200s has been changed since the diff was made",
			name_of_found(f));
	snap_uuid_str(&f->is.uuid, is);
	return err_set(
		e, -ESTALE, "%.200s is snapshot %s", name_of_found(f), is);
}

static int missing(
	const struct snap_file *child, const struct err *found, struct err *e)
{
	char uuid[SNAP_UUID_STR];

	snap_uuid_str(&child->is.parent_uuid, uuid);
	if (found->code)
		return err_set(e, -ESTALE,
			"%.200s builds on snapshot %s, but %.300s",
			name_of(child), uuid, found->msg);
	return err_set(e, -ENOENT,
		"%.200s builds on snapshot %s, which is neither at \"%.300s\" "
		"nor beside it",
		name_of(child), uuid, child->is.parent_path);
}

int snap_find_parent(const struct snap_file *child, snap_find_fn *find,
	void *arg, struct snap_file *f, struct err *e)
{
	struct err found = {0};

	for (bool first = true;; first = false) {
		struct err why = {0};
		int rc;

		f->path[0] = '\0';
		f->fd = find(arg, child, first, f->path, &why);
		if (f->fd == -ENOENT)
			return missing(child, &found, e);
		rc = f->fd < 0 ? f->fd : check(child, f, &why);
		if (!rc)
			return 0;
		if (f->fd >= 0)
			(void)close(f->fd);
		if (!found.code)
			found = why;
	}
}

int snap_follow(int fd, const char *path, snap_find_fn *find, void *arg,
	struct snap_files *c, struct err *e)
{
	int rc;

	memset(c, 0, sizeof(*c));
	c->file = calloc(SNAP_MAX_CHAIN + 1, sizeof(*c->file));
	if (!c->file)
		return err_set(e, -ENOMEM, "out of memory");
	c->file[0].fd = fd;
	(void)snprintf(c->file[0].path, sizeof(c->file[0].path), "%s", path);
	rc = snap_peek(fd, &c->file[0].is, e);
	if (rc) {
		snap_files_close(c);
		return rc;
	}
	c->n = 1;
	while (c->file[c->n - 1].is.diff && !c->missing.code) {
		const struct snap_file *child = &c->file[c->n - 1];

		c->missing_uuid = child->is.parent_uuid;
		if (c->n > SNAP_MAX_CHAIN)
			(void)err_set(&c->missing, -EOPNOTSUPP,
				"%.200s: a chain of more than %d diffs: merge "
				"some of them",
				name_of(&c->file[0]), SNAP_MAX_CHAIN);
		else if (!snap_find_parent(
				 child, find, arg, &c->file[c->n], &c->missing))
			c->n++;
	}
	return 0;
}

void snap_files_close(struct snap_files *c)
{
	for (unsigned i = 1; i < c->n; i++)
		(void)close(c->file[i].fd);
	free(c->file);
	c->file = NULL;
	c->n = 0;
}

/* ---- looking ---- */

/* Those that are there; on error nothing is left open. */
static int open_all(const struct snap_files *c, struct snap **s, struct err *e)
{
	int rc = 0;

	memset(s, 0, c->n * sizeof(struct snap *));
	for (unsigned i = 0; i < c->n && !rc; i++) {
		rc = snap_open(c->file[i].fd, &s[i], e);
		if (rc && i)
			rc = err_wrap(e, "%.200s", c->file[i].path);
	}
	/* The oldest first: depth counts from there. */
	for (unsigned i = c->n; i-- > 1 && !rc;)
		rc = snap_attach(s[i - 1], s[i], e);
	if (rc)
		snap_close_chain(s, c->n);
	return rc;
}

int snap_files_open(const struct snap_files *c, struct snap **s, struct err *e)
{
	int rc;

	if (c->missing.code) {
		*e = c->missing;
		return e->code;
	}
	rc = open_all(c, s, e);
	if (!rc)
		rc = snap_check_chain(s[0], e);
	if (rc)
		snap_close_chain(s, c->n);
	return rc;
}

/* An error about an ancestor has its uuid; people know files by name. */
static void add_name(const struct snap_files *c, struct err *e)
{
	char uuid[SNAP_UUID_STR];
	struct err why = *e;

	for (unsigned i = 1; i < c->n; i++) {
		snap_uuid_str(&c->file[i].is.uuid, uuid);
		if (strstr(why.msg, uuid))
			(void)err_set(e, why.code, "%.300s (%.200s)", why.msg,
				c->file[i].path);
	}
}

static void pack_verified(
	const char *path, const struct snap_verified *v, msgpack_packer *out)
{
	char uuid[SNAP_UUID_STR];

	snap_uuid_str(&v->uuid, uuid);
	(void)msgpack_pack_map(out, 8);
	mp_key_str(out, "file", path);
	mp_key_bool(out, "ok", true);
	mp_key_str(out, "uuid", uuid);
	mp_key_u64(out, "files", v->files);
	mp_key_u64(out, "bytes", v->file_bytes);
	mp_key_u64(out, "chunks", v->chunks);
	mp_key_u64(out, "pages", v->pages_present);
	mp_key_u64(out, "zero", v->pages_zero);
}

int snap_files_verify(const struct snap_files *c,
	int (*progress)(void *arg, uint64_t done, uint64_t total), void *arg,
	msgpack_packer *out, struct err *e)
{
	struct snap *s[SNAP_MAX_CHAIN + 1];
	struct snap_verified v;
	int rc = open_all(c, s, e);

	if (!rc) {
		rc = snap_verify(s[0], SNAP_LOAD_THREADS, &v, progress, arg, e);
		snap_close_chain(s, c->n);
	}
	if (rc) {
		add_name(c, e);
		return rc;
	}
	if (c->missing.code) {
		*e = c->missing;
		return e->code;
	}
	pack_verified(c->file[0].path, &v, out);
	return 0;
}

int snap_files_inspect(int fd, const struct snap_files *c,
	struct snap_inspect_opts *o, msgpack_packer *out, struct err *e)
{
	struct snap_link links[SNAP_MAX_CHAIN + 1];
	unsigned n = 0;

	for (unsigned i = 1; i < c->n; i++)
		links[n++] = (struct snap_link){
			.path = c->file[i].path, .uuid = c->file[i].is.uuid};
	if (c->missing.code)
		links[n++] = (struct snap_link){
			.uuid = c->missing_uuid, .error = c->missing.msg};
	o->chain = links;
	o->nchain = n;
	return snap_inspect(fd, o, out, e);
}
