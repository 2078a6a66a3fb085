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

static struct job *next_job(struct pager *p, bool slow)
{
	struct job *j = NULL;

	(void)pthread_mutex_lock(&p->lock);
	while (!p->stop) {
		if (slow) {
			j = pop_locked(p, LANE_FILL);
		} else {
			j = pop_locked(p, LANE_DEMAND);
			if (!j)
				j = pop_locked(p, LANE_SET);
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
	struct job *j;

	while (scratch && (j = next_job(p, slow)))
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
