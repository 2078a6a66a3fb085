#include "uffd/engine.h"

#include <errno.h>
#include <string.h>

struct job *job_take_locked(struct pager *p, enum lane lane)
{
	struct job **list = lane <= LANE_AHEAD ? &p->free_demand : &p->free_run;
	struct job *j = *list;

	if (!j)
		return NULL;
	*list = j->next;
	j->next = NULL;
	j->lane = lane;
	j->busy = true;
	j->ahead = lane == LANE_AHEAD;
	j->counted = false;
	p->nahead += j->ahead;
	j->mapped = false;
	j->nread = 0;
	j->nwin = 1;
	j->npieces = 0;
	j->stored_len = 0;
	j->waiters = NULL;
	for (unsigned i = 0; i < JOB_WINDOWS; i++) {
		j->bad[i].code = 0;
		j->early[i] = 0;
	}
	p->loading++;
	return j;
}

void job_put_locked(struct pager *p, struct job *j)
{
	struct job **list =
		j->lane <= LANE_AHEAD ? &p->free_demand : &p->free_run;

	j->busy = false;
	p->nahead -= j->ahead;
	p->nfetch -= j->counted;
	j->next = *list;
	*list = j;
	p->loading--;
	/* Whom the end of a fault's load concerns looks at the clock. */
	if (j->lane > LANE_AHEAD)
		pthread_cond_broadcast(&p->ahead);
	if (p->backlog || (p->parked && j->counted))
		kick_fault(p);
}

void job_queue_locked(struct pager *p, struct job *j)
{
	j->next = NULL;
	*p->tail[j->lane] = j;
	p->tail[j->lane] = &j->next;
	pthread_cond_signal(j->lane == LANE_FILL ? &p->slow : &p->work);
}

void job_queue(struct pager *p, struct job *j)
{
	(void)pthread_mutex_lock(&p->lock);
	job_queue_locked(p, j);
	(void)pthread_mutex_unlock(&p->lock);
}

/* ---- where the bytes are ---- */

/* A source may be somebody else's program: what it says must make sense. */
static int check_window(const struct pager *p, const struct psrc_window *w,
	uint64_t window, struct err *e)
{
	uint32_t seen = w->zero;
	bool ok = w->n <= PSRC_PAGES;

	for (unsigned i = 0; ok && i < w->n; i++) {
		const struct psrc_piece *k = &w->piece[i];
		unsigned pages = (unsigned)__builtin_popcount(k->pages);

		ok = k->pages && !(seen & k->pages) && k->length &&
		     k->length <= PSRC_MAX_STORED && k->file >= -1 &&
		     k->file < (int)p->src->nfiles &&
		     (!k->plain || k->length == pages * PAGE_SIZE_4K);
		seen |= k->pages;
	}
	if (ok && seen == 0xffff)
		return 0;
	return err_set(e, -EBADMSG,
		"the page source makes no sense of guest memory at %#llx",
		(unsigned long long)(window * PSRC_WINDOW));
}

int job_map(struct pager *p, struct job *j, bool may_block, struct err *e)
{
	struct psrc_window w = {.zero = 0};
	int r = p->src->ops->map(p->src, j->window, may_block, &w, e);

	if (!r)
		r = check_window(p, &w, j->window, e);
	if (r)
		return r;
	j->npieces = w.n;
	j->zero[0] = w.zero;
	memcpy(j->piece, w.piece, w.n * sizeof(w.piece[0]));
	j->mapped = true;
	return 0;
}

bool job_fetches(const struct job *j)
{
	unsigned i = j->nread;

	while (i < j->npieces && j->piece[i].file >= 0)
		i++;
	return i < j->npieces;
}

static void park_locked(struct pager *p, struct job *j)
{
	struct window *w = &p->win[j->window];

	if (w->state == WIN_LOADING && w->job == j) {
		w->state = WIN_ABSENT;
		w->job = NULL;
	}
	*p->parked_tail = j->waiters;
	while (*p->parked_tail)
		p->parked_tail = &(*p->parked_tail)->next;
	j->waiters = NULL;
	job_put_locked(p, j);
}

bool job_admit(struct pager *p, struct job *j)
{
	bool ok = true;

	(void)pthread_mutex_lock(&p->lock);
	if (j->lane <= LANE_AHEAD && !j->counted && job_fetches(j)) {
		ok = p->nfetch < FETCH_JOBS;
		if (ok) {
			j->counted = true;
			p->nfetch++;
		} else {
			park_locked(p, j);
		}
	}
	(void)pthread_mutex_unlock(&p->lock);
	return ok;
}

/* ---- the bytes ---- */

static int get_piece(struct pager *p, uint64_t window,
	const struct psrc_piece *k, void *stored, struct err *e)
{
	int r;

	stat_add(&p->stats->bytes_read, k->length);
	if (k->file < 0)
		return p->src->ops->fetch(p->src, window, k, stored, e);
	r = pread_full(p->src->file[k->file], stored, k->length, k->offset);
	if (r)
		return err_sys(e, r, "bytes %llu-%llu of the snapshot",
			(unsigned long long)k->offset,
			(unsigned long long)k->offset + k->length - 1);
	return 0;
}

/* Windows of a run lie one behind the other in .stored. */
static uint8_t *stored_of(const struct job *j, unsigned i)
{
	return j->nwin > 1
		       ? j->stored + (j->piece[i].offset - j->piece[0].offset)
		       : j->stored;
}

/* Plain bytes are published from where they were read. */
static bool in_place(const struct pager *p, const struct job *j)
{
	return !p->o.record && j->piece[0].plain &&
	       (j->nwin > 1 || j->npieces == 1);
}

/* False: some of it has to be fetched after all. */
static bool unpack(struct pager *p, struct job *j, uint8_t *scratch)
{
	bool whole = true;

	for (unsigned i = 0; i < j->npieces; i++) {
		unsigned k = j->nwin > 1 ? i : 0;
		struct psrc_piece *piece = &j->piece[i];
		uint8_t *win = j->win + k * PSRC_WINDOW;
		int r = 0;

		if (j->bad[k].code)
			continue;
		if (i >= j->nread)
			r = get_piece(p, j->window + k, piece, stored_of(j, i),
				&j->bad[k]);
		if (!r)
			r = p->src->ops->decode(p->src, j->window + k, piece,
				&(struct psrc_buf){stored_of(j, i), scratch,
					in_place(p, j) ? NULL : win},
				&j->bad[k]);
		if (r == -EAGAIN && piece->file >= 0) {
			piece->file = -1;
			whole = false;
			continue;
		}
		/* Whatever a source forgot to say. */
		if (r && !j->bad[k].code)
			j->bad[k].code = r;
	}
	return whole;
}

/* ---- the end of a load ---- */

struct bad_window *bad_find_locked(struct pager *p, uint64_t window)
{
	struct bad_window *b = p->bad;

	while (b && b->window != window)
		b = b->next;
	return b;
}

/* Wrong bytes stay wrong. What could not be read may be readable later. */
static void window_failed_locked(
	struct pager *p, struct window *w, uint64_t window, const struct err *e)
{
	struct bad_window *b;

	w->state = WIN_ABSENT;
	w->job = NULL;
	if (e->code != -EBADMSG)
		return;
	b = malloc(sizeof(*b));
	if (!b)
		return;
	*b = (struct bad_window){.next = p->bad, .window = window, .e = *e};
	p->bad = b;
	w->state = WIN_BAD;
	stat_add(&p->stats->bad_windows, 1);
}

static void count_locked(struct pager *p, const struct job *j, unsigned k)
{
	unsigned pages = 16 - (unsigned)__builtin_popcount(j->zero[k]);

	if (p->o.record)
		return; /* counted page by page */
	if (j->lane == LANE_DEMAND)
		stat_add(&p->stats->pages_demand, pages);
	else if (j->lane == LANE_AHEAD)
		stat_add(&p->stats->pages_ahead, pages);
	else if (j->lane == LANE_SET)
		stat_add(&p->stats->pages_set, pages);
	else
		stat_add(&p->stats->pages_filled, pages);
}

static void settle(struct pager *p, struct job *j, uint8_t *held)
{
	(void)pthread_mutex_lock(&p->lock);
	for (unsigned k = 0; k < j->nwin; k++) {
		struct window *w = &p->win[j->window + k];

		/* A fault may have taken it away. */
		if (w->state != WIN_LOADING || w->job != j)
			continue;
		if (j->bad[k].code) {
			window_failed_locked(p, w, j->window + k, &j->bad[k]);
			continue;
		}
		w->state = WIN_PRESENT;
		w->job = NULL;
		w->zero = j->zero[k];
		if (p->o.record) {
			w->held = held;
			held = NULL;
		}
		p->present++;
		count_locked(p, j, k);
	}
	if (j->lane == LANE_DEMAND)
		stat_add(&p->stats->windows_demand, 1);
	(void)pthread_mutex_unlock(&p->lock);
	free(held);
}

/* Settled: nobody joins any more. */
static void answer_waiters(struct pager *p, struct job *j)
{
	struct err bad[JOB_WINDOWS];
	struct waiter *w, *next;
	uint64_t first = j->window, patience = p->o.stall_ms * 1000000ULL;

	memcpy(bad, j->bad, sizeof(bad));
	(void)pthread_mutex_lock(&p->lock);
	w = j->waiters;
	j->waiters = NULL;
	job_put_locked(p, j);
	(void)pthread_mutex_unlock(&p->lock);
	for (; w; w = next) {
		const struct err *e = &bad[w->page / PSRC_PAGES - first];

		next = w->next;
		/* Who joined a load that was under way has time left. */
		if (e->code == -ETIMEDOUT && now_ns() - w->since < patience)
			waiter_again(p, w);
		else if (e->code)
			waiter_fail(p, w, e);
		else
			waiter_answer(p, w);
	}
}

void job_run(struct pager *p, struct job *j, uint8_t *scratch)
{
	uint8_t *held = NULL;
	struct err e = {0};

	if (!j->mapped) {
		if (job_map(p, j, true, &e)) {
			job_fail(p, j, &e);
			return;
		}
		if (!job_admit(p, j))
			return;
		/* By a worker that may wait. */
		if (job_fetches(j)) {
			job_queue(p, j);
			return;
		}
	}
	if (!unpack(p, j, scratch)) {
		j->nread = 0;
		if (job_admit(p, j))
			job_queue(p, j);
		return;
	}
	if (p->o.record) {
		held = malloc(PSRC_WINDOW);
		if (held)
			memcpy(held, j->win, PSRC_WINDOW);
		else
			err_set(&j->bad[0], -ENOMEM, "no memory to record");
	} else {
		publish_job(p, j);
	}
	settle(p, j, held);
	/* A fault's is told with its client. */
	for (unsigned k = 0; k < j->nwin && j->lane != LANE_DEMAND; k++) {
		if (j->bad[k].code)
			post_event(p, PAGER_DAMAGED, 0, &j->bad[k]);
	}
	answer_waiters(p, j);
}

void job_fail(struct pager *p, struct job *j, const struct err *e)
{
	for (unsigned k = 0; k < j->nwin; k++) {
		j->bad[k] = *e;
		if (!e->code)
			err_set(&j->bad[k], -EIO, "the page source failed");
	}
	settle(p, j, NULL);
	answer_waiters(p, j);
}

int job_ask(struct ring *r, struct job *j)
{
	const struct psrc_piece *k = &j->piece[0];

	if (!r->open || k->file < 0)
		return -EOPNOTSUPP;
	return ring_read(
		r, &(struct ring_ask){
			   .file = (unsigned)k->file,
			   .len = j->nwin > 1 ? j->stored_len : k->length,
			   .offset = k->offset,
			   .buf = j->stored,
			   .tag = j,
			   .idle = j->lane == LANE_FILL,
		   });
}

void job_read_done(struct pager *p, struct job *j, int res)
{
	uint32_t want = j->nwin > 1 ? j->stored_len : j->piece[0].length;

	stat_add(&p->stats->bytes_read, res > 0 ? (uint64_t)res : 0);
	/* The rest of a short read, or what the error really is, is found out
	 * by reading again, synchronously and piece by piece. */
	if (res == (int)want)
		j->nread = j->nwin > 1 ? j->npieces : 1;
}
