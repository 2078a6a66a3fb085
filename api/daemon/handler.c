#include "api/daemon/handler.h"

#include "api/daemon/peerfile.h"
#include "core/log.h"
#include "uffd/pager.h"
#include "uffd/uffd.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

/*
 * How it works
 *
 * Nothing may be read from the userfaultfd: the events are the handler's. But
 * its /proc/self/fdinfo says how many threads wait for a page. A handler has
 * stalled when somebody waits all the time and the memory of the machine does
 * not grow. How much there is of it /proc/PID/statm says quickly, but not to
 * the page (the kernel sums it up per CPU), so that a handler that brings one
 * page now and then looks dead; smaps_rollup is exact, looks at all of the
 * machine's page tables, and is asked only when statm stands still.
 */
#define LOOK_NS 100000000ULL

struct handler {
	struct machine_entry *m; /* borrowed */
	char *path;              /* owned */
	uint64_t stall_ns;
	int uffd, sock; /* owned; -1: not yet */
	struct deadline look_at;
	/* Since when somebody waits and nothing comes; 0: not so. */
	uint64_t since;
	uint64_t rough, exact; /* memory, as of then; exact 0: not looked at */
};

/* ---- what a client asks for ---- */

static int check(const struct args *a, struct err *e)
{
	if (!a->snapshot.path.p && a->snapshot.fd < 0)
		return err_set(e, -EINVAL, "pager: only with snapshot");
	if (a->lazy || a->fill || a->fill_rate)
		return err_set(e, -EINVAL,
			"pager: an external pager decides what comes when; "
			"lazy, fill and fill_rate are for thaw's own");
	if (a->track_dirty)
		return err_set(e, -EINVAL,
			"track_dirty: a machine with an external pager cannot "
			"be snapshotted");
	return 0;
}

int handler_find(struct daemon *d, struct request *r, const struct args *a,
	char path[4096], struct err *e)
{
	static const char scheme[] = "unix:";
	size_t n = strlen(scheme);
	int fd, rc = check(a, e);

	if (rc)
		return rc;
	if (a->pager.n < n + 2 || memcmp(a->pager.p, scheme, n) != 0 ||
		a->pager.p[n] != '/')
		return err_set(e, -EINVAL,
			"pager: must be \"unix:/PATH\", a socket on which a "
			"handler listens");
	(void)snprintf(
		path, 4096, "%.*s", (int)(a->pager.n - n), a->pager.p + n);
	fd = peerfile_socket(d, r, path, e);
	return fd < 0 ? err_wrap(e, "pager") : fd;
}

int handler_create(struct machine_entry *m, const char *path, uint64_t stall_ms,
	struct err *e)
{
	struct handler *h = calloc(1, sizeof(*h));

	if (h)
		h->path = strdup(path);
	if (!h || !h->path) {
		free(h);
		return err_set(e, -ENOMEM, "no memory for a pager");
	}
	h->m = m;
	h->uffd = h->sock = -1;
	h->stall_ns = (stall_ms ? stall_ms : PAGER_STALL_MS) * 1000000;
	m->handler = h;
	return 0;
}

void handler_leave(struct daemon *d, struct machine_entry *m)
{
	struct handler *h = m->handler;

	if (!h)
		return;
	m->handler = NULL;
	deadline_clear(&d->deadlines, &h->look_at);
	if (h->uffd >= 0)
		(void)close(h->uffd);
	if (h->sock >= 0)
		(void)close(h->sock);
	free(h->path);
	free(h);
}

/* ---- is it at work? ---- */

static void give_up(struct daemon *d, struct machine_entry *m, struct err *e)
{
	d->metrics.counter[COUNT_PAGERS_LOST]++;
	log_warning("%s: %s", m->id, e->msg);
	machine_kill(d, m, e);
}

/* The number after key in a file of /proc; all of it is looked at. */
static int proc_number(const char *path, const char *key, uint64_t *out)
{
	AUTO_FD fd = open(path, O_RDONLY | O_CLOEXEC);
	char buf[2048], *at;
	ssize_t n;

	if (fd < 0)
		return -errno;
	n = read(fd, buf, sizeof(buf) - 1);
	if (n <= 0)
		return n ? -errno : -EIO;
	buf[n] = 0;
	at = strstr(buf, key);
	if (!at)
		return -EIO;
	*out = strtoull(at + strlen(key), NULL, 10);
	return 0;
}

static uint64_t waiting(const struct handler *h)
{
	uint64_t n = 0;
	char path[40];

	(void)snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", h->uffd);
	return proc_number(path, "total:", &n) ? 0 : n;
}

static uint64_t memory_now(struct handler *h, bool exact)
{
	pid_t pid = proc_pid(&h->m->p);
	uint64_t n = 0;
	char path[40];

	(void)snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid,
		exact ? "smaps_rollup" : "statm");
	/* statm: the second number of the line */
	return proc_number(path, exact ? "\nRss:" : " ", &n) ? 0 : n;
}

/* Somebody waits; has nothing come for too long? */
static bool stalled(struct handler *h, uint64_t now)
{
	uint64_t rough = memory_now(h, false), age, exact;

	if (!h->since || rough != h->rough) {
		h->since = now;
		h->rough = rough;
		h->exact = 0;
		return false;
	}
	age = now - h->since;
	if (!h->exact && age >= h->stall_ns / 4)
		h->exact = memory_now(h, true);
	if (age < h->stall_ns)
		return false;
	exact = memory_now(h, true);
	if (exact == h->exact)
		return true;
	h->since = now;
	h->exact = exact;
	return false;
}

static bool hung_up(const struct handler *h)
{
	struct pollfd p = {.fd = h->sock, .events = POLLRDHUP};

	return poll(&p, 1, 0) > 0 &&
	       (p.revents & (POLLRDHUP | POLLHUP | POLLERR | POLLNVAL));
}

static void look(struct daemon *d, struct deadline *dl)
{
	struct handler *h = container_of(dl, struct handler, look_at);
	uint64_t now = now_ns();
	struct err e = {0};

	deadline_set(&d->deadlines, &h->look_at, now + LOOK_NS, look);
	if (hung_up(h)) {
		err_set(&e, -EIO,
			"the pager at %.200s is gone: it closed its connection",
			h->path);
		give_up(d, h->m, &e);
		return;
	}
	if (!waiting(h)) {
		h->since = 0;
		return;
	}
	if (!stalled(h, now))
		return;
	err_set(&e, -ETIMEDOUT,
		"the pager at %.200s brought no page for %llu ms", h->path,
		(unsigned long long)(h->stall_ns / 1000000));
	give_up(d, h->m, &e);
}

/* What we poll must be a socket: anything else may say what it likes. */
static bool is_socket(int fd)
{
	int type = 0;
	socklen_t n = sizeof(type);

	return fd >= 0 && !getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &n) &&
	       type == SOCK_STREAM;
}

void handler_uffd(
	struct daemon *d, struct machine_entry *m, struct ctl_packet *p)
{
	AUTO_FD uffd = ctl_take(p, CTL_FD_UFFD, 0);
	AUTO_FD sock = ctl_take(p, CTL_FD_PAGER, 0);
	struct handler *h = m->handler;
	struct err e = {0};

	if (h->uffd >= 0 || uffd < 0 || !uffd_is_one(uffd) ||
		!is_socket(sock)) {
		err_set(&e, -EIO,
			"the machine's memory cannot be brought in: it did "
			"not hand it to its pager");
		give_up(d, m, &e);
		return;
	}
	h->uffd = take_fd(&uffd);
	h->sock = take_fd(&sock);
	deadline_set(&d->deadlines, &h->look_at, now_ns() + LOOK_NS, look);
}

void handler_pack(const struct handler *h, msgpack_packer *p)
{
	bool waits = h->uffd >= 0 && waiting(h);

	mp_str(p, "pager");
	(void)msgpack_pack_map(p, 2);
	mp_key_str(p, "state",
		h->uffd < 0 ? "starting"
		: waits     ? "waited for"
			    : "on demand");
	mp_key_str(p, "path", h->path);
}
