#include "uffd/engine.h"

#include <sys/resource.h>

/*
 * Workers: take the most urgent job that is read, or that has to be read
 * synchronously, and finish it. The background has one of its own that gives
 * way to everybody, so that no fault finds all of them busy with it.
 */
#define SLOWEST 19

static struct job *pop_locked(struct pager *p, enum lane lane)
{
	struct job *j = p->queue[lane];

	if (!j)
		return NULL;
	p->queue[lane] = j->next;
	if (!p->queue[lane])
		p->tail[lane] = &p->queue[lane];
	j->next = NULL;
	return j;
}

/* Jobs that no fault waits for. Those that have yet to be read may take long:
 * they leave half of the workers to the faults. */
static struct job *pop_patient_locked(
	struct pager *p, enum lane lane, bool *reads)
{
	struct job *j = p->queue[lane];

	if (!j || (!j->nread && p->nreading >= p->nfast / 2))
		return NULL;
	*reads = !j->nread;
	p->nreading += *reads;
	return pop_locked(p, lane);
}

/* *reads: from the last job, to this one. */
static struct job *next_job(struct pager *p, bool slow, bool *reads)
{
	struct job *j = NULL;

	(void)pthread_mutex_lock(&p->lock);
	p->nreading -= *reads;
	*reads = false;
	while (!p->stop) {
		if (slow) {
			j = pop_locked(p, LANE_FILL);
		} else {
			j = pop_locked(p, LANE_DEMAND);
			if (!j)
				j = pop_patient_locked(p, LANE_AHEAD, reads);
			if (!j)
				j = pop_patient_locked(p, LANE_SET, reads);
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
	uint8_t *scratch = malloc(PSRC_WINDOW);
	bool reads = false;
	struct job *j;

	while (scratch && (j = next_job(p, slow, &reads)))
		job_run(p, j, scratch);
	free(scratch);
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
