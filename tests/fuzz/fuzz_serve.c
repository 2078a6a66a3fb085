/*
 * A client of thaw pager that says anything. The server must neither crash nor
 * hang, and every READ that it promises an answer for is inside the file. The
 * directory that it serves is empty but for one small snapshot; the input is
 * what the client sends after a greeting (or instead of one, by its first bit).
 */
#include "api/cli/serve.h"
#include "tests/unit/snap_fake.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define INPUT_LIMIT 4096

/* One table, with one file: made at the first input, and never again. */
static struct serve_files *files_once(void)
{
	static struct serve_files files; /* for all inputs of the process */
	static int ready;
	struct served *s;
	struct image img;
	struct snap_peeked is;
	char dir[] = "/tmp/thaw-fuzz-XXXXXX";
	struct err e = {0};

	if (ready)
		return &files;
	ready = 1;
	if (!mkdtemp(dir) || serve_files_open(&files, dir, &e) || rmdir(dir))
		abort();
	s = calloc(1, sizeof(*s));
	if (!s)
		abort();
	image_make(&img);
	s->fd = fake_file();
	image_store(&img, s->fd);
	if (snap_peek(s->fd, &is, &e))
		abort();
	s->length = img.n;
	(void)snprintf(s->name, sizeof(s->name), "a");
	/* Uuid and digest of zeros: what a fuzzer finds soon. */
	files.file[files.n++] = s;
	image_free(&img);
	return &files;
}

static void check_answers(int fd)
{
	struct remote_answer a;
	static uint8_t buf[64 * 1024]; /* what nobody looks at */

	while (recv(fd, &a, sizeof(a), MSG_WAITALL) == sizeof(a)) {
		uint32_t left = a.length;

		if (a.status >= REMOTE_NSTATUS_ || left > REMOTE_MAX_READ)
			abort();
		while (left) {
			ssize_t n =
				recv(fd, buf, min_u64(left, sizeof(buf)), 0);

			if (n <= 0)
				abort();
			left -= (uint32_t)n;
		}
	}
}

struct conn {
	struct serve_files *files;
	int fd, stop;
};

static void *conn_main(void *arg)
{
	static const struct serve_limits limits = {60000, 60000};
	struct conn *c = arg;

	serve_conn(c->files, c->fd, c->stop, &limits);
	(void)shutdown(c->fd, SHUT_RDWR);
	return NULL;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct remote_hello h = {.version = REMOTE_VERSION};
	struct conn c = {.files = files_once()};
	pthread_t t;
	int pair[2];

	if (!size || size > INPUT_LIMIT)
		return 0;
	c.stop = eventfd(0, EFD_CLOEXEC);
	if (c.stop < 0 || socketpair(AF_UNIX, SOCK_STREAM, 0, pair) ||
		fcntl(pair[1], F_SETFL, O_NONBLOCK))
		abort();
	c.fd = pair[1];
	memcpy(h.magic, REMOTE_MAGIC, sizeof(h.magic));
	if (!(data[0] & 1))
		(void)!send(pair[0], &h, sizeof(h), MSG_NOSIGNAL);
	(void)!send(pair[0], data + 1, size - 1, MSG_NOSIGNAL);
	(void)shutdown(pair[0], SHUT_WR);
	if (pthread_create(&t, NULL, conn_main, &c))
		abort();
	if (recv(pair[0], &h, sizeof(h), MSG_WAITALL) == sizeof(h))
		check_answers(pair[0]);
	(void)pthread_join(t, NULL);
	(void)close(pair[0]);
	(void)close(pair[1]);
	(void)close(c.stop);
	return 0;
}
