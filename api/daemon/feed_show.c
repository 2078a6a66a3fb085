/* What pagers did, in "template.show", "machine.show" and "metrics". */
#include "api/daemon/feed.h"

#include "api/daemon/template.h"

#include <string.h>

void feed_stats(const struct feed *f, struct pager_stats *out)
{
	memset(out, 0, sizeof(*out));
	if (f->stats_fd >= 0 && pread_full(f->stats_fd, out, sizeof(*out), 0))
		memset(out, 0, sizeof(*out));
}

static const char *state_name(const struct feed *f, const struct pager_stats *s)
{
	if (f->state == FEED_STARTING)
		return "starting";
	if (f->state == FEED_COMPLETE)
		return "complete";
	if (f->state == FEED_DEAD)
		return "dead";
	if (f->damaged[0])
		return "damaged";
	if (s->set_pages && !s->set_done)
		return "loading the working set";
	return f->fill_sent && f->o.fill ? "filling" : "on demand";
}

static uint64_t absent(const struct pager_stats *s)
{
	uint64_t here = s->pages_demand + s->pages_ahead + s->pages_set +
			s->pages_filled;

	return s->pages_total > here ? s->pages_total - here : 0;
}

void feed_pack(const struct feed *f, msgpack_packer *p)
{
	struct pager_stats s;

	feed_stats(f, &s);
	mp_str(p, "pager");
	(void)msgpack_pack_map(p, f->damaged[0] ? 16 : 15);
	mp_key_str(p, "state", state_name(f, &s));
	mp_key_u64(p, "pid", (uint64_t)f->p.pid);
	mp_key_u64(p, "faults", s.faults);
	mp_key_u64(p, "faults_zero", s.faults_zero);
	mp_key_u64(p, "faults_late", s.faults_late);
	mp_key_u64(p, "fault_us", s.fault_ns / 1000);
	mp_key_u64(p, "windows_demand", s.windows_demand);
	mp_key_u64(p, "pages_demand", s.pages_demand);
	mp_key_u64(p, "pages_ahead", s.pages_ahead);
	mp_key_u64(p, "pages_prefetched", s.pages_set + s.pages_filled);
	mp_key_u64(p, "pages_absent", absent(&s));
	mp_key_u64(p, "set_pages", s.set_pages);
	mp_key_u64(p, "bytes_read", s.bytes_read);
	mp_key_u64(p, "bytes_fetched", s.bytes_fetched);
	mp_key_u64(p, "machines_failed", s.failed);
	if (f->damaged[0])
		mp_key_str(p, "damaged", f->damaged);
}

void feed_pack_machine(const struct machine_entry *m, msgpack_packer *p)
{
	struct pager_client_stats c = {0};
	uint64_t slot = m->feed_id % PAGER_STATS_NSLOTS;

	if (m->feed->m) {
		feed_pack(m->feed, p);
		return;
	}
	if (m->feed->stats_fd < 0 ||
		pread_full(m->feed->stats_fd, &c, sizeof(c),
			PAGER_STATS_SLOTS + slot * sizeof(c)))
		memset(&c, 0, sizeof(c));
	mp_str(p, "pager");
	(void)msgpack_pack_map(p, 3);
	mp_key_u64(p, "faults", c.faults);
	mp_key_u64(p, "faults_zero", c.faults_zero);
	mp_key_u64(p, "fault_us", c.fault_ns / 1000);
}

uint64_t feed_count(struct daemon *d)
{
	struct pager_stats sum = d->pager_past, s;
	uint64_t *c = d->metrics.counter, pages = 0;

	list_for_each(it, &d->feeds)
	{
		feed_stats(container_of(it, struct feed, link), &s);
		pages += absent(&s);
		sum.faults += s.faults;
		sum.faults_zero += s.faults_zero;
		sum.pages_demand += s.pages_demand;
		sum.pages_ahead += s.pages_ahead;
		sum.pages_set += s.pages_set;
		sum.pages_filled += s.pages_filled;
		sum.bytes_read += s.bytes_read;
		sum.bytes_fetched += s.bytes_fetched;
		sum.failed += s.failed;
	}
	c[COUNT_PAGER_FAULTS] = sum.faults;
	c[COUNT_PAGER_ZEROS] = sum.faults_zero;
	c[COUNT_PAGER_DEMAND] = sum.pages_demand;
	c[COUNT_PAGER_AHEAD] = sum.pages_ahead;
	c[COUNT_PAGER_PREFETCHED] = sum.pages_set + sum.pages_filled;
	c[COUNT_PAGER_BYTES] = sum.bytes_read;
	c[COUNT_PAGER_FETCHED] = sum.bytes_fetched;
	c[COUNT_PAGER_FAILED] = sum.failed;
	return pages;
}
