/* Compressed chunks and data in ancestors, by accident and by malice. */
#include "tests/unit/test.h"
#include "tests/unit/snap_fake.h"
#include "core/crc32c.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <zstd.h>

#define MEMORY (4 * MIB)
/* Where the frame of the first chunk may grow to in the hostile files. */
#define FRAME_MAX 4096

/* Text that packs into Huffman trees, literals, sequences: all a frame has. */
static void wordy_page(struct machine *m, gpa_t gpa)
{
	static const char *const word[] = {"snapshot ", "template ", "clone ",
		"zygote ", "pager ", "base; ", "thaw, "};
	uint8_t *p = mem_at(&m->mem, gpa, PAGE_SIZE_4K, MEM_WRITE);
	uint32_t seed = (uint32_t)gpa + 1;
	size_t n = 0;

	assert_non_null(p);
	while (n < PAGE_SIZE_4K) {
		size_t len;

		seed = seed * 1664525 + 1013904223;
		len = min_u64(strlen(word[(seed >> 9) % ARRAY_SIZE(word)]),
			PAGE_SIZE_4K - n);
		memcpy(p + n, word[(seed >> 9) % ARRAY_SIZE(word)], len);
		n += len;
	}
}

static void load_image(struct image *img, int fd)
{
	img->n = (size_t)lseek(fd, 0, SEEK_END);
	img->p = malloc(img->n);
	assert_non_null(img->p);
	assert_int_equal(pread_full(fd, img->p, img->n, 0), 0);
}

/* A file of one compressed chunk, pages 1 and 3. */
static int packed_file(struct image *img)
{
	struct snap_write_opts o = {.zstd_level = 3};
	struct snap_written w;
	struct err e = {0};
	struct machine m;
	int fd = fake_file();

	fake_machine(&m, MEMORY, MEM_PRIVATE);
	wordy_page(&m, 0x1000);
	wordy_page(&m, 0x3000);
	assert_int_equal(snap_write(&m, fd, &o, &w, &e), 0);
	machine_destroy(&m);
	load_image(img, fd);
	assert_int_equal(image_leaf(img, 0)->chunk[0].codec, SNAP_CODEC_ZSTD);
	return fd;
}

/* A random flip hits one of the bits that a frame can do without too seldom:
 * all of them. */
static void test_every_bit_of_a_frame(void **state)
{
	const struct snap_chunk *c;
	uint64_t silent = 0;
	uint8_t raw[2 * PAGE_SIZE_4K], back[2 * PAGE_SIZE_4K];
	struct image img;
	int fd = packed_file(&img);

	(void)state;
	c = &image_leaf(&img, 0)->chunk[0];
	assert_int_equal(ZSTD_decompress(raw, sizeof(raw), img.p + c->offset,
				 c->stored_length),
		sizeof(raw));
	for (uint64_t bit = 0; bit < c->stored_length * 8ULL; bit++) {
		uint8_t *p = img.p + c->offset + bit / 8;
		struct snap_verified v;
		struct err e = {0};

		*p ^= (uint8_t)(1U << bit % 8);
		assert_int_equal(pwrite_full(fd, p, 1, c->offset + bit / 8), 0);
		if (snap_verify_fd(fd, &v, NULL, NULL, &e) != -EBADMSG)
			fail_msg("bit %llu of the frame is missed",
				(unsigned long long)bit);
		if (ZSTD_decompress(back, sizeof(back), img.p + c->offset,
			    c->stored_length) == sizeof(raw) &&
			!memcmp(raw, back, sizeof(raw))) {
			silent++;
			assert_int_equal(fake_restore(fd, &e), -EBADMSG);
		}
		*p ^= (uint8_t)(1U << bit % 8);
		assert_int_equal(pwrite_full(fd, p, 1, c->offset + bit / 8), 0);
	}
	/* else this test has lost its reason */
	assert_true(silent > 0);
	assert_int_equal(fake_restore(fd, NULL), 0);
	image_free(&img);
	close(fd);
}

/* ---- hostile frames ---- */

static size_t frame_of(uint8_t *to, size_t room, size_t raw_length)
{
	AUTO_FREE uint8_t *raw = malloc(raw_length);
	size_t n;

	assert_non_null(raw);
	memset(raw, 'x', raw_length);
	n = ZSTD_compress(to, room, raw, raw_length, 1);
	assert_false(ZSTD_isError(n));
	return n;
}

static size_t bomb(uint8_t *to)
{
	return frame_of(to, FRAME_MAX, 8 * MIB);
}
static size_t too_short(uint8_t *to)
{
	return frame_of(to, FRAME_MAX, 4096);
}
static size_t two_frames(uint8_t *to)
{
	size_t n = frame_of(to, FRAME_MAX, 4096);

	return n + frame_of(to + n, FRAME_MAX - n, 4096);
}
static size_t frame_and_rest(uint8_t *to)
{
	size_t n = frame_of(to, FRAME_MAX, 8192);

	to[n] = 0;
	return n + 1;
}
static size_t skippable_first(uint8_t *to)
{
	memcpy(to, "\x50\x2a\x4d\x18\x04\0\0\0abcd", 12);
	return 12 + frame_of(to + 12, FRAME_MAX - 12, 8192);
}
static size_t cut(uint8_t *to)
{
	return frame_of(to, FRAME_MAX, 8192) - 1;
}
/* Says 2^63 bytes, has none. */
static size_t huge_claim(uint8_t *to)
{
	memcpy(to, "\x28\xb5\x2f\xfd\xe0\0\0\0\0\0\0\0\x80\x01\0\0", 16);
	return 16;
}
static size_t noise(uint8_t *to)
{
	memset(to, 0x5a, 100);
	return 100;
}

static void test_hostile_frames(void **state)
{
	static size_t (*const frame[])(uint8_t * to) = {bomb, too_short,
		two_frames, frame_and_rest, skippable_first, cut, huge_claim,
		noise};
	struct image img;
	int fd = packed_file(&img);

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(frame); i++) {
		uint8_t buf[FRAME_MAX] = {0};
		struct snap_chunk *c;
		struct snap_verified v;
		struct image bad;
		struct err e = {0};
		uint8_t *at;

		image_copy(&bad, &img);
		c = &image_leaf(&bad, 0)->chunk[0];
		at = bad.p + c->offset;
		memset(at, 0, c->stored_length);
		c->stored_length = (uint32_t)frame[i](buf);
		/* the leaf stands on the next page */
		assert_true(c->stored_length <= FRAME_MAX);
		memcpy(at, buf, c->stored_length);
		c->stored_crc = crc32c(0, buf, c->stored_length);
		memset(buf, 'x', sizeof(buf));
		c->crc = crc32c(crc32c(0, buf, 4096), buf, 4096);
		image_seal(&bad);
		image_store(&bad, fd);
		if (fake_restore(fd, &e) != -EBADMSG)
			fail_msg("frame %zu is restored", i);
		assert_int_equal(
			snap_verify_fd(fd, &v, NULL, NULL, &e), -EBADMSG);
		image_free(&bad);
	}
	image_free(&img);
	close(fd);
}

/* The lengths and checksums of an entry. */
/* Who reads 1.0 has no zstd, so such a file must not say that 1.0 will do. */
static void test_min_reader(void **state)
{
	struct snap_verified v;
	struct image img;
	struct err e = {0};
	int fd;

	(void)state;
	fd = packed_file(&img);
	assert_int_equal(image_header(&img)->min_reader_minor, 1);
	image_header(&img)->min_reader_minor = 0;
	image_seal(&img);
	image_store(&img, fd);
	assert_int_equal(snap_verify_fd(fd, &v, NULL, NULL, &e), -EBADMSG);
	assert_non_null(strstr(e.msg, "readers that have none"));
	assert_int_equal(fake_restore(fd, &e), -EBADMSG);
	image_free(&img);
	close(fd);
}

static void test_hostile_entries(void **state)
{
	struct image img;
	int fd = packed_file(&img);

	(void)state;
	for (unsigned i = 0; i < 6; i++) {
		struct snap_chunk *c;
		struct image bad;
		struct err e = {0};

		image_copy(&bad, &img);
		c = &image_leaf(&bad, 0)->chunk[0];
		switch (i) {
		case 0:
			c->raw_length = 12288;
			break;
		case 1:
			c->stored_length = c->raw_length;
			break;
		case 2:
			c->stored_length = 0;
			break;
		case 3:
			c->stored_length = UINT32_MAX;
			break;
		case 4:
			c->stored_crc = 0;
			break;
		default:
			c->crc ^= 1;
			break;
		}
		image_seal(&bad);
		image_store(&bad, fd);
		if (fake_restore(fd, &e) != -EBADMSG)
			fail_msg("entry %u is restored", i);
		image_free(&bad);
	}
	image_free(&img);
	close(fd);
}

/* ---- data in ancestors ---- */

struct pair {
	struct machine m; /* as it was for the diff */
	int full, diff;
	struct image img;      /* of the diff */
	struct snap_chunk old; /* the full one's chunk 0 */
};

/* The diff has what the full one has, so that its data may stand in either. */
static void pair_open(struct pair *p)
{
	uint64_t changed[MEMORY / PAGE_SIZE_4K / 64] = {1U << 1 | 1U << 3};
	struct snap_write_opts o = {0};
	struct snap_parent parent = {0};
	struct snap_written w;
	struct err e = {0};
	struct image full;

	fake_machine(&p->m, MEMORY, MEM_PRIVATE);
	wordy_page(&p->m, 0x1000);
	wordy_page(&p->m, 0x3000);
	p->full = fake_file();
	assert_int_equal(snap_write(&p->m, p->full, &o, &w, &e), 0);
	load_image(&full, p->full);
	p->old = image_leaf(&full, 0)->chunk[0];
	image_free(&full);
	parent.uuid = w.uuid;
	memcpy(parent.digest, w.digest, sizeof(parent.digest));
	o.parent = &parent;
	o.pages = changed;
	p->diff = fake_file();
	assert_int_equal(snap_write(&p->m, p->diff, &o, &w, &e), 0);
	load_image(&p->img, p->diff);
}

static void pair_close(struct pair *p)
{
	machine_destroy(&p->m);
	image_free(&p->img);
	close(p->full);
	close(p->diff);
}

/* What loading the diff says; its memory must be the machine's when it can. */
static int pair_load(struct pair *p, struct err *e)
{
	struct snap *s[2];
	struct snap_verified v;
	struct machine_config cfg;
	struct machine back;
	int rc, verified;

	image_seal(&p->img);
	image_store(&p->img, p->diff);
	assert_int_equal(snap_open(p->full, &s[1], e), 0);
	rc = snap_open(p->diff, &s[0], e);
	if (rc) {
		snap_close(s[1]);
		return rc;
	}
	assert_int_equal(snap_attach_all(s, 2, e), 0);
	assert_int_equal(snap_read_config(s[0], &cfg, e), 0);
	fake_empty(&back, &cfg);
	assert_int_equal(mem_create(&back.mem, MEMORY, MEM_PRIVATE, -1, e), 0);
	rc = snap_load_memory(s[0], &back.mem, 1, e);
	if (!rc)
		assert_true(fake_same_memory(&p->m, &back));
	verified = snap_verify(s[0], 1, &v, NULL, NULL, e);
	assert_int_equal(rc, verified);
	machine_destroy(&back);
	snap_close(s[0]);
	snap_close(s[1]);
	return rc;
}

static void test_data_in_parent(void **state)
{
	struct err e = {0};
	struct snap_chunk *c;
	struct pair p;

	(void)state;
	pair_open(&p);
	c = &image_leaf(&p.img, 0)->chunk[0];
	assert_int_equal(pair_load(&p, &e), 0);
	/* as a writer would that knows its parents' data; what it has itself
	 * belongs to nothing then */
	memset(p.img.p + c->offset, 0, c->stored_length);
	c->offset = p.old.offset;
	c->file = 1;
	assert_int_equal(pair_load(&p, &e), 0);
	c->offset = 0;
	assert_int_equal(pair_load(&p, &e), -EBADMSG);
	c->offset = 4096;
	assert_int_equal(pair_load(&p, &e), -EBADMSG);
	assert_non_null(strstr(e.msg, "not inside the file"));
	c->offset = UINT64_MAX - 4095;
	assert_int_equal(pair_load(&p, &e), -EBADMSG);
	c->offset = (uint64_t)lseek(p.full, 0, SEEK_END) - 4096;
	assert_int_equal(pair_load(&p, &e), -EBADMSG);
	c->offset = p.old.offset;
	c->file = 2;
	assert_int_equal(pair_load(&p, &e), -EBADMSG);
	assert_non_null(strstr(e.msg, "ancestor 2"));
	c->file = SNAP_MAX_CHAIN + 1;
	assert_int_equal(pair_load(&p, &e), -EBADMSG);
	c->file = 0xffff;
	assert_int_equal(pair_load(&p, &e), -EBADMSG);
	pair_close(&p);
}

/* The grandchild of a snapshot has that one's name. */
static void test_loops(void **state)
{
	uint64_t changed[MEMORY / PAGE_SIZE_4K / 64] = {2};
	struct snap_write_opts o = {0};
	struct snap_parent parent = {0};
	struct snap_written w;
	struct snap *s[3];
	struct err e = {0};
	struct machine m;
	int fd[3];

	(void)state;
	fake_machine(&m, MEMORY, MEM_PRIVATE);
	for (unsigned i = 0; i < 3; i++) {
		if (i == 2)
			memcpy(o.uuid.b, snap_get_uuid(s[0])->b, 16);
		fd[i] = fake_file();
		assert_int_equal(snap_write(&m, fd[i], &o, &w, &e), 0);
		assert_int_equal(snap_open(fd[i], &s[i], &e), 0);
		parent.uuid = w.uuid;
		memcpy(parent.digest, w.digest, sizeof(parent.digest));
		o.parent = &parent;
		o.pages = changed;
	}
	assert_int_equal(snap_attach(s[0], s[0], &e), -EINVAL);
	assert_int_equal(snap_attach(s[1], s[0], &e), 0);
	assert_int_equal(snap_attach(s[2], s[1], &e), -EBADMSG);
	assert_non_null(strstr(e.msg, "leads back"));
	for (unsigned i = 0; i < 3; i++) {
		snap_close(s[i]);
		close(fd[i]);
	}
	machine_destroy(&m);
}

/* A diff with its parent's name. */
static void test_own_parent(void **state)
{
	struct err e = {0};
	struct pair p;

	(void)state;
	pair_open(&p);
	memcpy(image_header(&p.img)->uuid, image_header(&p.img)->parent_uuid,
		16);
	assert_int_equal(pair_load(&p, &e), -EBADMSG);
	assert_non_null(strstr(e.msg, "its own parent"));
	pair_close(&p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_every_bit_of_a_frame),
		cmocka_unit_test(test_hostile_frames),
		cmocka_unit_test(test_min_reader),
		cmocka_unit_test(test_hostile_entries),
		cmocka_unit_test(test_data_in_parent),
		cmocka_unit_test(test_loops),
		cmocka_unit_test(test_own_parent),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
