#include "uffd/uffd.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#ifndef USERFAULTFD_IOC_NEW
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00) /* linux/userfaultfd.h, 6.1 */
#endif

#define OPEN_FLAGS (O_CLOEXEC | O_NONBLOCK)

static int new_one(const struct uffd_host *h)
{
	int fd = h->dev >= 0 ? ioctl(h->dev, USERFAULTFD_IOC_NEW, OPEN_FLAGS)
			     : (int)syscall(SYS_userfaultfd, OPEN_FLAGS);

	return fd < 0 ? -errno : fd;
}

int uffd_host_open(struct uffd_host *h, struct err *e)
{
	int fd, r;

	*h = (struct uffd_host){.dev = -1};
	h->dev = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
	fd = new_one(h);
	if (fd < 0 && h->dev >= 0) {
		uffd_host_close(h);
		fd = new_one(h);
	}
	if (fd >= 0) {
		(void)close(fd);
		h->allowed = true;
		return 0;
	}
	r = fd;
	return err_set(e, -EOPNOTSUPP,
		"lazy loading needs userfaultfd, which this host does not "
		"allow (%s): give thawd read and write access to "
		"/dev/userfaultfd, or set vm.unprivileged_userfaultfd=1; "
		"eager loading works without",
		strerror(-r));
}

void uffd_host_close(struct uffd_host *h)
{
	if (h->dev >= 0)
		(void)close(h->dev);
	*h = (struct uffd_host){.dev = -1};
}

int uffd_open(const struct uffd_host *h, bool events, struct err *e)
{
	struct uffdio_api api = {
		.api = UFFD_API, .features = UFFD_FEATURE_MISSING_SHMEM};
	int fd = new_one(h), r;

	if (fd < 0)
		return err_sys(e, fd, "userfaultfd");
	if (events)
		api.features |=
			UFFD_FEATURE_EVENT_REMOVE | UFFD_FEATURE_EVENT_REMAP;
	if (!ioctl(fd, UFFDIO_API, &api))
		return fd;
	r = -errno;
	(void)close(fd);
	if (r == -EINVAL)
		return err_set(e, -EOPNOTSUPP,
			"this kernel's userfaultfd cannot watch shared memory "
			"(Linux 4.11 or later can)");
	return err_sys(e, r, "UFFDIO_API");
}

int uffd_register(int fd, void *start, uint64_t len, struct err *e)
{
	struct uffdio_register r = {
		.range = {.start = (uintptr_t)start, .len = len},
		.mode = UFFDIO_REGISTER_MODE_MISSING,
	};

	if (ioctl(fd, UFFDIO_REGISTER, &r))
		return err_sys(e, -errno, "UFFDIO_REGISTER");
	return 0;
}

int uffd_unregister(int fd, uint64_t start, uint64_t len)
{
	struct uffdio_range r = {.start = start, .len = len};

	return ioctl(fd, UFFDIO_UNREGISTER, &r) ? -errno : 0;
}

int uffd_arm(const struct uffd_host *h, struct mem *m, struct err *e)
{
	int r = 0;

	if (mem_is_complete(m))
		return mem_lazy_open(m, e);
	m->uffd = uffd_open(h, true, e);
	if (m->uffd < 0)
		return e->code;
	for (unsigned i = 0; !r && i < m->npaged; i++)
		r = uffd_register(m->uffd, m->map + m->paged[i].start,
			m->paged[i].end - m->paged[i].start, e);
	return r ? r : mem_lazy_open(m, e);
}

int uffd_read(int fd, struct uffd_msg *msg, unsigned max)
{
	struct iovec iov = {.iov_base = msg, .iov_len = max * sizeof(*msg)};
	/* O_NONBLOCK belongs to both holders of the descriptor, and one of them
	 * may be hostile: RWF_NOWAIT is ours. Linux before 6.10 knows it not.
	 */
	ssize_t n = preadv2(fd, &iov, 1, -1, RWF_NOWAIT);

	if (n < 0 && errno == EOPNOTSUPP)
		n = read(fd, msg, iov.iov_len);
	if (n < 0)
		return -errno;
	return n ? (int)((size_t)n / sizeof(*msg)) : -EAGAIN;
}

int uffd_wake(int fd, uint64_t start, uint64_t len)
{
	struct uffdio_range r = {.start = start, .len = len};

	return ioctl(fd, UFFDIO_WAKE, &r) ? -errno : 0;
}

struct part {
	int fd;
	uint64_t to, len;
	bool wake;
	uint64_t done; /* how far it came */
};

/* After an ioctl that took n bytes, or failed: move *done. 1: again, 0: all is
 * done, negative: give up. */
static int progress(struct part *p, int64_t n, int error)
{
	if (n > 0) {
		p->done += (uint64_t)n;
		return p->done < p->len;
	}
	if (error != EEXIST)
		return error ? -error : -EIO;
	/* Somebody else was faster; who waits for it may not know. */
	if (p->wake)
		(void)!uffd_wake(p->fd, p->to + p->done, PAGE_SIZE_4K);
	p->done += PAGE_SIZE_4K;
	return p->done < p->len;
}

int uffd_copy(int fd, uint64_t to, const void *from, uint64_t len, bool wake,
	uint64_t *done)
{
	struct part p = {fd, to, len, wake, *done};
	int r = 1;

	while (r > 0) {
		struct uffdio_copy c = {
			.dst = to + p.done,
			.src = (uintptr_t)from + p.done,
			.len = len - p.done,
			.mode = wake ? 0 : UFFDIO_COPY_MODE_DONTWAKE,
		};
		int error = ioctl(fd, UFFDIO_COPY, &c) ? errno : 0;

		r = progress(&p, c.copy, error);
	}
	*done = p.done;
	return r;
}

int uffd_zero(int fd, uint64_t to, uint64_t len, uint64_t *done)
{
	struct part p = {fd, to, len, true, *done};
	int r = 1;

	while (r > 0) {
		struct uffdio_zeropage z = {
			.range = {.start = to + p.done, .len = len - p.done},
		};
		int error = ioctl(fd, UFFDIO_ZEROPAGE, &z) ? errno : 0;

		r = progress(&p, z.zeropage, error);
	}
	*done = p.done;
	return r;
}

bool uffd_is_one(int fd)
{
	char path[40], name[32];
	ssize_t n;

	(void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	n = readlink(path, name, sizeof(name) - 1);
	if (n <= 0)
		return false;
	name[n] = 0;
	return !strcmp(name, "anon_inode:[userfaultfd]");
}
