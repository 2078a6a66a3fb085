/* Guest memory: backings, the checked accessor, sealing, and above all that
 * a base never grows whatever its clones do. */
#include "core/mem.h"
#include "tests/unit/test.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#define MEM_2M (2 * MIB)

static uint64_t blocks(int fd)
{
	struct stat st;

	assert_int_equal(fstat(fd, &st), 0);
	return (uint64_t)st.st_blocks;
}

static void builder(struct mem *m, uint64_t size)
{
	struct err e = {0};

	if (mem_create(m, size, MEM_BUILDER, -1, &e))
		fail_msg("%s", e.msg);
}

static int seal(struct mem *m)
{
	struct err e = {0};
	int fd = mem_seal_base(m, &e);

	if (fd < 0)
		fail_msg("%s", e.msg);
	assert_null(m->map);
	assert_int_equal(m->fd, -1);
	return fd;
}

static void clone_of(struct mem *m, uint64_t size, int fd)
{
	struct err e = {0};

	if (mem_create(m, size, MEM_CLONE, fd, &e))
		fail_msg("%s", e.msg);
}

static void test_size(void **state)
{
	static const uint64_t bad[] = {0, 1, MEM_2M, MEM_MIN + 1,
		MEM_MIN + PAGE_SIZE_4K, MEM_MAX + MEM_2M, UINT64_MAX,
		UINT64_MAX - MEM_2M + 1, 1ULL << 63};
	struct mem m;
	struct err e;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		assert_int_equal(
			mem_create(&m, bad[i], MEM_PRIVATE, -1, &e), -EINVAL);
		assert_null(m.map);
		mem_destroy(&m);
	}
	assert_int_equal(mem_create(&m, MEM_MAX, MEM_PRIVATE, -1, &e), 0);
	assert_int_equal(m.nregions, 2);
	mem_destroy(&m);
}

static void test_at(void **state)
{
	const uint64_t size = 5 * GIB;
	struct mem m;
	struct err e;

	(void)state;
	assert_int_equal(mem_create(&m, size, MEM_PRIVATE, -1, &e), 0);
	assert_int_equal((uintptr_t)m.map % MEM_2M, 0);
	assert_ptr_equal(mem_at(&m, 0, 1, MEM_READ), m.map);
	assert_ptr_equal(mem_at(&m, MEM_HOLE_START - 1, 1, MEM_WRITE),
		m.map + MEM_HOLE_START - 1);
	assert_ptr_equal(
		mem_at(&m, MEM_HOLE_END, 1, MEM_WRITE), m.map + MEM_HOLE_START);
	assert_ptr_equal(
		mem_at(&m, 6 * GIB - 1, 1, MEM_WRITE), m.map + size - 1);
	assert_non_null(mem_at(&m, 0, MEM_HOLE_START, MEM_READ));

	assert_null(mem_at(&m, 0, MEM_HOLE_START + 1, MEM_READ));
	assert_null(mem_at(&m, MEM_HOLE_START - 1, 2, MEM_READ));
	assert_null(mem_at(&m, MEM_HOLE_START, 0, MEM_READ));
	assert_null(mem_at(&m, MEM_HOLE_START, 1, MEM_READ));
	assert_null(mem_at(&m, MEM_HOLE_END - 1, 2, MEM_READ));
	assert_null(mem_at(&m, 6 * GIB - 1, 2, MEM_READ));
	assert_null(mem_at(&m, 6 * GIB, 0, MEM_READ));
	assert_null(mem_at(&m, 1, UINT64_MAX, MEM_READ));
	assert_null(mem_at(&m, 4096, UINT64_MAX - 4095, MEM_READ));
	assert_null(mem_at(&m, MEM_HOLE_END, UINT64_MAX, MEM_READ));
	assert_null(mem_at(&m, UINT64_MAX, 1, MEM_READ));
	assert_null(mem_at(&m, UINT64_MAX, UINT64_MAX, MEM_READ));
	mem_destroy(&m);
	assert_null(mem_at(&m, 0, 1, MEM_READ));
}

static void test_copy(void **state)
{
	char buf[16] = "thaw";
	struct mem m;
	struct err e;

	(void)state;
	assert_int_equal(mem_create(&m, MEM_MIN, MEM_PRIVATE, -1, &e), 0);
	assert_int_equal(mem_write(&m, MEM_MIN - 5, "frost", 5), 0);
	assert_int_equal(mem_read(&m, MEM_MIN - 5, buf, 5), 0);
	assert_memory_equal(buf, "frost", 5);
	assert_int_equal(mem_read(&m, MEM_MIN - 5, buf, 6), -EFAULT);
	assert_int_equal(mem_write(&m, MEM_MIN - 5, buf, 6), -EFAULT);
	assert_int_equal(mem_write(&m, UINT64_MAX, buf, 6), -EFAULT);
	assert_int_equal(mem_read(&m, 0, buf, UINT64_MAX), -EFAULT);
	mem_destroy(&m);
}

/* Reading and writing every page of several clones leaves the base as it is,
 * and no clone sees another's bytes. */
static void test_base_does_not_grow(void **state)
{
	const uint64_t size = 32 * MIB;
	struct mem m, a, b;
	uint64_t before;
	unsigned sum = 0;
	int fd;

	(void)state;
	builder(&m, size);
	/* lone pages in blocks 0, 3 and 15: short holes around them */
	memset(mem_at(&m, 5 * PAGE_SIZE_4K, 10, MEM_WRITE), 1, 10);
	memset(mem_at(&m, 3 * MEM_2M + PAGE_SIZE_4K, 10, MEM_WRITE), 2, 10);
	memset(mem_at(&m, size - 1, 1, MEM_WRITE), 3, 1);
	fd = seal(&m);
	before = blocks(fd);
	assert_int_equal(before, 3 * MEM_2M / 512);

	clone_of(&a, size, fd);
	clone_of(&b, size, fd);
	for (gpa_t p = 0; p < size; p += PAGE_SIZE_4K) {
		const uint8_t *pa = mem_at(&a, p, 1, MEM_READ);

		sum += *pa;
	}
	assert_int_equal(sum, 1 + 2);
	assert_int_equal(blocks(fd), before);
	for (gpa_t p = 0; p < size; p += PAGE_SIZE_4K)
		memset(mem_at(&a, p, 8, MEM_WRITE), 0xaa, 8);
	assert_int_equal(blocks(fd), before);
	for (gpa_t p = 0; p < size; p += PAGE_SIZE_4K) {
		uint8_t *pb = mem_at(&b, p, 8, MEM_READ);

		assert_int_not_equal(*pb, 0xaa);
		memset(pb, 0, 8);
	}
	assert_int_equal(*(uint8_t *)mem_at(&a, 0, 1, MEM_READ), 0xaa);
	assert_int_equal(blocks(fd), before);
	mem_destroy(&a);

	clone_of(&a, size, fd);
	assert_int_equal(
		*(uint8_t *)mem_at(&a, 5 * PAGE_SIZE_4K, 1, MEM_READ), 1);
	assert_int_equal(
		*(uint8_t *)mem_at(&a, 3 * MEM_2M + 4096, 1, MEM_READ), 2);
	assert_int_equal(*(uint8_t *)mem_at(&a, size - 1, 1, MEM_READ), 3);
	mem_destroy(&a);
	mem_destroy(&b);
	assert_int_equal(blocks(fd), before);
	(void)close(fd);
}

/* A block that was written with zeros, or only read, is punched out. */
static void test_zero_blocks_punched(void **state)
{
	const uint64_t size = 16 * MIB;
	struct mem m;
	int fd;

	(void)state;
	builder(&m, size);
	memset(mem_at(&m, 0, size, MEM_WRITE), 0, size);
	memset(mem_at(&m, 7 * MEM_2M - 1, 1, MEM_WRITE), 1, 1);
	assert_int_equal(blocks(m.fd), size / 512);
	fd = seal(&m);
	assert_int_equal(blocks(fd), MEM_2M / 512);
	(void)close(fd);

	builder(&m, size);
	fd = seal(&m);
	assert_int_equal(blocks(fd), 0);
	(void)close(fd);
}

/* Every other block used, far more often than VMAs are allowed. */
static void test_many_holes(void **state)
{
	const uint64_t size = 1 * GIB;
	struct mem m, c;
	uint64_t before;
	int fd;

	(void)state;
	builder(&m, size);
	for (gpa_t p = 0; p < 270 * MEM_2M; p += 2 * MEM_2M)
		memset(mem_at(&m, p, 1, MEM_WRITE), 7, 1);
	fd = seal(&m);
	before = blocks(fd);
	clone_of(&c, size, fd);
	for (gpa_t p = 0; p < 270 * MEM_2M; p += 2 * MEM_2M) {
		assert_int_equal(*(uint8_t *)mem_at(&c, p, 1, MEM_READ), 7);
		assert_int_equal(
			*(uint8_t *)mem_at(&c, p + MEM_2M, 1, MEM_READ), 0);
	}
	assert_int_equal(blocks(fd), before);
	mem_destroy(&c);
	(void)close(fd);
}

static int base_file(uint64_t size, bool sealed)
{
	int fd = memfd_create("test", MFD_ALLOW_SEALING | MFD_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)size), 0);
	assert_int_equal(pwrite(fd, "x", 1, 0), 1);
	if (sealed)
		assert_int_equal(
			fcntl(fd, F_ADD_SEALS,
				F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK),
			0);
	return fd;
}

static void refused(uint64_t size, int fd, const char *why)
{
	struct err e = {0};
	struct mem m;

	assert_int_equal(mem_create(&m, size, MEM_CLONE, fd, &e), -EINVAL);
	assert_non_null(strstr(e.msg, why));
	assert_null(m.map);
	mem_destroy(&m);
}

static void test_bad_base(void **state)
{
	int fd, null = open("/dev/null", O_RDWR | O_CLOEXEC);

	(void)state;
	refused(MEM_MIN, null, "not a memfd");
	(void)close(null);
	fd = base_file(MEM_MIN, false);
	refused(MEM_MIN, fd, "not sealed");
	(void)close(fd);
	fd = base_file(MEM_MIN, true);
	refused(MEM_MIN + MEM_2M, fd, "bytes");
	(void)close(fd);
}

/* What a pager leaves: a hole of one page between two pages is zeros. */
static void test_short_hole(void **state)
{
	struct mem m;
	int fd;

	(void)state;
	fd = base_file(MEM_MIN, false);
	for (off_t p = 0; p < (off_t)MEM_MIN; p += 4096)
		if (p != 40960)
			assert_int_equal(pwrite(fd, "x", 1, p), 1);
	assert_int_equal(fcntl(fd, F_ADD_SEALS,
				 F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK),
		0);
	clone_of(&m, MEM_MIN, fd);
	assert_int_equal(*(uint8_t *)mem_at(&m, 40960, 1, MEM_READ), 0);
	assert_int_equal(*(uint8_t *)mem_at(&m, 36864, 1, MEM_READ), 'x');
	mem_destroy(&m);
	(void)close(fd);
}

static void test_seal_private(void **state)
{
	struct err e;
	struct mem m;

	(void)state;
	assert_int_equal(mem_create(&m, MEM_MIN, MEM_PRIVATE, -1, &e), 0);
	assert_int_equal(mem_seal_base(&m, &e), -EINVAL);
	assert_null(m.map);
}

static void test_sealed_for_ever(void **state)
{
	struct mem m;
	int fd;
	void *p;

	(void)state;
	builder(&m, MEM_MIN);
	memset(mem_at(&m, 0, 1, MEM_WRITE), 1, 1);
	fd = seal(&m);
	assert_int_equal(pwrite(fd, "y", 1, 0), -1);
	assert_int_equal(ftruncate(fd, 0), -1);
	assert_int_equal(
		fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
			4096),
		-1);
	p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	assert_ptr_equal(p, MAP_FAILED);
	(void)close(fd);
}

static uint64_t seal_us(uint64_t size)
{
	uint64_t best = UINT64_MAX;

	for (int i = 0; i < 5; i++) {
		struct mem m;
		uint64_t t;
		int fd;

		builder(&m, size);
		memset(mem_at(&m, 0, MEM_2M, MEM_WRITE), 1, MEM_2M);
		t = now_ns();
		fd = seal(&m);
		t = now_ns() - t;
		best = min_u64(best, t / 1000);
		(void)close(fd);
	}
	return best;
}

/* The cost of sealing follows what is used, not the size. The bound is wide:
 * this machine may be busy; a scan of 4 GiB takes far longer. */
static void test_seal_is_fast(void **state)
{
	(void)state;
	assert_in_range(seal_us(128 * MIB), 0, 50000);
	assert_in_range(seal_us(4 * GIB), 0, 50000);
	if (getenv("THAW_TEST_VERBOSE"))
		print_message("seal: 128M %llu us, 4G %llu us\n",
			(unsigned long long)seal_us(128 * MIB),
			(unsigned long long)seal_us(4 * GIB));
}

/* How many mappings lie between these addresses. */
static unsigned count_maps(const uint8_t *from, uint64_t size)
{
	FILE *f = fopen("/proc/self/maps", "re");
	char line[512];
	unsigned n = 0;

	assert_non_null(f);
	while (fgets(line, sizeof(line), f)) {
		uintptr_t at = strtoull(line, NULL, 16);

		n += at >= (uintptr_t)from && at < (uintptr_t)from + size;
	}
	(void)fclose(f);
	return n;
}

/* A fork of a clone copies page tables piece by piece; see mem.c. */
static void test_pieces(void **state)
{
	static const struct {
		uint64_t size;
		unsigned min, max;
	} cases[] = {{64 * MIB, 1, 1}, {GIB, 16, 16}, {8 * GIB, 64, 64}};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		AUTO_FD fd = memfd_create("base", MFD_ALLOW_SEALING);
		struct err e = {0};
		struct mem m;
		unsigned n;

		assert_true(fd >= 0);
		assert_int_equal(ftruncate(fd, (off_t)cases[i].size), 0);
		assert_int_equal(
			fcntl(fd, F_ADD_SEALS,
				F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK),
			0);
		assert_int_equal(
			mem_create(&m, cases[i].size, MEM_CLONE, fd, &e), 0);
		n = count_maps(m.map, m.size);
		assert_true(n >= cases[i].min && n <= cases[i].max);
		mem_destroy(&m);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_size),
		cmocka_unit_test(test_at),
		cmocka_unit_test(test_copy),
		cmocka_unit_test(test_base_does_not_grow),
		cmocka_unit_test(test_zero_blocks_punched),
		cmocka_unit_test(test_many_holes),
		cmocka_unit_test(test_bad_base),
		cmocka_unit_test(test_short_hole),
		cmocka_unit_test(test_seal_private),
		cmocka_unit_test(test_sealed_for_ever),
		cmocka_unit_test(test_seal_is_fast),
		cmocka_unit_test(test_pieces),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
