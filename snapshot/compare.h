/* Shared by compare.c (state, the answer) and compare_mem.c (memory). */
#ifndef THAW_SNAPSHOT_COMPARE_H
#define THAW_SNAPSHOT_COMPARE_H

#include "snapshot/internal.h"

/* A list that is packed before its length is known. */
struct found {
	msgpack_sbuffer buf;
	msgpack_packer p;
	uint32_t n;
};
void found_init(struct found *f);
/* The key and the list; frees it. */
void found_pack(struct found *f, const char *key, msgpack_packer *out);

/* Pages that differ, and the ranges of them; same regions. */
int compare_memory(struct found *ranges, struct snap *a, struct snap *b,
	uint64_t *pages, struct err *e) MUST_USE;

#endif
