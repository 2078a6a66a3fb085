#include "api/daemon/fetch.h"
#include "api/daemon/daemon.h"

#include "api/daemon/admit.h"
#include "api/daemon/birth.h"
#include "api/daemon/config.h"
#include "api/daemon/conn.h"
#include "api/daemon/creation.h"
#include "api/daemon/feed.h"
#include "api/daemon/helper.h"
#include "api/daemon/info.h"
#include "api/daemon/machine.h"
#include "api/daemon/store.h"
#include "api/daemon/template.h"
#include "api/daemon/unfinished.h"
#include "api/daemon/writer.h"
#include "core/log.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/wait.h>

#define EVENTS_AT_ONCE 64

void daemon_bury(struct daemon *d, void *p)
{
	if (d->ndead == d->dead_cap) {
		size_t cap = d->dead_cap ? 2 * d->dead_cap : 64;
		void **dead = realloc(d->dead, cap * sizeof(*dead));

		/* Better lost than freed under somebody's feet. */
		if (!dead)
			return;
		d->dead = dead;
		d->dead_cap = cap;
	}
	d->dead[d->ndead++] = p;
}

static void free_dead(struct daemon *d)
{
	for (size_t i = 0; i < d->ndead; i++)
		free(d->dead[i]);
	d->ndead = 0;
}

static int open_signals(struct daemon *d, struct err *e)
{
	sigset_t mask;
	int r;

	sigemptyset(&mask);
	sigaddset(&mask, SIGTERM);
	sigaddset(&mask, SIGINT);
	sigaddset(&mask, SIGCHLD);
	if (sigprocmask(SIG_BLOCK, &mask, NULL))
		return err_sys(e, -errno, "sigprocmask");
	(void)signal(SIGPIPE, SIG_IGN);
	d->signal_fd = signalfd(-1, &mask, SFD_CLOEXEC | SFD_NONBLOCK);
	if (d->signal_fd < 0)
		return err_sys(e, -errno, "signalfd");
	d->on_signal.type = EV_SIGNAL;
	r = loop_add(&d->loop, d->signal_fd, EPOLLIN,
		(union ev_ref){.ptr = &d->on_signal});
	return r ? err_sys(e, r, "epoll") : 0;
}

static void signals(struct daemon *d)
{
	struct signalfd_siginfo si;

	while (read(d->signal_fd, &si, sizeof(si)) == sizeof(si)) {
		if (si.ssi_signo != SIGCHLD)
			d->stopping = true;
	}
	proc_reap_orphans(d);
}

void daemon_prepare(struct daemon *d)
{
	list_init(&d->conns);
	list_init(&d->subscribers);
	list_init(&d->machines);
	list_init(&d->ended);
	list_init(&d->templates);
	list_init(&d->helpers);
	list_init(&d->writers);
	list_init(&d->feeds);
	msgpack_sbuffer_init(&d->nowhere);
	d->listen_fd = d->lock_fd = d->signal_fd = -1;
	d->null_fd = d->state_fd = -1;
	d->adm.meminfo_fd = -1;
	d->host.fd = -1;
	d->loop.epfd = -1;
	d->started = now_ns();
	d->next_cid = FIRST_CLONE_CID;
}

static void check_idle(struct daemon *d, struct deadline *dl)
{
	uint64_t ns = d->opt.idle_exit_s * 1000000000ULL;
	unsigned used = d->nconns + d->active;

	(void)dl;
	/* Pooled clones are nobody's. */
	used += d->nmachines;
	list_for_each(it, &d->templates)
	{
		struct template *t = container_of(it, struct template, all);

		used -= t->nparked + t->nfilling;
		used += t->creation ? 1 : 0;
	}
	if (used)
		d->quiet_since = now_ns();
	if (now_ns() - d->quiet_since >= ns) {
		log_info("nothing to do for %llu s: ending",
			(unsigned long long)d->opt.idle_exit_s);
		d->stopping = true;
		return;
	}
	deadline_set(
		&d->deadlines, &d->idle, now_ns() + 1000000000ULL, check_idle);
}

int daemon_init(struct daemon *d, struct err *e)
{
	int r;

	d->ctl_buf = malloc(CTL_INLINE + 1);
	if (!d->ctl_buf || strmap_init(&d->machine_by_id) ||
		strmap_init(&d->machine_by_mac) ||
		strmap_init(&d->template_by_name))
		return err_set(e, -ENOMEM, "no memory");
	d->null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	if (d->null_fd < 0)
		return err_sys(e, -errno, "/dev/null");
	r = loop_init(&d->loop);
	if (r)
		return err_sys(e, r, "epoll");
	if (access(d->opt.machine_exe, X_OK))
		return err_sys(e, -errno, "%s", d->opt.machine_exe);
	r = admit_init(d, e);
	if (!r)
		r = open_signals(d, e);
	if (!r)
		r = server_listen(d, e);
	if (r)
		return r;
	d->state_fd = store_open(d->opt.state_dir, e);
	if (d->state_fd < 0)
		return d->state_fd;
	unfinished_clean(d->opt.state_dir);
	fetch_clean(d);
	info_init(d);
	templates_load(d);
	info_wait(d);
	d->quiet_since = now_ns();
	if (d->opt.idle_exit_s)
		deadline_set(
			&d->deadlines, &d->idle, d->quiet_since, check_idle);
	return 0;
}

/* What the daemon does, all of it. */
static void dispatch(struct daemon *d, const struct epoll_event *ev)
{
	struct watch *w = ev->data.ptr;

	switch (w->type) {
	case EV_LISTENER:
		server_accept(d);
		break;
	case EV_SIGNAL:
		signals(d);
		break;
	case EV_CONN:
		conn_event(d, container_of(w, struct conn, on), ev->events);
		break;
	case EV_CTL: {
		struct proc *p = container_of(w, struct proc, on_ctl);

		if (!p->stopped && p->sock >= 0)
			proc_ctl_event(d, p, ev->events);
		break;
	}
	case EV_EXIT: {
		struct proc *p = container_of(w, struct proc, on_exit);

		if (!p->stopped && p->pidfd >= 0)
			proc_exit_event(d, p);
		break;
	}
	case EV_PROBE:
		info_event(d);
		break;
	default:
		break;
	}
}

int daemon_run(struct daemon *d)
{
	struct epoll_event ev[EVENTS_AT_ONCE];

	while (!d->stopping) {
		uint64_t now;
		int n = loop_wait(&d->loop, ev, EVENTS_AT_ONCE,
			deadlines_timeout(&d->deadlines, now_ns()));

		if (n < 0) {
			log_error("epoll_wait: %s", strerror(-n));
			return 1;
		}
		for (int i = 0; i < n; i++)
			dispatch(d, &ev[i]);
		now = now_ns();
		deadlines_run(&d->deadlines, d, now);
		conns_close_doomed(d);
		free_dead(d);
	}
	return 0;
}

/* End every process and wait for our children: a zygote that is waited for has
 * taken its clones along. */
static void end_all(struct daemon *d)
{
	struct err e = {.code = -ESHUTDOWN, .msg = "the daemon is stopping"};

	d->stopping = true;
	while (!list_empty(&d->templates)) {
		struct template *t =
			container_of(d->templates.next, struct template, all);

		if (t->creation)
			creation_failed(d, t, &e);
		else
			template_drop(d, t, &e);
	}
	while (!list_empty(&d->machines)) {
		struct machine_entry *m = container_of(
			d->machines.next, struct machine_entry, all);

		machine_kill(d, m, &e);
	}
	while (!list_empty(&d->feeds))
		feed_end(d, container_of(d->feeds.next, struct feed, link));
	while (!list_empty(&d->ended))
		machine_forget(d,
			container_of(d->ended.next, struct machine_entry, all));
	/* Their machines are gone: to fail is to be gone. */
	while (!list_empty(&d->writers))
		writer_cancel(d,
			container_of(d->writers.next, struct writer, link), &e);
	while (!list_empty(&d->helpers))
		helper_cancel(
			d, container_of(d->helpers.next, struct helper, link));
	list_for_each(it, &d->conns)
		conn_doom(d, container_of(it, struct conn, link));
	conns_close_doomed(d);
	info_fini(d);
	/* One that connects for a pager may be waiting for its peer. */
	for (size_t i = 0; i < d->norphans; i++)
		(void)kill(d->orphans[i], SIGKILL);
	for (size_t i = 0; i < d->norphans; i++)
		(void)waitpid(d->orphans[i], NULL, 0);
}

void daemon_fini(struct daemon *d)
{
	end_all(d);
	server_unlisten(d);
	free_dead(d);
	admit_fini(d);
	if (d->state_fd >= 0)
		(void)close(d->state_fd);
	if (d->null_fd >= 0)
		(void)close(d->null_fd);
	if (d->signal_fd >= 0)
		(void)close(d->signal_fd);
	loop_fini(&d->loop);
	strmap_fini(&d->machine_by_id);
	strmap_fini(&d->machine_by_mac);
	strmap_fini(&d->template_by_name);
	msgpack_sbuffer_destroy(&d->nowhere);
	free(d->ctl_buf);
	free(d->dead);
	free(d->orphans);
}
