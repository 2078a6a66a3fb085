/* The daemon's containers: deadlines, names, histograms. */
#include "api/daemon/deadline.h"
#include "api/daemon/list.h"
#include "api/daemon/metrics.h"
#include "api/daemon/strmap.h"
#include "tests/unit/test.h"

#include <stdio.h>
#include <string.h>

#define MANY 500

struct alarm_clock {
	struct deadline dl;
	uint64_t at;
	bool rang;
};

/* global: what the callbacks saw, reset by each test */
static struct {
	unsigned n;
	uint64_t last;
	struct deadlines *heap;
	struct alarm_clock *cancel;
} seen;

static void ring(struct daemon *d, struct deadline *dl)
{
	struct alarm_clock *c = container_of(dl, struct alarm_clock, dl);

	(void)d;
	assert_false(c->rang);
	assert_true(c->at >= seen.last);
	seen.last = c->at;
	seen.n++;
	c->rang = true;
	if (seen.cancel)
		deadline_clear(seen.heap, &seen.cancel->dl);
}

static void test_deadlines_in_order(void **state)
{
	static struct alarm_clock c[MANY]; /* global: large */
	struct deadlines h = {0};
	uint32_t x = 12345;
	unsigned cleared = 0;

	(void)state;
	memset(&seen, 0, sizeof(seen));
	memset(c, 0, sizeof(c));
	for (unsigned i = 0; i < MANY; i++) {
		x = x * 1103515245 + 12345;
		c[i].at = 1 + (x >> 16) % 1000;
		deadline_set(&h, &c[i].dl, c[i].at, ring);
	}
	/* Some are cleared, some are moved. */
	for (unsigned i = 0; i < MANY; i += 3) {
		deadline_clear(&h, &c[i].dl);
		deadline_clear(&h, &c[i].dl);
		cleared++;
	}
	for (unsigned i = 1; i < MANY; i += 3) {
		c[i].at = 1001 + i;
		deadline_set(&h, &c[i].dl, c[i].at, ring);
	}
	deadlines_run(&h, NULL, 1000);
	for (unsigned i = 0; i < MANY; i++)
		assert_int_equal(c[i].rang, i % 3 == 2);
	deadlines_run(&h, NULL, 10000);
	assert_int_equal(seen.n, MANY - cleared);
	assert_null(h.root);
}

static void test_deadline_timeout(void **state)
{
	struct alarm_clock c = {0};
	struct deadlines h = {0};

	(void)state;
	assert_int_equal(deadlines_timeout(&h, 5), -1);
	deadline_set(&h, &c.dl, 2000000, ring);
	assert_int_equal(deadlines_timeout(&h, 0), 2);
	assert_int_equal(deadlines_timeout(&h, 1), 2);
	assert_int_equal(deadlines_timeout(&h, 1999999), 1);
	assert_int_equal(deadlines_timeout(&h, 2000000), 0);
	deadline_set(&h, &c.dl, UINT64_MAX, ring);
	assert_int_equal(deadlines_timeout(&h, 0), 60000);
}

/* A callback may clear one that would be next. */
static void test_deadline_cancelled_by_another(void **state)
{
	struct alarm_clock a = {.at = 1}, b = {.at = 2};
	struct deadlines h = {0};

	(void)state;
	memset(&seen, 0, sizeof(seen));
	seen.heap = &h;
	seen.cancel = &b;
	deadline_set(&h, &a.dl, 1, ring);
	deadline_set(&h, &b.dl, 2, ring);
	deadlines_run(&h, NULL, 10);
	assert_true(a.rang);
	assert_false(b.rang);
}

struct named {
	struct strmap_node node;
	char name[24];
};

static void test_names(void **state)
{
	static struct named n[5000]; /* global: large */
	struct strmap m;

	(void)state;
	assert_int_equal(strmap_init(&m), 0);
	for (unsigned i = 0; i < ARRAY_SIZE(n); i++) {
		(void)snprintf(n[i].name, sizeof(n[i].name), "web-%u", i);
		strmap_add(&m, &n[i].node, n[i].name);
	}
	assert_true(m.nbuckets >= ARRAY_SIZE(n) / 2);
	for (unsigned i = 0; i < ARRAY_SIZE(n); i += 2)
		strmap_del(&m, &n[i].node);
	assert_int_equal(m.n, ARRAY_SIZE(n) / 2);
	for (unsigned i = 0; i < ARRAY_SIZE(n); i++)
		assert_ptr_equal(
			strmap_find(&m, n[i].name), i % 2 ? &n[i].node : NULL);
	/* What is not in it is not taken out. */
	strmap_del(&m, &n[0].node);
	assert_int_equal(m.n, ARRAY_SIZE(n) / 2);
	strmap_fini(&m);
}

static void test_list(void **state)
{
	struct list head, a, b;
	unsigned n = 0;

	(void)state;
	list_init(&head);
	list_init(&a);
	list_init(&b);
	assert_true(list_empty(&head));
	list_add(&head, &a);
	list_add(&head, &b);
	assert_ptr_equal(head.next, &a);
	list_for_each_safe(it, &head)
	{
		list_del(it);
		n++;
	}
	assert_int_equal(n, 2);
	assert_true(list_empty(&head));
	list_del(&a);
}

static void test_percentiles(void **state)
{
	struct histogram h = {0};

	(void)state;
	assert_int_equal(histogram_percentile(&h, 0.5), 0);
	for (uint64_t v = 1; v <= 10000; v++)
		histogram_add(&h, v);
	assert_int_equal(h.count, 10000);
	assert_int_equal(h.max, 10000);
	assert_int_equal(h.sum, 50005000);
	assert_in_range(histogram_percentile(&h, 0.5), 5000, 5000 * 9 / 8);
	assert_in_range(histogram_percentile(&h, 0.99), 9900, 10000);
	assert_int_equal(histogram_percentile(&h, 1.0), 10000);
	assert_int_equal(histogram_percentile(&h, 0.0), 1);
}

/* Any value is at most an eighth below the end of its bucket. */
static void test_buckets(void **state)
{
	(void)state;
	for (uint64_t v = 0; v < 1ULL << 33; v = v * 9 / 8 + 1) {
		struct histogram h = {0};
		uint64_t p;

		histogram_add(&h, v);
		histogram_add(&h, UINT64_MAX / 4);
		p = histogram_percentile(&h, 0.5);
		assert_in_range(p, v, v + v / 8);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_deadlines_in_order),
		cmocka_unit_test(test_deadline_timeout),
		cmocka_unit_test(test_deadline_cancelled_by_another),
		cmocka_unit_test(test_names),
		cmocka_unit_test(test_list),
		cmocka_unit_test(test_percentiles),
		cmocka_unit_test(test_buckets),
	};

	return cmocka_run_group_tests_name("daemon_tables", tests, NULL, NULL);
}
