/* thaw merge, thaw convert: a snapshot written anew, or its memory alone. */
#include "api/cli/chain.h"
#include "api/cli/offline.h"
#include "snapshot/publish.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

struct merge_values {
	const char *out;
	uint64_t zstd; /* 0: raw */
	bool force, raw, memory;
};

struct copying {
	struct cli *c;
	const struct merge_values *v;
	struct snap_files chain;
	struct publish pub;
	struct snap_rewrite_opts o;
	uint64_t start, shown;
	bool tty;
};

static int progress(void *arg, uint64_t done, uint64_t total)
{
	struct copying *k = arg;
	uint64_t now = now_ns();

	if (!k->tty || now - k->start < 1000000000 ||
		now - k->shown < 200000000)
		return 0;
	k->shown = now;
	fprintf(stderr, "\r\033[Kthaw: writing %s ... %llu%%", k->v->out,
		(unsigned long long)(total ? done * 100 / total : 0));
	(void)fflush(stderr);
	return 0;
}

static int copy(void *arg, msgpack_packer *out, struct err *e)
{
	struct copying *k = arg;
	struct snap *s[SNAP_MAX_CHAIN + 1];
	struct snap_written w;
	char uuid[SNAP_UUID_STR];
	int rc = snap_files_open(&k->chain, s, e);

	if (rc)
		return rc;
	if (k->v->memory)
		rc = snap_export_memory(s[0], k->pub.fd, progress, k, e);
	else
		rc = snap_rewrite(s[0], k->pub.fd, &k->o, &w, e);
	if (k->shown)
		fprintf(stderr, "\r\033[K");
	if (!rc && k->v->memory) {
		(void)msgpack_pack_map(out, 2);
		mp_key_u64(out, "bytes", snap_memory_size(s[0]));
		mp_key_u64(out, "files", k->chain.n);
	}
	snap_close_chain(s, k->chain.n);
	if (rc || k->v->memory)
		return rc;
	snap_uuid_str(&w.uuid, uuid);
	(void)msgpack_pack_map(out, 5);
	mp_key_str(out, "uuid", uuid);
	mp_key_u64(out, "bytes", w.file_bytes);
	mp_key_u64(out, "pages", w.pages_present);
	mp_key_u64(out, "zero", w.pages_zero);
	mp_key_u64(out, "files", !k->o.keep_diff ? k->chain.n : 1);
	return 0;
}

/* Replacing a file that the result still needs, or is made from, would lose
 * what a crash in between could not bring back. */
static bool is_in_chain(const struct copying *k, const char *path)
{
	struct stat out, st;

	if (stat(path, &out))
		return false;
	for (unsigned i = 0; i < k->chain.n; i++) {
		if (!fstat(k->chain.file[i].fd, &st) &&
			st.st_dev == out.st_dev && st.st_ino == out.st_ino)
			return true;
	}
	return false;
}

static int begin(struct copying *k, int dirfd, struct err *e)
{
	const char *path = k->v->out;
	const char *slash = strrchr(path, '/');

	if (is_in_chain(k, path))
		return err_set(e, -EINVAL,
			"%s is one of the files it would be made from; give "
			"the result another name",
			path);
	return publish_begin(
		&k->pub, dirfd, slash ? slash + 1 : path, k->v->force, e);
}

static int open_dir(const char *path, struct err *e)
{
	const char *slash = strrchr(path, '/');
	char dir[PATH_MAX];
	int fd;

	(void)snprintf(dir, sizeof(dir), "%.*s",
		slash ? (int)(slash - path) + 1 : 1, slash ? path : ".");
	fd = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
	return fd < 0 ? err_set(e, -errno, "%s: %s", dir, strerror(errno)) : fd;
}

static int print(
	struct cli *c, const struct merge_values *v, const msgpack_object *o)
{
	char size[16], uuid[TEXT_MAX];

	if (c->json)
		return json_print(c, o);
	if (v->memory)
		fprintf(c->out, "%s: %s of guest memory\n", v->out,
			fmt_size(thaw_get_u64(o, "bytes", 0), size));
	else
		fprintf(c->out, "%s: %s, uuid %s\n", v->out,
			fmt_size(thaw_get_u64(o, "bytes", 0), size),
			get_text(o, "uuid", uuid));
	return EXIT_DONE;
}

static int write_out(struct copying *k, struct offline_answer *a, struct err *e)
{
	int rc, dirfd = open_dir(k->v->out, e);

	if (dirfd < 0)
		return dirfd;
	k->pub.fd = -1;
	rc = begin(k, dirfd, e);
	if (!rc)
		rc = offline_run(copy, k, a, e);
	if (!rc) {
		rc = publish_commit(&k->pub, e);
		if (rc)
			offline_free(a);
	}
	publish_abort(&k->pub);
	(void)close(dirfd);
	return rc;
}

static int run_copy(struct cli *c, const struct merge_values *v,
	const char *tip, bool merge)
{
	struct copying k = {.c = c,
		.v = v,
		.pub = {.sweep = true},
		.start = now_ns(),
		.tty = isatty(STDERR_FILENO) != 0};
	struct offline_answer a;
	struct err e = {0};
	int rc;

	k.o = (struct snap_rewrite_opts){.keep_diff = !merge,
		.zstd_level = (int)v->zstd,
		.threads = SNAP_LOAD_THREADS,
		.progress = progress,
		.arg = &k};
	rc = file_chain_open(tip, c->arg, c->nargs, &k.chain, &e);
	if (!rc && k.chain.missing.code) {
		rc = k.chain.missing.code;
		e = k.chain.missing;
	}
	if (!rc)
		rc = write_out(&k, &a, &e);
	file_chain_close(&k.chain);
	if (rc)
		return cli_fail(c, offline_exit(rc), "%s", e.msg);
	rc = print(c, v, &a.msg.data);
	offline_free(&a);
	return rc;
}

/* Of several files the one that no other of them builds on. */
static const char *find_tip(struct cli *c, struct err *e)
{
	AUTO_FREE struct snap_peeked *p = calloc(c->nargs, sizeof(*p));
	const char *tip = NULL;

	if (!p) {
		(void)err_set(e, -ENOMEM, "out of memory");
		return NULL;
	}
	for (unsigned i = 0; i < c->nargs; i++) {
		AUTO_FD fd = file_open(c->arg[i], e);
		struct err why = {0};

		if (fd < 0)
			return NULL;
		if (snap_peek(fd, &p[i], &why)) {
			(void)err_set(e, why.code, "%.200s: %.300s", c->arg[i],
				why.msg);
			return NULL;
		}
	}
	for (unsigned i = 0; i < c->nargs; i++) {
		bool parent = false;

		for (unsigned j = 0; j < c->nargs && !parent; j++)
			parent = p[j].diff &&
				 !memcmp(&p[j].parent_uuid, &p[i].uuid, 16);
		if (parent)
			continue;
		if (tip) {
			(void)err_set(e, -EINVAL,
				"%s and %s are not of one chain", tip,
				c->arg[i]);
			return NULL;
		}
		tip = c->arg[i];
	}
	if (!tip)
		(void)err_set(e, -EBADMSG, "the files build on each other");
	return tip;
}

static int check_opts(struct cli *c, const struct merge_values *v)
{
	if (!v->out)
		return cli_fail(c, EXIT_USAGE, "-o OUT is missing: where to?");
	if (v->raw && v->zstd)
		return cli_fail(
			c, EXIT_USAGE, "--raw and --zstd: one of them, please");
	if (v->memory && (v->raw || v->zstd))
		return cli_fail(c, EXIT_USAGE,
			"--memory writes a plain file: no --raw, no --zstd");
	if (v->zstd > SNAP_MAX_ZSTD)
		return cli_fail(c, EXIT_USAGE, "--zstd: 1 to %d are possible",
			SNAP_MAX_ZSTD);
	return EXIT_DONE;
}

static int run_merge(struct cli *c, void *values)
{
	const struct merge_values *v = values;
	struct err e = {0};
	const char *tip;
	int rc = check_opts(c, v);

	if (rc)
		return rc;
	tip = find_tip(c, &e);
	if (!tip)
		return cli_fail(c, offline_exit(e.code), "%s", e.msg);
	return run_copy(c, v, tip, true);
}

static int run_convert(struct cli *c, void *values)
{
	const struct merge_values *v = values;
	int rc = check_opts(c, v);

	return rc ? rc : run_copy(c, v, c->arg[0], v->memory);
}

/* clang-format off */
#define OUT_OPTS \
	{"output", 'o', OPT_STR, "OUT", offsetof(struct merge_values, out), \
		"the file to write"}, \
	{"force", 0, OPT_FLAG, NULL, offsetof(struct merge_values, force), \
		"replace OUT if it is there"}, \
	{"zstd", 0, OPT_COUNT, "LEVEL", offsetof(struct merge_values, zstd), \
		"compress memory, level 1 (fast) to 19"}
/* clang-format on */
static const struct opt merge_opts[] = {OUT_OPTS, OPT_END};
static const struct opt convert_opts[] = {OUT_OPTS,
	{"raw", 0, OPT_FLAG, NULL, offsetof(struct merge_values, raw),
		"not compressed (the default)"},
	{"memory", 0, OPT_FLAG, NULL, offsetof(struct merge_values, memory),
		"only guest memory, as a plain sparse file for a handler of "
		"page faults (restore --pager)"},
	OPT_END};

const struct command merge_command = {"merge", "FILE...",
	"make one full snapshot of a chain",
	"A diff and all that it builds on become one file with a uuid of its "
	"own. Parents that are not given are looked for where the diff says "
	"and beside it.",
	merge_opts, sizeof(struct merge_values), 1, 255, CMD_JSON, run_merge};
const struct command convert_command = {"convert", "FILE",
	"write a snapshot anew",
	"The result has a uuid of its own; a diff stays one, of the same "
	"parent. With --memory the result holds what is in guest memory, of a "
	"diff through all that it builds on.",
	convert_opts, sizeof(struct merge_values), 1, 1, CMD_JSON, run_convert};
