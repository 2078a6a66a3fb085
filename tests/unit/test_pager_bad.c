/* The pager where something goes wrong: sources that lie, stall, break or make
 * no sense, memory that is thrown away or moved. */
#include "tests/unit/pager_rig.h"
#include "tests/unit/test.h"
#include "uffd/engine.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static void one_machine_ends(enum fake_fault fault, bool files, int code)
{
	struct toucher t = {.page = 33};
	struct pager_event ev;
	struct pager_rig r;
	struct mem a, b;

	pager_rig_init(&r);
	r.o.stall_ms = 300;
	r.src.files = files;
	pager_rig_start(&r);
	fake_source_fault(&r.src, fault, 2);
	fed_machine(&r, &a, 1);
	fed_machine(&r, &b, 2);
	t.m = &a;
	touch_start(&t);
	pager_wait(&r, PAGER_FAILED, &ev);
	assert_int_equal(ev.id, 1);
	assert_int_equal(ev.e.code, code);
	assert_true(strlen(ev.e.msg) > 10);
	/* The other one, and every other page, are not concerned. */
	for (uint64_t n = 0; n < PAGES; n++)
		if (n / PSRC_PAGES != 2)
			assert_true(page_right(&b, n));
	pager_detach(r.p, 1);
	if (code != -EBADMSG) {
		/* It works again: then it works again. */
		fake_source_fault(&r.src, FAKE_FINE, 2);
		assert_true(page_right(&b, 33));
	}
	/* This very thing puts zeros into the base, when it is done to a
	 * machine that is not dead: so it comes last. */
	bury(&t, &a);
	if (code == -EBADMSG) {
		/* Whoever needs the same bytes ends the same way. */
		struct toucher u = {.page = 34, .m = &b};

		touch_start(&u);
		pager_wait(&r, PAGER_FAILED, &ev);
		assert_int_equal(ev.id, 2);
		pager_detach(r.p, 2);
		bury(&u, &b);
	}
	mem_destroy(&a);
	mem_destroy(&b);
	pager_rig_fini(&r);
}

static void test_lie(void **state)
{
	(void)state;
	one_machine_ends(FAKE_LIE, false, -EBADMSG);
}

static void test_lie_in_file(void **state)
{
	(void)state;
	one_machine_ends(FAKE_LIE, true, -EBADMSG);
}

static void test_broken(void **state)
{
	(void)state;
	one_machine_ends(FAKE_BROKEN, false, -EIO);
}

static void test_stall(void **state)
{
	(void)state;
	one_machine_ends(FAKE_STALL, false, -ETIMEDOUT);
}

static void test_nonsense(void **state)
{
	(void)state;
	one_machine_ends(FAKE_NONSENSE, false, -EBADMSG);
}

static void test_map_lie(void **state)
{
	(void)state;
	one_machine_ends(FAKE_MAP_LIE, false, -EBADMSG);
}

/* Slow is not stalled. */
static void test_slow(void **state)
{
	struct pager_rig r;
	struct mem m;

	(void)state;
	pager_rig_init(&r);
	pager_rig_start(&r);
	fake_source_fault(&r.src, FAKE_SLOW, UINT64_MAX);
	fed_machine(&r, &m, 1);
	all_right(&m);
	mem_destroy(&m);
	pager_rig_fini(&r);
}

/* The background finds damage: nobody ends, nothing is sealed. */
static void test_fill_damaged(void **state)
{
	struct pager_event ev;
	struct pager_rig r;
	struct mem m;

	(void)state;
	pager_rig_init(&r);
	r.o.fill = true;
	pager_rig_start(&r);
	fake_source_fault(&r.src, FAKE_LIE, 5);
	fed_machine(&r, &m, 1);
	pager_fill(r.p);
	pager_wait(&r, PAGER_DAMAGED, &ev);
	assert_int_equal(ev.e.code, -EBADMSG);
	for (uint64_t n = 0; n < PAGES; n++)
		if (n / PSRC_PAGES != 5)
			assert_true(page_right(&m, n));
	assert_false(mem_is_complete(&m));
	assert_int_equal(stats_of(&r).failed, 0);
	mem_destroy(&m);
	pager_rig_fini(&r);
}

/* A source that hangs in the background holds up no fault. */
static void test_fill_stalls(void **state)
{
	struct pager_rig r;
	struct mem m;

	(void)state;
	pager_rig_init(&r);
	r.o.fill = true;
	pager_rig_start(&r);
	fake_source_fault(&r.src, FAKE_STALL, 3);
	fed_machine(&r, &m, 1);
	pager_fill(r.p);
	for (uint64_t n = 0; n < PAGES; n++)
		if (n / PSRC_PAGES != 3)
			assert_true(page_right(&m, n));
	mem_destroy(&m);
	pager_rig_fini(&r);
}

#define CROWD 100 /* more than there are jobs, and many more than workers */

static uint64_t content_of(uint64_t window)
{
	uint64_t n = window * PSRC_PAGES;

	while (fake_page_is_zero(n))
		n++;
	return n;
}

static void touch_soon(struct toucher *t)
{
	touch_start(t);
	for (unsigned i = 0; i < 5000; i++) {
		if (__atomic_load_n(&t->done, __ATOMIC_ACQUIRE))
			break;
		(void)usleep(1000);
	}
	assert_true(__atomic_load_n(&t->done, __ATOMIC_ACQUIRE));
	assert_int_equal(pthread_join(t->thread, NULL), 0);
	assert_true(t->right);
}

/* A source that hangs holds up those who need it, and not those whose pages are
 * in its cache; and when it goes on, everybody gets what they wait for. */
static void hung_source(bool lazy_map, bool stale)
{
	struct toucher *t = calloc(CROWD, sizeof(*t));
	struct toucher near;
	struct pager_rig r;
	unsigned n = 0;
	struct mem m;

	assert_non_null(t);
	pager_rig_init(&r);
	fake_source_fini(&r.src);
	fake_source_init(&r.src, 4 * WINDOWS);
	r.src.files = r.src.packed = true;
	r.src.lazy_map = lazy_map;
	if (stale)
		r.src.stale = 8;
	else
		r.src.far = 8;
	r.o.stall_ms = 60000;
	pager_rig_start(&r);
	fed_machine(&r, &m, 1);
	fake_source_fault(&r.src, FAKE_STALL, UINT64_MAX);
	for (uint64_t w = 8; n < CROWD; w++) {
		if (w % 8 == 7)
			continue;
		t[n] = (struct toucher){.m = &m, .page = content_of(w)};
		touch_start(&t[n++]);
	}
	while (stats_of(&r).faults < CROWD)
		(void)usleep(1000);
	for (uint64_t w = 0; w < 7; w++) {
		near = (struct toucher){.m = &m, .page = content_of(w)};
		touch_soon(&near);
	}
	for (unsigned i = 0; i < CROWD; i++)
		assert_false(__atomic_load_n(&t[i].done, __ATOMIC_ACQUIRE));
	fake_source_fault(&r.src, FAKE_FINE, UINT64_MAX);
	for (unsigned i = 0; i < CROWD; i++) {
		assert_int_equal(pthread_join(t[i].thread, NULL), 0);
		assert_true(t[i].right);
	}
	assert_int_equal(stats_of(&r).failed, 0);
	free(t);
	mem_destroy(&m);
	pager_rig_fini(&r);
}

static void test_hung_source(void **state)
{
	(void)state;
	hung_source(false, false);
}

/* What is in the cache is wrong, as after a crash. */
static void test_hung_source_stale(void **state)
{
	(void)state;
	hung_source(false, true);
}

static void test_hung_source_map(void **state)
{
	(void)state;
	hung_source(true, false);
}

/* Parked or not: nobody waits longer than the stall timeout. */
static void test_hung_crowd(void **state)
{
	struct toucher *t = calloc(CROWD, sizeof(*t));
	struct mem *m = calloc(CROWD, sizeof(*m));
	struct pager_event ev;
	struct pager_rig r;

	(void)state;
	assert_non_null(t);
	assert_non_null(m);
	pager_rig_init(&r);
	fake_source_fini(&r.src);
	fake_source_init(&r.src, 4 * WINDOWS);
	r.o.stall_ms = 300;
	pager_rig_start(&r);
	fake_source_fault(&r.src, FAKE_STALL, UINT64_MAX);
	for (unsigned i = 0; i < CROWD; i++) {
		fed_machine(&r, &m[i], i + 1);
		t[i] = (struct toucher){
			.m = &m[i], .page = content_of(i + i / 7)};
		touch_start(&t[i]);
	}
	for (unsigned i = 0; i < CROWD; i++) {
		pager_wait(&r, PAGER_FAILED, &ev);
		assert_int_equal(ev.e.code, -ETIMEDOUT);
	}
	assert_int_equal(stats_of(&r).failed, CROWD);
	for (unsigned i = 0; i < CROWD; i++) {
		pager_detach(r.p, i + 1);
		bury(&t[i], &m[i]);
		mem_destroy(&m[i]);
	}
	free(t);
	free(m);
	pager_rig_fini(&r);
}

static bool alive(struct pager_rig *r, int ms)
{
	struct pollfd pfd = {.fd = pager_event_fd(r->p), .events = POLLIN};
	struct pager_event ev = {.type = 0};

	while (ev.type != PAGER_ALIVE) {
		if (!pager_next_event(r->p, &ev) && poll(&pfd, 1, ms) == 0)
			return false;
	}
	return true;
}

/* Alive is what answers faults, and nothing else. */
static void test_ping(void **state)
{
	struct toucher t = {.page = 33};
	struct pager_rig r;
	struct mem m;

	(void)state;
	pager_rig_init(&r);
	pager_rig_start(&r);
	fed_machine(&r, &m, 1);
	for (unsigned i = 0; i < 3; i++) {
		pager_ping(r.p);
		assert_true(alive(&r, 20000));
	}
	fake_source_fault(&r.src, FAKE_MAP_STALL, 2);
	t.m = &m;
	touch_start(&t);
	while (!stats_of(&r).faults)
		(void)usleep(1000);
	(void)usleep(20000);
	pager_ping(r.p);
	assert_false(alive(&r, 300));
	fake_source_fault(&r.src, FAKE_FINE, 2);
	assert_true(alive(&r, 20000));
	assert_int_equal(pthread_join(t.thread, NULL), 0);
	assert_true(t.right);
	mem_destroy(&m);
	pager_rig_fini(&r);
}

/* Memory thrown away while it is brought in: zeros, never the file's bytes. */
static void test_remove(void **state)
{
	struct pager_rig r;
	struct mem m;

	(void)state;
	pager_rig_init(&r);
	r.o.direct = true;
	pager_rig_start(&r);
	fed_machine(&r, &m, 1);
	assert_true(page_right(&m, 1));
	assert_int_equal(madvise(m.map, 8 * PAGE_SIZE_4K, MADV_DONTNEED), 0);
	for (uint64_t n = 0; n < 8; n++)
		assert_int_equal(m.map[n * PAGE_SIZE_4K + 8], 0);
	for (uint64_t n = 8; n < PAGES; n++)
		assert_true(page_right(&m, n));
	mem_destroy(&m);
	pager_rig_fini(&r);
}

/* In a clone the template's bytes come back. */
static void test_remove_shared(void **state)
{
	struct pager_rig r;
	struct mem m;

	(void)state;
	pager_rig_init(&r);
	pager_rig_start(&r);
	fed_machine(&r, &m, 1);
	memset(m.map, 7, 16 * PAGE_SIZE_4K);
	assert_int_equal(madvise(m.map, 16 * PAGE_SIZE_4K, MADV_DONTNEED), 0);
	all_right(&m);
	mem_destroy(&m);
	pager_rig_fini(&r);
}

static void test_moved(void **state)
{
	struct pager_event ev;
	struct pager_rig r;
	uint64_t len = MIB;
	struct mem m;
	void *to;

	(void)state;
	pager_rig_init(&r);
	pager_rig_start(&r);
	fed_machine(&r, &m, 1);
	to = mremap(
		m.map + MIB, MIB, MIB, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, NULL);
	if (to == MAP_FAILED) {
		/* a kernel that does so only to anonymous memory */
		len = 2 * MIB;
		to = mremap(m.map + MIB, MIB, len, MREMAP_MAYMOVE);
	}
	assert_true(to != MAP_FAILED);
	pager_wait(&r, PAGER_FAILED, &ev);
	assert_non_null(strstr(ev.e.msg, "moved"));
	(void)munmap(to, len);
	mem_destroy(&m);
	pager_rig_fini(&r);
}

/* Who waits for a page goes on with it before the rest of its window is placed,
 * which here never is. */
static void first_things_first(bool files)
{
	struct toucher first = {.page = 17}, t = {.page = 19};
	struct pager_event ev;
	struct pager_rig r;
	struct mem m;

	pager_rig_init(&r);
	r.src.files = files;
	pager_rig_start(&r);
	fed_machine(&r, &m, 1);
	assert_int_equal(uffd_unregister(r.p->own,
				 (uintptr_t)r.p->map + 18ULL * PAGE_SIZE_4K,
				 14ULL * PAGE_SIZE_4K),
		0);
	first.m = t.m = &m;
	touch_start(&first);
	for (unsigned i = 0; i < 5000; i++) {
		if (__atomic_load_n(&first.done, __ATOMIC_ACQUIRE))
			break;
		(void)usleep(1000);
	}
	assert_true(__atomic_load_n(&first.done, __ATOMIC_ACQUIRE));
	assert_int_equal(pthread_join(first.thread, NULL), 0);
	assert_true(first.right);
	assert_int_equal(stats_of(&r).failed, 0);
	touch_start(&t);
	pager_wait(&r, PAGER_FAILED, &ev);
	assert_int_equal(ev.e.code, -ENOENT);
	assert_true(page_right(&m, 17));
	pager_detach(r.p, 1);
	bury(&t, &m);
	mem_destroy(&m);
	pager_rig_fini(&r);
}

static void test_first_in_place(void **state)
{
	(void)state;
	first_things_first(true);
}

static void test_first_of_worker(void **state)
{
	(void)state;
	first_things_first(false);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_lie),
		cmocka_unit_test(test_lie_in_file),
		cmocka_unit_test(test_broken),
		cmocka_unit_test(test_stall),
		cmocka_unit_test(test_nonsense),
		cmocka_unit_test(test_map_lie),
		cmocka_unit_test(test_slow),
		cmocka_unit_test(test_fill_damaged),
		cmocka_unit_test(test_fill_stalls),
		cmocka_unit_test(test_hung_source),
		cmocka_unit_test(test_hung_source_map),
		cmocka_unit_test(test_hung_source_stale),
		cmocka_unit_test(test_hung_crowd),
		cmocka_unit_test(test_ping),
		cmocka_unit_test(test_remove),
		cmocka_unit_test(test_remove_shared),
		cmocka_unit_test(test_moved),
		cmocka_unit_test(test_first_in_place),
		cmocka_unit_test(test_first_of_worker),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
