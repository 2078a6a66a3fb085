/* Host sockets behind vsock streams: CONNECT, dialled ones, slow, rude and
 * vanishing clients. */
#include "tests/unit/test.h"
#include "tests/unit/fake_guest.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#define GPORT 5000u

static struct fake_guest g;
static struct sockaddr_un addr;

static int setup(void **state)
{
	struct err e;
	int fd;

	(void)state;
	fg_init(&g);
	fg_driver(&g);
	/* abstract: nothing to clean up */
	addr.sun_family = AF_UNIX;
	memset(addr.sun_path, 0, sizeof(addr.sun_path));
	(void)snprintf(addr.sun_path + 1, sizeof(addr.sun_path) - 1,
		"thaw-test-%d", (int)getpid());
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_true(fd >= 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	assert_int_equal(listen(fd, 128), 0);
	assert_int_equal(vsock_listen(g.v, fd, &e), 0);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	fg_fini(&g);
	return 0;
}

static int client(void)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	assert_true(fd >= 0);
	assert_int_equal(
		connect(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	return fd;
}

static void say(int fd, const char *text)
{
	assert_int_equal(send(fd, text, strlen(text), MSG_NOSIGNAL),
		(ssize_t)strlen(text));
	fg_run(&g);
}

/* What is there to read: length, 0 at the end, -EAGAIN. */
static ssize_t hear(int fd, char *buf, size_t size)
{
	ssize_t n = recv(fd, buf, size - 1, 0);

	buf[n > 0 ? n : 0] = '\0';
	return n < 0 ? -errno : n;
}

static void must_hear(int fd, const char *text)
{
	char buf[256];

	assert_int_equal(hear(fd, buf, sizeof(buf)), (ssize_t)strlen(text));
	assert_string_equal(buf, text);
}

static void must_be_closed(int fd)
{
	char buf[16];
	ssize_t n;

	fg_run(&g);
	n = hear(fd, buf, sizeof(buf));
	if (n != 0 && n != -ECONNRESET)
		fail_msg("not closed: %zd", n);
	(void)close(fd);
}

/* A client whose stream the guest accepted. */
static int open_client(uint32_t *port)
{
	struct fg_packet p;
	char ok[32];
	int fd = client();

	say(fd, "CONNECT 5000\n");
	fg_expect(&g, &p, VSOCK_OP_REQUEST);
	assert_int_equal(p.h.dst_port, GPORT);
	*port = p.h.src_port;
	fg_send(&g, VSOCK_OP_RESPONSE, GPORT, *port, 0, NULL, 0);
	(void)snprintf(ok, sizeof(ok), "OK %u\n", *port);
	must_hear(fd, ok);
	return fd;
}

/* Let every deadline be over. */
static void time_passes(void)
{
	for (unsigned i = 0; i < VSOCK_MAX_STREAMS; i++) {
		if (g.v->slot[i] && g.v->slot[i]->deadline)
			g.v->slot[i]->deadline = 1;
	}
	g.v->timer_stale = true;
	vsock_begin(g.v);
	vsock_end(g.v);
	(void)usleep(1000);
	fg_run(&g);
}

/* ---- well-behaved ---- */

static void connect_and_talk(void **state)
{
	struct fg_packet p;
	uint32_t port;
	int fd = open_client(&port);

	(void)state;
	say(fd, "question");
	fg_expect(&g, &p, VSOCK_OP_RW);
	assert_int_equal(p.h.src_port, port);
	assert_int_equal(p.h.len, 8);
	assert_memory_equal(p.data, "question", 8);
	fg_send(&g, VSOCK_OP_RW, GPORT, port, 0, "answer", 6);
	must_hear(fd, "answer");
	(void)close(fd);
	fg_run(&g);
	fg_expect(&g, &p, VSOCK_OP_SHUTDOWN);
	assert_int_equal(p.h.flags, VSOCK_SHUT_BOTH);
	fg_send(&g, VSOCK_OP_RST, GPORT, port, 0, NULL, 0);
	fg_expect_none(&g);
	assert_int_equal(g.v->nstreams, 0);
}

static void data_behind_the_line(void **state)
{
	struct fg_packet p;
	int fd = client();

	(void)state;
	say(fd, "connect 5000\nhello");
	fg_expect(&g, &p, VSOCK_OP_REQUEST);
	fg_expect_none(&g);
	fg_send(&g, VSOCK_OP_RESPONSE, GPORT, p.h.src_port, 0, NULL, 0);
	fg_expect(&g, &p, VSOCK_OP_RW);
	assert_int_equal(p.h.len, 5);
	assert_memory_equal(p.data, "hello", 5);
	(void)close(fd);
}

static void line_byte_by_byte(void **state)
{
	static const char line[] = "CONNECT 5000\n";
	struct fg_packet p;
	int fd = client();

	(void)state;
	for (size_t i = 0; i + 1 < sizeof(line); i++) {
		char c[2] = {line[i], '\0'};

		fg_expect_none(&g);
		say(fd, c);
	}
	fg_expect(&g, &p, VSOCK_OP_REQUEST);
	(void)close(fd);
}

static void half_close_by_the_client(void **state)
{
	struct fg_packet p;
	uint32_t port;
	int fd = open_client(&port);

	(void)state;
	say(fd, "all");
	assert_int_equal(shutdown(fd, SHUT_WR), 0);
	fg_run(&g);
	fg_expect(&g, &p, VSOCK_OP_RW);
	fg_expect(&g, &p, VSOCK_OP_SHUTDOWN);
	assert_int_equal(p.h.flags, VSOCK_SHUT_SEND);
	fg_send(&g, VSOCK_OP_RW, GPORT, port, 0, "the sum", 7);
	must_hear(fd, "the sum");
	fg_send(&g, VSOCK_OP_SHUTDOWN, GPORT, port, VSOCK_SHUT_BOTH, NULL, 0);
	fg_expect(&g, &p, VSOCK_OP_RST);
	must_be_closed(fd);
	assert_int_equal(g.v->nstreams, 0);
}

static void half_close_by_the_guest(void **state)
{
	struct fg_packet p;
	uint32_t port;
	char buf[8];
	int fd = open_client(&port);

	(void)state;
	fg_send(&g, VSOCK_OP_RW, GPORT, port, 0, "last", 4);
	fg_send(&g, VSOCK_OP_SHUTDOWN, GPORT, port, VSOCK_SHUT_SEND, NULL, 0);
	must_hear(fd, "last");
	assert_int_equal(hear(fd, buf, sizeof(buf)), 0);
	say(fd, "but I go on");
	fg_expect(&g, &p, VSOCK_OP_RW);
	assert_int_equal(p.h.len, 11);
	/* more data from there would break its word */
	fg_send(&g, VSOCK_OP_RW, GPORT, port, 0, "x", 1);
	fg_expect(&g, &p, VSOCK_OP_RST);
	must_be_closed(fd);
}

static void bulk_to_the_guest(void **state)
{
	static uint8_t data[300000];
	uint32_t port, seed = 3;
	size_t sent = 0, got = 0;
	struct fg_packet p;
	int fd = open_client(&port);

	(void)state;
	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = (uint8_t)fg_random(&seed);
	g.buf_alloc = 10000;
	while (got < sizeof(data)) {
		ssize_t n = send(
			fd, data + sent, sizeof(data) - sent, MSG_NOSIGNAL);

		if (n > 0)
			sent += (size_t)n;
		fg_run(&g);
		while (fg_recv(&g, &p)) {
			if (p.h.op != VSOCK_OP_RW)
				continue;
			assert_memory_equal(data + got, p.data, p.h.len);
			got += p.h.len;
			g.fwd_cnt += p.h.len;
		}
		fg_send(&g, VSOCK_OP_CREDIT_UPDATE, GPORT, port, 0, NULL, 0);
	}
	(void)close(fd);
}

static void bulk_to_the_client(void **state)
{
	static uint8_t data[300000];
	uint32_t port, seed = 4, told = 0;
	size_t sent = 0, got = 0;
	struct vsock_stream *s;
	struct fg_packet p;
	int fd = open_client(&port);

	(void)state;
	s = g.v->slot[0];
	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = (uint8_t)fg_random(&seed);
	while (got < sizeof(data)) {
		char buf[5000];
		ssize_t n;
		size_t room = VSOCK_ALLOC_UNIX - (sent - told);

		n = (ssize_t)min_u64(room, sizeof(data) - sent);
		if (n > 40000)
			n = 40000;
		if (n) {
			fg_send(&g, VSOCK_OP_RW, GPORT, port, 0, data + sent,
				(uint32_t)n);
			sent += (size_t)n;
		}
		assert_true(s->in.len <= VSOCK_ALLOC_UNIX);
		n = hear(fd, buf, sizeof(buf));
		if (n > 0) {
			assert_memory_equal(data + got, buf, (size_t)n);
			got += (size_t)n;
		}
		fg_run(&g);
		while (fg_recv(&g, &p)) {
			assert_int_equal(p.h.op, VSOCK_OP_CREDIT_UPDATE);
			told = p.h.fwd_cnt;
		}
	}
	assert_null(s->in.p);
	(void)close(fd);
}

/* ---- rude clients ---- */

static void bad_lines(void **state)
{
	static const char *const bad[] = {"\n", "CONNECT\n", "CONNECT \n",
		"CONNECT  5000\n", "CONNECT x\n", "CONNECT 5000x\n",
		"CONNECT -1\n", "CONNECT 4294967295\n", "CONNECT 4294967296\n",
		"CONNECT 99999999999\n", "DISCONNECT 5000\n", "OK 5000\n",
		"GET / HTTP/1.1\r\n", "CONNECT 0x10\n",
		"CONNECT 5000 and so on for ever ....",
		"00000000000000000000000000000000000000000"};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		int fd = client();

		say(fd, bad[i]);
		must_be_closed(fd);
		fg_expect_none(&g);
		assert_int_equal(g.v->nstreams, 0);
	}
	{
		int fd = client();
		struct fg_packet p;

		say(fd, "CONNECT 4294967294\r\n");
		fg_expect(&g, &p, VSOCK_OP_REQUEST);
		assert_int_equal(p.h.dst_port, 4294967294);
		(void)close(fd);
	}
}

static void refused(void **state)
{
	struct fg_packet p;
	int fd = client();

	(void)state;
	say(fd, "CONNECT 5000\n");
	fg_expect(&g, &p, VSOCK_OP_REQUEST);
	fg_send(&g, VSOCK_OP_RST, GPORT, p.h.src_port, 0, NULL, 0);
	must_be_closed(fd);
	assert_int_equal(g.v->nstreams, 0);
}

static void gone_before_the_answer(void **state)
{
	struct fg_packet p;
	int fd = client();

	(void)state;
	say(fd, "CONNECT 5000\n");
	fg_expect(&g, &p, VSOCK_OP_REQUEST);
	(void)close(fd);
	fg_run(&g);
	fg_expect(&g, &p, VSOCK_OP_RST);
	assert_int_equal(g.v->nstreams, 0);
	/* the guest's late answer */
	fg_send(&g, VSOCK_OP_RESPONSE, GPORT, p.h.src_port, 0, NULL, 0);
	fg_expect(&g, &p, VSOCK_OP_RST);
}

static void time_limits(void **state)
{
	struct fg_packet p;
	uint32_t port;
	int silent = client(), asked = client(), shut;

	(void)state;
	say(silent, "CONN");
	say(asked, "CONNECT 5000\n");
	fg_expect(&g, &p, VSOCK_OP_REQUEST);
	assert_true(g.v->timer_fd >= 0);
	time_passes();
	must_be_closed(silent);
	must_be_closed(asked);
	fg_expect(&g, &p, VSOCK_OP_RST);
	/* a guest that never confirms the end */
	shut = open_client(&port);
	(void)close(shut);
	fg_run(&g);
	fg_expect(&g, &p, VSOCK_OP_SHUTDOWN);
	assert_int_equal(g.v->nstreams, 1);
	time_passes();
	fg_expect(&g, &p, VSOCK_OP_RST);
	assert_int_equal(g.v->nstreams, 0);
}

static void too_many_clients(void **state)
{
	static int fd[VSOCK_MAX_STREAMS + 20];
	unsigned closed = 0;

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(fd); i++) {
		fd[i] = client();
		fg_run(&g);
	}
	assert_int_equal(g.v->nstreams, VSOCK_MAX_STREAMS);
	for (unsigned i = 0; i < ARRAY_SIZE(fd); i++) {
		char c[2];

		closed += hear(fd[i], c, sizeof(c)) == 0;
		(void)close(fd[i]);
	}
	assert_int_equal(closed, 20);
	fg_run(&g);
	assert_int_equal(g.v->nstreams, 0);
}

/* ---- rude guests ---- */

static void beyond_the_credit(void **state)
{
	static uint8_t data[100000];
	struct vsock_stream *s;
	struct fg_packet p;
	uint32_t port;
	unsigned sent = 0;
	int fd = open_client(&port), other;
	uint32_t other_port;

	(void)state;
	s = g.v->slot[0];
	other = open_client(&other_port);
	/* the client reads nothing, the guest keeps sending */
	while (s->state == VS_OPEN && sent < 10000) {
		fg_send(&g, VSOCK_OP_RW, GPORT, port, 0, data, 8000);
		sent++;
		if (g.v->slot[0] != s)
			break;
		assert_true(s->in.len <= VSOCK_ALLOC_UNIX);
	}
	assert_true(sent < 10000);
	do {
		assert_true(fg_recv(&g, &p));
	} while (p.h.op == VSOCK_OP_CREDIT_UPDATE);
	assert_int_equal(p.h.op, VSOCK_OP_RST);
	assert_int_equal(p.h.src_port, port);
	assert_int_equal(g.v->nstreams, 1);
	fg_send(&g, VSOCK_OP_RW, GPORT, other_port, 0, "fine", 4);
	must_hear(other, "fine");
	(void)close(fd);
	(void)close(other);
}

/* SHUTDOWN of both sides while the client is slow: it gets everything. */
static void slow_client_gets_all(void **state)
{
	static uint8_t data[60000];
	struct vsock_stream *s;
	struct fg_packet p;
	uint32_t port;
	size_t total = 0, got = 0;
	char buf[70000];
	ssize_t n;
	int fd = open_client(&port);

	(void)state;
	s = g.v->slot[0];
	while (!s->in.len) {
		fg_send(&g, VSOCK_OP_RW, GPORT, port, 0, data, 30000);
		total += 30000;
	}
	fg_send(&g, VSOCK_OP_SHUTDOWN, GPORT, port, VSOCK_SHUT_BOTH, NULL, 0);
	assert_int_equal(s->state, VS_OPEN);
	assert_true(s->deadline != 0);
	while ((n = hear(fd, buf, sizeof(buf))) > 0) {
		got += (size_t)n;
		fg_run(&g);
	}
	assert_int_equal(n, 0);
	assert_int_equal(got, total);
	do {
		assert_true(fg_recv(&g, &p));
	} while (p.h.op == VSOCK_OP_CREDIT_UPDATE);
	assert_int_equal(p.h.op, VSOCK_OP_RST);
	(void)close(fd);
}

static void client_vanishes_with_data_waiting(void **state)
{
	static uint8_t data[60000];
	struct vsock_stream *s;
	struct fg_packet p;
	uint32_t port;
	int fd = open_client(&port);

	(void)state;
	s = g.v->slot[0];
	while (!s->in.len)
		fg_send(&g, VSOCK_OP_RW, GPORT, port, 0, data, 30000);
	(void)close(fd);
	fg_run(&g);
	do {
		assert_true(fg_recv(&g, &p));
	} while (p.h.op != VSOCK_OP_SHUTDOWN);
	assert_int_equal(p.h.flags, VSOCK_SHUT_BOTH);
	assert_null(s->in.p);
	/* What it sends before it has heard is dropped and acknowledged. */
	fg_send(&g, VSOCK_OP_RW, GPORT, port, 0, data, 30000);
	assert_int_equal(s->in.len, 0);
	assert_int_equal(s->state, VS_OPEN);
	fg_send(&g, VSOCK_OP_RST, GPORT, port, 0, NULL, 0);
	assert_int_equal(g.v->nstreams, 0);
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
		say(sv[1], "first");
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
		must_hear(sv[1], "second");
		fg_send(&g, VSOCK_OP_RST, 6000, 77, 0, NULL, 0);
		must_be_closed(sv[1]);
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
	time_passes();
	fg_expect(&g, &p, VSOCK_OP_RST);
	/* too late: the descriptor is closed */
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, sv), 0);
	vsock_accept(g.v, dialled.cookie, sv[0]);
	must_be_closed(sv[1]);
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
	int open = open_client(&port), line = client();

	(void)state;
	say(line, "CONN");
	dial_set(-2);
	fg_send(&g, VSOCK_OP_REQUEST, 6000, 77, 0, NULL, 0);
	assert_int_equal(g.v->nstreams, 3);
	assert_int_equal(vsock_reset(g.v, 0, &e), 0);
	must_be_closed(open);
	must_be_closed(line);
	assert_int_equal(g.v->nstreams, 0);
	fg_expect_none(&g);
	(void)close(open_client(&port)); /* the listener lives on */
}

/* Readiness that was reported before the stream behind it changed. */
static void stale_events(void **state)
{
	(void)state;
	for (uint32_t i = 0; i < 65536; i += 13)
		vsock_ops.event(g.dev, i < 3 ? 3 : i, EPOLLIN | EPOLLHUP);
}

/* ---- at random ---- */

static void random_traffic(void **state)
{
	static char junk[3000];

	(void)state;
	for (uint32_t round = 1; round <= 30; round++) {
		uint32_t seed = round * 2654435761u, port[8];
		struct fg_packet p;
		int fd[8];

		fg_driver(&g);
		g.fwd_cnt = 0;
		for (int i = 0; i < 8; i++)
			fd[i] = open_client(&port[i]);
		for (int n = 0; n < 300; n++) {
			uint32_t x = fg_random(&seed), i = x % 8;

			switch (x >> 8 & 7) {
			case 0:
			case 1:
				fg_send(&g, VSOCK_OP_RW, GPORT, port[i], 0,
					junk, x >> 16 & 2047);
				break;
			case 2:
				if (fd[i] >= 0 &&
					send(fd[i], junk, x >> 16 & 2047,
						MSG_NOSIGNAL) < 0)
					fg_run(&g);
				break;
			case 3:
				if (fd[i] >= 0)
					(void)hear(fd[i], junk, sizeof(junk));
				break;
			case 4:
				if (fd[i] >= 0 && !(x >> 16 & 15)) {
					(void)close(fd[i]);
					fd[i] = -1;
				}
				break;
			case 5:
				if (!(x >> 16 & 15))
					fg_send(&g, VSOCK_OP_SHUTDOWN, GPORT,
						port[i], x >> 24, NULL, 0);
				break;
			case 6:
				if (!(x >> 16 & 31))
					fg_send(&g,
						(enum vsock_op)(x >> 24 & 7),
						GPORT, port[i], 0, NULL, 0);
				break;
			default:
				if (fg_recv(&g, &p))
					fg_kick(&g);
				break;
			}
			fg_run(&g);
		}
		for (int i = 0; i < 8; i++) {
			if (fd[i] >= 0)
				(void)close(fd[i]);
		}
		fg_run(&g);
		if (g.v->nstreams > 8)
			fail_msg("seed %u: %u streams", round, g.v->nstreams);
	}
	time_passes();
	fg_driver(&g);
	assert_int_equal(g.v->nstreams, 0);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(connect_and_talk),
		T(data_behind_the_line),
		T(line_byte_by_byte),
		T(half_close_by_the_client),
		T(half_close_by_the_guest),
		T(bulk_to_the_guest),
		T(bulk_to_the_client),
		T(bad_lines),
		T(refused),
		T(gone_before_the_answer),
		T(time_limits),
		T(too_many_clients),
		T(beyond_the_credit),
		T(slow_client_gets_all),
		T(client_vanishes_with_data_waiting),
		T(dial_now_and_later),
		T(dial_refused),
		T(dial_flood),
		T(data_before_the_answer),
		T(restore_drops_all),
		T(stale_events),
		T(random_traffic),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
