/* Which pages are private, as the kernel of this host tells it. */
#include "core/pagemap.h"
#include "tests/unit/test.h"

#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>

#define SIZE  (16 * MIB)
#define PAGES (SIZE / PAGE_SIZE_4K)

static bool bit(const uint64_t *bits, uint64_t page)
{
	return bits[page / 64] >> page % 64 & 1;
}

static int open_pagemap(void)
{
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);

	assert_true(fd >= 0);
	return fd;
}

/* A base with data in pages 0 to 511 and a hole behind them. */
static void make_clone(struct mem *m)
{
	struct err e = {0};
	struct mem builder;
	int base;

	assert_int_equal(mem_create(&builder, SIZE, MEM_BUILDER, -1, &e), 0);
	memset(builder.map, 0x11, 2 * MIB);
	base = mem_seal_base(&builder, &e);
	assert_true(base >= 0);
	assert_int_equal(mem_create(m, SIZE, MEM_CLONE, base, &e), 0);
	(void)close(base);
}

static void read_page(const struct mem *m, uint64_t page)
{
	const volatile uint8_t *p = m->map + page * PAGE_SIZE_4K;

	(void)*p;
}

static void write_page(const struct mem *m, uint64_t page)
{
	m->map[page * PAGE_SIZE_4K + 5] = 1;
}

static const uint64_t written[] = {0, 3, 63, 64, 65, 511, 512, 1023, PAGES - 1};

static void touch(const struct mem *m)
{
	for (uint64_t i = 100; i < 300; i++)
		read_page(m, i);
	for (uint64_t i = 600; i < 800; i++)
		read_page(m, i); /* the zero page, in anonymous memory */
	for (unsigned i = 0; i < ARRAY_SIZE(written); i++)
		write_page(m, written[i]);
}

static void check(const uint64_t *bits, bool zero_known)
{
	for (uint64_t page = 0, i = 0; page < PAGES; page++) {
		bool want = i < ARRAY_SIZE(written) && written[i] == page;

		i += want;
		if (!zero_known && page >= 600 && page < 800)
			continue;
		if (bit(bits, page) != want)
			fail_msg("page %llu: %d", (unsigned long long)page,
				!want);
	}
}

/* Frame of the zero page; 0 when we may not see it. */
static uint64_t zero_frame(int fd)
{
	volatile uint8_t *p = mmap(NULL, PAGE_SIZE_4K, PROT_READ,
		MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint64_t entry = 0;

	assert_true(p != MAP_FAILED);
	(void)*p;
	assert_int_equal(pread_full(fd, &entry, sizeof(entry),
				 (uintptr_t)p / PAGE_SIZE_4K * sizeof(entry)),
		0);
	return entry & ((1ULL << 55) - 1);
}

static void private_pages(enum mem_backing backing)
{
	uint64_t bits[PAGES / 64] = {0}, slow[PAGES / 64] = {0};
	AUTO_FD fd = open_pagemap();
	struct err e = {0};
	uint64_t zero = zero_frame(fd);
	struct mem m;

	if (backing == MEM_CLONE)
		make_clone(&m);
	else
		assert_int_equal(mem_create(&m, SIZE, backing, -1, &e), 0);
	/* Huge pages would be private as a whole. */
	assert_int_equal(madvise(m.map, SIZE, MADV_NOHUGEPAGE), 0);
	touch(&m);
	assert_int_equal(pagemap_private(&m, fd, bits, &e), 0);
	/* Reading a page of anonymous memory shows where the kernel has no
	 * PAGEMAP_SCAN. */
	check(bits, !bit(bits, 700));
	assert_int_equal(pagemap_private_bits(&m, fd, zero, slow, &e), 0);
	check(slow, zero != 0);
	memset(bits, 0, sizeof(bits));
	assert_int_equal(pagemap_content(&m, fd, bits, &e), 0);
	if (backing == MEM_PRIVATE)
		check(bits, !bit(bits, 700));
	/* All of the base, and of its hole what was written. */
	for (uint64_t i = 0; backing == MEM_CLONE && i < 512; i++)
		assert_true(bit(bits, i));
	if (backing == MEM_CLONE) {
		assert_true(bit(bits, 512) && bit(bits, 1023));
		assert_false(bit(bits, 513) || bit(bits, PAGES - 2));
	}
	mem_destroy(&m);
}

static void test_clone(void **state)
{
	(void)state;
	private_pages(MEM_CLONE);
}

static void test_anonymous(void **state)
{
	(void)state;
	private_pages(MEM_PRIVATE);
}

/* More runs than one call returns, the bits of pages that are asked for only.
 */
static void test_many_runs(void **state)
{
	uint64_t bits[PAGES / 64] = {0};
	AUTO_FD fd = open_pagemap();
	struct err e = {0};
	struct mem m;

	(void)state;
	make_clone(&m);
	for (uint64_t i = 0; i < PAGES; i += 2)
		write_page(&m, i);
	assert_int_equal(pagemap_private(&m, fd, bits, &e), 0);
	for (uint64_t i = 0; i < PAGES / 64; i++)
		assert_true(bits[i] == 0x5555555555555555);
	/* What goes back to the template is the template's. */
	assert_int_equal(madvise(m.map, 4 * MIB, MADV_DONTNEED), 0);
	memset(bits, 0, sizeof(bits));
	assert_int_equal(pagemap_private(&m, fd, bits, &e), 0);
	assert_true(bits[15] == 0 && bits[16] == 0x5555555555555555);
	assert_int_equal(m.map[0], 0x11);
	mem_destroy(&m);
}

/* Written and swapped out is still written. Without swap space, as in most
 * containers, the pages simply stay. */
static void test_swapped(void **state)
{
	uint64_t bits[PAGES / 64] = {0};
	AUTO_FD fd = open_pagemap();
	struct err e = {0};
	struct mem m;

	(void)state;
	make_clone(&m);
	memset(m.map + MIB, 3, 4 * MIB);
	(void)madvise(m.map, SIZE, MADV_PAGEOUT);
	assert_int_equal(pagemap_private(&m, fd, bits, &e), 0);
	for (uint64_t i = 0; i < PAGES; i++)
		assert_int_equal(bit(bits, i), i >= 256 && i < 1280);
	mem_destroy(&m);
}

static void test_not_a_pagemap(void **state)
{
	AUTO_FD fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	uint64_t bits[PAGES / 64] = {0};
	struct err e = {0};
	struct mem m;

	(void)state;
	make_clone(&m);
	assert_true(pagemap_private(&m, fd, bits, &e) < 0);
	assert_true(pagemap_private(&m, -1, bits, &e) < 0);
	mem_destroy(&m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_clone),
		cmocka_unit_test(test_anonymous),
		cmocka_unit_test(test_many_runs),
		cmocka_unit_test(test_swapped),
		cmocka_unit_test(test_not_a_pagemap),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
