#include "api/daemon/unfinished.h"

#include "core/log.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

/*
 * A record is a file STATE_DIR/unfinished/NAME: device and inode of the
 * directory in the first line, its path in the second. Removing is careful: the
 * directory belongs to a client, who may have put another one, or a link to it,
 * in its place meanwhile. So it must still be the same one, the name one of
 * those that publishing draws, and what has it a regular file.
 */
#define RECORD_MAX 4200

static bool is_temp_name(const char *name)
{
	return !strncmp(name, ".thaw-", 6) && strlen(name) == 22 &&
	       strspn(name + 6, "0123456789abcdef") == 16;
}

static int record_path(
	const char *state_dir, const char *name, char out[RECORD_MAX])
{
	int n = snprintf(out, RECORD_MAX, "%s/unfinished%s%s", state_dir,
		name ? "/" : "", name ? name : "");

	return n < 0 || n >= RECORD_MAX ? -ENAMETOOLONG : 0;
}

int unfinished_note(
	const char *state_dir, int dir, const char *path, const char *name)
{
	char file[RECORD_MAX], text[RECORD_MAX];
	AUTO_FD fd = -1;
	struct stat st;
	int n;

	if (fstat(dir, &st) || record_path(state_dir, NULL, file))
		return -EINVAL;
	if (mkdir(file, 0700) && errno != EEXIST)
		return -errno;
	n = snprintf(text, sizeof(text), "%llu %llu\n%s\n",
		(unsigned long long)st.st_dev, (unsigned long long)st.st_ino,
		path);
	if (n < 0 || (size_t)n >= sizeof(text) ||
		record_path(state_dir, name, file))
		return -ENAMETOOLONG;
	fd = open(file, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW,
		0600);
	return fd < 0 ? -errno : write_full(fd, text, (size_t)n);
}

void unfinished_done(const char *state_dir, const char *name)
{
	char file[RECORD_MAX];

	if (!record_path(state_dir, name, file))
		(void)unlink(file);
}

/* What one record speaks of. */
static void clean(const char *text, const char *name)
{
	char path[RECORD_MAX] = "";
	unsigned long long dev, ino;
	AUTO_FD dir = -1;
	struct stat st;

	if (!is_temp_name(name) ||
		sscanf(text, "%llu %llu\n%4095[^\n]", &dev, &ino, path) != 3)
		return;
	dir = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (dir < 0 || fstat(dir, &st) || st.st_dev != dev || st.st_ino != ino)
		return;
	if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) ||
		!S_ISREG(st.st_mode))
		return;
	if (unlinkat(dir, name, 0))
		log_warning(
			"cannot remove %s/%s: %s", path, name, strerror(errno));
}

void unfinished_clean(const char *state_dir)
{
	char file[RECORD_MAX];
	struct dirent *de;
	DIR *d;

	if (record_path(state_dir, NULL, file))
		return;
	d = opendir(file);
	while (d && (de = readdir(d))) {
		char text[RECORD_MAX] = "";
		int fd;

		if (de->d_name[0] == '.' && !is_temp_name(de->d_name))
			continue;
		fd = openat(dirfd(d), de->d_name,
			O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
		if (fd >= 0 && read(fd, text, sizeof(text) - 1) > 0)
			clean(text, de->d_name);
		if (fd >= 0)
			(void)close(fd);
		(void)unlinkat(dirfd(d), de->d_name, 0);
	}
	if (d)
		(void)closedir(d);
}
