/* A machine without KVM, its snapshot, and the snapshot's bytes for damaging.
 */
#ifndef THAW_TESTS_UNIT_SNAP_FAKE_H
#define THAW_TESTS_UNIT_SNAP_FAKE_H

#include "snapshot/format.h"
#include "snapshot/snap.h"
#include "snapshot/source.h"

/* The real machine_init() with the real devices, memory of this backing
 * (MEM_PRIVATE or MEM_BUILDER), state after power-on with some values set. */
void fake_machine(struct machine *m, uint64_t memory, enum mem_backing b);
/* What a machine could have when format 1.0 was made. */
void fake_machine_1_0(struct machine *m, uint64_t memory);
/* The same without memory and with other state, to load into. */
void fake_empty(struct machine *m, const struct machine_config *cfg);
/* Put recognisable content into the page at gpa. */
void fake_page(struct machine *m, gpa_t gpa);
/* Is the content of all regions the same? */
bool fake_same_memory(const struct machine *a, const struct machine *b);
/* Do both save the same bytes? */
bool fake_same(const struct st_desc *d, const void *a, const void *b);
bool fake_same_state(const struct machine *a, const struct machine *b);

/* An empty file in memory. */
int fake_file(void);
/* snap_write() into a new file; fails the test on error. */
int fake_snapshot(struct machine *m);

struct image {
	uint8_t *p; /* owned */
	size_t n;
};
/* The small snapshot most tests start from: 4 MiB, two chunks with pages. */
void image_make(struct image *img);
void image_copy(struct image *to, const struct image *from);
void image_free(struct image *img);
/* Write the bytes over the file's content; fd from fake_file(). */
void image_store(const struct image *img, int fd);

/* A sound snapshot without stored pages whose "metadata" is an optional section
 * that nobody knows: so many bytes (a multiple of 4096), all the same. */
int fake_unknown(uint64_t length, uint8_t fill);

struct snap_header *image_header(struct image *img);
struct snap_section *image_section(struct image *img, uint64_t tag);
struct snap_memory *image_memory(struct image *img);
struct snap_region *image_region(struct image *img, unsigned i);
struct snap_root *image_root(struct image *img, unsigned i);
struct snap_leaf *image_leaf(struct image *img, unsigned i);
/* Make all checksums from the leaves upwards right again. */
void image_seal(struct image *img);

/* Open, read everything a restore reads into a fresh machine: 0 or the first
 * error. */
int fake_restore(int fd, struct err *e);
/* One window (PSRC_WINDOW bytes) of a source the way the pager gets it; 0 or
 * the first error. */
int fake_window(struct psrc *src, uint64_t w, uint8_t *win, struct err *e);

#endif
