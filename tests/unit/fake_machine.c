#include "tests/unit/fake_machine.h"

#include "api/ctl.h"

#include <errno.h>
#include <poll.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

struct fake {
	int ctl;
	struct machine_config cfg;
	bool zygote, done;
	struct {
		pid_t pid;
		uint64_t number;
	} child[4096];
	unsigned nchildren;
	uint8_t buf[CTL_INLINE + 1];
};

static bool told(const struct fake *f, const char *what)
{
	return strcmp(f->cfg.cmdline, what) == 0;
}

static void answer(struct fake *f, const struct ctl_msg *q, struct ctl_msg *m,
	const void *payload, const struct ctl_fd *fds, unsigned nfds)
{
	ctl_make_reply(q, m);
	if (ctl_send(f->ctl, m, payload, fds, nfds))
		f->done = true;
}

static void refuse(struct fake *f, const struct ctl_msg *q, const char *text)
{
	struct ctl_msg m = {.status = -EIO, .len = (uint32_t)strlen(text)};

	answer(f, q, &m, text, NULL, 0);
}

static void setup(struct fake *f, struct ctl_packet *p)
{
	int fd = ctl_fd(p, CTL_FD_SNAPSHOT, 0);
	struct ctl_msg m = {0};

	f->zygote = p->msg.setup.role == CTL_ROLE_ZYGOTE;
	if (p->msg.len >= sizeof(f->cfg))
		memcpy(&f->cfg, p->payload, sizeof(f->cfg));
	else if (fd >= 0 && pread(fd, &f->cfg, sizeof(f->cfg), 0) !=
				    (ssize_t)sizeof(f->cfg)) {
		refuse(f, &p->msg, "no snapshot");
		return;
	}
	if (f->zygote && told(f, "setup-fails")) {
		refuse(f, &p->msg, "told to refuse");
		return;
	}
	m.setup_done.memory = f->cfg.memory;
	m.len = sizeof(f->cfg);
	answer(f, &p->msg, &m, &f->cfg, NULL, 0);
}

static void freeze(struct fake *f, struct ctl_packet *p)
{
	int fd = ctl_fd(p, CTL_FD_OUTPUT, 0);
	struct ctl_msg m = {0};

	if (fd < 0 || write_full(fd, &f->cfg, sizeof(f->cfg))) {
		refuse(f, &p->msg, "cannot write");
		return;
	}
	m.frozen.bytes = sizeof(f->cfg);
	answer(f, &p->msg, &m, NULL, NULL, 0);
	f->done = true;
}

static void die(int sig)
{
	(void)signal(sig, SIG_DFL);
	(void)kill(getpid(), sig);
	_exit(1);
}

static void invoke(struct fake *f, struct ctl_packet *p)
{
	struct ctl_msg m = {.len = p->msg.len};
	struct ctl_msg end = {.type = CTL_ENDED, .len = 5};

	if (told(f, "invoke-silent"))
		return;
	if (told(f, "clone-crashes"))
		die(SIGSEGV);
	end.ended.kind = MACHINE_END_CRASH;
	if (told(f, "clone-ends-late"))
		(void)usleep(300000);
	if (told(f, "clone-ends") || told(f, "clone-ends-late")) {
		f->done = ctl_send(f->ctl, &end, "a\nb\x7f!", NULL, 0) <= 0;
		return;
	}
	answer(f, &p->msg, &m, p->payload, NULL, 0);
}

static int run(struct fake *f);

static void hatch(struct fake *f, uint64_t number)
{
	struct ctl_msg m = {.type = CTL_HATCHED};
	const char *text = "";

	if (told(f, "clone-silent"))
		return;
	if (told(f, "clone-dies"))
		die(SIGKILL);
	if (told(f, "clone-fails")) {
		m.status = -EIO;
		text = "told to fail";
	}
	m.len = (uint32_t)strlen(text);
	memcpy(m.hatched.generation, &number, sizeof(number));
	if (ctl_send(f->ctl, &m, text, NULL, 0))
		f->done = true;
}

/* Returns only in the zygote. */
static void fork_clone(struct fake *f, uint64_t number)
{
	struct ctl_msg m = {.type = CTL_CLONED};
	pid_t zygote = getpid(), pid;
	struct ctl_fd fds[2];
	int pair[2];

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair))
		_exit(1);
	pid = fork();
	if (pid == 0) {
		(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
		(void)close(f->ctl);
		(void)close(pair[0]);
		f->ctl = pair[1];
		f->zygote = false;
		f->nchildren = 0;
		if (getppid() != zygote)
			_exit(1);
		hatch(f, number);
		_exit(run(f));
	}
	(void)close(pair[1]);
	f->child[f->nchildren].pid = pid;
	f->child[f->nchildren++].number = number;
	fds[0] = (struct ctl_fd){pair[0], CTL_FD_SOCKET, 0};
	/* Another process than the clone: ourselves. */
	fds[1].kind = CTL_FD_PIDFD;
	fds[1].index = 0;
	fds[1].fd = (int)syscall(
		SYS_pidfd_open, told(f, "zygote-lies") ? getpid() : pid, 0);
	m.cloned.number = number;
	m.cloned.pid = pid;
	if (fds[1].fd < 0 || ctl_send(f->ctl, &m, NULL, fds, 2))
		f->done = true;
	(void)close(pair[0]);
	(void)close(fds[1].fd);
}

/* None of these may do the daemon any harm. */
static void garbage(struct fake *f)
{
	struct ctl_msg m = {0};
	const struct ctl_fd fds[2] = {
		{0, CTL_FD_SOCKET, 0}, {1, CTL_FD_PIDFD, 0}};

	for (uint32_t type = 0; type < 80; type++) {
		memset(&m, 0xff, sizeof(m));
		m.type = type;
		m.flags = type % 2 ? CTL_F_REPLY : 0;
		m.len = 3;
		m.req = type;
		if (type != CTL_CLONED)
			(void)!ctl_send(f->ctl, &m, "xyz", fds, type % 3);
	}
	m = (struct ctl_msg){.type = CTL_CLONED};
	m.cloned.number = 1;
	(void)!ctl_send(f->ctl, &m, NULL, fds, 2);
}

static void clone_some(struct fake *f, struct ctl_packet *p)
{
	struct ctl_msg m = {0};

	if (told(f, "zygote-dies"))
		die(SIGKILL);
	if (told(f, "zygote-garbage"))
		garbage(f);
	for (uint32_t i = 0; i < p->msg.clone.count; i++)
		fork_clone(f, p->msg.clone.first + i);
	answer(f, &p->msg, &m, NULL, NULL, 0);
}

/* A child of the daemon, as a frozen machine is. */
/* The kernel writes *pidfd: NOLINTNEXTLINE(readability-non-const-parameter) */
static pid_t fork_sibling(int *pidfd)
{
	struct clone_args a = {.flags = CLONE_PARENT | CLONE_PIDFD,
		.pidfd = (uint64_t)(uintptr_t)pidfd};

	return (pid_t)syscall(SYS_clone3, &a, sizeof(a));
}

static void rave(int sock)
{
	struct ctl_msg m = {.type = CTL_PROGRESS};

	m.progress.done = UINT64_MAX;
	(void)!ctl_send(sock, &m, NULL, NULL, 0);
	m.progress.total = 1;
	(void)!ctl_send(sock, &m, NULL, NULL, 0);
	for (uint32_t type = 0; type < 80; type++) {
		m = (struct ctl_msg){.type = type, .req = type % 3};
		m.flags = type % 2 ? CTL_F_REPLY : 0;
		(void)!ctl_send(sock, &m, NULL, NULL, 0);
	}
}

static void snapshot(struct fake *f, struct ctl_packet *p)
{
	int sock = ctl_fd(p, CTL_FD_SOCKET, 0), pidfd = -1;
	struct ctl_msg m = {0};
	pid_t pid = 1;

	if (told(f, "snapshot-parent"))
		pidfd = (int)syscall(SYS_pidfd_open, getppid(), 0);
	else if (!told(f, "snapshot-nobody"))
		pid = fork_sibling(&pidfd);
	if (pid == 0) {
		if (told(f, "snapshot-raves"))
			rave(sock);
		_exit(3);
	}
	answer(f, &p->msg, &m, NULL, &(struct ctl_fd){pidfd, CTL_FD_PIDFD, 0},
		pidfd >= 0);
	if (pidfd >= 0)
		(void)close(pidfd);
}

static void message(struct fake *f, struct ctl_packet *p)
{
	struct ctl_msg m = {0};

	switch ((enum ctl_type)p->msg.type) {
	case CTL_SETUP:
		setup(f, p);
		break;
	case CTL_FREEZE:
		freeze(f, p);
		break;
	case CTL_CLONE:
		clone_some(f, p);
		break;
	case CTL_INVOKE:
		invoke(f, p);
		break;
	case CTL_WAIT_READY:
		if (!told(f, "ready-never"))
			answer(f, &p->msg, &m, NULL, NULL, 0);
		break;
	case CTL_SNAPSHOT:
		snapshot(f, p);
		break;
	case CTL_SETTLE:
	case CTL_PAUSE:
	case CTL_RESUME:
	case CTL_GO:
		answer(f, &p->msg, &m, NULL, NULL, 0);
		break;
	case CTL_STOP:
	case CTL_WRITE:
	case CTL_PROGRESS:
	case CTL_PARENT:
	case CTL_INPUT:
	case CTL_AGENT:
	case CTL_DIALED:
	case CTL_CONNECT:
	case CTL_INSPECT:
	case CTL_CLONED:
	case CTL_REAPED:
	case CTL_HATCHED:
	case CTL_ENDED:
	case CTL_CONSOLE:
	case CTL_ATTACH:
	case CTL_DETACH:
	case CTL_ALIVE:
	case CTL_FILL:
	case CTL_RECORDED:
	case CTL_PAGED:
	case CTL_UFFD:
	case CTL_PAGER:
	case CTL_DIAL:
	default:
		refuse(f, &p->msg, "the fake machine cannot");
	}
}

static void reap(struct fake *f)
{
	int status;
	pid_t pid;

	while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
		struct ctl_msg m = {.type = CTL_REAPED};

		for (unsigned i = 0; i < f->nchildren; i++) {
			if (f->child[i].pid == pid)
				m.reaped.number = f->child[i].number;
		}
		m.reaped.wait_status = status;
		if (ctl_send(f->ctl, &m, NULL, NULL, 0))
			f->done = true;
	}
}

static int run(struct fake *f)
{
	struct ctl_packet p;

	while (!f->done) {
		struct pollfd pfd = {.fd = f->ctl, .events = POLLIN};
		int r;

		if (poll(&pfd, 1, f->zygote ? 5 : 1000) < 0)
			return 1;
		if (f->zygote)
			reap(f);
		r = ctl_recv(f->ctl, &p, f->buf);
		if (r == -EAGAIN)
			continue;
		if (r <= 0)
			return 0;
		message(f, &p);
		ctl_packet_free(&p);
	}
	return 0;
}

int fake_machine_run(int argc, char **argv)
{
	static struct fake f; /* global: large */

	if (argc != 2 || strcmp(argv[1], "--ctl") != 0) {
		printf("kind: software (fake)\nusable: yes\n");
		return 0;
	}
	(void)signal(SIGPIPE, SIG_IGN);
	f.ctl = CTL_FD;
	return run(&f);
}
