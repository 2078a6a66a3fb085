#include "api/daemon/peerfile.h"

#include "core/log.h"
#include "uffd/ws.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/stat.h>
#include <sys/syscall.h>

/*
 * File access is checked against the thread's fsuid, fsgid and supplementary
 * groups. The system calls are used directly: glibc's setgroups() would change
 * every thread, and setting fsuid away from 0 takes the file capabilities away
 * (capabilities(7)), which is what makes this a check.
 */

static int set_ids(unsigned uid, unsigned gid, int n, const unsigned *groups)
{
	if (syscall(SYS_setgroups, n, groups))
		return -errno;
	/* These return the old value; asking for -1 changes nothing. */
	(void)setfsgid(gid);
	(void)setfsuid(uid);
	if (setfsgid((gid_t)-1) != (int)gid || setfsuid((uid_t)-1) != (int)uid)
		return -EPERM;
	return 0;
}

/* Supplementary groups of the process that connected. */
static int peer_groups(int sock, gid_t *groups, int max)
{
	socklen_t len = (socklen_t)((size_t)max * sizeof(gid_t));

#ifdef SO_PEERGROUPS
	if (getsockopt(sock, SOL_SOCKET, SO_PEERGROUPS, groups, &len) == 0)
		return (int)(len / sizeof(gid_t));
#endif
	return 0;
}

int peer_enter(struct peer_rights *p, const struct ucred *peer, int sock,
	struct err *e)
{
	gid_t groups[64];
	int n, r;

	p->switched = false;
	/* Without privileges every client is ourselves. */
	if (geteuid() != 0 || peer->uid == geteuid())
		return 0;
	p->uid = geteuid();
	p->gid = getegid();
	p->ngroups = getgroups(64, p->groups);
	if (p->ngroups < 0)
		return err_sys(e, -errno, "getgroups");
	n = peer_groups(sock, groups, 64);
	p->switched = true;
	r = set_ids(peer->uid, peer->gid, n, groups);
	if (!r)
		return 0;
	peer_leave(p);
	return err_sys(e, r, "taking the rights of uid %u", peer->uid);
}

void peer_leave(struct peer_rights *p)
{
	int saved = errno;

	if (!p->switched)
		return;
	/* fsuid first: it brings the right to set groups back. */
	(void)setfsuid(p->uid);
	if (set_ids(p->uid, p->gid, p->ngroups, p->groups)) {
		log_error("cannot return to my own rights");
		_exit(1);
	}
	p->switched = false;
	errno = saved;
}

static int open_at(int dir, const char *path, uint64_t flags, uint64_t resolve)
{
	struct open_how how = {.flags = flags | O_CLOEXEC,
		.resolve = resolve | RESOLVE_NO_MAGICLINKS};
	long fd;

	do
		fd = syscall(SYS_openat2, dir, path, &how, sizeof(how));
	while (fd < 0 && errno == EINTR);
	return fd < 0 ? -errno : (int)fd;
}

/* Is path inside dir? Returns what is left of it, or NULL. */
static const char *below(const char *dir, const char *path)
{
	size_t n = strlen(dir);

	while (n && dir[n - 1] == '/')
		n--;
	if (strncmp(dir, path, n) != 0 || (path[n] && path[n] != '/'))
		return NULL;
	while (path[n] == '/')
		n++;
	return path + n;
}

/* With --allow, the path must lead there without leaving it on the way, also
 * through symbolic links. */
static int open_allowed(struct daemon *d, const char *path, uint64_t flags)
{
	int r = -EACCES;

	if (!d->opt.nallow)
		return open_at(AT_FDCWD, path, flags, 0);
	for (unsigned i = 0; i < d->opt.nallow; i++) {
		const char *rest = below(d->opt.allow[i], path);
		int dir;

		if (!rest)
			continue;
		dir = open_at(
			AT_FDCWD, d->opt.allow[i], O_PATH | O_DIRECTORY, 0);
		if (dir < 0)
			return dir;
		r = open_at(dir, *rest ? rest : ".", flags, RESOLVE_BENEATH);
		(void)close(dir);
		return r == -EXDEV ? -EACCES : r;
	}
	return r;
}

static int open_as(struct daemon *d, const struct ucred *peer, int sock,
	const char *path, uint64_t flags, struct err *e)
{
	struct peer_rights rights;
	int r = peer_enter(&rights, peer, sock, e);

	if (r)
		return r;
	r = open_allowed(d, path, flags);
	peer_leave(&rights);
	return r < 0 ? err_sys(e, r, "%s", path) : r;
}

static int from_request(struct request *r, const char *key,
	const struct path_arg *arg, bool write, struct err *e)
{
	int fd = request_take_fd(r, arg->fd, e), mode;

	if (fd < 0)
		return err_wrap(e, "%s", key);
	mode = fcntl(fd, F_GETFL);
	if (mode < 0 || (mode & O_PATH) || (mode & O_ACCMODE) == O_WRONLY) {
		(void)close(fd);
		return err_set(e, -EACCES,
			"%s: the descriptor is not open for reading", key);
	}
	if (write && (mode & O_ACCMODE) != O_RDWR) {
		(void)close(fd);
		return err_set(e, -EACCES,
			"%s: the descriptor is not open for writing", key);
	}
	return fd;
}

int peerfile_read(struct daemon *d, struct request *r, const char *key,
	const struct path_arg *arg, struct err *e)
{
	return peerfile_open(d, r, key, arg, false, e);
}

int peerfile_open(struct daemon *d, struct request *r, const char *key,
	const struct path_arg *arg, bool write, struct err *e)
{
	char path[4096];
	struct stat st;
	int fd;

	if (arg->fd >= 0) {
		fd = from_request(r, key, arg, write, e);
	} else {
		if (!r->conn)
			return err_set(e, -ECONNRESET, "the client is gone");
		(void)snprintf(path, sizeof(path), "%.*s", (int)arg->path.n,
			arg->path.p);
		/* A FIFO must not hold us up. */
		fd = open_as(d, &r->conn->peer, r->conn->fd, path,
			(write ? O_RDWR : O_RDONLY) | O_NONBLOCK | O_NOCTTY, e);
		if (fd < 0)
			return err_wrap(e, "%s", key);
	}
	if (fd < 0)
		return fd;
	if (fstat(fd, &st) || !S_ISREG(st.st_mode)) {
		(void)close(fd);
		return err_set(e, -EINVAL, "%s: not a regular file", key);
	}
	return fd;
}

/* Connecting needs the right to write. */
static bool may_write(int fd, const struct conn *c)
{
	struct peer_rights rights;
	bool ok;

	if (peer_enter(&rights, &c->peer, c->fd, NULL))
		return false;
	ok = syscall(SYS_faccessat2, fd, "", W_OK,
		     AT_EMPTY_PATH | AT_EACCESS) == 0;
	peer_leave(&rights);
	return ok;
}

int peerfile_socket(
	struct daemon *d, struct request *r, const char *path, struct err *e)
{
	struct stat st;
	int fd;

	if (!r->conn)
		return err_set(e, -ECONNRESET, "the client is gone");
	fd = open_as(d, &r->conn->peer, r->conn->fd, path, O_PATH, e);
	if (fd < 0)
		return fd;
	if (fstat(fd, &st) || !S_ISSOCK(st.st_mode))
		err_set(e, -EINVAL, "%s: not a socket", path);
	else if (!may_write(fd, r->conn))
		err_sys(e, -EACCES, "%s", path);
	else
		return fd;
	(void)close(fd);
	return e->code;
}

int peerfile_reopen(struct daemon *d, unsigned uid, unsigned gid,
	const char *path, struct err *e)
{
	const struct ucred who = {.uid = uid, .gid = gid};
	struct stat st;
	int fd =
		open_as(d, &who, -1, path, O_RDONLY | O_NONBLOCK | O_NOCTTY, e);

	if (fd >= 0 && (fstat(fd, &st) || !S_ISREG(st.st_mode))) {
		(void)close(fd);
		return err_set(e, -EINVAL, "%s: not a regular file", path);
	}
	return fd;
}

int peerfile_set(
	struct daemon *d, struct request *r, const struct path_arg *snapshot)
{
	struct path_arg set = {.fd = -1};
	struct err e = {0};
	char path[4096];

	if (!snapshot->path.p)
		return -1;
	(void)snprintf(path, sizeof(path), "%.*s" WS_SUFFIX,
		(int)snapshot->path.n, snapshot->path.p);
	set.path = (struct text){path, strlen(path)};
	return peerfile_read(d, r, "working set", &set, &e);
}

int peerfile_parent(struct daemon *d, const struct ucred *peer, int sock,
	const struct text *path, char name[256], struct err *e)
{
	char dir[4096], *slash;

	(void)snprintf(dir, sizeof(dir), "%.*s", (int)path->n, path->p);
	slash = strrchr(dir, '/');
	if (!slash || !slash[1] || strlen(slash + 1) > 255 ||
		!strcmp(slash + 1, ".") || !strcmp(slash + 1, ".."))
		return err_set(e, -EINVAL, "%s: does not name a file", dir);
	(void)snprintf(name, 256, "%s", slash + 1);
	slash[slash == dir ? 1 : 0] = 0;
	return open_as(d, peer, sock, dir, O_PATH | O_DIRECTORY, e);
}
