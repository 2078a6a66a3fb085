#include "api/daemon/zygote.h"

#include "api/daemon/birth.h"
#include "api/daemon/events.h"
#include "api/daemon/store.h"
#include "core/log.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>

/*
 * A template has one zygote that makes clones, and any number of retired ones
 * that must live as long as their clones do. One that dies takes its clones
 * with it; a new one is started from the template's file and its base.
 */
#define MAX_STARTS    5
#define FIRST_WAIT_NS 100000000ULL
#define SETUP_MS      60000
/* Numbers a zygote may claim that are of use to nobody but people. */
#define SEALS (F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK)

static void retry(struct daemon *d, struct deadline *dl)
{
	zygote_start(d, container_of(dl, struct template, retry));
}

/* May it go better in a second? The rest are answers: a file, a configuration
 * or a host that does not suit will not suit then either. */
static bool can_pass(int code)
{
	switch (-code) {
	case EAGAIN:
	case EBUSY:
	case ECONNRESET:
	case EINTR:
	case EIO:
	case EMFILE:
	case ENFILE:
	case ENOMEM:
	case ENOSPC:
	case ESRCH:
	case ETIMEDOUT:
		return true;
	default:
		return false;
	}
}

void zygote_lost(struct daemon *d, struct template *t, const struct err *why)
{
	struct err e = {0};

	if (d->stopping)
		return;
	if (t->starts >= MAX_STARTS || !can_pass(why->code)) {
		template_failed(d, t, why);
		return;
	}
	if (t->state == TEMPLATE_READY)
		t->state = TEMPLATE_LOADING;
	err_set(&e, why->code, "zygote of \"%s\": %s", t->name, why->msg);
	log_warning("%s; starting it again", e.msg);
	deadline_set(&d->deadlines, &t->retry,
		now_ns() + (FIRST_WAIT_NS << t->starts) / 2, retry);
}

static void unlink_zygote(struct zygote *z)
{
	if (z->t->z == z)
		z->t->z = NULL;
	list_del(&z->link);
}

/* Its clones die with it, by pid namespace or parent-death signal. */
static void end_clones(
	struct daemon *d, struct zygote *z, const struct err *why)
{
	while (!list_empty(&z->clones)) {
		struct machine_entry *m = container_of(
			z->clones.next, struct machine_entry, of_zygote);

		if (m->state == ENTRY_PARKED)
			machine_discard(d, m);
		else if (m->state == ENTRY_STARTING)
			birth_failed(d, m, why);
		else
			machine_kill(d, m, why);
	}
}

void zygote_kill(struct daemon *d, struct zygote *z, const struct err *why)
{
	unlink_zygote(z);
	proc_kill(d, &z->p, why);
	end_clones(d, z, why);
	daemon_bury(d, z);
}

void zygote_gone(struct daemon *d, struct zygote *z, int status)
{
	struct template *t = z->t;
	bool current = t->z == z;
	struct err e = {.code = -EIO};

	if (status >= 0 && WIFSIGNALED(status))
		(void)snprintf(e.msg, sizeof(e.msg),
			"the template's zygote was killed by signal %d",
			WTERMSIG(status));
	else
		(void)snprintf(
			e.msg, sizeof(e.msg), "the template's zygote ended");
	d->metrics.counter[COUNT_ZYGOTES_LOST]++;
	events_zygote(d, t, e.msg);
	unlink_zygote(z);
	proc_release(d, &z->p, &e);
	end_clones(d, z, &e);
	daemon_bury(d, z);
	if (current)
		zygote_lost(d, t, &e);
}

/* End a retired one that has no clones left. */
static void check(struct daemon *d, struct zygote *z)
{
	struct err e = {.code = -ESRCH, .msg = "the zygote was retired"};

	if (z->retired && list_empty(&z->clones))
		zygote_kill(d, z, &e);
}

/* Make no more clones with it and end it after its last clone. */
static void retire(struct daemon *d, struct zygote *z, const char *why)
{
	struct template *t = z->t;

	if (z->retired)
		return;
	log_warning("zygote of \"%s\" is replaced: %s", t->name, why);
	d->metrics.counter[COUNT_ZYGOTES_RETIRED]++;
	z->retired = true;
	if (t->z == z)
		t->z = NULL;
	list_add(&t->retired, &z->link);
	pool_discard(d, t);
	check(d, z);
	t->state = TEMPLATE_LOADING;
	t->starts = 0;
	zygote_start(d, t);
}

/* The base of a zygote may only be handed to the next one when nobody can
 * change it any more. */
void zygote_keep_base(struct template *t, struct ctl_packet *p)
{
	int base = ctl_fd(p, CTL_FD_BASE, 0);
	int seals;

	if (t->base_fd >= 0 || base < 0)
		return;
	seals = fcntl(base, F_GET_SEALS);
	if (seals >= 0 && (seals & SEALS) == SEALS)
		t->base_fd = ctl_take(p, CTL_FD_BASE, 0);
}

static void keep_config(struct template *t, const struct ctl_packet *p)
{
	struct machine_config c;

	if (p->msg.len != sizeof(c))
		return;
	memcpy(&c, p->payload, sizeof(c));
	c.kernel[sizeof(c.kernel) - 1] = 0;
	c.cmdline[sizeof(c.cmdline) - 1] = 0;
	t->cfg = c;
}

static void set_up(
	struct daemon *d, void *arg, struct ctl_packet *p, const struct err *e)
{
	struct zygote *z = arg;
	struct template *t = z->t;

	/* Its end is reported by zygote_gone(); here only refusals. */
	if (!p && (z->p.stopped || z->p.sock < 0))
		return;
	if (!p) {
		struct err why = *e;

		unlink_zygote(z);
		proc_kill(d, &z->p, &why);
		daemon_bury(d, z);
		zygote_lost(d, t, &why);
		return;
	}
	if (!z->feed)
		zygote_keep_base(t, p);
	keep_config(t, p);
	t->uuid = p->msg.setup_done.uuid;
	t->base_bytes = p->msg.setup_done.base_bytes;
	z->ready = true;
	t->starts = 0;
	t->state = TEMPLATE_READY;
	template_ready(d, t);
	birth_feed(d, t);
	pool_schedule(d);
}

static int setup(struct daemon *d, struct zygote *z, struct err *e)
{
	struct template *t = z->t;
	struct ctl_msg m = {.type = CTL_SETUP};
	struct ctl_fd fds[2 + DEVFILES_MAX_FDS] = {
		{t->snap_fd, CTL_FD_SNAPSHOT, 0}};
	struct ctl_overrides o = {0};
	unsigned nfds = 1;

	if (t->feed && t->feed->state != FEED_COMPLETE)
		z->feed = t->feed;
	m.setup.version = CTL_VERSION;
	m.setup.role = CTL_ROLE_ZYGOTE;
	m.setup.lazy = z->feed != NULL;
	m.setup.has_overrides = 1;
	m.len = sizeof(o);
	if (t->base_fd >= 0)
		fds[nfds++] = (struct ctl_fd){t->base_fd, CTL_FD_BASE, 0};
	devfiles_fill(&t->files, &o);
	nfds = devfiles_fds(&t->files, fds, nfds);
	return proc_call(d, &z->p,
		&(struct proc_request){.m = &m,
			.payload = &o,
			.fds = fds,
			.nfds = nfds,
			.timeout_ms = SETUP_MS,
			.fn = set_up,
			.arg = z},
		e);
}

static void give_up(struct daemon *d, struct zygote *z, const struct err *why)
{
	struct template *t = z->t;
	struct err e = *why;

	unlink_zygote(z);
	proc_kill(d, &z->p, &e);
	daemon_bury(d, z);
	zygote_lost(d, t, &e);
}

/* A base that only its pager can write to. Others get it for reading only: the
 * seals do not keep fallocate() from putting a page of zeros into a hole. */
static int take_lazy_base(struct template *t, struct ctl_packet *p)
{
	const int want = F_SEAL_FUTURE_WRITE | F_SEAL_GROW | F_SEAL_SHRINK;
	AUTO_FD fd = ctl_take(p, CTL_FD_BASE, 0);
	int seals = fd < 0 ? -1 : fcntl(fd, F_GET_SEALS);
	char path[40];

	if (seals < 0 || (seals & want) != want)
		return -EBADMSG;
	if (t->base_fd >= 0)
		(void)close(t->base_fd);
	(void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	t->base_fd = open(path, O_RDONLY | O_CLOEXEC);
	return t->base_fd < 0 ? -errno : 0;
}

static void fed(struct daemon *d, struct feed *f, struct ctl_packet *p,
	const struct err *e)
{
	struct template *t = f->t;
	struct err why = {.code = -EIO, .msg = "the pager gave no base"};

	if (e)
		why = *e;
	if (!p || take_lazy_base(t, p)) {
		feed_end(d, f);
		if (t->z)
			give_up(d, t->z, &why);
		return;
	}
	if (t->z && setup(d, t->z, &why))
		give_up(d, t->z, &why);
}

/* The pager first, for a lazy template; both processes start at once. */
static int begin(struct daemon *d, struct zygote *z, struct err *e)
{
	struct template *t = z->t;
	AUTO_FD set = -1;
	struct feed_start s = {.t = t,
		.o = &t->paging,
		.file = t->snap_fd,
		.remote = t->remote,
		.fn = fed};

	if (!t->paging.lazy || t->base_fd >= 0)
		return setup(d, z, e);
	if (t->feed)
		return 0;
	set = store_open_set(d->state_fd, t->name);
	s.set = set;
	t->feed = feed_start(d, &s, e);
	return t->feed ? 0 : e->code;
}

void zygote_start(struct daemon *d, struct template *t)
{
	struct zygote *z = calloc(1, sizeof(*z));
	struct err e = {0};
	int r;

	t->starts++;
	if (!z) {
		err_set(&e, -ENOMEM, "no memory for a zygote");
		zygote_lost(d, t, &e);
		return;
	}
	proc_init(&z->p, PROC_ZYGOTE);
	z->t = t;
	list_init(&z->link);
	list_init(&z->clones);
	t->z = z;
	r = proc_spawn(d, &z->p, true, &e);
	if (!r)
		r = begin(d, z, &e);
	if (!r)
		return;
	unlink_zygote(z);
	proc_kill(d, &z->p, &e);
	daemon_bury(d, z);
	zygote_lost(d, t, &e);
}

static void reaped(struct daemon *d, struct zygote *z, struct ctl_packet *p)
{
	int status = p->msg.reaped.wait_status;
	struct machine_entry *m;
	bool bad = false;
	char id[ID_LEN];

	if (z->children)
		z->children--;
	(void)snprintf(id, sizeof(id), "%s-%llu", z->t->name,
		(unsigned long long)p->msg.reaped.number);
	m = machine_find(d, id);
	if (m && m->z == z) {
		/* Clones share the zygote's addresses and stack canary: one
		 * that was made to crash may have told them. */
		bad = !m->discarded && WIFSIGNALED(status) &&
		      (WTERMSIG(status) == SIGSEGV ||
			      WTERMSIG(status) == SIGABRT ||
			      WTERMSIG(status) == SIGSYS);
		machine_reaped(d, m, status);
	}
	if (z->p.stopped)
		return;
	if (bad)
		retire(d, z, "the process of a clone crashed");
	else
		check(d, z);
}

void zygote_message(struct daemon *d, struct zygote *z, struct ctl_packet *p)
{
	if (p->msg.type == CTL_CLONED)
		birth_cloned(d, z, p);
	else if (p->msg.type == CTL_REAPED)
		reaped(d, z, p);
	else
		log_debug("a zygote sent control message %u", p->msg.type);
}
