#include "tests/unit/pager_rig.h"

#include "tests/unit/test.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>

void pager_rig_init(struct pager_rig *r)
{
	struct err e = {0};

	memset(r, 0, sizeof(*r));
	fake_source_init(&r->src, WINDOWS);
	r->o = (struct pager_opts){.exact = true,
		.src = &r->src.src,
		.host = &r->host,
		.stats_fd = -1};
	if (uffd_host_open(&r->host, &e)) {
		print_message("%s\n", e.msg);
		fake_source_fini(&r->src);
		skip();
	}
}

void pager_rig_start(struct pager_rig *r)
{
	struct err e = {0};

	fake_source_store(&r->src);
	if (pager_create(&r->o, &r->p, &e))
		fail_msg("%s", e.msg);
	if (r->have_set && pager_use_set(r->p, &r->set, &e))
		fail_msg("%s", e.msg);
	if (pager_start(r->p, &e))
		fail_msg("%s", e.msg);
}

void pager_rig_fini(struct pager_rig *r)
{
	pager_destroy(r->p);
	fake_source_fini(&r->src);
	uffd_host_close(&r->host);
	ws_fini(&r->set);
}

struct pager_stats stats_of(const struct pager_rig *r)
{
	struct pager_stats s;

	pager_get_stats(r->p, &s);
	return s;
}

void wait_loaded(const struct pager_rig *r, uint64_t pages)
{
	struct pager_stats s = stats_of(r);

	for (int i = 0; i < 5000 && s.pages_demand + s.pages_ahead < pages;
		i++) {
		(void)usleep(1000);
		s = stats_of(r);
	}
	assert_int_equal(s.pages_demand + s.pages_ahead, pages);
}

/* Memory of a machine, registered and attached. */
void fed_machine(struct pager_rig *r, struct mem *m, uint64_t id)
{
	struct err e = {0};
	int fd;

	if (mem_create(m, r->src.src.size, MEM_LAZY, pager_base(r->p), &e) ||
		uffd_arm(&r->host, m, &e))
		fail_msg("%s", e.msg);
	if (m->uffd < 0)
		return;
	fd = fcntl(m->uffd, F_DUPFD_CLOEXEC, 0);
	if (pager_attach(r->p, id, fd, (uintptr_t)m->map, 0, &e))
		fail_msg("%s", e.msg);
}

bool page_right(const struct mem *m, uint64_t n)
{
	return fake_page_is_right(n, m->map + n * PAGE_SIZE_4K);
}

void all_right(const struct mem *m)
{
	for (uint64_t n = 0; n < PAGES; n++)
		if (!page_right(m, n))
			fail_msg("page %llu is wrong", (unsigned long long)n);
}

void pager_wait(
	struct pager_rig *r, enum pager_event_type type, struct pager_event *ev)
{
	struct pollfd pfd = {.fd = pager_event_fd(r->p), .events = POLLIN};

	do {
		if (pager_next_event(r->p, ev))
			continue;
		ev->type = 0;
		assert_int_equal(poll(&pfd, 1, 20000), 1);
	} while (ev->type != type);
}

static void *touch(void *arg)
{
	struct toucher *t = arg;

	t->right = page_right(t->m, t->page);
	__atomic_store_n(&t->done, true, __ATOMIC_RELEASE);
	return NULL;
}

void touch_start(struct toucher *t)
{
	assert_int_equal(pthread_create(&t->thread, NULL, touch, t), 0);
}

void bury(struct toucher *t, struct mem *m)
{
	assert_false(__atomic_load_n(&t->done, __ATOMIC_ACQUIRE));
	assert_int_equal(
		uffd_unregister(m->uffd, (uintptr_t)m->map, m->size), 0);
	assert_int_equal(pthread_join(t->thread, NULL), 0);
}
