/* thaw bench: the command. */
#include "bench/bench.h"

#include <errno.h>
#include <string.h>

static const struct {
	const char *name;
	int (*run)(struct bench *b);
} benches[] = {
	{"boot", bench_boot},
	{"clone", bench_clone_run},
	{"invoke", bench_invoke_run},
	{"burst", bench_burst},
	{"density", bench_density},
	{"snapshot", bench_snapshot},
	{"restore", bench_restore},
};

#define AT(m) offsetof(struct bench_opts, m)
static const struct opt bench_opts[] = {
	{"template", 0, OPT_STR, "NAME", AT(template_name),
		"use this template of the daemon on --socket"},
	{"mem", 'm', OPT_SIZE, "SIZE", AT(mem),
		"guest memory of the templates made (default 128M)"},
	{"count", 'n', OPT_COUNT, "N", AT(n),
		"how many machines or requests per result"},
	{"record", 0, OPT_COUNT, "N", AT(record),
		"restore: merge N recordings into the working set (default 1)"},
	{"json", 0, OPT_STR, "FILE", AT(json),
		"write the results as JSON; - is stdout"},
	{"plot", 0, OPT_STR, "FILE.svg", AT(plot),
		"draw histograms and distributions"},
	OPT_END,
};

static int write_plot(struct bench *b, const char *name)
{
	FILE *f = fopen(b->o->plot, "we");
	char title[64];
	int rc;

	if (!f)
		return cli_fail(b->c, EXIT_FAILED, "%s: %s", b->o->plot,
			strerror(errno));
	(void)snprintf(title, sizeof(title), "thaw bench %s", name);
	rc = svg_write(f, title, b->results, b->nresults);
	if (fclose(f) || rc)
		return cli_fail(
			b->c, EXIT_FAILED, "%s: cannot write", b->o->plot);
	return EXIT_DONE;
}

/* A result where something did not answer is a failure. */
static int check_answers(struct bench *b)
{
	int rc = EXIT_DONE;

	for (unsigned i = 0; i < b->nresults; i++) {
		const struct result *r = &b->results[i];

		if (r->ok < r->n || !r->n)
			rc = cli_fail(b->c, EXIT_FAILED,
				"%s: only %llu of %llu answered", r->name,
				(unsigned long long)r->ok,
				(unsigned long long)r->n);
	}
	return rc;
}

static int finish(struct bench *b, const char *name)
{
	int rc = EXIT_DONE, one;

	if (!b->o->json || strcmp(b->o->json, "-") != 0)
		bench_print(b);
	if (b->o->json)
		rc = bench_write_json(b, name, b->o->json);
	if (!rc && b->o->plot)
		rc = write_plot(b, name);
	one = check_answers(b);
	return rc ? rc : one;
}

static int run_bench(struct cli *c, void *values)
{
	struct bench_opts *o = values;
	struct bench b = {.c = c, .o = o};
	size_t i;
	int rc;

	for (i = 0; i < ARRAY_SIZE(benches); i++) {
		if (strcmp(benches[i].name, c->arg[0]) == 0)
			break;
	}
	if (i == ARRAY_SIZE(benches))
		return cli_fail(c, EXIT_USAGE,
			"unknown benchmark \"%s\": boot, clone, invoke, burst, "
			"density, snapshot or restore",
			c->arg[0]);
	if (o->template_name && !c->socket)
		return cli_fail(c, EXIT_USAGE,
			"--template needs --socket: without it the benchmark "
			"runs a daemon of its own");
	if (!o->mem)
		o->mem = 128 * MIB;
	if (o->n > 100000)
		return cli_fail(c, EXIT_USAGE, "-n: at most 100000");
	rc = bench_open(&b);
	if (!rc)
		rc = benches[i].run(&b);
	if (!rc)
		rc = finish(&b, benches[i].name);
	bench_close(&b);
	return rc;
}

const struct command bench_command = {"bench",
	"boot|clone|invoke|burst|density|snapshot|restore", "measure this host",
	"boot: cold boot until the agent is ready. clone: clone requests, "
	"pooled and fresh. invoke: clone to answer, and an empty call. burst: "
	"1,000 clones by one request, all answered. density: memory per clone, "
	"and creating among many. snapshot: writing, reading, verifying and "
	"inspecting, and the guest's pause. restore: a snapshot to the first "
	"answer, "
	"hot, "
	"lazy with and without a working set, eager; what a fault costs.\n"
	"A machine counts only when it has answered a request of its own with "
	"the right content; a result with fewer answers than machines is a "
	"failure. Without --socket the benchmark starts a daemon of its own "
	"in a temporary directory and removes it.",
	bench_opts, sizeof(struct bench_opts), 1, 1, CMD_SOCKET, run_bench};
