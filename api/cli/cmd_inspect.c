/* thaw inspect */
#include "api/cli/chain.h"
#include "api/cli/offline.h"
#include "core/arch.h"
#include "core/kvm.h"
#include "snapshot/map.h"
#include "snapshot/render.h"
#include "snapshot/snap.h"
#include "uffd/ws.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

struct inspect_values {
	const char *section, *map;
};
static const struct opt inspect_opts[] = {
	{"section", 0, OPT_STR, "NAME",
		offsetof(struct inspect_values, section),
		"print one section in full"},
	{"map", 0, OPT_PICTURE, "[FILE.png|FILE.svg]",
		offsetof(struct inspect_values, map),
		"draw guest memory, page by page: in characters, or into a "
		"picture"},
	OPT_END,
};

struct inspecting {
	struct snap_inspect_opts o;
	struct snap_files chain; /* as far as it could be followed */
	int fd;
};

/* What this host can do, or NULL where there is no KVM: inspecting needs none.
 * free(). */
static struct arch_compat *this_host(void)
{
	struct kvm_host kvm = {.fd = -1};
	struct arch_compat *host = NULL;
	struct err e;

	if (!kvm_open("/dev/kvm", &kvm, &e))
		(void)!arch_compat_host(kvm.fd, &host, &e);
	kvm_close(&kvm);
	return host;
}

static int look(void *arg, msgpack_packer *out, struct err *e)
{
	struct inspecting *in = arg;

	return snap_files_inspect(in->fd, &in->chain, &in->o, out, e);
}

static int first_error(struct cli *c, const msgpack_object *o)
{
	const msgpack_object *errors = thaw_get(o, "errors"), *first;
	bool lied = !thaw_get(o, "unsupported");

	if (!errors || errors->type != MSGPACK_OBJECT_ARRAY ||
		!errors->via.array.size)
		return EXIT_DONE;
	first = &errors->via.array.ptr[0];
	if (first->type != MSGPACK_OBJECT_STR)
		return cli_fail(c, EXIT_FAILED, "cannot print it");
	return cli_fail(c, lied ? EXIT_CORRUPT : EXIT_FAILED,
		"%s: %.*s; what %s was printed", c->arg[0],
		(int)first->via.str.size, first->via.str.ptr,
		lied ? "is sound" : "it knows");
}

/* An existing picture is replaced: it can be drawn again. */
static int draw(struct cli *c, const char *path, const msgpack_object *o)
{
	bool png = !strcmp(path + strlen(path) - 4, ".png");
	FILE *f = fopen(path, "we");
	int rc;

	if (!f)
		return cli_fail(c, offline_exit(-errno), "%s: %s", path,
			strerror(errno));
	rc = png ? snap_map_png(o, f) : snap_map_svg(o, f);
	if (fclose(f) && !rc)
		rc = -EIO;
	if (rc == -EINVAL)
		return cli_fail(c, EXIT_CORRUPT,
			"%s: its memory index is not sound: there is no map",
			c->arg[0]);
	if (rc)
		return cli_fail(c, EXIT_FAILED, "%s: cannot write it", path);
	return EXIT_DONE;
}

static int print(
	struct cli *c, const struct inspect_values *v, const msgpack_object *o)
{
	int rc = EXIT_DONE;

	if (c->json)
		rc = json_print(c, o);
	else if (snap_render_text(o, c->out))
		rc = cli_fail(c, EXIT_FAILED, "cannot print it");
	if (!rc && v->map && *v->map)
		rc = draw(c, v->map, o);
	else if (!rc && v->map && !c->json && thaw_get(o, "map") &&
		 snap_map_text(o, c->out))
		rc = cli_fail(c, EXIT_FAILED, "cannot draw the map");
	return rc ? rc : first_error(c, o);
}

/* FILE.ws, when there is one. */
static int open_working_set(const char *path)
{
	char name[PATH_MAX];
	int n = snprintf(name, sizeof(name), "%s%s", path, WS_SUFFIX);

	if (n < 0 || n >= (int)sizeof(name))
		return -1;
	return open(name, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
}

static int inspect(
	struct cli *c, const struct inspect_values *v, struct inspecting *in)
{
	struct offline_answer a;
	struct err e = {0};
	int rc = offline_run(look, in, &a, &e);

	if (rc)
		return cli_fail(
			c, offline_exit(rc), "%s: %s", c->arg[0], e.msg);
	rc = print(c, v, &a.msg.data);
	offline_free(&a);
	return rc;
}

static int run_inspect(struct cli *c, void *values)
{
	const struct inspect_values *v = values;
	struct inspecting in = {
		.o = {.section = v->section, .map = v->map != NULL}};
	AUTO_FREE struct arch_compat *host = NULL;
	struct err e = {0};
	int rc;

	if (v->section && v->map)
		return cli_fail(c, EXIT_USAGE,
			"--section and --map: one of them, please");
	in.fd = file_open(c->arg[0], &e);
	if (in.fd < 0)
		return cli_fail(c, offline_exit(in.fd), "%s", e.msg);
	host = this_host();
	in.o.host = host;
	/* a file that is not sound is inspect's to describe */
	(void)!file_chain_follow(in.fd, c->arg[0], NULL, 0, &in.chain, &e);
	if (v->map)
		in.o.ws_fd = open_working_set(c->arg[0]);
	rc = inspect(c, v, &in);
	if (in.o.ws_fd > 0)
		(void)close(in.o.ws_fd);
	snap_files_close(&in.chain);
	(void)close(in.fd);
	return rc;
}

const struct command inspect_command = {"inspect", "FILE",
	"what a snapshot file holds",
	"Header, sections, configuration, devices, registers, page statistics. "
	"Of a damaged file it shows what is sound and says what is not (exit "
	"code 5). Needs no daemon and no KVM.",
	inspect_opts, sizeof(struct inspect_values), 1, 1, CMD_JSON,
	run_inspect};
