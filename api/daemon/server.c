#include "api/daemon/conn.h"

#include "core/log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/un.h>

/*
 * The listening socket. A lock file beside it, held for as long as the daemon
 * lives, tells a second daemon to go away and makes it safe to remove a socket
 * that a killed daemon left behind.
 */

/* The directory of the default socket may not exist yet. */
static int make_parent(const char *path, struct err *e)
{
	char dir[sizeof(((struct sockaddr_un *)0)->sun_path)];
	char *slash;

	(void)snprintf(dir, sizeof(dir), "%s", path);
	slash = strrchr(dir, '/');
	if (!slash || slash == dir)
		return 0;
	*slash = 0;
	if (mkdir(dir, 0755) && errno != EEXIST)
		return err_sys(e, -errno, "creating %s", dir);
	return 0;
}

/* The file may have been removed by its last owner while we waited for it. */
static bool same_file(int fd, const char *path)
{
	struct stat a, b;

	return !fstat(fd, &a) && !stat(path, &b) && a.st_dev == b.st_dev &&
	       a.st_ino == b.st_ino;
}

static int take_lock(struct daemon *d, struct err *e)
{
	char path[sizeof(((struct sockaddr_un *)0)->sun_path) + 8];

	(void)snprintf(path, sizeof(path), "%s.lock", d->opt.socket);
	for (int i = 0; i < 100; i++) {
		AUTO_FD fd = open(
			path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);

		if (fd < 0)
			return err_sys(e, -errno, "opening %s", path);
		if (flock(fd, LOCK_EX | LOCK_NB)) {
			if (errno != EWOULDBLOCK)
				return err_sys(e, -errno, "locking %s", path);
			break;
		}
		if (same_file(fd, path)) {
			d->lock_fd = take_fd(&fd);
			return 0;
		}
	}
	return err_set(e, -EBUSY,
		"another thawd holds %s; use --socket for a second one",
		d->opt.socket);
}

static int bind_socket(struct daemon *d, struct err *e)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	mode_t mask;
	int r;

	(void)snprintf(a.sun_path, sizeof(a.sun_path), "%s", d->opt.socket);
	d->listen_fd =
		socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (d->listen_fd < 0)
		return err_sys(e, -errno, "socket");
	/* We hold the lock: whoever made this socket is dead. */
	if (unlink(a.sun_path) && errno != ENOENT)
		return err_sys(e, -errno, "removing the old %s", a.sun_path);
	/* Who may connect may do everything: only the owner. */
	mask = umask(0177);
	r = bind(d->listen_fd, (struct sockaddr *)&a, sizeof(a));
	(void)umask(mask);
	if (r)
		return err_sys(e, -errno, "binding %s", a.sun_path);
	if (listen(d->listen_fd, SOMAXCONN))
		return err_sys(e, -errno, "listening on %s", a.sun_path);
	return 0;
}

#define REST_NS 200000000ULL

static int watch_listener(struct daemon *d)
{
	return loop_add(&d->loop, d->listen_fd, EPOLLIN,
		(union ev_ref){.ptr = &d->on_listener});
}

int server_listen(struct daemon *d, struct err *e)
{
	int r;

	if (strlen(d->opt.socket) >=
		sizeof(((struct sockaddr_un *)0)->sun_path))
		return err_set(e, -EINVAL,
			"%s: a socket's path has at most %zu bytes",
			d->opt.socket,
			sizeof(((struct sockaddr_un *)0)->sun_path) - 1);
	r = make_parent(d->opt.socket, e);
	if (!r)
		r = take_lock(d, e);
	if (!r)
		r = bind_socket(d, e);
	if (r)
		return r;
	d->on_listener.type = EV_LISTENER;
	r = watch_listener(d);
	return r ? err_sys(e, r, "epoll") : 0;
}

void server_unlisten(struct daemon *d)
{
	char path[sizeof(((struct sockaddr_un *)0)->sun_path) + 8];

	if (d->listen_fd >= 0) {
		(void)close(d->listen_fd);
		(void)unlink(d->opt.socket);
	}
	d->listen_fd = -1;
	if (d->lock_fd < 0)
		return;
	/* Removed while it is still locked: nobody else can be using it. */
	(void)snprintf(path, sizeof(path), "%s.lock", d->opt.socket);
	(void)unlink(path);
	(void)close(d->lock_fd);
	d->lock_fd = -1;
}

static void rested(struct daemon *d, struct deadline *dl)
{
	int r = d->listen_fd < 0 ? 0 : watch_listener(d);

	if (!r)
		return;
	log_warning("listening again: %s", strerror(-r));
	deadline_set(&d->deadlines, dl, now_ns() + REST_NS, rested);
}

/* The client that waits keeps the listener ready: without a rest the loop
 * would do nothing else until somebody leaves. */
static void rest(struct daemon *d)
{
	log_warning("no descriptor for a new client");
	loop_del(&d->loop, d->listen_fd);
	deadline_set(&d->deadlines, &d->accept, now_ns() + REST_NS, rested);
}

void server_accept(struct daemon *d)
{
	for (int i = 0; i < 16; i++) {
		int fd = accept4(
			d->listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

		if (fd < 0) {
			if (errno == EMFILE || errno == ENFILE)
				rest(d);
			return;
		}
		if (d->nconns >= CONN_MAX || d->stopping) {
			d->metrics.counter[COUNT_CONNECTIONS_REFUSED]++;
			(void)close(fd);
			continue;
		}
		conn_create(d, fd);
	}
}
