/* Makes all checksums of a snapshot right, from the leaves up, so that a fuzzer
 * gets behind them. For fuzz_snap.c and fuzz_chain.c. */
#ifndef THAW_TESTS_FUZZ_SNAP_SEAL_H
#define THAW_TESTS_FUZZ_SNAP_SEAL_H

#include "core/crc32c.h"
#include "core/util.h"
#include "snapshot/format.h"

#include <string.h>

static inline void snap_seal_leaves(
	uint8_t *p, size_t size, const struct snap_section *sec)
{
	struct snap_memory m;
	uint64_t at;

	if (sec->stored_length < sizeof(m))
		return;
	memcpy(&m, p + sec->offset, sizeof(m));
	at = sec->offset + sizeof(m) +
	     (uint64_t)m.region_count * sizeof(struct snap_region);
	for (uint32_t i = 0; i < m.root_count && i < 64; i++) {
		struct snap_root r;

		if (!range_inside(at, sizeof(r), size))
			return;
		memcpy(&r, p + at, sizeof(r));
		if (r.offset && range_inside(r.offset, 4096, size))
			r.crc = crc32c(0, p + r.offset, 4096);
		memcpy(p + at, &r, sizeof(r));
		at += sizeof(r);
	}
}

static inline void snap_seal(uint8_t *p, size_t size)
{
	struct snap_section sec;
	struct snap_header h;
	uint64_t at;

	if (size < sizeof(h))
		return;
	memcpy(&h, p, sizeof(h));
	at = h.section_table_offset;
	for (uint32_t i = 0; i < h.section_count && i < 64; i++) {
		if (!range_inside(at, sizeof(sec), size))
			break;
		memcpy(&sec, p + at, sizeof(sec));
		if (range_inside(sec.offset, sec.stored_length, size)) {
			if (sec.tag == SNAP_TAG_MEMORY)
				snap_seal_leaves(p, size, &sec);
			sec.crc = crc32c(0, p + sec.offset, sec.stored_length);
		}
		memcpy(p + at, &sec, sizeof(sec));
		at += sizeof(sec);
	}
	memcpy(&h, p, sizeof(h));
	if (range_inside(h.section_table_offset, h.section_count * sizeof(sec),
		    size))
		h.section_table_crc = crc32c(0, p + h.section_table_offset,
			h.section_count * sizeof(sec));
	h.crc = crc32c(0, &h, offsetof(struct snap_header, crc));
	memcpy(p, &h, sizeof(h));
}

#endif
