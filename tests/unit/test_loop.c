/* The event loop, its timers and eventfds. */
#include "core/loop.h"
#include "tests/unit/test.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/eventfd.h>

static void test_events(void **state)
{
	struct epoll_event ev[4];
	union ev_ref ref = {.type = 7, .index = 42};
	struct loop l;
	int fd;

	(void)state;
	assert_int_equal(loop_init(&l), 0);
	assert_true(fcntl(l.epfd, F_GETFD) & FD_CLOEXEC);
	fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	assert_int_equal(loop_add(&l, fd, EPOLLIN, ref), 0);
	assert_int_equal(loop_add(&l, fd, EPOLLIN, ref), -EEXIST);
	assert_int_equal(loop_wait(&l, ev, 4, 0), 0);
	eventfd_kick(fd);
	eventfd_kick(fd);
	assert_int_equal(loop_wait(&l, ev, 4, 0), 1);
	ref.u64 = ev[0].data.u64;
	assert_int_equal(ref.type, 7);
	assert_int_equal(ref.index, 42);
	eventfd_drain(fd);
	assert_int_equal(loop_wait(&l, ev, 4, 0), 0);
	eventfd_drain(fd); /* empty: must not block */

	ref.index = 43;
	assert_int_equal(loop_mod(&l, fd, EPOLLIN | EPOLLOUT, ref), 0);
	assert_int_equal(loop_wait(&l, ev, 4, -1), 1);
	assert_int_equal(ev[0].events, EPOLLOUT);
	ref.u64 = ev[0].data.u64;
	assert_int_equal(ref.index, 43);
	loop_del(&l, fd);
	assert_int_equal(loop_wait(&l, ev, 4, 0), 0);
	assert_int_equal(loop_mod(&l, fd, EPOLLIN, ref), -ENOENT);
	(void)close(fd);
	assert_int_equal(loop_add(&l, fd, EPOLLIN, ref), -EBADF);
	loop_fini(&l);
	loop_fini(&l);
	assert_int_equal(loop_wait(&l, ev, 4, 0), -EBADF);
}

static void test_timer(void **state)
{
	struct epoll_event ev[1];
	union ev_ref ref = {.type = 1};
	uint64_t t;
	struct loop l;
	int fd;

	(void)state;
	assert_int_equal(loop_init(&l), 0);
	fd = timer_open();
	assert_true(fd >= 0);
	assert_int_equal(loop_add(&l, fd, EPOLLIN, ref), 0);
	assert_int_equal(timer_arm(fd, 20 * 1000000ULL), 0);
	t = now_ns();
	assert_int_equal(loop_wait(&l, ev, 1, 5000), 1);
	t = now_ns() - t;
	assert_true(t >= 15 * 1000000ULL);
	eventfd_drain(fd);
	assert_int_equal(loop_wait(&l, ev, 1, 30), 0); /* once only */

	assert_int_equal(timer_arm(fd, 10 * 1000000ULL), 0);
	assert_int_equal(timer_arm(fd, 0), 0);
	assert_int_equal(loop_wait(&l, ev, 1, 30), 0);
	assert_int_equal(timer_arm(fd, 3600ULL * 1000000000ULL), 0);
	assert_int_equal(loop_wait(&l, ev, 1, 0), 0);
	(void)close(fd);
	loop_fini(&l);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_events),
		cmocka_unit_test(test_timer),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
