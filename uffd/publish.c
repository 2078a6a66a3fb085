#include "uffd/engine.h"

#include <errno.h>
#include <sched.h>
#include <string.h>

/* ---- pages into memory ---- */

static void waiter_wake(struct pager *p, struct waiter *w);

static bool removed_at(const struct client *c, uint64_t page)
{
	return c->removed && (c->removed[page / 8] >> (page % 8) & 1);
}

/* What the machine threw away is not brought back: how many pages from here on
 * are, or are not, like that. */
static uint64_t same_kind(const struct client *c, uint64_t page, uint64_t n)
{
	uint64_t k = 1;

	while (k < n && removed_at(c, page + k) == removed_at(c, page))
		k++;
	return k;
}

/* As far as possible without reading events; moves *done. */
static int copy_direct(struct client *c, uint64_t offset, const uint8_t *from,
	uint64_t len, uint64_t *done)
{
	int r = 0;

	(void)pthread_mutex_lock(&c->memory);
	while (!r && *done < len) {
		uint64_t page = (offset + *done) / PAGE_SIZE_4K, part = 0;
		uint64_t n = same_kind(c, page, (len - *done) / PAGE_SIZE_4K) *
			     PAGE_SIZE_4K;

		if (removed_at(c, page)) {
			*done += n;
			continue;
		}
		r = uffd_copy(c->fd, c->addr + offset + *done, from + *done, n,
			true, &part);
		*done += part;
	}
	(void)pthread_mutex_unlock(&c->memory);
	return r;
}

/* len bytes of whole pages. */
static int publish(
	struct pager *p, uint64_t offset, const uint8_t *from, uint64_t len)
{
	uint64_t done = 0;
	int r;

	do {
		if (p->base < 0)
			r = copy_direct(p->direct, offset, from, len, &done);
		else
			r = uffd_copy(p->own, (uintptr_t)p->map + offset, from,
				len, false, &done);
		/* An event waits for the fault thread, which this is not. */
		if (r == -EAGAIN)
			(void)sched_yield();
	} while (r == -EAGAIN);
	/* The machine is gone: nobody waits for the page any more. */
	return p->base < 0 && (r == -ESRCH || r == -ENOENT) ? 0 : r;
}

/* Neighbours are published together: a call costs more than a page. */
struct run {
	uint64_t offset, len;
	const uint8_t *from;
};

static int flush(struct pager *p, struct run *run)
{
	int r = run->len ? publish(p, run->offset, run->from, run->len) : 0;

	run->len = 0;
	return r;
}

static int add(
	struct pager *p, struct run *run, uint64_t offset, const uint8_t *from)
{
	int r = 0;

	if (run->len && (run->offset + run->len != offset ||
				run->from + run->len != from))
		r = flush(p, run);
	if (!run->len)
		*run = (struct run){.offset = offset, .from = from};
	run->len += PAGE_SIZE_4K;
	return r;
}

/* Where page i of window k is, in bytes that are not spread out: only those
 * that are not zeros, or in .win. */
static const uint8_t *page_of(const struct job *j, unsigned k, unsigned i)
{
	unsigned before = i;

	if (!j->piece[k].plain || (j->nwin == 1 && j->npieces > 1))
		return j->win + k * PSRC_WINDOW + i * PAGE_SIZE_4K;
	before -= (unsigned)__builtin_popcount(j->zero[k] & ((1U << i) - 1));
	return j->stored + (j->piece[k].offset - j->piece[0].offset) +
	       before * PAGE_SIZE_4K;
}

static int publish_window(
	struct pager *p, const struct job *j, unsigned k, struct run *run)
{
	int r = 0;

	for (unsigned i = 0; i < PSRC_PAGES && !r; i++) {
		if ((j->zero[k] | j->early[k]) >> i & 1)
			continue;
		r = add(p, run,
			(j->window + k) * PSRC_WINDOW + i * PAGE_SIZE_4K,
			page_of(j, k, i));
	}
	return r;
}

/* Of the base: can w go on before the rest of its window is there? */
static bool publish_early(struct pager *p, struct job *j, struct waiter *w)
{
	unsigned k = (unsigned)(w->page / PSRC_PAGES - j->window);
	unsigned i = (unsigned)(w->page % PSRC_PAGES);

	if (j->bad[k].code || (j->zero[k] >> i & 1) ||
		publish(p, w->page * PAGE_SIZE_4K, page_of(j, k, i),
			PAGE_SIZE_4K))
		return false;
	j->early[k] |= (uint16_t)(1U << i);
	waiter_wake(p, w);
	return true;
}

/* To place a window takes as long as all else: whoever waits for a page of it
 * gets that one first. */
static void publish_waited(struct pager *p, struct job *j)
{
	struct waiter *w, *next, *rest = NULL;

	(void)pthread_mutex_lock(&p->lock);
	w = j->waiters;
	j->waiters = NULL;
	(void)pthread_mutex_unlock(&p->lock);
	for (; w; w = next) {
		next = w->next;
		if (publish_early(p, j, w))
			continue;
		w->next = rest;
		rest = w;
	}
	if (!rest)
		return;
	(void)pthread_mutex_lock(&p->lock);
	for (w = rest; w; w = next) {
		next = w->next;
		w->next = j->waiters;
		j->waiters = w;
	}
	(void)pthread_mutex_unlock(&p->lock);
}

void publish_job(struct pager *p, struct job *j)
{
	struct run run = {0};
	int r = 0;

	if (p->base >= 0)
		publish_waited(p, j);
	for (unsigned k = 0; k < j->nwin && !r; k++) {
		if (!j->bad[k].code && j->npieces)
			r = publish_window(p, j, k, &run);
	}
	if (!r)
		r = flush(p, &run);
	for (unsigned k = 0; k < j->nwin && r; k++) {
		if (!j->bad[k].code)
			err_sys(&j->bad[k], r, "placing guest memory at %#llx",
				(unsigned long long)((j->window + k) *
						     PSRC_WINDOW));
	}
}

void publish_removed(
	struct pager *p, struct client *c, uint64_t start, uint64_t end)
{
	uint64_t to = c->addr + p->size;

	if (start < c->addr)
		start = c->addr;
	end = min_u64(end, to);
	if (!c->removed)
		c->removed = calloc(1, p->size / PAGE_SIZE_4K / 8 + 1);
	for (; c->removed && start < end; start += PAGE_SIZE_4K) {
		uint64_t page = (start - c->addr) / PAGE_SIZE_4K;

		c->removed[page / 8] |= (uint8_t)(1U << (page % 8));
	}
}

/* ---- answers ---- */

static int answer_zero(
	struct client *c, uint64_t page, uint64_t first, uint64_t n)
{
	uint64_t done = 0;
	int r = uffd_zero(
		c->fd, c->addr + first * PAGE_SIZE_4K, n * PAGE_SIZE_4K, &done);

	/* Anything else is the machine's end, or its own doing. */
	if (r == -EAGAIN)
		return r;
	if (r)
		(void)!uffd_wake(
			c->fd, c->addr + page * PAGE_SIZE_4K, PAGE_SIZE_4K);
	return 0;
}

/* The run of zeros around a page, inside its window. */
static int answer_zeros(struct client *c, uint64_t page, uint16_t zero)
{
	uint64_t base = page - page % PSRC_PAGES;
	unsigned a = (unsigned)(page % PSRC_PAGES), b = a + 1;

	while (a && (zero >> (a - 1) & 1))
		a--;
	while (b < PSRC_PAGES && (zero >> b & 1))
		b++;
	return answer_zero(c, page, base + a, b - a);
}

static int answer_recorded(
	struct pager *p, struct client *c, uint64_t page, const uint8_t *held)
{
	uint64_t bit = 1ULL << (page % 64), done = 0;
	uint64_t old = __atomic_fetch_or(
		&p->recorded[page / 64], bit, __ATOMIC_RELAXED);
	uint64_t offset = page * PAGE_SIZE_4K;
	int r;

	if (!(old & bit))
		stat_add(&p->stats->pages_demand, held != NULL);
	if (!held)
		return answer_zero(c, page, page, 1);
	held += page % PSRC_PAGES * PAGE_SIZE_4K;
	if (p->base < 0)
		return copy_direct(c, offset, held, PAGE_SIZE_4K, &done);
	r = uffd_copy(p->own, (uintptr_t)p->map + offset, held, PAGE_SIZE_4K,
		false, &done);
	return r ? r : uffd_wake(c->fd, c->addr + offset, PAGE_SIZE_4K);
}

int answer(struct pager *p, struct client *c, uint64_t page)
{
	const struct window *w = &p->win[page / PSRC_PAGES];
	const uint8_t *held;
	bool zero, removed;
	uint16_t zeros;
	int r;

	(void)pthread_mutex_lock(&p->lock);
	zeros = w->zero;
	held = p->o.record ? w->held : NULL;
	(void)pthread_mutex_unlock(&p->lock);
	(void)pthread_mutex_lock(&c->memory);
	removed = p->base < 0 && removed_at(c, page);
	(void)pthread_mutex_unlock(&c->memory);
	zero = zeros >> (page % PSRC_PAGES) & 1;
	if (zero || removed) {
		stat_add(&p->stats->faults_zero, 1);
		if (c->stats)
			stat_add(&c->stats->faults_zero, 1);
	}
	if (removed)
		return answer_zero(c, page, page, 1);
	if (p->o.record) {
		r = answer_recorded(p, c, page, zero ? NULL : held);
		return r == -EAGAIN ? r : 0;
	}
	if (zero)
		return answer_zeros(c, page, zeros);
	(void)!uffd_wake(
		c->fd, c->addr + page / PSRC_PAGES * PSRC_WINDOW, PSRC_WINDOW);
	return 0;
}

void client_put_locked(struct client *c)
{
	if (--c->refs)
		return;
	(void)close(c->fd);
	(void)pthread_mutex_destroy(&c->memory);
	free(c->removed);
	free(c);
}

static void waiter_free(struct pager *p, struct waiter *w)
{
	(void)pthread_mutex_lock(&p->lock);
	client_put_locked(w->c);
	(void)pthread_mutex_unlock(&p->lock);
	free(w);
}

static void waiter_done(struct pager *p, struct waiter *w)
{
	struct client *c = w->c;
	uint64_t ns = now_ns() - w->since;

	stat_add(&p->stats->fault_ns, ns);
	if (c->stats)
		stat_add(&c->stats->fault_ns, ns);
	waiter_free(p, w);
}

void waiter_again(struct pager *p, struct waiter *w)
{
	(void)pthread_mutex_lock(&p->lock);
	w->next = NULL;
	*p->backlog_tail = w;
	p->backlog_tail = &w->next;
	(void)pthread_mutex_unlock(&p->lock);
	kick_fault(p);
}

void waiter_answer(struct pager *p, struct waiter *w)
{
	if (answer(p, w->c, w->page) == -EAGAIN)
		waiter_again(p, w);
	else
		waiter_done(p, w);
}

/* Only its own page: others of the window may not be there yet. */
static void waiter_wake(struct pager *p, struct waiter *w)
{
	(void)!uffd_wake(
		w->c->fd, w->c->addr + w->page * PAGE_SIZE_4K, PAGE_SIZE_4K);
	waiter_done(p, w);
}

void client_fail(struct pager *p, struct client *c, const struct err *e)
{
	bool first;

	(void)pthread_mutex_lock(&p->lock);
	first = !c->failed && !c->gone;
	c->failed = true;
	(void)pthread_mutex_unlock(&p->lock);
	if (!first)
		return;
	stat_add(&p->stats->failed, 1);
	post_event(p, PAGER_FAILED, c->id, e);
}

/* It stays as it is, waiting, until its owner has killed it. */
void waiter_fail(struct pager *p, struct waiter *w, const struct err *e)
{
	client_fail(p, w->c, e);
	waiter_free(p, w);
}
