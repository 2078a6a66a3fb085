/*
 * Hostile files must be refused by a restore (or, where a restore does not
 * look there, by verify), and inspect must survive them.
 */
#include "tests/unit/test.h"
#include "tests/unit/snap_hostile.h"

#include "core/crc32c.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
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
		if (!snap_inspect(fd,
			    &(struct snap_inspect_opts){
				    .section = section[i], .map = !section[i]},
			    &p, NULL)) {
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
	rc = snap_verify_fd(fd, &v, NULL, NULL, &e);
	if (h->verify_only) {
		if (rc != h->code || !strstr(e.msg, h->says))
			fail_msg("%s: verify: %d: %s", h->name, rc, e.msg);
		rc = fake_restore(fd, &e);
		assert_true(rc == 0 || rc == -EBADMSG);
	} else {
		if (!rc && !h->elsewhere)
			fail_msg("%s: verify finds nothing", h->name);
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
	assert_int_equal(snap_verify_fd(fd, &v, NULL, NULL, &e), 0);
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
	if (snap_verify_fd(fd, &v, NULL, NULL, &e))
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
	assert_int_equal(snap_verify_fd(fd, &v, NULL, NULL, &e), 0);
	assert_int_equal(fake_restore(fd, &e), 0);
	image_free(&img);
	close(fd);
}

/* A section of any length costs nothing to verify when nobody knows it. */
static void test_long_unknown(void **state)
{
	static const uint8_t zero[SNAP_CHUNK_SIZE];
	const uint64_t length = 256 * MIB;
	struct snap_section *sec, *memory;
	struct rusage before, after;
	struct snap_verified v;
	struct machine m;
	struct image img;
	struct err e = {0};
	int fd;

	(void)state;
	fake_machine(&m, 4 * MIB, MEM_PRIVATE);
	fd = fake_snapshot(&m);
	img.n = (size_t)lseek(fd, 0, SEEK_END);
	img.p = malloc(img.n);
	assert_int_equal(pread(fd, img.p, img.n, 0), img.n);
	sec = image_section(&img, SNAP_TAG_METADATA);
	memset(img.p + sec->offset, 0, sec->stored_length);
	sec->tag = 0x1234;
	sec->offset = img.n;
	sec->stored_length = sec->raw_length = length;
	sec->crc = 0;
	for (uint64_t at = 0; at < length; at += sizeof(zero))
		sec->crc = crc32c(sec->crc, zero, sizeof(zero));
	image_memory(&img)->data_offset = img.n + length;
	memory = image_section(&img, SNAP_TAG_MEMORY);
	memory->crc = crc32c(0, img.p + memory->offset, memory->stored_length);
	image_header(&img)->file_length = img.n + length;
	image_header(&img)->section_table_crc =
		crc32c(0, img.p + image_header(&img)->section_table_offset,
			image_header(&img)->section_count * sizeof(*sec));
	image_header(&img)->crc =
		crc32c(0, img.p, offsetof(struct snap_header, crc));
	image_store(&img, fd);
	assert_int_equal(ftruncate(fd, (off_t)(img.n + length)), 0);
	assert_int_equal(getrusage(RUSAGE_SELF, &before), 0);
	if (snap_verify_fd(fd, &v, NULL, NULL, &e))
		fail_msg("%s", e.msg);
	assert_int_equal(getrusage(RUSAGE_SELF, &after), 0);
	assert_in_range(after.ru_maxrss - before.ru_maxrss, 0, 64 * 1024);
	image_free(&img);
	machine_destroy(&m);
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
		cmocka_unit_test(test_long_unknown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
