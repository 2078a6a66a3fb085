/* Shared by map.c (text) and map_image.c (PNG, SVG). */
#ifndef THAW_SNAPSHOT_MAP_INTERNAL_H
#define THAW_SNAPSHOT_MAP_INTERNAL_H

#include "core/mem.h"
#include "snapshot/map.h"

struct map_style {
	const char *name;
	char ch;
	uint8_t rgb[3];
};
extern const struct map_style map_style[SNAP_NCELLS_];
extern const struct map_style map_working;

/* All of it borrowed from the answer. */
struct map {
	const uint8_t *cells;
	size_t n;
	uint64_t scale; /* pages in a cell */
	bool diff;
	uint64_t count[SNAP_NCELLS_], working; /* cells */
	const msgpack_object_array *regions;
};

/* Check the answer's "map"; -EINVAL. */
int map_get(const msgpack_object *o, struct map *m) MUST_USE;
const char *map_name(const struct map *m, unsigned cell);
/* Where a cell's first page is in guest memory. */
gpa_t map_gpa(const struct map *m, size_t cell);

#endif
