#include "api/daemon/feed.h"

#include "api/daemon/params.h"
#include "api/daemon/parents.h"
#include "api/daemon/spawn.h"
#include "api/daemon/template.h"
#include "api/daemon/zygote.h"
#include "core/log.h"
#include "uffd/uffd.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>

#define SETUP_MS 60000
/* Without a first answer the background begins by itself. */
#define FILL_AFTER_NS 2000000000ULL
/* How often a pager that has machines is asked whether it is alive. */
#define ASK_NS 500000000ULL

int feed_opts_parse(const struct args *a, struct feed_opts *o, struct err *e)
{
	bool more = a->fill || a->fill_rate || (a->stall_ms && !a->pager.p);

	*o = (struct feed_opts){.lazy = a->lazy,
		.fill_none = a->fill == FILL_NONE,
		.rate = a->fill_rate * MIB,
		.stall_ms = a->stall_ms};
	if (more && !a->lazy)
		return err_set(e, -EINVAL,
			"fill, fill_rate and stall_ms are for lazy: true "
			"(stall_ms for pager, too)");
	return 0;
}

/* ---- start and end ---- */

static int stats_file(void)
{
	const uint64_t size =
		PAGER_STATS_SLOTS +
		PAGER_STATS_NSLOTS * sizeof(struct pager_client_stats);
	int fd = memfd_create("pager-stats", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	if (fd < 0)
		return -errno;
	if (ftruncate(fd, (off_t)size) ||
		fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW)) {
		int r = -errno;

		(void)close(fd);
		return r;
	}
	return fd;
}

static void fill(struct daemon *d, struct deadline *dl)
{
	struct feed *f = container_of(dl, struct feed, fill_at);
	struct ctl_msg m = {.type = CTL_FILL};

	deadline_clear(&d->deadlines, &f->fill_at);
	if (f->fill_sent || f->state != FEED_RUNNING)
		return;
	f->fill_sent = proc_send(&f->p, &m, NULL, NULL, 0) == 0;
	if (!f->fill_sent)
		deadline_set(&d->deadlines, &f->fill_at,
			now_ns() + FILL_AFTER_NS, fill);
}

/* ---- is it alive? ---- */

static void ask(struct daemon *d, struct deadline *dl);

static void alive(
	struct daemon *d, void *arg, struct ctl_packet *p, const struct err *e)
{
	struct feed *f = arg;

	(void)d;
	(void)e;
	f->asked = false;
	/* One that does not answer is killed; feed_gone() says why. */
	f->late = !p && f->state == FEED_RUNNING;
}

static uint64_t patience_ms(const struct feed *f)
{
	return f->o.stall_ms ? f->o.stall_ms : PAGER_STALL_MS;
}

/* A pager that hangs, or was stopped, would leave its guests frozen. */
static void ask(struct daemon *d, struct deadline *dl)
{
	struct feed *f = container_of(dl, struct feed, ask_at);
	struct ctl_msg m = {.type = CTL_ALIVE};
	struct err e = {0};

	deadline_clear(&d->deadlines, &f->ask_at);
	if (f->state != FEED_RUNNING || !f->nmachines)
		return;
	deadline_set(&d->deadlines, &f->ask_at, now_ns() + ASK_NS, ask);
	if (f->asked)
		return;
	f->asked = true;
	if (proc_call(d, &f->p,
		    &(struct proc_request){.m = &m,
			    .timeout_ms = patience_ms(f),
			    .fn = alive,
			    .arg = f},
		    &e)) {
		f->late = true;
		(void)proc_signal(&f->p, SIGKILL);
	}
}

static void refuse(struct daemon *d, struct machine_entry *m, const char *why)
{
	struct err e = {0};

	err_set(&e, -EIO, "the machine's memory cannot be brought in: %s", why);
	machine_kill(d, m, &e);
}

static void attach(struct daemon *d, struct machine_entry *m)
{
	struct ctl_msg msg = {.type = CTL_ATTACH};
	struct feed *f = m->feed;

	msg.uffd.addr = m->uffd_addr;
	msg.uffd.id = m->feed_id;
	if (proc_send(&f->p, &msg, NULL,
		    &(struct ctl_fd){m->uffd, CTL_FD_UFFD, 0}, 1))
		refuse(d, m, "the pager does not read its requests");
}

static void set_up(
	struct daemon *d, void *arg, struct ctl_packet *p, const struct err *e)
{
	struct feed *f = arg;
	feed_fn *fn = f->fn;

	f->fn = NULL;
	proc_forget_remote(&f->p);
	if (p) {
		f->state = FEED_RUNNING;
		parents_close(f->p.parents);
		deadline_set(&d->deadlines, &f->fill_at,
			now_ns() + FILL_AFTER_NS, fill);
		/* Its machine may have been faster. */
		if (f->m && f->m->uffd >= 0) {
			deadline_set(&d->deadlines, &f->ask_at,
				now_ns() + ASK_NS, ask);
			attach(d, f->m);
		}
	}
	if (fn)
		fn(d, f, p, e);
}

/* The one process that writes what it fetches into the file. */
static int writable(int file)
{
	char path[40];
	int fd;

	(void)snprintf(path, sizeof(path), "/proc/self/fd/%d", file);
	fd = open(path, O_RDWR | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

static int setup(struct daemon *d, struct feed *f, const struct feed_start *s,
	struct err *e)
{
	struct ctl_msg m = {.type = CTL_SETUP};
	struct ctl_fd fds[4] = {
		{s->file, CTL_FD_SNAPSHOT, 0}, {f->stats_fd, CTL_FD_STATS, 0}};
	AUTO_FD dialer = -1;
	AUTO_FD file = -1;
	unsigned n = 2;

	m.setup.version = CTL_VERSION;
	m.setup.role = CTL_ROLE_PAGER;
	m.setup.pager = f->o;
	if (s->set >= 0)
		fds[n++] = (struct ctl_fd){s->set, CTL_FD_SET, 0};
	if (f->p.remote) {
		file = writable(s->file);
		dialer = spawn_dialer(d, f->p.remote, e);
		if (file < 0)
			return err_sys(e, file, "the cached snapshot");
		if (dialer < 0)
			return dialer;
		fds[0].fd = file;
		fds[n++] = (struct ctl_fd){dialer, CTL_FD_DIALER, 0};
		m.setup.remote = 1;
		m.len = sizeof(*f->p.remote);
	}
	return proc_call(d, &f->p,
		&(struct proc_request){.m = &m,
			.payload = f->p.remote,
			.fds = fds,
			.nfds = n,
			.timeout_ms = SETUP_MS,
			.fn = set_up,
			.arg = f},
		e);
}

struct feed *feed_start(
	struct daemon *d, const struct feed_start *s, struct err *e)
{
	struct feed *f = calloc(1, sizeof(*f));
	int r;

	if (!f) {
		err_set(e, -ENOMEM, "no memory for a pager");
		return NULL;
	}
	proc_init(&f->p, PROC_PAGER);
	f->t = s->t;
	f->m = s->m;
	f->fn = s->fn;
	f->o = (struct ctl_pager_opts){
		.direct = s->m != NULL,
		.record = s->record,
		.fill = !s->o->fill_none && !s->record,
		.stall_ms = (uint32_t)s->o->stall_ms,
		.rate = s->o->rate,
	};
	list_add(&d->feeds, &f->link);
	f->stats_fd = stats_file();
	r = f->stats_fd < 0 ? err_sys(e, f->stats_fd, "counters of a pager")
			    : proc_spawn(d, &f->p, false, e);
	if (!r && s->peer) {
		f->p.parents = parents_create(s->peer, s->path, s->file);
		if (!f->p.parents)
			r = err_set(e, -ENOMEM, "no memory for a pager");
	}
	if (!r && s->remote)
		r = proc_set_remote(&f->p, s->remote, e);
	if (!r)
		r = setup(d, f, s, e);
	if (!r)
		return f;
	f->fn = NULL;
	feed_end(d, f);
	return NULL;
}

/* What it did stays in the daemon's counters. */
static void add_stats(struct pager_stats *sum, const struct pager_stats *s)
{
	const uint64_t *from = (const void *)s;
	uint64_t *to = (void *)sum;

	for (size_t i = 0; i < sizeof(*s) / sizeof(*to); i++)
		to[i] += from[i];
}

void feed_end(struct daemon *d, struct feed *f)
{
	struct err e = {.code = -ESRCH, .msg = "the pager was ended"};
	struct pager_stats s;

	feed_stats(f, &s);
	add_stats(&d->pager_past, &s);
	f->fn = NULL;
	deadline_clear(&d->deadlines, &f->fill_at);
	deadline_clear(&d->deadlines, &f->ask_at);
	if (f->t && f->t->feed == f)
		f->t->feed = NULL;
	if (f->m)
		f->m->feed = NULL;
	proc_kill(d, &f->p, &e);
	if (f->stats_fd >= 0)
		(void)close(f->stats_fd);
	f->stats_fd = -1;
	list_del(&f->link);
	daemon_bury(d, f);
}

/* ---- machines ---- */

static void forget_uffd(struct machine_entry *m)
{
	if (m->uffd >= 0)
		(void)close(m->uffd);
	m->uffd = -1;
}

void feed_uffd(struct daemon *d, struct machine_entry *m, struct ctl_packet *p)
{
	struct feed *f = m->z ? m->z->feed : m->feed;
	AUTO_FD fd = ctl_take(p, CTL_FD_UFFD, 0);

	/* Only what cannot hold us, or the pager, up. */
	if (fd < 0 || !uffd_is_one(fd) || m->uffd >= 0 || !f) {
		refuse(d, m, "it sent no userfaultfd of its own");
		return;
	}
	if (f->state == FEED_COMPLETE) {
		/* It registered just before the base was complete. */
		(void)!uffd_unregister(fd, p->msg.uffd.addr, m->memory);
		return;
	}
	if (f->state == FEED_DEAD) {
		refuse(d, m, "the pager is gone");
		return;
	}
	m->uffd = take_fd(&fd);
	m->feed = f;
	m->feed_id = ++f->last_id;
	if (!f->nmachines++)
		deadline_set(&d->deadlines, &f->ask_at, now_ns() + ASK_NS, ask);
	m->uffd_addr = p->msg.uffd.addr;
	if (f->state == FEED_RUNNING)
		attach(d, m);
}

void feed_leave(struct daemon *d, struct machine_entry *m)
{
	struct ctl_msg msg = {.type = CTL_DETACH};
	struct feed *f = m->feed;

	if (!f)
		return;
	if (m->uffd >= 0 && f->nmachines)
		f->nmachines--;
	if (f->m) {
		feed_end(d, f);
	} else if (f->state == FEED_RUNNING) {
		msg.uffd.id = m->feed_id;
		/* A full socket: it keeps a descriptor of a dead machine. */
		(void)!proc_send(&f->p, &msg, NULL, NULL, 0);
	}
	m->feed = NULL;
	forget_uffd(m);
}

void feed_answered(struct daemon *d, struct machine_entry *m)
{
	struct feed *f = m->feed;

	if (!m->first_answer_us) {
		m->first_answer_us = us_since(m->born);
		if (f)
			histogram_add(&d->metrics.hist[HIST_LAZY_MACHINE],
				m->first_answer_us);
	}
	if (m->t && !m->t->first_answer_us) {
		m->t->first_answer_us = us_since(m->t->began);
		if (m->t->paging.lazy)
			histogram_add(&d->metrics.hist[HIST_LAZY_TEMPLATE],
				m->t->first_answer_us);
	}
	if (f && !f->fill_sent)
		fill(d, &f->fill_at);
}

static struct machine_entry *by_id(
	struct daemon *d, const struct feed *f, uint64_t id)
{
	list_for_each(it, &d->machines)
	{
		struct machine_entry *m =
			container_of(it, struct machine_entry, all);

		if (m->feed == f && m->feed_id == id)
			return m;
	}
	return NULL;
}

/* ---- what a pager says, and its end ---- */

static void machine_failed(
	struct daemon *d, struct feed *f, struct ctl_packet *p)
{
	struct machine_entry *m = by_id(d, f, p->msg.paged.id);
	int64_t code = p->msg.paged.code;
	struct err e = {0};
	char text[300];

	if (!m)
		return;
	proc_text(p, text, sizeof(text));
	err_set(&e, code < 0 && code > -4096 ? (int)code : -EIO,
		"a page of the machine's memory could not be brought in: %s",
		text);
	log_warning("%s: %s", m->id, e.msg);
	machine_kill(d, m, &e);
}

/* Nothing is registered any more. */
static void completed(struct daemon *d, struct feed *f)
{
	struct ctl_msg paged = {.type = CTL_PAGED};
	struct ctl_msg stop = {.type = CTL_STOP};

	f->state = FEED_COMPLETE;
	f->damaged[0] = 0;
	deadline_clear(&d->deadlines, &f->fill_at);
	list_for_each(it, &d->machines)
	{
		struct machine_entry *m =
			container_of(it, struct machine_entry, all);

		if (m->feed != f)
			continue;
		forget_uffd(m);
		if (f->m)
			(void)!proc_send(&m->p, &paged, NULL, NULL, 0);
	}
	if (f->t)
		template_complete(d, f->t);
	if (proc_send(&f->p, &stop, NULL, NULL, 0))
		(void)proc_signal(&f->p, SIGKILL);
}

void feed_message(struct daemon *d, struct feed *f, struct ctl_packet *p)
{
	char text[300];

	if (p->msg.type != CTL_PAGER || f->state != FEED_RUNNING) {
		log_debug("a pager sent control message %u", p->msg.type);
		return;
	}
	switch (p->msg.paged.type) {
	case PAGER_FAILED:
		machine_failed(d, f, p);
		break;
	case PAGER_COMPLETE:
		completed(d, f);
		break;
	case PAGER_DAMAGED:
		/* What did not come may come yet. */
		if (p->msg.paged.code == -ETIMEDOUT)
			break;
		proc_text(p, text, sizeof(text));
		if (!f->damaged[0])
			log_warning("%s \"%s\": %s",
				f->t ? "template" : "machine",
				f->t ? f->t->name : f->m->id, text);
		(void)snprintf(f->damaged, sizeof(f->damaged), "%s", text);
		break;
	case PAGER_SET_DONE:
	default:
		break;
	}
}

static void death(const struct feed *f, int status, struct err *e)
{
	if (f->late)
		err_set(e, -ETIMEDOUT,
			"the pager of %s \"%s\" did not answer within %u ms "
			"and "
			"was killed",
			f->t ? "template" : "machine",
			f->t ? f->t->name : f->m->id, (unsigned)patience_ms(f));
	else if (status >= 0 && WIFSIGNALED(status))
		err_set(e, -EIO,
			"the pager of %s \"%s\" was killed by signal %d",
			f->t ? "template" : "machine",
			f->t ? f->t->name : f->m->id, WTERMSIG(status));
	else
		err_set(e, -EIO, "the pager of %s \"%s\" ended",
			f->t ? "template" : "machine",
			f->t ? f->t->name : f->m->id);
}

/* All of them at once, before one is looked at closer; then by name. */
static void kill_fed(struct daemon *d, struct feed *f, const struct err *why)
{
	bool found = true;

	list_for_each(it, &d->machines)
	{
		struct machine_entry *m =
			container_of(it, struct machine_entry, all);

		if (m->feed == f)
			(void)proc_signal(&m->p, SIGKILL);
	}
	while (found) {
		found = false;
		list_for_each(it, &d->machines)
		{
			struct machine_entry *m =
				container_of(it, struct machine_entry, all);

			if (m->feed != f || f->m)
				continue;
			machine_kill(d, m, why);
			found = true;
			break;
		}
	}
}

void feed_gone(struct daemon *d, struct feed *f, int status)
{
	struct machine_entry *m = f->m;
	struct template *t = f->t;
	feed_fn *fn = f->fn;
	struct err e = {0};

	if (f->state == FEED_COMPLETE) {
		e.code = -ESRCH;
		proc_release(d, &f->p, &e);
		return;
	}
	death(f, status, &e);
	log_warning("%s", e.msg);
	d->metrics.counter[COUNT_PAGERS_LOST]++;
	f->state = FEED_DEAD;
	/* Its setup's caller hears of it as of any failed setup. */
	if (fn) {
		proc_release(d, &f->p, &e);
		return;
	}
	kill_fed(d, f, &e);
	proc_release(d, &f->p, &e);
	if (t)
		template_feed_lost(d, t, f, &e);
	else if (m)
		machine_kill(d, m, &e);
}
