#include "api/daemon/birth.h"

#include "api/daemon/admit.h"
#include "api/daemon/config.h"
#include "api/daemon/zygote.h"
#include "core/log.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/*
 * The life of a clone before anybody has it:
 *
 *   entry made, CTL_CLONE sent -> CTL_CLONED (it has a process) -> CTL_HATCHED
 *
 * From the first step to the last it counts in zygote.outstanding. The window
 * is what keeps the zygote and the processors busy without building a queue
 * in which a small request would wait behind a large one.
 */
#define WINDOW 8
/* As long as nobody else wants some, messages hold this many clones. */
#define BATCH 4
/* Our own patience, beyond the time the clone itself keeps to. */
#define GRACE_MS 2000

static void birth_late(struct daemon *d, struct deadline *dl)
{
	struct machine_entry *m = container_of(dl, struct machine_entry, late);
	struct err e = {.code = -ETIMEDOUT,
		.msg = "the clone did not acknowledge in time"};

	birth_failed(d, m, &e);
}

static struct machine_entry *new_clone(struct daemon *d, struct zygote *z,
	struct want *w, uint32_t index, uint64_t timeout_ms)
{
	struct template *t = z->t;
	struct machine_entry *m;
	char id[ID_LEN];

	(void)snprintf(id, sizeof(id), "%s-%llu", t->name,
		(unsigned long long)t->next_number);
	m = machine_create_entry(d, ENTRY_CLONE, id);
	if (!m)
		return NULL;
	m->number = t->next_number++;
	m->t = t;
	m->z = z;
	list_add(&z->clones, &m->of_zygote);
	t->nmachines++;
	z->outstanding++;
	m->want = w;
	m->want_index = index;
	m->for_pool = !w;
	m->memory = t->cfg.memory;
	m->reserved = admit_clone_bytes(t);
	if (!w) {
		t->nfilling++;
		admit_reserve(d, m->reserved);
	}
	deadline_set(&d->deadlines, &m->late,
		now_ns() + (timeout_ms + GRACE_MS) * 1000000, birth_late);
	return m;
}

/* All clones of one CTL_CLONE; numbers follow each other. */
struct batch {
	struct template *t;
	uint64_t first;
	uint32_t count;
	uint64_t timeout_ms;
	bool pool;
};

static void batch_failed(
	struct daemon *d, const struct batch *b, const struct err *e)
{
	char name[NAME_LEN], id[ID_LEN];

	(void)snprintf(name, sizeof(name), "%s", b->t->name);
	for (uint32_t i = 0; i < b->count; i++) {
		struct machine_entry *m;

		(void)snprintf(id, sizeof(id), "%s-%llu", name,
			(unsigned long long)b->first + i);
		m = machine_find(d, id);
		/* Those that were forked before the failure live on. */
		if (m && m->state == ENTRY_STARTING && m->p.sock < 0 &&
			m->p.pidfd < 0)
			birth_failed(d, m, e);
	}
}

static void batch_done(
	struct daemon *d, void *arg, struct ctl_packet *p, const struct err *e)
{
	struct batch *b = arg;

	if (!p)
		batch_failed(d, b, e);
	free(b);
}

static void send_batch(struct daemon *d, struct zygote *z,
	const struct ctl_overrides *o, struct batch *b,
	const struct clone_files *files)
{
	struct ctl_msg m = {.type = CTL_CLONE, .len = sizeof(*o)};
	struct ctl_fd fds[1 + DEVFILES_MAX_FDS];
	unsigned nfds = 0;
	struct err e = {0};
	int r;

	if (files->listener >= 0)
		fds[nfds++] =
			(struct ctl_fd){files->listener, CTL_FD_LISTENER, 0};
	nfds = devfiles_fds(&files->dev, fds, nfds);

	m.clone.count = b->count;
	m.clone.mode = b->pool ? CTL_CLONE_PARK : CTL_CLONE_RUN;
	m.clone.first = b->first;
	m.clone.timeout_ms = (uint32_t)b->timeout_ms;
	r = proc_call(d, &z->p,
		&(struct proc_request){.m = &m,
			.payload = o,
			.fds = fds,
			.nfds = nfds,
			.timeout_ms = b->timeout_ms + GRACE_MS,
			.fn = batch_done,
			.arg = b},
		&e);
	if (r) {
		batch_failed(d, b, &e);
		free(b);
	}
}

static struct ctl_overrides overrides_of(struct daemon *d, struct template *t,
	const struct ctl_overrides *given, uint32_t count)
{
	struct ctl_overrides o = {0};

	if (given)
		o = *given;
	(void)snprintf(o.template_name, sizeof(o.template_name), "%s", t->name);
	if (!o.cid) {
		o.cid = (uint32_t)d->next_cid;
		/* 2^31 clones later the numbers begin again: long gone. */
		d->next_cid += count;
		if (d->next_cid > INT32_MAX)
			d->next_cid = FIRST_CLONE_CID;
	}
	return o;
}

/* Files of a clone's own; those that have any are asked for one by one. */
static int prepare(struct daemon *d, struct want *w, uint32_t index,
	struct machine_entry *m, struct clone_files *files, struct err *e)
{
	int r = 0;

	if (w && w->prepare)
		r = w->prepare(d, w, index, m, files, e);
	return r ? r : devfiles_clone_overlays(d, &m->t->cfg, &files->dev, e);
}

static void close_files(struct clone_files *f)
{
	devfiles_close(&f->dev);
	if (f->listener >= 0)
		(void)close(f->listener);
}

/* Ask for n clones of w (NULL: for the pool). */
static void ask(struct daemon *d, struct zygote *z, struct want *w, uint32_t n,
	uint64_t timeout_ms)
{
	const struct ctl_overrides *given = NULL;
	struct batch *b = calloc(1, sizeof(*b));
	uint32_t index = w ? w->asked : 0;
	struct ctl_overrides o;
	struct clone_files files = {.listener = -1};
	struct err e = {0};

	devfiles_init(&files.dev);

	if (w) {
		given = w->overrides ? &w->overrides[index] : NULL;
		w->asked += n;
		if (w->asked == w->count)
			list_del(&w->link);
	}
	o = overrides_of(d, z->t, given, n);
	if (b) {
		b->t = z->t;
		b->first = z->t->next_number;
	}
	for (uint32_t i = 0; b && i < n; i++) {
		struct machine_entry *m =
			new_clone(d, z, w, index + i, timeout_ms);

		if (!m)
			break;
		b->count++;
		if (prepare(d, w, index + i, m, &files, &e)) {
			close_files(&files);
			birth_failed(d, m, &e);
			free(b);
			return;
		}
	}
	err_set(&e, -ENOMEM, "no memory for a clone");
	for (uint32_t i = b ? b->count : 0; w && i < n; i++) {
		admit_unreserve(d, admit_clone_bytes(w->t));
		w->fn(d, w, index + i, NULL, &e);
	}
	if (b && b->count) {
		b->timeout_ms = timeout_ms;
		b->pool = !w;
		devfiles_fill(&files.dev, &o);
		send_batch(d, z, &o, b, &files);
	} else {
		free(b);
	}
	close_files(&files);
}

void birth_feed(struct daemon *d, struct template *t)
{
	/* One that cannot even be asked for fails at once, and failures come
	 * here: a thousand of them would be a thousand calls deep. */
	if (t->feeding)
		return;
	t->feeding = true;
	while (t->z && t->z->ready && !list_empty(&t->wants) &&
		t->z->outstanding < WINDOW) {
		struct want *w = container_of(t->wants.next, struct want, link);
		bool alone = t->wants.next == t->wants.prev;
		uint64_t n = min_u64(w->count - w->asked, alone ? BATCH : 1);

		n = min_u64(n, WINDOW - t->z->outstanding);
		if (w->overrides || w->prepare ||
			devfiles_need_overlays(&t->cfg))
			n = 1;
		/* Small messages cost more: wait for room for a whole one. */
		if (alone && n < BATCH && n < w->count - w->asked && n > 1)
			break;
		deadline_clear(&d->deadlines, &w->late);
		/* The next one's turn. */
		list_del(&w->link);
		list_add(&t->wants, &w->link);
		ask(d, t->z, w, (uint32_t)n, w->timeout_ms);
	}
	t->feeding = false;
}

unsigned birth_fill(struct daemon *d, struct template *t, unsigned n)
{
	if (!t->z || !t->z->ready || t->z->outstanding + n > WINDOW)
		return 0;
	if (!devfiles_need_overlays(&t->cfg)) {
		ask(d, t->z, NULL, n, CLONE_ACK_MS);
		return n;
	}
	/* One that fails may take the zygote with it. */
	for (unsigned i = 0; i < n && t->z; i++)
		ask(d, t->z, NULL, 1, CLONE_ACK_MS);
	return n;
}

static void want_late(struct daemon *d, struct deadline *dl)
{
	struct want *w = container_of(dl, struct want, late);
	struct err e = {0};

	err_set(&e, -ETIMEDOUT, "template \"%s\" has no zygote yet",
		w->t->name);
	want_fail(d, w, &e);
}

void want_start(struct daemon *d, struct want *w)
{
	struct template *t = w->t;

	w->asked = 0;
	list_add(&t->wants, &w->link);
	deadline_set(&d->deadlines, &w->late,
		now_ns() + w->timeout_ms * 1000000, want_late);
	birth_feed(d, t);
}

void want_fail(struct daemon *d, struct want *w, const struct err *e)
{
	uint32_t first = w->asked, count = w->count;
	uint64_t bytes = admit_clone_bytes(w->t);

	deadline_clear(&d->deadlines, &w->late);
	list_del(&w->link);
	w->asked = count;
	for (uint32_t i = first; i < count; i++) {
		admit_unreserve(d, bytes);
		w->fn(d, w, i, NULL, e);
	}
}

void birth_cloned(struct daemon *d, struct zygote *z, struct ctl_packet *p)
{
	int sock = ctl_fd(p, CTL_FD_SOCKET, 0);
	int pidfd = ctl_fd(p, CTL_FD_PIDFD, 0);
	struct machine_entry *m;
	char id[ID_LEN];

	z->children++;
	if (sock < 0 || pidfd < 0)
		return;
	(void)snprintf(id, sizeof(id), "%s-%llu", z->t->name,
		(unsigned long long)p->msg.cloned.number);
	m = machine_find(d, id);
	/* One that is not expected any more sees its socket close. */
	if (!m || m->z != z || m->state != ENTRY_STARTING || m->p.sock >= 0 ||
		m->p.pidfd >= 0)
		return;
	m->us.fork = p->msg.cloned.fork_us;
	if (proc_adopt(d, &m->p, sock, pidfd, z->p.pid)) {
		struct err e = {
			.code = -EMFILE, .msg = "no descriptor for a clone"};

		birth_failed(d, m, &e);
		return;
	}
	/* They are the entry's now. */
	(void)ctl_take(p, CTL_FD_SOCKET, 0);
	(void)ctl_take(p, CTL_FD_PIDFD, 0);
}

/* It is no longer on its way, for better or worse. */
static void arrived(struct daemon *d, struct machine_entry *m)
{
	deadline_clear(&d->deadlines, &m->late);
	if (m->z && m->z->outstanding)
		m->z->outstanding--;
	if (m->for_pool && m->t->nfilling)
		m->t->nfilling--;
	admit_release(d, m);
	m->want = NULL;
	m->for_pool = false;
}

static void record(struct daemon *d, const struct ctl_times *us)
{
	histogram_add(&d->metrics.hist[HIST_FORK], us->fork);
	histogram_add(&d->metrics.hist[HIST_BUILD], us->build);
	histogram_add(&d->metrics.hist[HIST_ACK], us->ack);
}

void birth_hatched(
	struct daemon *d, struct machine_entry *m, struct ctl_packet *p)
{
	struct template *t = m->t;
	struct want *w = m->want;
	bool pool = m->for_pool;
	uint32_t fork_us = m->us.fork;

	if (m->kind != ENTRY_CLONE || m->state != ENTRY_STARTING)
		return;
	if (p->msg.status < 0) {
		struct err e = {0};
		char text[300];

		proc_text(p, text, sizeof(text));
		err_set(&e, p->msg.status < -4095 ? -EIO : p->msg.status, "%s",
			text);
		birth_failed(d, m, &e);
		return;
	}
	m->us = p->msg.hatched.us;
	m->us.fork = fork_us;
	memcpy(m->generation, p->msg.hatched.generation, 16);
	memcpy(m->machine_id, p->msg.hatched.machine_id, 16);
	record(d, &m->us);
	arrived(d, m);
	t->fill_failures = 0;
	/* The next ones first: the zygote works while we answer. */
	birth_feed(d, t);
	if (pool) {
		pool_park(d, m);
		return;
	}
	m->state = ENTRY_RUNNING;
	t->made_fresh++;
	d->metrics.counter[COUNT_CLONES_FRESH]++;
	if (w)
		w->fn(d, w, m->want_index, m, NULL);
}

void birth_failed(
	struct daemon *d, struct machine_entry *m, const struct err *e)
{
	struct template *t = m->t;
	struct want *w = m->want;
	uint32_t index = m->want_index;
	struct err why = *e;

	if (m->for_pool)
		pool_fill_failed(t);
	else
		t->failed++;
	d->metrics.counter[COUNT_CLONES_FAILED]++;
	arrived(d, m);
	log_warning("clone %s: %s", m->id, why.msg);
	machine_discard(d, m);
	if (w)
		w->fn(d, w, index, NULL, &why);
	birth_feed(d, t);
	pool_schedule(d);
}
