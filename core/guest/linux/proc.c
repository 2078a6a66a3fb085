#include "core/guest/linux/agent.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>

void ta_close_pipes(int fd[3])
{
	for (int i = 0; i < 3; i++) {
		if (fd[i] >= 0)
			(void)close(fd[i]);
		fd[i] = -1;
	}
}

/* Three pipes; ours[] non-blocking, all close-on-exec. */
static int open_pipes(int ours[3], int theirs[3])
{
	for (int i = 0; i < 3; i++)
		ours[i] = theirs[i] = -1;
	for (int i = 0; i < 3; i++) {
		int p[2];

		if (pipe2(p, O_CLOEXEC))
			return -errno;
		ours[i] = p[i == TA_IN];
		theirs[i] = p[i != TA_IN];
		if (fcntl(ours[i], F_SETFL, O_NONBLOCK))
			return -errno;
	}
	return 0;
}

static int set_up(const struct ta_spawn *s, const int theirs[3],
	posix_spawn_file_actions_t *fa, posix_spawnattr_t *attr)
{
	sigset_t all, none;
	int r = 0;

	for (int i = 0; i < 3 && !r; i++)
		r = posix_spawn_file_actions_adddup2(
			fa, s->out_fd >= 0 ? s->out_fd : theirs[i], i);
	if (!r)
		r = posix_spawn_file_actions_addchdir_np(
			fa, s->cwd && *s->cwd ? s->cwd : "/");
	(void)sigfillset(&all);
	(void)sigemptyset(&none);
	if (!r)
		r = posix_spawnattr_setsigdefault(attr, &all);
	if (!r)
		r = posix_spawnattr_setsigmask(attr, &none);
	if (!r)
		r = posix_spawnattr_setflags(
			attr, POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGDEF |
				      POSIX_SPAWN_SETSIGMASK);
	return r;
}

/* posix_spawn: no copy of our page tables, and exec's error comes back. */
static int start(const struct ta_spawn *s, const int theirs[3], pid_t *pid)
{
	posix_spawn_file_actions_t fa;
	posix_spawnattr_t attr;
	int r = posix_spawn_file_actions_init(&fa);

	if (r)
		return r;
	r = posix_spawnattr_init(&attr);
	if (!r) {
		r = set_up(s, theirs, &fa, &attr);
		if (!r)
			r = posix_spawnp(pid, s->argv[0], &fa, &attr, s->argv,
				s->env ? s->env : environ);
		(void)posix_spawnattr_destroy(&attr);
	}
	(void)posix_spawn_file_actions_destroy(&fa);
	return r;
}

pid_t ta_spawn(const struct ta_spawn *s, int fd[3], struct err *e)
{
	int theirs[3] = {-1, -1, -1};
	pid_t pid = 0;
	int r = 0;

	if (s->out_fd < 0)
		r = -open_pipes(fd, theirs);
	if (!r)
		r = start(s, theirs, &pid);
	ta_close_pipes(theirs);
	if (!r)
		return pid;
	if (s->out_fd < 0)
		ta_close_pipes(fd);
	/* ENOENT may also be the working directory, or a script's
	 * interpreter: the text names all that was asked for. */
	return err_sys(e, -r, "cannot run %s%s%s", s->argv[0],
		s->cwd && *s->cwd ? " in " : "",
		s->cwd && *s->cwd ? s->cwd : "");
}

void ta_describe_status(int status, char *out, size_t size)
{
	if (WIFSIGNALED(status))
		(void)snprintf(out, size, "was killed by signal %d (%s)",
			WTERMSIG(status), strsignal(WTERMSIG(status)));
	else
		(void)snprintf(
			out, size, "exited with code %d", WEXITSTATUS(status));
}

ssize_t ta_pipe_read(int fd, void *buf, size_t n)
{
	ssize_t got;

	do {
		got = read(fd, buf, n);
	} while (got < 0 && errno == EINTR);
	return got < 0 ? -errno : got;
}

int ta_pipe_write(int fd, struct buf *b)
{
	while (b->len) {
		ssize_t n = write(fd, buf_data(b), b->len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return errno == EAGAIN ? 0 : -errno;
		buf_consume(b, (size_t)n);
	}
	return 0;
}
