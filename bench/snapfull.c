/* Whole snapshots: of a machine, as a user makes them, and reading them. */
#include "bench/snapfile.h"
#include "core/machine.h"
#include "snapshot/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#define MEMORY GIB
/* Below this is the guest itself. */
#define FIRST_PAGE (32 * MIB / PAGE_SIZE_4K)

static int fail(struct bench *b, const char *what, const struct err *e)
{
	return cli_fail(b->c, EXIT_FAILED, "%s: %s", what, e->msg);
}

/* ---- a machine with half of its pages not zero ---- */

/* Every second page; at the beginning all, for those of the guest. */
static void fill(struct mem *mem)
{
	for (uint64_t p = FIRST_PAGE; p < MEMORY / PAGE_SIZE_4K; p++) {
		if (p % 2 && p >= 2 * FIRST_PAGE)
			continue;
		if (snap_is_zero(mem->map + p * PAGE_SIZE_4K, PAGE_SIZE_4K))
			bench_fill_page(mem, p, 1);
	}
}

static int load(struct snap *s, struct machine *m, struct err *e)
{
	struct machine_config cfg = {0};
	int rc = snap_read_config(s, &cfg, e);

	if (!rc)
		rc = machine_init(m, &cfg, e);
	if (rc)
		return rc;
	rc = snap_load_state(s, m, e);
	if (!rc)
		rc = mem_create(&m->mem, cfg.memory, MEM_PRIVATE, -1, e);
	if (!rc)
		rc = snap_load_memory(s, &m->mem, SNAP_LOAD_THREADS, e);
	if (rc)
		machine_destroy(m);
	return rc;
}

/* The snapshot of a guest that has done nothing, and one with more memory. */
static int fill_snapshot(int from, int to, struct err *e)
{
	const struct snap_write_opts o = {.threads = SNAP_LOAD_THREADS};
	AUTO_FREE struct machine *m = calloc(1, sizeof(*m));
	struct snap *s = NULL;
	struct snap_written w;
	int rc;

	if (!m)
		return err_set(e, -ENOMEM, "no memory");
	rc = snap_open(from, &s, e);
	if (!rc)
		rc = load(s, m, e);
	snap_close(s);
	if (rc)
		return rc;
	fill(&m->mem);
	rc = snap_write(m, to, &o, &w, e);
	machine_destroy(m);
	return rc;
}

static int restore(struct bench *b, const char *path, char id[64])
{
	msgpack_packer *p = thaw_request(b->t, "machine.create", 2);
	struct thaw_result res;
	struct thaw_error e;
	int rc;

	mp_key_str(p, "snapshot", path);
	mp_key_str(p, "ready", "agent");
	if (thaw_call(b->t, -1, &res, &e))
		return bench_error(b, &e);
	rc = thaw_get_str(res.value, "id", id, 64);
	thaw_result_free(&res);
	return rc ? cli_fail(b->c, EXIT_FAILED, "an answer without an id")
		  : EXIT_DONE;
}

static int make_machine(struct bench *b, char id[64])
{
	struct shot s = {.number = 0};
	struct err e = {0};
	char half[128];
	int rc = bench_machine(b, MEMORY, id), from, to;

	if (!rc)
		rc = bench_shoot(b, id, "full", false, &s, NULL);
	if (!rc)
		rc = bench_machine_stop(b, id);
	if (rc)
		return rc;
	(void)snprintf(half, sizeof(half), "%s/half.thaw", b->dir);
	from = open(s.path, O_RDONLY | O_CLOEXEC);
	to = open(half, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (from < 0 || to < 0)
		rc = cli_fail(
			b->c, EXIT_FAILED, "%s: %s", half, strerror(errno));
	else if (fill_snapshot(from, to, &e))
		rc = fail(b, half, &e);
	if (from >= 0)
		(void)close(from);
	if (to >= 0)
		(void)close(to);
	if (!rc)
		rc = restore(b, half, id);
	(void)unlink(half);
	(void)unlink(s.path);
	return rc;
}

/* ---- writing and reading ---- */

struct whole {
	struct result *raw, *dd, *zstd, *copy, *verify;
	struct result *with, *without, *share;
};

/* All of its memory, from the disk. */
static int load_cold(struct bench *b, int fd, bool checked, double *us)
{
	struct snap *s = NULL;
	struct err e = {0};
	struct mem mem;
	uint64_t start;
	int rc;

	(void)posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
	if (mem_create(&mem, MEMORY, MEM_PRIVATE, -1, &e))
		return fail(b, "memory", &e);
	start = now_ns();
	rc = snap_open(fd, &s, &e);
	if (!rc && checked)
		rc = snap_load_memory(s, &mem, SNAP_LOAD_THREADS, &e);
	else if (!rc)
		rc = snap_load_unchecked(s, &mem, SNAP_LOAD_THREADS, &e);
	*us = bench_us_since(start);
	snap_close(s);
	mem_destroy(&mem);
	return rc ? fail(b, "load", &e) : EXIT_DONE;
}

/* With checksums and without, in turns. */
static int read_cold(struct bench *b, int fd, struct whole *r)
{
	int rc = EXIT_DONE;

	for (unsigned i = 0; i < 6 && !rc; i++) {
		unsigned checked = (i ^ i / 2) & 1;
		double us = 0;

		rc = load_cold(b, fd, checked, &us);
		if (!rc)
			rc = bench_count(b, checked ? r->with : r->without, us);
	}
	return rc;
}

/* The second time it comes from the page cache. */
static int verify(struct bench *b, int fd, uint64_t bytes, struct result *r)
{
	struct snap_verified v;
	struct err e = {0};
	uint64_t start = 0;

	for (unsigned i = 0; i < 2; i++) {
		start = now_ns();
		if (snap_verify_fd(fd, &v, NULL, NULL, &e))
			return fail(b, "verify", &e);
	}
	return bench_count(b, r, (double)bytes / 1000 / bench_us_since(start));
}

/* To a file that is not there yet, in microseconds of the caller's. */
static int shoot(
	struct bench *b, const char *id, struct shot *s, struct result *r)
{
	uint64_t start = now_ns();
	int rc = bench_shoot(b, id, "full", false, s, NULL);

	return rc ? rc : bench_count(b, r, bench_us_since(start));
}

static int raw_once(struct bench *b, const char *id, struct whole *r)
{
	struct shot s = {.number = 1};
	int rc = shoot(b, id, &s, r->raw), fd;

	if (!rc)
		rc = bench_count(b, r->dd, bench_dd(b, s.bytes));
	if (rc)
		return rc;
	fd = open(s.path, O_RDONLY | O_CLOEXEC);
	(void)unlink(s.path);
	if (fd < 0)
		return cli_fail(
			b->c, EXIT_FAILED, "%s: %s", s.path, strerror(errno));
	rc = read_cold(b, fd, r);
	if (!rc)
		rc = verify(b, fd, s.bytes, r->verify);
	(void)close(fd);
	return rc;
}

static int zstd_once(struct bench *b, const char *id, struct whole *r)
{
	static const char shm[] = "/dev/shm/thaw-bench-XXXXXX";
	char dir[sizeof(shm)];
	struct shot s = {.number = 2, .level = 1};
	bool memory;
	int rc;

	memcpy(dir, shm, sizeof(shm));
	memory = mkdtemp(dir);
	s.dir = memory ? dir : NULL;
	rc = shoot(b, id, &s, r->zstd);
	(void)unlink(s.path);
	if (memory)
		(void)rmdir(dir);
	(void)snprintf(r->zstd->note, sizeof(r->zstd->note),
		"1 GiB guest, half its pages not zero, by machine.snapshot to "
		"%s; %llu MiB",
		memory ? "memory" : "a disk",
		(unsigned long long)(s.bytes / MIB));
	return rc;
}

static int memcpy_once(struct bench *b, struct result *r)
{
	uint64_t n = MEMORY / 2, start;
	uint8_t *p = mmap(NULL, 2 * n, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

	if (p == MAP_FAILED)
		return cli_fail(b->c, EXIT_FAILED, "out of memory");
	memset(p, 1, n);
	start = now_ns();
	memcpy(p + n, p, n);
	/* what is copied is used */
	__asm__ volatile("" : : "r"(p) : "memory");
	(void)bench_count(b, r, bench_us_since(start));
	(void)munmap(p, 2 * n);
	return EXIT_DONE;
}

static int share(struct bench *b, struct whole *r)
{
	double with = series_quantile(&r->with->us, 0.5);
	double without = series_quantile(&r->without->us, 0.5);

	/* less than nothing is noise */
	return bench_count(b, r->share,
		with > without ? 100 * (with - without) / with : 0);
}

static void describe(struct whole *r)
{
	(void)snprintf(r->raw->note, sizeof(r->raw->note),
		"1 GiB guest, half its pages not zero, by machine.snapshot, "
		"written and synced");
	(void)snprintf(r->dd->note, sizeof(r->dd->note),
		"as many bytes, O_DIRECT where it can be had, 1 MiB blocks, "
		"fsync");
	(void)snprintf(r->verify->note, sizeof(r->verify->note),
		"that file, from the page cache");
	(void)snprintf(r->with->note, sizeof(r->with->note),
		"that file's memory, all of it, from the disk");
	(void)snprintf(r->without->note, sizeof(r->without->note),
		"the same, but chunks are not checked, in turns");
	(void)snprintf(r->share->note, sizeof(r->share->note),
		"what the checks are of the whole: the difference of the two "
		"medians; 0 where noise hides it");
}

int bench_full(struct bench *b)
{
	struct whole r = {
		.raw = bench_result(b, "full_raw"),
		.dd = bench_result(b, "full_raw_dd"),
		.zstd = bench_result(b, "full_zstd1"),
		.copy = bench_result(b, "memcpy_512m"),
		.verify = bench_result(b, "verify_rate"),
		.with = bench_result(b, "restore_raw"),
		.without = bench_result(b, "restore_raw_unchecked"),
		.share = bench_result(b, "restore_checksum_share"),
	};
	uint64_t n = b->o->n ? b->o->n : 5;
	char id[64];
	int rc = make_machine(b, id);

	if (rc)
		return rc;
	r.verify->unit = "GB/s";
	r.share->unit = "%";
	for (uint64_t i = 0; i < n && !rc; i++) {
		bench_progress(b, "full", i, n);
		rc = raw_once(b, id, &r);
		if (!rc)
			rc = zstd_once(b, id, &r);
		if (!rc)
			rc = memcpy_once(b, r.copy);
	}
	if (!rc)
		rc = share(b, &r);
	bench_progress(b, "full", n, n);
	describe(&r);
	return rc ? rc : bench_machine_stop(b, id);
}
