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

#include <sys/uio.h>
#include <zstd.h>

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
	struct snap_root *root;       /* owned; mem.root_count of them */
	struct snap_parent parent_id; /* of a diff */
	struct snap *parent;          /* borrowed; snap_attach() */
	uint32_t depth;               /* how many ancestors are attached */
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
int snap_check_codec(const struct snap_section *sec, struct err *e) MUST_USE;
/* The checksum only, through buf of SNAP_CHUNK_SIZE bytes: of sections that
 * nobody parses, which may be of any length. */
int snap_check_section(const struct snap *s, const struct snap_section *sec,
	uint8_t *buf, struct err *e) MUST_USE;
int snap_load_section(const struct snap *s, const struct snap_section *sec,
	const struct st_desc *d, void *state, struct err *e) MUST_USE;
/* The table for a state section's tag, NULL for other sections. */
const struct st_desc *snap_section_desc(uint64_t tag);

/* Are the sections those of this configuration: none missing, none too many, no
 * unknown one that may not be skipped? */
int snap_check_parts(const struct snap *s, const struct machine_config *cfg,
	struct err *e) MUST_USE;
/* Sections that this version gives a meaning. */
bool snap_section_known(const struct snap_section *sec);
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
/* The file in which an entry of s has its data: itself or an ancestor, and the
 * entry's place in it is checked. NULL and -EBADMSG when there is none. */
const struct snap *snap_chunk_file(
	const struct snap *s, const struct snap_chunk *c, struct err *e);
/* One zstd frame, its checksum checked first, that gives raw_length bytes (at
 * most SNAP_CHUNK_SIZE). NULL, or what is wrong. z: of this thread, to unpack
 * many; *z is made when it is NULL, and the caller's to free. May be NULL. */
const char *snap_unpack_zstd(ZSTD_DCtx **z, const void *stored,
	uint32_t stored_length, uint32_t stored_crc, void *raw,
	uint32_t raw_length) MUST_USE;
/* Check the stored bytes of a chunk and unpack them to raw (SNAP_CHUNK_SIZE);
 * raw codec: raw may be stored itself, or NULL to check only. */
int snap_chunk_decode(const struct snap_chunk *c, ZSTD_DCtx **z,
	const void *stored, void *raw, struct err *e) MUST_USE;
/* The raw bytes of a chunk that has any, checked; buf: SNAP_CHUNK_SIZE. */
int snap_read_chunk(const struct snap *s, const struct snap_leaf_at *at,
	uint32_t n, const struct snap_chunk *c, uint8_t *buf,
	struct err *e) MUST_USE;
/* The pages of c that are in `take` come out of its packed bytes to where they
 * belong in a window of 64 KiB. */
void snap_unpack_pages(uint8_t *window, const uint8_t *packed, uint16_t present,
	uint16_t take);

/* chain.c: what a window of 64 KiB is made of, through the chain. */
struct snap_extent {
	const struct snap *file; /* where the stored bytes are */
	struct snap_chunk c;
	uint16_t take; /* those of c.present that count; the rest is newer */
};
struct snap_window {
	uint16_t zero;       /* pages that are zeros */
	uint16_t named_zero; /* those of which a file of the chain says so */
	uint16_t n;
	struct snap_extent ext[SNAP_CHUNK_PAGES];
};
/* The leaves for one root index, of each file of a chain; NULL where there is
 * none. */
struct snap_leaves {
	uint32_t root;
	uint32_t nfiles;
	struct snap_leaf *leaf[SNAP_MAX_CHAIN + 1];  /* owned */
	struct snap_leaf *spare[SNAP_MAX_CHAIN + 1]; /* owned */
	const struct snap *file[SNAP_MAX_CHAIN + 1];
};
void snap_leaves_init(struct snap_leaves *l, const struct snap *s);
void snap_leaves_fini(struct snap_leaves *l);
/* Read and check the leaves of root entry i, in all files of the chain. */
int snap_leaves_read(struct snap_leaves *l, uint32_t i, struct err *e) MUST_USE;
/* Window n (of the leaf's 128). Every page is in one extent or in zero. */
int snap_leaves_window(const struct snap_leaves *l, uint32_t n,
	struct snap_window *w, struct err *e) MUST_USE;
int snap_digest_of(const struct snap_header *h, const struct snap_section *sec,
	uint8_t digest[16]) MUST_USE;
/* All ancestors of a diff are there? */
int snap_check_chain(const struct snap *s, struct err *e) MUST_USE;

/* pool.c: n pieces of work by several threads. */
struct snap_pool;
/* threads: besides the caller's; 0: none is started. */
int snap_pool_open(unsigned threads, struct snap_pool **out) MUST_USE;
void snap_pool_close(struct snap_pool *p);
/* fn(arg, i, slot) for each i below n; slot: 0 to threads, never used by two at
 * once. Returns when all are done: 0 or what the first failing fn returned. */
int snap_pool_run(struct snap_pool *p,
	int (*fn)(void *arg, uint32_t i, unsigned slot), void *arg, uint32_t n);

/* output.c: large writes, several under way. */
struct snap_output;
/* most: how long the file gets at most, to write past the page cache where the
 * file system can; 0: through it. The file may be that long afterwards. */
int snap_output_open(int fd, uint64_t most, struct snap_output **out,
	struct err *e) MUST_USE;
/* Waits for all writes. False: that could not be done, and the kernel may still
 * read the buffers: they must stay for as long as the process does. */
bool snap_output_close(struct snap_output *o) MUST_USE;
/* So many that a disk does not run dry while the processors are busy. */
#define SNAP_OUTPUT_BATCHES 6
/* Write n pieces one behind the other at this offset; they stay untouched until
 * snap_output_wait() of the same batch number. */
int snap_output_write(struct snap_output *o, unsigned batch,
	const struct iovec *iov, unsigned n, uint64_t offset,
	struct err *e) MUST_USE;
int snap_output_wait(
	struct snap_output *o, unsigned batch, struct err *e) MUST_USE;

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

/* A window of 64 KiB as it is written. */
struct snap_got {
	uint8_t *buf; /* room for SNAP_CHUNK_SIZE: the present pages, packed */
	uint16_t present, zero;
};
/* Where the memory image comes from that is written: a machine (input_mem.c),
 * a chain (input_chain.c). */
struct snap_input {
	/* Get ready for root entry i: ascending, one at a time. */
	int (*leaf)(struct snap_input *in, uint32_t i, struct err *e);
	/* Window n of it. Several threads at once, each with its own slot. */
	int (*window)(struct snap_input *in, uint32_t n, unsigned slot,
		struct snap_got *got, struct err *e);
	/* The layout, as in the memory section. */
	uint32_t regions, roots;
	struct snap_region region[SNAP_MAX_REGIONS];
	bool diff; /* pages may be neither present nor zero */
};

/* memwriter.c: write chunk data and leaves from file offset *at on and fill
 * root[], one entry per leaf; *at is then where the file ends. */
struct snap_memory_job {
	struct snap_input *in;
	int fd;
	int zstd_level;
	unsigned threads;
	int (*progress)(void *arg, uint64_t done, uint64_t total);
	void *arg;
	/* A diff: whose data it may share, or NULL, and how many pages it has
	 * at most. */
	const struct snap *parent;
	uint64_t pages;
	uint64_t pages_shared; /* out */
};
int snap_write_memory(struct snap_memory_job *job, uint64_t *at,
	struct snap_root *root, struct err *e) MUST_USE;

/* front.c: everything in front of the memory data. Sections are added, then
 * memory, then all of it is written. */
#define SNAP_FRONT_SECTIONS SNAP_MAX_SECTIONS
struct snap_front {
	struct snap_header h;
	struct snap_memory mem;
	struct snap_section sec[SNAP_FRONT_SECTIONS];
	msgpack_sbuffer buf[SNAP_FRONT_SECTIONS]; /* owned: the content */
	/* or whose content it is, copied in pieces: borrowed */
	const struct snap_section *from[SNAP_FRONT_SECTIONS];
	const struct snap *from_file;
	uint32_t n;
	uint64_t end; /* of what is in buf, in the file */
};
void snap_front_header(struct snap_front *f, const struct snap_uuid *uuid,
	uint64_t created_ns, const struct snap_parent *parent);
/* A section whose content the caller writes to the returned buffer. */
msgpack_sbuffer *snap_front_section(struct snap_front *f, uint64_t tag,
	uint16_t index, uint16_t version, const char *name);
/* The last section: with everything but what the data decides. */
int snap_front_memory(struct snap_front *f, const struct snap_input *in,
	struct err *e) MUST_USE;
/* Memory data, then the front, then fsync. */
int snap_front_finish(struct snap_front *f, struct snap_memory_job *job,
	struct snap_written *out, struct err *e) MUST_USE;
void snap_front_free(struct snap_front *f);
/* An empty regular file, and not open for appending? */
int snap_check_output(int fd, struct err *e) MUST_USE;

/* input_chain.c: a snapshot and its ancestors; own: only its own pages, so that
 * a diff stays one. */
struct snap_input_chain {
	struct snap_input in;
	struct snap_leaves leaves;
	uint8_t *buf;     /* owned: three times 64 KiB for each thread */
	ZSTD_DCtx **zstd; /* owned, and each of them; one per thread */
	unsigned nthreads;
};
int snap_input_chain(struct snap_input_chain *x, const struct snap *s, bool own,
	unsigned threads, struct err *e) MUST_USE;
void snap_input_chain_fini(struct snap_input_chain *x);

/* input_mem.c; pages, pagemap_fd, parent as in snap_write_opts */
struct snap_input_mem {
	struct snap_input in;
	const struct mem *mem;
	const uint64_t *bits;
	struct snap_pages pages;
	const struct mem_region *r; /* at hand, and the offset in it */
	uint64_t at;
	uint16_t mask[SNAP_LEAF_CHUNKS];
};
void snap_input_mem(struct snap_input_mem *x, const struct mem *mem,
	const struct snap_write_opts *o);

/* dedupe.c: chunks that were stored before, by the hash of their raw bytes. */
struct snap_stored {
	uint64_t hash[2];
	uint64_t offset;
	uint32_t stored_length, raw_length, stored_crc;
	uint32_t root;
	uint16_t chunk;
	uint8_t codec, used;
};
struct snap_dedupe {
	struct snap_stored *slot; /* owned */
	size_t n, cap;
};
void snap_dedupe_free(struct snap_dedupe *d);
/* The entry with this hash and length, or NULL. */
const struct snap_stored *snap_dedupe_find(const struct snap_dedupe *d,
	const uint64_t hash[2], uint32_t raw_length);
/* Remember; does nothing when the table has grown as large as it may. */
void snap_dedupe_add(struct snap_dedupe *d, const struct snap_stored *s);

/* ancestors.c: chunks that the ancestors of a diff hold, by checksum and
 * length. */
struct snap_held {
	uint64_t offset;
	uint32_t stored_length, crc, stored_crc;
	uint8_t pages; /* raw length; 0: a free slot */
	uint8_t file;  /* 1: the parent */
	uint8_t codec;
};
struct snap_ancestors {
	const struct snap *file[SNAP_MAX_CHAIN + 1]; /* borrowed; from 1 on */
	unsigned nfiles;
	struct snap_held *slot; /* owned */
	size_t n, cap;
	ZSTD_DCtx *zstd; /* owned */
};
/* parent may be NULL; pages: how many the diff has. What cannot be read is left
 * out. */
void snap_ancestors_read(
	struct snap_ancestors *a, const struct snap *parent, uint64_t pages);
void snap_ancestors_free(struct snap_ancestors *a);
/* Where a chunk with this checksum and length is: offset, stored_length,
 * stored_crc, file and codec of c. Its bytes may be others. */
bool snap_ancestors_find(const struct snap_ancestors *a, uint32_t crc,
	uint32_t raw_length, struct snap_chunk *c);
/* Are the bytes of that chunk, read, checked and unpacked, these? buf: twice
 * SNAP_CHUNK_SIZE. */
bool snap_ancestors_same(struct snap_ancestors *a, const struct snap_chunk *c,
	const uint8_t *raw, uint8_t *buf);

/* load.c: snap_load_memory() without looking at the chunks' checksums, which
 * only a benchmark may do that asks what they cost. Raw chunks only. */
int snap_load_unchecked(struct snap *s, struct mem *mem, unsigned threads,
	struct err *e) MUST_USE;

/* metadata.c */
int snap_pack_metadata(const struct machine *m, const char *labels_json,
	msgpack_sbuffer *buf, struct err *e) MUST_USE;

bool snap_uuid_is_zero(const struct snap_uuid *u);
int snap_uuid_draw(struct snap_uuid *u) MUST_USE;

#endif
