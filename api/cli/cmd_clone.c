/* thaw clone: ids of new machines on stdout. */
#include "api/cli/cli.h"

#include <string.h>

struct clone_values {
	uint64_t count, cid, timeout_ms;
	bool pooled, fresh;
	const char *name, *hostname, *vsock;
	struct device_opts dev;
};

#define AT(m) offsetof(struct clone_values, m)
static const struct opt clone_opts[] = {
	{"count", 'n', OPT_COUNT, "N", AT(count), "how many (default 1)"},
	{"pooled", 0, OPT_FLAG, NULL, AT(pooled),
		"only clones made ahead of time; fail when none is left"},
	{"fresh", 0, OPT_FLAG, NULL, AT(fresh), "only new ones"},
	{"name", 0, OPT_STR, "NAME", AT(name), "name of the clone"},
	{"hostname", 0, OPT_STR, "NAME", AT(hostname), "the guest's hostname"},
	{"cid", 0, OPT_COUNT, "N", AT(cid), "vsock context id"},
	{"vsock", 0, OPT_STR, "PATH", AT(vsock),
		"unix socket for the machine's vsock"},
	{"timeout", 0, OPT_MS, "SECONDS", AT(timeout_ms),
		"until the guest acknowledged (default 10)"},
	DEVICE_OPTS(struct clone_values, dev),
	OPT_END,
};

static int pack_overrides(
	struct cli *c, msgpack_packer *p, const struct clone_values *v)
{
	uint32_t n = (uint32_t)((v->name != NULL) + (v->hostname != NULL) +
				(v->cid != 0) + (v->vsock != NULL)) +
		     devices_count(&v->dev);
	char path[4096];

	mp_str(p, "overrides");
	(void)msgpack_pack_map(p, n);
	if (v->name)
		mp_key_str(p, "name", v->name);
	if (v->hostname)
		mp_key_str(p, "hostname", v->hostname);
	if (v->cid)
		mp_key_u64(p, "cid", v->cid);
	if (!v->vsock)
		return devices_pack(c, p, &v->dev);
	if (cli_abspath(v->vsock, path, sizeof(path)))
		return cli_fail(c, EXIT_USAGE, "%s: path too long", v->vsock);
	mp_key_str(p, "vsock", path);
	return devices_pack(c, p, &v->dev);
}

static int pack_clone(struct cli *c, const struct clone_values *v)
{
	bool over = v->name || v->hostname || v->cid || v->vsock ||
		    devices_count(&v->dev);
	msgpack_packer *p = thaw_request(
		c->t, "clone", (uint32_t)(3 + over + (v->timeout_ms != 0)));
	const char *mode = "any";

	if (v->pooled)
		mode = "pooled";
	else if (v->fresh)
		mode = "fresh";
	mp_key_str(p, "template", c->arg[0]);
	mp_key_u64(p, "count", v->count ? v->count : 1);
	mp_key_str(p, "mode", mode);
	if (v->timeout_ms)
		mp_key_u64(p, "timeout_ms", v->timeout_ms);
	return over ? pack_overrides(c, p, v) : EXIT_DONE;
}

/* Some clones may have failed: say how many and why the first did. */
static int report_errors(struct cli *c, const msgpack_object *result)
{
	const msgpack_object *errors = thaw_get(result, "errors");
	const msgpack_object *e;
	char text[TEXT_MAX];

	if (!errors || errors->type != MSGPACK_OBJECT_ARRAY ||
		!errors->via.array.size)
		return EXIT_DONE;
	e = &errors->via.array.ptr[0];
	return cli_fail(c, EXIT_FAILED,
		"%u clones were not made; the first (number %llu): %s",
		errors->via.array.size,
		(unsigned long long)thaw_get_u64(e, "index", 0),
		get_text(e, "message", text));
}

static int run_clone(struct cli *c, void *values)
{
	const struct clone_values *v = values;
	const msgpack_object *list;
	struct thaw_result r = {0};
	int rc;

	if (v->pooled && v->fresh)
		return cli_fail(c, EXIT_USAGE,
			"--pooled and --fresh exclude each other");
	if ((v->name || v->vsock || devices_count(&v->dev)) && v->count > 1)
		return cli_fail(c, EXIT_USAGE,
			"--name, --vsock, --disk, --tap, --mac and --ip are "
			"for one "
			"clone, not for %llu",
			(unsigned long long)v->count);
	rc = pack_clone(c, v);
	if (!rc)
		rc = cli_call(c, "cloning", &r);
	if (rc)
		return rc;
	list = thaw_get(r.value, "clones");
	if (c->json) {
		rc = json_print(c, r.value);
	} else if (list && list->type == MSGPACK_OBJECT_ARRAY) {
		for (uint32_t i = 0; i < list->via.array.size; i++) {
			char id[TEXT_MAX];

			fprintf(c->out, "%s\n",
				get_text(&list->via.array.ptr[i], "id", id));
		}
	}
	if (!rc)
		rc = report_errors(c, r.value);
	thaw_result_free(&r);
	return rc;
}

const struct command clone_command = {"clone", "TEMPLATE",
	"start clones of a template; prints their ids",
	"A clone is a machine of its own: its id, hostname, machine id and "
	"random numbers are shared with no other. It runs until it ends or "
	"thaw stop ends it.",
	clone_opts, sizeof(struct clone_values), 1, 1, CMD_DAEMON | CMD_JSON,
	run_clone};
