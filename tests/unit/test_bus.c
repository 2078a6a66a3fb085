/* The bus: order, overlap, limits, and who gets an access. */
#include "core/device.h"
#include "tests/unit/test.h"

#include <errno.h>
#include <string.h>

struct probe {
	struct device dev;
	unsigned calls;
	uint32_t bar, len;
	uint64_t off;
	bool write;
};

static void probe_io(struct device *d, uint32_t bar, uint64_t off, void *data,
	uint32_t len, bool write)
{
	struct probe *p = container_of(d, struct probe, dev);

	p->calls++;
	p->bar = bar;
	p->off = off;
	p->len = len;
	p->write = write;
	if (!write)
		memset(data, 0x5a, len);
}

static const struct device_ops probe_ops = {.name = "probe", .io = probe_io};

static void test_add(void **state)
{
	struct probe p = {.dev.ops = &probe_ops};
	struct device *d = &p.dev;
	struct bus b = {0};

	(void)state;
	assert_int_equal(bus_add(&b, BUS_MMIO, 0x3000, 0x1000, d, 3), 0);
	assert_int_equal(bus_add(&b, BUS_MMIO, 0x1000, 0x1000, d, 1), 0);
	assert_int_equal(bus_add(&b, BUS_MMIO, 0x2000, 0x1000, d, 2), 0);
	assert_int_equal(b.range[BUS_MMIO][0].bar, 1);
	assert_int_equal(b.range[BUS_MMIO][1].bar, 2);
	assert_int_equal(b.range[BUS_MMIO][2].bar, 3);

	assert_int_equal(bus_add(&b, BUS_MMIO, 0x1000, 1, d, 0), -EEXIST);
	assert_int_equal(bus_add(&b, BUS_MMIO, 0x3fff, 1, d, 0), -EEXIST);
	assert_int_equal(bus_add(&b, BUS_MMIO, 0xfff, 2, d, 0), -EEXIST);
	assert_int_equal(bus_add(&b, BUS_MMIO, 0, 0x8000, d, 0), -EEXIST);
	assert_int_equal(bus_add(&b, BUS_MMIO, 0, UINT64_MAX, d, 0), -EEXIST);
	assert_int_equal(bus_add(&b, BUS_MMIO, 0x4000, 0, d, 0), -EINVAL);
	assert_int_equal(bus_add(&b, BUS_MMIO, UINT64_MAX, 2, d, 0), -EINVAL);
	assert_int_equal(bus_add(&b, BUS_PORT, 0xffff, 2, d, 0), -EINVAL);
	assert_int_equal(bus_add(&b, BUS_PORT, 0x10000, 1, d, 0), -EINVAL);
	assert_int_equal(bus_add(&b, BUS_PORT, 0xffff, 1, d, 0), 0);
	assert_int_equal(bus_add(&b, BUS_MMIO, UINT64_MAX, 1, d, 0), 0);
	assert_int_equal(b.n[BUS_MMIO], 4);
}

static void test_full(void **state)
{
	struct probe p = {.dev.ops = &probe_ops};
	struct bus b = {0};
	uint64_t i;

	(void)state;
	for (i = 0; i < BUS_MAX_RANGES; i++)
		assert_int_equal(
			bus_add(&b, BUS_PORT, (BUS_MAX_RANGES - i) * 16, 8,
				&p.dev, 0),
			0);
	assert_int_equal(bus_add(&b, BUS_PORT, 0x8000, 8, &p.dev, 0), -ENOSPC);
	for (i = 1; i < BUS_MAX_RANGES; i++)
		assert_true(b.range[BUS_PORT][i - 1].base <
			    b.range[BUS_PORT][i].base);
}

static void test_access(void **state)
{
	struct probe p = {.dev.ops = &probe_ops};
	const struct device_ops none = {.name = "none"};
	struct device silent = {.ops = &none};
	struct bus b = {0};
	uint64_t v = 0;

	(void)state;
	assert_int_equal(bus_add(&b, BUS_PORT, 0x3f8, 8, &p.dev, 9), 0);
	assert_int_equal(bus_add(&b, BUS_PORT, 0x400, 8, &silent, 0), 0);
	bus_access(&b, BUS_PORT, 0x3fd, &v, 1, false);
	assert_int_equal(v, 0x5a);
	assert_int_equal(p.calls, 1);
	assert_int_equal(p.bar, 9);
	assert_int_equal(p.off, 5);
	assert_int_equal(p.len, 1);
	assert_false(p.write);
	bus_access(&b, BUS_PORT, 0x3f8, &v, 4, true);
	assert_int_equal(p.calls, 2);
	assert_true(p.write);

	/* nobody there, or only half there, or a device without io() */
	static const struct {
		uint64_t addr;
		uint32_t len;
	} out[] = {{0x3f7, 1}, {0x3f6, 4}, {0x3fe, 4}, {0x400, 4}, {0x408, 2},
		{0, 1}, {UINT64_MAX, 8}, {UINT64_MAX, 1}};
	for (size_t i = 0; i < ARRAY_SIZE(out); i++) {
		v = 0;
		bus_access(&b, BUS_PORT, out[i].addr, &v, out[i].len, false);
		assert_memory_equal(
			&v, "\xff\xff\xff\xff\xff\xff\xff\xff", out[i].len);
		if (out[i].len < 8)
			assert_int_equal(v >> (8 * out[i].len), 0);
		bus_access(&b, BUS_PORT, out[i].addr, &v, out[i].len, true);
	}
	v = 0;
	bus_access(&b, BUS_MMIO, 0x3f8, &v, 8, false);
	assert_true(v == UINT64_MAX);
	assert_int_equal(p.calls, 2);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_add),
		cmocka_unit_test(test_full),
		cmocka_unit_test(test_access),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
