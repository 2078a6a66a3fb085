#include "api/daemon/proc.h"

#include "api/daemon/spawn.h"
#include "api/daemon/store.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

/*
 * Starting thaw-machine. The child gets /dev/null, our stderr and one more
 * descriptor, an empty environment, and dies with us. It runs between fork and
 * exec on a copy of our memory, with nothing but system calls.
 */

/* struct pidfd_info and PIDFD_GET_INFO of linux/pidfd.h, Linux 6.13: the
 * headers of the build may be older. */
struct pid_info {
	uint64_t mask, cgroupid;
	uint32_t pid, tgid, ppid;
	uint32_t ids[8];
	int32_t exit_code;
};
#define PID_INFO_PID 1ULL
#define PID_INFO_GET _IOWR(0xFF, 11, struct pid_info)

/* The kernel writes *pidfd: NOLINTNEXTLINE(readability-non-const-parameter) */
static pid_t fork_with_pidfd(bool own_ns, int *pidfd)
{
	struct clone_args a = {.flags = CLONE_PIDFD,
		.pidfd = (uint64_t)(uintptr_t)pidfd,
		.exit_signal = SIGCHLD};
	long pid;

	if (own_ns)
		a.flags |= CLONE_NEWPID;
	pid = syscall(SYS_clone3, &a, sizeof(a));
	if (pid < 0 && own_ns &&
		(errno == EPERM || errno == EINVAL || errno == ENOSPC ||
			errno == EUSERS)) {
		a.flags &= ~(uint64_t)CLONE_NEWPID;
		pid = syscall(SYS_clone3, &a, sizeof(a));
	}
	return (pid_t)pid;
}

static void __attribute__((noreturn))
child(const struct daemon *d, char *const argv[], int out, int ctl)
{
	char *const env[] = {NULL};
	sigset_t none;

	/* Above everything that is about to be overwritten. */
	if (ctl >= 0)
		ctl = fcntl(ctl, F_DUPFD, 10);
	out = fcntl(out, F_DUPFD, 10);
	if (out < 0 || dup2(d->null_fd, 0) < 0 || dup2(out, 1) < 0)
		_exit(126);
	if (ctl >= 0 && dup2(ctl, CTL_FD) < 0)
		_exit(126);
	if (syscall(SYS_close_range, ctl >= 0 ? CTL_FD + 1 : 3, ~0U, 0))
		_exit(126);
	sigemptyset(&none);
	(void)sigprocmask(SIG_SETMASK, &none, NULL);
	if (prctl(PR_SET_PDEATHSIG, SIGKILL))
		_exit(126);
	(void)execve(d->opt.machine_exe, argv, env);
	_exit(127);
}

pid_t spawn(const struct daemon *d, char *const argv[], int out, int ctl,
	bool own_ns, int *pidfd)
{
	pid_t pid;

	*pidfd = -1;
	pid = fork_with_pidfd(own_ns, pidfd);
	if (pid == 0)
		child(d, argv, out, ctl);
	return pid < 0 ? -errno : pid;
}

int proc_spawn(struct daemon *d, struct proc *p, bool own_ns, struct err *e)
{
	char exe[] = "thaw-machine", arg[] = "--ctl";
	char *const argv[] = {exe, arg, NULL};
	int pair[2], pidfd = -1, r;
	pid_t pid;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair))
		return err_sys(e, -errno, "control socket");
	pid = spawn(d, argv, d->null_fd, pair[1], own_ns, &pidfd);
	(void)close(pair[1]);
	if (pid < 0) {
		(void)close(pair[0]);
		return err_sys(e, pid, "starting a machine process");
	}
	r = proc_adopt(d, p, pair[0], pidfd, getpid());
	if (r) {
		(void)syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0);
		(void)close(pair[0]);
		(void)close(pidfd);
		return err_sys(e, r, "watching a machine process");
	}
	p->pid = pid;
	p->trusted = true;
	return 0;
}

/* A client that the daemon hangs up on must see it, however long this one goes
 * on. Descriptors 0 to 2 stay. */
static void close_others(int a, int b)
{
	unsigned lo = (unsigned)(a < b ? a : b), hi = (unsigned)(a < b ? b : a);

	if (lo > 3)
		(void)syscall(SYS_close_range, 3, lo - 1, 0);
	if (hi > lo + 1)
		(void)syscall(SYS_close_range, lo + 1, hi - 1, 0);
	(void)syscall(SYS_close_range, hi + 1, ~0U, 0);
}

/* No exec: between fork and exit it makes system calls only. */
static void __attribute__((noreturn)) copier(int from, int to)
{
	struct err e = {0};

	(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
	close_others(from, to);
	_exit(store_copy(from, to, &e) ? -e.code & 0x7f : 0);
}

int proc_spawn_copy(
	struct daemon *d, struct proc *p, int from, int to, struct err *e)
{
	int pidfd = -1, r;
	pid_t pid = fork_with_pidfd(false, &pidfd);

	if (pid == 0)
		copier(from, to);
	if (pid < 0)
		return err_sys(e, -errno, "starting a copy");
	p->pid = pid;
	p->trusted = true;
	p->pidfd = pidfd;
	r = loop_add(
		&d->loop, pidfd, EPOLLIN, (union ev_ref){.ptr = &p->on_exit});
	if (!r)
		return 0;
	proc_kill(d, p, e);
	return err_sys(e, r, "watching a copy");
}

/* It talks to name servers and to strangers: as nobody, if it can be. */
static void __attribute__((noreturn))
dialer(const struct remote_name *n, int sock)
{
	const unsigned nobody = 65534;
	sigset_t none;

	close_others(sock, sock);
	sigemptyset(&none);
	(void)sigprocmask(SIG_SETMASK, &none, NULL);
	if (geteuid() == 0) {
		(void)!syscall(SYS_setgroups, 0, NULL);
		(void)!syscall(SYS_setresgid, nobody, nobody, nobody);
		(void)!syscall(SYS_setresuid, nobody, nobody, nobody);
	}
	/* After that: a change of ids clears it. */
	(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
	remote_dial_serve(sock, n);
	_exit(0);
}

int spawn_dialer(struct daemon *d, const struct remote_name *n, struct err *e)
{
	int pair[2], pidfd = -1;
	pid_t pid;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair))
		return err_sys(e, -errno, "socket of a connecting process");
	pid = fork_with_pidfd(false, &pidfd);
	if (pid == 0)
		dialer(n, pair[1]);
	(void)close(pair[1]);
	if (pid < 0) {
		(void)close(pair[0]);
		return err_sys(e, -errno, "starting a connecting process");
	}
	(void)close(pidfd);
	/* It ends by itself when the other end is closed. */
	proc_remember(d, pid);
	return pair[0];
}

/* Value of a line "Key:\tNUMBER" in a file of /proc, or -1. */
static long proc_field(const char *path, const char *key)
{
	char buf[4096], *at;
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n;

	if (fd < 0)
		return -1;
	n = read(fd, buf, sizeof(buf) - 1);
	(void)close(fd);
	if (n <= 0)
		return -1;
	buf[n] = 0;
	at = strstr(buf, key);
	return at ? strtol(at + strlen(key), NULL, 10) : -1;
}

pid_t proc_pid_cheap(struct proc *p)
{
	struct pid_info info = {.mask = PID_INFO_PID};

	if (!p->pid && p->pidfd >= 0 &&
		ioctl(p->pidfd, PID_INFO_GET, &info) == 0)
		p->pid = (pid_t)info.pid;
	return p->pid;
}

pid_t proc_pid(struct proc *p)
{
	char path[64];
	long pid;

	if (proc_pid_cheap(p) || p->pidfd < 0)
		return p->pid;
	(void)snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", p->pidfd);
	pid = proc_field(path, "Pid:");
	p->pid = pid > 0 ? (pid_t)pid : 0;
	return p->pid;
}

bool proc_is_child(struct proc *p)
{
	struct pid_info info = {.mask = PID_INFO_PID};
	char fdinfo[64], path[64];
	long pid;

	if (ioctl(p->pidfd, PID_INFO_GET, &info) == 0) {
		p->pid = (pid_t)info.pid;
		return (pid_t)info.ppid == p->parent;
	}
	/* Gone already: the signal will say ESRCH. */
	if (errno == ESRCH)
		return true;
	(void)snprintf(
		fdinfo, sizeof(fdinfo), "/proc/self/fdinfo/%d", p->pidfd);
	pid = proc_field(fdinfo, "Pid:");
	if (pid <= 0)
		return true;
	(void)snprintf(path, sizeof(path), "/proc/%ld/status", pid);
	/* It may have been waited for between the two. */
	return proc_field(path, "PPid:") == p->parent ||
	       proc_field(fdinfo, "Pid:") <= 0;
}
