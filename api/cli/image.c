#include "api/cli/image.h"

#include <errno.h>
#include <search.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

static int compare(const void *a, const void *b)
{
	const struct image_node *x = a, *y = b;

	return strcmp(x->path, y->path);
}

static void node_free(void *p)
{
	struct image_node *n = p;

	free(n->path);
	free(n->link);
	free(n);
}

static struct image_node *find(struct image *im, const char *path)
{
	struct image_node key = {.path = (char *)(uintptr_t)path};
	struct image_node **at = tfind(&key, &im->tree, compare);

	return at ? *at : NULL;
}

const struct image_node *image_find(struct image *im, const char *path)
{
	return find(im, path);
}

static struct image_node *insert(
	struct image *im, const struct image_item *it, struct err *e)
{
	struct image_node *n = calloc(1, sizeof(*n)), **at;

	if (n) {
		n->path = strdup(it->path);
		n->link = it->symlink ? strdup(it->symlink) : NULL;
		n->mode = it->mode;
	}
	at = n && n->path && (n->link || !it->symlink)
		     ? tsearch(n, &im->tree, compare)
		     : NULL;
	if (at)
		return n;
	if (n)
		node_free(n);
	err_set(e, -ENOMEM, "no memory");
	return NULL;
}

static void forget(struct image *im, struct image_node *n)
{
	(void)tdelete(n, &im->tree, compare);
	node_free(n);
}

/* The directory that holds this path; made when the source has not named it,
 * as tars may leave directories out. */
static struct image_node *parent_of(
	struct image *im, const char *path, struct err *e)
{
	const char *slash = strrchr(path, '/');
	struct image_item dir = {.mode = S_IFDIR | 0755};
	struct image_node *n;

	if (slash)
		memcpy(dir.path, path, (size_t)(slash - path));
	n = find(im, dir.path);
	if (!n) {
		if (image_add(im, &dir, e))
			return NULL;
		n = find(im, dir.path);
	}
	if (n && !S_ISDIR(n->mode)) {
		err_set(e, -EBADMSG,
			"\"%.200s\" lies below \"%.200s\", which is no "
			"directory",
			path, n->path);
		return NULL;
	}
	return n;
}

int image_begin(struct image *im, struct err *e)
{
	const struct image_item root = {.mode = S_IFDIR | 0755};
	struct image_node *n;
	int r = im->ops->begin(im, e);

	if (r)
		return r;
	n = insert(im, &root, e);
	return n ? im->ops->add(im, &root, NULL, n, e) : -ENOMEM;
}

/* A name that is there already: a directory may be named again. */
static int again(struct image *im, const struct image_item *it,
	struct image_node *n, struct err *e)
{
	if (!S_ISDIR(it->mode) || !S_ISDIR(n->mode))
		return err_set(e, -EBADMSG, "\"%.300s\" comes twice", it->path);
	return im->ops->add(im, it, NULL, n, e);
}

int image_add(struct image *im, const struct image_item *it, struct err *e)
{
	struct image_node *n = find(im, it->path), *parent, *first = NULL;
	int r;

	if (n)
		return again(im, it, n, e);
	if (it->hardlink[0]) {
		first = find(im, it->hardlink);
		if (!first || S_ISDIR(first->mode))
			return err_set(e, -EBADMSG,
				"\"%.200s\" is a link to \"%.200s\", which is "
				"not in the image",
				it->path, it->hardlink);
	}
	parent = parent_of(im, it->path, e);
	n = parent ? insert(im, it, e) : NULL;
	if (!n)
		return e->code ? e->code : -ENOMEM;
	if (first) {
		n->ino = first->ino;
		n->mode = first->mode;
	}
	r = im->ops->add(im, it, parent, n, e);
	if (r)
		forget(im, n);
	return r;
}

int image_end(struct image *im, struct err *e)
{
	return im->ops->end(im, e);
}

void image_free(struct image *im)
{
	im->ops->free(im);
	tdestroy(im->tree, node_free);
	im->tree = NULL;
}

void image_resolve(struct image *im, const char *path, char out[PATH_MAX])
{
	const char *slash = strchr(path, '/');
	char top[NAME_MAX + 1] = "", to[PATH_MAX];
	const struct image_node *n = NULL;

	if (slash && slash - path <= NAME_MAX) {
		memcpy(top, path, (size_t)(slash - path));
		top[slash - path] = '\0';
		n = find(im, top);
	}
	if (n && n->link && !image_path(n->link, to) &&
		strlen(to) + strlen(slash) < PATH_MAX)
		(void)snprintf(out, PATH_MAX, "%.2000s%.2000s", to, slash);
	else
		(void)snprintf(out, PATH_MAX, "%s", path);
}

/* ---- what the tool adds itself ---- */

int image_add_dir(
	struct image *im, const char *path, mode_t mode, struct err *e)
{
	struct image_item it = {.mode = S_IFDIR | mode};

	image_resolve(im, path, it.path);
	return find(im, it.path) ? 0 : image_add(im, &it, e);
}

int image_add_link(
	struct image *im, const char *path, const char *target, struct err *e)
{
	struct image_item it = {.mode = S_IFLNK | 0777, .symlink = target};

	image_resolve(im, path, it.path);
	return find(im, it.path) ? 0 : image_add(im, &it, e);
}

int image_add_file(struct image *im, const char *path, const char *file,
	mode_t mode, struct err *e)
{
	struct image_item it = {.mode = S_IFREG | mode, .file = file};
	struct stat st;

	image_resolve(im, path, it.path);
	if (find(im, it.path))
		return 0;
	if (stat(file, &st))
		return err_sys(e, -errno, "%s", file);
	if (!S_ISREG(st.st_mode))
		return err_set(e, -EINVAL, "%s is not a regular file", file);
	it.size = (uint64_t)st.st_size;
	it.mtime = st.st_mtime;
	return image_add(im, &it, e);
}
