#include "core/bus.h"

#include "core/device.h"

#include <errno.h>
#include <string.h>

/* Index of the first range that ends above addr; n when there is none. */
static unsigned bus_find(const struct bus *b, enum bus_kind k, uint64_t addr)
{
	const struct bus_range *r = b->range[k];
	unsigned lo = 0, hi = b->n[k];

	while (lo < hi) {
		unsigned mid = lo + (hi - lo) / 2;

		/* base + size - 1 cannot overflow: bus_add() saw to it. */
		if (addr > r[mid].base + r[mid].size - 1)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

int bus_add(struct bus *b, enum bus_kind k, uint64_t base, uint64_t size,
	struct device *dev, uint32_t bar)
{
	struct bus_range *r = b->range[k];
	const uint64_t top = k == BUS_PORT ? 0xffff : UINT64_MAX;
	unsigned n = b->n[k], at;

	if (!size || base > top || size - 1 > top - base)
		return -EINVAL;
	at = bus_find(b, k, base);
	if (at < n && r[at].base <= base + (size - 1))
		return -EEXIST;
	if (n == BUS_MAX_RANGES)
		return -ENOSPC;
	memmove(&r[at + 1], &r[at], (n - at) * sizeof(*r));
	r[at] = (struct bus_range){
		.base = base,
		.size = size,
		.dev = dev,
		.bar = bar,
	};
	b->n[k] = n + 1;
	return 0;
}

void bus_access(const struct bus *b, enum bus_kind k, uint64_t addr, void *data,
	uint32_t len, bool write)
{
	unsigned at = bus_find(b, k, addr);
	const struct bus_range *r = &b->range[k][at];

	if (at < b->n[k] && addr >= r->base && r->dev->ops->io &&
		range_inside(addr - r->base, len, r->size)) {
		r->dev->ops->io(
			r->dev, r->bar, addr - r->base, data, len, write);
		return;
	}
	if (!write)
		memset(data, 0xff, len);
}
