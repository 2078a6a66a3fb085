/* Read-ahead of the pager: sequences are seen, other faults are not taken for
 * one, and nothing that nobody waits for delays a fault. */
#include "tests/unit/pager_rig.h"
#include "tests/unit/test.h"

#include <errno.h>
#include <unistd.h>

/* Every eighth window has none: 7, 15 and so on. */
static uint64_t page_of(uint64_t window)
{
	uint64_t n = window * PSRC_PAGES;

	while (fake_page_is_zero(n))
		n++;
	return n;
}

static void touch(const struct mem *m, uint64_t window)
{
	assert_true(page_right(m, page_of(window)));
}

static uint64_t content(uint64_t from, uint64_t to)
{
	uint64_t pages = 0;

	for (uint64_t n = from * PSRC_PAGES; n < to * PSRC_PAGES; n++)
		pages += !fake_page_is_zero(n);
	return pages;
}

static void wait_ahead(struct pager_rig *r, uint64_t pages)
{
	for (unsigned i = 0; i < 5000; i++) {
		if (stats_of(r).pages_ahead == pages)
			return;
		(void)usleep(1000);
	}
	fail_msg("%llu pages read ahead, not %llu",
		(unsigned long long)stats_of(r).pages_ahead,
		(unsigned long long)pages);
}

static void start(struct pager_rig *r, struct mem *m, bool files)
{
	pager_rig_init(r);
	r->o.exact = false;
	r->o.workers = 2;
	r->o.stall_ms = 300;
	r->src.files = files;
	pager_rig_start(r);
	fed_machine(r, m, 1);
}

static void end(struct pager_rig *r, struct mem *m)
{
	mem_destroy(m);
	pager_rig_fini(r);
}

static void sequence(bool files)
{
	struct pager_rig r;
	struct mem m;
	uint64_t faults;

	start(&r, &m, files);
	touch(&m, 10);
	touch(&m, 11);
	wait_ahead(&r, content(12, 14));
	wait_loaded(&r, content(10, 14));
	faults = stats_of(&r).faults;
	touch(&m, 12);
	touch(&m, 13);
	assert_int_equal(stats_of(&r).faults, faults);
	assert_int_equal(stats_of(&r).windows_demand, 2);
	/* The next one that is missing brings twice as many. */
	touch(&m, 14);
	wait_ahead(&r, content(12, 14) + content(15, 19));
	touch(&m, 19);
	wait_ahead(&r, content(12, 14) + content(15, 19) + content(20, 28));
	all_right(&m);
	wait_loaded(&r, content(0, WINDOWS));
	end(&r, &m);
}

static void test_sequence_of_a_file(void **state)
{
	(void)state;
	sequence(true);
}

static void test_sequence_of_fetches(void **state)
{
	(void)state;
	sequence(false);
}

static void test_two_streams(void **state)
{
	struct pager_rig r;
	struct mem m;

	(void)state;
	start(&r, &m, true);
	touch(&m, 4);
	touch(&m, 32);
	touch(&m, 5);
	wait_ahead(&r, content(6, 8));
	touch(&m, 33);
	wait_ahead(&r, content(6, 8) + content(34, 36));
	end(&r, &m);
}

static void test_no_sequence(void **state)
{
	static const uint8_t at[] = {50, 3, 41, 12, 8, 60, 33, 25, 17, 54};
	struct pager_rig r;
	uint64_t pages = 0;
	struct mem m;

	(void)state;
	start(&r, &m, true);
	for (unsigned i = 0; i < ARRAY_SIZE(at); i++) {
		touch(&m, at[i]);
		pages += content(at[i], at[i] + 1U);
	}
	wait_loaded(&r, pages);
	(void)usleep(20000);
	assert_int_equal(stats_of(&r).windows_demand, ARRAY_SIZE(at));
	assert_int_equal(stats_of(&r).pages_ahead, 0);
	end(&r, &m);
}

static void test_end_of_memory(void **state)
{
	struct pager_rig r;
	struct mem m;

	(void)state;
	start(&r, &m, true);
	touch(&m, WINDOWS - 4);
	touch(&m, WINDOWS - 3);
	wait_ahead(&r, content(WINDOWS - 2, WINDOWS));
	touch(&m, WINDOWS - 2);
	assert_true(page_right(&m, PAGES - 1));
	end(&r, &m);
}

/* Window 12 is read ahead and does not come: nobody else is kept waiting, not
 * even who needs the one behind it; and who needs it is told. */
static void test_stalled(void **state)
{
	struct toucher t = {.page = page_of(12)};
	struct pager_event ev;
	struct pager_rig r;
	struct mem m;

	(void)state;
	start(&r, &m, false);
	fake_source_fault(&r.src, FAKE_STALL, 12);
	touch(&m, 10);
	touch(&m, 11);
	for (uint64_t w = 40; w < 64; w += 3)
		touch(&m, w);
	touch(&m, 13);
	assert_int_equal(stats_of(&r).pages_ahead, 0);
	t.m = &m;
	touch_start(&t);
	pager_wait(&r, PAGER_FAILED, &ev);
	assert_int_equal(ev.e.code, -ETIMEDOUT);
	pager_detach(r.p, 1);
	bury(&t, &m);
	end(&r, &m);
}

/* Wrong bytes that were read ahead of time are told when they are needed. */
static void test_lie(void **state)
{
	struct toucher t = {.page = page_of(12)};
	struct pager_event ev;
	struct pager_rig r;
	struct mem m;

	(void)state;
	start(&r, &m, true);
	fake_source_fault(&r.src, FAKE_LIE, 12);
	touch(&m, 10);
	touch(&m, 11);
	wait_ahead(&r, content(13, 14));
	t.m = &m;
	touch_start(&t);
	pager_wait(&r, PAGER_FAILED, &ev);
	assert_int_equal(ev.e.code, -EBADMSG);
	pager_detach(r.p, 1);
	bury(&t, &m);
	end(&r, &m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_sequence_of_a_file),
		cmocka_unit_test(test_sequence_of_fetches),
		cmocka_unit_test(test_two_streams),
		cmocka_unit_test(test_no_sequence),
		cmocka_unit_test(test_end_of_memory),
		cmocka_unit_test(test_stalled),
		cmocka_unit_test(test_lie),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
