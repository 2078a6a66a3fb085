#include "uffd/engine.h"

#include <sys/resource.h>

/*
 * Workers: take the most urgent job that is read, or that has to be read
 * synchronously, and finish it. The background has one of its own that gives
 * way to everybody, so that no fault finds all of them busy with it. What has
 * to be fetched has all but a few, so that a source that hangs holds up nobody
 * who does not need it.
 */
#define SLOWEST 19

static struct job *unlink_locked(
	struct pager *p, enum lane lane, struct job **at)
{
	struct job *j = *at;

	if (!j)
		return NULL;
	*at = j->next;
	if (!*at)
		p->tail[lane] = at;
	j->next = NULL;
	return j;
}

static struct job *pop_locked(struct pager *p, enum lane lane)
{
	return unlink_locked(p, lane, &p->queue[lane]);
}

static bool all_wait_locked(const struct pager *p)
{
	return p->nreading + p->nfetching >= p->nfast;
}

/* The first one that is to be had: not all workers wait for a source. */
static struct job *pop_demand_locked(struct pager *p, unsigned **busy)
{
	struct job **at = &p->queue[LANE_DEMAND];

	while (*at && all_wait_locked(p) && job_fetches(*at))
		at = &(*at)->next;
	if (*at && job_fetches(*at)) {
		*busy = &p->nfetching;
		p->nfetching++;
	}
	return unlink_locked(p, LANE_DEMAND, at);
}

/* Jobs that no fault waits for. Those that have yet to be read may take long:
 * they leave half of the workers to the faults. */
static struct job *pop_patient_locked(
	struct pager *p, enum lane lane, unsigned **busy)
{
	struct job *j = p->queue[lane];
	bool reads = j && (!j->nread || job_fetches(j));

	if (!j ||
		(reads && (p->nreading >= p->nfast / 2 || all_wait_locked(p))))
		return NULL;
	if (reads) {
		*busy = &p->nreading;
		p->nreading++;
	}
	return pop_locked(p, lane);
}

/* *busy: what counts the last job, or NULL; then this one. */
static struct job *next_job(struct pager *p, bool slow, unsigned **busy)
{
	struct job *j = NULL;

	(void)pthread_mutex_lock(&p->lock);
	if (*busy)
		--**busy;
	*busy = NULL;
	while (!p->stop) {
		if (slow) {
			j = pop_locked(p, LANE_FILL);
		} else {
			j = pop_demand_locked(p, busy);
			if (!j)
				j = pop_patient_locked(p, LANE_AHEAD, busy);
			if (!j)
				j = pop_patient_locked(p, LANE_SET, busy);
		}
		if (j)
			break;
		(void)pthread_cond_wait(slow ? &p->slow : &p->work, &p->lock);
	}
	(void)pthread_mutex_unlock(&p->lock);
	return j;
}

static void work(struct pager *p, bool slow)
{
	uint8_t *scratch = scratch_take(p);
	unsigned *busy = NULL;
	struct job *j;

	while ((j = next_job(p, slow, &busy)))
		job_run(p, j, scratch);
}

void *worker_main(void *pager)
{
	work(pager, false);
	return NULL;
}

void *slow_worker_main(void *pager)
{
	/* Of this thread alone, on Linux. */
	(void)setpriority(PRIO_PROCESS, 0, SLOWEST);
	work(pager, true);
	return NULL;
}
