#include "uffd/engine.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U /* linux/memfd.h, since Linux 6.3 */
#endif

#define MIN_WORKERS  2
#define AUTO_WORKERS 8
/* Where bytes are fetched, one worker for so many others never does that. */
#define KEPT_OF 8

/* ---- the base ---- */

static int base_memfd(uint64_t size)
{
	const unsigned flags = MFD_CLOEXEC | MFD_ALLOW_SEALING;
	int fd = memfd_create("thaw-base", flags | MFD_NOEXEC_SEAL);

	if (fd < 0 && errno == EINVAL)
		fd = memfd_create("thaw-base", flags);
	if (fd < 0)
		return -errno;
	if (ftruncate(fd, (off_t)size)) {
		int r = -errno;

		(void)close(fd);
		return r;
	}
	return fd;
}

/* Mapped and registered here, and from then on by nobody else: a second writer,
 * or a write that is no whole page, could show a guest half a page. */
static int make_base(struct pager *p, struct err *e)
{
	p->base = base_memfd(p->size);
	if (p->base < 0)
		return err_sys(e, p->base, "the base of a lazy template");
	p->map = mmap(NULL, p->size, PROT_READ | PROT_WRITE,
		MAP_SHARED | MAP_NORESERVE, p->base, 0);
	if (p->map == MAP_FAILED) {
		p->map = NULL;
		return err_sys(e, -errno, "mapping the base");
	}
	(void)madvise(p->map, p->size, MADV_NOHUGEPAGE);
	(void)madvise(p->map, p->size, MADV_DONTFORK);
	p->own = uffd_open(p->o.host, false, e);
	if (p->own < 0)
		return e->code;
	if (uffd_register(p->own, p->map, p->size, e))
		return e->code;
	if (fcntl(p->base, F_ADD_SEALS,
		    F_SEAL_FUTURE_WRITE | F_SEAL_GROW | F_SEAL_SHRINK))
		return err_sys(e, -errno, "sealing the base (Linux 5.1)");
	return 0;
}

/* ---- making one ---- */

static int jobs_init(struct pager *p)
{
	const size_t one = PSRC_MAX_STORED, run = JOB_WINDOWS * PSRC_MAX_STORED;

	for (unsigned i = 0; i < DEMAND_JOBS + AHEAD_JOBS; i++) {
		bool demand = i < DEMAND_JOBS;
		struct job *j =
			demand ? &p->demand[i] : &p->run[i - DEMAND_JOBS];
		struct job **list = demand ? &p->free_demand : &p->free_run;

		j->stored = aligned_alloc(PAGE_SIZE_4K, demand ? one : run);
		j->win = aligned_alloc(
			PAGE_SIZE_4K, (demand ? 1 : JOB_WINDOWS) * PSRC_WINDOW);
		if (!j->stored || !j->win)
			return -ENOMEM;
		j->next = *list;
		*list = j;
	}
	for (unsigned i = 0; i < NLANES_; i++)
		p->tail[i] = &p->queue[i];
	p->backlog_tail = &p->backlog;
	p->parked_tail = &p->parked;
	p->events_tail = &p->events;
	return 0;
}

static int locks_init(struct pager *p)
{
	pthread_condattr_t a;
	int r = pthread_mutex_init(&p->lock, NULL);

	if (!r)
		r = pthread_condattr_init(&a);
	if (r)
		return -r;
	r = pthread_condattr_setclock(&a, CLOCK_MONOTONIC);
	if (!r)
		r = pthread_cond_init(&p->work, &a);
	if (!r)
		r = pthread_cond_init(&p->slow, &a);
	if (!r)
		r = pthread_cond_init(&p->ahead, &a);
	(void)pthread_condattr_destroy(&a);
	return -r;
}

static int map_stats(struct pager *p, struct err *e)
{
	bool file = p->o.stats_fd >= 0;
	void *m;

	p->stats_len = file ? PAGER_STATS_SLOTS +
				       PAGER_STATS_NSLOTS *
					       sizeof(struct pager_client_stats)
			    : PAGE_SIZE_4K;
	m = mmap(NULL, p->stats_len, PROT_READ | PROT_WRITE,
		file ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS,
		file ? p->o.stats_fd : -1, 0);
	if (m == MAP_FAILED)
		return err_sys(e, -errno, "the pager's counters");
	p->stats = m;
	p->stats->pages_total = p->src->pages;
	p->src->fetched = &p->stats->bytes_fetched;
	return 0;
}

static int tables_init(struct pager *p, struct err *e)
{
	void *m = mmap(NULL, p->nwindows * sizeof(*p->win),
		PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (m == MAP_FAILED)
		return err_sys(e, -errno, "the pager's tables");
	p->win = m;
	if (p->o.record)
		p->recorded = calloc(
			p->size / PAGE_SIZE_4K / 64 + 1, sizeof(*p->recorded));
	if (p->o.record && !p->recorded)
		return err_set(e, -ENOMEM, "no memory to record");
	return map_stats(p, e);
}

static int events_init(struct pager *p, struct err *e)
{
	struct epoll_event kick = {.events = EPOLLIN};
	struct epoll_event ring = {
		.events = EPOLLIN, .data.ptr = &p->fault_ring};
	int r = 0;

	p->event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	p->kick = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	p->epoll = epoll_create1(EPOLL_CLOEXEC);
	if (p->event < 0 || p->kick < 0 || p->epoll < 0 ||
		epoll_ctl(p->epoll, EPOLL_CTL_ADD, p->kick, &kick))
		return err_sys(e, -errno, "the pager's descriptors");
	if (p->o.no_uring || !p->src->nfiles)
		return 0;
	/* Without a ring the workers read. */
	if (ring_open(&p->fault_ring, p->src->file, p->src->nfiles))
		return 0;
	if (ring_open(&p->ahead_ring, p->src->file, p->src->nfiles))
		ring_close(&p->fault_ring);
	if (p->fault_ring.open)
		r = epoll_ctl(p->epoll, EPOLL_CTL_ADD, ring_fd(&p->fault_ring),
			&ring);
	return r ? err_sys(e, -errno, "watching io_uring") : 0;
}

int pager_create(const struct pager_opts *o, struct pager **out, struct err *e)
{
	struct pager *p = calloc(1, sizeof(*p));
	int r;

	*out = NULL;
	if (!p)
		return err_set(e, -ENOMEM, "no memory for a pager");
	p->o = *o;
	p->src = o->src;
	p->size = o->src->size;
	p->nwindows = p->size / PSRC_WINDOW;
	p->base = p->own = p->event = p->kick = p->epoll = -1;
	if (!p->o.stall_ms)
		p->o.stall_ms = PAGER_STALL_MS;
	r = locks_init(p);
	if (!r)
		r = jobs_init(p);
	if (r)
		err_sys(e, r, "making a pager");
	if (!r)
		r = tables_init(p, e);
	if (!r)
		r = events_init(p, e);
	if (!r && !o->direct)
		r = make_base(p, e);
	if (r) {
		pager_destroy(p);
		return r;
	}
	*out = p;
	return 0;
}

/* ---- threads ---- */

static int start_workers(struct pager *p)
{
	unsigned n = p->o.workers;
	cpu_set_t cpus;
	int r = 0;

	/* Not sysconf(), which opens files. */
	if (!n && !sched_getaffinity(0, sizeof(cpus), &cpus))
		n = (unsigned)min_u64((uint64_t)CPU_COUNT(&cpus), AUTO_WORKERS);
	if (n < MIN_WORKERS)
		n = MIN_WORKERS;
	n = (unsigned)min_u64(n, MAX_WORKERS - MAX_WORKERS / KEPT_OF);
	p->nfast = n;
	if (p->src->ops->fetch)
		n += (n + KEPT_OF - 1) / KEPT_OF;
	/* A thread that finds no memory later could only end. */
	p->scratch = calloc(n + 2, PSRC_WINDOW);
	if (!p->scratch)
		return ENOMEM;
	for (unsigned i = 0; !r && i <= n; i++) {
		r = pthread_create(&p->worker[i], NULL,
			i ? worker_main : slow_worker_main, p);
		if (!r)
			p->nworkers++;
	}
	return r;
}

uint8_t *scratch_take(struct pager *p)
{
	unsigned i = __atomic_fetch_add(&p->nscratch, 1, __ATOMIC_RELAXED);

	return p->scratch + (size_t)i * PSRC_WINDOW;
}

int pager_start(struct pager *p, struct err *e)
{
	int r = start_workers(p);

	if (!r) {
		r = pthread_create(&p->fault_thread, NULL, fault_main, p);
		p->fault_runs = !r;
	}
	/* A recording is of what is asked for, and of nothing else. */
	if (!r && !p->o.record) {
		r = pthread_create(&p->ahead_thread, NULL, ahead_main, p);
		p->ahead_runs = !r;
	}
	return r ? err_sys(e, -r, "starting the pager's threads") : 0;
}

static void stop_threads(struct pager *p)
{
	(void)pthread_mutex_lock(&p->lock);
	p->stop = true;
	pthread_cond_broadcast(&p->work);
	pthread_cond_broadcast(&p->slow);
	pthread_cond_broadcast(&p->ahead);
	(void)pthread_mutex_unlock(&p->lock);
	if (p->src->ops->cancel)
		p->src->ops->cancel(p->src);
	if (p->kick >= 0)
		kick_fault(p);
	if (p->fault_runs)
		(void)pthread_join(p->fault_thread, NULL);
	if (p->ahead_runs)
		(void)pthread_join(p->ahead_thread, NULL);
	for (unsigned i = 0; i < p->nworkers; i++)
		(void)pthread_join(p->worker[i], NULL);
}

/* ---- the end ---- */

static void free_waiters(struct waiter *w)
{
	while (w) {
		struct waiter *next = w->next;

		client_put_locked(w->c);
		free(w);
		w = next;
	}
}

static void free_lists(struct pager *p)
{
	struct pager_event ev;

	for (unsigned i = 0; i < DEMAND_JOBS; i++)
		free_waiters(p->demand[i].waiters);
	for (unsigned i = 0; i < AHEAD_JOBS; i++)
		free_waiters(p->run[i].waiters);
	free_waiters(p->backlog);
	free_waiters(p->parked);
	while (p->clients) {
		struct client *c = p->clients;

		p->clients = c->next;
		client_put_locked(c);
	}
	if (p->direct)
		client_put_locked(p->direct);
	while (p->bad) {
		struct bad_window *b = p->bad;

		p->bad = b->next;
		free(b);
	}
	while (pager_next_event(p, &ev))
		;
}

static void free_tables(struct pager *p)
{
	for (uint64_t w = 0; p->win && p->o.record && w < p->nwindows; w++) {
		if (p->win[w].state == WIN_PRESENT)
			free(p->win[w].held);
	}
	for (unsigned i = 0; i < DEMAND_JOBS + AHEAD_JOBS; i++) {
		struct job *j = i < DEMAND_JOBS ? &p->demand[i]
						: &p->run[i - DEMAND_JOBS];

		free(j->stored);
		free(j->win);
	}
	if (p->win)
		(void)munmap(p->win, p->nwindows * sizeof(*p->win));
	if (p->stats)
		(void)munmap(p->stats, p->stats_len);
	free(p->recorded);
	free(p->scratch);
}

static void close_one(int fd)
{
	if (fd >= 0)
		(void)close(fd);
}

void pager_destroy(struct pager *p)
{
	if (!p)
		return;
	stop_threads(p);
	/* Reads in flight write into the jobs' memory: the rings go first. */
	ring_close(&p->fault_ring);
	ring_close(&p->ahead_ring);
	free_lists(p);
	free_tables(p);
	if (p->map)
		(void)munmap(p->map, p->size);
	close_one(p->own);
	close_one(p->base);
	close_one(p->event);
	close_one(p->kick);
	close_one(p->epoll);
	ws_fini(&p->set);
	(void)pthread_cond_destroy(&p->work);
	(void)pthread_cond_destroy(&p->slow);
	(void)pthread_cond_destroy(&p->ahead);
	(void)pthread_mutex_destroy(&p->lock);
	free(p);
}

/* ---- for the owner ---- */

int pager_base(const struct pager *p)
{
	return p->base;
}

int pager_event_fd(const struct pager *p)
{
	return p->event;
}

void post_event(struct pager *p, enum pager_event_type type, uint64_t id,
	const struct err *e)
{
	struct event_node *n = calloc(1, sizeof(*n));
	uint64_t one = 1;

	if (!n)
		return;
	n->ev.type = type;
	n->ev.id = id;
	if (e)
		n->ev.e = *e;
	(void)pthread_mutex_lock(&p->lock);
	*p->events_tail = n;
	p->events_tail = &n->next;
	(void)pthread_mutex_unlock(&p->lock);
	(void)!write(p->event, &one, sizeof(one));
}

bool pager_next_event(struct pager *p, struct pager_event *ev)
{
	struct event_node *n;
	uint64_t count;

	(void)pthread_mutex_lock(&p->lock);
	n = p->events;
	if (n) {
		p->events = n->next;
		if (!p->events)
			p->events_tail = &p->events;
	} else if (p->event >= 0) {
		(void)!read(p->event, &count, sizeof(count));
	}
	(void)pthread_mutex_unlock(&p->lock);
	if (!n)
		return false;
	*ev = n->ev;
	free(n);
	return true;
}

static struct client *client_create(
	struct pager *p, uint64_t id, int fd, uint64_t addr, uint32_t slot)
{
	struct client *c = calloc(1, sizeof(*c));

	if (!c)
		return NULL;
	*c = (struct client){.id = id, .addr = addr, .fd = fd, .refs = 1};
	if (pthread_mutex_init(&c->memory, NULL)) {
		free(c);
		return NULL;
	}
	if (p->o.stats_fd >= 0 && slot < PAGER_STATS_NSLOTS) {
		c->stats = (void *)((uint8_t *)p->stats + PAGER_STATS_SLOTS +
				    slot * sizeof(*c->stats));
		memset(c->stats, 0, sizeof(*c->stats));
	}
	return c;
}

int pager_attach(struct pager *p, uint64_t id, int fd, uint64_t addr,
	uint32_t slot, struct err *e)
{
	struct epoll_event ev = {.events = EPOLLIN};
	struct client *c = client_create(p, id, fd, addr, slot);
	bool complete;
	int r = 0;

	if (!c) {
		(void)close(fd);
		return err_set(e, -ENOMEM, "no memory for a machine");
	}
	ev.data.ptr = c;
	(void)pthread_mutex_lock(&p->lock);
	complete = p->complete;
	if (p->o.direct && p->direct)
		r = -EBUSY;
	if (!r && complete)
		(void)!uffd_unregister(fd, addr, p->size);
	if (!r && epoll_ctl(p->epoll, EPOLL_CTL_ADD, fd, &ev))
		r = -errno;
	if (!r) {
		c->next = p->clients;
		p->clients = c;
	}
	if (!r && p->o.direct) {
		p->direct = c;
		c->refs++;
	}
	if (r)
		client_put_locked(c);
	/* Only now is there somebody to bring pages to. */
	pthread_cond_broadcast(&p->ahead);
	(void)pthread_mutex_unlock(&p->lock);
	return r ? err_sys(e, r, "watching a machine's memory") : 0;
}

void pager_detach(struct pager *p, uint64_t id)
{
	(void)pthread_mutex_lock(&p->lock);
	for (struct client *c = p->clients; c; c = c->next) {
		if (c->id == id)
			c->gone = true;
	}
	(void)pthread_mutex_unlock(&p->lock);
	kick_fault(p);
}

int pager_use_set(struct pager *p, const struct ws *set, struct err *e)
{
	int r = ws_init(&p->set, set->pages, set->uuid, set->digest, e);

	if (r)
		return r;
	if (set->pages != p->size / PAGE_SIZE_4K) {
		ws_fini(&p->set);
		return err_set(e, -EBADMSG,
			"the working set is of another memory size");
	}
	memcpy(p->set.bits, set->bits, (set->pages + 63) / 64 * 8);
	p->set.set = set->set;
	p->stats->set_pages = set->set;
	return 0;
}

void pager_fill(struct pager *p)
{
	(void)pthread_mutex_lock(&p->lock);
	p->filling = true;
	pthread_cond_broadcast(&p->ahead);
	(void)pthread_mutex_unlock(&p->lock);
}

void pager_ping(struct pager *p)
{
	(void)pthread_mutex_lock(&p->lock);
	p->pinged = true;
	(void)pthread_mutex_unlock(&p->lock);
	kick_fault(p);
}

void pager_recorded(struct pager *p, struct ws *into)
{
	for (uint64_t i = 0; p->recorded && i < p->size / PAGE_SIZE_4K; i++) {
		uint64_t word =
			__atomic_load_n(&p->recorded[i / 64], __ATOMIC_RELAXED);

		if (word >> (i % 64) & 1)
			ws_add(into, i);
	}
}

void pager_get_stats(const struct pager *p, struct pager_stats *out)
{
	const uint64_t *from = (const void *)p->stats;
	uint64_t *to = (void *)out;

	for (size_t i = 0; i < sizeof(*out) / sizeof(*to); i++)
		to[i] = __atomic_load_n(&from[i], __ATOMIC_RELAXED);
}
