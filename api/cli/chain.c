#include "api/cli/chain.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

int file_open(const char *path, struct err *e)
{
	AUTO_FD look = open(path, O_PATH | O_CLOEXEC);
	char proc[40];
	struct stat st;
	int fd;

	if (look < 0 || fstat(look, &st))
		return err_set(e, -errno, "%.200s: %s", path, strerror(errno));
	if (!S_ISREG(st.st_mode))
		return err_set(e, -EINVAL, "%.200s: not a regular file", path);
	(void)snprintf(proc, sizeof(proc), "/proc/self/fd/%d", look);
	fd = open(proc, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	if (fd < 0)
		return err_set(e, -errno, "%.200s: %s", path, strerror(errno));
	return fd;
}

/* Where a parent is looked for. */
struct places {
	const char *const *more; /* given by the user */
	unsigned nmore, next;
};

/* A name beside the file, or as it is when it is absolute. */
static int beside(const char *file, const char *name, char out[PATH_MAX])
{
	const char *slash = strrchr(file, '/');
	int dir = slash && name[0] != '/' ? (int)(slash - file) + 1 : 0;
	int n = snprintf(out, PATH_MAX, "%.*s%s", dir, file, name);

	return n > 0 && n < PATH_MAX ? 0 : -ENAMETOOLONG;
}

/* The place i after those that were given; false: it is none. */
static bool name_place(
	const struct snap_file *child, unsigned i, char path[PATH_MAX])
{
	const char *hint = child->is.parent_path;
	const char *slash = strrchr(hint, '/');

	if (i == 0)
		return *hint && !beside(child->path, hint, path);
	return slash && slash[1] && !beside(child->path, slash + 1, path);
}

static bool is_named_by(const struct snap_file *child, int fd)
{
	struct snap_peeked is;
	struct err e = {0};

	return !snap_peek(fd, &is, &e) &&
	       !memcmp(is.uuid.b, child->is.parent_uuid.b, sizeof(is.uuid.b));
}

static int find(void *arg, const struct snap_file *child, bool first,
	char path[PATH_MAX], struct err *e)
{
	struct places *p = arg;

	if (first)
		p->next = 0;
	while (p->next < p->nmore + 2) {
		unsigned i = p->next++;
		struct err why = {0};
		int fd;

		if (i < p->nmore)
			(void)snprintf(path, PATH_MAX, "%s", p->more[i]);
		else if (!name_place(child, i - p->nmore, path))
			continue;
		fd = file_open(path, &why);
		/* of those that were given most are others of the chain */
		if (i < p->nmore && fd >= 0 && !is_named_by(child, fd)) {
			(void)close(fd);
			continue;
		}
		if (fd >= 0)
			return fd;
		if (fd != -ENOENT && i >= p->nmore) {
			*e = why;
			return fd;
		}
	}
	return -ENOENT;
}

int file_chain_follow(int fd, const char *path, const char *const *more,
	unsigned nmore, struct snap_files *c, struct err *e)
{
	struct places p = {.more = more, .nmore = nmore};

	return snap_follow(fd, path, find, &p, c, e);
}

int file_chain_open(const char *path, const char *const *more, unsigned nmore,
	struct snap_files *c, struct err *e)
{
	int rc, fd = file_open(path, e);

	memset(c, 0, sizeof(*c));
	if (fd < 0)
		return fd;
	rc = file_chain_follow(fd, path, more, nmore, c, e);
	if (rc) {
		(void)close(fd);
		return err_wrap(e, "%.200s", path);
	}
	return 0;
}

void file_chain_close(struct snap_files *c)
{
	int fd = c->n ? c->file[0].fd : -1;

	snap_files_close(c);
	if (fd >= 0)
		(void)close(fd);
}
