#include "api/client/client.h"

#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

static const char *const code_names[] = {"ok", "invalid", "not_found", "exists",
	"busy", "denied", "unsupported", "corrupt", "timeout", "exhausted",
	"internal", "connect", "closed", "protocol", "interrupted"};
_Static_assert(ARRAY_SIZE(code_names) == THAW_NCODES_, "a name for every code");

const char *thaw_code_name(enum thaw_code code)
{
	if ((unsigned)code >= THAW_NCODES_)
		return "internal";
	return code_names[code];
}

static void error_set(struct thaw_error *e, enum thaw_code code,
	const char *fmt, va_list ap) __attribute__((format(printf, 3, 0)));

static void error_set(
	struct thaw_error *e, enum thaw_code code, const char *fmt, va_list ap)
{
	e->code = code;
	e->detail[0] = '\0';
	(void)vsnprintf(e->message, sizeof(e->message), fmt, ap);
}

int client_error(
	struct thaw_error *e, enum thaw_code code, const char *fmt, ...)
{
	va_list ap;

	if (!e)
		return (int)code;
	va_start(ap, fmt);
	error_set(e, code, fmt, ap);
	va_end(ap);
	return (int)code;
}

int client_break(struct thaw *t, struct thaw_error *e, enum thaw_code code,
	const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	error_set(&t->broken, code, fmt, ap);
	va_end(ap);
	if (e)
		*e = t->broken;
	return (int)code;
}

size_t thaw_default_socket(char *buf, size_t size)
{
	const char *path = getenv("THAW_SOCKET");
	const char *run = getenv("XDG_RUNTIME_DIR");
	int n;

	if (path && *path)
		n = snprintf(buf, size, "%s", path);
	else if (run && *run)
		n = snprintf(buf, size, "%s/thaw.sock", run);
	else
		n = snprintf(buf, size, "/run/thaw/thaw.sock");
	return n < 0 || (size_t)n >= size ? 0 : (size_t)n;
}

static int connect_socket(const char *path, int *fd, struct thaw_error *e)
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	size_t n;

	if (path) {
		n = strlen(path);
		if (n < sizeof(sa.sun_path))
			memcpy(sa.sun_path, path, n + 1);
	} else {
		n = thaw_default_socket(sa.sun_path, sizeof(sa.sun_path));
	}
	if (n == 0 || n >= sizeof(sa.sun_path))
		return client_error(e, THAW_INVALID,
			"socket path is empty or longer than %zu bytes",
			sizeof(sa.sun_path) - 1);
	*fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (*fd < 0)
		return client_error(
			e, THAW_INTERNAL, "socket: %s", strerror(errno));
	if (connect(*fd, (const struct sockaddr *)&sa, sizeof(sa)) == 0)
		return THAW_OK;
	/* The errno decides what the caller may do about it. */
	client_error(e, errno == EACCES ? THAW_DENIED : THAW_CONNECT, "%s: %s",
		sa.sun_path, strerror(errno));
	n = errno == EACCES ? THAW_DENIED : THAW_CONNECT;
	(void)close(*fd);
	return (int)n;
}

int thaw_connect(const char *path, struct thaw **out, struct thaw_error *e)
{
	int rc, fd = -1;

	*out = NULL;
	rc = connect_socket(path, &fd, e);
	if (rc)
		return rc;
	return client_new(fd, out, e);
}

int client_new(int fd, struct thaw **out, struct thaw_error *e)
{
	struct thaw *t = calloc(1, sizeof(*t));

	if (!t) {
		(void)close(fd);
		return client_error(e, THAW_INTERNAL, "out of memory");
	}
	t->fd = fd;
	t->tail = &t->head;
	msgpack_sbuffer_init(&t->out);
	msgpack_packer_init(&t->packer, &t->out, msgpack_sbuffer_write);
	*out = t;
	return THAW_OK;
}

void thaw_close(struct thaw *t)
{
	struct answer *a;

	if (!t)
		return;
	while ((a = t->head)) {
		t->head = a->next;
		msgpack_unpacked_destroy(&a->msg);
		free(a);
	}
	(void)close(t->fd);
	msgpack_sbuffer_destroy(&t->out);
	free(t->rx);
	free(t);
}

int thaw_fd(const struct thaw *t)
{
	return t->fd;
}

size_t thaw_buffered(const struct thaw *t)
{
	return t->nanswers;
}

void thaw_interrupt_on(struct thaw *t, const volatile sig_atomic_t *flag)
{
	t->interrupt = flag;
}

void thaw_on_notify(struct thaw *t, thaw_notify_fn *fn, void *arg)
{
	t->notify = fn;
	t->notify_arg = arg;
}

int client_poll(struct thaw *t, short events, uint64_t deadline, short *revents,
	struct thaw_error *e)
{
	struct pollfd p = {.fd = t->fd, .events = events};

	for (;;) {
		struct timespec ts, *wait = NULL;
		int n;

		if (t->interrupt && *t->interrupt)
			return client_error(e, THAW_INTERRUPTED, "interrupted");
		if (deadline) {
			uint64_t now = now_ns();
			uint64_t left = deadline > now ? deadline - now : 0;

			ts.tv_sec = (time_t)(left / 1000000000);
			ts.tv_nsec = (long)(left % 1000000000);
			wait = &ts;
		}
		n = ppoll(&p, 1, wait, NULL);
		if (n > 0) {
			*revents = p.revents;
			return THAW_OK;
		}
		if (n == 0)
			return client_error(e, THAW_TIMEOUT,
				"no answer from the daemon in time");
		if (errno != EINTR)
			return client_break(t, e, THAW_INTERNAL, "poll: %s",
				strerror(errno));
	}
}
