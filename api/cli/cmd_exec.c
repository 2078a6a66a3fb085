/* thaw exec, thaw cp: commands and files in a Linux guest. */
#include "api/cli/guest.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#define AGENT_MS 1000
#define PIECE    (1 * MIB)

struct exec_values {
	bool in;
	const char *cwd;
	struct opt_labels env;
	uint64_t timeout_ms;
};

#define AT(m) offsetof(struct exec_values, m)
static const struct opt exec_opts[] = {
	{"stdin", 'i', OPT_FLAG, NULL, AT(in), "hand our stdin to the command"},
	{"env", 'e', OPT_LABEL, "KEY=VALUE", AT(env),
		"for its environment, may be repeated"},
	{"cwd", 0, OPT_STR, "DIR", AT(cwd), "where it starts (default /)"},
	{"timeout", 't', OPT_MS, "SECONDS", AT(timeout_ms),
		"kill it after so long"},
	OPT_END,
};

static int run_exec(struct cli *c, void *values)
{
	const struct exec_values *v = values;
	const struct guest_exec x = {.argv = &c->arg[1],
		.nargs = c->nargs - 1,
		.env = &v->env,
		.cwd = v->cwd,
		.timeout_ms = v->timeout_ms,
		.in = v->in};
	struct thaw *g;
	int code = 0, rc = guest_open(c, c->arg[0], AGENT_MS, &g);

	if (rc)
		return rc;
	rc = guest_exec(c, g, &x, &code);
	thaw_close(g);
	return rc ? rc : code;
}

/* ---- cp ---- */

static int bad_file(struct cli *c, const char *path)
{
	return cli_fail(c, errno == ENOENT ? EXIT_NOT_FOUND : EXIT_FAILED,
		"%s: %s", path, strerror(errno));
}

/* A file in the guest; in a directory of it by this name. */
struct put_to {
	const char *path, *name;
};

static int put_piece(struct cli *c, struct thaw *g, const struct put_to *to,
	const struct stat *st, const struct iovec *piece, uint64_t off)
{
	msgpack_packer *p = thaw_request(g, "put", 6);

	mp_key_str(p, "path", to->path);
	mp_key_str(p, "name", to->name);
	thaw_pack_data(p, "data", piece->iov_base, piece->iov_len);
	mp_key_u64(p, "offset", off);
	mp_key_u64(p, "mode", st->st_mode & 07777);
	mp_key_bool(p, "eof", piece->iov_len < PIECE);
	return guest_call(c, g, NULL);
}

static int put_file(
	struct cli *c, struct thaw *g, const char *from, const char *to)
{
	AUTO_FREE char *buf = malloc(PIECE);
	AUTO_FD fd = open(from, O_RDONLY | O_CLOEXEC);
	struct iovec piece = {.iov_base = buf, .iov_len = PIECE};
	const char *slash = strrchr(from, '/');
	const struct put_to dest = {to, slash ? slash + 1 : from};
	struct stat st;
	uint64_t off = 0;
	int rc = EXIT_DONE;

	if (fd < 0 || fstat(fd, &st))
		return bad_file(c, from);
	if (!S_ISREG(st.st_mode))
		return cli_fail(
			c, EXIT_FAILED, "%s is not a regular file", from);
	if (!buf)
		return cli_fail(c, EXIT_FAILED, "out of memory");
	/* A short piece is the last one, so that the agent need not be told of
	 * the end by one of its own. */
	while (!rc && piece.iov_len == PIECE) {
		piece.iov_len = 0;
		while (piece.iov_len < PIECE) {
			ssize_t n = read(
				fd, buf + piece.iov_len, PIECE - piece.iov_len);

			if (n < 0)
				return bad_file(c, from);
			if (n == 0)
				break;
			piece.iov_len += (size_t)n;
		}
		rc = put_piece(c, g, &dest, &st, &piece, off);
		off += piece.iov_len;
	}
	return rc;
}

static int get_piece(struct cli *c, struct thaw *g, const char *from,
	uint64_t off, struct thaw_result *r)
{
	msgpack_packer *p = thaw_request(g, "get", 3);

	mp_key_str(p, "path", from);
	mp_key_u64(p, "offset", off);
	mp_key_u64(p, "length", PIECE);
	return guest_call(c, g, r);
}

static int get_file(
	struct cli *c, struct thaw *g, const char *from, const char *to)
{
	AUTO_FD fd = -1;
	uint64_t off = 0;
	size_t n = PIECE;
	int rc = EXIT_DONE;

	while (!rc && n == PIECE) {
		struct thaw_result r;
		const void *data;

		rc = get_piece(c, g, from, off, &r);
		if (!rc && thaw_get_data(r.value, "data", &data, &n))
			rc = cli_fail(c, EXIT_CORRUPT,
				"the agent's answer has "
				"no data");
		if (!rc && fd < 0) {
			fd = open(to, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC,
				(mode_t)thaw_get_u64(r.value, "mode", 0644) &
					0777);
			if (fd < 0)
				rc = bad_file(c, to);
		}
		if (!rc && write_full(fd, data, n))
			rc = cli_fail(c, EXIT_FAILED, "writing %s", to);
		off += n;
		if (!rc)
			thaw_result_free(&r);
	}
	return rc;
}

/* "ID:/PATH" -> its path, with the id in id[]; NULL: a file of the host. */
static const char *in_guest(const char *arg, char id[TEXT_MAX])
{
	const char *colon = strchr(arg, ':');
	const char *slash = strchr(arg, '/');

	if (!colon || (slash && slash < colon) || colon - arg >= TEXT_MAX)
		return NULL;
	memcpy(id, arg, (size_t)(colon - arg));
	id[colon - arg] = '\0';
	return colon + 1;
}

/* The second argument, or the file of that name in it when it is a directory
 * of the host. */
static int into_directory(
	struct cli *c, const char *from, char *out, size_t size)
{
	const char *name = strrchr(from, '/'), *to = c->arg[1];
	struct stat st;
	int n;

	name = name ? name + 1 : from;
	if (!stat(to, &st) && S_ISDIR(st.st_mode))
		n = snprintf(out, size, "%s/%s", to, name);
	else
		n = snprintf(out, size, "%s", to);
	if (n < 0 || (size_t)n >= size)
		return cli_fail(c, EXIT_USAGE, "%s: path too long", to);
	return EXIT_DONE;
}

static int run_cp(struct cli *c, void *values)
{
	char from_id[TEXT_MAX], to_id[TEXT_MAX];
	const char *from = in_guest(c->arg[0], from_id);
	const char *to = in_guest(c->arg[1], to_id);
	char file[4096];
	struct thaw *g = NULL;
	int rc;

	(void)values;
	if (!from == !to)
		return cli_fail(c, EXIT_USAGE,
			"one of the two is ID:PATH, a file in the guest");
	rc = into_directory(c, from ? from : c->arg[0], file, sizeof(file));
	if (!rc)
		rc = guest_open(c, from ? from_id : to_id, AGENT_MS, &g);
	if (rc)
		return rc;
	rc = from ? get_file(c, g, from, file) : put_file(c, g, c->arg[0], to);
	thaw_close(g);
	return rc;
}

const struct command exec_command = {"exec", "ID -- CMD [ARG...]",
	"run a command in a Linux guest",
	"Its output comes on our stdout and stderr, its exit code is ours (128 "
	"and the number when a signal ended it). Ctrl-C goes to the command. "
	"The guest needs thaw-agent: docs/linux.md.",
	exec_opts, sizeof(struct exec_values), 2, 255, CMD_DAEMON, run_exec};
const struct command cp_command = {"cp", "FILE ID:PATH | ID:PATH FILE",
	"copy a file into a Linux guest or out of it",
	"With its mode; into a directory, on either side, by its name. A file "
	"in the guest appears when it is complete.",
	NULL, 0, 2, 2, CMD_DAEMON, run_cp};
