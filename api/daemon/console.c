#include "api/daemon/console.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>

struct console {
	int fd;      /* owned; -1: keep in the ring */
	bool socket; /* fd is one: send() instead of write() */
	uint64_t dropped, total;
	uint8_t ring[CONSOLE_RING];
};

static struct console *get(struct machine_entry *m)
{
	if (!m->console) {
		m->console = calloc(1, sizeof(*m->console));
		if (m->console)
			m->console->fd = -1;
	}
	return m->console;
}

/* The daemon must never wait for a terminal, yet O_NONBLOCK belongs to the
 * open file that the client shares with us: open it once more. */
static int reopen(int *fd, bool *is_socket, struct err *e)
{
	int mode = fcntl(*fd, F_GETFL);
	char path[40];
	struct stat st;
	int mine;

	if (mode < 0 || fstat(*fd, &st))
		return err_sys(e, -errno, "console");
	/* Opening it again must not give the client more than it had. */
	if ((mode & O_PATH) || (mode & O_ACCMODE) == O_RDONLY)
		return err_set(e, -EACCES,
			"console: the descriptor is not open for writing");
	*is_socket = S_ISSOCK(st.st_mode);
	if (*is_socket || S_ISREG(st.st_mode))
		return 0;
	if (!S_ISFIFO(st.st_mode) && !S_ISCHR(st.st_mode))
		return err_set(e, -EINVAL,
			"console: must be a file, pipe, terminal or socket");
	(void)snprintf(path, sizeof(path), "/proc/self/fd/%d", *fd);
	mine = open(path, O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	if (mine < 0)
		return err_sys(e, -errno, "console: opening it for writing");
	(void)close(*fd);
	*fd = mine;
	return 0;
}

int console_attach(struct machine_entry *m, int fd, struct err *e)
{
	struct console *c = get(m);
	bool is_socket = false;
	int r;

	if (!c)
		return err_set(e, -ENOMEM, "no memory for a console");
	r = reopen(&fd, &is_socket, e);
	if (r) {
		(void)close(fd);
		return r;
	}
	c->fd = fd;
	c->socket = is_socket;
	return 0;
}

void console_end(struct console *c)
{
	if (c->fd >= 0)
		(void)close(c->fd);
	c->fd = -1;
}

void console_free(struct daemon *d, struct console *c)
{
	d->metrics.counter[COUNT_CONSOLE_DROPPED] += c->dropped;
	console_end(c);
	free(c);
}

static void hand_on(struct console *c, const uint8_t *p, size_t n)
{
	while (n) {
		ssize_t done = c->socket ? send(c->fd, p, n,
						   MSG_DONTWAIT | MSG_NOSIGNAL)
					 : write(c->fd, p, n);

		if (done < 0 && errno == EINTR)
			continue;
		if (done <= 0) {
			c->dropped += n;
			return;
		}
		p += done;
		n -= (size_t)done;
	}
}

/* A flood costs no more than the ring can hold. */
static void keep(struct console *c, const uint8_t *p, size_t n)
{
	size_t skip = n > CONSOLE_RING ? n - CONSOLE_RING : 0;

	c->total += skip;
	for (p += skip, n -= skip; n;) {
		size_t at = c->total % CONSOLE_RING;
		size_t now = min_u64(n, CONSOLE_RING - at);

		memcpy(c->ring + at, p, now);
		c->total += now;
		p += now;
		n -= now;
	}
}

void console_bytes(
	struct daemon *d, struct machine_entry *m, struct ctl_packet *p)
{
	struct console *c = get(m);

	(void)d;
	if (!c)
		return;
	c->dropped += min_u64(p->msg.console.dropped, UINT32_MAX);
	if (c->fd >= 0) {
		hand_on(c, p->payload, p->msg.len);
		return;
	}
	keep(c, p->payload, p->msg.len);
}

void console_pack(const struct machine_entry *m, msgpack_packer *p)
{
	const struct console *c = m->console;
	uint64_t have = c ? min_u64(c->total, CONSOLE_RING) : 0;
	uint64_t first = c ? (c->total - have) % CONSOLE_RING : 0;
	uint64_t head = min_u64(have, CONSOLE_RING - first);

	(void)msgpack_pack_map(p, 2);
	mp_str(p, "data");
	(void)msgpack_pack_bin(p, have);
	if (have) {
		(void)msgpack_pack_bin_body(p, c->ring + first, head);
		(void)msgpack_pack_bin_body(p, c->ring, have - head);
	}
	mp_key_u64(p, "dropped",
		c ? c->dropped + (c->fd < 0 ? c->total - have : 0) : 0);
}
