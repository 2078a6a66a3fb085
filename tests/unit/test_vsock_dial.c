/* Connections that the guest opens, restores, and random traffic with host
 * sockets. */
#include "tests/unit/test.h"
#include "tests/unit/vsock_client.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>

#define GPORT CLIENT_GUEST_PORT

static struct fake_guest g;

static int setup(void **state)
{
	(void)state;
	fg_init(&g);
	fg_driver(&g);
	client_listen(&g);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	fg_fini(&g);
	return 0;
}

/* ---- connections from the guest ---- */

static struct {
	uint32_t port;
	uint64_t cookie;
	int n, answer; /* fd to give at once; -2: not at once */
} dialled;

static void on_dial(void *arg, uint32_t port, uint64_t cookie)
{
	assert_ptr_equal(arg, &dialled);
	dialled.port = port;
	dialled.cookie = cookie;
	dialled.n++;
	if (dialled.answer != -2)
		vsock_accept(g.v, cookie, dialled.answer);
}

static void dial_set(int answer)
{
	memset(&dialled, 0, sizeof(dialled));
	dialled.answer = answer;
	vsock_set_dial(g.v, on_dial, &dialled);
}

static void dial_now_and_later(void **state)
{
	struct fg_packet p;
	int sv[2];

	(void)state;
	for (int later = 0; later < 2; later++) {
		assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, sv), 0);
		assert_int_equal(fcntl(sv[1], F_SETFL, O_NONBLOCK), 0);
		client_say(&g, sv[1], "first");
		dial_set(later ? -2 : sv[0]);
		fg_send(&g, VSOCK_OP_REQUEST, 6000, 77, 0, NULL, 0);
		assert_int_equal(dialled.n, 1);
		assert_int_equal(dialled.port, 77);
		if (later) {
			fg_expect_none(&g);
			vsock_accept(g.v, dialled.cookie, sv[0]);
		}
		fg_expect(&g, &p, VSOCK_OP_RESPONSE);
		assert_int_equal(p.h.src_port, 77);
		assert_int_equal(p.h.dst_port, 6000);
		fg_expect(&g, &p, VSOCK_OP_RW);
		assert_memory_equal(p.data, "first", 5);
		fg_send(&g, VSOCK_OP_RW, 6000, 77, 0, "second", 6);
		client_must_hear(sv[1], "second");
		fg_send(&g, VSOCK_OP_RST, 6000, 77, 0, NULL, 0);
		client_must_be_closed(&g, sv[1]);
		assert_int_equal(g.v->nstreams, 0);
	}
}

static void dial_refused(void **state)
{
	struct fg_packet p;
	int sv[2];

	(void)state;
	fg_send(&g, VSOCK_OP_REQUEST, 6000, 77, 0, NULL, 0);
	fg_expect(&g, &p, VSOCK_OP_RST); /* nobody dials */
	dial_set(-1);
	fg_send(&g, VSOCK_OP_REQUEST, 6000, 77, 0, NULL, 0);
	assert_int_equal(dialled.n, 1);
	fg_expect(&g, &p, VSOCK_OP_RST);
	dial_set(-2);
	fg_send(&g, VSOCK_OP_REQUEST, 6000, 77, 0, NULL, 0);
	client_time_passes(&g);
	fg_expect(&g, &p, VSOCK_OP_RST);
	/* too late: the descriptor is closed */
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, sv), 0);
	vsock_accept(g.v, dialled.cookie, sv[0]);
	client_must_be_closed(&g, sv[1]);
	fg_expect_none(&g);
	assert_int_equal(g.v->nstreams, 0);
}

static void dial_flood(void **state)
{
	struct fg_packet p;
	unsigned rst = 0;

	(void)state;
	dial_set(-2);
	for (uint32_t i = 0; i < 300; i++) {
		fg_send(&g, VSOCK_OP_REQUEST, 6000 + i, 77, 0, NULL, 0);
		while (fg_recv(&g, &p))
			rst += p.h.op == VSOCK_OP_RST;
	}
	assert_int_equal(dialled.n, VSOCK_MAX_STREAMS);
	assert_int_equal(rst, 300 - VSOCK_MAX_STREAMS);
	/* asking twice for the same ports is no way to behave */
	fg_send(&g, VSOCK_OP_REQUEST, 6000, 77, 0, NULL, 0);
	fg_expect(&g, &p, VSOCK_OP_RST);
	assert_int_equal(g.v->nstreams, VSOCK_MAX_STREAMS - 1);
}

static void data_before_the_answer(void **state)
{
	struct fg_packet p;

	(void)state;
	dial_set(-2);
	fg_send(&g, VSOCK_OP_REQUEST, 6000, 77, 0, NULL, 0);
	fg_send(&g, VSOCK_OP_RW, 6000, 77, 0, "x", 1);
	fg_expect(&g, &p, VSOCK_OP_RST);
	assert_int_equal(g.v->nstreams, 0);
}

static void restore_drops_all(void **state)
{
	struct err e;
	uint32_t port;
	int open = client_open(&g, &port), line = client_new();

	(void)state;
	client_say(&g, line, "CONN");
	dial_set(-2);
	fg_send(&g, VSOCK_OP_REQUEST, 6000, 77, 0, NULL, 0);
	assert_int_equal(g.v->nstreams, 3);
	assert_int_equal(vsock_reset(g.v, 0, &e), 0);
	client_must_be_closed(&g, open);
	client_must_be_closed(&g, line);
	assert_int_equal(g.v->nstreams, 0);
	fg_expect_none(&g);
	(void)close(client_open(&g, &port)); /* the listener lives on */
}

/* Linux deals with events and packets at the same time: no packet before the
 * buffer of TRANSPORT_RESET has come back. */
static void restore_awaits_the_guest(void **state)
{
	struct fg_packet p;
	struct err e;
	int fd;

	(void)state;
	g.m.cfg.builtin = 0;
	assert_int_equal(vsock_reset(g.v, 0, &e), 0);
	assert_int_equal(fg_used_idx(&g, VSOCK_Q_EVENT), 1);
	fd = client_new();
	client_say(&g, fd, "CONNECT 1234\n");
	fg_kick(&g);
	fg_expect_none(&g);
	fg_post_event(&g, 0);
	fg_kick(&g);
	fg_expect(&g, &p, VSOCK_OP_REQUEST);
	assert_int_equal(p.h.dst_port, 1234);
	(void)close(fd);
	g.m.cfg.builtin = 1;
}

/* Readiness that was reported before the stream behind it changed. */
static void stale_events(void **state)
{
	(void)state;
	for (uint32_t i = 0; i < 65536; i += 13)
		vsock_ops.event(g.dev, i < 3 ? 3 : i, EPOLLIN | EPOLLHUP);
}

/* ---- at random ---- */

/* Eight streams, each with a client that may be gone. */
struct traffic {
	uint32_t port[8];
	int fd[8];
};

static char junk[3000];

static void client_step(struct traffic *t, uint32_t x)
{
	int *fd = &t->fd[x % 8];

	if (*fd < 0)
		return;
	if (x & 0x100)
		(void)client_hear(*fd, junk, sizeof(junk));
	else if (x & 0x3e00)
		(void)send(*fd, junk, x >> 16 & 2047, MSG_NOSIGNAL);
	else {
		(void)close(*fd);
		*fd = -1;
	}
}

static void guest_step(struct traffic *t, uint32_t x)
{
	uint32_t port = t->port[x % 8];
	struct fg_packet p;

	switch (x >> 8 & 7) {
	case 0:
		if (!(x >> 16 & 15))
			fg_send(&g, VSOCK_OP_SHUTDOWN, GPORT, port, x >> 24,
				NULL, 0);
		break;
	case 1:
		if (!(x >> 16 & 31))
			fg_send(&g, (enum vsock_op)(x >> 24 & 7), GPORT, port,
				0, NULL, 0);
		break;
	case 2:
	case 3:
		if (fg_recv(&g, &p))
			fg_kick(&g);
		break;
	default:
		fg_send(&g, VSOCK_OP_RW, GPORT, port, 0, junk, x >> 16 & 2047);
		break;
	}
}

static void random_traffic(void **state)
{
	(void)state;
	for (uint32_t round = 1; round <= 30; round++) {
		uint32_t seed = round * 2654435761u;
		struct traffic t;

		fg_driver(&g);
		g.fwd_cnt = 0;
		for (int i = 0; i < 8; i++)
			t.fd[i] = client_open(&g, &t.port[i]);
		for (int n = 0; n < 300; n++) {
			uint32_t x = fg_random(&seed);

			if (x & 8)
				client_step(&t, x >> 4);
			else
				guest_step(&t, x >> 4);
			fg_run(&g);
			if (g.v->nstreams > 8)
				fail_msg("seed %u: %u streams", round,
					g.v->nstreams);
		}
		for (int i = 0; i < 8; i++) {
			if (t.fd[i] >= 0)
				(void)close(t.fd[i]);
		}
		fg_run(&g);
	}
	client_time_passes(&g);
	fg_driver(&g);
	assert_int_equal(g.v->nstreams, 0);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(dial_now_and_later),
		T(dial_refused),
		T(dial_flood),
		T(data_before_the_answer),
		T(restore_drops_all),
		T(restore_awaits_the_guest),
		T(stale_events),
		T(random_traffic),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
