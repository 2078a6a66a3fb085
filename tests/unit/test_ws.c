/* The working set's file: round trip, merging, every flipped bit, every length.
 */
#include "tests/unit/test.h"
#include "uffd/ws.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#define PAGES 1000

static const uint8_t uuid[16] = "an id of a file", digest[16] = "what it holds";
static const uint8_t other[16] = "something else";

static void make(struct ws *w, uint64_t step)
{
	struct err e = {0};

	if (ws_init(w, PAGES, uuid, digest, &e))
		fail_msg("%s", e.msg);
	for (uint64_t i = 0; i < PAGES; i += step)
		ws_add(w, i);
	w->recordings = 1;
}

static int store(const struct ws *w)
{
	struct err e = {0};
	int fd = memfd_create("ws", MFD_CLOEXEC);

	assert_true(fd >= 0);
	if (ws_write(fd, w, &e))
		fail_msg("%s", e.msg);
	return fd;
}

static void test_round_trip(void **state)
{
	struct ws a, b;
	struct err e = {0};
	int fd;

	(void)state;
	make(&a, 7);
	ws_add(&a, 7);         /* twice is once */
	ws_add(&a, PAGES + 5); /* outside is nowhere */
	assert_int_equal(a.set, 143);
	fd = store(&a);
	assert_int_equal(ws_read(fd, &b, &e), 0);
	assert_int_equal(b.pages, PAGES);
	assert_int_equal(b.set, 143);
	assert_int_equal(b.recordings, 1);
	for (uint64_t i = 0; i < PAGES; i++)
		assert_int_equal(ws_has(&b, i), i % 7 == 0);
	assert_int_equal(ws_check(&b, uuid, digest, PAGES, &e), 0);
	assert_int_equal(ws_check(&b, other, digest, PAGES, &e), -EBADMSG);
	assert_int_equal(ws_check(&b, uuid, other, PAGES, &e), -EBADMSG);
	assert_int_equal(ws_check(&b, uuid, digest, PAGES + 1, &e), -EBADMSG);
	ws_fini(&a);
	ws_fini(&b);
	(void)close(fd);
}

static void test_merge(void **state)
{
	struct ws a, b;
	struct err e = {0};

	(void)state;
	make(&a, 10);
	make(&b, 15);
	assert_int_equal(ws_merge(&a, &b, &e), 0);
	assert_int_equal(a.set, 100 + 67 - 34);
	assert_int_equal(a.recordings, 2);
	assert_true(ws_has(&a, 45) && ws_has(&a, 20) && !ws_has(&a, 7));
	memcpy(b.uuid, other, 16);
	assert_int_equal(ws_merge(&a, &b, &e), -EBADMSG);
	ws_fini(&a);
	ws_fini(&b);
}

static void test_damage(void **state)
{
	struct ws a, b;
	struct err e = {0};
	struct stat st;
	uint8_t byte;
	int fd;

	(void)state;
	make(&a, 3);
	fd = store(&a);
	assert_int_equal(fstat(fd, &st), 0);
	for (off_t bit = 0; bit < st.st_size * 8; bit++) {
		assert_int_equal(pread(fd, &byte, 1, bit / 8), 1);
		byte ^= (uint8_t)(1U << bit % 8);
		assert_int_equal(pwrite(fd, &byte, 1, bit / 8), 1);
		assert_true(ws_read(fd, &b, &e) < 0);
		assert_null(b.bits);
		byte ^= (uint8_t)(1U << bit % 8);
		assert_int_equal(pwrite(fd, &byte, 1, bit / 8), 1);
	}
	assert_int_equal(pwrite(fd, "x", 1, st.st_size), 1);
	assert_int_equal(ws_read(fd, &b, &e), -EBADMSG);
	for (off_t n = st.st_size - 1; n >= 0; n--) {
		assert_int_equal(ftruncate(fd, n), 0);
		assert_int_equal(ws_read(fd, &b, &e), -EBADMSG);
	}
	ws_fini(&a);
	(void)close(fd);
}

static void test_sizes(void **state)
{
	struct ws w;
	struct err e = {0};

	(void)state;
	assert_int_equal(ws_init(&w, 0, uuid, digest, &e), -EINVAL);
	assert_int_equal(
		ws_init(&w, WS_MAX * 8 + 1, uuid, digest, &e), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_round_trip),
		cmocka_unit_test(test_merge),
		cmocka_unit_test(test_damage),
		cmocka_unit_test(test_sizes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
