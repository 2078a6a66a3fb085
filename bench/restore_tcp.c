#include "bench/restore_tcp.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>

static void __attribute__((noreturn)) child(const char *dir, int out)
{
	char prog[] = "thaw", cmd[] = "pager", opt[] = "--listen";
	char at[] = "127.0.0.1:0", path[96];
	char *const argv[] = {prog, cmd, opt, at, path, NULL};

	(void)snprintf(path, sizeof(path), "%s", dir);
	(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (dup2(out, STDOUT_FILENO) >= 0)
		(void)execv("/proc/self/exe", argv);
	_exit(127);
}

/* "listening at ...", then a line for the snapshot, which begins with its URL.
 */
static bool read_url(struct tcp_pager *t, int from)
{
	FILE *f = fdopen(from, "r");
	char line[1024];
	bool ok = false;

	if (!f) {
		(void)close(from);
		return false;
	}
	for (int i = 0; i < 2; i++)
		ok = fgets(line, sizeof(line), f) != NULL;
	if (ok) {
		line[strcspn(line, " \n")] = 0;
		ok = snprintf(t->url, sizeof(t->url), "%.500s", line) > 6;
	}
	(void)fclose(f);
	return ok;
}

int tcp_pager_start(struct bench *b, const char *file, struct tcp_pager *t)
{
	int out[2];

	memset(t, 0, sizeof(*t));
	(void)snprintf(t->dir, sizeof(t->dir), "%s/served", b->dir);
	(void)snprintf(t->file, sizeof(t->file), "%s/a.thaw", t->dir);
	(void)snprintf(t->cache, sizeof(t->cache), "%s/state/cache", b->dir);
	if (mkdir(t->dir, 0700) || link(file, t->file) || pipe2(out, O_CLOEXEC))
		return cli_fail(
			b->c, EXIT_FAILED, "%s: %s", t->dir, strerror(errno));
	t->pid = fork();
	if (t->pid == 0)
		child(t->dir, out[1]);
	(void)close(out[1]);
	if (t->pid < 0) {
		t->pid = 0;
		(void)close(out[0]);
		return cli_fail(b->c, EXIT_FAILED, "fork: %s", strerror(errno));
	}
	if (!read_url(t, out[0]))
		return cli_fail(b->c, EXIT_FAILED, "the pager did not start");
	return EXIT_DONE;
}

void tcp_pager_stop(struct tcp_pager *t)
{
	if (t->pid > 0) {
		(void)kill(t->pid, SIGTERM);
		(void)waitpid(t->pid, NULL, 0);
	}
	(void)unlink(t->file);
	(void)rmdir(t->dir);
	t->pid = 0;
}

void tcp_pager_cold(const struct tcp_pager *t)
{
	DIR *d = opendir(t->cache);
	struct dirent *de;

	while (d && (de = readdir(d)))
		(void)unlinkat(dirfd(d), de->d_name, 0);
	if (d)
		(void)closedir(d);
}
