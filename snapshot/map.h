/*
 * A picture of guest memory, drawn from the "map" of what snap_inspect()
 * says: one cell for every page, or for several pages of a large machine.
 */
#ifndef THAW_SNAPSHOT_MAP_H
#define THAW_SNAPSHOT_MAP_H

#include "core/mp.h"

#include <stdio.h>

/* What a cell of the map can be; of several pages the largest counts. */
enum snap_cell {
	SNAP_CELL_NONE,       /* no page */
	SNAP_CELL_INHERITED,  /* as in the parent */
	SNAP_CELL_ZERO,       /* in a diff: it became zero */
	SNAP_CELL_SHARED,     /* stored once for several, or in an ancestor */
	SNAP_CELL_PRESENT,    /* stored; in a diff: it changed */
	SNAP_CELL_UNREADABLE, /* its leaf is damaged */
	SNAP_NCELLS_
};
/* Added to a cell that the working set (FILE.ws) has. */
#define SNAP_CELL_WORKING 0x80
#define SNAP_CELL_KIND    0x7f

/* Cells of a map: 16 GiB page by page, more than that in groups. */
#define SNAP_MAP_MAX (4ULL * 1024 * 1024)

/* Compact, in characters. All three: o is the whole answer; -EINVAL when it
 * has no map, -EIO when it cannot be written. */
int snap_map_text(const msgpack_object *o, FILE *f) MUST_USE;
int snap_map_png(const msgpack_object *o, FILE *f) MUST_USE;
int snap_map_svg(const msgpack_object *o, FILE *f) MUST_USE;

#endif
