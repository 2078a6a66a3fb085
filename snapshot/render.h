/* The map that snap_inspect() packs, as text for a terminal. */
#ifndef THAW_SNAPSHOT_RENDER_H
#define THAW_SNAPSHOT_RENDER_H

#include "core/mp.h"

#include <stdio.h>

/* Overview or one section, whichever the map is. -EIO when writing failed,
 * -EINVAL when it is neither. */
int snap_render_text(const msgpack_object *o, FILE *f) MUST_USE;

/* Any value: maps as indented lines, long binaries cut. */
void snap_render_value(const msgpack_object *o, unsigned indent, FILE *f);

#endif
