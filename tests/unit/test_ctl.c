/* Control messages: what is sent arrives, what is malformed is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "api/ctl.h"

struct pair {
	int a, b;
	uint8_t *buf;
};

static int setup(void **state)
{
	struct pair *p = calloc(1, sizeof(*p));
	int s[2];

	if (!p || socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, s))
		return -1;
	p->a = s[0];
	p->b = s[1];
	p->buf = malloc(CTL_INLINE + 1);
	*state = p;
	return p->buf ? 0 : -1;
}

static int teardown(void **state)
{
	struct pair *p = *state;

	close(p->a);
	close(p->b);
	free(p->buf);
	free(p);
	return 0;
}

static void test_empty_socket(void **state)
{
	struct pair *p = *state;
	struct ctl_packet k;

	assert_int_equal(ctl_recv(p->b, &k, p->buf), -EAGAIN);
	assert_int_equal(shutdown(p->a, SHUT_WR), 0);
	assert_int_equal(ctl_recv(p->b, &k, p->buf), 0);
}

/* Descriptors that come with nothing are not kept. */
static void test_empty_packet(void **state)
{
	struct pair *p = *state;
	union {
		char buf[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} space = {0};
	struct msghdr mh = {
		.msg_control = space.buf, .msg_controllen = sizeof(space.buf)};
	struct cmsghdr *c = CMSG_FIRSTHDR(&mh);
	struct ctl_packet k;
	int end[2];

	assert_int_equal(pipe2(end, O_CLOEXEC | O_NONBLOCK), 0);
	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(c), &end[1], sizeof(int));
	assert_int_equal(sendmsg(p->a, &mh, 0), 0);
	close(end[1]);
	assert_int_equal(ctl_recv(p->b, &k, p->buf), 0);
	/* The last writer of the pipe is gone. */
	assert_int_equal(read(end[0], p->buf, 1), 0);
	close(end[0]);
}

static void test_payload_and_fds(void **state)
{
	struct pair *p = *state;
	struct ctl_msg m = {.type = CTL_INVOKE, .req = 7, .len = 5};
	struct ctl_fd fds[2] = {
		{STDIN_FILENO, CTL_FD_DISK, 1}, {STDERR_FILENO, CTL_FD_TAP, 0}};
	struct stat got, sent;
	struct ctl_packet k;
	int fd;

	m.invoke.timeout_ms = 1234;
	assert_int_equal(ctl_send(p->a, &m, "hello", fds, 2), 0);
	assert_int_equal(ctl_recv(p->b, &k, p->buf), 1);
	assert_int_equal(k.msg.type, CTL_INVOKE);
	assert_int_equal(k.msg.req, 7);
	assert_int_equal(k.msg.invoke.timeout_ms, 1234);
	assert_string_equal((char *)k.payload, "hello");
	assert_int_equal(k.nfds, 2);
	/* By tag, in any order, each once. */
	assert_int_equal(ctl_take(&k, CTL_FD_TAP, 1), -1);
	assert_int_equal(ctl_take(&k, CTL_FD_DISK, 0), -1);
	fd = ctl_take(&k, CTL_FD_TAP, 0);
	assert_true(fd >= 0);
	assert_int_equal(fstat(fd, &got), 0);
	assert_int_equal(fstat(STDERR_FILENO, &sent), 0);
	assert_true(got.st_ino == sent.st_ino && got.st_dev == sent.st_dev);
	assert_int_equal(ctl_take(&k, CTL_FD_TAP, 0), -1);
	close(fd);
	fd = ctl_fd(&k, CTL_FD_DISK, 1);
	assert_true(fd >= 0);
	assert_int_equal(ctl_fd(&k, CTL_FD_DISK, 1), fd);
	ctl_packet_free(&k);
	assert_int_equal(k.nfds, 0);
	/* The rest was closed. */
	assert_int_equal(fcntl(fd, F_GETFD), -1);
}

static void test_big_payload(void **state)
{
	struct pair *p = *state;
	size_t n = 6 * MIB;
	uint8_t *big = malloc(n);
	struct ctl_msg m = {.type = CTL_INVOKE, .len = (uint32_t)n};
	struct ctl_packet k;

	assert_non_null(big);
	for (size_t i = 0; i < n; i++)
		big[i] = (uint8_t)(i * 7);
	assert_int_equal(ctl_send(p->a, &m, big, NULL, 0), 0);
	assert_int_equal(ctl_recv(p->b, &k, p->buf), 1);
	assert_int_equal(k.msg.len, n);
	assert_int_equal(k.nfds, 0);
	assert_memory_equal(k.payload, big, n);
	assert_int_equal(k.payload[n], 0);
	ctl_packet_free(&k);
	free(big);
}

static void test_too_big(void **state)
{
	struct pair *p = *state;
	struct ctl_msg m = {.type = CTL_INVOKE, .len = 9 * MIB};
	uint8_t byte = 0;

	assert_int_equal(ctl_send(p->a, &m, &byte, NULL, 0), -EMSGSIZE);
}

static void refused(struct pair *p, const void *data, size_t n)
{
	struct ctl_packet k;

	assert_int_equal(send(p->a, data, n, 0), (ssize_t)n);
	assert_int_equal(ctl_recv(p->b, &k, p->buf), -EBADMSG);
	assert_int_equal(k.nfds, 0);
}

static void test_malformed(void **state)
{
	struct pair *p = *state;
	uint8_t raw[sizeof(struct ctl_msg) + 16] = {0};
	struct ctl_msg m = {.type = CTL_GO};

	refused(p, raw, 1);
	refused(p, raw, sizeof(m) - 1);
	m.len = 17; /* says more than comes */
	memcpy(raw, &m, sizeof(m));
	refused(p, raw, sizeof(raw));
	m.len = 15; /* and less */
	memcpy(raw, &m, sizeof(m));
	refused(p, raw, sizeof(raw));
	m.len = 16;
	m.flags = CTL_F_MEMFD; /* without a descriptor */
	memcpy(raw, &m, sizeof(m));
	refused(p, raw, sizeof(raw));
}

static void send_memfd(struct pair *p, uint32_t len, int fd)
{
	struct ctl_msg m = {.type = CTL_GO, .flags = CTL_F_MEMFD};

	/* ctl_send() checks len against the payload it is given; an attacker
	 * does not, so send the struct with a payload of zero and patch it. */
	union {
		char buf[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} space = {{0}};
	struct iovec iov = {&m, sizeof(m)};
	struct msghdr mh = {.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = space.buf,
		.msg_controllen = sizeof(space.buf)};
	struct cmsghdr *c = CMSG_FIRSTHDR(&mh);

	m.len = len;
	m.nfds = 1;
	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(c), &fd, sizeof(int));
	assert_int_equal(sendmsg(p->a, &mh, 0), (ssize_t)sizeof(m));
}

static void test_lying_memfd(void **state)
{
	struct pair *p = *state;
	struct ctl_packet k;
	int fd = memfd_create("x", MFD_CLOEXEC);
	struct ctl_msg m;
	int ends[2];

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, 100), 0);
	send_memfd(p, 101, fd); /* longer than the file */
	assert_int_equal(ctl_recv(p->b, &k, p->buf), -EBADMSG);
	send_memfd(p, UINT32_MAX, fd);
	assert_int_equal(ctl_recv(p->b, &k, p->buf), -EBADMSG);
	send_memfd(p, 100, fd);
	assert_int_equal(ctl_recv(p->b, &k, p->buf), 1);
	ctl_packet_free(&k);
	/* says that more descriptors come than do */
	m = (struct ctl_msg){.type = CTL_GO, .nfds = 1};
	refused(p, &m, sizeof(m));
	assert_int_equal(pipe(ends), 0);
	send_memfd(p, 1, ends[0]); /* would block for ever */
	assert_int_equal(ctl_recv(p->b, &k, p->buf), -EBADMSG);
	close(ends[0]);
	close(ends[1]);
	close(fd);
}

static void test_errors_travel(void **state)
{
	struct pair *p = *state;
	struct ctl_msg request = {.type = CTL_PAUSE, .req = 3};
	struct ctl_msg m = {.status = -EBUSY, .len = 7};
	struct ctl_packet k;

	ctl_make_reply(&request, &m);
	assert_int_equal(ctl_send(p->a, &m, "not now", NULL, 0), 0);
	assert_int_equal(ctl_recv(p->b, &k, p->buf), 1);
	assert_int_equal(k.msg.type, CTL_PAUSE);
	assert_int_equal(k.msg.req, 3);
	assert_true(k.msg.flags & CTL_F_REPLY);
	assert_int_equal(k.msg.status, -EBUSY);
	assert_string_equal((char *)k.payload, "not now");
	ctl_packet_free(&k);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(
			test_empty_socket, setup, teardown),
		cmocka_unit_test_setup_teardown(
			test_empty_packet, setup, teardown),
		cmocka_unit_test_setup_teardown(
			test_payload_and_fds, setup, teardown),
		cmocka_unit_test_setup_teardown(
			test_big_payload, setup, teardown),
		cmocka_unit_test_setup_teardown(test_too_big, setup, teardown),
		cmocka_unit_test_setup_teardown(
			test_malformed, setup, teardown),
		cmocka_unit_test_setup_teardown(
			test_lying_memfd, setup, teardown),
		cmocka_unit_test_setup_teardown(
			test_errors_travel, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
