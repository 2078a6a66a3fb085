/* From the call to the answer, and what an empty call costs. */
#include "bench/bench.h"

static int empty_calls(struct bench *b, uint64_t n)
{
	struct result *r = bench_result(b, "api_empty");
	struct thaw_error e;

	for (uint64_t i = 0; i < n; i++) {
		uint64_t start = now_ns();
		struct thaw_result res;

		(void)thaw_request(b->t, "template.list", 0);
		r->n++;
		if (thaw_call(b->t, -1, &res, &e))
			return bench_error(b, &e);
		if (thaw_get(res.value, "templates") &&
			!series_add(&r->us, (double)(now_ns() - start) / 1000))
			r->ok++;
		thaw_result_free(&res);
	}
	(void)snprintf(r->note, sizeof(r->note),
		"template.list of a daemon without templates, client call to "
		"result");
	return EXIT_DONE;
}

/* Pooled and fresh of one size. */
static int one_size(
	struct bench *b, uint64_t mem, const char *const names[2], uint64_t n)
{
	const char *modes[2] = {"fresh", "pooled"};
	char size[16];
	int rc = EXIT_DONE;

	for (int i = 0; !rc && i < 2; i++) {
		const char *name;
		struct result *r;

		rc = bench_template(
			b, names[i], mem, i ? BENCH_POOL : 0, &name);
		if (rc)
			return rc;
		r = bench_result(b, names[i]);
		rc = bench_repeat(b,
			&(struct bench_loop){name, modes[i], n, bench_invoke},
			r);
		if (!r->note[0])
			(void)snprintf(r->note, sizeof(r->note),
				"invoke echo, %s guest%s", fmt_size(mem, size),
				i ? ", pool full before each call"
				  : ", 5 ms between calls");
	}
	return rc;
}

int bench_invoke_run(struct bench *b)
{
	static const char *const small[] = {"answer_fresh", "answer_pooled"};
	static const char *const large[] = {
		"answer_fresh_4g", "answer_pooled_4g"};
	uint64_t n = b->o->n ? b->o->n : 1000;
	int rc = empty_calls(b, n * 10);

	if (!rc)
		rc = one_size(b, b->o->mem, small, n);
	if (!rc && !b->o->template_name)
		rc = one_size(b, 4 * GIB, large, n / 4 + 1);
	return rc;
}
