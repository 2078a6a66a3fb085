/* The table of chunks that are stored already. */
#include "snapshot/internal.h"
#include "tests/unit/test.h"

static struct snap_stored chunk(uint64_t low, uint64_t high)
{
	return (struct snap_stored){
		.hash = {low, high}, .raw_length = 4096, .offset = high};
}

static bool finds(const struct snap_dedupe *d, const struct snap_stored *s)
{
	const struct snap_stored *found =
		snap_dedupe_find(d, s->hash, s->raw_length);

	assert_true(!found || found->offset == s->offset);
	return found;
}

/* What is added is found again, also when the table has grown. */
static void test_finds(void **state)
{
	struct snap_dedupe d = {0};
	struct snap_stored s = chunk(1, 1);

	(void)state;
	assert_false(finds(&d, &s));
	for (uint64_t i = 0; i < 20000; i++) {
		s = chunk(i * 0x9e3779b97f4a7c15ULL >> 7, i);
		snap_dedupe_add(&d, &s);
		assert_true(finds(&d, &s));
	}
	s = chunk(1, 20000);
	assert_false(finds(&d, &s));
	snap_dedupe_free(&d);
}

/* Hashes with the same low bits, which a guest can make, neither fill the table
 * nor make a long way to look. */
static void test_one_run(void **state)
{
	struct snap_dedupe d = {0};
	struct snap_stored s;
	unsigned found = 0;

	(void)state;
	for (uint64_t i = 0; i < 1000; i++) {
		s = chunk(i << 40 | 77, i);
		snap_dedupe_add(&d, &s);
	}
	for (uint64_t i = 0; i < 1000; i++) {
		s = chunk(i << 40 | 77, i);
		found += finds(&d, &s);
	}
	assert_in_range(found, 1, 64);
	assert_in_range(d.n, 1, 64);
	s = chunk(5000, 1);
	snap_dedupe_add(&d, &s);
	assert_true(finds(&d, &s));
	snap_dedupe_free(&d);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_finds),
		cmocka_unit_test(test_one_run),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
