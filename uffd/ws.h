/*
 * The working set: which pages a request needed, from the start of its machine
 * to its answer. It stands beside the snapshot, in FILE.ws, because a published
 * snapshot is never rewritten. It is a set and not a trace: between two runs
 * the set repeats, the order does not.
 *
 * The file is little-endian: struct ws_header, then the bitmap, one bit for
 * each 4 KiB page in the order of guest memory without the device hole, least
 * significant bit first. docs/snapshot-format.md has the same for readers who
 * have no C.
 *
 * It is a hint that anybody may have written: a set that does not fit is an
 * error of its own and never one of the snapshot, and a wrong one costs time
 * and nothing else.
 */
#ifndef THAW_UFFD_WS_H
#define THAW_UFFD_WS_H

#include "core/err.h"

#define WS_MAGIC   "\x89THAWWS\n"
#define WS_VERSION 1
#define WS_SUFFIX  ".ws"
#define WS_MAX     (32 * MIB) /* of a bitmap: 1 TiB of memory */

struct ws_header {
	uint8_t magic[8];
	uint16_t version;    /* 1 */
	uint16_t recordings; /* how many were merged; at least 1 */
	uint32_t page_size;  /* 4096 */
	uint8_t uuid[16];    /* of the snapshot */
	uint8_t digest[16]; /* of the snapshot: XXH3-128 of header and tables */
	uint64_t pages;     /* bits in the bitmap: memory / 4096 */
	uint64_t set;       /* bits that are 1 */
	uint32_t crc;       /* CRC-32C of the bitmap */
	uint32_t header_crc; /* CRC-32C of the 68 bytes before */
};
_Static_assert(sizeof(struct ws_header) == 72, "working set header");

struct ws {
	uint8_t uuid[16], digest[16];
	uint64_t pages, set;
	uint32_t recordings;
	uint64_t *bits; /* owned; whole words, unused bits 0 */
};

/* An empty set. */
int ws_init(struct ws *w, uint64_t pages, const uint8_t uuid[16],
	const uint8_t digest[16], struct err *e) MUST_USE;
void ws_fini(struct ws *w);

static inline bool ws_has(const struct ws *w, uint64_t page)
{
	return w->bits[page / 64] >> (page % 64) & 1;
}
void ws_add(struct ws *w, uint64_t page);

/* Read all of a file, by pread() from 0: -EBADMSG when it is damaged. */
int ws_read(int fd, struct ws *w, struct err *e) MUST_USE;
/* Write all of a file that is empty, and fsync it. */
int ws_write(int fd, const struct ws *w, struct err *e) MUST_USE;
/* Does it belong to this snapshot? -EBADMSG and why not. */
int ws_check(const struct ws *w, const uint8_t uuid[16],
	const uint8_t digest[16], uint64_t pages, struct err *e) MUST_USE;
/* What either has. They must belong to the same snapshot. */
int ws_merge(struct ws *w, const struct ws *other, struct err *e) MUST_USE;

#endif
