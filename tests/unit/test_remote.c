/* Snapshots on another host: names, and a peer that lies, stalls and dies at
 * every request, before anything runs and later. */
#include "snapshot/source.h"
#include "tests/unit/remote_rig.h"
#include "tests/unit/snap_fake.h"
#include "tests/unit/test.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#define URL_REST                                                               \
	"01234567-89ab-cdef-0123-456789abcdef?digest="                         \
	"00112233445566778899aabbccddeeff"

/* Milliseconds: long enough for any host; short where it is to come to that. */
#define PATIENT   60000U
#define IMPATIENT 150U

/* ---- names and messages ---- */

static void names(void **state)
{
	static const char *const good[] = {"tcp://host:7070/" URL_REST,
		"tcp://10.0.0.1:1/" URL_REST, "tcp://[::1]:65535/" URL_REST};
	static const char *const bad[] = {"", "tcp://", "tcp://a:1",
		"tcp://a:1/", "tcp://a/" URL_REST, "tcp://:1/" URL_REST,
		"tcp://a:/" URL_REST, "tcp://a:65536/" URL_REST,
		"tcp://a:1x/" URL_REST, "tcp://::1:1/" URL_REST,
		"tcp://[::1:1/" URL_REST, "tcp://a b:1/" URL_REST,
		"tcp://a:1/" URL_REST "0", "tcp://a:1/" URL_REST "&x=1",
		"tcp://a:1/01234567-89ab-cdef-0123-456789abcdef",
		"tcp://a:1/01234567-89ab-cdef-0123-456789abcdeg?digest=00",
		"tcp://a:1/0123456789abcdef0123456789abcdef?digest=00",
		"http://a:1/" URL_REST};
	char back[REMOTE_URL_MAX], key[REMOTE_KEY_MAX];
	struct remote_name n;
	struct err e = {0};

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(good); i++) {
		assert_int_equal(remote_parse(good[i], &n, &e), 0);
		remote_url(&n, back);
		assert_string_equal(back, good[i]);
	}
	remote_key(&n.file, key);
	assert_string_equal(key, "01234567-89ab-cdef-0123-456789abcdef-"
				 "00112233445566778899aabbccddeeff");
	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		memset(&e, 0, sizeof(e));
		assert_int_equal(remote_parse(bad[i], &n, &e), -EINVAL);
		assert_true(e.msg[0]);
	}
	assert_int_equal(remote_parse_peer(":0", 2, &n, &e), 0);
	assert_string_equal(n.host, "");
}

/* ---- the front ---- */

static int empty(void)
{
	return fake_file();
}

static bool same_front(struct remote_rig *r, unsigned i, int fd)
{
	uint8_t a[4096], b[4096];
	struct stat st;

	assert_int_equal(fstat(fd, &st), 0);
	assert_int_equal(st.st_size, r->length[i]);
	return !pread_full(r->file[i], a, sizeof(a), 0) &&
	       !pread_full(fd, b, sizeof(b), 0) && !memcmp(a, b, sizeof(a));
}

static void fronts(void **state)
{
	struct remote_rig r;
	struct err e = {0};

	(void)state;
	remote_rig_init(&r, 0, PATIENT);
	for (unsigned i = 0; i < RIG_FILES; i++) {
		int fd = empty();
		struct snap *s = NULL;

		if (remote_front_get(&r.link, &r.is[i], fd, &e))
			fail_msg("%s", e.msg);
		assert_true(same_front(&r, i, fd));
		assert_int_equal(remote_front_check(fd, &r.is[i], &e), 0);
		/* The ordinary reader opens it; chunks are not there. */
		assert_int_equal(snap_open(fd, &s, &e), 0);
		snap_close(s);
		assert_int_equal(fake_restore(fd, &e), i ? -ENOENT : -EBADMSG);
		assert_int_equal(
			remote_front_check(fd, &r.is[(i + 1) % RIG_FILES], &e),
			-EBADMSG);
		(void)close(fd);
	}
	remote_rig_fini(&r);
}

static bool in_vain(enum lie lie, int rc)
{
	switch ((int)lie) {
	case LIE_REFUSE:
		return rc == -ENOENT;
	case LIE_BYTES:
	case LIE_ZEROS:
	case LIE_OTHER:
		return rc == -EBADMSG || rc == -EOPNOTSUPP;
	case LIE_SILENCE:
	case LIE_DRIP:
		return rc == -ETIMEDOUT;
	default:
		return rc == -EPROTO || rc == -ETIMEDOUT || rc == -EIO ||
		       rc == -EBADMSG;
	}
}

/* Ends when the time is over: it is asked for again and again until then. */
static bool is_slow(int lie)
{
	return lie >= LIE_CUT || lie == LIE_BROKEN;
}

/* Each request of a front, each lie. */
static void lying_fronts(void **state)
{
	struct remote_rig r;
	unsigned total;
	struct err e = {0};
	int fd = empty();

	(void)state;
	remote_rig_init(&r, 0, PATIENT);
	assert_int_equal(remote_front_get(&r.link, &r.is[1], fd, &e), 0);
	(void)close(fd);
	total = remote_rig_requests(&r);
	assert_true(total > 5);
	for (int lie = LIE_NONE + 1; lie < NLIES_; lie++) {
		bool slow = is_slow(lie);

		for (unsigned n = 0; n < total; n += slow ? total / 3 : 1) {
			uint64_t start = now_ns();
			int rc;

			fd = empty();
			memset(&e, 0, sizeof(e));
			remote_rig_lie(&r, (enum lie)lie, n, false);
			r.link.timeout_ms = slow ? IMPATIENT : PATIENT;
			rc = remote_front_get(&r.link, &r.is[1], fd, &e);
			/* A STAT has no bytes to lie about, and a leaf may be
			 * the same in another file. */
			if (!rc && lie >= LIE_BYTES && lie <= LIE_OTHER) {
				assert_int_equal(
					remote_front_check(fd, &r.is[1], &e),
					0);
			} else if (!in_vain((enum lie)lie, rc)) {
				fail_msg("lie %d at %u: %d %s", lie, n, rc,
					e.msg);
			} else {
				assert_true(e.msg[0]);
				assert_non_null(strstr(e.msg, "127.0.0.1"));
			}
			assert_true(now_ns() - start < PATIENT * 1000000ULL);
			(void)close(fd);
		}
	}
	/* Once only: asked again, it is right. */
	r.link.timeout_ms = PATIENT;
	for (int lie = LIE_CUT; lie <= LIE_CLOSE; lie++) {
		fd = empty();
		remote_rig_lie(&r, (enum lie)lie, 2, true);
		assert_int_equal(
			remote_front_get(&r.link, &r.is[1], fd, &e), 0);
		(void)close(fd);
	}
	remote_rig_fini(&r);
}

/* A sound snapshot, but not the one that is pinned. */
static void another_file(void **state)
{
	struct remote_rig r;

	(void)state;
	remote_rig_init(&r, 0, PATIENT);
	for (unsigned i = 0; i < 2; i++) {
		struct remote_file is = r.is[0];
		struct err e = {0};
		int fd = empty();

		(void)pthread_mutex_lock(&r.lock);
		*(i ? &r.is[0].digest[15] : &r.is[0].uuid.b[0]) ^= 1;
		(void)pthread_mutex_unlock(&r.lock);
		assert_int_equal(
			remote_front_get(&r.link, &r.is[0], fd, &e), -EBADMSG);
		assert_non_null(strstr(e.msg, "digest"));
		assert_non_null(strstr(e.msg, "127.0.0.1"));
		(void)pthread_mutex_lock(&r.lock);
		r.is[0] = is;
		(void)pthread_mutex_unlock(&r.lock);
		(void)close(fd);
	}
	remote_rig_fini(&r);
}

/* ---- pages ---- */

struct remote {
	int fd[RIG_FILES]; /* the newest first */
	struct snap *s[RIG_FILES];
	struct psrc *src;
};

static void open_remote(struct remote *m, struct remote_rig *r, unsigned n)
{
	struct err e = {0};

	for (unsigned i = 0; i < n; i++) {
		m->fd[i] = empty();
		if (remote_front_get(&r->link, &r->is[n - 1 - i], m->fd[i], &e))
			fail_msg("%s", e.msg);
	}
	if (snap_open_chain(m->fd, n, m->s, &e) ||
		remote_source(m->s[0], m->fd, &r->link, &m->src, &e))
		fail_msg("%s", e.msg);
	assert_non_null(m->src);
	if (!m->src)
		abort();
}

static void close_remote(struct remote *m, unsigned n)
{
	m->src->ops->close(m->src);
	snap_close_chain(m->s, n);
	for (unsigned i = 0; i < n; i++)
		(void)close(m->fd[i]);
}

/* One window as the pager gets it. */
static int window(struct psrc *src, uint64_t w, uint8_t *win, struct err *e)
{
	uint8_t stored[PSRC_MAX_STORED] = {0}, scratch[PSRC_WINDOW] = {0};
	struct psrc_window at;
	int r = src->ops->map(src, w, true, &at, e);

	memset(win, 0, PSRC_WINDOW);
	for (unsigned i = 0; !r && i < at.n; i++) {
		struct psrc_piece *p = &at.piece[i];
		struct psrc_buf b = {stored, scratch, win};

		if (p->file >= 0) {
			r = pread_full(src->file[p->file], stored, p->length,
				p->offset);
			if (!r)
				r = src->ops->decode(src, w, p, &b, e);
			if (r != -EAGAIN)
				continue;
			p->file = -1;
		}
		r = src->ops->fetch(src, w, p, stored, e);
		if (!r)
			r = src->ops->decode(src, w, p, &b, e);
	}
	return r;
}

static void load_truth(struct remote_rig *r, unsigned n, struct mem *mem)
{
	struct snap *s[RIG_FILES];
	int fd[RIG_FILES];
	struct err e = {0};

	for (unsigned i = 0; i < n; i++)
		fd[i] = r->file[n - 1 - i];
	if (snap_open_chain(fd, n, s, &e) ||
		mem_create(mem, RIG_SIZE, MEM_PRIVATE, -1, &e) ||
		snap_load_memory(s[0], mem, 0, &e))
		fail_msg("%s", e.msg);
	snap_close_chain(s, n);
}

static void pages(unsigned n, int zstd)
{
	uint8_t win[PSRC_WINDOW];
	struct remote_rig r;
	struct remote m = {.src = NULL};
	struct err e = {0};
	uint64_t came = 0;
	struct mem mem;

	remote_rig_init(&r, zstd, PATIENT);
	load_truth(&r, n, &mem);
	open_remote(&m, &r, n);
	m.src->fetched = &came;
	for (int turn = 0; turn < 2; turn++) {
		unsigned before = remote_rig_requests(&r), now;

		for (uint64_t w = 0; w < RIG_SIZE / PSRC_WINDOW; w++) {
			if (window(m.src, w, win, &e))
				fail_msg("%s", e.msg);
			assert_memory_equal(
				win, mem.map + w * PSRC_WINDOW, PSRC_WINDOW);
		}
		now = remote_rig_requests(&r);
		assert_true(turn ? now == before : now > before);
		/* Some 180 pieces, one behind the other. */
		assert_true(n > 1 || now < before + 30);
		assert_true(turn ? !came : came > (zstd ? 5000U : 200000U));
		came = 0;
	}
	/* One file alone is the file now. */
	if (n == 1) {
		struct snap_verified v;

		assert_int_equal(
			snap_verify_fd(m.fd[0], &v, NULL, NULL, &e), 0);
	}
	close_remote(&m, n);
	mem_destroy(&mem);
	remote_rig_fini(&r);
}

static void of_one_file(void **state)
{
	(void)state;
	pages(1, 0);
}

static void of_a_chain(void **state)
{
	(void)state;
	pages(3, 0);
}

static void compressed(void **state)
{
	(void)state;
	pages(1, 3);
	pages(3, 3);
}

/* The first window that has to be fetched. */
static uint64_t first_fetch(struct psrc *src)
{
	struct psrc_window at;
	struct err e = {0};
	uint64_t w = 0;

	while (src->ops->map(src, w, true, &at, &e) || !at.n ||
		at.piece[0].file >= 0)
		w++;
	return w;
}

static void lying_pages(void **state)
{
	uint8_t win[PSRC_WINDOW];
	struct remote_rig r;
	struct remote m = {.src = NULL};
	struct err e = {0};
	uint64_t w;

	(void)state;
	remote_rig_init(&r, 0, PATIENT);
	open_remote(&m, &r, 1);
	w = first_fetch(m.src);
	for (int lie = LIE_NONE + 1; lie < NLIES_; lie++) {
		int rc;

		memset(&e, 0, sizeof(e));
		remote_rig_lie(&r, (enum lie)lie, 0, false);
		r.link.timeout_ms = is_slow(lie) ? IMPATIENT : PATIENT;
		rc = window(m.src, w, win, &e);
		/* That there is no such file is no news about a file. */
		if (lie == LIE_REFUSE ? rc != -EIO
				      : !in_vain((enum lie)lie, rc))
			fail_msg("lie %d: %d %s", lie, rc, e.msg);
		assert_non_null(strstr(e.msg, "127.0.0.1"));
		/* Nothing of it was kept. */
		assert_int_equal(first_fetch(m.src), w);
	}
	remote_rig_lie(&r, LIE_NONE, 0, false);
	r.link.timeout_ms = PATIENT;
	assert_int_equal(window(m.src, w, win, &e), 0);
	assert_int_not_equal(first_fetch(m.src), w);
	close_remote(&m, 1);
	remote_rig_fini(&r);
}

/* Wrong bytes in the cache are fetched again; without a peer they are not used.
 */
static void wrong_cache(void **state)
{
	uint8_t win[PSRC_WINDOW], good[PSRC_WINDOW];
	struct psrc_window at;
	struct remote_rig r;
	struct remote m = {.src = NULL};
	struct err e = {0};
	uint64_t w;

	(void)state;
	remote_rig_init(&r, 0, PATIENT);
	open_remote(&m, &r, 1);
	w = first_fetch(m.src);
	assert_int_equal(window(m.src, w, good, &e), 0);
	assert_int_equal(m.src->ops->map(m.src, w, true, &at, &e), 0);
	assert_true(at.piece[0].file == 0 && !at.piece[0].plain);
	for (int turn = 0; turn < 2; turn++) {
		assert_int_equal(
			pwrite(m.fd[0], "x", 1, (off_t)at.piece[0].offset + 9),
			1);
		r.link.timeout_ms = turn ? IMPATIENT : PATIENT;
		remote_rig_lie(&r, turn ? LIE_CLOSE : LIE_NONE, 0, false);
		assert_int_equal(
			window(m.src, w, win, &e), turn ? -ETIMEDOUT : 0);
		if (!turn)
			assert_memory_equal(win, good, sizeof(good));
	}
	close_remote(&m, 1);
	remote_rig_fini(&r);
}

/* ---- many at once, and the end ---- */

struct asker {
	pthread_t thread;
	struct remote *m;
	unsigned from;
	int rc;
};

static void *ask_main(void *arg)
{
	uint8_t win[PSRC_WINDOW];
	struct asker *a = arg;
	struct err e = {0};

	for (uint64_t w = a->from; w < RIG_SIZE / PSRC_WINDOW && !a->rc; w += 4)
		a->rc = window(a->m->src, w, win, &e);
	return NULL;
}

static void several_threads(void **state)
{
	struct asker a[8] = {{0}};
	struct remote_rig r;
	struct remote m = {.src = NULL};

	(void)state;
	remote_rig_init(&r, 0, PATIENT);
	open_remote(&m, &r, 3);
	for (unsigned i = 0; i < 8; i++) {
		a[i] = (struct asker){.m = &m, .from = i % 4};
		assert_int_equal(
			pthread_create(&a[i].thread, NULL, ask_main, &a[i]), 0);
	}
	for (unsigned i = 0; i < 8; i++) {
		(void)pthread_join(a[i].thread, NULL);
		assert_int_equal(a[i].rc, 0);
	}
	close_remote(&m, 3);
	remote_rig_fini(&r);
}

static void cancelled(void **state)
{
	struct asker a = {0};
	struct remote_rig r;
	struct remote m = {.src = NULL};
	uint64_t start;

	(void)state;
	remote_rig_init(&r, 0, PATIENT);
	open_remote(&m, &r, 1);
	remote_rig_lie(&r, LIE_SILENCE, 0, false);
	a.m = &m;
	start = now_ns();
	assert_int_equal(pthread_create(&a.thread, NULL, ask_main, &a), 0);
	(void)usleep(50000);
	m.src->ops->cancel(m.src);
	(void)pthread_join(a.thread, NULL);
	assert_int_equal(a.rc, -ECANCELED);
	assert_true(now_ns() - start < PATIENT * 1000000ULL);
	close_remote(&m, 1);
	remote_rig_fini(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(names),
		cmocka_unit_test(fronts),
		cmocka_unit_test(lying_fronts),
		cmocka_unit_test(another_file),
		cmocka_unit_test(of_one_file),
		cmocka_unit_test(of_a_chain),
		cmocka_unit_test(compressed),
		cmocka_unit_test(lying_pages),
		cmocka_unit_test(wrong_cache),
		cmocka_unit_test(several_threads),
		cmocka_unit_test(cancelled),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
