/* Requests of the benchmarks, with their answers checked. */
#include "bench/bench.h"

#include <errno.h>
#include <string.h>

double bench_us_since(uint64_t start_ns)
{
	return (double)(now_ns() - start_ns) / 1000;
}

/* "echo" of a text that no other request has; expect: the text alone. */
static size_t make_payload(uint64_t seq, char buf[64], const char **expect)
{
	int n = snprintf(buf, 64, "echo bench-%d-%llu", (int)getpid(),
		(unsigned long long)seq);

	*expect = buf + 5;
	return (size_t)n;
}

static bool is_echo(const msgpack_object *result, const char *expect)
{
	size_t len, want = strlen(expect);
	const void *data;

	if (thaw_get_data(result, "payload", &data, &len))
		return false;
	/* A newline at the end is the function's own business. */
	if (len == want + 1 && ((const char *)data)[want] == '\n')
		len--;
	return len == want && memcmp(data, expect, want) == 0;
}

static int take_clones(struct bench *b, const msgpack_object *result,
	struct clones *out, struct result *r)
{
	const msgpack_object *list = thaw_get(result, "clones");
	uint32_t n = 0;

	if (list && list->type == MSGPACK_OBJECT_ARRAY)
		n = list->via.array.size;
	out->id = calloc(n ? n : 1, sizeof(*out->id));
	if (!out->id)
		return cli_fail(b->c, EXIT_FAILED, "out of memory");
	for (uint32_t i = 0; i < n; i++) {
		const msgpack_object *c = &list->via.array.ptr[i];

		if (thaw_get_str(c, "id", out->id[i], sizeof(out->id[i])))
			return cli_fail(
				b->c, EXIT_FAILED, "a clone without an id");
		out->n++;
		if (r && step_add(r, thaw_get(c, "steps")))
			return cli_fail(b->c, EXIT_FAILED, "out of memory");
	}
	return EXIT_DONE;
}

int bench_clone(struct bench *b, const char *name, uint32_t count,
	const char *mode, struct clones *out, struct result *r)
{
	uint64_t start = now_ns();
	struct thaw_result res;
	struct thaw_error e;
	int rc;

	*out = (struct clones){0};
	if (thaw_clone(b->t, name, count, mode, &res, &e))
		return bench_error(b, &e);
	out->us = bench_us_since(start);
	rc = take_clones(b, res.value, out, r);
	thaw_result_free(&res);
	return rc;
}

void clones_free(struct clones *cl)
{
	free(cl->id);
	*cl = (struct clones){0};
}

int bench_invoke(
	struct bench *b, const char *name, const char *mode, struct result *r)
{
	const char *expect;
	char buf[64];
	size_t len = make_payload(b->seq++, buf, &expect);
	uint64_t start = now_ns();
	msgpack_packer *p = thaw_request(b->t, "invoke", 3);
	struct thaw_result res;
	struct thaw_error e;
	double us;
	int rc = 0;

	mp_key_str(p, "template", name);
	thaw_pack_data(p, "payload", buf, len);
	mp_key_str(p, "mode", mode);
	r->n++;
	if (thaw_call(b->t, -1, &res, &e)) {
		/* One that fails is counted, not the end of the run. */
		if (bench_stopped() || e.code >= THAW_CONNECT)
			return bench_error(b, &e);
		(void)snprintf(
			r->note, sizeof(r->note), "failed: %.400s", e.message);
		return EXIT_DONE;
	}
	us = bench_us_since(start);
	if (is_echo(res.value, expect)) {
		r->ok++;
		rc = series_add(&r->us, us);
		if (!rc)
			rc = step_add(r, thaw_get(res.value, "us"));
	}
	thaw_result_free(&res);
	return rc ? cli_fail(b->c, EXIT_FAILED, "out of memory") : EXIT_DONE;
}

/* Requests to many machines, `window` of them in flight. */
struct pipeline {
	const struct clones *cl;
	uint32_t first_id; /* id of request 0; they are consecutive */
	uint64_t seq;      /* of request 0 */
	uint64_t ok;
	bool ask; /* else: stop */
};

static int send_one(struct bench *b, struct pipeline *p, size_t i)
{
	msgpack_packer *pk = thaw_request(b->t,
		p->ask ? "machine.invoke" : "machine.stop", p->ask ? 2 : 1);
	struct thaw_error e;
	const char *expect;
	char buf[64];
	uint32_t id;

	mp_key_str(pk, "id", p->cl->id[i]);
	if (p->ask)
		thaw_pack_data(pk, "payload", buf,
			make_payload(p->seq + i, buf, &expect));
	if (thaw_send(b->t, &id, &e))
		return bench_error(b, &e);
	if (i == 0)
		p->first_id = id;
	return EXIT_DONE;
}

static int take_one(struct bench *b, struct pipeline *p)
{
	struct thaw_result res;
	struct thaw_error e;
	const char *expect;
	char buf[64];
	uint32_t id;
	int rc = thaw_next(b->t, -1, &id, &res, &e);

	if (rc && !id)
		return bench_error(b, &e);
	(void)make_payload(p->seq + (id - p->first_id), buf, &expect);
	if (!rc && (!p->ask || is_echo(res.value, expect)))
		p->ok++;
	thaw_result_free(&res);
	return EXIT_DONE;
}

static int run_pipeline(struct bench *b, struct pipeline *p)
{
	size_t sent = 0, taken = 0;
	int rc = EXIT_DONE;

	while (!rc && taken < p->cl->n) {
		if (sent < p->cl->n && sent - taken < b->window) {
			rc = send_one(b, p, sent++);
		} else {
			rc = take_one(b, p);
			taken++;
		}
	}
	return rc;
}

int bench_repeat(struct bench *b, const struct bench_loop *l, struct result *r)
{
	int rc = EXIT_DONE;

	for (uint64_t i = 0; !rc && i < l->n; i++) {
		bench_progress(b, r->name, i, l->n);
		if (l->mode[0] == 'p')
			rc = bench_pool_full(b, l->name);
		else
			bench_gap();
		if (!rc)
			rc = l->once(b, l->name, l->mode, r);
	}
	bench_progress(b, r->name, l->n, l->n);
	return rc;
}

int bench_ask_all(
	struct bench *b, const struct clones *cl, uint64_t *ok, double *us)
{
	struct pipeline p = {.cl = cl, .seq = b->seq, .ask = true};
	uint64_t start = now_ns();
	int rc = run_pipeline(b, &p);

	b->seq += cl->n;
	*us = bench_us_since(start);
	*ok = p.ok;
	return rc;
}

int bench_stop_all(struct bench *b, const struct clones *cl)
{
	struct pipeline p = {.cl = cl};

	return run_pipeline(b, &p);
}

void bench_progress(
	struct bench *b, const char *what, uint64_t done, uint64_t total)
{
	(void)b;
	if (!isatty(STDERR_FILENO))
		return;
	if (done < total)
		fprintf(stderr, "\r\033[Kthaw: bench: %s %llu/%llu", what,
			(unsigned long long)done, (unsigned long long)total);
	else
		fprintf(stderr, "\r\033[K");
	(void)fflush(stderr);
}
