/* A page source for tests: it has recognisable pages, and it can be slow, lie,
 * break, or say nothing at all, at a window of choice. */
#ifndef THAW_TESTS_UNIT_FAKE_SOURCE_H
#define THAW_TESTS_UNIT_FAKE_SOURCE_H

#include "uffd/source.h"

#include <pthread.h>

enum fake_fault {
	FAKE_FINE,
	FAKE_SLOW,     /* late, but right */
	FAKE_STALL,    /* nothing comes until it is cancelled */
	FAKE_LIE,      /* wrong bytes */
	FAKE_BROKEN,   /* -EIO */
	FAKE_NONSENSE, /* a map that makes no sense */
	FAKE_MAP_LIE,  /* map says -EBADMSG */
	FAKE_MAP_STALL
};

struct fake_source {
	struct psrc src;
	uint64_t windows;
	bool files;      /* bytes lie in a file: pread or io_uring */
	bool packed;     /* not plain: decode has to unpack */
	bool split;      /* two pieces a window */
	bool lazy_map;   /* map needs to block the first time */
	uint64_t far;    /* with .files: windows from here on are fetched */
	uint64_t stale;  /* likewise, because the file has wrong bytes */
	int memfd;       /* owned */
	uint8_t *mapped; /* owned: window was mapped once */

	pthread_mutex_t lock;
	pthread_cond_t cond;
	enum fake_fault fault;
	uint64_t at; /* window of the fault; UINT64_MAX: all */
	bool cancelled;
	unsigned fetches, maps;
};

/* Content of page n; zero pages are every fifth. */
bool fake_page_is_zero(uint64_t n);
void fake_page_fill(uint64_t n, uint8_t *page);
bool fake_page_is_right(uint64_t n, const uint8_t *page);

void fake_source_init(struct fake_source *s, uint64_t windows);
/* After the flags are set: the file, if there is to be one. */
void fake_source_store(struct fake_source *s);
void fake_source_fault(
	struct fake_source *s, enum fake_fault fault, uint64_t at);
void fake_source_fini(struct fake_source *s);

#endif
