/* What a fault costs: the pager of uffd/ on a snapshot, without a machine. */
#include "bench/bench.h"

#include "snapshot/source.h"
#include "uffd/pager.h"
#include "uffd/uffd.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>

#define MAX_THREADS 4
#define FIRST_MIB   32  /* from here on there is content in all windows */
#define SPAN_MIB    128 /* looked at in each round */

struct rig {
	int file;
	struct snap *snap;
	struct psrc *src;
	struct uffd_host host;
	struct pager *p;
	struct mem m;
};

/* A share of the windows, one page or all pages of each. */
struct walker {
	pthread_t thread;
	const struct mem *m;
	unsigned first, step;
	bool whole;
	uint64_t sum; /* so that the reads are not left out */
};

/* Single faults come in no order, or read-ahead would answer most of them. */
static uint64_t scattered(uint64_t i)
{
	return i * 1229 % (SPAN_MIB * MIB / PSRC_WINDOW); /* a prime */
}

static void *walk(void *arg)
{
	struct walker *w = arg;
	const uint64_t windows = SPAN_MIB * MIB / PSRC_WINDOW;

	for (uint64_t i = w->first; i < windows; i += w->step) {
		const uint8_t *at = w->m->map + FIRST_MIB * MIB +
				    (w->whole ? i : scattered(i)) * PSRC_WINDOW;

		for (uint64_t k = 0; k < (w->whole ? PSRC_WINDOW : 1);
			k += PAGE_SIZE_4K)
			w->sum += *(const volatile uint8_t *)(at + k);
	}
	return NULL;
}

static void rig_close(struct rig *r)
{
	mem_destroy(&r->m);
	pager_destroy(r->p);
	if (r->src)
		r->src->ops->close(r->src);
	snap_close(r->snap);
	uffd_host_close(&r->host);
	if (r->file >= 0)
		(void)close(r->file);
}

static int rig_open(struct rig *r, const char *file, struct err *e)
{
	struct pager_opts o = {.host = &r->host, .stats_fd = -1};
	int rc;

	*r = (struct rig){.file = open(file, O_RDONLY | O_CLOEXEC),
		.host.dev = -1,
		.m = {.fd = -1, .uffd = -1}};
	if (r->file < 0)
		return err_sys(e, -errno, "%s", file);
	rc = uffd_host_open(&r->host, e);
	if (!rc)
		rc = snap_open(r->file, &r->snap, e);
	if (!rc)
		rc = snap_source(r->snap, &r->src, e);
	o.src = r->src;
	if (!rc)
		rc = pager_create(&o, &r->p, e);
	if (!rc)
		rc = pager_start(r->p, e);
	if (!rc)
		rc = mem_create(
			&r->m, r->src->size, MEM_LAZY, pager_base(r->p), e);
	if (!rc)
		rc = uffd_arm(&r->host, &r->m, e);
	if (!rc)
		rc = pager_attach(r->p, 1, fcntl(r->m.uffd, F_DUPFD_CLOEXEC, 0),
			(uintptr_t)r->m.map, 0, e);
	return rc;
}

/* Microseconds for all windows of the span; negative: an error in e. */
static double run(const char *file, unsigned threads, bool whole, struct err *e)
{
	struct walker w[MAX_THREADS] = {{0}};
	struct rig r;
	uint64_t start;
	double us = -1;
	unsigned started = 0;

	if (!rig_open(&r, file, e)) {
		start = now_ns();
		for (; started < threads; started++) {
			w[started] = (struct walker){.m = &r.m,
				.first = started,
				.step = threads,
				.whole = whole};
			if (pthread_create(&w[started].thread, NULL, walk,
				    &w[started]))
				break;
		}
		for (unsigned i = 0; i < started; i++)
			(void)pthread_join(w[i].thread, NULL);
		us = (double)(now_ns() - start) / 1000;
		if (started < threads)
			us = err_set(e, -EAGAIN, "cannot start a thread");
	}
	rig_close(&r);
	return us;
}

/* The same windows by pread(), which is what a fault adds to. */
static double read_alone(const char *file, uint64_t windows)
{
	AUTO_FD fd = open(file, O_RDONLY | O_CLOEXEC);
	AUTO_FREE uint8_t *buf = malloc(PSRC_WINDOW);
	uint64_t start = now_ns();

	for (uint64_t i = 0; buf && fd >= 0 && i < windows; i++)
		if (pread_full(fd, buf, PSRC_WINDOW,
			    FIRST_MIB * MIB + scattered(i) * PSRC_WINDOW))
			return 0;
	return (double)(now_ns() - start) / 1000;
}

int bench_faults(struct bench *b, const char *file)
{
	const uint64_t windows = SPAN_MIB * MIB / PSRC_WINDOW;
	struct result *one = bench_result(b, "fault_added");
	struct result *page = bench_result(b, "fault_page");
	struct result *four = bench_result(b, "vcpus_4_vs_1");
	uint64_t n = b->o->n ? b->o->n : 10;
	struct err e = {0};
	int bad = 0;

	four->unit = "%";
	for (uint64_t i = 0; i < n && !bad; i++) {
		double alone = read_alone(file, windows);
		double single = run(file, 1, false, &e);
		double whole = run(file, 1, true, &e);
		double many = run(file, MAX_THREADS, false, &e);

		if (single < 0 || whole < 0 || many < 0)
			return cli_fail(b->c, EXIT_HOST, "%s", e.msg);
		bad = series_add(&one->us,
			single > alone ? (single - alone) / (double)windows
				       : 0);
		bad |= series_add(
			&page->us, whole / (double)(windows * PSRC_PAGES));
		bad |= series_add(&four->us, 100 * single / many);
		one->n++;
		page->n++;
		four->n++;
	}
	one->ok = one->n;
	page->ok = page->n;
	four->ok = four->n;
	(void)snprintf(one->note, sizeof(one->note),
		"a fault on one page of each of %llu windows in no order, one "
		"at a time, file in memory, less a pread() of each window",
		(unsigned long long)windows);
	(void)snprintf(page->note, sizeof(page->note),
		"all pages of these windows in order, for each page");
	(void)snprintf(four->note, sizeof(four->note),
		"throughput of one fault a window, %d threads against 1",
		MAX_THREADS);
	return bad ? cli_fail(b->c, EXIT_FAILED, "out of memory") : EXIT_DONE;
}
