#include "snapshot/publish.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>

#define FILE_MODE 0600 /* guest memory holds secrets */

static int check_name(const char *name, struct err *e)
{
	if (!name[0] || strchr(name, '/') || !strcmp(name, ".") ||
		!strcmp(name, ".."))
		return err_set(e, -EINVAL, "\"%s\" is not a file name", name);
	if (strlen(name) > NAME_MAX)
		return err_set(e, -ENAMETOOLONG, "the file name is too long");
	return 0;
}

/* Early, so that nobody writes gigabytes first; commit checks again. */
static int check_free(const struct publish *p, struct err *e)
{
	struct stat st;

	if (fstatat(p->dirfd, p->name, &st, AT_SYMLINK_NOFOLLOW)) {
		if (errno == ENOENT)
			return 0;
		return err_sys(e, -errno, "%s", p->name);
	}
	if (S_ISDIR(st.st_mode))
		return err_set(e, -EISDIR, "%s is a directory", p->name);
	if (p->force && S_ISREG(st.st_mode))
		return 0;
	return err_set(e, -EEXIST, "%s exists already; \"force\" replaces it",
		p->name);
}

/* ---- temporary names ---- */

#define TEMP_PREFIX ".thaw-"
#define TEMP_DIGITS 16
/* Between making a file with a name and locking it. */
#define TEMP_AGE_S 60

static bool is_temp(const char *name)
{
	const size_t n = strlen(TEMP_PREFIX);

	return !strncmp(name, TEMP_PREFIX, n) &&
	       strlen(name) == n + TEMP_DIGITS &&
	       strspn(name + n, "0123456789abcdef") == TEMP_DIGITS;
}

/* Nobody writes it any more: a writer has a lock for as long as it lives. */
static bool is_left(int dirfd, const char *name)
{
	struct stat st;
	AUTO_FD fd = -1;

	if (fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW) ||
		!S_ISREG(st.st_mode) || st.st_mtime > time(NULL) - TEMP_AGE_S)
		return false;
	fd = openat(dirfd, name,
		O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	return fd >= 0 && !flock(fd, LOCK_EX | LOCK_NB);
}

static void sweep(int dirfd)
{
	int fd = openat(dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	const struct dirent *entry;

	if (!dir && fd >= 0)
		(void)close(fd);
	while (dir && (entry = readdir(dir))) {
		if (is_temp(entry->d_name) && is_left(fd, entry->d_name))
			(void)unlinkat(fd, entry->d_name, 0);
	}
	if (dir)
		(void)closedir(dir);
}

static int temp_name(struct publish *p)
{
	uint64_t r;

	if (getrandom(&r, sizeof(r), 0) != (ssize_t)sizeof(r))
		return -EIO;
	(void)snprintf(p->temp, sizeof(p->temp), TEMP_PREFIX "%0*llx",
		TEMP_DIGITS, (unsigned long long)r);
	return p->record ? p->record(p->arg, p->temp) : 0;
}

static int make_named(struct publish *p)
{
	int rc = temp_name(p);

	if (!rc) {
		p->fd = openat(p->dirfd, p->temp,
			O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW,
			FILE_MODE);
		if (p->fd >= 0)
			return 0;
		rc = -errno;
	}
	p->temp[0] = '\0';
	return rc;
}

static int make_file(struct publish *p)
{
	int rc;

	p->fd = openat(
		p->dirfd, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, FILE_MODE);
	rc = p->fd < 0 ? -errno : 0;
	if (rc == -EOPNOTSUPP || rc == -EISDIR || rc == -EINVAL ||
		rc == -ENOENT)
		rc = make_named(p);
	/* Where there are no locks, nothing is swept either. */
	if (!rc)
		(void)flock(p->fd, LOCK_EX | LOCK_NB);
	return rc;
}

int publish_begin(struct publish *p, int dirfd, const char *name, bool force,
	struct err *e)
{
	int rc = check_name(name, e);

	p->fd = -1;
	p->temp[0] = '\0';
	if (rc)
		return rc;
	p->dirfd = dirfd;
	p->force = force;
	(void)snprintf(p->name, sizeof(p->name), "%s", name);
	rc = check_free(p, e);
	if (rc)
		return rc;
	if (p->sweep)
		sweep(dirfd);
	rc = make_file(p);
	return rc ? err_sys(e, rc, "making a file for %s", name) : 0;
}

/* Give the unnamed file a name; -EEXIST when it is taken. */
static int link_unnamed(const struct publish *p, const char *name)
{
	char proc[40];

	if (!linkat(p->fd, "", p->dirfd, name, AT_EMPTY_PATH))
		return 0;
	if (errno == EEXIST)
		return -EEXIST;
	/* without CAP_DAC_READ_SEARCH only this way leads there */
	(void)snprintf(proc, sizeof(proc), "/proc/self/fd/%d", p->fd);
	if (!linkat(AT_FDCWD, proc, p->dirfd, name, AT_SYMLINK_FOLLOW))
		return 0;
	return -errno;
}

static int rename_new(const struct publish *p)
{
	if (!renameat2(p->dirfd, p->temp, p->dirfd, p->name, RENAME_NOREPLACE))
		return 0;
	if (errno != EINVAL && errno != ENOSYS)
		return -errno;
	/* a file system without RENAME_NOREPLACE: the temporary name goes
	 * with publish_abort() */
	if (linkat(p->dirfd, p->temp, p->dirfd, p->name, 0))
		return -errno;
	return unlinkat(p->dirfd, p->temp, 0) ? -errno : 0;
}

static int give_name(struct publish *p)
{
	int rc = 0;

	if (!p->temp[0] && !p->force)
		return link_unnamed(p, p->name);
	if (!p->temp[0]) {
		/* replacing needs a rename, a rename needs a name */
		rc = temp_name(p);
		if (!rc)
			rc = link_unnamed(p, p->temp);
		if (rc) {
			p->temp[0] = '\0';
			return rc;
		}
	}
	if (p->force)
		rc = renameat(p->dirfd, p->temp, p->dirfd, p->name) ? -errno
								    : 0;
	else
		rc = rename_new(p);
	if (!rc)
		p->temp[0] = '\0';
	return rc;
}

static int sync_dir(const struct publish *p)
{
	AUTO_FD fd = openat(p->dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0)
		return -errno;
	return fsync(fd) ? -errno : 0;
}

int publish_commit(struct publish *p, struct err *e)
{
	int rc;

	if (fsync(p->fd))
		return err_sys(e, -errno, "fsync of %s", p->name);
	rc = give_name(p);
	if (rc == -EEXIST)
		return err_set(e, rc,
			"%s exists already; \"force\" replaces it", p->name);
	if (rc)
		return err_sys(e, rc, "publishing %s", p->name);
	rc = sync_dir(p);
	if (rc)
		return err_sys(e, rc,
			"%s is there and complete, but may not survive a "
			"crash of the host: fsync of its directory",
			p->name);
	return 0;
}

void publish_abort(struct publish *p)
{
	if (p->temp[0])
		(void)unlinkat(p->dirfd, p->temp, 0);
	p->temp[0] = '\0';
	if (p->fd >= 0)
		(void)close(p->fd);
	p->fd = -1;
}
