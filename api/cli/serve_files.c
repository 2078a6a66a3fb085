#include "api/cli/serve.h"

#include "uffd/ws.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

/* How often a directory is looked through for what it did not have. */
#define LOOK_NS 1000000000ULL

/* A regular file of this directory: no link, and nothing that could block. */
static int open_file(int dir, const char *name, struct stat *st)
{
	AUTO_FD fd = openat(dir, name,
		O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY);

	if (fd < 0)
		return -errno;
	if (fstat(fd, st))
		return -errno;
	if (!S_ISREG(st->st_mode))
		return -EINVAL;
	return take_fd(&fd);
}

static bool same(const struct remote_file *a, const struct remote_file *b)
{
	return !memcmp(a->uuid.b, b->uuid.b, 16) &&
	       !memcmp(a->digest, b->digest, 16);
}

static const struct served *find_locked(
	const struct serve_files *t, const struct remote_file *f)
{
	for (unsigned i = 0; i < t->n; i++) {
		if (same(&t->file[i]->is, f))
			return t->file[i];
	}
	return NULL;
}

static void look_at_locked(struct serve_files *t, const char *name)
{
	struct served *s;
	struct snap_peeked peek;
	struct stat st = {0};
	AUTO_FD fd = open_file(t->dir, name, &st);
	struct err e = {0};

	if (fd < 0 || t->n == SERVE_MAX_FILES || snap_peek(fd, &peek, &e))
		return;
	s = calloc(1, sizeof(*s));
	if (!s)
		return;
	s->is.uuid = peek.uuid;
	memcpy(s->is.digest, peek.digest, 16);
	s->length = (uint64_t)st.st_size;
	(void)snprintf(s->name, sizeof(s->name), "%s", name);
	if (find_locked(t, &s->is)) {
		free(s);
		return;
	}
	s->fd = take_fd(&fd);
	t->file[t->n++] = s;
}

static int look_locked(struct serve_files *t)
{
	int fd = openat(t->dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *de;

	t->looked = now_ns();
	if (!dir) {
		int r = -errno;

		if (fd >= 0)
			(void)close(fd);
		return r;
	}
	while ((de = readdir(dir)))
		look_at_locked(t, de->d_name);
	(void)closedir(dir);
	return 0;
}

int serve_files_open(struct serve_files *t, const char *path, struct err *e)
{
	int r;

	memset(t, 0, sizeof(*t));
	(void)pthread_mutex_init(&t->lock, NULL);
	t->dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	r = t->dir < 0 ? -errno : look_locked(t);
	return r ? err_sys(e, r, "%s", path) : 0;
}

void serve_files_close(struct serve_files *t)
{
	for (unsigned i = 0; i < t->n; i++) {
		(void)close(t->file[i]->fd);
		free(t->file[i]);
	}
	if (t->dir >= 0)
		(void)close(t->dir);
	(void)pthread_mutex_destroy(&t->lock);
}

const struct served *serve_find(
	struct serve_files *t, const struct remote_file *f)
{
	const struct served *s;

	(void)pthread_mutex_lock(&t->lock);
	s = find_locked(t, f);
	if (!s && now_ns() - t->looked >= LOOK_NS && !look_locked(t))
		s = find_locked(t, f);
	(void)pthread_mutex_unlock(&t->lock);
	return s;
}

int serve_set(
	const struct serve_files *t, const struct served *f, uint64_t *length)
{
	char name[sizeof(f->name) + sizeof(WS_SUFFIX)];
	struct stat st = {0};
	int fd;

	(void)snprintf(name, sizeof(name), "%s" WS_SUFFIX, f->name);
	fd = open_file(t->dir, name, &st);
	if (fd < 0)
		return -1;
	*length = (uint64_t)st.st_size;
	if (*length && *length <= REMOTE_MAX_SET)
		return fd;
	(void)close(fd);
	return -1;
}
