/* Results as text and as JSON. */
#include "bench/bench.h"

#include <errno.h>
#include <string.h>

struct result *bench_result(struct bench *b, const char *name)
{
	struct result *r = &b->results[b->nresults];

	/* The benchmarks are few and known; the array holds them all. */
	if (b->nresults + 1 < BENCH_MAX_RESULTS)
		b->nresults++;
	r->name = name;
	r->unit = "us";
	return r;
}

static struct step *step_get(struct result *r, const char *name, size_t len)
{
	struct step *s;

	for (unsigned i = 0; i < r->nsteps; i++) {
		if (strlen(r->steps[i].name) == len &&
			memcmp(r->steps[i].name, name, len) == 0)
			return &r->steps[i];
	}
	if (r->nsteps == BENCH_MAX_STEPS || len >= sizeof(s->name))
		return NULL;
	s = &r->steps[r->nsteps++];
	memcpy(s->name, name, len);
	return s;
}

int step_add(struct result *r, const msgpack_object *us)
{
	if (!us || us->type != MSGPACK_OBJECT_MAP)
		return 0;
	for (uint32_t i = 0; i < us->via.map.size; i++) {
		const msgpack_object_kv *kv = &us->via.map.ptr[i];
		struct step *s;

		if (kv->key.type != MSGPACK_OBJECT_STR ||
			kv->val.type != MSGPACK_OBJECT_POSITIVE_INTEGER)
			continue;
		s = step_get(r, kv->key.via.str.ptr, kv->key.via.str.size);
		if (s && series_add(&s->us, (double)kv->val.via.u64))
			return -ENOMEM;
	}
	return 0;
}

static const char *fmt_value(const struct result *r, double v, char buf[16])
{
	if (strcmp(r->unit, "us") == 0)
		return fmt_us(v, buf);
	/* rates and ratios are small numbers */
	(void)snprintf(buf, 16, "%.*f %s", v < 100 ? 2 : 0, v, r->unit);
	return buf;
}

static void print_steps(FILE *f, struct result *r)
{
	if (!r->nsteps)
		return;
	fprintf(f, "%-24s steps, p50/p99:", "");
	for (unsigned i = 0; i < r->nsteps; i++) {
		struct series *s = &r->steps[i].us;

		fprintf(f, "%s %s %.0f/%.0f", i ? "," : "", r->steps[i].name,
			series_quantile(s, 0.5), series_quantile(s, 0.99));
	}
	fprintf(f, " us\n");
}

void bench_print(struct bench *b)
{
	FILE *f = b->c->out;

	fprintf(f, "%-24s %11s %10s %10s %10s %10s\n", "", "answered", "p50",
		"p90", "p99", "max");
	for (unsigned i = 0; i < b->nresults; i++) {
		struct result *r = &b->results[i];
		char n[24], v[4][16];

		(void)snprintf(n, sizeof(n), "%llu/%llu",
			(unsigned long long)r->ok, (unsigned long long)r->n);
		fprintf(f, "%-24s %11s %10s %10s %10s %10s\n", r->name, n,
			fmt_value(r, series_quantile(&r->us, 0.5), v[0]),
			fmt_value(r, series_quantile(&r->us, 0.9), v[1]),
			fmt_value(r, series_quantile(&r->us, 0.99), v[2]),
			fmt_value(r, series_quantile(&r->us, 1), v[3]));
		print_steps(f, r);
		if (r->note[0])
			fprintf(f, "%-24s %s\n", "", r->note);
	}
}

static json_t *steps_json(struct result *r)
{
	json_t *j = json_object();

	for (unsigned i = 0; i < r->nsteps; i++) {
		struct series *s = &r->steps[i].us;

		json_object_set_new(j, r->steps[i].name,
			json_pack("{s:f, s:f, s:f}", "p50",
				series_quantile(s, 0.5), "p99",
				series_quantile(s, 0.99), "max",
				series_quantile(s, 1)));
	}
	return j;
}

static json_t *result_json(struct result *r)
{
	json_t *j = json_pack("{s:s, s:s, s:I, s:I, s:f, s:f, s:f, s:f, s:s}",
		"name", r->name, "unit", r->unit, "n", (json_int_t)r->n, "ok",
		(json_int_t)r->ok, "p50", series_quantile(&r->us, 0.5), "p90",
		series_quantile(&r->us, 0.9), "p99",
		series_quantile(&r->us, 0.99), "max",
		series_quantile(&r->us, 1), "note", r->note);

	if (j && r->nsteps)
		json_object_set_new(j, "steps", steps_json(r));
	return j;
}

int bench_write_json(struct bench *b, const char *name, const char *path)
{
	json_t *list = json_array();
	json_t *j;
	int rc;

	for (unsigned i = 0; i < b->nresults; i++)
		json_array_append_new(list, result_json(&b->results[i]));
	j = json_pack("{s:s, s:O, s:s, s:o}", "thaw", THAW_VERSION, "host",
		b->host, "bench", name, "results", list);
	if (!j)
		return cli_fail(b->c, EXIT_FAILED, "cannot make JSON");
	if (strcmp(path, "-") == 0) {
		rc = json_dumpf(
			j, b->c->out, JSON_INDENT(2) | JSON_REAL_PRECISION(9));
		fputc('\n', b->c->out);
	} else {
		rc = json_dump_file(
			j, path, JSON_INDENT(2) | JSON_REAL_PRECISION(9));
	}
	json_decref(j);
	if (rc)
		return cli_fail(
			b->c, EXIT_FAILED, "%s: %s", path, strerror(errno));
	return EXIT_DONE;
}
