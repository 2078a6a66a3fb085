/*
 * Memory beyond the guest's image, as the e820 map gave it: a bump allocator in
 * at most two pieces (below and above the device hole). What a request
 * allocated is gone with its answer; what an init hook allocated stays.
 */
#ifndef THAW_CORE_GUEST_HEAP_H
#define THAW_CORE_GUEST_HEAP_H

#include "core/guest/lib.h"

/* Add a piece, lowest first. */
void heap_add(uint64_t start, uint64_t end);
/* Aligned to 16 bytes; NULL when there is no room. Not cleared: may hold what
 * an earlier request left. */
void *heap_alloc(uint64_t size);
/* The largest that heap_alloc() would give now. */
uint64_t heap_room(void);
/* All that is left, in one or more pieces. */
uint64_t heap_left(void);

struct heap_mark {
	uint64_t at[2];
};
struct heap_mark heap_get_mark(void);
void heap_reset(struct heap_mark m);

#endif
