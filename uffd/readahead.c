#include "uffd/engine.h"

/*
 * Read-ahead: guests touch memory in sequence more often than not, and a window
 * that is there before it is touched costs no fault at all.
 *
 * How it works. Each client has a few streams. A stream is where a sequence of
 * faults is (.at) and up to where windows were asked for (.to). A fault between
 * the two goes on with it: more windows behind .to are asked for, twice as many
 * each time. Windows that came in time raise no event, so the next fault of a
 * sequence is at .to itself, or at a window that is still on its way. Any other
 * fault begins a stream of its own, and asks for nothing yet.
 *
 * Jobs of this lane come after all faults. A fault that needs the window of one
 * makes it a fault's job, wherever it is (urge_locked), and the jobs are so few
 * that faults always find free ones. All of it is the fault thread's.
 */
#define FIRST 2  /* windows */
#define MOST  16 /* 1 MiB */

void urge_locked(struct pager *p, struct job *j)
{
	struct job **at = &p->queue[LANE_AHEAD];

	j->lane = LANE_DEMAND;
	while (*at && *at != j)
		at = &(*at)->next;
	/* Its bytes are being read, or a worker has it already. */
	if (!*at)
		return;
	*at = j->next;
	if (p->tail[LANE_AHEAD] == &j->next)
		p->tail[LANE_AHEAD] = at;
	job_queue_locked(p, j);
}

/* NULL: it is there or on its way, or there are jobs enough; then *full. */
static struct job *take(struct pager *p, uint64_t window, bool *full)
{
	struct window *w = &p->win[window];
	struct job *j = NULL;

	(void)pthread_mutex_lock(&p->lock);
	if (w->state == WIN_ABSENT) {
		if (p->nahead < READAHEAD_JOBS)
			j = job_take_locked(p, LANE_AHEAD);
		*full = !j;
	}
	if (j) {
		j->window = window;
		w->state = WIN_LOADING;
		w->job = j;
	}
	(void)pthread_mutex_unlock(&p->lock);
	return j;
}

static void ask(struct pager *p, struct stream *s, uint64_t to)
{
	bool full = false;

	for (to = min_u64(to, p->nwindows); s->to < to; s->to++) {
		struct job *j = take(p, s->to, &full);

		if (full)
			return;
		if (j)
			start_load(p, j);
	}
}

void follow_stream(struct pager *p, struct client *c, uint64_t window)
{
	struct stream *s;

	if (p->o.record || p->o.exact)
		return;
	for (unsigned i = 0; i < NSTREAMS; i++) {
		s = &c->stream[i];
		if (!s->to || window < s->at || window > s->to)
			continue;
		/* Another page of the same window says nothing. */
		if (window == s->at)
			return;
		s->n = s->n ? (unsigned)min_u64(2 * s->n, MOST) : FIRST;
		s->at = window;
		if (s->to == window)
			s->to++;
		ask(p, s, window + 1 + s->n);
		return;
	}
	s = &c->stream[c->next_stream++ % NSTREAMS];
	*s = (struct stream){.at = window, .to = window + 1};
}
