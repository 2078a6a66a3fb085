/* thaw snapshot, thaw restore */
#include "api/cli/cli.h"

struct snapshot_values {
	bool force;
};
static const struct opt snapshot_opts[] = {
	{"force", 'f', OPT_FLAG, NULL, offsetof(struct snapshot_values, force),
		"replace FILE if it exists"},
	OPT_NOT_YET("diff"),
	OPT_NOT_YET("zstd"),
	OPT_NOT_YET("live"),
	OPT_END,
};

static int run_snapshot(struct cli *c, void *values)
{
	const struct snapshot_values *v = values;
	char path[4096], uuid[TEXT_MAX], size[16], pause[16], total[16];
	struct thaw_result r;
	msgpack_packer *p;
	int rc;

	if (cli_abspath(c->arg[1], path, sizeof(path)))
		return cli_fail(c, EXIT_USAGE, "%s: path too long", c->arg[1]);
	p = thaw_request(c->t, "machine.snapshot", 3);
	mp_key_str(p, "id", c->arg[0]);
	mp_key_str(p, "path", path);
	mp_key_bool(p, "force", v->force);
	rc = cli_call(c, "writing the snapshot", &r);
	if (rc)
		return rc;
	if (c->json)
		rc = json_print(c, r.value);
	else
		fprintf(c->out, "%s: uuid %s, %s, paused %s, %s in all\n",
			c->arg[1], get_text(r.value, "uuid", uuid),
			fmt_size(thaw_get_u64(r.value, "bytes", 0), size),
			fmt_us((double)thaw_get_u64(r.value, "pause_us", 0),
				pause),
			fmt_us((double)thaw_get_u64(r.value, "total_us", 0),
				total));
	thaw_result_free(&r);
	return rc;
}

struct restore_values {
	const char *name, *hostname, *vsock, *ready;
	uint64_t cid, timeout_ms;
	bool eager;
};

#define AT(m) offsetof(struct restore_values, m)
static const struct opt restore_opts[] = {
	{"name", 0, OPT_STR, "NAME", AT(name), "name of the machine"},
	{"hostname", 0, OPT_STR, "NAME", AT(hostname), "the guest's hostname"},
	{"cid", 0, OPT_COUNT, "N", AT(cid), "vsock context id"},
	{"vsock", 0, OPT_STR, "PATH", AT(vsock),
		"unix socket for the machine's vsock"},
	{"ready", 0, OPT_STR, "agent|TEXT|SECONDS", AT(ready),
		"wait until the guest is ready (default: do not wait)"},
	{"timeout", 0, OPT_MS, "SECONDS", AT(timeout_ms),
		"for --ready (default 60)"},
	{"eager", 0, OPT_FLAG, NULL, AT(eager),
		"load all memory before it starts (always so in this version)"},
	OPT_NOT_YET("lazy"),
	OPT_NOT_YET("mac"),
	OPT_NOT_YET("tap"),
	OPT_NOT_YET("ip"),
	OPT_NOT_YET("disk"),
	OPT_END,
};

static uint32_t count_set(const struct restore_values *v)
{
	return (uint32_t)((v->name != NULL) + (v->hostname != NULL) +
			  (v->vsock != NULL) + (v->ready != NULL) +
			  (v->cid != 0) + (v->timeout_ms != 0));
}

static int run_restore(struct cli *c, void *values)
{
	const struct restore_values *v = values;
	char path[4096], vsock[4096] = "", id[TEXT_MAX];
	struct thaw_result r;
	msgpack_packer *p;
	int rc;

	if (cli_abspath(c->arg[0], path, sizeof(path)) ||
		(v->vsock && cli_abspath(v->vsock, vsock, sizeof(vsock))))
		return cli_fail(c, EXIT_USAGE, "path too long");
	p = thaw_request(c->t, "machine.create", 1 + count_set(v));
	mp_key_str(p, "snapshot", path);
	if (v->name)
		mp_key_str(p, "name", v->name);
	if (v->hostname)
		mp_key_str(p, "hostname", v->hostname);
	if (v->vsock)
		mp_key_str(p, "vsock", vsock);
	if (v->cid)
		mp_key_u64(p, "cid", v->cid);
	if (v->ready)
		config_pack_ready(p, v->ready);
	if (v->timeout_ms)
		mp_key_u64(p, "timeout_ms", v->timeout_ms);
	rc = cli_call(c, "restoring", &r);
	if (rc)
		return rc;
	if (c->json)
		rc = json_print(c, r.value);
	else
		fprintf(c->out, "%s\n", get_text(r.value, "id", id));
	thaw_result_free(&r);
	return rc;
}

const struct command snapshot_command = {"snapshot", "ID FILE",
	"freeze a machine into a file",
	"The machine pauses, is written, and goes on as it was. The file "
	"appears complete or not at all; an existing one is refused.",
	snapshot_opts, sizeof(struct snapshot_values), 2, 2,
	CMD_DAEMON | CMD_JSON, run_snapshot};

const struct command restore_command = {"restore", "FILE",
	"start a machine from a snapshot; prints its id", NULL, restore_opts,
	sizeof(struct restore_values), 1, 1, CMD_DAEMON | CMD_JSON,
	run_restore};
