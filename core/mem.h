/*
 * Guest memory.
 *
 * A machine has one or two regions: from 0 up to at most 3 GiB, and the rest
 * from 4 GiB (the hole holds the devices). Both lie one after the other in one
 * host mapping, and at the same offsets in the memfd when there is one:
 * offset = gpa below the hole, gpa - 1 GiB above it.
 *
 * Four backings (docs/architecture.md, "Memory"):
 *   MEM_PRIVATE  anonymous; a cold-booted machine
 *   MEM_BUILDER  a memfd mapped shared: the base of a template to be
 *   MEM_CLONE    a sealed base mapped private: clean pages are shared
 *   MEM_LAZY     bytes that are still being brought in by a pager: a base that
 *                is not complete, mapped private, or anonymous memory of one
 *                machine; see core/mem_lazy.c and uffd/uffd.h
 *
 * mem_at() is the only place that turns a guest address into a pointer.
 */
#ifndef THAW_CORE_MEM_H
#define THAW_CORE_MEM_H

#include "core/err.h"

typedef uint64_t gpa_t;

#define MEM_HOLE_START (3 * GIB) /* device hole below 4 GiB */
#define MEM_HOLE_END   (4 * GIB)
#define MEM_MIN        (4 * MIB)
#define MEM_MAX        (1022 * GIB)
#define MEM_NREGIONS   2

enum mem_backing {
	MEM_PRIVATE,
	MEM_BUILDER,
	MEM_CLONE,
	MEM_LAZY
};
enum mem_access {
	MEM_READ,
	MEM_WRITE
};

struct mem_region {
	gpa_t gpa;
	uint64_t size;
	uint8_t *host;   /* borrowed from mem.map */
	uint64_t offset; /* in the mapping and in the memfd */
};

struct dirty; /* core/dirty.h */
/* Offsets in the mapping. */
struct mem_range {
	uint64_t start, end;
};
/* The most pieces that memory is cut into by long runs of zeros: each is a
 * mapping of its own, which every fork of a zygote copies. */
#define MEM_MAX_HOLES 128
#define MEM_HOLE_MIN  (2 * MIB)

struct mem {
	struct mem_region region[MEM_NREGIONS];
	unsigned nregions;
	uint64_t size;
	uint8_t *map; /* owned: the one mapping, or NULL */
	int fd;       /* owned: memfd of MEM_BUILDER or MEM_LAZY; else -1 */
	enum mem_backing backing;
	struct dirty *dirty; /* owned; NULL: changes are not noted */

	/* MEM_CLONE, MEM_LAZY, owned: where the base is mapped (a lazy one
	 * comes through the pager there); the rest is anonymous memory. */
	struct mem_range *paged;
	unsigned npaged;
	/* MEM_LAZY only */
	int uffd;      /* owned, held for life; -1: not (yet) registered */
	bool complete; /* the pager said so, for memory without a base */
};

#define for_each_region(m, r)                                                  \
	for ((r) = (m)->region; (r) < (m)->region + (m)->nregions; (r)++)

/* Create and map memory of this size (a multiple of 2 MiB). For MEM_CLONE fd
 * is a complete sealed base (borrowed): runs of holes of 2 MiB and more get
 * anonymous memory mapped over them, so that touching them never makes the
 * base grow; a shorter hole stays one, and grows it by one page of zeros when
 * it is touched. For the others but MEM_LAZY fd is -1. */
int mem_create(struct mem *m, uint64_t size, enum mem_backing b, int fd,
	struct err *e) MUST_USE;
void mem_destroy(struct mem *m);

/*
 * MEM_LAZY, in this order: mem_create(), where fd is an incomplete base
 * (borrowed) or -1 for anonymous memory; mem_lazy_zero(); a zygote stops here.
 * Then, in the process whose guest it is, uffd_arm() (uffd/uffd.h), which ends
 * with mem_lazy_open(). Until then the mapping is inaccessible: a touch before
 * the registration would put a page of zeros into the base, for everybody, for
 * ever.
 */
/* These runs (ascending, page-aligned) are zeros: those of MEM_HOLE_MIN and
 * more become anonymous memory that never reaches the pager. */
int mem_lazy_zero(struct mem *m, const struct mem_range *zero, unsigned n,
	struct err *e) MUST_USE;
/* All is registered, or nothing needs to be: let it be touched. */
int mem_lazy_open(struct mem *m, struct err *e) MUST_USE;
/* Are all bytes here? Until they are, a fork of the machine must not read its
 * memory: the fork is not registered. True for every other backing. */
bool mem_is_complete(const struct mem *m);
/* For mem_create(). */
int mem_lazy_map(struct mem *m, int fd, struct err *e) MUST_USE;

/* Pointer to [gpa, gpa + len), which must lie inside one region, else NULL.
 * The guest may change the bytes at any time: copy before checking. access
 * says what the caller will do: with MEM_WRITE the pages count as changed at
 * once (core/dirty.h), so such a pointer may not be kept over a pause. */
void *mem_at(const struct mem *m, gpa_t gpa, uint64_t len,
	enum mem_access access) MUST_USE;
/* Copies; -EFAULT when any byte is outside. A copy may not cross regions. */
int mem_read(const struct mem *m, gpa_t gpa, void *dst, uint64_t len) MUST_USE;
int mem_write(
	const struct mem *m, gpa_t gpa, const void *src, uint64_t len) MUST_USE;

/* Builder memory becomes a base: unmapped, zero 2 MiB blocks punched out,
 * short holes filled with real zero pages, sealed. Returns the fd (owned by
 * the caller), or -errno. The mem is destroyed either way. */
int mem_seal_base(struct mem *m, struct err *e) MUST_USE;

#endif
