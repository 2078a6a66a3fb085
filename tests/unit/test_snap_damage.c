/* Every flipped bit and every truncation is found; nothing crashes. */
#include "tests/unit/test.h"
#include "tests/unit/snap_fake.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#ifdef __has_feature
#if __has_feature(address_sanitizer)
#define SLOW 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SLOW 1
#endif
#ifdef SLOW
#define STRIDE 61 /* a tenth of the time budget goes to each bit */
#else
#define STRIDE 1
#endif

static void flip(const struct image *img, int fd, uint64_t bit)
{
	uint8_t byte = img->p[bit / 8];

	byte ^= (uint8_t)(1U << (bit % 8));
	assert_int_equal(pwrite_full(fd, &byte, 1, bit / 8), 0);
}

static void unflip(const struct image *img, int fd, uint64_t bit)
{
	assert_int_equal(pwrite_full(fd, &img->p[bit / 8], 1, bit / 8), 0);
}

/* Flip bits of [from, to); used: does a restore read these bytes? */
static void flip_range(const struct image *img, int fd, uint64_t from,
	uint64_t to, unsigned stride, bool used)
{
	for (uint64_t bit = 8 * from; bit < 8 * to; bit += stride) {
		struct snap_verified v;
		struct err e = {0};
		int rc;

		flip(img, fd, bit);
		rc = snap_verify_fd(fd, &v, NULL, NULL, &e);
		if (!rc)
			fail_msg("verify: bit %u of byte %u was not seen",
				(unsigned)(bit % 8), (unsigned)(bit / 8));
		assert_int_equal(rc, -EBADMSG);
		assert_int_equal(e.code, rc);
		assert_true(e.msg[0] != '\0');
		rc = used ? fake_restore(fd, &e) : -EBADMSG;
		if (!rc)
			fail_msg("restore: bit %u of byte %u was not seen",
				(unsigned)(bit % 8), (unsigned)(bit / 8));
		unflip(img, fd, bit);
	}
}

static void test_flip_header(void **state)
{
	struct image img;
	int fd = fake_file();

	(void)state;
	image_make(&img);
	image_store(&img, fd);
	flip_range(&img, fd, 0, 4096, STRIDE, true);
	image_free(&img);
	close(fd);
}

static void test_flip_tables(void **state)
{
	struct image img;
	struct snap_header *h;
	struct snap_section *s;
	int fd = fake_file();

	(void)state;
	image_make(&img);
	image_store(&img, fd);
	h = image_header(&img);
	flip_range(&img, fd, h->section_table_offset,
		h->section_table_offset + h->section_count * sizeof(*s), STRIDE,
		true);
	s = image_section(&img, SNAP_TAG_MEMORY);
	flip_range(&img, fd, s->offset, s->offset + s->stored_length, STRIDE,
		true);
	for (unsigned i = 0; i < image_memory(&img)->root_count; i++) {
		uint64_t at = image_root(&img, i)->offset;

		flip_range(&img, fd, at, at + 4096, STRIDE, true);
	}
	image_free(&img);
	close(fd);
}

/* All the rest, padding too: every 7th bit and every bit of each edge. */
static void test_flip_rest(void **state)
{
	struct image img;
	struct snap_section *s;
	struct snap_header *h;
	uint64_t end;
	int fd = fake_file();

	(void)state;
	image_make(&img);
	image_store(&img, fd);
	flip_range(&img, fd, 4096, img.n, 7 * STRIDE, false);
	h = image_header(&img);
	s = image_section(&img, SNAP_TAG_CONFIG);
	for (uint32_t i = 0; i < h->section_count; i++, s++) {
		bool used = s->tag != SNAP_TAG_METADATA;

		end = s->offset + s->stored_length;
		flip_range(&img, fd, s->offset, end, 101 * STRIDE, used);
		flip_range(&img, fd, s->offset, s->offset + 4, STRIDE, used);
		flip_range(&img, fd, end - 4, end, STRIDE, used);
		if (end % 8)
			flip_range(&img, fd, end, end + 1, STRIDE, false);
	}
	end = image_memory(&img)->data_offset;
	flip_range(&img, fd, end - 2, end, STRIDE, false);
	flip_range(&img, fd, end, img.n, 1009, true);
	image_free(&img);
	close(fd);
}

static void test_truncation(void **state)
{
	struct image img;
	int fd = fake_file();

	(void)state;
	image_make(&img);
	image_store(&img, fd);
	for (uint64_t n = img.n; n-- > 0;) {
		struct snap *s;
		struct err e = {0};

		assert_int_equal(ftruncate(fd, (off_t)n), 0);
		assert_int_equal(snap_open(fd, &s, &e), -EBADMSG);
		assert_null(s);
		assert_non_null(strstr(e.msg, "cut short"));
	}
	image_free(&img);
	close(fd);
}

static void test_appended(void **state)
{
	struct snap_verified v;
	struct image img;
	struct err e = {0};
	int fd = fake_file();

	(void)state;
	image_make(&img);
	image_store(&img, fd);
	assert_int_equal(pwrite_full(fd, "", 1, img.n), 0);
	assert_int_equal(snap_verify_fd(fd, &v, NULL, NULL, &e), -EBADMSG);
	assert_int_equal(fake_restore(fd, &e), -EBADMSG);
	image_free(&img);
	close(fd);
}

/* The file shrinks after it was opened: an error, not a signal. */
static void test_shrinks_while_open(void **state)
{
	struct machine_config cfg;
	struct image img;
	struct machine m;
	struct err e = {0};
	struct snap *s;
	int fd = fake_file();

	(void)state;
	image_make(&img);
	image_store(&img, fd);
	assert_int_equal(snap_open(fd, &s, &e), 0);
	assert_int_equal(snap_read_config(s, &cfg, &e), 0);
	fake_empty(&m, &cfg);
	assert_int_equal(
		mem_create(&m.mem, cfg.memory, MEM_PRIVATE, -1, &e), 0);
	assert_int_equal(ftruncate(fd, (off_t)img.n - 4096), 0);
	assert_int_equal(snap_load_memory(s, &m.mem, 0, &e), -EBADMSG);
	assert_int_equal(ftruncate(fd, 4096), 0);
	assert_int_equal(snap_load_state(s, &m, &e), -EBADMSG);
	assert_non_null(strstr(e.msg, "the file ends before"));
	machine_destroy(&m);
	snap_close(s);
	image_free(&img);
	close(fd);
}

/* The message names the chunk, its guest address and the byte range. */
static void test_message(void **state)
{
	struct snap_chunk *c;
	struct snap_verified v;
	struct image img;
	struct err e = {0};
	char want[200];
	int fd = fake_file();

	(void)state;
	image_make(&img);
	c = &image_leaf(&img, 0)->chunk[16];
	assert_int_equal(c->present, 1 << 4);
	img.p[c->offset + 5] ^= 1;
	image_store(&img, fd);
	assert_int_equal(snap_verify_fd(fd, &v, NULL, NULL, &e), -EBADMSG);
	(void)snprintf(want, sizeof(want),
		"bytes %llu-%llu: chunk 16 (guest 0x100000): checksum mismatch",
		(unsigned long long)c->offset,
		(unsigned long long)c->offset + 4095);
	assert_string_equal(e.msg, want);
	image_free(&img);
	close(fd);
}

static void test_foreign(void **state)
{
	static const char text[8192] = "#!/bin/sh\n";
	struct err e = {0};
	struct snap *s;
	int fd = fake_file();

	(void)state;
	assert_int_equal(snap_open(fd, &s, &e), -EBADMSG);
	assert_int_equal(pwrite_full(fd, text, sizeof(text), 0), 0);
	assert_int_equal(snap_open(fd, &s, &e), -EBADMSG);
	assert_non_null(strstr(e.msg, "not a thaw snapshot"));
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_flip_header),
		cmocka_unit_test(test_flip_tables),
		cmocka_unit_test(test_flip_rest),
		cmocka_unit_test(test_truncation),
		cmocka_unit_test(test_appended),
		cmocka_unit_test(test_shrinks_while_open),
		cmocka_unit_test(test_message),
		cmocka_unit_test(test_foreign),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
