/* The map of guest memory: its cells, and that all three forms show them. */
#include "tests/unit/test.h"
#include "tests/unit/snap_fake.h"
#include "snapshot/map.h"
#include "uffd/ws.h"

#include <errno.h>
#include <png.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct answer {
	msgpack_sbuffer buf;
	msgpack_unpacked msg;
};

static const msgpack_object *ask_ws(
	struct answer *a, int fd, bool map, int ws_fd)
{
	const struct snap_inspect_opts o = {.map = map, .ws_fd = ws_fd};
	struct err e = {0};
	msgpack_packer p;

	msgpack_sbuffer_init(&a->buf);
	msgpack_packer_init(&p, &a->buf, msgpack_sbuffer_write);
	if (snap_inspect(fd, &o, &p, &e) ||
		mp_unpack(a->buf.data, a->buf.size, &mp_default_limits, &a->msg,
			&e))
		fail_msg("%s", e.msg);
	return &a->msg.data;
}

static const msgpack_object *ask(struct answer *a, int fd, bool map)
{
	return ask_ws(a, fd, map, -1);
}

static void answer_free(struct answer *a)
{
	msgpack_unpacked_destroy(&a->msg);
	msgpack_sbuffer_destroy(&a->buf);
}

typedef int draw_fn(const msgpack_object *o, FILE *f);

static char *drawn(draw_fn *draw, const msgpack_object *o, size_t *n)
{
	char *out = NULL;
	FILE *f = open_memstream(&out, n);

	assert_non_null(f);
	assert_int_equal(draw(o, f), 0);
	assert_int_equal(fclose(f), 0);
	return out;
}

static const msgpack_object *small(struct answer *a)
{
	const msgpack_object *o;
	struct image img;
	int fd = fake_file();

	image_make(&img); /* pages at 0x1000, 0x3000, 0x104000 */
	image_store(&img, fd);
	o = ask(a, fd, true);
	image_free(&img);
	close(fd);
	return o;
}

static void test_cells(void **state)
{
	const msgpack_object *cells;
	struct answer a;

	(void)state;
	cells = mp_get(mp_get(small(&a), "map"), "cells");
	assert_int_equal(cells->type, MSGPACK_OBJECT_BIN);
	assert_int_equal(cells->via.bin.size, 1024);
	for (unsigned i = 0; i < 1024; i++) {
		bool there = i == 1 || i == 3 || i == 0x104;

		assert_int_equal(cells->via.bin.ptr[i],
			there ? SNAP_CELL_PRESENT : SNAP_CELL_ZERO);
	}
	answer_free(&a);
}

static void test_text(void **state)
{
	const msgpack_object *o;
	struct answer a;
	char *text;
	size_t n;

	(void)state;
	o = small(&a);
	text = drawn(snap_map_text, o, &n);
	assert_non_null(strstr(text, "  .#.#...."));
	assert_non_null(strstr(text, "100000  ....#..."));
	assert_non_null(strstr(text, "zero 1021"));
	assert_non_null(strstr(text, "present 3"));
	free(text);
	answer_free(&a);
}

/* Each pixel of the picture is the cell it stands for. */
static void test_png(void **state)
{
	png_image image = {.version = PNG_IMAGE_VERSION};
	const msgpack_object *o;
	struct answer a;
	uint8_t *pixels;
	char *file;
	size_t n, blue = 0;

	(void)state;
	o = small(&a);
	file = drawn(snap_map_png, o, &n);
	assert_true(png_image_begin_read_from_memory(&image, file, n));
	image.format = PNG_FORMAT_RGB;
	assert_int_equal(image.width, 512);
	assert_int_equal(image.height, 128);
	pixels = malloc(PNG_IMAGE_SIZE(image));
	assert_non_null(pixels);
	assert_true(png_image_finish_read(&image, NULL, pixels, 0, NULL));
	for (size_t i = 0; i < PNG_IMAGE_SIZE(image); i += 3)
		blue += pixels[i] < 100 ? 1 : 0;
	assert_int_equal(blue, 3 * 8 * 8);
	/* cell 1: column 1, row 0 */
	assert_true(pixels[3 * 8] < 100 && pixels[0] > 200);
	free(pixels);
	free(file);
	answer_free(&a);
}

static void test_svg(void **state)
{
	const msgpack_object *o;
	struct answer a;
	char *file;
	size_t n;

	(void)state;
	o = small(&a);
	file = drawn(snap_map_svg, o, &n);
	assert_non_null(strstr(file, "<svg xmlns="));
	assert_non_null(strstr(file, "base64,iVBORw0KGgo"));
	assert_non_null(strstr(file, "present 3</text>"));
	assert_string_equal(file + n - 7, "</svg>\n");
	free(file);
	answer_free(&a);
}

/* Pages of the working set are marked; a set of another snapshot is an error
 * beside the map. */
static void test_working_set(void **state)
{
	const msgpack_object *o, *cells;
	int fd = fake_file(), ws_fd = fake_file();
	struct snap_peeked is;
	struct image img;
	struct answer a;
	struct err e = {0};
	struct ws set;
	char *text;
	size_t n;

	(void)state;
	image_make(&img);
	image_store(&img, fd);
	assert_int_equal(snap_peek(fd, &is, &e), 0);
	assert_int_equal(ws_init(&set, 1024, is.uuid.b, is.digest, &e), 0);
	ws_add(&set, 3);
	ws_add(&set, 1000);
	assert_int_equal(ws_write(ws_fd, &set, &e), 0);
	o = ask_ws(&a, fd, true, ws_fd);
	cells = mp_get(mp_get(o, "map"), "cells");
	for (unsigned i = 0; i < 1024; i++)
		assert_int_equal(
			(uint8_t)cells->via.bin.ptr[i] >= SNAP_CELL_WORKING,
			i == 3 || i == 1000);
	text = drawn(snap_map_text, o, &n);
	assert_non_null(strstr(text, "  .#.@...."));
	assert_non_null(strstr(text, "@ working set 2"));
	free(text);
	answer_free(&a);

	is.uuid.b[0] ^= 1;
	memcpy(set.uuid, is.uuid.b, 16);
	assert_int_equal(ftruncate(ws_fd, 0), 0);
	assert_int_equal(ws_write(ws_fd, &set, &e), 0);
	o = ask_ws(&a, fd, true, ws_fd);
	assert_int_equal(mp_get(o, "errors")->via.array.size, 1);
	assert_non_null(mp_get(o, "map"));
	answer_free(&a);
	ws_fini(&set);
	image_free(&img);
	close(fd);
	close(ws_fd);
}

/* An answer of a helper that lies is refused, never followed. */
static void test_hostile(void **state)
{
	static const uint8_t bad[] = {SNAP_NCELLS_, SNAP_CELL_KIND};
	static const uint64_t scales[] = {0, 1};
	struct answer a = {.buf = {0}};

	(void)state;
	for (unsigned i = 0; i < 4; i++) {
		msgpack_packer p;

		msgpack_sbuffer_init(&a.buf);
		msgpack_packer_init(&p, &a.buf, msgpack_sbuffer_write);
		msgpack_pack_map(&p, 1);
		mp_str(&p, "map");
		msgpack_pack_map(&p, 2);
		mp_key_u64(&p, "pages_per_cell", scales[i & 1]);
		mp_str(&p, "cells");
		mp_bin(&p, &bad[i / 2], 1);
		assert_int_equal(mp_unpack(a.buf.data, a.buf.size,
					 &mp_default_limits, &a.msg, NULL),
			0);
		assert_int_equal(snap_map_png(&a.msg.data, stderr), -EINVAL);
		assert_int_equal(snap_map_svg(&a.msg.data, stderr), -EINVAL);
		answer_free(&a);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_cells),
		cmocka_unit_test(test_text),
		cmocka_unit_test(test_png),
		cmocka_unit_test(test_svg),
		cmocka_unit_test(test_working_set),
		cmocka_unit_test(test_hostile),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
