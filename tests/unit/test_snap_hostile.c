/*
 * Hostile files must be refused by a restore (or, where a restore does not
 * look there, by verify), and inspect must survive them.
 */
#include "tests/unit/test.h"
#include "tests/unit/snap_hostile.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static void inspect(int fd)
{
	static const char *const section[] = {NULL, "vcpu0", "memory"};

	for (size_t i = 0; i < ARRAY_SIZE(section); i++) {
		msgpack_sbuffer buf;
		msgpack_packer p;
		int64_t n;

		msgpack_sbuffer_init(&buf);
		msgpack_packer_init(&p, &buf, msgpack_sbuffer_write);
		if (!snap_inspect(fd, section[i], &p, NULL)) {
			n = mp_check(buf.data, buf.size, buf.size,
				&mp_default_limits);
			assert_int_equal(n, buf.size);
		}
		msgpack_sbuffer_destroy(&buf);
	}
}

static void run_case(const struct hostile *h, const struct image *good)
{
	struct snap_verified v;
	struct image img;
	struct err e = {0};
	int fd = fake_file();
	int rc;

	hostile_image(h, good, &img);
	image_store(&img, fd);
	inspect(fd);
	rc = snap_verify(fd, &v, NULL, NULL, &e);
	if (h->verify_only) {
		if (rc != h->code || !strstr(e.msg, h->says))
			fail_msg("%s: verify: %d: %s", h->name, rc, e.msg);
		rc = fake_restore(fd, &e);
		assert_true(rc == 0 || rc == -EBADMSG);
	} else {
		rc = fake_restore(fd, &e);
		if (rc != h->code || !strstr(e.msg, h->says))
			fail_msg("%s: restore: %d: %s", h->name, rc, e.msg);
	}
	image_free(&img);
	close(fd);
}

static void test_cases(void **state)
{
	struct image good;

	(void)state;
	image_make(&good);
	for (size_t i = 0; i < hostile_count; i++)
		run_case(&hostile_cases[i], &good);
	image_free(&good);
}

/* An unchanged file, sealed again, is good: the cases fail for their reason. */
static void test_seal_keeps(void **state)
{
	struct snap_verified v;
	struct image img;
	struct err e = {0};
	int fd = fake_file();

	(void)state;
	image_make(&img);
	image_seal(&img);
	image_store(&img, fd);
	assert_int_equal(snap_verify(fd, &v, NULL, NULL, &e), 0);
	assert_int_equal(fake_restore(fd, &e), 0);
	image_free(&img);
	close(fd);
}

/* Two chunks with the same stored copy: what a writer that finds equal chunks
 * will produce. */
static void test_shared_chunk(void **state)
{
	struct snap_chunk *a, *b;
	struct snap_verified v;
	struct image img;
	struct err e = {0};
	int fd = fake_file();

	(void)state;
	image_make(&img);
	a = &image_leaf(&img, 0)->chunk[0];
	b = &image_leaf(&img, 0)->chunk[1];
	*b = *a;
	image_root(&img, 0)->pages_present = 5;
	image_root(&img, 0)->pages_zero = 1024 - 5;
	image_memory(&img)->pages_present += 2;
	image_memory(&img)->pages_zero -= 2;
	image_seal(&img);
	image_store(&img, fd);
	if (snap_verify(fd, &v, NULL, NULL, &e))
		fail_msg("%s", e.msg);
	assert_int_equal(fake_restore(fd, &e), 0);
	image_free(&img);
	close(fd);
}

/* Two root entries may not name the same leaf. */
static void test_shared_leaf(void **state)
{
	struct image img;
	struct machine m;
	struct err e = {0};
	struct stat st;
	int fd;

	(void)state;
	fake_machine(&m, 16 * MIB, MEM_PRIVATE);
	fake_page(&m, 0);
	fake_page(&m, 9 * MIB);
	fd = fake_snapshot(&m);
	assert_int_equal(fstat(fd, &st), 0);
	img.n = (size_t)st.st_size;
	img.p = malloc(img.n);
	assert_non_null(img.p);
	assert_int_equal(pread_full(fd, img.p, img.n, 0), 0);
	assert_int_equal(fake_restore(fd, &e), 0);
	*image_root(&img, 1) = *image_root(&img, 0);
	image_seal(&img);
	image_store(&img, fd);
	assert_int_equal(fake_restore(fd, &e), -EBADMSG);
	assert_non_null(strstr(e.msg, "memory: root entry 1"));
	image_free(&img);
	machine_destroy(&m);
	close(fd);
}

/* An unknown section that is not REQUIRED is skipped. */
static void test_unknown_optional(void **state)
{
	struct snap_verified v;
	struct image img;
	struct err e = {0};
	int fd = fake_file();

	(void)state;
	image_make(&img);
	image_section(&img, SNAP_TAG_METADATA)->tag = 0x1234;
	image_seal(&img);
	image_store(&img, fd);
	assert_int_equal(snap_verify(fd, &v, NULL, NULL, &e), 0);
	assert_int_equal(fake_restore(fd, &e), 0);
	image_free(&img);
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_seal_keeps),
		cmocka_unit_test(test_cases),
		cmocka_unit_test(test_shared_chunk),
		cmocka_unit_test(test_shared_leaf),
		cmocka_unit_test(test_unknown_optional),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
