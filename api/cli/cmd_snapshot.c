/* thaw snapshot, thaw restore */
#include "api/cli/cli.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>

struct snapshot_values {
	bool force, live, diff;
	struct opt_labels overlays;
	const char *against;
	uint64_t zstd;
};
static const struct opt snapshot_opts[] = {
	{"force", 'f', OPT_FLAG, NULL, offsetof(struct snapshot_values, force),
		"replace FILE if it exists"},
	{"live", 0, OPT_FLAG, NULL, offsetof(struct snapshot_values, live),
		"let the machine go on while the file is written"},
	{"diff", 0, OPT_FLAG, NULL, offsetof(struct snapshot_values, diff),
		"write only what changed since the last snapshot (of a machine "
		"started with --track-dirty), or what a clone changed of its "
		"template"},
	{"against", 0, OPT_STR, "last|template",
		offsetof(struct snapshot_values, against),
		"with --diff: which of the two, if both are possible"},
	{"overlay", 0, OPT_LABEL, "ID=FILE",
		offsetof(struct snapshot_values, overlays),
		"keep what is in a disk's overlay in FILE, for restore "
		"--overlay; may be repeated"},
	{"zstd", 0, OPT_COUNT, "LEVEL", offsetof(struct snapshot_values, zstd),
		"compress the memory; 1 is fast, 19 tries hardest"},
	OPT_END,
};

/* global: a signal handler has nothing else to write to. */
static volatile sig_atomic_t interrupted;

static void on_signal(int sig)
{
	(void)sig;
	interrupted = 1;
}

/* How far it is, for a terminal. */
static void show_done(
	void *arg, const char *method, const msgpack_object *params)
{
	uint64_t done = thaw_get_u64(params, "done", 0);
	uint64_t total = thaw_get_u64(params, "total", 0);
	bool *shown = arg;
	char size[16];

	if (strcmp(method, "snapshot") != 0 || !total)
		return;
	*shown = true;
	fprintf(stderr, "\r\033[Kthaw: writing the snapshot ... %u%% of %s",
		(unsigned)(done * 100 / total), fmt_size(total, size));
	(void)fflush(stderr);
}

/* Send what is under construction and wait; Ctrl-C cancels the snapshot, which
 * is what closing the connection does. */
static int call_interruptible(struct cli *c, struct thaw_result *r)
{
	struct sigaction sa = {.sa_handler = on_signal}, old_int, old_term;
	struct thaw_error e;
	bool shown = false;
	int rc;

	thaw_interrupt_on(c->t, &interrupted);
	if (isatty(STDERR_FILENO))
		thaw_on_notify(c->t, show_done, &shown);
	(void)sigaction(SIGINT, &sa, &old_int);
	(void)sigaction(SIGTERM, &sa, &old_term);
	rc = thaw_call(c->t, -1, r, &e);
	(void)sigaction(SIGINT, &old_int, NULL);
	(void)sigaction(SIGTERM, &old_term, NULL);
	if (shown)
		fprintf(stderr, "\r\033[K");
	if (rc == THAW_INTERRUPTED)
		return cli_fail(c, EXIT_FAILED,
			"interrupted; the snapshot is cancelled and nothing "
			"was written");
	return rc ? cli_error(c, &e) : EXIT_DONE;
}

static void print_snapshot(struct cli *c, const msgpack_object *v)
{
	char uuid[TEXT_MAX], size[16], pause[16], total[16];

	fprintf(c->out, "%s: uuid %s, %s, paused %s, %s in all\n", c->arg[1],
		get_text(v, "uuid", uuid),
		fmt_size(thaw_get_u64(v, "bytes", 0), size),
		fmt_us((double)thaw_get_u64(v, "pause_us", 0), pause),
		fmt_us((double)thaw_get_u64(v, "total_us", 0), total));
}

/* New files for overlays, made by us: so they have our rights, and those of a
 * snapshot that failed are removed. */
struct overlay_files {
	unsigned n;
	char path[THAW_MAX_FDS][4096];
	int fd[THAW_MAX_FDS];
};

static int make_overlays(
	struct cli *c, const struct opt_labels *l, struct overlay_files *f)
{
	if (l->n > THAW_MAX_FDS)
		return cli_fail(
			c, EXIT_USAGE, "--overlay: %d at most", THAW_MAX_FDS);
	for (unsigned i = 0; i < l->n; i++) {
		const char *path = strchr(l->at[i], '=') + 1;

		if (cli_abspath(path, f->path[i], sizeof(f->path[i])))
			return cli_fail(
				c, EXIT_USAGE, "%s: path too long", path);
		f->fd[i] = open(f->path[i],
			O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
		if (f->fd[i] < 0)
			return cli_fail(c, EXIT_FAILED, "%s: %s", path,
				strerror(errno));
		f->n++;
	}
	return EXIT_DONE;
}

static void pack_overlays(struct cli *c, msgpack_packer *p,
	const struct opt_labels *l, const struct overlay_files *f)
{
	if (!f->n)
		return;
	mp_str(p, "overlays");
	(void)msgpack_pack_map(p, f->n);
	for (unsigned i = 0; i < f->n; i++) {
		char id[64];

		(void)snprintf(id, sizeof(id), "%.*s",
			(int)strcspn(l->at[i], "="), l->at[i]);
		thaw_pack_fd(c->t, p, id, f->fd[i]);
	}
}

static void close_overlays(struct overlay_files *f, bool keep)
{
	for (unsigned i = 0; i < f->n; i++) {
		(void)close(f->fd[i]);
		if (!keep)
			(void)unlink(f->path[i]);
	}
}

static void pack_snapshot(struct cli *c, const struct snapshot_values *v,
	const char *path, const struct overlay_files *f)
{
	msgpack_packer *p = thaw_request(c->t, "machine.snapshot",
		6 + (v->against ? 1U : 0U) + (v->zstd ? 2U : 0U) + (f->n != 0));

	mp_key_str(p, "id", c->arg[0]);
	mp_key_str(p, "path", path);
	mp_key_bool(p, "force", v->force);
	mp_key_bool(p, "live", v->live);
	mp_key_str(p, "type", v->diff ? "diff" : "full");
	if (v->against)
		mp_key_str(p, "against", v->against);
	if (v->zstd) {
		mp_key_str(p, "codec", "zstd");
		mp_key_u64(p, "level", v->zstd);
	}
	mp_key_bool(p, "progress", isatty(STDERR_FILENO));
	pack_overlays(c, p, &v->overlays, f);
}

static int run_snapshot(struct cli *c, void *values)
{
	const struct snapshot_values *v = values;
	struct overlay_files f = {0};
	struct thaw_result r;
	char path[4096];
	int rc;

	if (cli_abspath(c->arg[1], path, sizeof(path)))
		return cli_fail(c, EXIT_USAGE, "%s: path too long", c->arg[1]);
	if (v->against && !v->diff)
		return cli_fail(c, EXIT_USAGE, "--against goes with --diff");
	rc = make_overlays(c, &v->overlays, &f);
	if (!rc) {
		pack_snapshot(c, v, path, &f);
		rc = call_interruptible(c, &r);
	}
	close_overlays(&f, !rc);
	if (rc)
		return rc;
	if (c->json)
		rc = json_print(c, r.value);
	else
		print_snapshot(c, r.value);
	thaw_result_free(&r);
	return rc;
}

struct restore_values {
	const char *name, *hostname, *vsock, *ready, *pager;
	struct device_opts dev;
	struct opt_labels overlays;
	uint64_t cid, timeout_ms;
	struct lazy_opts lazy;
	bool eager, track_dirty;
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
	{"track-dirty", 0, OPT_FLAG, NULL, AT(track_dirty),
		"keep track of what changes, for thaw snapshot --diff"},
	{"eager", 0, OPT_FLAG, NULL, AT(eager),
		"load all memory before it starts (the default)"},
	LAZY_OPTS(struct restore_values, lazy),
	{"pager", 0, OPT_STR, "unix:PATH", AT(pager),
		"memory comes from a handler that listens there, in the way "
		"of Firecracker's; --stall-timeout counts for it, too"},
	DEVICE_OPTS(struct restore_values, dev),
	{"overlay", 0, OPT_LABEL, "ID=FILE", AT(overlays),
		"what snapshot --overlay kept of a disk, may be repeated"},
	OPT_END,
};

static uint32_t count_set(const struct restore_values *v)
{
	return (uint32_t)((v->name != NULL) + (v->hostname != NULL) +
			  (v->vsock != NULL) + (v->ready != NULL) +
			  (v->pager != NULL) + (v->cid != 0) +
			  (v->timeout_ms != 0) + (v->overlays.n != 0)) +
	       devices_count(&v->dev) + lazy_count(&v->lazy);
}

static int pager_name(struct cli *c, const char *arg, char *out, size_t size)
{
	static const char scheme[] = "unix:";
	size_t n = strlen(scheme);

	if (strncmp(arg, scheme, n) != 0 || !arg[n])
		return cli_fail(c, EXIT_USAGE,
			"--pager: must be unix:PATH, the socket of a handler");
	memcpy(out, scheme, n);
	if (cli_abspath(arg + n, out + n, size - n))
		return cli_fail(c, EXIT_USAGE, "%s: path too long", arg);
	return EXIT_DONE;
}

static int check_restore(struct cli *c, const struct restore_values *v)
{
	if (v->eager && v->lazy.lazy)
		return cli_fail(
			c, EXIT_USAGE, "--eager and --lazy: give one of them");
	if (v->pager && (v->eager || v->lazy.lazy))
		return cli_fail(c, EXIT_USAGE,
			"--pager and --%s: give one of them",
			v->eager ? "eager" : "lazy");
	return EXIT_DONE;
}

static int run_restore(struct cli *c, void *values)
{
	const struct restore_values *v = values;
	char path[4096], vsock[4096] = "", pager[4096], id[TEXT_MAX];
	struct thaw_result r;
	msgpack_packer *p;
	int rc;

	rc = check_restore(c, v);
	if (!rc && v->pager)
		rc = pager_name(c, v->pager, pager, sizeof(pager));
	if (rc)
		return rc;
	if (cli_source(c->arg[0], path, sizeof(path)) ||
		(v->vsock && cli_abspath(v->vsock, vsock, sizeof(vsock))))
		return cli_fail(c, EXIT_USAGE, "path too long");
	p = thaw_request(c->t, "machine.create", 2 + count_set(v));
	mp_key_str(p, "snapshot", path);
	mp_key_bool(p, "track_dirty", v->track_dirty);
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
	if (v->pager)
		mp_key_str(p, "pager", pager);
	lazy_pack(p, &v->lazy);
	rc = devices_pack(c, p, &v->dev);
	if (!rc)
		rc = devices_pack_map(c, p, "overlays", &v->overlays, true);
	if (!rc)
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
	"The machine pauses, is written, and goes on as it was; with --live "
	"it pauses only to be frozen, some milliseconds. The file appears "
	"complete or not at all; an existing one is refused. Ctrl-C cancels.",
	snapshot_opts, sizeof(struct snapshot_values), 2, 2,
	CMD_DAEMON | CMD_JSON, run_snapshot};

const struct command restore_command = {"restore", "FILE",
	"start a machine from a snapshot; prints its id",
	"FILE may be tcp://HOST:PORT/UUID?digest=HEX with --lazy: a snapshot "
	"that \"thaw pager\" serves on another host.",
	restore_opts, sizeof(struct restore_values), 1, 1,
	CMD_DAEMON | CMD_JSON, run_restore};
