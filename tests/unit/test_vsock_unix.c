/* Clients of a machine's vsock socket: CONNECT; slow, rude and vanishing ones;
 * guests that are rude to them. What a guest opens: test_vsock_dial.c. */
#include "tests/unit/test.h"
#include "tests/unit/vsock_client.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

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

/* ---- resets during a pass ---- */

/* In place of the C library's: reads into guest memory happen while no vCPU can
 * reset the device. */
static unsigned nlocked, nreads;

/* NOLINTNEXTLINE(readability-inconsistent-declaration-parameter-name) */
ssize_t readv(int fd, const struct iovec *iov, int n)
{
	nreads++;
	if (pthread_mutex_trylock(&g.v->vd.lock))
		nlocked++;
	else
		pthread_mutex_unlock(&g.v->vd.lock);
	return (ssize_t)syscall(SYS_readv, fd, iov, n);
}

static void no_reset_while_a_buffer_is_filled(void **state)
{
	struct fg_packet p;
	uint32_t port;
	int fd = client_open(&g, &port);

	(void)state;
	nreads = nlocked = 0;
	client_say(&g, fd, "question");
	fg_expect(&g, &p, VSOCK_OP_RW);
	assert_true(nreads > 0);
	assert_int_equal(nlocked, nreads);
	(void)close(fd);
}

static size_t nheard;

static void reset_at_data(void *arg, const void *p, size_t n)
{
	(void)arg, (void)p;
	nheard += n;
	fg_set(&g, FG_R_STATUS, 0);
}

static void ended(void *arg, int err)
{
	*(int *)arg = err;
}

/* The driver resets the device while it reads a packet: its buffer is not
 * looked at again. */
static void reset_while_a_packet_is_read(void **state)
{
	static const struct vsock_stream_ops ops = {
		.data = reset_at_data, .closed = ended};
	static const char big[64 * 1024 - 100];
	struct fg_packet p;
	int err = 0;

	(void)state;
	nheard = 0;
	assert_non_null(vsock_connect(g.v, GPORT, &ops, &err));
	fg_expect(&g, &p, VSOCK_OP_REQUEST);
	fg_send(&g, VSOCK_OP_RESPONSE, GPORT, p.h.src_port, 0, NULL, 0);
	fg_send(&g, VSOCK_OP_RW, GPORT, p.h.src_port, 0, big, sizeof(big));
	assert_in_range(nheard, 1, sizeof(big) / 2);
	fg_run(&g);
	assert_int_equal(err, -ECONNRESET);
}

/* ---- well-behaved ---- */

static void connect_and_talk(void **state)
{
	struct fg_packet p;
	uint32_t port;
	int fd = client_open(&g, &port);

	(void)state;
	client_say(&g, fd, "question");
	fg_expect(&g, &p, VSOCK_OP_RW);
	assert_int_equal(p.h.src_port, port);
	assert_int_equal(p.h.len, 8);
	assert_memory_equal(p.data, "question", 8);
	fg_send(&g, VSOCK_OP_RW, GPORT, port, 0, "answer", 6);
	client_must_hear(fd, "answer");
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
	int fd = client_new();

	(void)state;
	client_say(&g, fd, "connect 5000\nhello");
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
	int fd = client_new();

	(void)state;
	for (size_t i = 0; i + 1 < sizeof(line); i++) {
		char c[2] = {line[i], '\0'};

		fg_expect_none(&g);
		client_say(&g, fd, c);
	}
	fg_expect(&g, &p, VSOCK_OP_REQUEST);
	(void)close(fd);
}

/* The event of a socket that had the slot before. */
static void event_of_another(void **state)
{
	struct fg_packet p;
	int fd = client_new();

	(void)state;
	client_say(&g, fd, "CONNECT 5000\n");
	fg_expect(&g, &p, VSOCK_OP_REQUEST);
	for (unsigned i = 0; i < VSOCK_MAX_STREAMS; i++)
		vsock_ops.event(&g.v->vd.dev, VSOCK_W_STREAM + i,
			EPOLLIN | EPOLLRDHUP | EPOLLHUP);
	fg_expect_none(&g);
	fg_send(&g, VSOCK_OP_RESPONSE, GPORT, p.h.src_port, 0, NULL, 0);
	client_say(&g, fd, "still here");
	fg_expect(&g, &p, VSOCK_OP_RW);
	(void)close(fd);
	fg_run(&g);
	fg_expect(&g, &p, VSOCK_OP_SHUTDOWN);
	assert_int_equal(p.h.flags, VSOCK_SHUT_BOTH);
}

static void half_close_by_the_client(void **state)
{
	struct fg_packet p;
	uint32_t port;
	int fd = client_open(&g, &port);

	(void)state;
	client_say(&g, fd, "all");
	assert_int_equal(shutdown(fd, SHUT_WR), 0);
	fg_run(&g);
	fg_expect(&g, &p, VSOCK_OP_RW);
	fg_expect(&g, &p, VSOCK_OP_SHUTDOWN);
	assert_int_equal(p.h.flags, VSOCK_SHUT_SEND);
	fg_send(&g, VSOCK_OP_RW, GPORT, port, 0, "the sum", 7);
	client_must_hear(fd, "the sum");
	fg_send(&g, VSOCK_OP_SHUTDOWN, GPORT, port, VSOCK_SHUT_BOTH, NULL, 0);
	fg_expect(&g, &p, VSOCK_OP_RST);
	client_must_be_closed(&g, fd);
	assert_int_equal(g.v->nstreams, 0);
}

static void half_close_by_the_guest(void **state)
{
	struct fg_packet p;
	uint32_t port;
	char buf[8];
	int fd = client_open(&g, &port);

	(void)state;
	fg_send(&g, VSOCK_OP_RW, GPORT, port, 0, "last", 4);
	fg_send(&g, VSOCK_OP_SHUTDOWN, GPORT, port, VSOCK_SHUT_SEND, NULL, 0);
	client_must_hear(fd, "last");
	assert_int_equal(client_hear(fd, buf, sizeof(buf)), 0);
	client_say(&g, fd, "but I go on");
	fg_expect(&g, &p, VSOCK_OP_RW);
	assert_int_equal(p.h.len, 11);
	/* more data from there would break its word */
	fg_send(&g, VSOCK_OP_RW, GPORT, port, 0, "x", 1);
	fg_expect(&g, &p, VSOCK_OP_RST);
	client_must_be_closed(&g, fd);
}

static void bulk_to_the_guest(void **state)
{
	static uint8_t data[300000];
	uint32_t port, seed = 3;
	size_t sent = 0, got = 0;
	struct fg_packet p;
	int fd = client_open(&g, &port);

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
	int fd = client_open(&g, &port);

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
		n = client_hear(fd, buf, sizeof(buf));
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
		int fd = client_new();

		client_say(&g, fd, bad[i]);
		client_must_be_closed(&g, fd);
		fg_expect_none(&g);
		assert_int_equal(g.v->nstreams, 0);
	}
	{
		int fd = client_new();
		struct fg_packet p;

		client_say(&g, fd, "CONNECT 4294967294\r\n");
		fg_expect(&g, &p, VSOCK_OP_REQUEST);
		assert_int_equal(p.h.dst_port, 4294967294);
		(void)close(fd);
	}
}

static void refused(void **state)
{
	struct fg_packet p;
	int fd = client_new();

	(void)state;
	client_say(&g, fd, "CONNECT 5000\n");
	fg_expect(&g, &p, VSOCK_OP_REQUEST);
	fg_send(&g, VSOCK_OP_RST, GPORT, p.h.src_port, 0, NULL, 0);
	client_must_be_closed(&g, fd);
	assert_int_equal(g.v->nstreams, 0);
}

static void gone_before_the_answer(void **state)
{
	struct fg_packet p;
	int fd = client_new();

	(void)state;
	client_say(&g, fd, "CONNECT 5000\n");
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
	int silent = client_new(), asked = client_new(), shut;

	(void)state;
	client_say(&g, silent, "CONN");
	client_say(&g, asked, "CONNECT 5000\n");
	fg_expect(&g, &p, VSOCK_OP_REQUEST);
	assert_true(g.v->timer_fd >= 0);
	client_time_passes(&g);
	client_must_be_closed(&g, silent);
	client_must_be_closed(&g, asked);
	fg_expect(&g, &p, VSOCK_OP_RST);
	/* a guest that never confirms the end */
	shut = client_open(&g, &port);
	(void)close(shut);
	fg_run(&g);
	fg_expect(&g, &p, VSOCK_OP_SHUTDOWN);
	assert_int_equal(g.v->nstreams, 1);
	client_time_passes(&g);
	fg_expect(&g, &p, VSOCK_OP_RST);
	assert_int_equal(g.v->nstreams, 0);
}

static void too_many_clients(void **state)
{
	static int fd[VSOCK_MAX_STREAMS + 20];
	unsigned closed = 0;

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(fd); i++) {
		fd[i] = client_new();
		fg_run(&g);
	}
	assert_int_equal(g.v->nstreams, VSOCK_MAX_STREAMS);
	for (unsigned i = 0; i < ARRAY_SIZE(fd); i++) {
		char c[2];

		closed += client_hear(fd[i], c, sizeof(c)) == 0;
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
	int fd = client_open(&g, &port), other;
	uint32_t other_port;

	(void)state;
	s = g.v->slot[0];
	other = client_open(&g, &other_port);
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
	client_must_hear(other, "fine");
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
	int fd = client_open(&g, &port);

	(void)state;
	s = g.v->slot[0];
	while (!s->in.len) {
		fg_send(&g, VSOCK_OP_RW, GPORT, port, 0, data, 30000);
		total += 30000;
	}
	fg_send(&g, VSOCK_OP_SHUTDOWN, GPORT, port, VSOCK_SHUT_BOTH, NULL, 0);
	assert_int_equal(s->state, VS_OPEN);
	assert_true(s->deadline != 0);
	while ((n = client_hear(fd, buf, sizeof(buf))) > 0) {
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
	int fd = client_open(&g, &port);

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

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(no_reset_while_a_buffer_is_filled),
		T(reset_while_a_packet_is_read),
		T(connect_and_talk),
		T(data_behind_the_line),
		T(line_byte_by_byte),
		T(event_of_another),
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
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
