/* Quantiles are by nearest rank, exact at the edges. */
#include "tests/unit/test.h"

#include "bench/bench.h"

#include <errno.h>
#include <math.h>
#include <string.h>

static void fill(struct series *s, int n)
{
	/* 1..n in an order that is neither up nor down. */
	for (int i = 0; i < n; i++)
		assert_int_equal(series_add(s, (double)(i * 7 % n + 1)), 0);
}

static void test_empty(void **state)
{
	struct series s = {0};

	(void)state;
	assert_true(series_quantile(&s, 0.5) == 0);
	assert_true(series_mean(&s) == 0);
	series_free(&s);
}

static void test_one(void **state)
{
	struct series s = {0};

	(void)state;
	assert_int_equal(series_add(&s, 42), 0);
	assert_true(series_quantile(&s, 0) == 42);
	assert_true(series_quantile(&s, 0.5) == 42);
	assert_true(series_quantile(&s, 1) == 42);
	series_free(&s);
}

static void test_ranks(void **state)
{
	struct series s = {0};

	(void)state;
	fill(&s, 10);
	assert_true(series_quantile(&s, 0) == 1);
	assert_true(series_quantile(&s, 0.1) == 1);
	assert_true(series_quantile(&s, 0.11) == 2);
	assert_true(series_quantile(&s, 0.5) == 5);
	assert_true(series_quantile(&s, 0.9) == 9);
	assert_true(series_quantile(&s, 0.99) == 10);
	assert_true(series_quantile(&s, 1) == 10);
	assert_true(fabs(series_mean(&s) - 5.5) < 1e-9);
	series_free(&s);
}

static void test_growth(void **state)
{
	struct series s = {0};

	(void)state;
	fill(&s, 1000);
	assert_int_equal(s.n, 1000);
	assert_true(series_quantile(&s, 0.5) == 500);
	assert_true(series_quantile(&s, 0.99) == 990);
	/* A sample added after a look is seen by the next look. */
	assert_int_equal(series_add(&s, 0.5), 0);
	assert_true(series_quantile(&s, 0) == 0.5);
	series_free(&s);
}

static void test_refused(void **state)
{
	struct series s = {0};

	(void)state;
	assert_int_equal(series_add(&s, -1), -EINVAL);
	assert_int_equal(series_add(&s, NAN), -EINVAL);
	assert_int_equal(series_add(&s, INFINITY), -EINVAL);
	assert_int_equal(s.n, 0);
	series_free(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_empty),
		cmocka_unit_test(test_one),
		cmocka_unit_test(test_ranks),
		cmocka_unit_test(test_growth),
		cmocka_unit_test(test_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
