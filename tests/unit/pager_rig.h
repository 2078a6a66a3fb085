/* A pager on real userfaultfd, and machines whose memory it brings in: this
 * process is all of them. */
#ifndef THAW_TESTS_UNIT_PAGER_RIG_H
#define THAW_TESTS_UNIT_PAGER_RIG_H

#include "tests/unit/fake_source.h"
#include "uffd/pager.h"

#define SIZE    (4 * MIB)
#define WINDOWS (SIZE / PSRC_WINDOW)
#define PAGES   (SIZE / PAGE_SIZE_4K)

struct pager_rig {
	struct fake_source src;
	struct pager_opts o;
	struct pager *p;
	struct uffd_host host;
	struct ws set;
	bool have_set;
};

/* Skips the test where userfaultfd is not allowed. */
void pager_rig_init(struct pager_rig *r);
/* After .src, .o and .set are as they are to be. */
void pager_rig_start(struct pager_rig *r);
void pager_rig_fini(struct pager_rig *r);
struct pager_stats stats_of(const struct pager_rig *r);
/* So many pages came because of faults. A page is there, for who waits for it,
 * before its window is whole and counted. */
void wait_loaded(const struct pager_rig *r, uint64_t pages);

/* Memory of a machine, registered and attached. */
void fed_machine(struct pager_rig *r, struct mem *m, uint64_t id);
bool page_right(const struct mem *m, uint64_t n);
void all_right(const struct mem *m);
/* Wait for an event; others before it are dropped. */
void pager_wait(struct pager_rig *r, enum pager_event_type type,
	struct pager_event *ev);

/* A thread that looks at one page. */
struct toucher {
	pthread_t thread;
	const struct mem *m;
	uint64_t page;
	bool done; /* atomic */
	bool right;
};
void touch_start(struct toucher *t);
/* What a killed machine is to its pager: the thread waits until its memory is
 * no longer watched. */
void bury(struct toucher *t, struct mem *m);

#endif
