#include "tests/unit/test.h"
#include "tests/unit/vsock_client.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

static struct sockaddr_un address(void)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};

	/* abstract: nothing to clean up */
	(void)snprintf(a.sun_path + 1, sizeof(a.sun_path) - 1, "thaw-test-%d",
		(int)getpid());
	return a;
}

void client_listen(struct fake_guest *g)
{
	struct sockaddr_un a = address();
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct err e;

	assert_true(fd >= 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	assert_int_equal(listen(fd, 128), 0);
	assert_int_equal(vsock_listen(g->v, fd, &e), 0);
}

int client_new(void)
{
	struct sockaddr_un a = address();
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	assert_true(fd >= 0);
	assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	return fd;
}

void client_say(struct fake_guest *g, int fd, const char *text)
{
	assert_int_equal(send(fd, text, strlen(text), MSG_NOSIGNAL),
		(ssize_t)strlen(text));
	fg_run(g);
}

ssize_t client_hear(int fd, char *buf, size_t size)
{
	ssize_t n = recv(fd, buf, size - 1, 0);

	buf[n > 0 ? n : 0] = '\0';
	return n < 0 ? -errno : n;
}

void client_must_hear(int fd, const char *text)
{
	char buf[256];

	assert_int_equal(
		client_hear(fd, buf, sizeof(buf)), (ssize_t)strlen(text));
	assert_string_equal(buf, text);
}

void client_must_be_closed(struct fake_guest *g, int fd)
{
	char buf[16];
	ssize_t n;

	fg_run(g);
	n = client_hear(fd, buf, sizeof(buf));
	if (n != 0 && n != -ECONNRESET)
		fail_msg("not closed: %zd", n);
	(void)close(fd);
}

int client_open(struct fake_guest *g, uint32_t *port)
{
	struct fg_packet p;
	char ok[32];
	int fd = client_new();

	client_say(g, fd, "CONNECT 5000\n");
	fg_expect(g, &p, VSOCK_OP_REQUEST);
	assert_int_equal(p.h.dst_port, CLIENT_GUEST_PORT);
	*port = p.h.src_port;
	fg_send(g, VSOCK_OP_RESPONSE, CLIENT_GUEST_PORT, *port, 0, NULL, 0);
	(void)snprintf(ok, sizeof(ok), "OK %u\n", *port);
	client_must_hear(fd, ok);
	return fd;
}

void client_time_passes(struct fake_guest *g)
{
	for (unsigned i = 0; i < VSOCK_MAX_STREAMS; i++) {
		if (g->v->slot[i] && g->v->slot[i]->deadline)
			g->v->slot[i]->deadline = 1;
	}
	g->v->timer_stale = true;
	vsock_begin(g->v);
	vsock_end(g->v);
	(void)usleep(1000);
	fg_run(g);
}
