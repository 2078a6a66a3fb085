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

/* A snapshot that another one builds on. */
struct snap_parent {
	struct snap_uuid uuid;
	uint8_t digest[16];
	const char *path; /* hint; "" or NULL: none */
};
/* Diffs on top of each other that can be restored. */
#define SNAP_MAX_CHAIN 64

struct snap_write_opts {
	struct snap_uuid uuid;   /* all zero: draw a random one */
	const char *labels_json; /* a JSON object; may be NULL */
	/* /proc/PID/pagemap of this process, opened before the jail: pages of
	 * private memory that were never touched are then not read. 0 or less:
	 * there is none, and everything is read. Borrowed. */
	int pagemap_fd;
	/* One bit per 4 KiB page of mem.map, NULL: all of them. A full snapshot
	 * reads these pages, the others are zero; a diff (parent is not NULL)
	 * holds these pages, the others are its parent's. Borrowed. */
	const uint64_t *pages;
	const struct snap_parent *parent; /* borrowed */
	/* Called now and then with bytes of guest memory looked at; a return
	 * other than 0 cancels with -ECANCELED. May be NULL. */
	int (*progress)(void *arg, uint64_t done, uint64_t total);
	void *arg;
};

struct snap_written {
	struct snap_uuid uuid;
	uint8_t digest[16]; /* by which a diff names it */
	uint64_t file_bytes;
	uint64_t pages_present, pages_zero;
};

/* Write a snapshot of a machine that is PAUSED (or BUILT or NEW with its
 * state loaded) to fd: an empty, seekable file. Ends with fsync. On error the
 * file's content is garbage; publishing (linkat) is the caller's. Reading
 * guest memory never makes a base grow: holes are found, not touched. */
int snap_write(struct machine *m, int fd, const struct snap_write_opts *o,
	struct snap_written *out, struct err *e) MUST_USE;

struct snap;

/* Read and check header, section table, and the memory index root. The fd is
 * borrowed until snap_close(). */
int snap_open(int fd, struct snap **out, struct err *e) MUST_USE;
void snap_close(struct snap *s);

const struct snap_uuid *snap_get_uuid(const struct snap *s);
uint64_t snap_memory_size(const struct snap *s);
int snap_digest(const struct snap *s, uint8_t digest[16]) MUST_USE;
/* Of a diff, else NULL. Valid until snap_close(). */
const struct snap_parent *snap_get_parent(const struct snap *s);
/* Give a diff its parent, which stays the caller's and open until the diff is
 * closed. -ESTALE: it is another snapshot, or was changed. */
int snap_attach(
	struct snap *child, struct snap *parent, struct err *e) MUST_USE;
int snap_read_config(
	struct snap *s, struct machine_config *cfg, struct err *e) MUST_USE;
/* Into a machine made by machine_init() with that configuration (NEW): vCPU
 * and device state. All or error. */
int snap_load_state(struct snap *s, struct machine *m, struct err *e) MUST_USE;
/* Into memory made by mem_create(); every chunk is checked before one byte of
 * it is placed. Zero pages are not written. A diff must have its whole chain
 * attached. */
int snap_load_memory(struct snap *s, struct mem *mem, struct err *e) MUST_USE;

/* Every checksum and every rule of the format, all of the file. e names the
 * first bad byte range. progress as in snap_write_opts. */
struct snap_verified {
	struct snap_uuid uuid;
	uint64_t file_bytes, chunks, pages_present, pages_zero;
};
int snap_verify(int fd, struct snap_verified *out,
	int (*progress)(void *arg, uint64_t done, uint64_t total), void *arg,
	struct err *e) MUST_USE;

/* What "thaw inspect" prints, as one msgpack map. A damaged file gives what is
 * sound plus "errors": only a file that is no snapshot at all is an error. */
struct arch_compat; /* core/arch.h */
struct snap_inspect_opts {
	/* NULL: the overview, else the name of one section to print in full
	 * (-ENOENT when there is none). */
	const char *section;
	bool map; /* add "map": a cell for each page, for snapshot/map.h */
	/* What this host can do, to say whether the machine can go on here;
	 * NULL: not known. Borrowed. */
	const struct arch_compat *host;
};
int snap_inspect(int fd, const struct snap_inspect_opts *o, msgpack_packer *out,
	struct err *e) MUST_USE;

#endif
