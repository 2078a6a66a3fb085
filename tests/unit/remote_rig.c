#include "tests/unit/remote_rig.h"

#include "tests/unit/snap_fake.h"
#include "tests/unit/test.h"

#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>

#define PAGES (RIG_SIZE / PAGE_SIZE_4K)

/* ---- files ---- */

static uint32_t draw(uint32_t *seed, uint32_t below)
{
	*seed = *seed * 1664525 + 1013904223;
	return (*seed >> 8) % below;
}

static void write_file(struct remote_rig *r, struct machine *m, unsigned n,
	const uint64_t *dirty, int zstd)
{
	struct snap_write_opts o = {.zstd_level = zstd};
	struct snap_parent p = {.path = "parent.thaw"};
	struct snap_written w;
	struct err e = {0};

	if (n) {
		p.uuid = r->is[n - 1].uuid;
		memcpy(p.digest, r->is[n - 1].digest, 16);
		o.parent = &p;
		o.pages = dirty;
	}
	r->file[n] = fake_file();
	if (snap_write(m, r->file[n], &o, &w, &e))
		fail_msg("%s", e.msg);
	r->is[n].uuid = w.uuid;
	memcpy(r->is[n].digest, w.digest, 16);
	r->length[n] = w.file_bytes;
}

static void make_files(struct remote_rig *r, int zstd)
{
	uint64_t dirty[PAGES / 64];
	struct machine m;
	uint32_t seed = 5;

	fake_machine(&m, RIG_SIZE, MEM_PRIVATE);
	for (unsigned n = 0; n < RIG_FILES; n++) {
		memset(dirty, 0, sizeof(dirty));
		for (unsigned i = 0; i < (n ? 40 : 300); i++) {
			uint64_t page = draw(&seed, PAGES);
			uint8_t *at = m.mem.map + page * PAGE_SIZE_4K;

			dirty[page / 64] |= 1ULL << page % 64;
			memset(at, (int)draw(&seed, 256), PAGE_SIZE_4K);
			/* Not too easy to compress. */
			for (unsigned k = 0; k < 512; k++)
				at[k] = (uint8_t)draw(&seed, 256);
		}
		write_file(r, &m, n, dirty, zstd);
	}
	machine_destroy(&m);
}

/* ---- the peer ---- */

struct peer {
	struct remote_rig *r;
	int fd;
};

static bool find_file(
	struct remote_rig *r, const struct remote_request *q, unsigned *i)
{
	bool found = false;

	(void)pthread_mutex_lock(&r->lock);
	for (*i = 0; *i < RIG_FILES && !found; *i += !found)
		found = !memcmp(r->is[*i].uuid.b, q->uuid, 16) &&
			!memcmp(r->is[*i].digest, q->digest, 16);
	(void)pthread_mutex_unlock(&r->lock);
	return found;
}

static void change_answer(
	const struct remote_request *q, struct remote_answer *a, enum lie lie)
{
	switch ((int)lie) {
	case LIE_TYPE:
		a->type ^= 3;
		break;
	case LIE_ID:
		a->id++;
		break;
	case LIE_STATUS:
		a->status = REMOTE_NSTATUS_;
		break;
	case LIE_LONG:
		a->length += 1;
		a->file_length = a->set_length = UINT64_MAX;
		break;
	case LIE_SHORT:
		a->length -= 1;
		a->file_length /= 2;
		break;
	case LIE_TEXT:
		a->status = REMOTE_BROKEN;
		a->length = UINT32_MAX;
		break;
	case LIE_REFUSE:
	case LIE_BROKEN:
		a->status =
			lie == LIE_REFUSE ? REMOTE_NOT_FOUND : REMOTE_BROKEN;
		a->length = q->type == REMOTE_READ ? 4 : 0;
		break;
	default:
		break;
	}
}

static void change_bytes(struct remote_rig *r, const struct remote_request *q,
	uint8_t *data, unsigned file, enum lie lie)
{
	if (lie == LIE_BYTES)
		data[q->length / 2] ^= 4;
	if (lie == LIE_ZEROS)
		memset(data, 0, q->length);
	if (lie == LIE_OTHER)
		(void)!pread(r->file[(file + 1) % RIG_FILES], data, q->length,
			(off_t)q->offset);
}

static bool put(struct peer *p, const void *buf, size_t len)
{
	return send(p->fd, buf, len, MSG_NOSIGNAL) == (ssize_t)len;
}

static void wait_end(struct peer *p, int ms)
{
	struct pollfd pfd = {.fd = p->fd, .events = POLLRDHUP};

	(void)poll(&pfd, 1, ms);
}

/* What is to be sent, but not all of it, or not at once. */
static bool put_slowly(
	struct peer *p, const uint8_t *data, size_t len, enum lie lie)
{
	if (lie == LIE_CUT)
		(void)put(p, data, len / 2);
	if (lie == LIE_SILENCE)
		wait_end(p, 20000);
	for (size_t i = 0; lie == LIE_DRIP && i < len; i++) {
		if (!put(p, data + i, 1))
			break;
		wait_end(p, 50);
		if (__atomic_load_n(&p->r->stop, __ATOMIC_ACQUIRE))
			break;
	}
	return lie != LIE_CUT && lie != LIE_CLOSE && lie != LIE_SILENCE &&
	       lie != LIE_DRIP && put(p, data, len);
}

static enum lie lie_now(struct remote_rig *r)
{
	enum lie lie;
	unsigned n;

	(void)pthread_mutex_lock(&r->lock);
	n = r->requests++;
	lie = (r->once ? n == r->lie_at : n >= r->lie_at) ? r->lie : LIE_NONE;
	(void)pthread_mutex_unlock(&r->lock);
	return lie;
}

static bool answer(struct peer *p, const struct remote_request *q, uint8_t *buf)
{
	struct remote_answer *a = (void *)buf;
	uint8_t *data = buf + sizeof(*a);
	enum lie lie = lie_now(p->r);
	unsigned i;

	memset(a, 0, sizeof(*a));
	a->type = q->type;
	a->id = q->id;
	if (!find_file(p->r, q, &i)) {
		a->status = REMOTE_NOT_FOUND;
		return put(p, a, sizeof(*a));
	}
	if (q->type == REMOTE_STAT) {
		a->file_length = p->r->length[i];
		change_answer(q, a, lie);
		return put_slowly(p, buf, sizeof(*a), lie);
	}
	a->length = q->length;
	(void)!pread(p->r->file[i], data, q->length, (off_t)q->offset);
	change_bytes(p->r, q, data, i, lie);
	change_answer(q, a, lie);
	return put_slowly(p, buf, sizeof(*a) + q->length, lie);
}

static void *peer_main(void *arg)
{
	struct peer *p = arg;
	uint8_t *buf = malloc(sizeof(struct remote_answer) + REMOTE_MAX_READ);
	struct remote_request q;
	struct remote_hello h;

	if (buf && recv(p->fd, &h, sizeof(h), MSG_WAITALL) == sizeof(h) &&
		put(p, &h, sizeof(h))) {
		while (recv(p->fd, &q, sizeof(q), MSG_WAITALL) == sizeof(q)) {
			if (!answer(p, &q, buf))
				break;
		}
	}
	(void)close(p->fd);
	free(buf);
	__atomic_fetch_sub(&p->r->peers, 1, __ATOMIC_ACQ_REL);
	free(p);
	return NULL;
}

static void *accept_main(void *arg)
{
	struct remote_rig *r = arg;
	pthread_attr_t a;

	(void)pthread_attr_init(&a);
	(void)pthread_attr_setdetachstate(&a, PTHREAD_CREATE_DETACHED);
	for (;;) {
		int fd = accept(r->listener, NULL, NULL);
		struct peer *p = malloc(sizeof(*p));
		pthread_t t;

		if (fd < 0 || !p) {
			free(p);
			break;
		}
		*p = (struct peer){r, fd};
		__atomic_fetch_add(&r->peers, 1, __ATOMIC_ACQ_REL);
		assert_int_equal(pthread_create(&t, &a, peer_main, p), 0);
	}
	(void)pthread_attr_destroy(&a);
	return NULL;
}

static void *dial_main(void *arg)
{
	struct remote_rig *r = arg;

	remote_dial_serve(r->dialer[1], &r->name);
	return NULL;
}

/* ---- the rig ---- */

void remote_rig_init(struct remote_rig *r, int zstd, uint32_t timeout_ms)
{
	struct sockaddr_in a = {.sin_family = AF_INET,
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(a);
	struct err e = {0};

	memset(r, 0, sizeof(*r));
	(void)pthread_mutex_init(&r->lock, NULL);
	make_files(r, zstd);
	r->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(r->listener, (struct sockaddr *)&a, len), 0);
	assert_int_equal(listen(r->listener, 64), 0);
	assert_int_equal(
		getsockname(r->listener, (struct sockaddr *)&a, &len), 0);
	(void)snprintf(r->name.host, sizeof(r->name.host), "127.0.0.1");
	(void)snprintf(
		r->name.port, sizeof(r->name.port), "%u", ntohs(a.sin_port));
	r->name.file = r->is[0];
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, r->dialer), 0);
	assert_int_equal(pthread_create(&r->accept, NULL, accept_main, r), 0);
	assert_int_equal(pthread_create(&r->dial, NULL, dial_main, r), 0);
	if (remote_link_init(&r->link, r->dialer[0], &r->name, timeout_ms, &e))
		fail_msg("%s", e.msg);
}

void remote_rig_fini(struct remote_rig *r)
{
	__atomic_store_n(&r->stop, true, __ATOMIC_RELEASE);
	remote_link_fini(&r->link);
	(void)close(r->dialer[0]);
	(void)pthread_join(r->dial, NULL);
	(void)close(r->dialer[1]);
	(void)shutdown(r->listener, SHUT_RDWR);
	(void)pthread_join(r->accept, NULL);
	(void)close(r->listener);
	while (__atomic_load_n(&r->peers, __ATOMIC_ACQUIRE))
		(void)usleep(1000);
	(void)pthread_mutex_destroy(&r->lock);
	for (unsigned i = 0; i < RIG_FILES; i++)
		(void)close(r->file[i]);
}

unsigned remote_rig_requests(struct remote_rig *r)
{
	unsigned n;

	(void)pthread_mutex_lock(&r->lock);
	n = r->requests;
	(void)pthread_mutex_unlock(&r->lock);
	return n;
}

void remote_rig_lie(struct remote_rig *r, enum lie lie, unsigned n, bool once)
{
	(void)pthread_mutex_lock(&r->lock);
	r->lie = lie;
	r->once = once;
	r->lie_at = r->requests + n;
	(void)pthread_mutex_unlock(&r->lock);
}
