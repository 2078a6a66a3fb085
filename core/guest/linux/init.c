/* The agent as process 1: file systems, the switch to a disk, the end. */
#include "core/guest/linux/agent.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/wait.h>

#define NEW_ROOT     "/.thaw-root"
#define DISK_WAIT_NS 20000000000ULL
#define END_WAIT_NS  2000000000ULL

/* ---- command line ---- */

static bool take(
	const char *word, size_t len, const char *key, char *out, size_t size)
{
	size_t k = strlen(key);

	if (len <= k || strncmp(word, key, k) != 0 || len - k >= size)
		return false;
	memcpy(out, word + k, len - k);
	out[len - k] = '\0';
	return true;
}

void ta_boot_parse(struct ta_boot *b, const char *cmdline)
{
	memset(b, 0, sizeof(*b));
	while (*cmdline) {
		size_t n = strcspn(cmdline, " \n");
		const char *w = cmdline;

		if (n == 2 && !strncmp(w, "ro", 2))
			b->read_only = true;
		else if (n == 2 && !strncmp(w, "rw", 2))
			b->read_only = false;
		else if (n)
			(void)(take(w, n, "thaw.root=", b->root,
				       sizeof(b->root)) ||
				take(w, n, "thaw.rootfstype=", b->fstype,
					sizeof(b->fstype)) ||
				take(w, n, "thaw.rootflags=", b->flags,
					sizeof(b->flags)) ||
				take(w, n, "thaw.init=", b->init,
					sizeof(b->init)) ||
				take(w, n, "thaw.start=", b->start,
					sizeof(b->start)) ||
				take(w, n, "thaw.handler=", b->handler,
					sizeof(b->handler)) ||
				take(w, n, "thaw.modules=", b->modules,
					sizeof(b->modules)));
		cmdline += n + (cmdline[n] != '\0');
	}
}

/* ---- mounts ---- */

static const struct {
	const char *type, *at;
	unsigned long flags;
	const char *data;
} mounts[] = {
	{"devtmpfs", "/dev", MS_NOSUID, "mode=0755"},
	{"proc", "/proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL},
	{"sysfs", "/sys", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL},
	{"devpts", "/dev/pts", MS_NOSUID | MS_NOEXEC,
		"mode=0620,gid=5,ptmxmode=0666"},
	{"tmpfs", "/dev/shm", MS_NOSUID | MS_NODEV, "mode=1777"},
	{"tmpfs", "/run", MS_NOSUID | MS_NODEV, "mode=0755"},
	{"tmpfs", "/tmp", MS_NOSUID | MS_NODEV, "mode=1777"},
	{"cgroup2", "/sys/fs/cgroup", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL},
};

static const struct {
	const char *to, *at;
} links[] = {
	{"/proc/self/fd", "/dev/fd"},
	{"/proc/self/fd/0", "/dev/stdin"},
	{"/proc/self/fd/1", "/dev/stdout"},
	{"/proc/self/fd/2", "/dev/stderr"},
};

static bool is_mounted(const char *at)
{
	struct stat here, up;
	char parent[64];

	(void)snprintf(parent, sizeof(parent), "%s/..", at);
	return !stat(at, &here) && !stat(parent, &up) &&
	       here.st_dev != up.st_dev;
}

/* The kernel gives process 1 no stdin when the initrd has no /dev/console. */
static void open_console(void)
{
	int fd = open("/dev/console", O_RDWR | O_NOCTTY);

	if (fd < 0)
		return;
	for (int i = 0; i < 3; i++)
		(void)dup2(fd, i);
	if (fd > 2)
		(void)close(fd);
}

void ta_init_mounts(void)
{
	for (size_t i = 0; i < ARRAY_SIZE(mounts); i++) {
		const char *at = mounts[i].at;

		if (is_mounted(at))
			continue;
		(void)mkdir(at, 0755);
		if (mount(mounts[i].type, at, mounts[i].type, mounts[i].flags,
			    mounts[i].data) &&
			errno != EBUSY)
			(void)fprintf(stderr, "thaw-agent: %s on %s: %s\n",
				mounts[i].type, at, strerror(errno));
		if (!i)
			open_console();
	}
	for (size_t i = 0; i < ARRAY_SIZE(links); i++)
		(void)!symlink(links[i].to, links[i].at);
}

/* ---- the switch to a disk ---- */

static int try_mount(
	const struct ta_boot *b, const char *type, unsigned long flags)
{
	return mount(b->root, NEW_ROOT, type, flags, b->flags) ? -errno : 0;
}

/* Every file system the kernel has until one takes it. */
static int mount_any(const struct ta_boot *b, unsigned long flags)
{
	FILE *f = fopen("/proc/filesystems", "re");
	char line[64];
	int r = -ENODEV;

	if (!f)
		return -errno;
	while (r && fgets(line, sizeof(line), f)) {
		if (line[0] != '\t')
			continue; /* "nodev" */
		line[strcspn(line, "\n")] = '\0';
		r = try_mount(b, line + 1, flags);
	}
	(void)fclose(f);
	return r;
}

static int mount_disk(const struct ta_boot *b, struct err *e)
{
	uint64_t end = now_ns() + DISK_WAIT_NS;
	struct stat st;
	int r;

	while (stat(b->root, &st) || !S_ISBLK(st.st_mode)) {
		if (now_ns() > end)
			return err_set(e, -ENODEV,
				"thaw.root=%s: there is no such disk", b->root);
		(void)usleep(5000);
	}
	(void)mkdir(NEW_ROOT, 0755);
	r = b->fstype[0] ? try_mount(b, b->fstype, b->read_only ? MS_RDONLY : 0)
			 : mount_any(b, b->read_only ? MS_RDONLY : 0);
	return r ? err_sys(e, r, "mounting %s", b->root) : 0;
}

/* Give the initrd's memory back: what is on its file system, nothing else. */
static void wipe(int dir, dev_t dev, int depth)
{
	DIR *d = fdopendir(dir);
	const struct dirent *de;

	while (d && (de = readdir(d))) {
		struct stat st;
		int sub;

		if (!strcmp(de->d_name, ".") || !strcmp(de->d_name, "..") ||
			fstatat(dirfd(d), de->d_name, &st,
				AT_SYMLINK_NOFOLLOW) ||
			st.st_dev != dev)
			continue;
		if (S_ISDIR(st.st_mode) && depth < 64) {
			sub = openat(dirfd(d), de->d_name,
				O_RDONLY | O_DIRECTORY | O_NOFOLLOW |
					O_CLOEXEC);
			if (sub >= 0)
				wipe(sub, dev, depth + 1);
		}
		(void)unlinkat(dirfd(d), de->d_name,
			S_ISDIR(st.st_mode) ? AT_REMOVEDIR : 0);
	}
	if (d)
		(void)closedir(d);
	else
		(void)close(dir);
}

static bool in_memory(int fd)
{
	struct statfs fs;

	return !fstatfs(fd, &fs) &&
	       (fs.f_type == RAMFS_MAGIC || fs.f_type == TMPFS_MAGIC);
}

int ta_init_switch_root(const struct ta_boot *b, struct err *e)
{
	static const char *const move[] = {
		"/dev", "/proc", "/sys", "/run", "/tmp"};
	struct stat st;
	int old, r = mount_disk(b, e);

	if (r)
		return r;
	for (size_t i = 0; i < ARRAY_SIZE(move); i++) {
		char to[64];

		(void)snprintf(to, sizeof(to), NEW_ROOT "%s", move[i]);
		(void)mkdir(to, 0755);
		if (mount(move[i], to, NULL, MS_MOVE, NULL))
			(void)umount2(move[i], MNT_DETACH);
	}
	old = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (chdir(NEW_ROOT) || mount(".", "/", NULL, MS_MOVE, NULL) ||
		chroot(".") || chdir("/")) {
		r = err_sys(e, -errno, "switching to %s", b->root);
		if (old >= 0)
			(void)close(old);
		return r;
	}
	if (old >= 0 && in_memory(old) && !fstat(old, &st))
		wipe(old, st.st_dev, 0);
	else if (old >= 0)
		(void)close(old);
	/* What could not be moved is mounted anew. */
	ta_init_mounts();
	return 0;
}

/* ---- the end ---- */

static bool children_end(void)
{
	uint64_t end = now_ns() + END_WAIT_NS;
	pid_t pid;

	while ((pid = waitpid(-1, NULL, WNOHANG)) >= 0) {
		if (pid > 0)
			continue;
		if (now_ns() > end)
			return false;
		(void)usleep(2000);
	}
	return true;
}

void ta_init_poweroff(void)
{
	if (!kill(-1, SIGTERM) && !children_end()) {
		(void)kill(-1, SIGKILL);
		(void)children_end();
	}
	sync();
	(void)mount(NULL, "/", NULL, MS_REMOUNT | MS_RDONLY, NULL);
	(void)fflush(NULL);
	(void)reboot(RB_POWER_OFF);
	for (;;)
		(void)pause();
}
