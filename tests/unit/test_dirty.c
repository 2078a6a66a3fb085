/* Our own writes to guest memory, and what happens to a snapshot's pages. */
#include "core/dirty.h"
#include "tests/unit/test.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>

#define SIZE (8 * MIB)

static bool bit(const uint64_t *bits, uint64_t page)
{
	return bits[page / 64] >> page % 64 & 1;
}

/* A machine without KVM: collecting takes only what we wrote ourselves. */
static void make(struct machine *m, uint64_t size)
{
	struct err e = {0};

	memset(m, 0, sizeof(*m));
	m->vm_fd = -1;
	assert_int_equal(mem_create(&m->mem, size, MEM_PRIVATE, -1, &e), 0);
	assert_int_equal(dirty_start(&m->mem, &e), 0);
}

static const uint64_t *take(struct machine *m)
{
	const uint64_t *bits = NULL;
	struct err e = {0};

	assert_int_equal(dirty_collect(m, &e), 0);
	assert_int_equal(dirty_take(m->mem.dirty, &bits, &e), 0);
	return bits;
}

static void test_writes(void **state)
{
	const uint64_t *bits;
	struct machine m;
	uint8_t byte = 7;

	(void)state;
	make(&m, SIZE);
	assert_non_null(mem_at(&m.mem, 0x1000, 4096, MEM_READ));
	assert_int_equal(mem_read(&m.mem, 0x1000, &byte, 1), 0);
	assert_int_equal(mem_write(&m.mem, 0x2fff, "ab", 2), 0);
	assert_non_null(mem_at(&m.mem, 0x41000, 4097, MEM_WRITE));
	assert_non_null(mem_at(&m.mem, 0x50000, 0, MEM_WRITE));
	assert_int_equal(mem_write(&m.mem, SIZE - 1, &byte, 1), 0);
	assert_int_equal(mem_write(&m.mem, SIZE - 1, "ab", 2), -EFAULT);
	bits = take(&m);
	assert_int_equal(dirty_count(bits, m.mem.dirty->words), 5);
	assert_true(bit(bits, 2) && bit(bits, 3));
	assert_true(bit(bits, 0x41) && bit(bits, 0x42));
	assert_true(bit(bits, SIZE / PAGE_SIZE_4K - 1));
	mem_destroy(&m.mem);
}

/* Memory above the hole stands behind the lower part in the bitmap. */
static void test_above_the_hole(void **state)
{
	const uint64_t *bits;
	struct machine m;

	(void)state;
	make(&m, 3 * GIB + 4 * MIB);
	assert_int_equal(mem_write(&m.mem, MEM_HOLE_END + 0x3000, "a", 1), 0);
	bits = take(&m);
	assert_int_equal(dirty_count(bits, m.mem.dirty->words), 1);
	assert_true(bit(bits, 3 * GIB / PAGE_SIZE_4K + 3));
	mem_destroy(&m.mem);
}

/* A snapshot that was lost gives its pages back, and to the next one together
 * with what came meanwhile. */
static void test_lost(void **state)
{
	const uint64_t *bits;
	struct err e = {0};
	struct machine m;

	(void)state;
	make(&m, SIZE);
	assert_int_equal(mem_write(&m.mem, 0x1000, "a", 1), 0);
	bits = take(&m);
	assert_int_equal(dirty_take(m.mem.dirty, &bits, &e), -EBUSY);
	assert_int_equal(mem_write(&m.mem, 0x5000, "a", 1), 0);
	assert_int_equal(dirty_collect(&m, &e), 0);
	assert_true(bit(bits, 1));
	assert_false(bit(bits, 5));
	dirty_settle(m.mem.dirty, false);
	bits = take(&m);
	assert_true(bit(bits, 1) && bit(bits, 5));
	dirty_settle(m.mem.dirty, true);
	bits = take(&m);
	assert_int_equal(dirty_count(bits, m.mem.dirty->words), 0);
	dirty_settle(m.mem.dirty, true);
	/* without a take nothing happens */
	dirty_settle(m.mem.dirty, false);
	mem_destroy(&m.mem);
}

#define ROUNDS 2000

static void *writer(void *arg)
{
	const struct mem *mem = arg;

	for (unsigned i = 0; i < ROUNDS; i++)
		(void)!mem_at(mem, i % 512 * PAGE_SIZE_4K, 1, MEM_WRITE);
	return NULL;
}

/* Two threads that mark while a third collects: no bit is lost. */
static void test_threads(void **state)
{
	pthread_t t[2];
	const uint64_t *bits;
	struct err e = {0};
	struct machine m;

	(void)state;
	make(&m, SIZE);
	for (unsigned i = 0; i < 2; i++)
		assert_int_equal(
			pthread_create(&t[i], NULL, writer, &m.mem), 0);
	for (unsigned i = 0; i < 200; i++)
		assert_int_equal(dirty_collect(&m, &e), 0);
	for (unsigned i = 0; i < 2; i++)
		assert_int_equal(pthread_join(t[i], NULL), 0);
	bits = take(&m);
	assert_int_equal(dirty_count(bits, m.mem.dirty->words), 512);
	mem_destroy(&m.mem);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_writes),
		cmocka_unit_test(test_above_the_hole),
		cmocka_unit_test(test_lost),
		cmocka_unit_test(test_threads),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
