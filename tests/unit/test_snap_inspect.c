/* inspect: what it says about good and damaged files; text and JSON. */
#include "tests/unit/test.h"
#include "tests/unit/snap_fake.h"
#include "core/mp_json.h"
#include "snapshot/render.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct answer {
	msgpack_sbuffer buf;
	msgpack_unpacked msg;
};

static const msgpack_object *ask(struct answer *a, int fd, const char *section)
{
	struct err e = {0};
	msgpack_packer p;

	msgpack_sbuffer_init(&a->buf);
	msgpack_packer_init(&p, &a->buf, msgpack_sbuffer_write);
	if (snap_inspect(fd, &(struct snap_inspect_opts){.section = section},
		    &p, &e))
		fail_msg("%s", e.msg);
	if (mp_unpack(
		    a->buf.data, a->buf.size, &mp_default_limits, &a->msg, &e))
		fail_msg("%s", e.msg);
	return &a->msg.data;
}

static void answer_free(struct answer *a)
{
	msgpack_unpacked_destroy(&a->msg);
	msgpack_sbuffer_destroy(&a->buf);
}

static char *text_of(const msgpack_object *o)
{
	char *text = NULL;
	size_t n = 0;
	FILE *f = open_memstream(&text, &n);

	assert_non_null(f);
	assert_int_equal(snap_render_text(o, f), 0);
	assert_int_equal(fclose(f), 0);
	return text;
}

static uint64_t number(const msgpack_object *o, const char *key)
{
	o = mp_get(o, key);
	assert_non_null(o);
	assert_int_equal(o->type, MSGPACK_OBJECT_POSITIVE_INTEGER);
	return o->via.u64;
}

static void test_good(void **state)
{
	const msgpack_object *o, *mem, *region;
	struct answer a;
	struct image img;
	char *text;
	int fd = fake_file();

	(void)state;
	image_make(&img);
	image_store(&img, fd);
	o = ask(&a, fd, NULL);
	assert_int_equal(mp_get(o, "errors")->via.array.size, 0);
	assert_true(mp_str_eq(mp_get(mp_get(o, "header"), "format"), "1.0"));
	assert_int_equal(number(mp_get(o, "header"), "file_bytes"), img.n);
	assert_int_equal(number(mp_get(o, "config"), "memory"), 4 * MIB);
	assert_true(mp_str_eq(mp_get(mp_get(o, "config"), "cmdline"), "quiet"));
	mem = mp_get(o, "memory");
	assert_int_equal(number(mem, "pages_present"), 3);
	assert_int_equal(number(mem, "pages_zero"), 1024 - 3);
	region = &mp_get(mem, "regions")->via.array.ptr[0];
	assert_int_equal(number(region, "gpa"), 0);
	assert_int_equal(number(region, "pages_present"), 3);
	assert_int_equal(number(region, "pages_zero"), 1024 - 3);
	assert_int_equal(number(region, "pages_inherited"), 0);
	assert_int_equal(number(region, "raw_bytes"), 3 * 4096);
	assert_int_equal(mp_get(o, "vcpus")->via.array.size, 2);
	assert_int_equal(
		number(&mp_get(o, "vcpus")->via.array.ptr[1], "tsc"), 0x1234);
	assert_null(mp_get(o, "map"));
	assert_true(mp_str_eq(
		mp_get(mp_get(mp_get(o, "metadata"), "labels"), "team"),
		"blue"));
	text = text_of(o);
	assert_non_null(strstr(text, "3 of 1024 pages stored"));
	assert_non_null(strstr(text, "vcpu1"));
	assert_null(strstr(text, "DAMAGED"));
	free(text);
	answer_free(&a);
	image_free(&img);
	close(fd);
}

static void test_sections(void **state)
{
	const msgpack_object *o, *c;
	struct answer a;
	struct image img;
	struct err e = {0};
	msgpack_packer p;
	char *text;
	int fd = fake_file();

	(void)state;
	image_make(&img);
	image_store(&img, fd);
	o = ask(&a, fd, "vcpu1");
	c = mp_get(o, "content");
	assert_int_equal(number(c, "tsc"), 0x1234);
	assert_int_equal(number(mp_get(o, "section"), "index"), 1);
	text = text_of(o);
	assert_non_null(strstr(text, "tsc: 4660 (0x1234)"));
	free(text);
	answer_free(&a);

	o = ask(&a, fd, "memory");
	c = mp_get(o, "content");
	assert_int_equal(c->via.array.size, 1);
	assert_int_equal(number(&c->via.array.ptr[0], "pages"), 1024);
	answer_free(&a);

	msgpack_sbuffer_init(&a.buf);
	msgpack_packer_init(&p, &a.buf, msgpack_sbuffer_write);
	assert_int_equal(
		snap_inspect(fd, &(struct snap_inspect_opts){.section = "none"},
			&p, &e),
		-ENOENT);
	msgpack_sbuffer_destroy(&a.buf);
	image_free(&img);
	close(fd);
}

/* A section of a version and with fields that nobody knows is printed. */
static void test_future_section(void **state)
{
	const msgpack_object *o;
	struct snap_section *s;
	struct answer a;
	struct image img;
	int fd = fake_file();

	(void)state;
	image_make(&img);
	s = image_section(&img, SNAP_TAG_MACHINE);
	s->version = 9;
	memcpy(img.p + s->offset, "\x82\xa1v\x09\xa3new\x92\x01\x02", 12);
	s->stored_length = s->raw_length = 11;
	image_seal(&img);
	image_store(&img, fd);
	o = ask(&a, fd, "machine");
	o = mp_get(mp_get(o, "content"), "new");
	assert_non_null(o);
	assert_int_equal(o->via.array.size, 2);
	answer_free(&a);
	image_free(&img);
	close(fd);
}

/* What a section holds that nobody knows is its maker's business. */
static void test_unknown(void **state)
{
	static const uint64_t lengths[] = {4096, 17 * MIB};
	const msgpack_object *o;
	struct answer a;

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(lengths); i++) {
		int fd = fake_unknown(lengths[i], 0xc1);

		o = ask(&a, fd, NULL);
		assert_int_equal(mp_get(o, "errors")->via.array.size, 0);
		answer_free(&a);
		o = ask(&a, fd, "metadata");
		assert_int_equal(mp_get(o, "errors")->via.array.size, 0);
		assert_int_equal(
			mp_get(o, "content")->type, MSGPACK_OBJECT_NIL);
		o = mp_get(o, "section");
		assert_int_equal(number(o, "raw_bytes"), lengths[i]);
		assert_true(mp_get(o, "ok")->via.boolean);
		answer_free(&a);
		assert_int_equal(pwrite_full(fd, "x", 1, 20480), 0);
		o = ask(&a, fd, NULL);
		assert_int_equal(mp_get(o, "errors")->via.array.size, 1);
		answer_free(&a);
		close(fd);
	}
}

/* Damage to one byte: one error or more, and the text says this. */
static void damaged(struct image *img, uint64_t at, const char *says)
{
	const msgpack_object *errors;
	struct answer a;
	char *text;
	int fd = fake_file();

	img->p[at] ^= 1;
	image_store(img, fd);
	img->p[at] ^= 1;
	errors = mp_get(ask(&a, fd, NULL), "errors");
	assert_true(errors->via.array.size >= 1);
	text = text_of(&a.msg.data);
	if (!strstr(text, says))
		fail_msg("no \"%s\" in: %s", says, text);
	assert_non_null(strstr(text, "error "));
	free(text);
	answer_free(&a);
	close(fd);
}

static void test_damaged(void **state)
{
	struct image img;

	(void)state;
	image_make(&img);
	damaged(&img, offsetof(struct snap_header, arch) + 1, "unknown");
	damaged(&img, 100, "header: checksum mismatch");
	/* behind a damaged header everything else is still found */
	damaged(&img, 100, "3 of 1024 pages stored");
	damaged(&img, 100, "cid 3");
	damaged(&img, image_section(&img, SNAP_TAG_VCPU)->offset + 1,
		"vcpu0     not readable");
	damaged(&img, image_root(&img, 0)->offset + 1, "leaf 0");
	damaged(&img, image_root(&img, 0)->offset + 1, "1024 NOT READABLE");
	damaged(&img, 4100, "section table: checksum mismatch");
	damaged(&img, image_section(&img, SNAP_TAG_VCPU)->offset + 1,
		"section vcpu0: checksum mismatch");
	damaged(&img, image_section(&img, SNAP_TAG_MEMORY)->offset + 1,
		"section memory: checksum mismatch");
	image_free(&img);
}

/* Cut off at any length: never more than a message, and the front is shown. */
static void test_cut_short(void **state)
{
	struct image img;
	struct answer a;
	size_t whole, data;
	int fd = fake_file();

	(void)state;
	image_make(&img);
	whole = img.n;
	data = image_memory(&img)->data_offset;
	for (img.n = 4096; img.n < whole; img.n += 512) {
		const msgpack_object *o;

		image_store(&img, fd);
		o = ask(&a, fd, NULL);
		assert_true(mp_get(o, "errors")->via.array.size > 0);
		assert_non_null(mp_get(o, "header"));
		if (img.n >= data) {
			assert_non_null(mp_get(o, "memory"));
			assert_int_equal(
				number(mp_get(o, "config"), "cpus"), 2);
		}
		answer_free(&a);
	}
	image_free(&img);
	close(fd);
}

static void test_json(void **state)
{
	msgpack_sbuffer buf;
	msgpack_packer p;
	msgpack_unpacked msg;
	json_t *j;
	char *text;

	(void)state;
	msgpack_sbuffer_init(&buf);
	msgpack_packer_init(&p, &buf, msgpack_sbuffer_write);
	msgpack_pack_map(&p, 6);
	mp_key_u64(&p, "max", UINT64_MAX);
	mp_key_u64(&p, "big", INT64_MAX);
	mp_str(&p, "bin");
	mp_bin(&p, "\0\xff", 2);
	mp_str(&p, "bad");
	mp_strn(&p, "\xff", 1);
	msgpack_pack_int64(&p, -5);
	msgpack_pack_nil(&p);
	mp_str(&p, "list");
	msgpack_pack_array(&p, 2);
	msgpack_pack_true(&p);
	msgpack_pack_double(&p, 0.5);
	assert_int_equal(
		mp_unpack(buf.data, buf.size, &mp_default_limits, &msg, NULL),
		0);
	j = mp_to_json(&msg.data);
	assert_non_null(j);
	text = json_dumps(j, JSON_COMPACT | JSON_SORT_KEYS);
	assert_string_equal(text, "{\"-5\":null,\"bad\":\"base64:/"
				  "w==\",\"big\":9223372036854775807,"
				  "\"bin\":\"base64:AP8=\",\"list\":[true,0.5],"
				  "\"max\":\"18446744073709551615\"}");
	free(text);
	json_decref(j);
	msgpack_unpacked_destroy(&msg);
	msgpack_sbuffer_destroy(&buf);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_good),
		cmocka_unit_test(test_sections),
		cmocka_unit_test(test_future_section),
		cmocka_unit_test(test_unknown),
		cmocka_unit_test(test_damaged),
		cmocka_unit_test(test_cut_short),
		cmocka_unit_test(test_json),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
