#include "uffd/engine.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

/*
 * The thread that is ahead of the guests: first the working set, in the order
 * of the file and in long reads; then, when it is asked to, everything else;
 * and at the very end the base is sealed.
 */
#define READ_WAIT_MS  100
#define YIELD_NS      2000000ULL /* to faults, each time */
#define SEAL_TRIES    50
#define SEAL_PAUSE_NS 100000000ULL
#define AGAIN_NS      5000000000ULL

struct target {
	uint64_t window;
	struct psrc_window w;
};
/* Windows in the order in which they will be read. */
struct plan {
	enum lane lane;
	uint64_t at;    /* fill: the next window */
	uint64_t *list; /* set: owned, windows in order */
	uint64_t n;
	struct target next; /* .window valid when have */
	bool have;
	bool again; /* something could not be read this time */
	uint64_t began, bytes;
};

static bool stopped(struct pager *p)
{
	bool stop;

	(void)pthread_mutex_lock(&p->lock);
	stop = p->stop;
	(void)pthread_mutex_unlock(&p->lock);
	return stop;
}

/* Sleep, but not over a stop. Returns false when it is time to end. */
static bool rest(struct pager *p, uint64_t ns)
{
	uint64_t until = now_ns() + ns;
	struct timespec ts = {.tv_sec = (time_t)(until / 1000000000),
		.tv_nsec = (long)(until % 1000000000)};
	int r = 0;

	(void)pthread_mutex_lock(&p->lock);
	while (!p->stop && r != ETIMEDOUT)
		r = pthread_cond_timedwait(&p->ahead, &p->lock, &ts);
	r = p->stop;
	(void)pthread_mutex_unlock(&p->lock);
	return !r;
}

static bool is_absent(struct pager *p, uint64_t window)
{
	bool absent;

	(void)pthread_mutex_lock(&p->lock);
	absent = p->win[window].state == WIN_ABSENT;
	(void)pthread_mutex_unlock(&p->lock);
	return absent;
}

/* Nothing to read: it is there at once. */
static void set_zero(struct pager *p, uint64_t window)
{
	struct window *w = &p->win[window];

	(void)pthread_mutex_lock(&p->lock);
	if (w->state == WIN_ABSENT) {
		w->state = WIN_PRESENT;
		w->zero = 0xffff;
		p->present++;
	}
	(void)pthread_mutex_unlock(&p->lock);
}

/* The next window that is to be read into plan->next; false: no more. */
static bool look(struct pager *p, struct plan *plan)
{
	while (!plan->have && plan->at < plan->n && !stopped(p)) {
		uint64_t w = plan->list ? plan->list[plan->at] : plan->at;
		struct err e = {0};

		plan->at++;
		if (!is_absent(p, w))
			continue;
		if (p->src->ops->map(p->src, w, true, &plan->next.w, &e)) {
			if (!plan->again)
				post_event(p, PAGER_DAMAGED, 0, &e);
			plan->again = true;
		} else if (!plan->next.w.n && plan->next.w.zero == 0xffff) {
			set_zero(p, w);
		} else {
			plan->next.window = w;
			plan->have = true;
		}
	}
	return plan->have;
}

/* May next stand behind what j has? */
static bool fits(const struct job *j, const struct target *next)
{
	const struct psrc_piece *last = &j->piece[j->npieces - 1];
	const struct psrc_piece *p = &next->w.piece[0];

	return j->npieces == j->nwin && j->nwin < JOB_WINDOWS &&
	       next->w.n == 1 && next->window == j->window + j->nwin &&
	       p->file >= 0 && p->file == last->file &&
	       p->plain == last->plain && p->length <= PSRC_MAX_STORED &&
	       p->offset == last->offset + last->length;
}

static void append(struct job *j, const struct target *t, bool first)
{
	if (first) {
		j->window = t->window;
		j->npieces = t->w.n;
		memcpy(j->piece, t->w.piece, t->w.n * sizeof(t->w.piece[0]));
		j->mapped = true;
	} else {
		j->piece[j->npieces++] = t->w.piece[0];
		j->nwin++;
	}
	j->zero[j->nwin - 1] = t->w.zero;
}

/* Claim a window for j; false: somebody was faster. */
static bool claim(struct pager *p, struct job *j, uint64_t window)
{
	struct window *w = &p->win[window];
	bool ok;

	(void)pthread_mutex_lock(&p->lock);
	ok = w->state == WIN_ABSENT;
	if (ok) {
		w->state = WIN_LOADING;
		w->job = j;
	}
	(void)pthread_mutex_unlock(&p->lock);
	return ok;
}

/* Fill j with the next run; false: there is nothing left. The claim comes
 * last: from then on faults wait with j. */
static bool build(struct pager *p, struct plan *plan, struct job *j)
{
	bool first = true;

	while (look(p, plan)) {
		if (!first && !fits(j, &plan->next))
			break;
		plan->have = false;
		/* Who waits with a job reads .window: set it before. */
		if (first)
			j->window = plan->next.window;
		if (!claim(p, j, plan->next.window)) {
			if (first)
				continue;
			break;
		}
		append(j, &plan->next, first);
		first = false;
	}
	if (first)
		return false;
	for (unsigned i = 0; i < j->npieces && j->nwin > 1; i++)
		j->stored_len += j->piece[i].length;
	for (unsigned i = 0; i < j->npieces; i++)
		plan->bytes += j->piece[i].length;
	return true;
}

static void send_job(struct pager *p, struct job *j)
{
	if (job_ask(&p->ahead_ring, j))
		job_queue(p, j);
}

static void collect(struct pager *p, unsigned wait_ms)
{
	struct job *j;
	int res;

	if (!p->ahead_ring.open)
		return;
	(void)!ring_submit(&p->ahead_ring, wait_ms);
	while ((j = ring_reap(&p->ahead_ring, &res))) {
		job_read_done(p, j, res);
		job_queue(p, j);
	}
}

/* A job to fill; NULL: stop. Reads that are done are handed on meanwhile. */
static struct job *take_job(struct pager *p, enum lane lane)
{
	struct job *j = NULL;

	while (!j && !stopped(p)) {
		(void)pthread_mutex_lock(&p->lock);
		j = job_take_locked(p, lane);
		if (!j && !p->ahead_ring.inflight && !p->stop)
			(void)pthread_cond_wait(&p->ahead, &p->lock);
		(void)pthread_mutex_unlock(&p->lock);
		if (!j && p->ahead_ring.inflight)
			collect(p, READ_WAIT_MS);
	}
	return j;
}

static bool faults_wait(struct pager *p)
{
	bool waits = false;

	(void)pthread_mutex_lock(&p->lock);
	for (unsigned i = 0; i < DEMAND_JOBS && !waits; i++)
		waits = p->demand[i].busy;
	(void)pthread_mutex_unlock(&p->lock);
	return waits;
}

/* Give way to faults, and keep to the rate. */
static bool slow_down(struct pager *p, const struct plan *plan)
{
	uint64_t due, now;

	if (plan->lane != LANE_FILL)
		return true;
	if (faults_wait(p) && !rest(p, YIELD_NS))
		return false;
	if (!p->o.rate)
		return true;
	due = plan->began +
	      (uint64_t)((double)plan->bytes * 1e9 / (double)p->o.rate);
	now = now_ns();
	return due <= now || rest(p, due - now);
}

static void wait_idle(struct pager *p)
{
	while (!stopped(p)) {
		bool busy = false;

		collect(p, 0);
		(void)pthread_mutex_lock(&p->lock);
		for (unsigned i = 0; i < AHEAD_JOBS; i++)
			busy = busy || p->run[i].busy;
		if (busy && !p->ahead_ring.inflight && !p->stop)
			(void)pthread_cond_wait(&p->ahead, &p->lock);
		(void)pthread_mutex_unlock(&p->lock);
		if (!busy)
			return;
		if (p->ahead_ring.inflight)
			collect(p, READ_WAIT_MS);
	}
}

static void carry_out(struct pager *p, struct plan *plan)
{
	struct job *j;

	plan->began = now_ns();
	while (slow_down(p, plan) && (j = take_job(p, plan->lane))) {
		if (!build(p, plan, j)) {
			(void)pthread_mutex_lock(&p->lock);
			job_put_locked(p, j);
			(void)pthread_mutex_unlock(&p->lock);
			break;
		}
		send_job(p, j);
		collect(p, 0);
	}
	wait_idle(p);
}

/* ---- the working set ---- */

struct place {
	uint64_t window, offset;
	int32_t file;
};

static int by_place(const void *a, const void *b)
{
	const struct place *x = a, *y = b;

	if (x->file != y->file)
		return x->file < y->file ? -1 : 1;
	if (x->offset != y->offset)
		return x->offset < y->offset ? -1 : 1;
	return x->window < y->window ? -1 : x->window > y->window;
}

static bool set_has_window(const struct pager *p, uint64_t w)
{
	uint64_t word = p->set.bits[w * PSRC_PAGES / 64];

	return word >> (w * PSRC_PAGES % 64) & 0xffff;
}

static uint64_t *set_order(struct pager *p, uint64_t *count)
{
	struct place *place = calloc(p->nwindows, sizeof(*place));
	uint64_t *list = calloc(p->nwindows, sizeof(*list));
	uint64_t n = 0;

	for (uint64_t w = 0; place && list && w < p->nwindows; w++) {
		struct psrc_window at = {.zero = 0};
		struct err e = {0};

		if (!set_has_window(p, w))
			continue;
		/* One that cannot be found is left to the fault that needs it.
		 */
		if (p->src->ops->map(p->src, w, true, &at, &e))
			continue;
		if (!at.n)
			set_zero(p, w);
		else
			place[n++] = (struct place){
				w, at.piece[0].offset, at.piece[0].file};
	}
	if (place && list)
		qsort(place, n, sizeof(*place), by_place);
	for (uint64_t i = 0; list && i < n; i++)
		list[i] = place[i].window;
	free(place);
	*count = n;
	return list;
}

static void load_set(struct pager *p)
{
	struct plan plan = {.lane = LANE_SET};

	plan.list = set_order(p, &plan.n);
	if (plan.list)
		carry_out(p, &plan);
	free(plan.list);
	if (stopped(p))
		return;
	__atomic_store_n(&p->stats->set_done, 1, __ATOMIC_RELAXED);
	post_event(p, PAGER_SET_DONE, 0, NULL);
}

/* Pages of a single machine have nowhere to go before it is here. */
static bool wait_target(struct pager *p)
{
	bool stop;

	(void)pthread_mutex_lock(&p->lock);
	while (!p->stop && p->o.direct && !p->direct)
		(void)pthread_cond_wait(&p->ahead, &p->lock);
	stop = p->stop;
	(void)pthread_mutex_unlock(&p->lock);
	return !stop;
}

/* ---- the rest ---- */

static bool wait_fill(struct pager *p)
{
	bool stop;

	(void)pthread_mutex_lock(&p->lock);
	while (!p->stop && !(p->o.fill && p->filling))
		(void)pthread_cond_wait(&p->ahead, &p->lock);
	stop = p->stop;
	(void)pthread_mutex_unlock(&p->lock);
	return !stop;
}

static bool all_present(struct pager *p)
{
	bool all;

	(void)pthread_mutex_lock(&p->lock);
	all = p->present == p->nwindows && !p->loading;
	(void)pthread_mutex_unlock(&p->lock);
	return all;
}

/* No page is missing: no mapping needs to be watched any more. */
static void release_clients(struct pager *p)
{
	(void)pthread_mutex_lock(&p->lock);
	p->complete = true;
	for (struct client *c = p->clients; c; c = c->next) {
		if (!c->gone)
			(void)!uffd_unregister(c->fd, c->addr, p->size);
	}
	(void)pthread_mutex_unlock(&p->lock);
}

/* Never before all is there: the seal is what tells clones not to register. */
static bool seal(struct pager *p)
{
	if (p->base < 0)
		return true;
	(void)munmap(p->map, p->size);
	p->map = NULL;
	for (unsigned i = 0; i < SEAL_TRIES; i++) {
		if (!fcntl(p->base, F_ADD_SEALS, F_SEAL_WRITE))
			return true;
		/* A page that somebody in the kernel looks at just now. */
		if (errno != EBUSY || !rest(p, SEAL_PAUSE_NS))
			return false;
	}
	return false;
}

static void fill(struct pager *p)
{
	while (wait_fill(p)) {
		struct plan plan = {.lane = LANE_FILL, .n = p->nwindows};

		carry_out(p, &plan);
		if (stopped(p))
			return;
		if (all_present(p)) {
			if (!seal(p))
				return;
			release_clients(p);
			__atomic_store_n(
				&p->stats->complete, 1, __ATOMIC_RELAXED);
			post_event(p, PAGER_COMPLETE, 0, NULL);
			return;
		}
		/* What a fault is loading, or what may be readable later. */
		if (!rest(p, faults_wait(p) ? YIELD_NS : AGAIN_NS))
			return;
	}
}

void *ahead_main(void *pager)
{
	struct pager *p = pager;

	if (!wait_target(p))
		return NULL;
	if (p->set.bits)
		load_set(p);
	fill(p);
	return NULL;
}
