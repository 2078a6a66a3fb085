/* What thaw pager answers, and how it gets rid of clients that say nonsense,
 * nothing, or do not listen. */
#include "api/cli/serve.h"
#include "tests/unit/snap_fake.h"
#include "tests/unit/test.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>

/* Long enough for any host; short where it is to come to that. */
#define PATIENT   60000
#define IMPATIENT 200

struct rig {
	char dir[32];
	struct serve_files files;
	struct serve_limits limits;
	struct remote_file is;
	struct image img;
	int pair[2], stop;
	pthread_t thread;
};

static void put_file(
	const struct rig *r, const char *name, const void *p, size_t n)
{
	char path[80];
	int fd;

	(void)snprintf(path, sizeof(path), "%s/%s", r->dir, name);
	fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	assert_int_equal(write_full(fd, p, n), 0);
	(void)close(fd);
}

static void *conn_main(void *arg)
{
	struct rig *r = arg;

	serve_conn(&r->files, r->pair[1], r->stop, &r->limits);
	(void)shutdown(r->pair[1], SHUT_RDWR);
	return NULL;
}

static void say(struct rig *r, const void *p, size_t n)
{
	(void)!send(r->pair[0], p, n, MSG_NOSIGNAL);
}

static bool hear(struct rig *r, void *p, size_t n)
{
	return recv(r->pair[0], p, n, MSG_WAITALL) == (ssize_t)n;
}

static void begin(struct rig *r)
{
	assert_int_equal(
		socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, r->pair), 0);
	assert_int_equal(fcntl(r->pair[1], F_SETFL, O_NONBLOCK), 0);
	assert_int_equal(pthread_create(&r->thread, NULL, conn_main, r), 0);
}

static void greet(struct rig *r)
{
	struct remote_hello h = {.version = REMOTE_VERSION};

	memcpy(h.magic, REMOTE_MAGIC, sizeof(h.magic));
	say(r, &h, sizeof(h));
	assert_true(hear(r, &h, sizeof(h)));
	assert_null(remote_check_hello(&h));
}

/* It has hung up, or does now: nothing more comes than was heard. */
static void is_over(struct rig *r)
{
	char c;

	assert_true(recv(r->pair[0], &c, 1, 0) <= 0);
	(void)pthread_join(r->thread, NULL);
	(void)close(r->pair[0]);
	(void)close(r->pair[1]);
}

static void end(struct rig *r)
{
	(void)shutdown(r->pair[0], SHUT_WR);
	is_over(r);
}

static void init(struct rig *r)
{
	struct snap_peeked is;
	struct err e = {0};
	char path[80];
	int fd = fake_file();

	memset(r, 0, sizeof(*r));
	r->limits = (struct serve_limits){PATIENT, PATIENT};
	(void)snprintf(r->dir, sizeof(r->dir), "/tmp/thaw-serve-XXXXXX");
	assert_non_null(mkdtemp(r->dir));
	image_make(&r->img);
	image_store(&r->img, fd);
	assert_int_equal(snap_peek(fd, &is, &e), 0);
	(void)close(fd);
	r->is.uuid = is.uuid;
	memcpy(r->is.digest, is.digest, 16);
	put_file(r, "a.thaw", r->img.p, r->img.n);
	put_file(r, "text", "no snapshot", 11);
	put_file(r, "cut.thaw", r->img.p, r->img.n - 4096);
	(void)snprintf(path, sizeof(path), "%s/link", r->dir);
	assert_int_equal(symlink("a.thaw", path), 0);
	(void)snprintf(path, sizeof(path), "%s/fifo", r->dir);
	assert_int_equal(mkfifo(path, 0600), 0);
	r->stop = eventfd(0, EFD_CLOEXEC);
	assert_int_equal(serve_files_open(&r->files, r->dir, &e), 0);
	assert_int_equal(r->files.n, 1);
}

static void fini(struct rig *r)
{
	DIR *d = opendir(r->dir);
	struct dirent *de;

	assert_non_null(d);
	while ((de = readdir(d)))
		(void)unlinkat(dirfd(d), de->d_name, 0);
	(void)closedir(d);
	assert_int_equal(rmdir(r->dir), 0);
	serve_files_close(&r->files);
	(void)close(r->stop);
	image_free(&r->img);
}

static struct remote_request request(
	const struct rig *r, uint32_t type, uint64_t offset, uint32_t length)
{
	struct remote_request q = {
		.type = type, .id = 7, .offset = offset, .length = length};

	memcpy(q.uuid, r->is.uuid.b, 16);
	memcpy(q.digest, r->is.digest, 16);
	return q;
}

static struct remote_answer ask(struct rig *r, const struct remote_request *q)
{
	struct remote_answer a;

	say(r, q, sizeof(*q));
	assert_true(hear(r, &a, sizeof(a)));
	assert_true(a.type == q->type && a.id == q->id);
	return a;
}

static void drop(struct rig *r, uint32_t n)
{
	char c;

	while (n--)
		assert_true(hear(r, &c, 1));
}

static void answers(void **state)
{
	uint8_t buf[4096];
	struct remote_answer a;
	struct remote_request q;
	struct rig r;

	(void)state;
	init(&r);
	begin(&r);
	greet(&r);
	q = request(&r, REMOTE_STAT, 0, 0);
	a = ask(&r, &q);
	assert_true(!a.status && !a.length && !a.set_length);
	assert_int_equal(a.file_length, r.img.n);
	for (uint64_t at = 0; at < r.img.n; at += 4096) {
		q = request(&r, REMOTE_READ, at, 4096);
		a = ask(&r, &q);
		assert_true(!a.status && a.length == 4096);
		assert_true(hear(&r, buf, 4096));
		assert_memory_equal(buf, r.img.p + at, 4096);
	}
	/* No such file is an answer like others. */
	q.digest[3] ^= 1;
	a = ask(&r, &q);
	assert_int_equal(a.status, REMOTE_NOT_FOUND);
	drop(&r, a.length);
	q = request(&r, REMOTE_READ, 0, 10);
	q.part = REMOTE_PART_SET;
	a = ask(&r, &q);
	assert_int_equal(a.status, REMOTE_NOT_FOUND);
	drop(&r, a.length);
	put_file(&r, "a.thaw.ws", "0123456789", 10);
	a = ask(&r, &q);
	assert_int_equal(a.status, REMOTE_OK);
	assert_true(hear(&r, buf, 10));
	assert_memory_equal(buf, "0123456789", 10);
	end(&r);
	fini(&r);
}

static void nonsense(void **state)
{
	static const struct remote_request bad[] = {
		{.type = 0},
		{.type = 3},
		{.type = REMOTE_STAT, .length = 1},
		{.type = REMOTE_STAT, .offset = 1},
		{.type = REMOTE_STAT, .part = 1},
		{.type = REMOTE_READ},
		{.type = REMOTE_READ, .length = REMOTE_MAX_READ + 1},
		{.type = REMOTE_READ, .length = UINT32_MAX},
		{.type = REMOTE_READ, .length = 1, .part = 2},
		{.type = REMOTE_READ, .length = 1, .reserved = 1},
		{.type = REMOTE_READ, .length = 1, .offset = 1ULL << 40},
		{.type = REMOTE_READ, .length = 9, .offset = UINT64_MAX - 4},
	};
	struct remote_answer a;
	struct rig r;

	(void)state;
	init(&r);
	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		struct remote_request q = bad[i];

		memcpy(q.uuid, r.is.uuid.b, 16);
		memcpy(q.digest, r.is.digest, 16);
		begin(&r);
		greet(&r);
		a = ask(&r, &q);
		assert_int_equal(a.status, REMOTE_INVALID);
		assert_true(a.length <= REMOTE_MAX_TEXT);
		drop(&r, a.length);
		is_over(&r);
	}
	begin(&r);
	say(&r, "GET / HTTP/1.1\r\n", 16);
	is_over(&r);
	fini(&r);
}

/* Another version hears which one is spoken here. */
static void other_version(void **state)
{
	struct remote_hello h = {.version = REMOTE_VERSION + 1};
	struct rig r;

	(void)state;
	init(&r);
	memcpy(h.magic, REMOTE_MAGIC, sizeof(h.magic));
	begin(&r);
	say(&r, &h, sizeof(h));
	assert_true(hear(&r, &h, sizeof(h)));
	assert_int_equal(h.version, REMOTE_VERSION);
	is_over(&r);
	fini(&r);
}

static void silence(void **state)
{
	uint64_t start = now_ns();
	struct remote_request q;
	struct rig r;

	(void)state;
	init(&r);
	r.limits = (struct serve_limits){IMPATIENT, IMPATIENT};
	/* no greeting; no request; half of one */
	begin(&r);
	is_over(&r);
	begin(&r);
	greet(&r);
	is_over(&r);
	begin(&r);
	greet(&r);
	q = request(&r, REMOTE_READ, 0, 4096);
	say(&r, &q, 20);
	is_over(&r);
	/* asks and asks, and takes nothing */
	begin(&r);
	greet(&r);
	for (unsigned i = 0; i < 2000; i++) {
		if (send(r.pair[0], &q, sizeof(q),
			    MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
			break;
	}
	(void)pthread_join(r.thread, NULL);
	(void)close(r.pair[0]);
	(void)close(r.pair[1]);
	assert_true(now_ns() - start < PATIENT * 1000000ULL);
	fini(&r);
}

static void stopped(void **state)
{
	uint64_t one = 1, start = now_ns();
	struct rig r;

	(void)state;
	init(&r);
	begin(&r);
	greet(&r);
	assert_int_equal(write(r.stop, &one, sizeof(one)), sizeof(one));
	is_over(&r);
	assert_true(now_ns() - start < PATIENT * 1000000ULL);
	fini(&r);
}

/* A file that became shorter: that is said, and nothing comes in place of what
 * is gone; what is there still comes. */
static void file_shrinks(void **state)
{
	struct remote_request q;
	struct remote_answer a;
	char path[80];
	struct rig r;

	(void)state;
	init(&r);
	begin(&r);
	greet(&r);
	(void)snprintf(path, sizeof(path), "%s/a.thaw", r.dir);
	assert_int_equal(truncate(path, 100), 0);
	q = request(&r, REMOTE_READ, 0, 4096);
	a = ask(&r, &q);
	assert_int_equal(a.status, REMOTE_BROKEN);
	assert_true(a.length > 10 && a.length <= REMOTE_MAX_TEXT);
	drop(&r, a.length);
	q = request(&r, REMOTE_READ, 0, 100);
	a = ask(&r, &q);
	assert_int_equal(a.status, REMOTE_OK);
	assert_int_equal(a.length, 100);
	drop(&r, 100);
	end(&r);
	fini(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(answers),
		cmocka_unit_test(nonsense),
		cmocka_unit_test(other_version),
		cmocka_unit_test(silence),
		cmocka_unit_test(stopped),
		cmocka_unit_test(file_shrinks),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
