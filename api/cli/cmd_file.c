/* thaw inspect, thaw verify: offline, in this process. */
#include "api/cli/cli.h"
#include "snapshot/render.h"
#include "snapshot/snap.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

/* What the snapshot code reports, as an exit code. */
static int exit_of(int code)
{
	switch (-code) {
	case ENOENT:
		return EXIT_NOT_FOUND;
	case EACCES:
	case EPERM:
		return EXIT_HOST;
	case EBADMSG:
		return EXIT_CORRUPT;
	default:
		return EXIT_FAILED;
	}
}

static int open_file(struct cli *c, const char *path, int *fd)
{
	*fd = open(path, O_RDONLY | O_CLOEXEC);
	if (*fd < 0)
		return cli_fail(
			c, exit_of(-errno), "%s: %s", path, strerror(errno));
	return EXIT_DONE;
}

struct inspect_values {
	const char *section;
};
static const struct opt inspect_opts[] = {
	{"section", 0, OPT_STR, "NAME",
		offsetof(struct inspect_values, section),
		"print one section in full"},
	OPT_NOT_YET("map"),
	OPT_END,
};

static int first_error(struct cli *c, const msgpack_object *errors)
{
	const msgpack_object *first;

	if (!errors || errors->type != MSGPACK_OBJECT_ARRAY ||
		!errors->via.array.size)
		return EXIT_DONE;
	first = &errors->via.array.ptr[0];
	if (first->type != MSGPACK_OBJECT_STR)
		return cli_fail(c, EXIT_FAILED, "cannot print it");
	return cli_fail(c, EXIT_CORRUPT, "%s: %.*s; what is sound was printed",
		c->arg[0], (int)first->via.str.size, first->via.str.ptr);
}

static int print_inspected(struct cli *c, const msgpack_sbuffer *buf)
{
	static const struct mp_limits lim = {
		.max_depth = 16, .max_elements = 1024 * 1024};
	msgpack_unpacked msg;
	struct err e = {0};
	int rc = EXIT_DONE;

	if (mp_unpack(buf->data, buf->size, &lim, &msg, &e))
		return cli_fail(c, EXIT_FAILED, "%s", e.msg);
	if (c->json)
		rc = json_print(c, &msg.data);
	else if (snap_render_text(&msg.data, c->out))
		rc = cli_fail(c, EXIT_FAILED, "cannot print it");
	if (!rc)
		rc = first_error(c, thaw_get(&msg.data, "errors"));
	msgpack_unpacked_destroy(&msg);
	return rc;
}

static int run_inspect(struct cli *c, void *values)
{
	const struct inspect_values *v = values;
	msgpack_sbuffer buf;
	msgpack_packer p;
	struct err e = {0};
	int fd, rc;

	rc = open_file(c, c->arg[0], &fd);
	if (rc)
		return rc;
	msgpack_sbuffer_init(&buf);
	msgpack_packer_init(&p, &buf, msgpack_sbuffer_write);
	rc = snap_inspect(fd, v->section, &p, &e);
	if (rc)
		rc = cli_fail(c, exit_of(rc), "%s: %s", c->arg[0], e.msg);
	else
		rc = print_inspected(c, &buf);
	msgpack_sbuffer_destroy(&buf);
	(void)close(fd);
	return rc;
}

struct verifying {
	const char *path;
	uint64_t start, shown;
	bool tty;
};

static int verify_progress(void *arg, uint64_t done, uint64_t total)
{
	struct verifying *v = arg;
	uint64_t now = now_ns();

	if (!v->tty || now - v->start < 1000000000 ||
		now - v->shown < 200000000)
		return 0;
	v->shown = now;
	fprintf(stderr, "\r\033[Kthaw: verifying %s ... %llu%%", v->path,
		(unsigned long long)(total ? done * 100 / total : 0));
	(void)fflush(stderr);
	return 0;
}

/* One line of JSON; a name that is no UTF-8 cannot be said in it. */
static void print_row(struct cli *c, json_t *row)
{
	if (row)
		(void)json_dumpf(row, c->out, JSON_COMPACT);
	fputs(row ? "\n" : "{}\n", c->out);
	json_decref(row);
}

static void print_verified(
	struct cli *c, const char *path, const struct snap_verified *v)
{
	char uuid[SNAP_UUID_STR], size[16];

	snap_uuid_str(&v->uuid, uuid);
	if (!c->json) {
		fprintf(c->out,
			"%s: sound; %s, uuid %s, %llu chunks, %llu pages, "
			"%llu of zeros\n",
			path, fmt_size(v->file_bytes, size), uuid,
			(unsigned long long)v->chunks,
			(unsigned long long)v->pages_present,
			(unsigned long long)v->pages_zero);
		return;
	}
	print_row(c,
		json_pack("{s:s,s:b,s:s,s:I,s:I,s:I,s:I}", "file", path, "ok",
			1, "uuid", uuid, "bytes", (json_int_t)v->file_bytes,
			"chunks", (json_int_t)v->chunks, "pages",
			(json_int_t)v->pages_present, "zero",
			(json_int_t)v->pages_zero));
}

static int refused(
	struct cli *c, const char *path, int exit_code, const char *msg)
{
	if (c->json)
		print_row(c, json_pack("{s:s,s:b,s:s}", "file", path, "ok", 0,
				     "error", msg));
	return cli_fail(c, exit_code, "%s: %s", path, msg);
}

static int verify_one(struct cli *c, const char *path)
{
	struct verifying v = {.path = path,
		.start = now_ns(),
		.tty = isatty(STDERR_FILENO) != 0};
	struct snap_verified done;
	struct err e = {0};
	int fd, rc;

	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return refused(c, path, exit_of(-errno), strerror(errno));
	rc = snap_verify(fd, &done, verify_progress, &v, &e);
	if (v.shown)
		fprintf(stderr, "\r\033[K");
	if (rc)
		rc = refused(c, path, exit_of(rc), e.msg);
	else
		print_verified(c, path, &done);
	(void)close(fd);
	return rc;
}

static int run_verify(struct cli *c, void *values)
{
	int rc = EXIT_DONE;

	(void)values;
	for (unsigned i = 0; i < c->nargs; i++) {
		int one = verify_one(c, c->arg[i]);

		/* Damage counts most: 5 is also the highest. */
		if (one > rc)
			rc = one;
	}
	return rc;
}

const struct command inspect_command = {"inspect", "FILE",
	"what a snapshot file holds",
	"Header, sections, configuration, page statistics. Needs no daemon and "
	"no KVM.",
	inspect_opts, sizeof(struct inspect_values), 1, 1, CMD_JSON,
	run_inspect};
const struct command verify_command = {"verify", "FILE...",
	"check every checksum and rule of snapshot files",
	"Exit code 5 and the first bad byte range when a file is damaged. With "
	"--json one object per file.",
	NULL, 0, 1, 255, CMD_JSON, run_verify};
