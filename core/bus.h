/*
 * Port and MMIO ranges -> device. Filled while the machine is realized, read
 * by vCPU threads without a lock afterwards. A read that nobody answers gives
 * all ones, a write is dropped.
 */
#ifndef THAW_CORE_BUS_H
#define THAW_CORE_BUS_H

#include "core/err.h"

struct device;

enum bus_kind {
	BUS_PORT,
	BUS_MMIO,
	BUS_NKINDS_
};

struct bus_range {
	uint64_t base;
	uint64_t size;
	struct device *dev; /* borrowed from the machine */
	uint32_t bar;       /* which of the device's ranges this is */
};

#define BUS_MAX_RANGES 32

struct bus {
	struct bus_range range[BUS_NKINDS_][BUS_MAX_RANGES]; /* sorted */
	unsigned n[BUS_NKINDS_];
};

/* -EEXIST when it overlaps another, -ENOSPC when full, -EINVAL when empty or
 * beyond the last address. */
int bus_add(struct bus *b, enum bus_kind k, uint64_t base, uint64_t size,
	struct device *dev, uint32_t bar) MUST_USE;
/* One access of 1, 2, 4 or 8 bytes by a vCPU thread. */
void bus_access(const struct bus *b, enum bus_kind k, uint64_t addr, void *data,
	uint32_t len, bool write);

#endif
