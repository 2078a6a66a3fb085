/* What commands share: errors, connecting, calling. */
#include "api/cli/cli.h"
#include "core/kvm.h"

#include <errno.h>
#include <stdarg.h>
#include <string.h>
#include <sys/types.h>

int cli_fail(const struct cli *c, int exit_code, const char *fmt, ...)
{
	char line[1200];
	va_list ap;

	va_start(ap, fmt);
	(void)vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	clean_text(line);
	(void)fflush(stdout);
	fprintf(stderr, "thaw: %s%s%s\n", c->cmd ? c->cmd->name : "",
		c->cmd ? ": " : "", line);
	return exit_code;
}

/* Is it the host's lack, and not a missing feature of thaw? */
static bool kvm_usable(void)
{
	struct kvm_host h;

	if (kvm_open("/dev/kvm", &h, NULL))
		return false;
	kvm_close(&h);
	return true;
}

static int exit_of(const struct thaw_error *e)
{
	switch (e->code) {
	case THAW_OK:
		return EXIT_DONE;
	case THAW_NOT_FOUND:
		return EXIT_NOT_FOUND;
	case THAW_CORRUPT:
		return EXIT_CORRUPT;
	case THAW_DENIED:
		return EXIT_HOST;
	case THAW_UNSUPPORTED:
		return !strcmp(e->detail, "host") || !kvm_usable()
			       ? EXIT_HOST
			       : EXIT_FAILED;
	case THAW_INVALID:
	case THAW_EXISTS:
	case THAW_BUSY:
	case THAW_TIMEOUT:
	case THAW_EXHAUSTED:
	case THAW_INTERNAL:
	case THAW_CONNECT:
	case THAW_CLOSED:
	case THAW_PROTOCOL:
	case THAW_INTERRUPTED:
	case THAW_NCODES_:
	default:
		return EXIT_FAILED;
	}
}

int cli_error(const struct cli *c, const struct thaw_error *e)
{
	return cli_fail(c, exit_of(e), "%s", e->message);
}

int cli_connect(struct cli *c)
{
	struct thaw_error e;
	char path[256];
	pid_t pid;
	int rc;

	if (c->t)
		return EXIT_DONE;
	rc = thaw_connect(c->socket, &c->t, &e);
	if (rc == THAW_DENIED)
		return cli_fail(c, EXIT_HOST,
			"%s; ask for access to the socket, or start a daemon "
			"of your own: set THAW_SOCKET",
			e.message);
	if (rc != THAW_CONNECT)
		return rc ? cli_error(c, &e) : EXIT_DONE;
	if (c->socket)
		(void)snprintf(path, sizeof(path), "%s", c->socket);
	else if (!thaw_default_socket(path, sizeof(path)))
		return cli_error(c, &e);
	rc = daemon_start(c, path, NULL, &c->t, &pid);
	if (!rc && pid > 0)
		fprintf(stderr,
			"thaw: no daemon on %s; started a private one (pid %d, "
			"ends after 60 s without machines, templates in use "
			"and clients)\n",
			path, (int)pid);
	return rc;
}

static void show_progress(const char *what, int seconds)
{
	fprintf(stderr, "\r\033[Kthaw: %s ... %d s", what, seconds);
	(void)fflush(stderr);
}

static void clear_progress(void)
{
	fprintf(stderr, "\r\033[K");
	(void)fflush(stderr);
}

int cli_call(struct cli *c, const char *what, struct thaw_result *r)
{
	bool tty = what && isatty(STDERR_FILENO);
	struct thaw_error e;
	uint32_t id, got;
	int rc, seconds = 0;

	*r = (struct thaw_result){0};
	rc = thaw_send(c->t, &id, &e);
	while (!rc) {
		rc = thaw_next(c->t, tty ? 1000 : -1, &got, r, &e);
		if (got == id || (rc && !got && rc != THAW_TIMEOUT))
			break;
		/* A timeout without an answer is our own second; else it is the
		 * answer to something sent before, which nobody waits for. */
		if (!got)
			show_progress(what, ++seconds);
		thaw_result_free(r);
		rc = THAW_OK;
	}
	if (seconds)
		clear_progress();
	return rc ? cli_error(c, &e) : EXIT_DONE;
}

int cli_call1(struct cli *c, const char *method, const char *key,
	const char *value, struct thaw_result *r)
{
	msgpack_packer *p = thaw_request(c->t, method, key ? 1 : 0);

	if (key)
		thaw_pack_str(p, key, value);
	return cli_call(c, method, r);
}

int cli_show(struct cli *c, const char *method, const char *key)
{
	struct thaw_result r;
	int rc = cli_call1(c, method, key, c->arg[0], &r);

	if (rc)
		return rc;
	if (c->json)
		rc = json_print(c, r.value);
	else
		print_map(c->out, r.value, 0);
	thaw_result_free(&r);
	return rc;
}

int cli_source(const char *text, char *out, size_t size)
{
	int n;

	if (!cli_is_remote(text))
		return cli_abspath(text, out, size);
	n = snprintf(out, size, "%s", text);
	return n < 0 || (size_t)n >= size ? -ENAMETOOLONG : 0;
}

bool cli_is_remote(const char *text)
{
	return strncmp(text, "tcp://", 6) == 0;
}

int cli_abspath(const char *path, char *out, size_t size)
{
	char cwd[4096];
	int n;

	if (*path == '/') {
		n = snprintf(out, size, "%s", path);
	} else {
		if (!getcwd(cwd, sizeof(cwd)))
			return -errno;
		n = snprintf(out, size, "%s/%s", cwd, path);
	}
	return n < 0 || (size_t)n >= size ? -ENAMETOOLONG : 0;
}
