/*
 * Many clones by one request, all fresh, all kept alive, all asked. The wall
 * time of creating and of answering stand beside their sum.
 */
#include "bench/bench.h"

#include <time.h>

#define ROUNDS 5

struct burst {
	struct result *all, *create, *answer;
};

static int round_once(
	struct bench *b, const char *name, struct burst *s, uint32_t n)
{
	const struct timespec settle = {.tv_sec = 2};
	double answer_us = 0;
	struct clones cl;
	uint64_t ok = 0;
	int rc, bad;

	rc = bench_clone(b, name, n, "fresh", &cl, s->create);
	if (!rc)
		rc = bench_ask_all(b, &cl, &ok, &answer_us);
	s->all->n += n;
	s->all->ok += ok;
	s->create->n += n;
	s->create->ok += cl.n;
	s->answer->n += n;
	s->answer->ok += ok;
	if (!rc) {
		bad = series_add(&s->all->us, cl.us + answer_us) |
		      series_add(&s->create->us, cl.us) |
		      series_add(&s->answer->us, answer_us);
		if (bad)
			rc = cli_fail(b->c, EXIT_FAILED, "out of memory");
	}
	if (!rc)
		rc = bench_stop_all(b, &cl);
	clones_free(&cl);
	/* Closing a thousand VMs goes on behind the answers. */
	(void)nanosleep(&settle, NULL);
	return rc;
}

int bench_burst(struct bench *b)
{
	uint32_t n = b->o->n ? (uint32_t)b->o->n : 1000;
	struct burst s;
	const char *name;
	int rc;

	rc = bench_template(b, "burst", b->o->mem, 0, &name);
	if (rc)
		return rc;
	s.all = bench_result(b, "burst_1000");
	s.create = bench_result(b, "burst_create");
	s.answer = bench_result(b, "burst_answer");
	for (int i = 0; !rc && i < ROUNDS; i++) {
		bench_progress(b, "burst", (uint64_t)i, ROUNDS);
		rc = round_once(b, name, &s, n);
	}
	bench_progress(b, "burst", ROUNDS, ROUNDS);
	(void)snprintf(s.all->note, sizeof(s.all->note),
		"wall time of one clone request for %u fresh clones plus their "
		"answers, all alive; %d rounds, 2 s between",
		n, ROUNDS);
	(void)snprintf(s.create->note, sizeof(s.create->note),
		"the clone request alone; the steps are per clone");
	(void)snprintf(s.answer->note, sizeof(s.answer->note),
		"the answers alone, %u in flight", b->window);
	return rc;
}
