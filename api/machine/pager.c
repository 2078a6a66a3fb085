#include "api/machine/chain.h"

#include "core/log.h"
#include "snapshot/remote.h"
#include "snapshot/source.h"
#include "uffd/pager.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>

/*
 * The pager role: a process that parses one snapshot, with what it builds on,
 * and brings its pages to the machines that the daemon tells it of. The pages
 * are loaded by the threads of uffd/pager.h; this thread only passes messages.
 *
 * Failures are told to the daemon, which kills the machines; nothing is woken,
 * and nothing is closed, before that.
 */
struct pager_proc {
	struct worker *w;
	int file, stats; /* owned */
	struct chain chain;
	struct psrc *src; /* owned */
	struct pager *p;  /* owned */
	/* The snapshot is on another host. */
	bool remote;
	int dialer; /* owned */
	struct remote_link link;
	uint8_t digest[16];
	struct ctl_msg
		alive; /* the request that is to be answered; .req 0: none */
};

static void pager_free(struct pager_proc *pp)
{
	pager_destroy(pp->p);
	if (pp->src)
		pp->src->ops->close(pp->src);
	if (pp->remote)
		remote_link_fini(&pp->link);
	chain_close(&pp->chain);
	if (pp->dialer >= 0)
		(void)close(pp->dialer);
	if (pp->file >= 0)
		(void)close(pp->file);
	if (pp->stats >= 0)
		(void)close(pp->stats);
	free(pp);
}

static const uint8_t *uuid_of(const struct pager_proc *pp)
{
	return snap_get_uuid(pp->chain.s[0])->b;
}

/* A hint: one that is no good costs time, and nothing else. */
static void use_set(struct pager_proc *pp, int fd)
{
	struct err e = {0};
	struct ws set;

	if (fd < 0)
		return;
	if (ws_read(fd, &set, &e)) {
		log_warning("%s; it is not used", e.msg);
		return;
	}
	if (ws_check(&set, uuid_of(pp), pp->digest,
		    pp->src->size / PAGE_SIZE_4K, &e) ||
		pager_use_set(pp->p, &set, &e))
		log_warning("%s; it is not used", e.msg);
	ws_fini(&set);
}

/* The files are a cache of what is on another host. Only the first one was
 * named by somebody; it has the digests of the others. */
static int open_remote(
	struct pager_proc *pp, struct ctl_packet *p, struct err *e)
{
	uint32_t stall = p->msg.setup.pager.stall_ms;
	int fd[SNAP_MAX_CHAIN + 1];
	struct remote_name n;
	int r;

	pp->dialer = ctl_take(p, CTL_FD_DIALER, 0);
	if (pp->dialer < 0 || p->msg.len != sizeof(n))
		return err_set(e, -EINVAL, "setup without a peer");
	memcpy(&n, p->payload, sizeof(n));
	if (memcmp(n.file.digest, pp->digest, 16) != 0 ||
		memcmp(n.file.uuid.b, uuid_of(pp), 16) != 0)
		return err_set(e, -EBADMSG,
			"the cache has another snapshot than the one wanted");
	r = remote_link_init(
		&pp->link, pp->dialer, &n, stall ? stall : PAGER_STALL_MS, e);
	if (r)
		return r;
	pp->remote = true;
	memcpy(fd, pp->chain.fd, pp->chain.n * sizeof(fd[0]));
	fd[0] = pp->file;
	return remote_source(pp->chain.s[0], fd, &pp->link, &pp->src, e);
}

static int open_snapshot(
	struct pager_proc *pp, struct ctl_packet *p, struct err *e)
{
	int r;

	pp->file = ctl_take(p, CTL_FD_SNAPSHOT, 0);
	pp->stats = ctl_take(p, CTL_FD_STATS, 0);
	if (pp->file < 0)
		return err_set(e, -EINVAL, "setup without a snapshot");
	r = chain_open(pp->w, pp->file, &pp->chain, e);
	if (r)
		return r;
	r = snap_digest(pp->chain.s[0], pp->digest);
	if (r)
		return err_sys(e, r, "digest of the snapshot");
	return p->msg.setup.remote ? open_remote(pp, p, e)
				   : snap_source(pp->chain.s[0], &pp->src, e);
}

int pager_setup(struct worker *w, struct ctl_packet *p, struct pager_proc **out,
	struct err *e)
{
	const struct ctl_pager_opts *q = &p->msg.setup.pager;
	struct pager_proc *pp = calloc(1, sizeof(*pp));
	struct pager_opts o = {0};
	int r;

	if (!pp)
		return err_set(e, -ENOMEM, "no memory for a pager");
	pp->w = w;
	pp->file = pp->stats = pp->dialer = -1;
	r = open_snapshot(pp, p, e);
	if (!r) {
		o = (struct pager_opts){
			.src = pp->src,
			.host = &w->uffd,
			.direct = q->direct,
			.record = q->record,
			.fill = q->fill,
			.stall_ms = q->stall_ms,
			.rate = q->rate,
			/* They wait, rather than work. */
			.workers = pp->remote ? REMOTE_CONNS : 0,
			.stats_fd = pp->stats,
		};
		r = pager_create(&o, &pp->p, e);
	}
	uffd_host_close(&w->uffd);
	/* From here on: no more rings, and threads that inherit that. */
	if (!r) {
		r = jail_pager(&w->jail);
		if (r)
			err_sys(e, r, "narrowing the pager's filter");
	}
	if (!r) {
		use_set(pp, ctl_fd(p, CTL_FD_SET, 0));
		r = pager_start(pp->p, e);
	}
	if (r) {
		pager_free(pp);
		return r;
	}
	*out = pp;
	return 0;
}

int pager_take_base(const struct pager_proc *pp)
{
	int fd = fcntl(pager_base(pp->p), F_DUPFD_CLOEXEC, 0);

	return fd < 0 ? -errno : fd;
}

/* ---- its life ---- */

static int merge_set(struct ws *set, int fd, struct err *e)
{
	struct ws old;
	int r = ws_read(fd, &old, e);

	if (r)
		return r;
	r = ws_merge(set, &old, e);
	ws_fini(&old);
	return r;
}

static int recorded(struct pager_proc *pp, struct ctl_packet *p, struct err *e)
{
	int out = ctl_fd(p, CTL_FD_OUTPUT, 0), old = ctl_fd(p, CTL_FD_SET, 0);
	struct ctl_msg m = {0};
	struct ws set;
	int r;

	if (out < 0)
		return err_set(e, -EINVAL, "recording without a file");
	r = ws_init(
		&set, pp->src->size / PAGE_SIZE_4K, uuid_of(pp), pp->digest, e);
	if (r)
		return r;
	set.recordings = 1;
	pager_recorded(pp->p, &set);
	m.recorded.pages = set.set;
	if (old >= 0)
		r = merge_set(&set, old, e);
	if (!r)
		r = ws_write(out, &set, e);
	m.recorded.set = set.set;
	m.recorded.recordings = set.recordings;
	ws_fini(&set);
	if (!r)
		worker_reply(pp->w, &p->msg, &m, NULL, NULL, 0);
	return r;
}

/* Who answers faults is at work: only that is worth an answer. */
static void alive(struct pager_proc *pp)
{
	struct ctl_msg ok = {0};

	if (pp->alive.req)
		worker_reply(pp->w, &pp->alive, &ok, NULL, NULL, 0);
	pp->alive.req = 0;
}

static void tell(struct pager_proc *pp, const struct pager_event *ev)
{
	struct ctl_msg m = {.type = CTL_PAGER};

	if (ev->type == PAGER_ALIVE) {
		alive(pp);
		return;
	}
	m.paged.type = ev->type;
	m.paged.id = ev->id;
	m.paged.code = ev->e.code;
	m.len = (uint32_t)strlen(ev->e.msg);
	if (worker_send(pp->w, &m, ev->e.msg, NULL, 0))
		pp->w->done = true;
}

static int attach(struct pager_proc *pp, struct ctl_packet *p, struct err *e)
{
	const struct ctl_uffd *u = &p->msg.uffd;
	int fd = ctl_take(p, CTL_FD_UFFD, 0);
	struct pager_event ev = {.type = PAGER_FAILED, .id = u->id};

	if (fd < 0)
		return err_set(e, -EINVAL, "a machine without a userfaultfd");
	if (pager_attach(pp->p, u->id, fd, u->addr,
		    (uint32_t)(u->id % PAGER_STATS_NSLOTS), &ev.e))
		tell(pp, &ev);
	return 0;
}

static void message(struct pager_proc *pp, struct ctl_packet *p)
{
	struct ctl_msg ok = {0};
	struct err e = {0};
	int r = 0;

	switch (p->msg.type) {
	case CTL_ATTACH:
		r = attach(pp, p, &e);
		break;
	case CTL_DETACH:
		pager_detach(pp->p, p->msg.uffd.id);
		break;
	case CTL_FILL:
		pager_fill(pp->p);
		break;
	case CTL_RECORDED:
		r = recorded(pp, p, &e);
		break;
	case CTL_ALIVE:
		pp->alive = p->msg;
		pager_ping(pp->p);
		break;
	case CTL_STOP:
		worker_reply(pp->w, &p->msg, &ok, NULL, NULL, 0);
		pp->w->done = true;
		break;
	default:
		r = err_set(&e, -EINVAL,
			"control message %u is not for a pager", p->msg.type);
	}
	if (r && p->msg.req)
		worker_reply_error(pp->w, &p->msg, &e);
}

int pager_run(struct pager_proc *pp)
{
	struct worker *w = pp->w;
	/* The last one, if there is any, only ever hangs up. */
	struct pollfd pfd[3] = {{.fd = w->ctl, .events = POLLIN},
		{.fd = pager_event_fd(pp->p), .events = POLLIN},
		{.fd = pp->dialer}};
	struct pager_event ev;
	struct ctl_packet p;
	int r = 0;

	while (!w->done && r >= 0) {
		if (poll(pfd, 3, -1) < 0 && errno != EINTR)
			break;
		/* No page that is not in the cache would ever come. */
		if (pp->remote && pfd[2].revents) {
			log_warning("the process that connects to %s is gone",
				pp->link.peer);
			break;
		}
		while (pager_next_event(pp->p, &ev))
			tell(pp, &ev);
		r = ctl_recv(w->ctl, &p, w->buf);
		if (r == 1) {
			message(pp, &p);
			ctl_packet_free(&p);
		} else if (r == -EAGAIN) {
			r = 0;
		} else {
			r = -EPIPE;
		}
	}
	/* Its machines are dead or need it no more: the daemon saw to that. */
	pager_free(pp);
	return 0;
}
