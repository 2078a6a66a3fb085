#include "core/guest/linux/agent.h"
#include "core/guest/linux/drivers.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <linux/vm_sockets.h>

#define HANDLER "/etc/thaw/handler"
#define START   "/etc/thaw/start"
/* Until vsock is there. */
#define LISTEN_RETRY_MS 100

static const char *const drivers[] = {TA_DRIVERS};
/* As a service: the system sees to the rest. */
static const char *const service_drivers[] = {
	"vmw_vsock_virtio_transport", "pvpanic_mmio"};

struct options {
	const char *handler, *unix_path;
	uint32_t port;
};

static int usage(FILE *f, int code)
{
	(void)fprintf(f,
		"usage: thaw-agent [--handler PROGRAM] [--port N] [--unix "
		"PATH]\n"
		"thaw's agent in Linux guests. As process 1 it is the guest's "
		"init and is\ntold all by the kernel's command line.\n"
		"  --handler PROGRAM  answers invokes (" HANDLER " if that "
		"exists)\n"
		"  --port N           vsock port to listen on (%d)\n"
		"  --unix PATH        listen on a unix socket instead\n"
		"  --version\n",
		AGENT_VSOCK_PORT);
	return code;
}

static int parse(struct options *o, int argc, char **argv)
{
	for (int i = 1; i < argc; i += 2) {
		const char *a = argv[i], *v = i + 1 < argc ? argv[i + 1] : NULL;
		char *end = NULL;

		if (!strcmp(a, "--help"))
			return usage(stdout, 0);
		if (!strcmp(a, "--version")) {
			(void)puts("thaw-agent " TA_VERSION);
			return 0;
		}
		if (!v)
			return usage(stderr, 2);
		if (!strcmp(a, "--handler"))
			o->handler = v;
		else if (!strcmp(a, "--unix"))
			o->unix_path = v;
		else if (!strcmp(a, "--port"))
			o->port = (uint32_t)strtoul(v, &end, 10);
		else
			return usage(stderr, 2);
		if (end && (*end || !o->port))
			return usage(stderr, 2);
	}
	return -1;
}

/* ---- sockets ---- */

static int bind_listen(int fd, const struct sockaddr *sa, socklen_t len)
{
	if (fd < 0 || bind(fd, sa, len) || listen(fd, TA_CONNS)) {
		int r = -errno;

		if (fd >= 0)
			(void)close(fd);
		return r;
	}
	return fd;
}

static int listen_vsock(uint32_t port)
{
	const struct sockaddr_vm sa = {.svm_family = AF_VSOCK,
		.svm_cid = VMADDR_CID_ANY,
		.svm_port = port};
	int fd =
		socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	return bind_listen(fd, (const struct sockaddr *)&sa, sizeof(sa));
}

static int listen_unix(const char *path)
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	int fd;

	if (strlen(path) >= sizeof(sa.sun_path))
		return -ENAMETOOLONG;
	memcpy(sa.sun_path, path, strlen(path) + 1);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	return bind_listen(fd, (const struct sockaddr *)&sa, sizeof(sa));
}

/* vsock may come late: its driver may be a module that somebody else loads. */
static int serve(struct ta *t, const struct options *o, struct err *e)
{
	bool told = false;
	int r = 0;

	while (!t->done && r >= 0) {
		if (t->listen < 0) {
			r = o->unix_path ? listen_unix(o->unix_path)
					 : listen_vsock(o->port);
			if (r >= 0 && (r = ta_listen(t, r)))
				return err_sys(e, r, "watching the listener");
			if (!r)
				continue;
			if (o->unix_path)
				return err_sys(e, r, "%s", o->unix_path);
			else if (!told)
				(void)fprintf(stderr,
					"thaw-agent: no vsock yet: %s\n",
					strerror(-r));
			told = true;
		}
		r = ta_step(t, t->listen < 0 ? LISTEN_RETRY_MS : -1);
	}
	return r < 0 ? err_sys(e, r, "waiting for events") : 0;
}

/* ---- process 1 ---- */

static void read_line(const char *path, char *out, size_t size)
{
	AUTO_FD fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? 0 : read(fd, out, size - 1);

	out[n > 0 ? n : 0] = '\0';
	out[strcspn(out, "\n")] = '\0';
}

static void load_modules(const struct ta_boot *b)
{
	char names[sizeof(b->modules)], *save = NULL;

	(void)ta_modules_load("/lib/modules", drivers, ARRAY_SIZE(drivers));
	memcpy(names, b->modules, sizeof(names));
	for (char *n = strtok_r(names, ",", &save); n;
		n = strtok_r(NULL, ",", &save)) {
		const char *one = n;

		(void)ta_modules_load("/lib/modules", &one, 1);
	}
}

static void init_prepare(struct ta *t, struct ta_boot *b, struct err *e)
{
	char cmdline[4096], *argv[] = {b->init, NULL};

	(void)setenv("PATH",
		"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		1);
	(void)setenv("HOME", "/root", 1);
	(void)setenv("TERM", "linux", 0);
	(void)umask(022);
	ta_init_mounts();
	read_line("/proc/cmdline", cmdline, sizeof(cmdline));
	ta_boot_parse(b, cmdline);
	load_modules(b);
	if (b->root[0] && ta_init_switch_root(b, e))
		return;
	if (b->init[0]) {
		(void)execv(b->init, argv);
		err_sys(e, -errno, "thaw.init=%s", b->init);
		return;
	}
	if (ta_netif_up("lo"))
		(void)fprintf(stderr, "thaw-agent: no loopback interface\n");
	read_line("/etc/hostname", t->hostname, sizeof(t->hostname));
	if (t->hostname[0])
		(void)t->sys->set_hostname(t->hostname);
}

/* The main command: the machine ends with it. */
static void init_start(struct ta *t, const struct ta_boot *b)
{
	char path[256];
	char *argv[] = {path, NULL};
	const struct ta_spawn s = {.argv = argv, .out_fd = STDERR_FILENO};
	struct err e = {0};
	int none[3];

	if (!b->start[0] && access(START, X_OK))
		return;
	(void)snprintf(
		path, sizeof(path), "%s", b->start[0] ? b->start : START);
	t->main = ta_spawn(&s, none, &e);
	if (t->main > 0)
		return;
	(void)fprintf(stderr, "thaw-agent: %s\n", e.msg);
	t->main = 0;
	t->done = true;
}

int main(int argc, char **argv)
{
	struct ta t = {.sys = &ta_sys_linux, .root = "", .init = getpid() == 1};
	struct options o = {.port = AGENT_VSOCK_PORT};
	struct ta_boot boot = {0};
	struct err e = {0};
	int r = t.init ? -1 : parse(&o, argc, argv);

	if (r >= 0)
		return r;
	if (t.init)
		init_prepare(&t, &boot, &e);
	else if (!o.unix_path && !geteuid())
		(void)ta_modules_load("/lib/modules", service_drivers,
			ARRAY_SIZE(service_drivers));
	if (!e.code)
		r = ta_init(&t, &e);
	if (boot.handler[0])
		o.handler = boot.handler;
	if (!o.handler && !access(HANDLER, X_OK))
		o.handler = HANDLER;
	if (!e.code && o.handler)
		ta_handler_start(&t, o.handler);
	if (!e.code && t.init)
		init_start(&t, &boot);
	if (!e.code)
		r = serve(&t, &o, &e);
	if (e.code)
		(void)fprintf(stderr, "thaw-agent: %s\n", e.msg);
	if (t.init)
		ta_init_poweroff();
	ta_fini(&t);
	return r ? 1 : 0;
}
