/*
 * Shared by the files of this folder, nobody else's business. format.h has the
 * file's structs, snap.h what the rest of thaw calls.
 *
 * The fd of a snapshot is only ever read with pread() into memory of our own:
 * a file that shrinks or changes while it is read gives an error or a wrong
 * checksum, never a SIGBUS and never a value that changes after its check.
 */
#ifndef THAW_SNAPSHOT_INTERNAL_H
#define THAW_SNAPSHOT_INTERNAL_H

#include "snapshot/format.h"
#include "snapshot/snap.h"

#if defined(__x86_64__)
#define SNAP_ARCH_HOST SNAP_ARCH_X86_64
#elif defined(__aarch64__)
#define SNAP_ARCH_HOST SNAP_ARCH_AARCH64
#endif

struct snap {
	int fd; /* borrowed */
	struct snap_header h;
	struct snap_section *sec; /* owned; h.section_count of them */
	struct snap_memory mem;
	struct snap_region region[SNAP_MAX_REGIONS];
	struct snap_root *root;    /* owned; mem.root_count of them */
	struct snap_parent wanted; /* of a diff; .path points into h */
	struct snap *parent;       /* borrowed; NULL: not attached */
};

/* "bytes 17-20: ..." with code -EBADMSG; len 0: no range in front. */
int snap_bad(struct err *e, uint64_t offset, uint64_t len, const char *fmt, ...)
	PRINTF(4, 5);
/* pread() of exactly len bytes; the end of the file is the file's fault. */
int snap_pread(int fd, void *buf, uint64_t len, uint64_t offset,
	struct err *e) MUST_USE;
bool snap_is_zero(const void *p, size_t len);

/* header.c: each reads and checks one thing of s->fd into s. */
int snap_read_header(struct snap *s, struct err *e) MUST_USE;
int snap_read_table(struct snap *s, struct err *e) MUST_USE;
int snap_read_index(struct snap *s, struct err *e) MUST_USE; /* index.c */

/* sections.c */
const struct snap_section *snap_find(
	const struct snap *s, uint64_t tag, uint16_t index);
/* The bytes of a section, checksum checked; *out is malloc()ed. */
int snap_read_section(const struct snap *s, const struct snap_section *sec,
	uint64_t max, uint8_t **out, struct err *e) MUST_USE;
/* The checksum only, through buf of SNAP_CHUNK_SIZE bytes: of sections that
 * nobody parses, which may be of any length. */
int snap_check_section(const struct snap *s, const struct snap_section *sec,
	uint8_t *buf, struct err *e) MUST_USE;
int snap_load_section(const struct snap *s, const struct snap_section *sec,
	const struct st_desc *d, void *state, struct err *e) MUST_USE;
/* The table for a state section's tag, NULL for other sections. */
const struct st_desc *snap_section_desc(uint64_t tag);

/* A section with an unknown tag: may it be skipped? */
int snap_check_unknown(const struct snap_section *sec, struct err *e) MUST_USE;

/* index.c */
struct snap_leaf_at {
	const struct snap_region *region;
	uint32_t root;   /* index of the root entry */
	uint32_t chunks; /* how many of the 128 are inside the region */
	gpa_t gpa;       /* of the first chunk */
};
/* Where root entry i stands; i < mem.root_count. */
void snap_leaf_locate(
	const struct snap *s, uint32_t i, struct snap_leaf_at *at);
/* Read leaf and check it and all its chunks. Not for absent leaves. */
int snap_read_leaf(const struct snap *s, const struct snap_leaf_at *at,
	struct snap_leaf *leaf, struct err *e) MUST_USE;
/* The raw bytes of a chunk that has any, checked; buf: SNAP_CHUNK_SIZE. */
int snap_read_chunk(const struct snap *s, const struct snap_leaf_at *at,
	uint32_t n, const struct snap_chunk *c, uint8_t *buf,
	struct err *e) MUST_USE;

/* Which pages of guest memory may have content, without touching any. */
struct snap_pages {
	const struct mem *mem;
	int pagemap_fd;           /* borrowed, or -1 */
	uint64_t data, hole;      /* MEM_BUILDER: the data extent at hand */
	uint64_t window, entries; /* pagemap: first page and number in buf */
	uint64_t buf[512];
};
void snap_pages_init(
	struct snap_pages *p, const struct mem *mem, int pagemap_fd);
/* Mask of the 16 pages at this offset of mem.map; offsets must ascend. */
int snap_pages_mask(
	struct snap_pages *p, uint64_t offset, uint16_t *mask) MUST_USE;

/* memwriter.c: write chunk data and leaves from file offset *at on and fill
 * root[], one entry per leaf; *at is then where the file ends. */
int snap_write_memory(const struct machine *m, int fd,
	const struct snap_write_opts *opts, uint64_t *at,
	struct snap_root *root, struct err *e) MUST_USE;

/* chain.c */
int snap_digest_of(const struct snap_header *h, const struct snap_section *sec,
	uint8_t digest[16]) MUST_USE;
void snap_note_parent(struct snap *s);
/* Is every parent there? */
int snap_check_chain(const struct snap *s, struct err *e) MUST_USE;
/* Leaf i of guest memory, through a buffer of the caller's. */
struct snap_buffer {
	uint8_t b[SNAP_CHUNK_SIZE];
};
int snap_load_leaf(const struct snap *s, uint32_t i, const struct mem *mem,
	struct snap_buffer *buf, struct err *e) MUST_USE;
/* reader.c: len bytes of whole pages. */
int snap_place_run(const struct mem *mem, gpa_t gpa, const uint8_t *buf,
	uint64_t len, struct err *e) MUST_USE;

/* metadata.c */
int snap_pack_metadata(const struct machine *m, const char *labels_json,
	msgpack_sbuffer *buf, struct err *e) MUST_USE;

bool snap_uuid_is_zero(const struct snap_uuid *u);
int snap_uuid_draw(struct snap_uuid *u) MUST_USE;

#endif
