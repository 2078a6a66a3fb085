/* The pager where all goes well: every kind of source, several machines, the
 * working set, the background, recordings. */
#include "tests/unit/pager_rig.h"
#include "tests/unit/test.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>

static uint64_t blocks(int fd)
{
	struct stat st;

	assert_int_equal(fstat(fd, &st), 0);
	return (uint64_t)st.st_blocks * 512;
}

static uint64_t pages_with_content(void)
{
	uint64_t n = 0;

	for (uint64_t i = 0; i < PAGES; i++)
		n += !fake_page_is_zero(i);
	return n;
}

/* Two clones of one base: the second one finds all pages there. */
static void two_clones(struct pager_rig *r)
{
	uint64_t loaded;
	struct mem a, b;

	pager_rig_start(r);
	fed_machine(r, &a, 1);
	all_right(&a);
	wait_loaded(r, pages_with_content());
	assert_int_equal(
		blocks(pager_base(r->p)), pages_with_content() * PAGE_SIZE_4K);
	loaded = stats_of(r).windows_demand;
	assert_true(stats_of(r).faults >= WINDOWS);
	fed_machine(r, &b, 2);
	all_right(&b);
	assert_int_equal(stats_of(r).windows_demand, loaded);
	assert_int_equal(stats_of(r).pages_demand, pages_with_content());
	/* What one writes the other does not see, nor does the base. */
	memset(a.map, 0x55, SIZE);
	all_right(&b);
	assert_int_equal(
		blocks(pager_base(r->p)), pages_with_content() * PAGE_SIZE_4K);
	mem_destroy(&a);
	mem_destroy(&b);
	pager_rig_fini(r);
}

static void test_file_uring(void **state)
{
	struct pager_rig r;

	(void)state;
	pager_rig_init(&r);
	r.src.files = true;
	two_clones(&r);
}

static void test_file_sync(void **state)
{
	struct pager_rig r;

	(void)state;
	pager_rig_init(&r);
	r.src.files = true;
	r.o.no_uring = true;
	two_clones(&r);
}

static void test_fetch_packed(void **state)
{
	struct pager_rig r;

	(void)state;
	pager_rig_init(&r);
	r.src.packed = true;
	r.src.lazy_map = true;
	two_clones(&r);
}

static void test_file_split(void **state)
{
	struct pager_rig r;

	(void)state;
	pager_rig_init(&r);
	r.src.files = true;
	r.src.split = true;
	two_clones(&r);
}

static void test_direct(void **state)
{
	struct pager_rig r;
	struct mem m;

	(void)state;
	pager_rig_init(&r);
	r.o.direct = true;
	r.src.files = true;
	pager_rig_start(&r);
	assert_int_equal(pager_base(r.p), -1);
	fed_machine(&r, &m, 1);
	all_right(&m);
	mem_destroy(&m);
	pager_rig_fini(&r);
}

/* Before it is registered nobody can touch it, so that no hole of the base
 * becomes a page of zeros; and nobody but the pager can write to the base. */
static void test_untouchable(void **state)
{
	struct err e = {0};
	struct pager_rig r;
	struct mem m;
	char path[40];
	int status, base;
	pid_t pid;

	(void)state;
	pager_rig_init(&r);
	pager_rig_start(&r);
	/* As the daemon hands it out: fallocate() minds no seal. */
	(void)snprintf(path, sizeof(path), "/proc/self/fd/%d", pager_base(r.p));
	base = open(path, O_RDONLY | O_CLOEXEC);
	assert_true(base >= 0);
	assert_int_equal(mem_create(&m, SIZE, MEM_LAZY, base, &e), 0);
	for (int write = 0; write < 2; write++) {
		pid = fork();
		if (!pid) {
			(void)signal(SIGSEGV, SIG_DFL);
			if (write)
				memset(m.map, 1, 1);
			_exit(*(volatile uint8_t *)m.map ? 1 : 0);
		}
		assert_true(pid > 0);
		assert_int_equal(waitpid(pid, &status, 0), pid);
		assert_true(WIFSIGNALED(status));
	}
	assert_int_equal(blocks(base), 0);
	assert_int_equal(pwrite(base, "x", 1, 0), -1);
	assert_int_equal(fallocate(base, 0, 0, 4096), -1);
	assert_int_equal(ftruncate(base, 0), -1);
	assert_int_equal(fcntl(base, F_ADD_SEALS, F_SEAL_WRITE), -1);
	assert_true(mmap(NULL, SIZE, PROT_WRITE, MAP_SHARED, base, 0) ==
		    MAP_FAILED);
	assert_int_equal(blocks(base), 0);
	assert_int_equal(uffd_arm(&r.host, &m, &e), 0);
	assert_int_equal(pager_attach(r.p, 1, fcntl(m.uffd, F_DUPFD_CLOEXEC, 0),
				 (uintptr_t)m.map, 0, &e),
		0);
	all_right(&m);
	mem_destroy(&m);
	(void)close(base);
	pager_rig_fini(&r);
}

/* Long zeros never reach the pager. */
static void test_long_zeros(void **state)
{
	struct mem_range zero = {MIB, 3 * MIB};
	struct err e = {0};
	struct pager_rig r;
	struct mem m;

	(void)state;
	pager_rig_init(&r);
	pager_rig_start(&r);
	assert_int_equal(
		mem_create(&m, SIZE, MEM_LAZY, pager_base(r.p), &e), 0);
	assert_int_equal(mem_lazy_zero(&m, &zero, 1, &e), 0);
	assert_int_equal(m.npaged, 2);
	assert_int_equal(uffd_arm(&r.host, &m, &e), 0);
	/* Nobody is attached: a fault would wait for ever. */
	for (uint64_t at = zero.start; at < zero.end; at += PAGE_SIZE_4K)
		assert_int_equal(m.map[at], 0);
	assert_int_equal(stats_of(&r).faults, 0);
	mem_destroy(&m);
	pager_rig_fini(&r);
}

/* ---- the working set, and the rest ---- */

static void test_set_and_fill(void **state)
{
	static const uint8_t id[16] = {1};
	struct pager_event ev;
	struct err e = {0};
	struct pager_rig r;
	struct mem a, b;

	(void)state;
	pager_rig_init(&r);
	r.src.files = true;
	r.o.fill = true;
	r.have_set = true;
	assert_int_equal(ws_init(&r.set, PAGES, id, id, &e), 0);
	for (uint64_t n = 100; n < 300; n++)
		ws_add(&r.set, n);
	pager_rig_start(&r);
	pager_wait(&r, PAGER_SET_DONE, &ev);
	fed_machine(&r, &a, 1);
	assert_false(mem_is_complete(&a));
	for (uint64_t n = 100; n < 300; n++) {
		/* pages of zeros are nowhere and do ask */
		if (!fake_page_is_zero(n))
			assert_true(page_right(&a, n));
	}
	assert_int_equal(stats_of(&r).faults, 0);
	assert_int_equal(stats_of(&r).windows_demand, 0);
	assert_true(page_right(&a, 1000));
	pager_fill(r.p);
	pager_wait(&r, PAGER_COMPLETE, &ev);
	assert_true(mem_is_complete(&a));
	assert_int_equal(stats_of(&r).windows_demand, 1);
	all_right(&a);
	/* A later clone is not registered, and nobody can write to the base. */
	fed_machine(&r, &b, 2);
	assert_int_equal(b.uffd, -1);
	assert_int_equal(pwrite(pager_base(r.p), "x", 1, 0), -1);
	assert_true(mmap(NULL, SIZE, PROT_WRITE, MAP_SHARED, pager_base(r.p),
			    0) == MAP_FAILED);
	mem_destroy(&b);
	assert_int_equal(
		mem_create(&b, SIZE, MEM_CLONE, pager_base(r.p), &e), 0);
	all_right(&b);
	mem_destroy(&a);
	mem_destroy(&b);
	pager_rig_fini(&r);
}

/* All of a single machine, in the background. */
static void test_direct_fill(void **state)
{
	struct pager_event ev;
	struct pager_rig r;
	struct mem m;

	(void)state;
	pager_rig_init(&r);
	r.o.direct = true;
	r.o.fill = true;
	r.src.files = true;
	pager_rig_start(&r);
	fed_machine(&r, &m, 1);
	assert_true(page_right(&m, 33));
	memset(m.map + 64 * PAGE_SIZE_4K, 0x77, PAGE_SIZE_4K);
	pager_fill(r.p);
	pager_wait(&r, PAGER_COMPLETE, &ev);
	for (uint64_t n = 0; n < PAGES; n++)
		if (n != 64 && !page_right(&m, n))
			fail_msg("page %llu", (unsigned long long)n);
	assert_int_equal(m.map[64 * PAGE_SIZE_4K], 0x77);
	mem_destroy(&m);
	pager_rig_fini(&r);
}

/* One that armed before the seal and was heard of after it. */
static void test_attach_late(void **state)
{
	struct pager_event ev;
	struct err e = {0};
	struct pager_rig r;
	struct mem m;

	(void)state;
	pager_rig_init(&r);
	r.o.fill = true;
	pager_rig_start(&r);
	assert_int_equal(
		mem_create(&m, SIZE, MEM_LAZY, pager_base(r.p), &e), 0);
	assert_int_equal(uffd_arm(&r.host, &m, &e), 0);
	assert_true(m.uffd >= 0);
	pager_fill(r.p);
	pager_wait(&r, PAGER_COMPLETE, &ev);
	assert_int_equal(pager_attach(r.p, 1, fcntl(m.uffd, F_DUPFD_CLOEXEC, 0),
				 (uintptr_t)m.map, 0, &e),
		0);
	all_right(&m);
	mem_destroy(&m);
	pager_rig_fini(&r);
}

static void test_record(void **state)
{
	static const uint8_t id[16] = {1};
	struct ws got;
	struct err e = {0};
	struct pager_rig r;
	struct mem m;

	(void)state;
	pager_rig_init(&r);
	r.o.direct = true;
	r.o.record = true;
	pager_rig_start(&r);
	fed_machine(&r, &m, 1);
	assert_true(page_right(&m, 17));
	assert_true(page_right(&m, 18));
	assert_true(page_right(&m, 20)); /* of zeros */
	assert_true(page_right(&m, 900));
	assert_int_equal(ws_init(&got, PAGES, id, id, &e), 0);
	pager_recorded(r.p, &got);
	assert_int_equal(got.set, 4);
	assert_true(ws_has(&got, 17) && ws_has(&got, 18) && ws_has(&got, 20) &&
		    ws_has(&got, 900));
	all_right(&m);
	ws_fini(&got);
	mem_destroy(&m);
	pager_rig_fini(&r);
}

#define THREADS 8

/* Many at once, of several machines, against the background. */
static void test_crowd(void **state)
{
	struct toucher t[THREADS * 3];
	struct pager_rig r;
	struct mem m[3];

	(void)state;
	pager_rig_init(&r);
	r.o.fill = true;
	r.src.lazy_map = true;
	r.src.packed = true;
	pager_rig_start(&r);
	for (unsigned i = 0; i < 3; i++)
		fed_machine(&r, &m[i], i);
	pager_fill(r.p);
	for (unsigned round = 0; round < 8; round++) {
		for (unsigned i = 0; i < ARRAY_SIZE(t); i++) {
			t[i] = (struct toucher){.m = &m[i % 3],
				.page = (round * 131 + i * 37) % PAGES};
			touch_start(&t[i]);
		}
		for (unsigned i = 0; i < ARRAY_SIZE(t); i++) {
			assert_int_equal(pthread_join(t[i].thread, NULL), 0);
			assert_true(t[i].right);
		}
	}
	for (unsigned i = 0; i < 3; i++) {
		all_right(&m[i]);
		mem_destroy(&m[i]);
	}
	pager_rig_fini(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_file_uring),
		cmocka_unit_test(test_file_sync),
		cmocka_unit_test(test_fetch_packed),
		cmocka_unit_test(test_file_split),
		cmocka_unit_test(test_direct),
		cmocka_unit_test(test_untouchable),
		cmocka_unit_test(test_long_zeros),
		cmocka_unit_test(test_set_and_fill),
		cmocka_unit_test(test_direct_fill),
		cmocka_unit_test(test_attach_late),
		cmocka_unit_test(test_record),
		cmocka_unit_test(test_crowd),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
