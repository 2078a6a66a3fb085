/* thaw verify. */
#include "api/cli/offline.h"
#include "snapshot/snap.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

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
		return refused(c, path, offline_exit(-errno), strerror(errno));
	rc = snap_verify_fd(fd, &done, verify_progress, &v, &e);
	if (v.shown)
		fprintf(stderr, "\r\033[K");
	if (rc)
		rc = refused(c, path, offline_exit(rc), e.msg);
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

const struct command verify_command = {"verify", "FILE...",
	"check every checksum and rule of snapshot files",
	"Exit code 5 and the first bad byte range when a file is damaged. With "
	"--json one object per file.",
	NULL, 0, 1, 255, CMD_JSON, run_verify};
