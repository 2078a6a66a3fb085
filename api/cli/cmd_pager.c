/* thaw pager: serve the snapshots of a directory to other hosts. */
#include "api/cli/cli.h"
#include "api/cli/serve.h"
#include "snapshot/remote_dial.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sys/socket.h>

#define STACK_BYTES (256 * KIB)
#define LOOKUP_NS   5000000000ULL

struct pager_values {
	const char *listen;
};

#define AT(m) offsetof(struct pager_values, m)
static const struct opt pager_opts[] = {
	{"listen", 0, OPT_STR, "HOST:PORT", AT(listen),
		"where to listen; port 0: any free one"},
	OPT_END,
};

struct server;
struct slot {
	struct server *s;
	pthread_t thread;
	int fd;          /* owned while busy */
	bool used, done; /* done: by the thread, atomic */
};
struct server {
	struct cli *c;
	struct serve_files files;
	int sock, sig, stop; /* owned */
	struct slot slot[SERVE_MAX_CONNS];
};

/* ---- connections ---- */

static void *conn_main(void *arg)
{
	static const struct serve_limits limits = {
		SERVE_IDLE_MS, SERVE_STALL_MS};
	struct slot *k = arg;

	serve_conn(&k->s->files, k->fd, k->s->stop, &limits);
	(void)shutdown(k->fd, SHUT_RDWR);
	__atomic_store_n(&k->done, true, __ATOMIC_RELEASE);
	return NULL;
}

static void end_slot(struct slot *k)
{
	if (!k->used)
		return;
	(void)pthread_join(k->thread, NULL);
	(void)close(k->fd);
	k->used = false;
}

static struct slot *free_slot(struct server *s)
{
	struct slot *found = NULL;

	for (unsigned i = 0; i < SERVE_MAX_CONNS; i++) {
		struct slot *k = &s->slot[i];

		if (k->used && __atomic_load_n(&k->done, __ATOMIC_ACQUIRE))
			end_slot(k);
		if (!k->used && !found)
			found = k;
	}
	return found;
}

static void accept_one(struct server *s)
{
	int fd = accept4(s->sock, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	struct slot *k = fd < 0 ? NULL : free_slot(s);
	const int one = 1;
	pthread_attr_t a;

	if (!k) {
		if (fd >= 0)
			(void)close(fd);
		else if (errno == EMFILE || errno == ENFILE)
			(void)poll(NULL, 0, 100);
		return;
	}
	(void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	(void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof(one));
	*k = (struct slot){.s = s, .fd = fd};
	(void)pthread_attr_init(&a);
	(void)pthread_attr_setstacksize(&a, STACK_BYTES);
	k->used = pthread_create(&k->thread, &a, conn_main, k) == 0;
	(void)pthread_attr_destroy(&a);
	if (!k->used)
		(void)close(fd);
}

/* ---- start and end ---- */

static int bind_one(const struct remote_addr *a)
{
	const int one = 1;
	AUTO_FD fd = socket(
		a->sa.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0)
		return -errno;
	(void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(fd, (const struct sockaddr *)&a->sa, a->len) ||
		listen(fd, 128))
		return -errno;
	return take_fd(&fd);
}

static int listen_at(struct server *s, const struct remote_name *at)
{
	struct remote_addr a[REMOTE_ADDRS];
	int r = remote_addrs(
		at->host, at->port, now_ns() + LOOKUP_NS, a, REMOTE_ADDRS);

	for (int i = 0, n = r; i < n; i++) {
		r = bind_one(&a[i]);
		if (r >= 0)
			break;
	}
	if (r < 0)
		return cli_fail(s->c, EXIT_FAILED, "%s:%s: %s", at->host,
			at->port, strerror(-r));
	s->sock = r;
	return EXIT_DONE;
}

/* Where it really listens, and how to ask for what there is. */
static void print_served(struct server *s)
{
	struct remote_addr a = {.len = sizeof(a.sa)};
	struct remote_name n = {.port = "0"};
	char text[REMOTE_URL_MAX];

	if (!getsockname(s->sock, (struct sockaddr *)&a.sa, &a.len))
		remote_addr_name(&a, &n);
	remote_peer(&n, text);
	fprintf(s->c->out, "listening at %s, snapshots: %u\n", text,
		s->files.n);
	for (unsigned i = 0; i < s->files.n; i++) {
		n.file = s->files.file[i]->is;
		remote_url(&n, text);
		fprintf(s->c->out, "%s %s\n", text, s->files.file[i]->name);
	}
	(void)fflush(s->c->out);
}

static int watch_signals(struct server *s)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGHUP);
	(void)pthread_sigmask(SIG_BLOCK, &set, NULL);
	s->sig = signalfd(-1, &set, SFD_CLOEXEC);
	s->stop = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (s->sig < 0 || s->stop < 0)
		return cli_fail(
			s->c, EXIT_FAILED, "descriptors: %s", strerror(errno));
	return EXIT_DONE;
}

static void serve(struct server *s)
{
	struct pollfd p[2] = {{.fd = s->sock, .events = POLLIN},
		{.fd = s->sig, .events = POLLIN}};

	for (;;) {
		if (poll(p, 2, -1) < 0 && errno != EINTR)
			return;
		if (p[1].revents)
			return;
		if (p[0].revents)
			accept_one(s);
	}
}

static void stop(struct server *s)
{
	uint64_t one = 1;

	if (s->stop >= 0)
		(void)!write(s->stop, &one, sizeof(one));
	for (unsigned i = 0; i < SERVE_MAX_CONNS; i++)
		end_slot(&s->slot[i]);
	serve_files_close(&s->files);
	if (s->sock >= 0)
		(void)close(s->sock);
	if (s->sig >= 0)
		(void)close(s->sig);
	if (s->stop >= 0)
		(void)close(s->stop);
	free(s);
}

static int run_pager(struct cli *c, void *values)
{
	const struct pager_values *v = values;
	struct server *s;
	struct remote_name at;
	struct rlimit lim;
	struct err e = {0};
	int rc;

	if (!v->listen)
		return cli_fail(c, EXIT_USAGE, "--listen HOST:PORT is missing");
	if (remote_parse_peer(v->listen, strlen(v->listen), &at, &e))
		return cli_fail(c, EXIT_USAGE, "--listen: %s", e.msg);
	s = calloc(1, sizeof(*s));
	if (!s)
		return cli_fail(c, EXIT_FAILED, "no memory");
	/* A descriptor for each file, and one for each connection. */
	if (!getrlimit(RLIMIT_NOFILE, &lim)) {
		lim.rlim_cur = lim.rlim_max;
		(void)setrlimit(RLIMIT_NOFILE, &lim);
	}
	s->c = c;
	s->sock = s->sig = s->stop = -1;
	rc = serve_files_open(&s->files, c->arg[0], &e)
		     ? cli_fail(c,
			       e.code == -ENOENT ? EXIT_NOT_FOUND : EXIT_FAILED,
			       "%s", e.msg)
		     : EXIT_DONE;
	if (!rc)
		rc = listen_at(s, &at);
	if (!rc)
		rc = watch_signals(s);
	if (!rc) {
		print_served(s);
		serve(s);
	}
	stop(s);
	return rc;
}

const struct command pager_command = {"pager", "DIR",
	"serve the snapshots of a directory to other hosts",
	"Prints where it listens and the address of each snapshot, which "
	"\"template create --snapshot\" and \"restore\" take with --lazy on "
	"another host. Nothing is encrypted and nobody is asked who they are: "
	"for a network that you trust, or a tunnel. Ctrl-C ends it.",
	pager_opts, sizeof(struct pager_values), 1, 1, 0, run_pager};
