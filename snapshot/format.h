/*
 * The snapshot file, format 1: structs and their meaning, nothing else.
 * docs/snapshot-format.md says the same for readers of the file who have no C.
 *
 *   0            struct snap_header, 4096 bytes
 *   4096         section table: struct snap_section[section_count]
 *   ...          sections, each at a multiple of 8
 *   data_offset  (a multiple of 4096, to the end of the file) chunk data and
 *                leaves of the memory index
 *
 * All numbers are little-endian, all reserved bytes and all bytes that belong
 * to nothing are zero. All checksums are CRC-32C (Castagnoli, reflected,
 * initial value and final xor 0xffffffff).
 */
#ifndef THAW_SNAPSHOT_FORMAT_H
#define THAW_SNAPSHOT_FORMAT_H

#include <assert.h>
#include <stddef.h>
#include <stdint.h>

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
	"the structs are mapped as they are");

#define SNAP_MAGIC      "\x89THAW\r\n\x1a"
#define SNAP_MAGIC_SIZE 8

/* A reader takes files of its own major version whose min_reader_minor is not
 * above its own minor version. */
#define SNAP_MAJOR 1
#define SNAP_MINOR 1

enum {
	SNAP_ARCH_X86_64 = 1,
	SNAP_ARCH_AARCH64 = 2
};

#define SNAP_FLAG_DIFF     1U /* needs its parent */
#define SNAP_FLAG_COMPLETE 2U /* written to the end; always set */
#define SNAP_FLAGS_KNOWN   3U

/* Bytes 0-15 and the checksum at 4092 stay where they are in every version. */
struct snap_header {
	uint8_t magic[SNAP_MAGIC_SIZE];
	uint16_t major, minor;
	uint16_t min_reader_minor;
	uint16_t arch;
	uint32_t page_size; /* 4096 */
	uint32_t flags;     /* SNAP_FLAG_ */
	uint8_t uuid[16];   /* never all zero */
	/* of a diff; all zero otherwise */
	uint8_t parent_uuid[16];
	uint8_t parent_digest[16]; /* XXH3-128 of header and section table */
	uint64_t created_ns;       /* since 1970, UTC */
	char writer[32];           /* "thaw 0.1", zero-padded */
	uint32_t section_count;
	uint32_t section_table_crc;
	uint64_t section_table_offset; /* a multiple of 8 */
	uint64_t file_length;          /* a multiple of 4096 */
	char parent_path[1024];        /* hint, zero-padded */
	uint8_t reserved[2932];
	uint32_t crc; /* of bytes 0..4091 */
};
static_assert(sizeof(struct snap_header) == 4096, "header");
static_assert(offsetof(struct snap_header, created_ns) == 72, "header");
static_assert(offsetof(struct snap_header, parent_path) == 136, "header");
static_assert(offsetof(struct snap_header, crc) == 4092, "header");

/* The smallest reader's minor version that a file with diff or zstd names. */
#define SNAP_MINOR_CHAINS 1

/* Sections and chunks. */
enum {
	SNAP_CODEC_RAW = 0,
	SNAP_CODEC_ZSTD = 1
};

#define SNAP_SECTION_REQUIRED 1U /* who does not know the tag must refuse */

struct snap_section {
	uint64_t tag;     /* what it is; random, never reused */
	uint16_t version; /* from 1; of a state section: its map's "v" */
	uint16_t flags;   /* SNAP_SECTION_ */
	uint16_t codec;
	uint16_t index;  /* which one of several with this tag, from 0 */
	uint64_t offset; /* a multiple of 8 */
	uint64_t stored_length;
	uint64_t raw_length;
	uint32_t crc;  /* of the stored bytes */
	char name[16]; /* for people: "vcpu0"; printable ASCII, zero-padded */
	uint32_t reserved;
};
static_assert(sizeof(struct snap_section) == 64, "section");

/* Tags of sections that are not devices'; a device's is device_ops.section. */
#define SNAP_TAG_CONFIG   0x6172c18601ba7035ULL /* REQUIRED, state map */
#define SNAP_TAG_METADATA 0xcda1a88ab06d1e2bULL /* msgpack map, for people */
#define SNAP_TAG_MACHINE  0xc8eb8733d6685e13ULL /* REQUIRED, state map */
#define SNAP_TAG_VCPU     0xe295a6eb31b0d987ULL /* REQUIRED, state map each */
#define SNAP_TAG_MEMORY   0x7b285f46cab2fb01ULL /* REQUIRED, below */

/*
 * The memory section: struct snap_memory, then struct snap_region
 * [region_count], then struct snap_root[root_count], the first level of the
 * chunk table. The second level are leaves, one page each, which lie among the
 * chunk data; a leaf stands after the data of its chunks.
 *
 * A region is cut into chunks of 64 KiB, 128 chunks to a leaf. Leaf i of a
 * region covers 8 MiB from region.gpa + i * 8 MiB and is root entry
 * region.first_leaf + i; the last one may reach past the region: its entries
 * there are zero.
 */
#define SNAP_CHUNK_SIZE     65536ULL
#define SNAP_PAGE_SIZE      4096ULL
#define SNAP_CHUNK_PAGES    16
#define SNAP_LEAF_CHUNKS    128
#define SNAP_LEAF_SPAN      (SNAP_LEAF_CHUNKS * SNAP_CHUNK_SIZE)
#define SNAP_LEAF_PAGES     (SNAP_LEAF_CHUNKS * SNAP_CHUNK_PAGES)
#define SNAP_MEMORY_VERSION 1

struct snap_memory {
	uint32_t chunk_size;   /* 65536 */
	uint32_t leaf_chunks;  /* 128 */
	uint32_t region_count; /* from 1 */
	uint32_t root_count;
	uint64_t memory_size; /* of all regions */
	uint64_t pages_present;
	uint64_t pages_zero;
	uint64_t data_offset; /* a multiple of 4096 */
	uint64_t reserved[2];
};
static_assert(sizeof(struct snap_memory) == 64, "memory");

struct snap_region {
	uint64_t gpa;        /* a multiple of 64 KiB, ascending, no overlap */
	uint64_t size;       /* a multiple of 64 KiB, not 0 */
	uint32_t first_leaf; /* index of its first root entry */
	uint32_t leaf_count; /* size / 8 MiB, rounded up */
	uint64_t reserved;
};
static_assert(sizeof(struct snap_region) == 32, "region");

/* A leaf that is not stored is all zero in this struct: in a full snapshot its
 * pages are zero, in a diff they are the parent's. Offsets ascend. */
struct snap_root {
	uint64_t offset; /* of the leaf: a multiple of 4096 */
	uint32_t crc;    /* of its 4096 bytes */
	uint16_t pages_present;
	uint16_t pages_zero;
};
static_assert(sizeof(struct snap_root) == 16, "root");

/*
 * A chunk. Bit n of a mask is page n of its 16. A page is present (stored),
 * or zero, never both; in a full snapshot it is one of them, in a diff it is
 * the parent's when it is neither. The raw bytes are the present pages,
 * lowest first, nothing between them. Without a present page all fields but
 * `zero` are 0.
 */
struct snap_chunk {
	uint64_t offset; /* in the file; raw codec: a multiple of 4096 */
	uint32_t stored_length;
	uint32_t raw_length; /* 4096 * number of present pages */
	uint32_t crc;        /* of the raw bytes */
	uint16_t present;
	uint16_t zero;
	uint16_t file; /* of the data. 0: this file; n: its n-th ancestor */
	uint8_t codec;
	uint8_t reserved;
	/* zstd: of the stored bytes, as different ones can unpack to the same;
	 * raw: 0 */
	uint32_t stored_crc;
};
static_assert(sizeof(struct snap_chunk) == 32, "chunk");

struct snap_leaf {
	struct snap_chunk chunk[SNAP_LEAF_CHUNKS];
};
static_assert(sizeof(struct snap_leaf) == 4096, "leaf");

/* What a reader accepts at most. */
#define SNAP_MAX_SECTIONS 256
#define SNAP_MAX_REGIONS  8
#define SNAP_MAX_STATE    (16ULL * 1024 * 1024) /* one msgpack section */
#define SNAP_MAX_ROOTS    (128U * 1024)         /* 1 TiB */

#endif
