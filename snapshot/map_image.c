/*
 * The map as a picture. A pixel is a cell; pictures of small machines are
 * enlarged by whole factors. The SVG is the PNG in a frame with a legend and
 * addresses, so that both show the same and neither grows with the number of
 * runs.
 */
#include "snapshot/map_internal.h"

#include <errno.h>
#include <inttypes.h>
#include <png.h>
#include <stdlib.h>
#include <string.h>

#define WORKING  SNAP_NCELLS_ /* palette entry of the working set */
#define MIN_SIDE 512          /* pixels of a picture that is enlarged */

struct picture {
	const struct map *m;
	uint32_t columns, rows; /* cells */
	uint32_t zoom;
	png_bytep line; /* owned: one line of pixels */
};

static int picture_init(struct picture *pic, const struct map *m)
{
	*pic = (struct picture){.m = m, .columns = 64, .zoom = 1};
	/* about twice as wide as high */
	while (pic->columns < 2048 &&
		(uint64_t)pic->columns * pic->columns / 2 < m->n)
		pic->columns *= 2;
	pic->rows = (uint32_t)((m->n + pic->columns - 1) / pic->columns);
	while (pic->columns * pic->zoom < MIN_SIDE)
		pic->zoom++;
	pic->line = malloc((size_t)pic->columns * pic->zoom);
	return pic->line ? 0 : -ENOMEM;
}

static void fill_line(struct picture *pic, uint32_t row)
{
	for (uint32_t x = 0; x < pic->columns; x++) {
		size_t i = (size_t)row * pic->columns + x;
		uint8_t c = i < pic->m->n ? pic->m->cells[i] : SNAP_CELL_NONE;

		if (c & SNAP_CELL_WORKING)
			c = WORKING;
		memset(pic->line + (size_t)x * pic->zoom, c, pic->zoom);
	}
}

struct sink {
	FILE *f; /* borrowed */
	bool failed;
};

static void sink_write(png_structp png, png_bytep data, size_t n)
{
	struct sink *s = png_get_io_ptr(png);

	if (fwrite(data, 1, n, s->f) != n)
		s->failed = true;
}

static void sink_flush(png_structp png)
{
	(void)png;
}

static void write_head(png_structp png, png_infop info, struct picture *pic)
{
	png_color palette[WORKING + 1];

	for (unsigned i = 0; i <= WORKING; i++) {
		const uint8_t *rgb =
			i == WORKING ? map_working.rgb : map_style[i].rgb;

		palette[i] = (png_color){rgb[0], rgb[1], rgb[2]};
	}
	png_set_IHDR(png, info, pic->columns * pic->zoom, pic->rows * pic->zoom,
		8, PNG_COLOR_TYPE_PALETTE, PNG_INTERLACE_NONE,
		PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
	png_set_PLTE(png, info, palette, WORKING + 1);
	png_write_info(png, info);
}

/* libpng leaves by longjmp() on an error: nothing is owned here but png. */
static int write_png(struct picture *pic, FILE *f)
{
	struct sink sink = {.f = f};
	png_infop info = NULL;
	png_structp png;

	png = png_create_write_struct(PNG_LIBPNG_VER_STRING, NULL, NULL, NULL);
	if (png)
		info = png_create_info_struct(png);
	if (!info || setjmp(png_jmpbuf(png))) {
		png_destroy_write_struct(&png, NULL);
		return -ENOMEM;
	}
	png_set_write_fn(png, &sink, sink_write, sink_flush);
	write_head(png, info, pic);
	for (uint32_t y = 0; y < pic->rows * pic->zoom; y++) {
		fill_line(pic, y / pic->zoom);
		png_write_row(png, pic->line);
	}
	png_write_end(png, info);
	png_destroy_write_struct(&png, &info);
	return sink.failed ? -EIO : 0;
}

int snap_map_png(const msgpack_object *o, FILE *f)
{
	struct picture pic;
	struct map m;
	int rc = map_get(o, &m);

	if (!rc)
		rc = picture_init(&pic, &m);
	if (rc)
		return rc;
	rc = write_png(&pic, f);
	free(pic.line);
	return rc;
}

/* ---- SVG ---- */

#define LEFT   90
#define TOP    30
#define LEGEND 24 /* height of its line */

static void put_base64(const uint8_t *p, size_t len, FILE *f)
{
	static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijkl"
				     "mnopqrstuvwxyz0123456789+/";

	for (size_t i = 0; i < len; i += 3) {
		uint32_t v = (uint32_t)p[i] << 16;

		v |= i + 1 < len ? (uint32_t)p[i + 1] << 8 : 0;
		v |= i + 2 < len ? p[i + 2] : 0;
		(void)fputc(digits[v >> 18], f);
		(void)fputc(digits[v >> 12 & 63], f);
		(void)fputc(i + 1 < len ? digits[v >> 6 & 63] : '=', f);
		(void)fputc(i + 2 < len ? digits[v & 63] : '=', f);
	}
}

static void svg_legend(const struct map *m, uint32_t y, FILE *f)
{
	uint32_t x = LEFT;

	for (unsigned i = 1; i <= WORKING; i++) {
		const struct map_style *s =
			i == WORKING ? &map_working : &map_style[i];
		const char *name = i == WORKING ? s->name : map_name(m, i);
		uint64_t cells = i == WORKING ? m->working : m->count[i];

		if (!cells)
			continue;
		(void)fprintf(f,
			"<rect x=\"%u\" y=\"%u\" width=\"11\" height=\"11\" "
			"fill=\"rgb(%u,%u,%u)\" stroke=\"#888\" "
			"stroke-width=\"0.5\"/><text x=\"%u\" y=\"%u\">%s "
			"%" PRIu64 "</text>\n",
			x, y - 10, s->rgb[0], s->rgb[1], s->rgb[2], x + 15, y,
			name, cells * m->scale);
		x += 15 + 8 * (uint32_t)strlen(name) + 76;
	}
}

static void svg_addresses(const struct picture *pic, FILE *f)
{
	uint32_t step = (pic->rows + 15) / 16;

	for (uint32_t row = 0; row < pic->rows; row += step)
		(void)fprintf(f,
			"<text x=\"%d\" y=\"%u\" text-anchor=\"end\">"
			"0x%" PRIx64 "</text>\n",
			LEFT - 6, TOP + row * pic->zoom + 9,
			map_gpa(pic->m, (size_t)row * pic->columns));
}

static int svg(struct picture *pic, FILE *f)
{
	uint32_t w = pic->columns * pic->zoom, h = pic->rows * pic->zoom;
	AUTO_FREE char *png = NULL;
	size_t n = 0;
	FILE *mem = open_memstream(&png, &n);
	int rc;

	if (!mem)
		return -ENOMEM;
	rc = write_png(pic, mem);
	if (fclose(mem) && !rc)
		rc = -ENOMEM;
	if (rc)
		return rc;
	(void)fprintf(f,
		"<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%u\" "
		"height=\"%u\" font-family=\"sans-serif\" font-size=\"11\">\n"
		"<rect width=\"100%%\" height=\"100%%\" fill=\"white\"/>\n"
		"<text x=\"%d\" y=\"18\">guest memory, a cell is %" PRIu64
		" KiB</text>\n",
		w + LEFT + 10, h + TOP + LEGEND + 10, LEFT, pic->m->scale * 4);
	(void)fprintf(f,
		"<image x=\"%d\" y=\"%d\" width=\"%u\" height=\"%u\" "
		"style=\"image-rendering:pixelated\" "
		"href=\"data:image/png;base64,",
		LEFT, TOP, w, h);
	put_base64((const uint8_t *)png, n, f);
	(void)fputs("\"/>\n", f);
	svg_addresses(pic, f);
	svg_legend(pic->m, h + TOP + LEGEND, f);
	(void)fputs("</svg>\n", f);
	return ferror(f) ? -EIO : 0;
}

int snap_map_svg(const msgpack_object *o, FILE *f)
{
	struct picture pic;
	struct map m;
	int rc = map_get(o, &m);

	if (!rc)
		rc = picture_init(&pic, &m);
	if (rc)
		return rc;
	rc = svg(&pic, f);
	free(pic.line);
	return rc;
}
