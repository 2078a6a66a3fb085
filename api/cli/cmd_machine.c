/* thaw ps | show | pause | resume | stop | logs */
#include "api/cli/cli.h"

#include <errno.h>
#include <string.h>

struct ps_values {
	bool all;
};
static const struct opt ps_opts[] = {
	{"all", 'a', OPT_FLAG, NULL, offsetof(struct ps_values, all),
		"ended machines and parked clones too"},
	OPT_END,
};

static bool hidden(const msgpack_object *m)
{
	const msgpack_object *state = thaw_get(m, "state");

	return state &&
	       (mp_str_eq(state, "ended") || mp_str_eq(state, "parked"));
}

static void print_machine(struct cli *c, const msgpack_object *m)
{
	const msgpack_object *mem = thaw_get(m, "memory");
	const msgpack_object *pids = thaw_get(m, "pids");
	const msgpack_object *times = thaw_get(m, "times");
	char id[TEXT_MAX], name[TEXT_MAX], kind[TEXT_MAX], state[TEXT_MAX];
	char tmpl[TEXT_MAX], size[16], age[16];

	fprintf(c->out, "%-20s %-8s %-8s %-16s %9s %8llu %8s  %s\n",
		get_text(m, "id", id), get_text(m, "kind", kind),
		get_text(m, "state", state), get_text(m, "template", tmpl),
		fmt_size(thaw_get_u64(mem, "size", 0), size),
		(unsigned long long)thaw_get_u64(pids, "machine", 0),
		fmt_age(thaw_get_u64(times, "age_ms", 0), age),
		get_text(m, "name", name));
}

static int run_ps(struct cli *c, void *values)
{
	const struct ps_values *v = values;
	const msgpack_object *list;
	struct thaw_result r;
	int rc;

	rc = cli_call1(c, "machine.list", NULL, NULL, &r);
	if (rc)
		return rc;
	list = thaw_get(r.value, "machines");
	if (c->json) {
		rc = json_print(c, r.value);
		thaw_result_free(&r);
		return rc;
	}
	fprintf(c->out, "%-20s %-8s %-8s %-16s %9s %8s %8s  %s\n", "ID", "KIND",
		"STATE", "TEMPLATE", "MEMORY", "PID", "AGE", "NAME");
	for (uint32_t i = 0; list && list->type == MSGPACK_OBJECT_ARRAY &&
			     i < list->via.array.size;
		i++) {
		if (v->all || !hidden(&list->via.array.ptr[i]))
			print_machine(c, &list->via.array.ptr[i]);
	}
	thaw_result_free(&r);
	return EXIT_DONE;
}

static int run_show(struct cli *c, void *values)
{
	(void)values;
	return cli_show(c, "machine.show", "id");
}

/* pause, resume and stop take any number of ids; all are tried. */
static int each_id(struct cli *c, const char *method)
{
	int rc = EXIT_DONE;

	for (unsigned i = 0; i < c->nargs; i++) {
		struct thaw_result r;
		int one = cli_call1(c, method, "id", c->arg[i], &r);

		if (!one && c->json)
			one = json_print(c, r.value);
		thaw_result_free(&r);
		if (one)
			rc = one;
	}
	return rc;
}

static int run_pause(struct cli *c, void *values)
{
	(void)values;
	return each_id(c, "machine.pause");
}

static int run_resume(struct cli *c, void *values)
{
	(void)values;
	return each_id(c, "machine.resume");
}

static int run_stop(struct cli *c, void *values)
{
	(void)values;
	return each_id(c, "machine.stop");
}

static int run_logs(struct cli *c, void *values)
{
	struct thaw_result r;
	const void *data;
	uint64_t dropped;
	size_t len;
	int rc;

	(void)values;
	rc = cli_call1(c, "machine.logs", "id", c->arg[0], &r);
	if (rc)
		return rc;
	dropped = thaw_get_u64(r.value, "dropped", 0);
	if (c->json)
		rc = json_print(c, r.value);
	else if (thaw_get_data(r.value, "data", &data, &len))
		rc = cli_fail(c, EXIT_FAILED, "the answer has no data");
	else if (fwrite(data, 1, len, c->out) != len)
		rc = cli_fail(c, EXIT_FAILED, "stdout: %s", strerror(errno));
	else if (dropped)
		fprintf(stderr, "thaw: logs: %llu older bytes were dropped\n",
			(unsigned long long)dropped);
	thaw_result_free(&r);
	return rc;
}

const struct command machine_commands[6] = {
	{"ps", "", "list machines and clones",
		"thaw show ID also says how much memory a machine shares and "
		"how much "
		"is its own.",
		ps_opts, sizeof(struct ps_values), 0, 0, CMD_DAEMON | CMD_JSON,
		run_ps},
	{"show", "ID", "everything about one machine", NULL, NULL, 0, 1, 1,
		CMD_DAEMON | CMD_JSON, run_show},
	{"pause", "ID...", "stop machines' vCPUs", NULL, NULL, 0, 1, 255,
		CMD_DAEMON | CMD_JSON, run_pause},
	{"resume", "ID...", "let paused machines go on", NULL, NULL, 0, 1, 255,
		CMD_DAEMON | CMD_JSON, run_resume},
	{"stop", "ID...", "end machines", NULL, NULL, 0, 1, 255,
		CMD_DAEMON | CMD_JSON, run_stop},
	{"logs", "ID", "what a machine wrote on its console", NULL, NULL, 0, 1,
		1, CMD_DAEMON | CMD_JSON, run_logs},
};
