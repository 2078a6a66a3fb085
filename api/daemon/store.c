#include "api/daemon/store.h"

#include "core/log.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <linux/fs.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#define SNAPSHOT "snapshot.thaw"
#define SET      SNAPSHOT ".ws"
#define META     "template.json"
#define TEMP     ".new-"
/* template.json is small; labels came in a request of 50 KB. */
#define META_MAX (1 * MIB)

/* A template's directory holds files only. */
static void remove_dir(int store, const char *name)
{
	int fd = openat(
		store, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *de;

	if (!dir) {
		if (fd >= 0)
			(void)close(fd);
		return;
	}
	while ((de = readdir(dir)))
		(void)unlinkat(fd, de->d_name, 0);
	(void)closedir(dir);
	if (unlinkat(store, name, AT_REMOVEDIR))
		log_warning("cannot remove %s: %s", name, strerror(errno));
}

static int make_dirs(const char *path, struct err *e)
{
	char part[4096];

	(void)snprintf(part, sizeof(part), "%s", path);
	for (char *p = part + 1;; p++) {
		char c = *p;

		if (c && c != '/')
			continue;
		*p = 0;
		if (mkdir(part, 0700) && errno != EEXIST)
			return err_sys(e, -errno, "creating %s", part);
		*p = c;
		if (!c)
			return 0;
	}
}

static void remove_leftovers(int store)
{
	int fd = openat(store, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *de;

	if (!dir) {
		if (fd >= 0)
			(void)close(fd);
		return;
	}
	while ((de = readdir(dir))) {
		if (!strncmp(de->d_name, TEMP, strlen(TEMP)))
			remove_dir(store, de->d_name);
	}
	(void)closedir(dir);
}

int store_open(const char *state_dir, struct err *e)
{
	char path[4096];
	int fd, r;

	(void)snprintf(path, sizeof(path), "%s/templates", state_dir);
	r = make_dirs(path, e);
	if (r)
		return r;
	fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return err_sys(e, -errno, "opening %s", path);
	/* What another one is making looks like leftovers to us. */
	if (flock(fd, LOCK_EX | LOCK_NB)) {
		r = errno == EWOULDBLOCK
			    ? err_set(e, -EBUSY,
				      "another thawd keeps its templates in "
				      "%s; use --state-dir for a second one",
				      state_dir)
			    : err_sys(e, -errno, "locking %s", path);
		(void)close(fd);
		return r;
	}
	remove_leftovers(fd);
	return fd;
}

int store_begin(int store, const char *name, struct store_new *n, int *fd,
	struct err *e)
{
	struct stat st;

	n->dir = -1;
	if (!fstatat(store, name, &st, AT_SYMLINK_NOFOLLOW))
		return err_set(e, -EEXIST,
			"template \"%s\" exists in the state directory", name);
	(void)snprintf(n->name, sizeof(n->name), "%s", name);
	(void)snprintf(n->temp, sizeof(n->temp), TEMP "%s", name);
	if (mkdirat(store, n->temp, 0700))
		return err_sys(e, -errno, "creating %s in the state directory",
			n->temp);
	n->dir = openat(store, n->temp,
		O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	if (n->dir < 0) {
		int r = err_sys(e, -errno, "opening %s", n->temp);

		(void)unlinkat(store, n->temp, AT_REMOVEDIR);
		return r;
	}
	*fd = openat(
		n->dir, SNAPSHOT, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	return *fd < 0 ? err_sys(e, -errno, "creating the snapshot") : 0;
}

static json_t *remote_json(const struct remote_name *n)
{
	char url[REMOTE_URL_MAX];

	if (!n)
		return NULL;
	remote_url(n, url);
	return json_string(url);
}

static struct remote_name *read_remote(const json_t *j)
{
	const char *url = json_string_value(json_object_get(j, "remote"));
	struct remote_name *n = url ? malloc(sizeof(*n)) : NULL;
	struct err e = {0};

	if (!n || !remote_parse(url, n, &e))
		return n;
	free(n);
	return NULL;
}

static int write_meta(int dir, const struct store_meta *meta, struct err *e)
{
	json_t *labels =
		meta->labels ? json_loads(meta->labels, 0, NULL) : NULL;
	json_t *disks = meta->disks ? json_loads(meta->disks, 0, NULL) : NULL;
	json_t *remote = remote_json(meta->remote);
	json_t *j = json_pack(
		"{s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:o*,s:o*,s:o*}",
		"pool", (json_int_t)meta->pool, "max_clones",
		(json_int_t)meta->max_clones, "invoke_ms",
		(json_int_t)meta->invoke_ms, "created_ns",
		(json_int_t)meta->created, "uid", (json_int_t)meta->uid, "gid",
		(json_int_t)meta->gid, "lazy", (json_int_t)meta->paging.lazy,
		"fill_none", (json_int_t)meta->paging.fill_none, "fill_rate",
		(json_int_t)meta->paging.rate, "stall_ms",
		(json_int_t)meta->paging.stall_ms, "labels", labels, "disks",
		disks, "remote", remote);
	char *text = j ? json_dumps(j, JSON_INDENT(2)) : NULL;
	AUTO_FD fd = -1;
	int r = text ? 0 : -ENOMEM;

	json_decref(j);
	fd = openat(dir, META, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (!r && fd < 0)
		r = -errno;
	if (!r)
		r = write_full(fd, text, strlen(text));
	if (!r && fsync(fd))
		r = -errno;
	free(text);
	return r ? err_sys(e, r, "writing " META) : 0;
}

int store_commit(int store, struct store_new *n, const struct store_meta *meta,
	struct err *e)
{
	int r = write_meta(n->dir, meta, e);

	if (r)
		return r;
	if (fsync(n->dir))
		return err_sys(e, -errno, "fsync of the template's directory");
	if (renameat2(store, n->temp, store, n->name, RENAME_NOREPLACE))
		return err_sys(
			e, -errno, "naming the template \"%s\"", n->name);
	if (fsync(store)) {
		int code = -errno;

		store_remove(store, n->name);
		return err_sys(e, code, "fsync of the state directory");
	}
	(void)close(n->dir);
	n->dir = -1;
	return 0;
}

void store_abort(int store, struct store_new *n)
{
	if (n->dir < 0)
		return;
	(void)close(n->dir);
	n->dir = -1;
	remove_dir(store, n->temp);
}

/* Renamed first: a crash in between leaves a leftover, not half a template. */
void store_remove(int store, const char *name)
{
	char temp[80];

	(void)snprintf(temp, sizeof(temp), TEMP "%s", name);
	if (renameat(store, name, store, temp)) {
		log_warning("cannot remove template \"%s\": %s", name,
			strerror(errno));
		return;
	}
	remove_dir(store, temp);
	if (fsync(store))
		log_warning(
			"fsync of the state directory: %s", strerror(errno));
}

int store_list(int store, void (*fn)(void *arg, const char *name), void *arg)
{
	int fd = openat(store, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *de;

	if (!dir) {
		int r = -errno;

		if (fd >= 0)
			(void)close(fd);
		return r;
	}
	while ((de = readdir(dir))) {
		if (de->d_name[0] != '.')
			fn(arg, de->d_name);
	}
	(void)closedir(dir);
	return 0;
}

static uint64_t get_number(const json_t *j, const char *key)
{
	json_int_t v = json_integer_value(json_object_get(j, key));

	return v > 0 ? (uint64_t)v : 0;
}

static int read_meta(int dir, struct store_meta *meta, struct err *e)
{
	AUTO_FREE char *text = malloc(META_MAX);
	AUTO_FD fd = openat(dir, META, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	json_error_t je;
	json_t *j, *labels;
	ssize_t n;

	if (!text)
		return err_set(e, -ENOMEM, "no memory for " META);
	if (fd < 0)
		return err_sys(e, -errno, "opening " META);
	n = read(fd, text, META_MAX);
	if (n < 0)
		return err_sys(e, -errno, "reading " META);
	j = json_loadb(text, (size_t)n, 0, &je);
	if (!json_is_object(j)) {
		json_decref(j);
		return err_set(e, -EBADMSG, META ": not a JSON object");
	}
	meta->pool = get_number(j, "pool");
	meta->max_clones = get_number(j, "max_clones");
	meta->invoke_ms = get_number(j, "invoke_ms");
	meta->created = get_number(j, "created_ns");
	meta->paging.lazy = get_number(j, "lazy") != 0;
	meta->paging.fill_none = get_number(j, "fill_none") != 0;
	meta->paging.rate = get_number(j, "fill_rate");
	meta->paging.stall_ms = min_u64(get_number(j, "stall_ms"), UINT32_MAX);
	labels = json_object_get(j, "labels");
	if (json_is_object(labels))
		meta->labels = json_dumps(labels, JSON_COMPACT);
	meta->uid = get_number(j, "uid");
	meta->gid = get_number(j, "gid");
	if (json_is_array(json_object_get(j, "disks")))
		meta->disks =
			json_dumps(json_object_get(j, "disks"), JSON_COMPACT);
	meta->remote = read_remote(j);
	json_decref(j);
	return 0;
}

char *store_snapshot_path(const char *state_dir, const char *name)
{
	AUTO_FREE char *dir = realpath(state_dir, NULL);
	char *path = NULL;

	if (!dir || asprintf(&path, "%s/templates/%s/" SNAPSHOT, dir, name) < 0)
		return NULL;
	return path;
}

int store_load(int store, const char *name, struct store_meta *meta, int *fd,
	struct err *e)
{
	AUTO_FD dir = openat(
		store, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	int r;

	memset(meta, 0, sizeof(*meta));
	if (dir < 0)
		return err_sys(e, -errno, "opening %s", name);
	r = read_meta(dir, meta, e);
	if (r)
		return r;
	*fd = openat(dir, SNAPSHOT, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (*fd >= 0)
		return 0;
	r = -errno;
	free(meta->labels);
	free(meta->disks);
	free(meta->remote);
	memset(meta, 0, sizeof(*meta));
	return err_sys(e, r, "opening " SNAPSHOT);
}

int store_overlay(int store, const char *name, const char *id)
{
	AUTO_FD dir = openat(
		store, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	char file[64];
	int fd;

	if (dir < 0)
		return -errno;
	(void)snprintf(file, sizeof(file), "%s.overlay", id);
	fd = openat(dir, file, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	return fd < 0 ? -errno : fd;
}

int store_open_set(int store, const char *name)
{
	AUTO_FD dir = openat(
		store, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);

	return dir < 0 ? -1
		       : openat(dir, SET, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
}

/* Lost after a crash of the host it costs a recording and nothing else. */
int store_put_set(int dir, int from, struct err *e)
{
	AUTO_FD to = openat(dir, SET TEMP,
		O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
	int r;

	if (to < 0)
		return err_sys(e, -errno, "creating " SET);
	r = store_copy(from, to, e);
	if (!r && renameat(dir, SET TEMP, dir, SET))
		r = err_sys(e, -errno, "naming " SET);
	if (r)
		(void)unlinkat(dir, SET TEMP, 0);
	return r;
}

int store_replace_set(int store, const char *name, int from, struct err *e)
{
	AUTO_FD dir = openat(
		store, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);

	return dir < 0 ? err_sys(e, -errno, "opening %s", name)
		       : store_put_set(dir, from, e);
}

static int second_name(const struct store_new *n, int from)
{
	char path[40];
	int r;

	(void)snprintf(path, sizeof(path), "/proc/self/fd/%d", from);
	if (linkat(AT_FDCWD, path, n->dir, SNAPSHOT TEMP, AT_SYMLINK_FOLLOW))
		return -errno;
	if (!renameat(n->dir, SNAPSHOT TEMP, n->dir, SNAPSHOT))
		return 0;
	r = -errno;
	(void)unlinkat(n->dir, SNAPSHOT TEMP, 0);
	return r;
}

int store_link(const struct store_new *n, int from, int to)
{
	if (ioctl(to, FICLONE, from) == 0)
		return fsync(to) == 0;
	return second_name(n, from) == 0;
}

int store_adopt(const struct store_new *n, int from, struct err *e)
{
	int r = second_name(n, from);

	return r ? err_sys(e, r, "giving the cached snapshot a second name")
		 : 0;
}

/* The rest of a file, where the kernel does not copy between two of them. */
static int copy_bytes(int from, int to, off_t at, off_t end, struct err *e)
{
	const size_t size = MIB;
	AUTO_FREE uint8_t *buf = malloc(size);
	int r = buf ? 0 : -ENOMEM;

	while (!r && at < end) {
		size_t n = (size_t)min_u64(size, (uint64_t)(end - at));

		r = pread_full(from, buf, n, (uint64_t)at);
		if (!r)
			r = pwrite_full(to, buf, n, (uint64_t)at);
		at += (off_t)n;
	}
	return r ? err_sys(e, r, "copying the snapshot") : 0;
}

int store_copy(int from, int to, struct err *e)
{
	off_t in = 0, out = 0;
	struct stat st;

	if (fstat(from, &st))
		return err_sys(e, -errno, "fstat");
	if (ioctl(to, FICLONE, from) == 0)
		return fsync(to) ? err_sys(e, -errno, "fsync") : 0;
	while (in < st.st_size) {
		ssize_t n = copy_file_range(
			from, &in, to, &out, (size_t)(st.st_size - in), 0);

		if (n < 0 && errno == EINTR)
			continue;
		/* Not from one kind of file system to another. */
		if (n < 0 && (errno == EXDEV || errno == EINVAL ||
				     errno == EOPNOTSUPP || errno == ENOSYS)) {
			int r = copy_bytes(from, to, in, st.st_size, e);

			if (r)
				return r;
			break;
		}
		if (n < 0)
			return err_sys(e, -errno, "copying the snapshot");
		if (n == 0)
			return err_set(e, -EBADMSG,
				"the snapshot became shorter while it was "
				"copied");
	}
	return fsync(to) ? err_sys(e, -errno, "fsync of the snapshot") : 0;
}
