#include "core/loop.h"

#include <errno.h>
#include <sys/timerfd.h>

int loop_init(struct loop *l)
{
	l->epfd = epoll_create1(EPOLL_CLOEXEC);
	return l->epfd < 0 ? -errno : 0;
}

void loop_fini(struct loop *l)
{
	if (l->epfd >= 0)
		(void)close(l->epfd);
	l->epfd = -1;
}

static int ctl(
	struct loop *l, int op, int fd, uint32_t events, union ev_ref ref)
{
	struct epoll_event ev = {.events = events, .data.u64 = ref.u64};

	return epoll_ctl(l->epfd, op, fd, &ev) ? -errno : 0;
}

int loop_add(struct loop *l, int fd, uint32_t events, union ev_ref ref)
{
	return ctl(l, EPOLL_CTL_ADD, fd, events, ref);
}

int loop_mod(struct loop *l, int fd, uint32_t events, union ev_ref ref)
{
	return ctl(l, EPOLL_CTL_MOD, fd, events, ref);
}

void loop_del(struct loop *l, int fd)
{
	(void)epoll_ctl(l->epfd, EPOLL_CTL_DEL, fd, NULL);
}

int loop_wait(struct loop *l, struct epoll_event *ev, int max, int timeout_ms)
{
	int n = epoll_wait(l->epfd, ev, max, timeout_ms);

	if (n < 0)
		return errno == EINTR ? 0 : -errno;
	return n;
}

int timer_open(void)
{
	int fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);

	return fd < 0 ? -errno : fd;
}

int timer_arm(int fd, uint64_t ns)
{
	struct itimerspec its = {0};

	its.it_value.tv_sec = (time_t)(ns / 1000000000ULL);
	its.it_value.tv_nsec = (long)(ns % 1000000000ULL);
	return timerfd_settime(fd, 0, &its, NULL) ? -errno : 0;
}

void eventfd_drain(int fd)
{
	uint64_t count;

	/* EAGAIN only means that somebody was faster. */
	if (read(fd, &count, sizeof(count)) < 0)
		return;
}

void eventfd_kick(int fd)
{
	uint64_t one = 1;

	/* EAGAIN means the count is full: the reader will wake anyhow. */
	if (write(fd, &one, sizeof(one)) < 0)
		return;
}
