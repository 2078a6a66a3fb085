/* thaw verify. */
#include "api/cli/chain.h"
#include "api/cli/offline.h"
#include "core/mp_json.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

struct verifying {
	struct snap_files chain;
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
	struct cli *c, const char *path, const msgpack_object *o)
{
	char uuid[TEXT_MAX], size[16], chain[40] = "";
	uint64_t files = thaw_get_u64(o, "files", 0);

	if (c->json) {
		print_row(c, mp_to_json(o));
		return;
	}
	if (files > 1)
		(void)snprintf(chain, sizeof(chain), "; a chain of %llu files",
			(unsigned long long)files);
	fprintf(c->out,
		"%s: sound; %s, uuid %s, %llu chunks, %llu pages, %llu of "
		"zeros%s\n",
		path, fmt_size(thaw_get_u64(o, "bytes", 0), size),
		get_text(o, "uuid", uuid),
		(unsigned long long)thaw_get_u64(o, "chunks", 0),
		(unsigned long long)thaw_get_u64(o, "pages", 0),
		(unsigned long long)thaw_get_u64(o, "zero", 0), chain);
}

static int refused(
	struct cli *c, const char *path, int exit_code, const char *msg)
{
	if (c->json)
		print_row(c, json_pack("{s:s,s:b,s:s}", "file", path, "ok", 0,
				     "error", msg));
	/* errors about a chain name the file themselves */
	if (!strncmp(msg, path, strlen(path)))
		return cli_fail(c, exit_code, "%s", msg);
	return cli_fail(c, exit_code, "%s: %s", path, msg);
}

static int verify(void *arg, msgpack_packer *out, struct err *e)
{
	struct verifying *v = arg;
	int rc = snap_files_verify(&v->chain, verify_progress, v, out, e);

	if (v->shown)
		fprintf(stderr, "\r\033[K");
	return rc;
}

static int verify_one(struct cli *c, const char *path)
{
	struct verifying v = {.path = path,
		.start = now_ns(),
		.tty = isatty(STDERR_FILENO) != 0};
	struct offline_answer a;
	struct err e = {0};
	int rc = file_chain_open(path, c->arg, c->nargs, &v.chain, &e);

	if (rc)
		return refused(c, path, offline_exit(rc), e.msg);
	rc = offline_run(verify, &v, &a, &e);
	if (rc) {
		rc = refused(c, path, offline_exit(rc), e.msg);
	} else {
		print_verified(c, path, &a.msg.data);
		offline_free(&a);
	}
	file_chain_close(&v.chain);
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
	"Of a diff also all that it builds on; parents that are not given are "
	"looked for where the diff says and beside it. Exit code 5 and the "
	"first bad byte range when a file is damaged, 3 when a parent is "
	"missing. With --json one object per file.",
	NULL, 0, 1, 255, CMD_JSON, run_verify};
