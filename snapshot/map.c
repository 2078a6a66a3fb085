/* The map of guest memory in characters, and what all three forms share. */
#include "snapshot/map_internal.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#define COLUMNS 64
#define ROWS    32

const struct map_style map_style[SNAP_NCELLS_] = {
	[SNAP_CELL_NONE] = {"none", ' ', {255, 255, 255}},
	[SNAP_CELL_INHERITED] = {"inherited", '-', {198, 208, 220}},
	[SNAP_CELL_ZERO] = {"zero", '.', {236, 236, 230}},
	[SNAP_CELL_SHARED] = {"deduplicated", '+', {120, 170, 110}},
	[SNAP_CELL_PRESENT] = {"present", '#', {42, 92, 150}},
	[SNAP_CELL_UNREADABLE] = {"not readable", '!', {190, 30, 45}},
};
const struct map_style map_working = {"working set", '@', {235, 140, 30}};

/* In a diff the stored pages are those that changed. */
const char *map_name(const struct map *m, unsigned cell)
{
	if (m->diff && cell == SNAP_CELL_PRESENT)
		return "changed";
	if (m->diff && cell == SNAP_CELL_ZERO)
		return "changed to zero";
	return map_style[cell].name;
}

static uint64_t u64_of(const msgpack_object *map, const char *key)
{
	const msgpack_object *o = mp_get(map, key);

	return o && o->type == MSGPACK_OBJECT_POSITIVE_INTEGER ? o->via.u64 : 0;
}

int map_get(const msgpack_object *o, struct map *m)
{
	const msgpack_object *map = mp_get(o, "map"), *cells, *diff;
	const msgpack_object *regions;

	memset(m, 0, sizeof(*m));
	if (!map)
		return -EINVAL;
	cells = mp_get(map, "cells");
	diff = mp_get(map, "diff");
	m->scale = u64_of(map, "pages_per_cell");
	if (!cells || cells->type != MSGPACK_OBJECT_BIN ||
		!cells->via.bin.size || cells->via.bin.size > SNAP_MAP_MAX ||
		!m->scale)
		return -EINVAL;
	m->cells = (const uint8_t *)cells->via.bin.ptr;
	m->n = cells->via.bin.size;
	m->diff = diff && diff->type == MSGPACK_OBJECT_BOOLEAN &&
		  diff->via.boolean;
	for (size_t i = 0; i < m->n; i++) {
		uint8_t c = m->cells[i] & SNAP_CELL_KIND;

		if (c >= SNAP_NCELLS_)
			return -EINVAL;
		m->count[c]++;
		m->working += m->cells[i] & SNAP_CELL_WORKING ? 1 : 0;
	}
	regions = mp_get(mp_get(o, "memory"), "regions");
	if (!regions || regions->type != MSGPACK_OBJECT_ARRAY)
		return -EINVAL;
	m->regions = &regions->via.array;
	return 0;
}

gpa_t map_gpa(const struct map *m, size_t cell)
{
	uint64_t at = cell * m->scale * 4096;

	for (uint32_t i = 0; i < m->regions->size; i++) {
		const msgpack_object *r = &m->regions->ptr[i];
		uint64_t size = u64_of(r, "bytes");

		if (at < size)
			return u64_of(r, "gpa") + at;
		at -= size;
	}
	return 0;
}

/* One character for cells from..to: what most of them are, except that a page
 * of the working set or an unreadable one is always seen. */
static char character(const struct map *m, size_t from, size_t to)
{
	size_t n[SNAP_NCELLS_] = {0}, working = 0;
	unsigned best = 0;

	for (size_t i = from; i < to && i < m->n; i++) {
		n[m->cells[i] & SNAP_CELL_KIND]++;
		working += m->cells[i] & SNAP_CELL_WORKING ? 1 : 0;
	}
	if (n[SNAP_CELL_UNREADABLE])
		return map_style[SNAP_CELL_UNREADABLE].ch;
	if (working)
		return map_working.ch;
	for (unsigned c = 1; c < SNAP_NCELLS_; c++)
		best = n[c] > n[best] ? c : best;
	/* some pages among many of zeros */
	if (best <= SNAP_CELL_ZERO && n[SNAP_CELL_PRESENT])
		return 'o';
	return map_style[best].ch;
}

static void legend(const struct map *m, FILE *f)
{
	for (unsigned c = 1; c < SNAP_NCELLS_; c++) {
		if (m->count[c])
			(void)fprintf(f, "  %c %s %" PRIu64, map_style[c].ch,
				map_name(m, c), m->count[c] * m->scale);
	}
	if (m->count[SNAP_CELL_PRESENT])
		(void)fprintf(f, "  o some %s", map_name(m, SNAP_CELL_PRESENT));
	if (m->working)
		(void)fprintf(f, "  %c %s %" PRIu64, map_working.ch,
			map_working.name, m->working * m->scale);
	(void)fputs(" (pages)\n", f);
}

int snap_map_text(const msgpack_object *o, FILE *f)
{
	size_t each = 1, row;
	struct map m;
	int rc = map_get(o, &m);

	if (rc)
		return rc;
	while (m.n / each > (size_t)COLUMNS * ROWS)
		each *= 2;
	row = each * COLUMNS;
	(void)fprintf(f, "map       one character is %" PRIu64 " KiB\n",
		each * m.scale * 4);
	for (size_t at = 0; at < m.n; at += row) {
		(void)fprintf(f, "  %10" PRIx64 "  ", map_gpa(&m, at));
		for (size_t i = at; i < at + row && i < m.n; i += each)
			(void)fputc(character(&m, i, i + each), f);
		(void)fputc('\n', f);
	}
	legend(&m, f);
	return ferror(f) ? -EIO : 0;
}
