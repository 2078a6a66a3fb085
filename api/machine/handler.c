#include "api/machine/handler.h"

#include "uffd/pager.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

/*
 * How it works
 *
 * The protocol is the one of Firecracker's page fault handlers, so that those
 * work: one message, a JSON array of the regions of guest memory, and the
 * userfaultfd along with it. Nothing is said after that, in either direction;
 * both ends keep the socket open, and who closes it has ended.
 *
 * The machine connects, not the daemon: a handler that fails learns who its
 * peer is (SO_PEERCRED) to kill it, and that must be the machine.
 */

int handler_connect(
	struct ctl_packet *p, uint32_t stall_ms, int *sock, struct err *e)
{
	AUTO_FD path = ctl_take(p, CTL_FD_PAGER, 0);
	uint32_t ms = stall_ms ? stall_ms : PAGER_STALL_MS;
	struct timeval wait = {ms / 1000, ms % 1000 * 1000};
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	AUTO_FD fd = -1;

	if (path < 0)
		return 0;
	(void)snprintf(
		a.sun_path, sizeof(a.sun_path), "/proc/self/fd/%d", path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0 ||
		setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &wait, sizeof(wait)))
		return err_sys(e, -errno, "socket of the pager");
	if (connect(fd, (struct sockaddr *)&a, sizeof(a))) {
		if (errno == EAGAIN)
			return err_set(e, -ETIMEDOUT,
				"the pager did not accept the connection "
				"within %u ms",
				ms);
		return err_sys(e, -errno, "connecting to the pager");
	}
	*sock = take_fd(&fd);
	return 0;
}

/* Both page sizes are in bytes, whatever their names say. */
static int regions_json(const struct mem *m, char *buf, size_t size)
{
	const struct mem_region *r;
	size_t n = 0;

	for_each_region (m, r) {
		int k = snprintf(buf + n, size - n,
			"%s{\"base_host_virt_addr\":%llu,\"size\":%llu,"
			"\"offset\":%llu,\"page_size\":%u,"
			"\"page_size_kib\":%u}",
			n ? "," : "[", (unsigned long long)(uintptr_t)r->host,
			(unsigned long long)r->size,
			(unsigned long long)r->offset, (unsigned)PAGE_SIZE_4K,
			(unsigned)PAGE_SIZE_4K);

		if (k < 0 || (size_t)k >= size - n)
			return -ENOBUFS;
		n += (size_t)k;
	}
	if (n + 2 > size)
		return -ENOBUFS;
	buf[n++] = ']';
	return (int)n;
}

int handler_give(int sock, const struct mem *m, struct err *e)
{
	union {
		struct cmsghdr h;
		char space[CMSG_SPACE(sizeof(int))];
	} c = {.h = {.cmsg_len = CMSG_LEN(sizeof(int)),
		       .cmsg_level = SOL_SOCKET,
		       .cmsg_type = SCM_RIGHTS}};
	char json[512];
	int n = regions_json(m, json, sizeof(json));
	struct iovec iov = {.iov_base = json, .iov_len = (size_t)n};
	struct msghdr msg = {.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = &c,
		.msg_controllen = sizeof(c)};
	ssize_t sent;

	if (n < 0)
		return err_sys(e, n, "describing guest memory");
	memcpy(CMSG_DATA(&c.h), &m->uffd, sizeof(int));
	sent = sendmsg(sock, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
	if (sent < 0)
		return err_sys(
			e, -errno, "handing the memory to the external pager");
	if (sent != n)
		return err_set(e, -EIO,
			"the external pager's socket took a part of the "
			"message");
	return 0;
}
