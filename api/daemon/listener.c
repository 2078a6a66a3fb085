#include "api/daemon/listener.h"

#include "api/daemon/peerfile.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>

struct listener {
	int dir; /* owned O_PATH; -1: the client passed a descriptor */
	char name[256];
	char path[4096];
	struct ucred peer;
	dev_t dev; /* the socket that we made */
	ino_t ino;
};

static bool socket_at(const struct listener *l, struct stat *st)
{
	return !fstatat(l->dir, l->name, st, AT_SYMLINK_NOFOLLOW) &&
	       S_ISSOCK(st->st_mode);
}

/* A path short enough for sun_path, whatever the directory is called. */
static int address(
	const struct listener *l, const char *suffix, struct sockaddr_un *a)
{
	int n;

	memset(a, 0, sizeof(*a));
	a->sun_family = AF_UNIX;
	n = snprintf(a->sun_path, sizeof(a->sun_path), "/proc/self/fd/%d/%s%s",
		l->dir, l->name, suffix);
	return n < 0 || (size_t)n >= sizeof(a->sun_path) ? -ENAMETOOLONG : 0;
}

static int bind_as(struct listener *l, int fd, int peer_sock, struct err *e)
{
	struct peer_rights rights;
	struct sockaddr_un a;
	struct stat st;
	int r = address(l, "", &a);

	if (r)
		return err_sys(e, r, "vsock: %s", l->path);
	r = peer_enter(&rights, &l->peer, peer_sock, e);
	if (r)
		return r;
	r = bind(fd, (struct sockaddr *)&a, sizeof(a)) ? -errno : 0;
	peer_leave(&rights);
	if (!r && socket_at(l, &st)) {
		l->dev = st.st_dev;
		l->ino = st.st_ino;
	}
	if (r == -EADDRINUSE)
		return err_set(e, -EEXIST, "vsock: %s exists", l->path);
	return r ? err_sys(e, r, "vsock: %s", l->path) : 0;
}

static int passed(struct request *r, const struct path_arg *arg, struct err *e)
{
	int fd = request_take_fd(r, arg->fd, e), on = 0;
	socklen_t len = sizeof(on);

	if (fd < 0)
		return fd;
	if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &on, &len) || !on) {
		(void)close(fd);
		return err_set(e, -EINVAL,
			"vsock: the descriptor is not a listening socket");
	}
	return fd;
}

static int make(struct daemon *d, struct request *r, struct listener *l,
	const struct text *path, struct err *e)
{
	int fd, rc;

	if (!r->conn)
		return err_set(e, -ECONNRESET, "the client is gone");
	l->peer = r->conn->peer;
	(void)snprintf(l->path, sizeof(l->path), "%.*s", (int)path->n, path->p);
	l->dir = peerfile_parent(d, &l->peer, r->conn->fd, path, l->name, e);
	if (l->dir < 0)
		return l->dir;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return err_sys(e, -errno, "socket");
	rc = bind_as(l, fd, r->conn->fd, e);
	if (!rc && listen(fd, 64))
		rc = err_sys(e, -errno, "listen");
	if (!rc)
		return fd;
	/* What exists there is not ours to remove. */
	l->name[0] = 0;
	(void)close(fd);
	return rc;
}

int listener_create(struct daemon *d, struct request *r,
	const struct path_arg *arg, struct listener **out, struct err *e)
{
	struct listener *l = calloc(1, sizeof(*l));
	int fd;

	if (!l)
		return err_set(e, -ENOMEM, "no memory for a socket");
	l->dir = -1;
	fd = arg->fd >= 0 ? passed(r, arg, e) : make(d, r, l, &arg->path, e);
	if (fd < 0) {
		listener_close(l);
		return fd;
	}
	*out = l;
	return fd;
}

void listener_close(struct listener *l)
{
	struct stat st;

	/* In a directory like /tmp another user's may stand there by now. */
	if (l->dir >= 0 && l->name[0] && socket_at(l, &st) &&
		st.st_dev == l->dev && st.st_ino == l->ino)
		(void)unlinkat(l->dir, l->name, 0);
	if (l->dir >= 0)
		(void)close(l->dir);
	free(l);
}

const char *listener_path(const struct listener *l)
{
	return l->path;
}

/* The rights are those of the uid that made the machine; its groups may be
 * gone with the connection. */
static int dial(const struct listener *l, uint32_t port)
{
	struct peer_rights rights;
	struct sockaddr_un a;
	char suffix[16];
	int fd, r;

	(void)snprintf(suffix, sizeof(suffix), "_%u", port);
	if (!l || l->dir < 0 || address(l, suffix, &a))
		return -1;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -1;
	if (peer_enter(&rights, &l->peer, -1, NULL)) {
		(void)close(fd);
		return -1;
	}
	r = connect(fd, (struct sockaddr *)&a, sizeof(a));
	peer_leave(&rights);
	if (!r)
		return fd;
	(void)close(fd);
	return -1;
}

void listener_dial(struct machine_entry *m, struct ctl_packet *p)
{
	struct ctl_msg a = {.type = CTL_DIALED};
	int fd = dial(m->listener, p->msg.dial.port);

	a.dial = p->msg.dial;
	/* A machine that does not read its socket loses the connection. */
	(void)!proc_send(&m->p, &a, NULL,
		&(struct ctl_fd){fd, CTL_FD_STREAM, 0}, fd >= 0 ? 1 : 0);
	if (fd >= 0)
		(void)close(fd);
}
