/*
 * libthaw against a server that is a thread of this test: it sends whatever
 * bytes a case wants, well-formed or not.
 */
#include "tests/unit/test.h"

#include "api/thaw.h"
#include "core/mp.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

struct fixture {
	char dir[32], path[64];
	int listener, peer;
	struct thaw *t;
};

static int set_up(void **state)
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	struct fixture *f = calloc(1, sizeof(*f));
	struct thaw_error e;

	assert_non_null(f);
	strcpy(f->dir, "/tmp/thaw-client-XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	(void)snprintf(f->path, sizeof(f->path), "%s/s", f->dir);
	strcpy(sa.sun_path, f->path);
	f->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(
		bind(f->listener, (struct sockaddr *)&sa, sizeof(sa)), 0);
	assert_int_equal(listen(f->listener, 1), 0);
	assert_int_equal(thaw_connect(f->path, &f->t, &e), THAW_OK);
	f->peer = accept(f->listener, NULL, NULL);
	assert_true(f->peer >= 0);
	*state = f;
	return 0;
}

static int tear_down(void **state)
{
	struct fixture *f = *state;

	thaw_close(f->t);
	close(f->peer);
	close(f->listener);
	unlink(f->path);
	rmdir(f->dir);
	free(f);
	return 0;
}

static void say(const struct fixture *f, const void *bytes, size_t len)
{
	assert_int_equal(write_full(f->peer, bytes, len), 0);
}
#define SAY(f, bytes) say(f, bytes, sizeof(bytes) - 1)

/* An answer with any id: [1, id, nil, {"n": n}]. */
static void answer(const struct fixture *f, uint32_t id, uint32_t n)
{
	msgpack_sbuffer buf;
	msgpack_packer p;

	msgpack_sbuffer_init(&buf);
	msgpack_packer_init(&p, &buf, msgpack_sbuffer_write);
	(void)msgpack_pack_array(&p, 4);
	(void)msgpack_pack_int(&p, 1);
	(void)msgpack_pack_uint32(&p, id);
	(void)msgpack_pack_nil(&p);
	(void)msgpack_pack_map(&p, 1);
	mp_key_u64(&p, "n", n);
	say(f, buf.data, buf.size);
	msgpack_sbuffer_destroy(&buf);
}

static uint32_t request(struct fixture *f)
{
	struct thaw_error e;
	uint32_t id = 0;

	(void)thaw_request(f->t, "m", 0);
	assert_int_equal(thaw_send(f->t, &id, &e), THAW_OK);
	assert_int_not_equal(id, 0);
	return id;
}

static void test_request_bytes(void **state)
{
	static const char want[] = "\x94\x00\x01\xa5"
				   "clone\x91\x82\xa8"
				   "template\xa1t\xa5"
				   "count\x02";
	struct fixture *f = *state;
	struct thaw_error e;
	msgpack_packer *p;
	char buf[128];
	uint32_t id;

	p = thaw_request(f->t, "clone", 2);
	thaw_pack_str(p, "template", "t");
	thaw_pack_u64(p, "count", 2);
	assert_int_equal(thaw_send(f->t, &id, &e), THAW_OK);
	assert_int_equal(read(f->peer, buf, sizeof(buf)), sizeof(want) - 1);
	assert_memory_equal(buf, want, sizeof(want) - 1);
}

static void test_answers_in_any_order(void **state)
{
	struct fixture *f = *state;
	uint32_t a = request(f), b = request(f), c = request(f), id;
	struct thaw_result r;
	struct thaw_error e;

	answer(f, c, 3);
	answer(f, a, 1);
	answer(f, b, 2);
	assert_int_equal(thaw_wait(f->t, b, -1, &r, &e), THAW_OK);
	assert_int_equal(thaw_get_u64(r.value, "n", 0), 2);
	thaw_result_free(&r);
	assert_int_equal(thaw_buffered(f->t), 2);
	assert_int_equal(thaw_next(f->t, -1, &id, &r, &e), THAW_OK);
	assert_int_equal(id, c);
	thaw_result_free(&r);
	assert_int_equal(thaw_next(f->t, -1, &id, &r, &e), THAW_OK);
	assert_int_equal(id, a);
	thaw_result_free(&r);
	/* The list's end was taken out of the middle: it still grows. */
	a = request(f);
	answer(f, a, 4);
	assert_int_equal(thaw_wait(f->t, a, 1000, &r, &e), THAW_OK);
	assert_int_equal(thaw_get_u64(r.value, "n", 0), 4);
	thaw_result_free(&r);
}

/* Byte by byte, and two in one write. */
static void test_pieces(void **state)
{
	static const char bytes[] = "\x94\x01\x01\xc0\x81\xa1n\x05";
	struct fixture *f = *state;
	uint32_t id = request(f);
	struct thaw_result r;
	struct thaw_error e;

	for (size_t i = 0; i + 1 < sizeof(bytes) - 1; i++) {
		say(f, bytes + i, 1);
		assert_int_equal(thaw_wait(f->t, id, 0, &r, &e), THAW_TIMEOUT);
	}
	say(f, bytes + sizeof(bytes) - 2, 1);
	assert_int_equal(thaw_wait(f->t, id, -1, &r, &e), THAW_OK);
	assert_int_equal(thaw_get_u64(r.value, "n", 0), 5);
	thaw_result_free(&r);
}

static void test_errors(void **state)
{
	struct fixture *f = *state;
	struct thaw_result r;
	struct thaw_error e;
	uint32_t id = request(f), got;

	SAY(f, "\x94\x01\x01\x82\xa4"
	       "code\xa9"
	       "not_found\xa7"
	       "message\xa4"
	       "none\xc0");
	assert_int_equal(thaw_next(f->t, -1, &got, &r, &e), THAW_NOT_FOUND);
	assert_int_equal(got, id);
	assert_int_equal(e.code, THAW_NOT_FOUND);
	assert_string_equal(e.message, "none");
	/* Unknown codes and shapes are still errors. */
	id = request(f);
	SAY(f, "\x94\x01\x02\xa3yes\xc0");
	assert_int_equal(thaw_wait(f->t, id, -1, &r, &e), THAW_INTERNAL);
	assert_null(r.value);
}

struct notes {
	unsigned n;
	uint64_t last;
};

static void on_notify(
	void *arg, const char *method, const msgpack_object *params)
{
	struct notes *notes = arg;

	assert_string_equal(method, "event");
	notes->n++;
	notes->last = thaw_get_u64(params, "x", 0);
}

static void test_notifications(void **state)
{
	struct fixture *f = *state;
	uint32_t id = request(f);
	struct notes notes = {0};
	struct thaw_result r;
	struct thaw_error e;

	thaw_on_notify(f->t, on_notify, &notes);
	SAY(f, "\x93\x02\xa5"
	       "event\x91\x81\xa1x\x07"
	       "\x93\x02\xa5"
	       "event\x91\x81\xa1x\x08");
	answer(f, id, 1);
	assert_int_equal(thaw_wait(f->t, id, -1, &r, &e), THAW_OK);
	thaw_result_free(&r);
	assert_int_equal(notes.n, 2);
	assert_int_equal(notes.last, 8);
}

/* Every one of these ends the connection with an error, and nothing else. */
static void hostile(struct fixture *f, const void *bytes, size_t len)
{
	uint32_t id = request(f);
	struct thaw_result r;
	struct thaw_error e = {0};
	int rc;

	say(f, bytes, len);
	shutdown(f->peer, SHUT_WR);
	rc = thaw_wait(f->t, id, 2000, &r, &e);
	assert_true(rc == THAW_PROTOCOL || rc == THAW_CLOSED);
	assert_int_equal(e.code, rc);
	assert_true(strlen(e.message) > 10);
	assert_null(r.value);
	/* It stays broken. */
	(void)thaw_request(f->t, "m", 0);
	assert_int_equal(thaw_send(f->t, &id, &e), rc);
}

static void test_hostile(void **state)
{
#define ROW(s)                                                                 \
	{                                                                      \
		s, sizeof(s) - 1                                               \
	}
	static const struct {
		const char *bytes;
		size_t len;
	} rows[] = {
		ROW(""),
		ROW("\xc1"),
		ROW("hello"),
		ROW("HTTP/1.1 400 Bad Request\r\n\r\n"),
		ROW("\x94\x01\x01\xc0"),
		ROW("\x94\x07\x01\xc0\xc0"),
		ROW("\x93\x01\x01\xc0"),
		ROW("\x94\x01\xa1x\xc0\xc0"),
		ROW("\x94\x01\xcf\xff\xff\xff\xff\xff\xff\xff\xff\xc0\xc0"),
		ROW("\x94\x01\xff\xc0\xc0"),
		ROW("\x94\x01\xc0\xc0\xc0"),
		ROW("\x93\x02\x01\x90"),
		ROW("\x93\x02\xa1x\x80"),
		/* Four billion elements, a 4 GiB string: not allocated. */
		ROW("\xdd\xff\xff\xff\xff"),
		ROW("\x94\x01\x01\xc0\xdb\xff\xff\xff\xff"),
		ROW("\x94\x01\x01\xc0\xdf\xff\xff\xff\xff"),
		ROW("\x94\x01\x01\xc0\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91"
		    "\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\xc0"),
	};
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		void *one;

		set_up(&one);
		hostile(one, rows[i].bytes, rows[i].len);
		tear_down(&one);
	}
}

/* Random bytes never do more than fail. */
static void test_noise(void **state)
{
	uint64_t x = 88172645463325252ULL;

	(void)state;
	for (int round = 0; round < 300; round++) {
		uint8_t bytes[64];
		struct thaw_result r;
		struct thaw_error e;
		struct fixture *f;
		void *one;
		uint32_t id;
		int rc;

		for (size_t i = 0; i < sizeof(bytes); i++) {
			x ^= x << 13;
			x ^= x >> 7;
			x ^= x << 17;
			bytes[i] = (uint8_t)x;
		}
		memcpy(bytes, "\x94\x01\x01\xc0", 4);
		set_up(&one);
		f = one;
		id = request(f);
		say(f, bytes, sizeof(bytes));
		shutdown(f->peer, SHUT_WR);
		rc = thaw_wait(f->t, id, 2000, &r, &e);
		if (rc == THAW_OK)
			thaw_result_free(&r);
		tear_down(&one);
	}
}

/* A daemon that first wants its answers taken: sending must read. */
static void *slow_server(void *arg)
{
	static uint8_t junk[1 << 16];
	struct fixture *f = arg;
	size_t got = 0;

	/* More than any socket buffer holds, before a byte is read. */
	for (uint32_t i = 0; i < 200000; i++)
		answer(f, 1000000 + i, i);
	while (got < 8 * MIB) {
		ssize_t n = read(f->peer, junk, sizeof(junk));

		if (n <= 0)
			break;
		got += (size_t)n;
	}
	answer(f, 1, 99);
	return NULL;
}

static void test_no_deadlock(void **state)
{
	struct fixture *f = *state;
	uint8_t *big = calloc(1, 8 * MIB);
	struct thaw_result r;
	struct thaw_error e;
	pthread_t thread;

	assert_non_null(big);
	assert_int_equal(pthread_create(&thread, NULL, slow_server, f), 0);
	thaw_pack_data(thaw_request(f->t, "m", 1), "payload", big, 8 * MIB);
	assert_int_equal(thaw_call(f->t, 20000, &r, &e), THAW_OK);
	assert_int_equal(thaw_get_u64(r.value, "n", 0), 99);
	thaw_result_free(&r);
	assert_int_equal(thaw_buffered(f->t), 200000);
	pthread_join(thread, NULL);
	free(big);
}

static void test_descriptors(void **state)
{
	struct fixture *f = *state;
	char buf[64], ctl[CMSG_SPACE(8 * sizeof(int))];
	struct iovec iov = {buf, sizeof(buf)};
	struct msghdr mh = {.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = ctl,
		.msg_controllen = sizeof(ctl)};
	int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	struct stat a, b;
	struct thaw_error e;
	struct cmsghdr *c;
	msgpack_packer *p;
	uint32_t id;
	int got;

	p = thaw_request(f->t, "m", 1);
	thaw_pack_fd(f->t, p, "path", fd);
	assert_int_equal(thaw_send(f->t, &id, &e), THAW_OK);
	assert_true(recvmsg(f->peer, &mh, 0) > 0);
	c = CMSG_FIRSTHDR(&mh);
	if (!c) {
		fail_msg("no descriptor came");
		return;
	}
	memcpy(&got, CMSG_DATA(c), sizeof(got));
	assert_int_equal(fstat(fd, &a), 0);
	assert_int_equal(fstat(got, &b), 0);
	assert_int_equal(a.st_rdev, b.st_rdev);
	close(got);
	p = thaw_request(f->t, "m", THAW_MAX_FDS + 1);
	for (int i = 0; i <= THAW_MAX_FDS; i++)
		thaw_pack_fd(f->t, p, "path", fd);
	assert_int_equal(thaw_send(f->t, &id, &e), THAW_INVALID);
	close(fd);
}

static void test_connecting(void **state)
{
	char buf[128], longer[300];
	struct thaw_error e;
	struct thaw *t;

	(void)state;
	assert_int_equal(thaw_connect("/nonexistent/s", &t, &e), THAW_CONNECT);
	assert_null(t);
	memset(longer, 'x', sizeof(longer) - 1);
	longer[sizeof(longer) - 1] = 0;
	assert_int_equal(thaw_connect(longer, &t, &e), THAW_INVALID);
	assert_int_equal(thaw_connect("", &t, &e), THAW_INVALID);
	setenv("THAW_SOCKET", "/a/b", 1);
	setenv("XDG_RUNTIME_DIR", "/run/user/7", 1);
	assert_int_equal(thaw_default_socket(buf, sizeof(buf)), 4);
	assert_string_equal(buf, "/a/b");
	assert_int_equal(thaw_default_socket(buf, 4), 0);
	unsetenv("THAW_SOCKET");
	(void)thaw_default_socket(buf, sizeof(buf));
	assert_string_equal(buf, "/run/user/7/thaw.sock");
	unsetenv("XDG_RUNTIME_DIR");
	(void)thaw_default_socket(buf, sizeof(buf));
	assert_string_equal(buf, "/run/thaw/thaw.sock");
	assert_string_equal(thaw_code_name(THAW_NOT_FOUND), "not_found");
	assert_string_equal(thaw_code_name((enum thaw_code)99), "internal");
}

/* global: what a signal handler would set. */
static volatile sig_atomic_t flag;

static void test_interrupt(void **state)
{
	struct fixture *f = *state;
	uint32_t id = request(f);
	struct thaw_result r;
	struct thaw_error e;

	flag = 1;
	thaw_interrupt_on(f->t, &flag);
	assert_int_equal(thaw_wait(f->t, id, -1, &r, &e), THAW_INTERRUPTED);
	assert_int_equal(thaw_wait(f->t, id, 1000, &r, &e), THAW_INTERRUPTED);
	/* The connection is as good as before. */
	flag = 0;
	answer(f, id, 6);
	assert_int_equal(thaw_wait(f->t, id, -1, &r, &e), THAW_OK);
	thaw_result_free(&r);
}

#define CASE(fn) cmocka_unit_test_setup_teardown(fn, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(test_request_bytes),
		CASE(test_answers_in_any_order),
		CASE(test_pieces),
		CASE(test_errors),
		CASE(test_notifications),
		cmocka_unit_test(test_hostile),
		cmocka_unit_test(test_noise),
		CASE(test_no_deadlock),
		CASE(test_descriptors),
		cmocka_unit_test(test_connecting),
		CASE(test_interrupt),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
