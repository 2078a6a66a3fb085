/* thaw template create | ls | show | rm */
#include "api/cli/cli.h"
#include "core/mp_json.h"

#include <string.h>

struct create_values {
	struct config_opts cfg;
	const char *snapshot, *machine, *ready;
	uint64_t pool, timeout_ms, max_clones, invoke_ms;
	struct lazy_opts lazy;
	const char *record;
};

#define AT(m) offsetof(struct create_values, m)
static const struct opt create_opts[] = {
	CONFIG_OPTS(struct create_values, cfg),
	{"snapshot", 0, OPT_STR, "FILE", AT(snapshot),
		"make the template from a snapshot file instead of a boot; "
		"with --lazy also tcp://HOST:PORT/UUID?digest=HEX, one that "
		"\"thaw pager\" serves on another host"},
	{"pool", 0, OPT_U64, "N", AT(pool),
		"keep N clones ready ahead of time (default 0)"},
	{"ready", 0, OPT_STR, "agent|TEXT|SECONDS", AT(ready),
		"when the guest is warm: its agent answers (default), TEXT "
		"appears on the console, or SECONDS have passed"},
	{"timeout", 0, OPT_MS, "SECONDS", AT(timeout_ms),
		"give up when the guest is not ready by then (default 60)"},
	{"max-clones", 0, OPT_COUNT, "N", AT(max_clones),
		"most clones alive at once"},
	{"invoke-timeout", 0, OPT_MS, "SECONDS", AT(invoke_ms),
		"longest time one invoke may take"},
	{"machine", 0, OPT_STR, "ID", AT(machine),
		"make it from a machine as it is now; the machine goes on"},
	LAZY_OPTS(struct create_values, lazy),
	{"record", 0, OPT_STR, "TEXT", AT(record),
		"then run TEXT as a request and note which pages it needs; "
		"with --snapshot the set is also written beside FILE, as "
		"FILE.ws"},
	OPT_END,
};

static void pack_limits(msgpack_packer *p, const struct create_values *v)
{
	mp_str(p, "limits");
	(void)msgpack_pack_map(
		p, (unsigned)((v->max_clones != 0) + (v->invoke_ms != 0)));
	if (v->max_clones)
		mp_key_u64(p, "max_clones", v->max_clones);
	if (v->invoke_ms)
		mp_key_u64(p, "invoke_ms", v->invoke_ms);
}

static int pack_create(struct cli *c, const struct create_values *v,
	const json_t *cfg, const char *snapshot)
{
	bool limits = v->max_clones || v->invoke_ms;
	uint32_t n = (uint32_t)(2 + (v->pool != 0) + (v->ready != NULL) +
				(v->timeout_ms != 0) + limits) +
		     lazy_count(&v->lazy);
	msgpack_packer *p = thaw_request(c->t, "template.create", n);

	mp_key_str(p, "name", c->arg[0]);
	if (v->machine) {
		mp_key_str(p, "machine", v->machine);
	} else if (snapshot) {
		mp_key_str(p, "snapshot", snapshot);
	} else {
		mp_str(p, "config");
		if (mp_pack_json(p, cfg))
			return cli_fail(
				c, EXIT_FAILED, "configuration cannot be sent");
	}
	if (v->pool)
		mp_key_u64(p, "pool", v->pool);
	if (v->ready)
		config_pack_ready(p, v->ready);
	if (v->timeout_ms)
		mp_key_u64(p, "timeout_ms", v->timeout_ms);
	if (limits)
		pack_limits(p, v);
	lazy_pack(p, &v->lazy);
	return EXIT_DONE;
}

static void print_created(struct cli *c, const msgpack_object *t)
{
	const msgpack_object *us = thaw_get(t, "us");
	char uuid[TEXT_MAX], total[16], boot[16], mem[16];

	fprintf(c->out, "%s: ready in %s (boot to ready %s), %s, uuid %s\n",
		c->arg[0], fmt_us((double)thaw_get_u64(us, "total", 0), total),
		fmt_us((double)thaw_get_u64(us, "ready", 0), boot),
		fmt_size(thaw_get_u64(t, "memory", 0), mem),
		get_text(t, "uuid", uuid));
}

static int record(struct cli *c, const char *text, const char *snapshot)
{
	msgpack_packer *p =
		thaw_request(c->t, "template.record", snapshot ? 3 : 2);
	struct thaw_result r = {0};
	char set[4096 + 8];
	int rc;

	mp_key_str(p, "name", c->arg[0]);
	mp_str(p, "payload");
	mp_bin(p, text, strlen(text));
	if (snapshot) {
		(void)snprintf(set, sizeof(set), "%s.ws", snapshot);
		mp_key_str(p, "path", set);
	}
	rc = cli_call(c, "recording", &r);
	if (!rc && !c->json)
		fprintf(c->out,
			"%s: recorded %llu pages; the working set has %llu "
			"(recordings: %llu)\n",
			c->arg[0],
			(unsigned long long)thaw_get_u64(r.value, "pages", 0),
			(unsigned long long)thaw_get_u64(r.value, "set", 0),
			(unsigned long long)thaw_get_u64(
				r.value, "recordings", 0));
	thaw_result_free(&r);
	return rc;
}

static int run_create(struct cli *c, void *values)
{
	const struct create_values *v = values;
	const char *guest = c->nargs > 1 ? c->arg[1] : NULL;
	struct thaw_result r = {0};
	json_t *cfg = NULL;
	char path[4096];
	bool frozen = v->snapshot || v->machine;
	int rc = EXIT_DONE;

	if ((frozen && (guest || v->cfg.config || v->cfg.kernel)) ||
		(v->snapshot && v->machine))
		return cli_fail(c, EXIT_USAGE,
			"a template comes from GUEST, --config, --snapshot or "
			"--machine; give one");
	if (frozen && (v->cfg.mem || v->cfg.cpus || v->cfg.cmdline ||
			      v->cfg.cid || v->cfg.labels.n || v->ready))
		return cli_fail(c, EXIT_USAGE,
			"it brings its own configuration; leave out "
			"--mem, --cpus, --cmdline, --cid, --label and --ready");
	if (v->snapshot && cli_source(v->snapshot, path, sizeof(path)))
		return cli_fail(
			c, EXIT_USAGE, "%s: path too long", v->snapshot);
	if (!frozen)
		rc = config_build(c, &v->cfg, guest, &cfg);
	if (!rc)
		rc = pack_create(c, v, cfg, v->snapshot ? path : NULL);
	json_decref(cfg);
	if (!rc)
		rc = cli_call(c, "creating the template", &r);
	if (!rc && c->json)
		rc = json_print(c, r.value);
	else if (!rc)
		print_created(c, r.value);
	thaw_result_free(&r);
	if (!rc && v->record)
		rc = record(c, v->record,
			v->snapshot && !cli_is_remote(path) ? path : NULL);
	return rc;
}

static int run_ls(struct cli *c, void *values)
{
	const msgpack_object *list;
	struct thaw_result r;
	int rc;

	(void)values;
	rc = cli_call1(c, "template.list", NULL, NULL, &r);
	if (rc)
		return rc;
	list = thaw_get(r.value, "templates");
	if (c->json) {
		rc = json_print(c, r.value);
		thaw_result_free(&r);
		return rc;
	}
	fprintf(c->out, "%-20s %-8s %9s %9s %11s %7s  %s\n", "NAME", "STATE",
		"MEMORY", "BASE", "POOL", "CLONES", "UUID");
	for (uint32_t i = 0; list && list->type == MSGPACK_OBJECT_ARRAY &&
			     i < list->via.array.size;
		i++) {
		const msgpack_object *t = &list->via.array.ptr[i];
		const msgpack_object *pool = thaw_get(t, "pool");
		char name[TEXT_MAX], state[TEXT_MAX], uuid[TEXT_MAX];
		char mem[16], base[16];

		fprintf(c->out, "%-20s %-8s %9s %9s %5llu/%-5llu %7llu  %s\n",
			get_text(t, "name", name), get_text(t, "state", state),
			fmt_size(thaw_get_u64(t, "memory", 0), mem),
			fmt_size(thaw_get_u64(t, "base_bytes", 0), base),
			(unsigned long long)thaw_get_u64(pool, "parked", 0),
			(unsigned long long)thaw_get_u64(pool, "target", 0),
			(unsigned long long)thaw_get_u64(t, "clones", 0),
			get_text(t, "uuid", uuid));
	}
	thaw_result_free(&r);
	return EXIT_DONE;
}

static int run_show(struct cli *c, void *values)
{
	(void)values;
	return cli_show(c, "template.show", "name");
}

struct rm_values {
	bool force;
};
static const struct opt rm_opts[] = {
	{"force", 'f', OPT_FLAG, NULL, offsetof(struct rm_values, force),
		"end its clones too"},
	OPT_END,
};

static int run_rm(struct cli *c, void *values)
{
	const struct rm_values *v = values;
	int rc = EXIT_DONE;

	for (unsigned i = 0; i < c->nargs; i++) {
		msgpack_packer *p = thaw_request(c->t, "template.remove", 2);
		struct thaw_result r;
		int one;

		mp_key_str(p, "name", c->arg[i]);
		mp_key_bool(p, "force", v->force);
		one = cli_call(c, "removing", &r);
		thaw_result_free(&r);
		if (one)
			rc = one;
	}
	return rc;
}

const struct command template_commands[4] = {
	{"template create", "NAME [GUEST]",
		"boot and warm a machine once, freeze it as a template",
		"GUEST is \"builtin\" (default) or a kernel image.",
		create_opts, sizeof(struct create_values), 1, 2,
		CMD_DAEMON | CMD_JSON, run_create},
	{"template ls", "", "list templates", NULL, NULL, 0, 0, 0,
		CMD_DAEMON | CMD_JSON, run_ls},
	{"template show", "NAME", "everything about one template", NULL, NULL,
		0, 1, 1, CMD_DAEMON | CMD_JSON, run_show},
	{"template rm", "NAME...", "remove templates", NULL, rm_opts,
		sizeof(struct rm_values), 1, 255, CMD_DAEMON, run_rm},
};
