/*
 * Counters, and histograms with logarithmic buckets: 8 per power of two, so
 * that a percentile is at most 12% off. Units: microseconds.
 */
#ifndef THAW_API_DAEMON_METRICS_H
#define THAW_API_DAEMON_METRICS_H

#include "core/mp.h"

enum counter {
	COUNT_REQUESTS,
	COUNT_ERRORS,
	COUNT_CONNECTIONS,
	COUNT_CONNECTIONS_REFUSED,
	COUNT_MALFORMED,
	COUNT_SLOW_CLIENTS,
	COUNT_MACHINES,
	COUNT_CLONES_POOLED,
	COUNT_CLONES_FRESH,
	COUNT_CLONES_FAILED,
	COUNT_POOL_FILLED,
	COUNT_INVOKES,
	COUNT_INVOKES_FAILED,
	COUNT_DISCARDED,
	COUNT_REFUSED_LIMIT,
	COUNT_REFUSED_MEMORY,
	COUNT_MACHINES_LOST,
	COUNT_ZYGOTES_LOST,
	COUNT_ZYGOTES_RETIRED,
	COUNT_CONSOLE_DROPPED,
	COUNT_SNAPSHOTS,
	COUNT_SNAPSHOTS_FAILED,
	COUNT_SNAPSHOT_BYTES,
	COUNT_PAGERS_LOST,
	/* Of all pagers, brought up to date by feed_count(). */
	COUNT_PAGER_FAULTS,
	COUNT_PAGER_ZEROS,
	COUNT_PAGER_DEMAND,
	COUNT_PAGER_AHEAD,
	COUNT_PAGER_PREFETCHED,
	COUNT_PAGER_BYTES,
	COUNT_PAGER_FETCHED,
	COUNT_PAGER_FAILED,
	NCOUNTERS_
};

enum histogram_id {
	HIST_CLONE_POOLED,
	HIST_CLONE_FRESH,
	HIST_INVOKE,
	HIST_INVOKE_ANSWER,
	HIST_MACHINE_READY,
	HIST_TEMPLATE_CREATE,
	HIST_FORK,
	HIST_BUILD,
	HIST_ACK,
	HIST_GO,
	HIST_SNAPSHOT,
	HIST_SNAPSHOT_PAUSE,
	HIST_LAZY_TEMPLATE,
	HIST_LAZY_MACHINE,
	NHISTOGRAMS_
};

#define HIST_BUCKETS 256

struct histogram {
	uint64_t count, sum, max;
	uint64_t bucket[HIST_BUCKETS];
};

struct metrics {
	uint64_t counter[NCOUNTERS_];
	struct histogram hist[NHISTOGRAMS_];
};

void histogram_add(struct histogram *h, uint64_t value);
/* Upper bound of the bucket that holds the given share (0..1) of the values,
 * never above the largest value; 0 when there are none. */
uint64_t histogram_percentile(const struct histogram *h, double share);

/* The maps "counters" and "histograms", keys included. */
void metrics_pack_counters(const struct metrics *m, msgpack_packer *p);
void metrics_pack_histograms(const struct metrics *m, msgpack_packer *p);

#endif
