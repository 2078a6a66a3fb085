/* thaw invoke: one request, its answer on stdout as it is. */
#include "api/cli/cli.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

/* The API's limit; the daemon refuses more. */
#define MAX_PAYLOAD (6 * MIB)

struct invoke_values {
	const char *data, *file, *mode;
	uint64_t timeout_ms;
	bool times, pooled, fresh;
};

#define AT(m) offsetof(struct invoke_values, m)
static const struct opt invoke_opts[] = {
	{"data", 'd', OPT_STR, "TEXT", AT(data), "the request"},
	{"file", 'f', OPT_STR, "FILE", AT(file),
		"read the request from FILE; - is stdin"},
	{"timeout", 't', OPT_MS, "SECONDS", AT(timeout_ms),
		"until the answer is there (default 30)"},
	{"times", 0, OPT_FLAG, NULL, AT(times),
		"print what each step took, on stderr"},
	{"pooled", 0, OPT_FLAG, NULL, AT(pooled),
		"only a clone made ahead of time"},
	{"fresh", 0, OPT_FLAG, NULL, AT(fresh), "only a new clone"},
	OPT_END,
};

struct payload {
	uint8_t *data; /* owned */
	size_t len;
};

static int append(struct payload *p, const void *data, size_t len)
{
	if (len > MAX_PAYLOAD - p->len)
		return -E2BIG;
	memcpy(p->data + p->len, data, len);
	p->len += len;
	return 0;
}

static int read_file(struct cli *c, const char *path, struct payload *p)
{
	bool in = strcmp(path, "-") == 0;
	int fd = in ? STDIN_FILENO : open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = -1;
	int rc = EXIT_DONE;

	if (fd < 0)
		return cli_fail(c,
			errno == ENOENT ? EXIT_NOT_FOUND : EXIT_FAILED,
			"%s: %s", path, strerror(errno));
	while (p->len <= MAX_PAYLOAD) {
		n = read(fd, p->data + p->len, MAX_PAYLOAD + 1 - p->len);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			break;
		p->len += (size_t)n;
	}
	if (n < 0)
		rc = cli_fail(c, EXIT_FAILED, "%s: %s", path, strerror(errno));
	else if (p->len > MAX_PAYLOAD)
		rc = cli_fail(c, EXIT_FAILED,
			"%s is larger than the 6 MiB that a request may have",
			path);
	if (!in)
		(void)close(fd);
	return rc;
}

/* The request: --data, then the file. "-" as the last argument is stdin. */
static int gather(
	struct cli *c, const struct invoke_values *v, struct payload *p)
{
	const char *file = v->file;

	p->data = malloc(MAX_PAYLOAD + 1);
	if (!p->data)
		return cli_fail(c, EXIT_FAILED, "out of memory");
	if (c->nargs == 2 && (file || strcmp(c->arg[1], "-") != 0))
		return cli_fail(c, EXIT_USAGE,
			"the request comes from --data TEXT, --file FILE or -");
	if (c->nargs == 2)
		file = "-";
	if (v->data && append(p, v->data, strlen(v->data)))
		return cli_fail(c, EXIT_FAILED, "--data is too long");
	/* A function's name and its data: --data sha256 --file X. */
	if (v->data && file && append(p, "\n", 1))
		return cli_fail(c, EXIT_FAILED, "--data is too long");
	return file ? read_file(c, file, p) : EXIT_DONE;
}

static const char *mode_of(const struct invoke_values *v)
{
	if (v->pooled)
		return "pooled";
	return v->fresh ? "fresh" : NULL;
}

static int call(struct cli *c, const struct invoke_values *v,
	const struct payload *p, struct thaw_result *r, struct thaw_error *e)
{
	const char *mode = mode_of(v);
	uint32_t n = (uint32_t)(2 + (v->timeout_ms != 0) + (mode != NULL));
	msgpack_packer *pk = thaw_request(c->t, "invoke", n);
	int rc;

	mp_key_str(pk, "template", c->arg[0]);
	thaw_pack_data(pk, "payload", p->data, p->len);
	if (v->timeout_ms)
		mp_key_u64(pk, "timeout_ms", v->timeout_ms);
	if (mode)
		mp_key_str(pk, "mode", mode);
	rc = thaw_call(c->t, -1, r, e);
	if (rc != THAW_NOT_FOUND || mode)
		return rc;
	/* No template of that name: a machine. */
	rc = thaw_machine_invoke(c->t, c->arg[0], p->data, p->len,
		(uint32_t)v->timeout_ms, r, e);
	if (rc == THAW_NOT_FOUND)
		(void)snprintf(e->message, sizeof(e->message),
			"no template and no machine named \"%s\"; see thaw "
			"template ls and thaw ps",
			c->arg[0]);
	return rc;
}

static void print_times(const msgpack_object *result)
{
	const msgpack_object *us = thaw_get(result, "us");

	if (!us || us->type != MSGPACK_OBJECT_MAP)
		return;
	fprintf(stderr, "thaw: times:");
	for (uint32_t i = 0; i < us->via.map.size; i++) {
		const msgpack_object_kv *kv = &us->via.map.ptr[i];
		char buf[16];

		if (kv->key.type != MSGPACK_OBJECT_STR ||
			kv->val.type != MSGPACK_OBJECT_POSITIVE_INTEGER)
			continue;
		fprintf(stderr, "  %.*s %s", (int)kv->key.via.str.size,
			kv->key.via.str.ptr,
			fmt_us((double)kv->val.via.u64, buf));
	}
	fputc('\n', stderr);
}

static int run_invoke(struct cli *c, void *values)
{
	const struct invoke_values *v = values;
	struct thaw_result r = {0};
	struct payload p = {0};
	struct thaw_error e;
	const void *data = NULL;
	size_t len = 0;
	int rc;

	if (v->pooled && v->fresh)
		return cli_fail(c, EXIT_USAGE,
			"--pooled and --fresh exclude each other");
	if (v->timeout_ms > UINT32_MAX)
		return cli_fail(c, EXIT_USAGE, "--timeout: out of range");
	rc = gather(c, v, &p);
	if (!rc && call(c, v, &p, &r, &e))
		rc = cli_error(c, &e);
	free(p.data);
	if (!rc && thaw_get_data(r.value, "payload", &data, &len))
		rc = cli_fail(c, EXIT_FAILED, "the answer has no payload");
	else if (!rc && fwrite(data, 1, len, c->out) != len)
		rc = cli_fail(c, EXIT_FAILED, "stdout: %s", strerror(errno));
	/* On a terminal the prompt starts on a line of its own. */
	if (!rc && len && ((const char *)data)[len - 1] != '\n' &&
		isatty(STDOUT_FILENO))
		fputc('\n', c->out);
	if (!rc && v->times)
		print_times(r.value);
	thaw_result_free(&r);
	return rc;
}

const struct command invoke_command = {"invoke", "TEMPLATE|ID [-]",
	"hand a clone (or a running machine) one request",
	"With a template: clone it, hand the clone the request, print the "
	"answer, discard the clone. With a machine's id: that machine answers "
	"and lives on. The answer is written to stdout as it is. The "
	"built-in guest takes a function's name and its input: --data 'echo "
	"hello', or --data wordcount --file README.md (the file follows on a "
	"new line).",
	invoke_opts, sizeof(struct invoke_values), 1, 2, CMD_DAEMON,
	run_invoke};
