/* thaw info | metrics | events */
#include "api/cli/cli.h"
#include "core/mp_json.h"

#include <signal.h>
#include <string.h>

static int run_info(struct cli *c, void *values)
{
	struct thaw_result r;
	int rc;

	(void)values;
	rc = cli_call1(c, "server.info", NULL, NULL, &r);
	if (rc)
		return rc;
	if (c->json)
		rc = json_print(c, r.value);
	else
		print_map(c->out, r.value, 0);
	thaw_result_free(&r);
	return rc;
}

struct metrics_values {
	bool prometheus;
};
static const struct opt metrics_opts[] = {
	{"prometheus", 0, OPT_FLAG, NULL,
		offsetof(struct metrics_values, prometheus),
		"in Prometheus' text format"},
	OPT_END,
};

/* A metric's name from a map key: letters, digits, "_". */
static void prom_name(const msgpack_object *key, char *out, size_t size)
{
	size_t n = 0;

	out[0] = 0;
	if (key->type != MSGPACK_OBJECT_STR)
		return;
	for (uint32_t i = 0; i < key->via.str.size && n + 1 < size; i++) {
		char ch = key->via.str.ptr[i];
		bool ok = (ch >= 'a' && ch <= 'z') ||
			  (ch >= 'A' && ch <= 'Z') || (ch >= '0' && ch <= '9');

		out[n++] = ok ? ch : '_';
	}
	out[n] = 0;
}

static void prom_simple(FILE *f, const msgpack_object *map, const char *type,
	const char *suffix)
{
	if (!map || map->type != MSGPACK_OBJECT_MAP)
		return;
	for (uint32_t i = 0; i < map->via.map.size; i++) {
		const msgpack_object *v = &map->via.map.ptr[i].val;
		char name[128];

		prom_name(&map->via.map.ptr[i].key, name, sizeof(name));
		if (v->type != MSGPACK_OBJECT_POSITIVE_INTEGER)
			continue;
		fprintf(f, "# TYPE thaw_%s%s %s\nthaw_%s%s %llu\n", name,
			suffix, type, name, suffix,
			(unsigned long long)v->via.u64);
	}
}

/* The daemon keeps quantiles, so its histograms are summaries here. */
static void prom_summary(FILE *f, const msgpack_object *map)
{
	static const char *const q[][2] = {
		{"p50", "0.5"}, {"p90", "0.9"}, {"p99", "0.99"}, {"max", "1"}};

	if (!map || map->type != MSGPACK_OBJECT_MAP)
		return;
	for (uint32_t i = 0; i < map->via.map.size; i++) {
		const msgpack_object *h = &map->via.map.ptr[i].val;
		char name[128];

		prom_name(&map->via.map.ptr[i].key, name, sizeof(name));
		fprintf(f, "# TYPE thaw_%s_us summary\n", name);
		for (size_t k = 0; k < ARRAY_SIZE(q); k++)
			fprintf(f, "thaw_%s_us{quantile=\"%s\"} %llu\n", name,
				q[k][1],
				(unsigned long long)thaw_get_u64(
					h, q[k][0], 0));
		fprintf(f, "thaw_%s_us_sum %llu\nthaw_%s_us_count %llu\n", name,
			(unsigned long long)thaw_get_u64(h, "sum", 0), name,
			(unsigned long long)thaw_get_u64(h, "count", 0));
	}
}

static int run_metrics(struct cli *c, void *values)
{
	const struct metrics_values *v = values;
	struct thaw_result r;
	int rc;

	if (v->prometheus && c->json)
		return cli_fail(c, EXIT_USAGE,
			"--prometheus and --json exclude each other");
	rc = cli_call1(c, "metrics", NULL, NULL, &r);
	if (rc)
		return rc;
	if (c->json) {
		rc = json_print(c, r.value);
	} else if (v->prometheus) {
		prom_simple(c->out, thaw_get(r.value, "counters"), "counter",
			"_total");
		prom_simple(c->out, thaw_get(r.value, "gauges"), "gauge", "");
		prom_summary(c->out, thaw_get(r.value, "histograms"));
	} else {
		print_map(c->out, r.value, 0);
	}
	thaw_result_free(&r);
	return rc;
}

/* global: a signal handler has nothing else to write to. */
static volatile sig_atomic_t events_stop;

static void on_stop(int sig)
{
	(void)sig;
	events_stop = 1;
}

static void print_event(
	void *arg, const char *method, const msgpack_object *params)
{
	struct cli *c = arg;
	json_t *j;

	if (strcmp(method, "event") != 0)
		return;
	j = mp_to_json(params);
	if (j && json_dumpf(j, c->out, JSON_COMPACT) == 0)
		fputc('\n', c->out);
	json_decref(j);
	(void)fflush(c->out);
}

static int run_events(struct cli *c, void *values)
{
	struct sigaction sa = {.sa_handler = on_stop};
	struct thaw_result r;
	struct thaw_error e;
	uint32_t id;
	int rc;

	(void)values;
	(void)sigaction(SIGINT, &sa, NULL);
	(void)sigaction(SIGTERM, &sa, NULL);
	thaw_interrupt_on(c->t, &events_stop);
	thaw_on_notify(c->t, print_event, c);
	rc = cli_call1(c, "events", NULL, NULL, &r);
	if (rc)
		return rc;
	thaw_result_free(&r);
	while (!ferror(c->out)) {
		rc = thaw_next(c->t, -1, &id, &r, &e);
		thaw_result_free(&r);
		if (rc == THAW_INTERRUPTED)
			return EXIT_DONE;
		if (rc && !id)
			return cli_error(c, &e);
	}
	return EXIT_DONE;
}

const struct command info_command = {"info", "",
	"the daemon, its host and its limits", NULL, NULL, 0, 0, 0,
	CMD_DAEMON | CMD_JSON, run_info};
const struct command metrics_command = {"metrics", "",
	"the daemon's counters and times", "Times are in microseconds.",
	metrics_opts, sizeof(struct metrics_values), 0, 0,
	CMD_DAEMON | CMD_JSON, run_metrics};
const struct command events_command = {"events", "",
	"machines' and templates' life cycle as it happens",
	"One JSON object per line, until Ctrl-C.", NULL, 0, 0, 0,
	CMD_DAEMON | CMD_JSON, run_events};
