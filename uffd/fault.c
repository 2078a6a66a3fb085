#include "uffd/engine.h"

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>

/*
 * The fault thread. What it does itself is short: look a page up, start a read,
 * wake. Only when nothing else is to be done it checks and publishes a window
 * itself, which saves a single fault the way through a worker.
 */
#define EPOLL_EVENTS 64
/* One client that faults without end does not keep the others from theirs. */
#define READS_A_TURN 4
#define TICK_MS      100
#define SPIN_NS      50000ULL
#define SOON_NS      100000ULL

void start_load(struct pager *p, struct job *j)
{
	struct err e = {0};
	int r = job_map(p, j, false, &e);

	if (r == -EAGAIN) {
		job_queue(p, j);
		return;
	}
	if (r) {
		job_fail(p, j, &e);
		return;
	}
	if (!j->npieces) {
		job_run(p, j, NULL);
		return;
	}
	if (!job_admit(p, j))
		return;
	if (!job_ask(&p->fault_ring, j))
		return;
	job_queue(p, j);
}

/* The job that the window of w gets, or has: w waits with it. *start: it is
 * new. NULL: there is none to be had now. */
static struct job *join_locked(struct pager *p, struct waiter *w, bool *start)
{
	struct window *win = &p->win[w->page / PSRC_PAGES];
	struct job *j = win->state == WIN_LOADING ? win->job : NULL;

	if (j && j->lane == LANE_FILL)
		j = NULL;
	if (j) {
		stat_add(&p->stats->faults_waited, 1);
		if (j->lane == LANE_AHEAD)
			urge_locked(p, j);
	} else {
		j = job_take_locked(p, LANE_DEMAND);
		if (!j)
			return NULL;
		j->window = w->page / PSRC_PAGES;
		win->state = WIN_LOADING;
		win->job = j;
		*start = true;
	}
	w->next = j->waiters;
	j->waiters = w;
	return j;
}

/* Takes w. */
static void resolve(struct pager *p, struct waiter *w)
{
	struct window *win = &p->win[w->page / PSRC_PAGES];
	struct bad_window *b = NULL;
	struct job *j = NULL;
	bool start = false;
	int state;

	(void)pthread_mutex_lock(&p->lock);
	state = win->state;
	if (state == WIN_BAD)
		b = bad_find_locked(p, w->page / PSRC_PAGES);
	else if (state != WIN_PRESENT)
		j = join_locked(p, w, &start);
	if (state != WIN_PRESENT && !b && !j) {
		w->next = NULL;
		*p->backlog_tail = w;
		p->backlog_tail = &w->next;
	}
	(void)pthread_mutex_unlock(&p->lock);
	if (b) {
		waiter_fail(p, w, &b->e);
	} else if (state == WIN_PRESENT) {
		stat_add(&p->stats->faults_late, 1);
		waiter_answer(p, w);
	} else if (start) {
		start_load(p, j);
	}
}

static void page_fault(struct pager *p, struct client *c, uint64_t address)
{
	struct waiter *w;
	struct err e = {0};
	uint64_t page;

	if (address < c->addr || address - c->addr >= p->size)
		return;
	stat_add(&p->stats->faults, 1);
	if (c->stats)
		stat_add(&c->stats->faults, 1);
	w = malloc(sizeof(*w));
	if (!w) {
		err_set(&e, -ENOMEM, "the pager has no memory for a fault");
		client_fail(p, c, &e);
		return;
	}
	*w = (struct waiter){.c = c,
		.page = (address - c->addr) / PAGE_SIZE_4K,
		.since = now_ns()};
	(void)pthread_mutex_lock(&p->lock);
	c->refs++;
	(void)pthread_mutex_unlock(&p->lock);
	page = w->page;
	resolve(p, w);
	follow_stream(p, c, page / PSRC_PAGES);
}

static void one_event(
	struct pager *p, struct client *c, const struct uffd_msg *m)
{
	struct err e = {0};

	switch (m->event) {
	case UFFD_EVENT_PAGEFAULT:
		page_fault(p, c, m->arg.pagefault.address);
		break;
	case UFFD_EVENT_REMAP:
		err_set(&e, -EIO, "the machine moved its guest memory");
		client_fail(p, c, &e);
		break;
	case UFFD_EVENT_REMOVE: /* seen already, in read_events() */
	default:
		break;
	}
}

/* In a private mapping of a base, a page that was thrown away is the base's
 * again; in a machine's own memory it is zeros. The bytes must not come in
 * between: an event that was read lets the kernel take copies again. */
static int read_events(struct pager *p, struct client *c, struct uffd_msg *m)
{
	int n;

	(void)pthread_mutex_lock(&c->memory);
	n = uffd_read(c->fd, m, MAX_EVENTS);
	for (int i = 0; i < n && p->base < 0; i++) {
		if (m[i].event == UFFD_EVENT_REMOVE)
			publish_removed(p, c, m[i].arg.remove.start,
				m[i].arg.remove.end);
	}
	(void)pthread_mutex_unlock(&c->memory);
	return n;
}

static void drain(struct pager *p, struct client *c, uint32_t events)
{
	struct uffd_msg m[MAX_EVENTS];
	int n = (events & EPOLLERR) ? -EIO : 0;

	for (int turn = 0; n >= 0 && turn < READS_A_TURN; turn++) {
		n = read_events(p, c, m);
		for (int i = 0; i < n; i++)
			one_event(p, c, &m[i]);
		if (n < MAX_EVENTS)
			break;
	}
	/* One that cannot be waited for, such as one made blocking by its other
	 * holder, would keep this thread busy for ever, or asleep. */
	if (n < 0 && n != -EAGAIN) {
		struct err e = {0};

		(void)epoll_ctl(p->epoll, EPOLL_CTL_DEL, c->fd, NULL);
		err_set(&e, -EIO, "the machine's userfaultfd is of no use");
		client_fail(p, c, &e);
	}
}

/* ---- what else comes round ---- */

static void run_backlog(struct pager *p)
{
	struct waiter *w, *next;

	(void)pthread_mutex_lock(&p->lock);
	/* As many as may be fetched now. */
	for (unsigned n = p->nfetch; n < FETCH_JOBS && p->parked; n++) {
		w = p->parked;
		p->parked = w->next;
		w->next = NULL;
		*p->backlog_tail = w;
		p->backlog_tail = &w->next;
	}
	if (!p->parked)
		p->parked_tail = &p->parked;
	w = p->backlog;
	p->backlog = NULL;
	p->backlog_tail = &p->backlog;
	(void)pthread_mutex_unlock(&p->lock);
	for (; w; w = next) {
		next = w->next;
		resolve(p, w);
	}
}

/* Out of a list: who has waited for too long. Returns its tail. */
static struct waiter **take_late(struct waiter **list, struct waiter **late,
	uint64_t now, uint64_t patience)
{
	while (*list) {
		struct waiter *w = *list;

		if (now - w->since < patience) {
			list = &w->next;
			continue;
		}
		*list = w->next;
		w->next = *late;
		*late = w;
	}
	return list;
}

static struct waiter *take_all_late(struct pager *p)
{
	uint64_t patience = p->o.stall_ms * 1000000ULL, now = now_ns();
	struct waiter *late = NULL;

	(void)pthread_mutex_lock(&p->lock);
	for (unsigned i = 0; i < DEMAND_JOBS; i++)
		(void)take_late(&p->demand[i].waiters, &late, now, patience);
	for (unsigned i = 0; i < AHEAD_JOBS; i++)
		(void)take_late(&p->run[i].waiters, &late, now, patience);
	p->backlog_tail = take_late(&p->backlog, &late, now, patience);
	p->parked_tail = take_late(&p->parked, &late, now, patience);
	(void)pthread_mutex_unlock(&p->lock);
	return late;
}

static void check_stalled(struct pager *p)
{
	struct waiter *w = take_all_late(p), *next;

	for (; w; w = next) {
		struct err e = {0};

		next = w->next;
		err_set(&e, -ETIMEDOUT,
			"the page source (%s) did not deliver guest memory at "
			"%#llx within %u ms",
			p->src->ops->name,
			(unsigned long long)(w->page * PAGE_SIZE_4K),
			p->o.stall_ms);
		waiter_fail(p, w, &e);
	}
}

/* Those who were detached leave here, between batches of events. */
static void sweep_clients(struct pager *p)
{
	(void)pthread_mutex_lock(&p->lock);
	for (struct client **at = &p->clients; *at;) {
		struct client *c = *at;

		if (!c->gone) {
			at = &c->next;
			continue;
		}
		*at = c->next;
		(void)epoll_ctl(p->epoll, EPOLL_CTL_DEL, c->fd, NULL);
		client_put_locked(c);
	}
	(void)pthread_mutex_unlock(&p->lock);
}

/* A single small job is done here; several are for the workers, but for the
 * first one, which this thread can do as well. */
static void reap(struct pager *p, uint8_t *scratch)
{
	struct job *last = NULL, *j;
	int res;

	while ((j = ring_reap(&p->fault_ring, &res))) {
		job_read_done(p, j, res);
		if (last || j->lane != LANE_DEMAND)
			job_queue(p, j);
		else
			last = j;
	}
	if (!last)
		return;
	if (p->base >= 0 && last->piece[0].plain && last->nread == 1 &&
		last->npieces == 1)
		job_run(p, last, scratch);
	else
		job_queue(p, last);
}

/* To be woken costs more than most of what is to be done then. Where one fault
 * came soon after another, the next one is looked out for a while before this
 * thread sleeps; one look in vain ends that. */
static int wait_events(
	struct pager *p, struct epoll_event *ev, int timeout_ms, bool *soon)
{
	uint64_t start = now_ns();
	int n = 0;

	while (*soon && !n && now_ns() - start < SPIN_NS)
		n = epoll_wait(p->epoll, ev, EPOLL_EVENTS, 0);
	if (n)
		return n;
	start = now_ns();
	n = epoll_wait(p->epoll, ev, EPOLL_EVENTS, timeout_ms);
	*soon = now_ns() - start < SOON_NS;
	return n;
}

static bool one_turn(struct pager *p, uint8_t *scratch, bool *soon)
{
	struct epoll_event ev[EPOLL_EVENTS];
	uint64_t count;
	bool idle, stop, pinged;
	int n;

	(void)pthread_mutex_lock(&p->lock);
	idle = !p->loading && !p->backlog && !p->parked;
	(void)pthread_mutex_unlock(&p->lock);
	n = wait_events(p, ev, idle ? -1 : TICK_MS, soon);
	for (int i = 0; i < n; i++) {
		if (!ev[i].data.ptr)
			(void)!read(p->kick, &count, sizeof(count));
		else if (ev[i].data.ptr != &p->fault_ring)
			drain(p, ev[i].data.ptr, ev[i].events);
	}
	run_backlog(p);
	if (p->fault_ring.open) {
		(void)!ring_submit(&p->fault_ring, 0);
		reap(p, scratch);
	}
	sweep_clients(p);
	(void)pthread_mutex_lock(&p->lock);
	stop = p->stop;
	pinged = p->pinged;
	p->pinged = false;
	(void)pthread_mutex_unlock(&p->lock);
	if (pinged)
		post_event(p, PAGER_ALIVE, 0, NULL);
	return !stop;
}

void *fault_main(void *pager)
{
	struct pager *p = pager;
	uint8_t *scratch = scratch_take(p);
	uint64_t checked = now_ns();
	bool soon = false;

	while (one_turn(p, scratch, &soon)) {
		if (now_ns() - checked < TICK_MS * 1000000ULL)
			continue;
		checked = now_ns();
		check_stalled(p);
	}
	return NULL;
}

void kick_fault(struct pager *p)
{
	uint64_t one = 1;

	(void)!write(p->kick, &one, sizeof(one));
}
