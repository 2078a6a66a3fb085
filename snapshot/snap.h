/*
 * Snapshots: write one, read one. The file's layout is in format.h and
 * docs/snapshot-format.md; this is what the rest of thaw calls.
 *
 * The reader trusts nothing: a checksum finds accidents, not attackers, so
 * every field is also checked for range and meaning. All errors that are the
 * file's fault are -EBADMSG and name the byte range; a file from the future is
 * -EOPNOTSUPP with both versions in the message.
 */
#ifndef THAW_SNAPSHOT_SNAP_H
#define THAW_SNAPSHOT_SNAP_H

#include "core/machine.h"

struct snap_uuid {
	uint8_t b[16];
};
#define SNAP_UUID_STR 37
void snap_uuid_str(const struct snap_uuid *u, char out[SNAP_UUID_STR]);

/* Which snapshot a diff differs from. */
struct snap_parent {
	struct snap_uuid uuid;
	uint8_t digest[16]; /* snap_digest() of it */
	const char *path;   /* a hint: where it was; "" or NULL: none */
};

#define SNAP_MAX_ZSTD 19

struct snap_write_opts {
	struct snap_uuid uuid;   /* all zero: draw a random one */
	uint64_t created_ns;     /* since 1970; 0: now */
	const char *labels_json; /* a JSON object; may be NULL */
	/* One bit per page of mem.map, lowest first: the pages worth looking
	 * at. NULL: all of them, but see pagemap_fd. Borrowed. */
	const uint64_t *pages;
	/* A diff: pages that are not in .pages (which must be there) are the
	 * parent's. NULL: a full snapshot, where they are zero. Borrowed. */
	const struct snap_parent *parent;
	/* A diff: the parent itself, opened, with ancestors of its own attached
	 * as far as they are to be had. What they hold is not stored again.
	 * NULL: nothing is shared with them. Borrowed. */
	const struct snap *ancestors;
	int zstd_level;   /* 1 to SNAP_MAX_ZSTD; 0: raw */
	unsigned threads; /* that help; 0: none is started */
	/* /proc/PID/pagemap of this process, opened before the jail: pages of
	 * private memory that were never touched are then not read. 0 or less:
	 * there is none, and everything is read. Borrowed. */
	int pagemap_fd;
	/* Called now and then with bytes of guest memory looked at; a return
	 * other than 0 cancels with -ECANCELED. May be NULL. */
	int (*progress)(void *arg, uint64_t done, uint64_t total);
	void *arg;
};

struct snap_written {
	struct snap_uuid uuid;
	uint8_t digest[16]; /* what a diff against it must name */
	uint64_t file_bytes;
	uint64_t pages_present, pages_zero;
	/* present, and stored only once with others, or in an ancestor */
	uint64_t pages_shared;
};

/* Write a snapshot, full or diff, of a machine that is PAUSED (or BUILT or NEW
 * with its state loaded) to fd: an empty, seekable file. Ends with fsync. On
 * error the file's content is garbage; publishing (linkat) is the caller's.
 * Reading guest memory never makes a base grow: holes are found, not touched.
 */
int snap_write(struct machine *m, int fd, const struct snap_write_opts *o,
	struct snap_written *out, struct err *e) MUST_USE;
/* Would a diff of so many pages look at one more ancestor than there are from
 * parent (NULL: none) upwards? Of their index only a part of the diff's length
 * is read. */
bool snap_worth_opening(const struct snap *parent, uint64_t pages);

struct snap;

/* Read and check header, section table, and the memory index root. The fd is
 * borrowed until snap_close(). */
int snap_open(int fd, struct snap **out, struct err *e) MUST_USE;
void snap_close(struct snap *s);

const struct snap_uuid *snap_get_uuid(const struct snap *s);
/* XXH3-128 of header and section table, which hold the checksums of all else:
 * no other file has it. */
int snap_digest(const struct snap *s, uint8_t digest[16]) MUST_USE;

/*
 * Chains. A diff is opened like any snapshot; before its memory is read, its
 * parent is opened and attached, and so on up to the full one.
 */
#define SNAP_MAX_CHAIN 64 /* diffs on top of a full snapshot */
/* NULL for a full snapshot. Valid until snap_close(). */
const struct snap_parent *snap_get_parent(const struct snap *s);
/* -ESTALE: the parent is not the file that the diff was made against. The
 * parent is borrowed until the child is closed. */
int snap_attach(
	struct snap *child, struct snap *parent, struct err *e) MUST_USE;
/* Attach the files that follow the first, each the parent of the one before;
 * all must be there. */
int snap_attach_all(struct snap **chain, unsigned n, struct err *e) MUST_USE;
uint64_t snap_memory_size(const struct snap *s);
int snap_read_config(
	struct snap *s, struct machine_config *cfg, struct err *e) MUST_USE;
/* Into a machine made by machine_init() with that configuration (NEW): vCPU
 * and device state. All or error. */
int snap_load_state(struct snap *s, struct machine *m, struct err *e) MUST_USE;
/* Into memory made by mem_create(), through the whole chain; every chunk is
 * checked before one byte of it is placed. Zero pages are not written. threads:
 * that help; they have ended when it returns. */
int snap_load_memory(struct snap *s, struct mem *mem, unsigned threads,
	struct err *e) MUST_USE;

#define SNAP_LOAD_THREADS 3

/* Write what a snapshot holds, its ancestors attached, into a new file: another
 * codec, or a chain merged into one. State sections are copied as they are. */
struct snap_rewrite_opts {
	struct snap_uuid uuid; /* all zero: draw a random one */
	uint64_t created_ns;   /* 0: now */
	bool keep_diff;        /* a diff stays a diff of the same parent */
	int zstd_level;
	unsigned threads;
	int (*progress)(void *arg, uint64_t done, uint64_t total);
	void *arg;
};
int snap_rewrite(struct snap *s, int fd, const struct snap_rewrite_opts *o,
	struct snap_written *out, struct err *e) MUST_USE;

/* What guest memory holds, through the whole chain, as a plain sparse file: the
 * regions one behind the other (core/mem.h), so that a file offset is an offset
 * in the memory of a machine. fd: an empty file; progress as above. */
int snap_export_memory(struct snap *s, int fd,
	int (*progress)(void *arg, uint64_t done, uint64_t total), void *arg,
	struct err *e) MUST_USE;

/* Every checksum and every rule of the format, all of the file and of the
 * ancestors that are attached. e names the first bad byte range. progress as in
 * snap_write_opts. */
struct snap_verified {
	struct snap_uuid uuid;
	uint64_t files, file_bytes, chunks; /* of the whole chain */
	uint64_t pages_present, pages_zero; /* of the first file */
};
int snap_verify(struct snap *s, unsigned threads, struct snap_verified *out,
	int (*progress)(void *arg, uint64_t done, uint64_t total), void *arg,
	struct err *e) MUST_USE;
/* The same for a file that is opened for it. */
int snap_verify_fd(int fd, struct snap_verified *out,
	int (*progress)(void *arg, uint64_t done, uint64_t total), void *arg,
	struct err *e) MUST_USE;

/* What "thaw inspect" prints, as one msgpack map. A damaged file gives what is
 * sound plus "errors": only a file that is no snapshot at all is an error. */
struct arch_compat; /* core/arch.h */
struct snap_link {
	const char *path;
	struct snap_uuid uuid;
	const char *error; /* NULL: it is the parent that is meant */
};
struct snap_inspect_opts {
	/* NULL: the overview, else the name of one section to print in full
	 * (-ENOENT when there is none). */
	const char *section;
	bool map; /* add "map": a cell for each page, for snapshot/map.h */
	/* Its chain, parent first, as far as it was found; borrowed. */
	const struct snap_link *chain;
	unsigned nchain;
	/* The sidecar FILE.ws, for the map; 0 or less: none. */
	int ws_fd;
	/* What this host can do, to say whether the machine can go on here;
	 * NULL: not known. Borrowed. */
	const struct arch_compat *host;
};
int snap_inspect(int fd, const struct snap_inspect_opts *o, msgpack_packer *out,
	struct err *e) MUST_USE;

/* What a snapshot says about itself and its parent, from header and section
 * table alone; nothing of it is parsed further. digest: by which a diff names
 * this file. */
struct snap_peeked {
	struct snap_uuid uuid;
	uint8_t digest[16];
	bool diff;
	struct snap_uuid parent_uuid;
	uint8_t parent_digest[16];
	char parent_path[1024];
};
int snap_peek(int fd, struct snap_peeked *out, struct err *e) MUST_USE;

/* Open a chain, newest file first, and attach each to the one before. All or
 * error; the fds are borrowed until snap_close_chain(). */
int snap_open_chain(
	const int *fd, unsigned n, struct snap **s, struct err *e) MUST_USE;
void snap_close_chain(struct snap **s, unsigned n);

/* compare.c: what differs, as one msgpack map: "state" (by section and field),
 * "pages" (how many) and "ranges" of them. *same: nothing does. Chains must be
 * attached. */
int snap_compare(struct snap *a, struct snap *b, msgpack_packer *out,
	bool *same, struct err *e) MUST_USE;

#endif
