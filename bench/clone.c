/*
 * One clone at a time: the call, then the proof that it runs (it answers), then
 * the end. Between pooled ones the pool fills up again, so that the call is
 * measured and not the filling beside it.
 */
#include "bench/bench.h"

static int clone_once(
	struct bench *b, const char *name, const char *mode, struct result *r)
{
	struct clones cl;
	uint64_t ok = 0;
	double ask_us;
	int rc = bench_clone(b, name, 1, mode, &cl, r);

	if (!rc)
		rc = bench_ask_all(b, &cl, &ok, &ask_us);
	r->n++;
	if (!rc && ok == 1 && !series_add(&r->us, cl.us))
		r->ok++;
	if (!rc)
		rc = bench_stop_all(b, &cl);
	clones_free(&cl);
	return rc;
}

int bench_clone_run(struct bench *b)
{
	uint64_t n = b->o->n ? b->o->n : 1000;
	const char *pooled = NULL, *fresh;
	struct result *r;
	int rc;

	rc = bench_template(b, "fresh", b->o->mem, 0, &fresh);
	if (rc)
		return rc;
	r = bench_result(b, "create_fresh");
	rc = bench_repeat(
		b, &(struct bench_loop){fresh, "fresh", n, clone_once}, r);
	(void)snprintf(r->note, sizeof(r->note),
		"clone call to result: acknowledged and running; each answered "
		"afterwards; 5 ms between calls");
	if (!rc)
		rc = bench_template(
			b, "pooled", b->o->mem, BENCH_POOL, &pooled);
	if (rc)
		return rc;
	r = bench_result(b, "create_pooled");
	rc = bench_repeat(
		b, &(struct bench_loop){pooled, "pooled", n, clone_once}, r);
	(void)snprintf(r->note, sizeof(r->note),
		"full pool (%s) before each call; each answered afterwards",
		b->o->template_name ? "the template's" : "of 16");
	return rc;
}
