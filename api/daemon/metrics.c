#include "api/daemon/metrics.h"

static const char *const counter_names[] = {
	[COUNT_REQUESTS] = "requests",
	[COUNT_ERRORS] = "errors",
	[COUNT_CONNECTIONS] = "connections",
	[COUNT_CONNECTIONS_REFUSED] = "connections_refused",
	[COUNT_MALFORMED] = "malformed_requests",
	[COUNT_SLOW_CLIENTS] = "slow_clients_disconnected",
	[COUNT_MACHINES] = "machines_started",
	[COUNT_CLONES_POOLED] = "clones_pooled",
	[COUNT_CLONES_FRESH] = "clones_fresh",
	[COUNT_CLONES_FAILED] = "clones_failed",
	[COUNT_POOL_FILLED] = "pool_clones_made",
	[COUNT_INVOKES] = "invokes",
	[COUNT_INVOKES_FAILED] = "invokes_failed",
	[COUNT_DISCARDED] = "clones_discarded",
	[COUNT_REFUSED_LIMIT] = "refused_limit",
	[COUNT_REFUSED_MEMORY] = "refused_memory",
	[COUNT_MACHINES_LOST] = "machines_lost",
	[COUNT_ZYGOTES_LOST] = "zygotes_lost",
	[COUNT_ZYGOTES_RETIRED] = "zygotes_retired",
	[COUNT_CONSOLE_DROPPED] = "console_bytes_dropped",
	[COUNT_SNAPSHOTS] = "snapshots",
	[COUNT_SNAPSHOTS_FAILED] = "snapshots_failed",
	[COUNT_SNAPSHOT_BYTES] = "snapshot_bytes",
	[COUNT_PAGERS_LOST] = "pagers_lost",
	[COUNT_PAGER_FAULTS] = "pager_faults",
	[COUNT_PAGER_ZEROS] = "pager_faults_zero",
	[COUNT_PAGER_DEMAND] = "pager_pages_demand",
	[COUNT_PAGER_AHEAD] = "pager_pages_ahead",
	[COUNT_PAGER_PREFETCHED] = "pager_pages_prefetched",
	[COUNT_PAGER_BYTES] = "pager_bytes_read",
	[COUNT_PAGER_FETCHED] = "pager_bytes_fetched",
	[COUNT_PAGER_FAILED] = "pager_machines_failed",
};
_Static_assert(ARRAY_SIZE(counter_names) == NCOUNTERS_, "one name each");

static const char *const histogram_names[] = {
	[HIST_CLONE_POOLED] = "clone_pooled",
	[HIST_CLONE_FRESH] = "clone_fresh",
	[HIST_INVOKE] = "invoke",
	[HIST_INVOKE_ANSWER] = "invoke_answer",
	[HIST_MACHINE_READY] = "machine_ready",
	[HIST_TEMPLATE_CREATE] = "template_create",
	[HIST_FORK] = "step_fork",
	[HIST_BUILD] = "step_build",
	[HIST_ACK] = "step_ack",
	[HIST_GO] = "step_go",
	[HIST_SNAPSHOT] = "snapshot",
	[HIST_SNAPSHOT_PAUSE] = "snapshot_pause",
	[HIST_LAZY_TEMPLATE] = "lazy_template_first_answer",
	[HIST_LAZY_MACHINE] = "lazy_machine_first_answer",
};
_Static_assert(ARRAY_SIZE(histogram_names) == NHISTOGRAMS_, "one name each");

/* Values below 8 have a bucket each; above, 8 buckets per power of two. */
static unsigned bucket_of(uint64_t v)
{
	unsigned log2, i;

	if (v < 8)
		return (unsigned)v;
	log2 = 63 - (unsigned)__builtin_clzll(v);
	i = (log2 - 2) * 8 + ((unsigned)(v >> (log2 - 3)) & 7);
	return i < HIST_BUCKETS ? i : HIST_BUCKETS - 1;
}

/* Largest value that falls into bucket i. */
static uint64_t bucket_end(unsigned i)
{
	if (i < 8)
		return i;
	return ((9ULL + i % 8) << (i / 8 - 1)) - 1;
}

void histogram_add(struct histogram *h, uint64_t value)
{
	h->count++;
	h->sum += value;
	if (value > h->max)
		h->max = value;
	h->bucket[bucket_of(value)]++;
}

uint64_t histogram_percentile(const struct histogram *h, double share)
{
	uint64_t want = (uint64_t)(share * (double)h->count + 0.999999);
	uint64_t seen = 0;

	if (!want)
		want = 1;
	for (unsigned i = 0; i < HIST_BUCKETS; i++) {
		seen += h->bucket[i];
		if (seen >= want)
			return min_u64(bucket_end(i), h->max);
	}
	return h->max;
}

void metrics_pack_counters(const struct metrics *m, msgpack_packer *p)
{
	mp_str(p, "counters");
	(void)msgpack_pack_map(p, NCOUNTERS_);
	for (unsigned i = 0; i < NCOUNTERS_; i++)
		mp_key_u64(p, counter_names[i], m->counter[i]);
}

void metrics_pack_histograms(const struct metrics *m, msgpack_packer *p)
{
	mp_str(p, "histograms");
	(void)msgpack_pack_map(p, NHISTOGRAMS_);
	for (unsigned i = 0; i < NHISTOGRAMS_; i++) {
		const struct histogram *h = &m->hist[i];

		mp_str(p, histogram_names[i]);
		(void)msgpack_pack_map(p, 6);
		mp_key_u64(p, "count", h->count);
		mp_key_u64(p, "sum", h->sum);
		mp_key_u64(p, "p50", histogram_percentile(h, 0.50));
		mp_key_u64(p, "p90", histogram_percentile(h, 0.90));
		mp_key_u64(p, "p99", histogram_percentile(h, 0.99));
		mp_key_u64(p, "max", h->max);
	}
}
