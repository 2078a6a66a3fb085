/*
 * Starting a private daemon. Its messages go to an unlinked file in memory that
 * we read when it fails to start: inheriting our stderr would keep pipes of
 * whoever called us open for as long as the daemon lives.
 */
#include "api/cli/cli.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>

#define START_TIMEOUT_NS 10000000000ULL
#define MAX_EXTRA        16

/* The directory of the running executable, "" when unknown. */
static void bindir(char *out, size_t size)
{
	ssize_t n = readlink("/proc/self/exe", out, size - 1);
	char *slash;

	out[n < 0 ? 0 : n] = 0;
	slash = strrchr(out, '/');
	if (slash)
		*slash = 0;
	else
		out[0] = 0;
}

static void child_exec(const char *socket, const char *const *extra, int log_fd)
{
	char dir[4096], path[4200];
	const char *argv[MAX_EXTRA + 8] = {"thawd", "--socket", socket};
	unsigned n = 3;
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	(void)setsid();
	if (null < 0 || dup2(null, 0) < 0 || dup2(null, 1) < 0 ||
		dup2(log_fd, 2) < 0)
		_exit(126);
	if (!extra) {
		argv[n++] = "--idle-exit";
		argv[n++] = "60";
	}
	for (unsigned i = 0; extra && extra[i] && i < MAX_EXTRA; i++)
		argv[n++] = extra[i];
	argv[n] = NULL;
	bindir(dir, sizeof(dir));
	(void)snprintf(path, sizeof(path), "%s/thawd", dir);
	/* execv() takes pointers to non-const for history's sake only. */
	(void)execv(path, (char *const *)(uintptr_t)argv);
	(void)execvp("thawd", (char *const *)(uintptr_t)argv);
	_exit(127);
}

/* The last line the daemon wrote. */
static void last_line(int fd, char *out, size_t size)
{
	char buf[2048];
	off_t end = lseek(fd, 0, SEEK_END);
	off_t from =
		end > (off_t)sizeof(buf) - 1 ? end - (off_t)sizeof(buf) + 1 : 0;
	ssize_t n = pread(fd, buf, sizeof(buf) - 1, from);
	char *line;

	if (n < 0)
		n = 0;
	while (n > 0 && buf[n - 1] == '\n')
		n--;
	buf[n] = 0;
	line = strrchr(buf, '\n');
	(void)snprintf(out, size, "%s", line ? line + 1 : buf);
}

static int start_failed(
	const struct cli *c, const char *socket, int status, int log_fd)
{
	char line[2048];

	if (WIFEXITED(status) && WEXITSTATUS(status) == 127)
		return cli_fail(c, EXIT_FAILED,
			"no daemon on %s and no thawd to start one: put thawd "
			"beside thaw or into PATH",
			socket);
	last_line(log_fd, line, sizeof(line));
	return cli_fail(c, EXIT_FAILED,
		"no daemon on %s, and a private one did not start: %s", socket,
		*line ? line : "it said nothing");
}

/* Wait until it listens. A thawd that ended may have lost a race against
 * another one, so the socket is tried for a while longer. */
static int wait_listening(const struct cli *c, const char *socket, int log_fd,
	struct thaw **t, pid_t *pid)
{
	uint64_t deadline = now_ns() + START_TIMEOUT_NS;
	const struct timespec nap = {.tv_nsec = 5000000};
	int status = 0;

	while (now_ns() < deadline) {
		struct thaw_error e;

		if (thaw_connect(socket, t, &e) == THAW_OK)
			return EXIT_DONE;
		if (*pid > 0 && waitpid(*pid, &status, WNOHANG) == *pid) {
			*pid = 0;
			deadline = now_ns() + 500000000;
		}
		(void)nanosleep(&nap, NULL);
	}
	if (*pid == 0)
		return start_failed(c, socket, status, log_fd);
	return cli_fail(c, EXIT_FAILED,
		"started a daemon (pid %d), but nobody listens on %s after "
		"10 s",
		(int)*pid, socket);
}

int daemon_start(const struct cli *c, const char *socket,
	const char *const *extra, struct thaw **t, pid_t *pid)
{
	AUTO_FD log_fd = memfd_create("thawd-log", MFD_CLOEXEC);

	*t = NULL;
	if (log_fd < 0)
		return cli_fail(
			c, EXIT_FAILED, "memfd_create: %s", strerror(errno));
	*pid = fork();
	if (*pid < 0)
		return cli_fail(c, EXIT_FAILED, "fork: %s", strerror(errno));
	if (*pid == 0)
		child_exec(socket, extra, log_fd);
	return wait_listening(c, socket, log_fd, t, pid);
}
