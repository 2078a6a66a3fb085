/*
 * Addresses of a peer. Names are looked up by getent(1): the C library's own
 * way of doing it needs its plug-ins, which a static program does not have.
 */
#include "snapshot/remote_dial.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

static bool numeric(const char *host, uint16_t port, struct remote_addr *a)
{
	struct sockaddr_in *v4 = (void *)&a->sa;
	struct sockaddr_in6 *v6 = (void *)&a->sa;

	memset(a, 0, sizeof(*a));
	if (inet_pton(AF_INET, host, &v4->sin_addr) == 1) {
		v4->sin_family = AF_INET;
		v4->sin_port = htons(port);
		a->len = sizeof(*v4);
		return true;
	}
	if (inet_pton(AF_INET6, host, &v6->sin6_addr) != 1)
		return false;
	v6->sin6_family = AF_INET6;
	v6->sin6_port = htons(port);
	a->len = sizeof(*v6);
	return true;
}

/* What the program says, or as much as comes in time. */
static size_t read_all(int fd, char *buf, size_t size, uint64_t until)
{
	size_t have = 0;
	ssize_t n = 1;

	while (n > 0 && have < size - 1) {
		struct pollfd p = {.fd = fd, .events = POLLIN};
		uint64_t now = now_ns();

		if (now >= until ||
			poll(&p, 1, (int)((until - now) / 1000000 + 1)) <= 0)
			break;
		n = read(fd, buf + have, size - 1 - have);
		have += n > 0 ? (size_t)n : 0;
	}
	buf[have] = 0;
	return have;
}

static int getent(const char *host, char *buf, size_t size, uint64_t until)
{
	char prog[] = "getent", db[] = "ahosts", dashes[] = "--", name[256];
	char path[] = "PATH=/usr/local/bin:/usr/bin:/bin";
	char *const argv[] = {prog, db, dashes, name, NULL};
	char *const env[] = {path, NULL};
	posix_spawn_file_actions_t fa;
	int pair[2], r;
	pid_t pid;

	(void)snprintf(name, sizeof(name), "%s", host);
	if (pipe2(pair, O_CLOEXEC))
		return -errno;
	(void)posix_spawn_file_actions_init(&fa);
	(void)posix_spawn_file_actions_adddup2(&fa, pair[1], STDOUT_FILENO);
	r = posix_spawn(&pid, "/usr/bin/getent", &fa, NULL, argv, env);
	(void)posix_spawn_file_actions_destroy(&fa);
	(void)close(pair[1]);
	if (!r) {
		(void)read_all(pair[0], buf, size, until);
		(void)kill(pid, SIGKILL);
		(void)waitpid(pid, NULL, 0);
	}
	(void)close(pair[0]);
	return -r;
}

int remote_addrs(const char *host, const char *port, uint64_t until,
	struct remote_addr *out, unsigned max)
{
	uint16_t number = (uint16_t)strtoul(port, NULL, 10);
	char buf[4096], *save = NULL, *line;
	unsigned n = 0;
	int r;

	if (!host[0])
		host = "0.0.0.0";
	if (numeric(host, number, &out[0]))
		return 1;
	r = getent(host, buf, sizeof(buf), until);
	if (r)
		return r;
	/* "ADDRESS  STREAM name": each once, of several kinds of socket. */
	for (line = strtok_r(buf, "\n", &save); line && n < max;
		line = strtok_r(NULL, "\n", &save)) {
		if (!strstr(line, "STREAM"))
			continue;
		line[strcspn(line, " \t%")] = 0;
		if (numeric(line, number, &out[n]))
			n++;
	}
	return n ? (int)n : -EHOSTUNREACH;
}

void remote_addr_name(const struct remote_addr *a, struct remote_name *n)
{
	const struct sockaddr_in *v4 = (const void *)&a->sa;
	const struct sockaddr_in6 *v6 = (const void *)&a->sa;
	bool is4 = a->sa.ss_family == AF_INET;

	memset(n, 0, sizeof(*n));
	(void)inet_ntop(a->sa.ss_family,
		is4 ? (const void *)&v4->sin_addr : &v6->sin6_addr, n->host,
		sizeof(n->host));
	(void)snprintf(n->port, sizeof(n->port), "%u",
		ntohs(is4 ? v4->sin_port : v6->sin6_port));
}
