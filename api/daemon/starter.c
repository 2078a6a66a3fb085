#include "api/daemon/starter.h"

#include "api/daemon/admit.h"
#include "api/daemon/handler.h"
#include "api/daemon/macs.h"
#include "api/daemon/parents.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

struct starter {
	struct machine_entry *m;
	struct ready ready;
	uint64_t until, began, step; /* now_ns() */
	struct start_times us;
	started_fn *fn;
	void *arg;
};

static void done(struct daemon *d, struct starter *s, const struct err *e)
{
	struct machine_entry *m = s->m;
	struct starter all = *s;

	free(s);
	all.us.total = us_since(all.began);
	admit_release(d, m);
	if (!e)
		histogram_add(
			&d->metrics.hist[HIST_MACHINE_READY], all.us.total);
	all.fn(d, all.arg, m, &all.us, e);
}

/* What is left of the time, plus some patience with the process. */
static uint64_t left_ms(const struct starter *s)
{
	uint64_t now = now_ns();

	return now >= s->until ? 1 : (s->until - now) / 1000000 + 1;
}

static void is_ready(
	struct daemon *d, void *arg, struct ctl_packet *p, const struct err *e)
{
	struct starter *s = arg;

	s->us.ready = us_since(s->step);
	done(d, s, p ? NULL : e);
}

static void runs(
	struct daemon *d, void *arg, struct ctl_packet *p, const struct err *e)
{
	struct starter *s = arg;
	struct ctl_msg m = {.type = CTL_WAIT_READY};
	struct err why = {0};

	if (!p) {
		done(d, s, e);
		return;
	}
	if (s->m->state == ENTRY_STARTING)
		s->m->state = ENTRY_RUNNING;
	if (!s->ready.kind) {
		done(d, s, NULL);
		return;
	}
	m.wait_ready.kind = s->ready.kind;
	m.wait_ready.after_ms = s->ready.after_ms;
	m.wait_ready.timeout_ms = (uint32_t)left_ms(s);
	m.len = (uint32_t)strlen(s->ready.text);
	if (proc_call(d, &s->m->p,
		    &(struct proc_request){.m = &m,
			    .payload = s->ready.text,
			    .timeout_ms = left_ms(s) + 2000,
			    .fn = is_ready,
			    .arg = s},
		    &why))
		done(d, s, &why);
}

static void set_up(
	struct daemon *d, void *arg, struct ctl_packet *p, const struct err *e)
{
	struct starter *s = arg;
	struct ctl_msg m = {.type = CTL_RESUME};
	struct machine_config cfg;
	struct err why = {0};

	if (!p) {
		done(d, s, e);
		return;
	}
	s->m->memory = p->msg.setup_done.memory;
	if (p->msg.len == sizeof(cfg)) {
		memcpy(&cfg, p->payload, sizeof(cfg));
		macs_note(d, s->m, &cfg);
	}
	parents_close(s->m->p.parents);
	proc_forget_remote(&s->m->p);
	s->us.build = us_since(s->began);
	s->m->us.build = s->us.build;
	s->step = now_ns();
	if (proc_call(d, &s->m->p,
		    &(struct proc_request){.m = &m,
			    .timeout_ms = left_ms(s) + 2000,
			    .fn = runs,
			    .arg = s},
		    &why))
		done(d, s, &why);
}

static int send_setup(struct daemon *d, const struct start *start,
	struct starter *s, struct err *e)
{
	struct {
		struct machine_config cfg;
		struct ctl_overrides o;
	} both;
	struct ctl_overrides o = {.cid = start->cid};
	struct ctl_msg m = {.type = CTL_SETUP};
	unsigned nfds = 0;
	struct ctl_fd fds[4 + DEVFILES_MAX_FDS];

	if (start->hostname && start->hostname[0])
		(void)snprintf(
			o.hostname, sizeof(o.hostname), "%s", start->hostname);
	else
		(void)snprintf(
			o.hostname, sizeof(o.hostname), "%.63s", s->m->id);
	m.setup.version = CTL_VERSION;
	m.setup.role = start->role;
	m.setup.has_overrides = 1;
	m.setup.track_dirty = start->track_dirty;
	m.setup.lazy = s->m->feed || s->m->handler;
	if (s->m->handler) {
		m.setup.pager.stall_ms = (uint32_t)start->paging->stall_ms;
		fds[nfds++] = (struct ctl_fd){start->handler, CTL_FD_PAGER, 0};
	}
	if (start->file >= 0)
		fds[nfds++] = (struct ctl_fd){start->file,
			start->cfg ? CTL_FD_KERNEL : CTL_FD_SNAPSHOT, 0};
	if (start->initrd >= 0)
		fds[nfds++] = (struct ctl_fd){start->initrd, CTL_FD_INITRD, 0};
	if (start->listener >= 0)
		fds[nfds++] =
			(struct ctl_fd){start->listener, CTL_FD_LISTENER, 0};
	if (start->files) {
		devfiles_fill(start->files, &o);
		nfds = devfiles_fds(start->files, fds, nfds);
	}
	if (!start->cfg) {
		m.len = sizeof(o);
		return proc_call(d, &s->m->p,
			&(struct proc_request){.m = &m,
				.payload = &o,
				.fds = fds,
				.nfds = nfds,
				.timeout_ms = left_ms(s),
				.fn = set_up,
				.arg = s},
			e);
	}
	memset(&both, 0, sizeof(both));
	both.cfg = *start->cfg;
	both.o = o;
	m.len = sizeof(both);
	return proc_call(d, &s->m->p,
		&(struct proc_request){.m = &m,
			.payload = &both,
			.fds = fds,
			.nfds = nfds,
			.timeout_ms = left_ms(s),
			.fn = set_up,
			.arg = s},
		e);
}
_Static_assert(sizeof(struct machine_config) % 8 == 0,
	"overrides follow the configuration without a gap");

/* A machine whose pager could not be made ends with the pager's reason; who
 * waits for it hears of that. */
static void fed(struct daemon *d, struct feed *f, struct ctl_packet *p,
	const struct err *e)
{
	struct err why = {0};

	if (p || !f->m)
		return;
	why = *e;
	machine_kill(d, f->m, &why);
}

static int start_feed(struct daemon *d, struct machine_entry *m,
	const struct start *start, struct err *e)
{
	const struct feed_start s = {.m = m,
		.o = start->paging,
		.record = start->record,
		.file = start->file,
		.set = start->set,
		.peer = start->peer,
		.path = start->path,
		.remote = start->remote,
		.fn = fed};

	if (start->handler_path)
		return handler_create(
			m, start->handler_path, start->paging->stall_ms, e);
	if (!start->paging || !start->paging->lazy)
		return 0;
	m->feed = feed_start(d, &s, e);
	return m->feed ? 0 : e->code;
}

int starter_begin(struct daemon *d, const struct start *start,
	struct machine_entry **out, struct err *e)
{
	struct machine_entry *m = NULL;
	struct starter *s = calloc(1, sizeof(*s));
	int r;

	if (s)
		m = machine_create_entry(d, start->kind, start->id);
	if (!m) {
		free(s);
		return err_set(e, -ENOMEM, "no memory for a machine");
	}
	s->m = m;
	s->began = s->step = now_ns();
	s->until = s->began + start->timeout_ms * 1000000;
	s->ready = start->ready;
	s->fn = start->fn;
	s->arg = start->arg;
	m->name = start->name && start->name[0] ? strdup(start->name) : NULL;
	m->memory = start->cfg ? start->cfg->memory : 0;
	if (start->peer) {
		m->p.parents =
			parents_create(start->peer, start->path, start->file);
		if (!m->p.parents) {
			free(s);
			machine_discard(d, m);
			return err_set(e, -ENOMEM, "no memory for a machine");
		}
	}
	r = admit_machine(d, m, e);
	if (!r && start->files)
		r = macs_claim(d, m, start->files, e);
	if (!r && start->remote)
		r = proc_set_remote(&m->p, start->remote, e);
	if (!r)
		r = proc_spawn(d, &m->p, false, e);
	if (!r)
		r = start_feed(d, m, start, e);
	if (!r)
		r = send_setup(d, start, s, e);
	if (r) {
		free(s);
		machine_discard(d, m);
		return r;
	}
	d->metrics.counter[COUNT_MACHINES]++;
	*out = m;
	return 0;
}
