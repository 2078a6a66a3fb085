#include "api/daemon/template.h"

#include "api/daemon/admit.h"
#include "api/daemon/birth.h"
#include "api/daemon/events.h"
#include "api/daemon/zygote.h"

/*
 * Parked clones, made when nobody needs the processors. Filling begins after a
 * moment in which no request waits for a clone, and a few are on their way at a
 * time. Two exceptions, because a pool that stays empty makes every request
 * slow: where requests never leave such a moment it begins after PATIENCE_NS
 * all the same, and below half of its size a pool is filled at once, one clone
 * at a time.
 */
#define QUIET_NS     1500000ULL
#define PATIENCE_NS  20000000ULL
#define FILL_AT_ONCE 2
#define MAX_BACKOFF  8

static void fill_now(struct daemon *d, struct deadline *dl);

static bool is_low(const struct template *t)
{
	return 2 * (uint64_t)t->nparked < t->pool_target;
}

static void schedule(struct daemon *d, bool low)
{
	uint64_t now = now_ns(), at = d->quiet_since + QUIET_NS;

	if (d->stopping)
		return;
	if (!d->fill.when)
		d->fill_due = now + PATIENCE_NS;
	if (d->active || at > d->fill_due)
		at = d->fill_due;
	if (low)
		at = now;
	if (d->fill.when && d->fill.when <= at)
		return;
	deadline_set(&d->deadlines, &d->fill, at, fill_now);
}

void pool_schedule(struct daemon *d)
{
	schedule(d, false);
}

static unsigned missing(const struct template *t)
{
	unsigned have = t->nparked + t->nfilling;

	if (t->state != TEMPLATE_READY || !t->z || !t->z->ready)
		return 0;
	return have < t->pool_target ? (unsigned)(t->pool_target - have) : 0;
}

/* Returns when to look again, 0: when a clone has arrived. */
static uint64_t fill(struct daemon *d, struct template *t, uint64_t now)
{
	bool quiet = !d->active && now >= d->quiet_since + QUIET_NS;
	unsigned n = missing(t), at_once = FILL_AT_ONCE;
	struct err e;

	if (!quiet && now < d->fill_due)
		at_once = is_low(t) ? 1 : 0;
	if (!n)
		return 0;
	if (!at_once)
		return d->active ? d->fill_due : d->quiet_since + QUIET_NS;
	if (t->nfilling >= at_once)
		return 0;
	if (now < t->fill_after)
		return t->fill_after;
	if (n > at_once - t->nfilling)
		n = at_once - t->nfilling;
	/* Not the last machine or the last memory: somebody may ask. */
	if (admit_pool(d, t, n, &e))
		return now + 100000000;
	(void)birth_fill(d, t, n);
	return 0;
}

static void fill_now(struct daemon *d, struct deadline *dl)
{
	uint64_t now = now_ns(), next = 0;

	(void)dl;
	list_for_each(it, &d->templates)
	{
		struct template *t = container_of(it, struct template, all);
		uint64_t at = fill(d, t, now);

		if (at && (!next || at < next))
			next = at;
	}
	if (next)
		deadline_set(&d->deadlines, &d->fill, next, fill_now);
}

void pool_busy(struct daemon *d)
{
	d->active++;
	if (d->fill.when)
		pool_schedule(d);
}

void pool_quiet(struct daemon *d)
{
	if (d->active && --d->active == 0) {
		d->quiet_since = now_ns();
		pool_schedule(d);
	}
}

void pool_fill_failed(struct template *t)
{
	if (t->fill_failures < MAX_BACKOFF)
		t->fill_failures++;
	t->fill_after = now_ns() + (10000000ULL << t->fill_failures);
}

void pool_park(struct daemon *d, struct machine_entry *m)
{
	struct template *t = m->t;

	m->state = ENTRY_PARKED;
	list_add(&t->parked, &m->of_pool);
	t->nparked++;
	d->metrics.counter[COUNT_POOL_FILLED]++;
	if (t->nparked >= t->pool_target && !t->pool_announced) {
		t->pool_announced = true;
		events_template(d, "pool.filled", t);
	}
	schedule(d, is_low(t));
}

void template_unpark(struct machine_entry *m)
{
	if (m->state != ENTRY_PARKED)
		return;
	list_del(&m->of_pool);
	m->t->nparked--;
	m->t->pool_announced = false;
}

struct machine_entry *pool_take(struct daemon *d, struct template *t)
{
	struct machine_entry *m;

	if (!t->nparked)
		return NULL;
	m = container_of(t->parked.next, struct machine_entry, of_pool);
	template_unpark(m);
	m->state = ENTRY_RUNNING;
	t->made_pooled++;
	if (is_low(t))
		schedule(d, true);
	d->metrics.counter[COUNT_CLONES_POOLED]++;
	return m;
}

void pool_discard(struct daemon *d, struct template *t)
{
	while (t->nparked)
		machine_discard(d, container_of(t->parked.next,
					   struct machine_entry, of_pool));
}
