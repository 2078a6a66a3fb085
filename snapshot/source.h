/*
 * A snapshot as a source of pages (uffd/source.h): windows are the format's
 * chunks, pieces what is stored of them. Leaves of the memory index are read
 * when the first of their windows is asked for, and kept.
 */
#ifndef THAW_SNAPSHOT_SOURCE_H
#define THAW_SNAPSHOT_SOURCE_H

#include "snapshot/snap.h"
#include "uffd/source.h"

/* s, with all of its parents attached, is borrowed and outlives the source. */
int snap_source(struct snap *s, struct psrc **out, struct err *e) MUST_USE;

/* Long runs of zeros for mem_lazy_zero(): what the index's first level shows,
 * without reading more of the file; whoever needs them all pays for all. At
 * most max of them, the first ones. */
unsigned snap_zero_runs(
	const struct snap *s, struct mem_range *out, unsigned max);

#endif
