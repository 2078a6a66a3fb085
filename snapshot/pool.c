/*
 * Several threads for many equal pieces of work.
 *
 * How it works: a round is announced under the lock by its number; everybody,
 * the caller included, takes indexes from one counter until there are none, and
 * the last helper to finish wakes the caller. Without helpers it is a loop.
 */
#include "snapshot/internal.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

struct helper {
	struct snap_pool *p;
	pthread_t thread;
	unsigned slot;
};

struct snap_pool {
	pthread_mutex_t lock; /* guards round, busy, end */
	pthread_cond_t start, done;
	uint64_t round;
	unsigned busy; /* helpers that work on this round */
	bool end;
	/* the round's work */
	int (*fn)(void *arg, uint32_t i, unsigned slot);
	void *arg;
	uint32_t n;
	uint32_t next; /* atomic */
	int rc;        /* atomic: the first error */
	unsigned nhelpers;
	struct helper helper[];
};

static void work(struct snap_pool *p, unsigned slot)
{
	for (;;) {
		uint32_t i = __atomic_fetch_add(&p->next, 1, __ATOMIC_RELAXED);
		int rc, none = 0;

		if (i >= p->n || __atomic_load_n(&p->rc, __ATOMIC_RELAXED))
			return;
		rc = p->fn(p->arg, i, slot);
		if (rc)
			(void)__atomic_compare_exchange_n(&p->rc, &none, rc,
				false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
	}
}

static void *helper_main(void *arg)
{
	struct helper *h = arg;
	struct snap_pool *p = h->p;
	uint64_t seen = 0;

	(void)pthread_mutex_lock(&p->lock);
	for (;;) {
		while (!p->end && p->round == seen)
			(void)pthread_cond_wait(&p->start, &p->lock);
		if (p->end)
			break;
		seen = p->round;
		(void)pthread_mutex_unlock(&p->lock);
		work(p, h->slot);
		(void)pthread_mutex_lock(&p->lock);
		if (!--p->busy)
			(void)pthread_cond_signal(&p->done);
	}
	(void)pthread_mutex_unlock(&p->lock);
	return NULL;
}

int snap_pool_open(unsigned threads, struct snap_pool **out)
{
	struct snap_pool *p =
		calloc(1, sizeof(*p) + threads * sizeof(p->helper[0]));

	*out = NULL;
	if (!p)
		return -ENOMEM;
	if (pthread_mutex_init(&p->lock, NULL) ||
		pthread_cond_init(&p->start, NULL) ||
		pthread_cond_init(&p->done, NULL)) {
		free(p);
		return -ENOMEM;
	}
	/* Fewer threads than asked for do the same work. */
	for (unsigned i = 0; i < threads; i++) {
		struct helper *h = &p->helper[p->nhelpers];

		h->p = p;
		h->slot = i + 1;
		if (pthread_create(&h->thread, NULL, helper_main, h))
			break;
		p->nhelpers++;
	}
	*out = p;
	return 0;
}

void snap_pool_close(struct snap_pool *p)
{
	if (!p)
		return;
	(void)pthread_mutex_lock(&p->lock);
	p->end = true;
	(void)pthread_cond_broadcast(&p->start);
	(void)pthread_mutex_unlock(&p->lock);
	for (unsigned i = 0; i < p->nhelpers; i++)
		(void)pthread_join(p->helper[i].thread, NULL);
	(void)pthread_cond_destroy(&p->start);
	(void)pthread_cond_destroy(&p->done);
	(void)pthread_mutex_destroy(&p->lock);
	free(p);
}

int snap_pool_run(struct snap_pool *p,
	int (*fn)(void *arg, uint32_t i, unsigned slot), void *arg, uint32_t n)
{
	(void)pthread_mutex_lock(&p->lock);
	p->fn = fn;
	p->arg = arg;
	p->n = n;
	p->next = 0;
	p->rc = 0;
	p->busy = p->nhelpers;
	p->round++;
	(void)pthread_cond_broadcast(&p->start);
	(void)pthread_mutex_unlock(&p->lock);
	work(p, 0);
	(void)pthread_mutex_lock(&p->lock);
	while (p->busy)
		(void)pthread_cond_wait(&p->done, &p->lock);
	(void)pthread_mutex_unlock(&p->lock);
	return p->rc;
}
