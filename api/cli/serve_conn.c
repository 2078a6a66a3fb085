/* One client of a pager: it asks, one thing after the other. */
#include "api/cli/serve.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>

struct client {
	struct serve_files *files;
	const struct serve_limits *limits;
	int fd, stop; /* borrowed */
};

/* Until fd is ready; false: it is time to end. */
static bool ready(const struct client *c, short events, unsigned ms)
{
	struct pollfd p[2] = {{.fd = c->fd, .events = events},
		{.fd = c->stop, .events = POLLIN}};
	int n;

	do
		n = poll(p, 2, (int)ms);
	while (n < 0 && errno == EINTR);
	return n > 0 && !p[1].revents;
}

/* first_ms: how long nothing at all may come. */
static bool get(
	const struct client *c, void *buf, size_t len, unsigned first_ms)
{
	uint64_t until = now_ns() + first_ms * 1000000ULL;
	uint8_t *p = buf;
	size_t have = 0;

	while (have < len) {
		uint64_t now = now_ns();
		ssize_t n;

		if (now >= until ||
			!ready(c, POLLIN,
				(unsigned)((until - now) / 1000000) + 1))
			return false;
		n = recv(c->fd, p + have, len - have, MSG_DONTWAIT);
		if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
			return false;
		if (n > 0 && !have)
			until = now_ns() + c->limits->stall_ms * 1000000ULL;
		have += n > 0 ? (size_t)n : 0;
	}
	return true;
}

static bool put(const struct client *c, const void *buf, size_t len, int flags)
{
	const uint8_t *p = buf;

	while (len) {
		ssize_t n = send(
			c->fd, p, len, MSG_NOSIGNAL | MSG_DONTWAIT | flags);

		if (n < 0 && errno != EAGAIN && errno != EINTR)
			return false;
		if (n <= 0 && !ready(c, POLLOUT, c->limits->stall_ms))
			return false;
		p += n > 0 ? n : 0;
		len -= n > 0 ? (size_t)n : 0;
	}
	return true;
}

/* Never through memory of ours. The socket does not block. */
static bool put_file(const struct client *c, int from, off_t at, size_t len)
{
	while (len) {
		ssize_t n = sendfile(c->fd, from, &at, len);

		if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
			return false;
		if (n < 0 && !ready(c, POLLOUT, c->limits->stall_ms))
			return false;
		len -= n > 0 ? (size_t)n : 0;
	}
	return true;
}

static bool refuse(const struct client *c, const struct remote_request *q,
	enum remote_status status, const char *text)
{
	struct remote_answer a = {.type = q->type,
		.id = q->id,
		.status = status,
		.length = (uint32_t)strlen(text)};

	return put(c, &a, sizeof(a), MSG_MORE) && put(c, text, a.length, 0) &&
	       status != REMOTE_INVALID;
}

static bool answer_stat(const struct client *c, const struct remote_request *q,
	const struct served *f)
{
	struct remote_answer a = {
		.type = q->type, .id = q->id, .file_length = f->length};
	AUTO_FD set = serve_set(c->files, f, &a.set_length);

	if (set < 0)
		a.set_length = 0;
	return put(c, &a, sizeof(a), 0);
}

/* Somebody may have cut it off since it was found. */
static bool is_whole(int fd, uint64_t length)
{
	struct stat st;

	return !fstat(fd, &st) && (uint64_t)st.st_size >= length;
}

static bool answer_read(const struct client *c, const struct remote_request *q,
	const struct served *f)
{
	struct remote_answer a = {
		.type = q->type, .id = q->id, .length = q->length};
	uint64_t length = f->length;
	AUTO_FD set = -1;

	if (q->part == REMOTE_PART_SET) {
		set = serve_set(c->files, f, &length);
		if (set < 0)
			return refuse(c, q, REMOTE_NOT_FOUND,
				"there is no working set");
	}
	if (!range_inside(q->offset, q->length, length))
		return refuse(c, q, REMOTE_INVALID, "behind the end");
	if (set < 0 && !is_whole(f->fd, q->offset + q->length))
		return refuse(c, q, REMOTE_BROKEN,
			"the file has become shorter than it was");
	return put(c, &a, sizeof(a), MSG_MORE) &&
	       put_file(c, set >= 0 ? set : f->fd, (off_t)q->offset, q->length);
}

static bool one_request(const struct client *c)
{
	struct remote_request q;
	struct remote_file is;
	const struct served *f;
	const char *why;

	if (!get(c, &q, sizeof(q), c->limits->idle_ms))
		return false;
	why = remote_check_request(&q);
	if (why)
		return refuse(c, &q, REMOTE_INVALID, why);
	memcpy(is.uuid.b, q.uuid, 16);
	memcpy(is.digest, q.digest, 16);
	f = serve_find(c->files, &is);
	if (!f)
		return refuse(c, &q, REMOTE_NOT_FOUND,
			"no snapshot with that uuid and digest");
	return q.type == REMOTE_STAT ? answer_stat(c, &q, f)
				     : answer_read(c, &q, f);
}

void serve_conn(struct serve_files *t, int fd, int stop,
	const struct serve_limits *limits)
{
	const struct client c = {
		.files = t, .limits = limits, .fd = fd, .stop = stop};
	struct remote_hello h;
	uint16_t version;

	if (!get(&c, &h, sizeof(h), limits->stall_ms) ||
		memcmp(h.magic, REMOTE_MAGIC, sizeof(h.magic)) != 0)
		return;
	/* To another version, too: it then says so to its user. */
	version = h.version;
	h.version = REMOTE_VERSION;
	h.reserved = 0;
	h.max_read = REMOTE_MAX_READ;
	if (!put(&c, &h, sizeof(h), 0) || version != REMOTE_VERSION)
		return;
	while (one_request(&c))
		;
}
