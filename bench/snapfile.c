#include "bench/snapfile.h"
#include "core/machine.h"
#include "core/vcpu.h"
#include "snapshot/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>

#define DD_BLOCK       (1 * MIB)
#define CHAIN          16
#define CHAIN_MEM      (256 * MIB)
#define PAGES_OF(size) ((size) / PAGE_SIZE_4K)

static double us_since(uint64_t start)
{
	return (double)(now_ns() - start) / 1000;
}

static int fail(struct bench *b, const char *what, const struct err *e)
{
	return cli_fail(b->c, EXIT_FAILED, "%s: %s", what, e->msg);
}

/* Count one that worked. */
static int count(struct bench *b, struct result *r, double v)
{
	r->n++;
	if (series_add(&r->us, v))
		return cli_fail(b->c, EXIT_FAILED, "out of memory");
	r->ok++;
	return EXIT_DONE;
}

static int new_file(struct bench *b, const char *name, char path[128])
{
	(void)snprintf(path, 128, "%s/%s", b->dir, name);
	return open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
}

double bench_dd(struct bench *b, uint64_t len)
{
	char path[128];
	void *buf = aligned_alloc(PAGE_SIZE_4K, DD_BLOCK);
	int fd = new_file(b, "dd", path);
	uint64_t start, at = 0;
	double us;

	if (!buf || fd < 0) {
		free(buf);
		return -1;
	}
	memset(buf, 0x5a, DD_BLOCK);
	/* a file system that cannot is measured as it is */
	(void)fcntl(fd, F_SETFL, O_DIRECT);
	start = now_ns();
	for (; at < len; at += DD_BLOCK) {
		uint64_t n = min_u64(DD_BLOCK, len - at);

		if (pwrite_full(fd, buf, n, at))
			break;
	}
	us = fsync(fd) || at < len ? -1 : us_since(start);
	(void)close(fd);
	(void)unlink(path);
	free(buf);
	return us;
}

/* ---- a machine that is made up ---- */

static int make_machine(struct bench *b, struct machine *m, uint64_t memory)
{
	const struct machine_config cfg = {
		.memory = memory, .cpus = 1, .vsock_cid = 3, .builtin = 1};
	struct err e = {0};

	if (machine_init(m, &cfg, &e))
		return fail(b, "machine", &e);
	if (st_load(&vcpu_state_desc, m->cpu[0]->s, "\x81\xa1v\x01", 4, &e) ||
		mem_create(&m->mem, memory, MEM_PRIVATE, -1, &e)) {
		machine_destroy(m);
		return fail(b, "machine", &e);
	}
	return EXIT_DONE;
}

/* A page that compresses about as guests' pages do: every fourth word is
 * random. */
static void fill_page(struct machine *m, uint64_t page, uint64_t seed)
{
	uint64_t *p = (uint64_t *)(void *)(m->mem.map + page * PAGE_SIZE_4K);
	uint64_t x = (page + 1) * 0x9e3779b97f4a7c15ULL ^ seed;

	for (unsigned i = 0; i < PAGE_SIZE_4K / 8; i++) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		p[i] = i % 4 ? i : x;
	}
}

static void mark(uint64_t *bits, uint64_t page)
{
	bits[page / 64] |= 1ULL << page % 64;
}

/* ---- whole snapshots ---- */

struct restored {
	struct result *with, *without, *share;
};

static int write_raw_or_zstd(struct bench *b, struct machine *m, int fd,
	int level, struct snap_written *w)
{
	struct snap_write_opts o = {
		.zstd_level = level, .threads = SNAP_LOAD_THREADS};
	struct err e = {0};

	return snap_write(m, fd, &o, w, &e) ? fail(b, "snapshot", &e)
					    : EXIT_DONE;
}

/* All of its memory, from the disk. */
static int load_cold(
	struct bench *b, int fd, uint64_t memory, bool checked, double *us)
{
	struct snap *s = NULL;
	struct err e = {0};
	struct mem mem;
	uint64_t start;
	int rc;

	(void)posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
	if (mem_create(&mem, memory, MEM_PRIVATE, -1, &e))
		return fail(b, "memory", &e);
	start = now_ns();
	rc = snap_open(fd, &s, &e);
	if (!rc && checked)
		rc = snap_load_memory(s, &mem, SNAP_LOAD_THREADS, &e);
	else if (!rc)
		rc = snap_load_unchecked(s, &mem, SNAP_LOAD_THREADS, &e);
	*us = us_since(start);
	snap_close(s);
	mem_destroy(&mem);
	return rc ? fail(b, "load", &e) : EXIT_DONE;
}

/* What the checksums of a restore cost: with them and without in turns. Of a
 * few the fastest of each, since a disk's own times differ by more than that.
 */
static int checksums(
	struct bench *b, int fd, uint64_t memory, struct restored *r)
{
	double best[2] = {INFINITY, INFINITY};
	int rc = EXIT_DONE;

	for (unsigned i = 0; i < 6 && !rc; i++) {
		unsigned checked = (i ^ i / 2) & 1;
		double us = 0;

		rc = load_cold(b, fd, memory, checked, &us);
		if (!rc)
			rc = count(b, checked ? r->with : r->without, us);
		best[checked] = us < best[checked] ? us : best[checked];
	}
	/* less than nothing is noise */
	return rc ? rc
		  : count(b, r->share,
			    best[1] > best[0]
				    ? 100 * (best[1] - best[0]) / best[1]
				    : 0);
}

static int full_once(struct bench *b, struct machine *m, struct result *raw,
	struct result *dd, struct result *verify, struct restored *restored)
{
	struct snap_written w;
	struct snap_verified v;
	struct err e = {0};
	char path[128];
	uint64_t start;
	int fd = new_file(b, "full", path), rc;

	if (fd < 0)
		return cli_fail(
			b->c, EXIT_FAILED, "%s: %s", path, strerror(errno));
	start = now_ns();
	rc = write_raw_or_zstd(b, m, fd, 0, &w);
	if (!rc)
		rc = count(b, raw, us_since(start));
	if (!rc)
		rc = count(b, dd, bench_dd(b, w.file_bytes));
	if (!rc)
		rc = checksums(b, fd, m->mem.size, restored);
	/* the second time from the page cache */
	for (unsigned i = 0; i < 2 && !rc; i++) {
		start = now_ns();
		if (snap_verify_fd(fd, &v, NULL, NULL, &e))
			rc = fail(b, "verify", &e);
	}
	if (!rc)
		rc = count(b, verify,
			(double)w.file_bytes / 1000 / us_since(start));
	(void)close(fd);
	return rc;
}

static int zstd_once(struct bench *b, struct machine *m, struct result *r)
{
	int fd = memfd_create("sink", MFD_CLOEXEC), rc;
	struct snap_written w;
	uint64_t start = now_ns();

	if (fd < 0)
		return cli_fail(
			b->c, EXIT_FAILED, "memfd: %s", strerror(errno));
	rc = write_raw_or_zstd(b, m, fd, 1, &w);
	if (!rc)
		rc = count(b, r, us_since(start));
	(void)snprintf(r->note, sizeof(r->note),
		"1 GiB guest, half its pages not zero, to memory; %llu MiB",
		(unsigned long long)(w.file_bytes / MIB));
	(void)close(fd);
	return rc;
}

static int memcpy_once(struct bench *b, struct machine *m, struct result *r)
{
	uint64_t n = m->mem.size / 2, start;
	void *to = mmap(NULL, n, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

	if (to == MAP_FAILED)
		return cli_fail(b->c, EXIT_FAILED, "out of memory");
	start = now_ns();
	memcpy(to, m->mem.map, n);
	/* what is copied is used */
	__asm__ volatile("" : : "r"(to) : "memory");
	(void)count(b, r, us_since(start));
	(void)munmap(to, n);
	return EXIT_DONE;
}

static int bench_full(struct bench *b)
{
	struct result *raw = bench_result(b, "full_raw");
	struct result *dd = bench_result(b, "full_raw_dd");
	struct result *zstd = bench_result(b, "full_zstd1");
	struct result *copy = bench_result(b, "memcpy_512m");
	struct result *verify = bench_result(b, "verify_rate");
	struct restored restored = {
		.with = bench_result(b, "restore_raw"),
		.without = bench_result(b, "restore_raw_unchecked"),
		.share = bench_result(b, "restore_checksum_share"),
	};
	uint64_t n = b->o->n ? b->o->n : 5;
	struct machine *m = calloc(1, sizeof(*m));
	int rc = m ? make_machine(b, m, GIB) : EXIT_FAILED;

	if (rc) {
		free(m);
		return rc;
	}
	for (uint64_t p = 0; p < PAGES_OF(GIB); p += 2)
		fill_page(m, p, 1);
	verify->unit = "GB/s";
	restored.share->unit = "%";
	for (uint64_t i = 0; i < n && !rc; i++) {
		bench_progress(b, "full", i, n);
		rc = full_once(b, m, raw, dd, verify, &restored);
		if (!rc)
			rc = zstd_once(b, m, zstd);
		if (!rc)
			rc = memcpy_once(b, m, copy);
	}
	bench_progress(b, "full", n, n);
	(void)snprintf(raw->note, sizeof(raw->note),
		"1 GiB guest, half its pages not zero, written and synced");
	(void)snprintf(dd->note, sizeof(dd->note),
		"as many bytes, O_DIRECT where it can be had, 1 MiB blocks, "
		"fsync");
	(void)snprintf(verify->note, sizeof(verify->note),
		"that file, from the page cache");
	(void)snprintf(restored.with->note, sizeof(restored.with->note),
		"that file's memory, all of it, from the disk");
	(void)snprintf(restored.without->note, sizeof(restored.without->note),
		"the same, but chunks are not checked, in turns");
	(void)snprintf(restored.share->note, sizeof(restored.share->note),
		"what the checks are of the whole, by the fastest of three "
		"of each");
	machine_destroy(m);
	free(m);
	return rc;
}

/* ---- chains ---- */

struct chain {
	int fd[CHAIN + 1]; /* newest first */
	unsigned n;
};

static int add_file(struct bench *b, struct machine *m, struct chain *c,
	const struct snap_write_opts *o, struct snap_written *w)
{
	struct err e = {0};
	int fd = memfd_create("chain", MFD_CLOEXEC);

	if (fd < 0)
		return cli_fail(
			b->c, EXIT_FAILED, "memfd: %s", strerror(errno));
	memmove(&c->fd[1], &c->fd[0], c->n * sizeof(c->fd[0]));
	c->fd[0] = fd;
	c->n++;
	return snap_write(m, fd, o, w, &e) ? fail(b, "snapshot", &e)
					   : EXIT_DONE;
}

/* A full snapshot and `depth` diffs, which change a quarter of all pages
 * together: interleaved, each its part. */
static int make_chain(struct bench *b, struct chain *c, unsigned depth)
{
	AUTO_FREE uint64_t *bits = calloc(PAGES_OF(CHAIN_MEM) / 64, 8);
	struct machine *m = calloc(1, sizeof(*m));
	struct snap_write_opts o = {.threads = SNAP_LOAD_THREADS};
	struct snap_parent parent = {.path = ""};
	struct snap_written w;
	int rc = m && bits ? make_machine(b, m, CHAIN_MEM) : EXIT_FAILED;

	if (rc) {
		free(m);
		return rc;
	}
	for (uint64_t p = 0; p < PAGES_OF(CHAIN_MEM); p += 2)
		fill_page(m, p, 1);
	rc = add_file(b, m, c, &o, &w);
	for (unsigned i = 0; i < depth && !rc; i++) {
		memset(bits, 0, PAGES_OF(CHAIN_MEM) / 8);
		for (uint64_t p = 4 * i; p < PAGES_OF(CHAIN_MEM);
			p += 4ULL * depth) {
			fill_page(m, p, 2);
			mark(bits, p);
		}
		parent.uuid = w.uuid;
		memcpy(parent.digest, w.digest, sizeof(w.digest));
		o.parent = &parent;
		o.pages = bits;
		rc = add_file(b, m, c, &o, &w);
	}
	machine_destroy(m);
	free(m);
	return rc;
}

static int load_chain(struct bench *b, const struct chain *c, double *us)
{
	struct snap *s[CHAIN + 1];
	uint64_t start = now_ns();
	struct err e = {0};
	struct mem mem;
	int rc;

	if (snap_open_chain(c->fd, c->n, s, &e))
		return fail(b, "chain", &e);
	if (mem_create(&mem, CHAIN_MEM, MEM_PRIVATE, -1, &e)) {
		snap_close_chain(s, c->n);
		return fail(b, "memory", &e);
	}
	rc = snap_load_memory(s[0], &mem, SNAP_LOAD_THREADS, &e);
	*us = us_since(start);
	mem_destroy(&mem);
	snap_close_chain(s, c->n);
	return rc ? fail(b, "chain", &e) : EXIT_DONE;
}

static int bench_chain(struct bench *b)
{
	struct result *r = bench_result(b, "chain_16_vs_1");
	uint64_t n = b->o->n ? b->o->n : 9;
	struct chain one = {.n = 0}, many = {.n = 0};
	int rc = make_chain(b, &one, 1);

	r->unit = "ratio";
	if (!rc)
		rc = make_chain(b, &many, CHAIN);
	for (uint64_t i = 0; i < n && !rc; i++) {
		double u1 = 1, u16 = 0;

		bench_progress(b, r->name, i, n);
		rc = load_chain(b, &one, &u1);
		if (!rc)
			rc = load_chain(b, &many, &u16);
		if (!rc)
			rc = count(b, r, u16 / u1);
	}
	bench_progress(b, r->name, n, n);
	(void)snprintf(r->note, sizeof(r->note),
		"reading 256 MiB of memory through 16 diffs against through "
		"one, the same pages in all");
	for (unsigned i = 0; i < one.n; i++)
		(void)close(one.fd[i]);
	for (unsigned i = 0; i < many.n; i++)
		(void)close(many.fd[i]);
	return rc;
}

/* ---- inspect ---- */

static int run_inspect(struct bench *b, const char *path, double *us)
{
	uint64_t start = now_ns();
	pid_t pid = fork();
	int status;

	if (pid == 0) {
		int null = open("/dev/null", O_WRONLY | O_CLOEXEC);

		(void)dup2(null, STDOUT_FILENO);
		(void)execl("/proc/self/exe", "thaw", "inspect", path,
			(char *)NULL);
		_exit(127);
	}
	if (pid < 0 || waitpid(pid, &status, 0) < 0)
		return cli_fail(b->c, EXIT_FAILED, "fork: %s", strerror(errno));
	*us = us_since(start);
	return status ? cli_fail(b->c, EXIT_FAILED, "thaw inspect failed")
		      : EXIT_DONE;
}

/* Every leaf of its index is there: one page in each chunk of 64 KiB. */
static int write_8g(struct bench *b, char path[128])
{
	AUTO_FREE uint64_t *bits = calloc(PAGES_OF(8 * GIB) / 64, 8);
	struct machine *m = calloc(1, sizeof(*m));
	struct snap_write_opts o = {
		.pages = bits, .zstd_level = 1, .threads = SNAP_LOAD_THREADS};
	struct snap_written w;
	struct err e = {0};
	int fd = -1, rc = m && bits ? make_machine(b, m, 8 * GIB) : EXIT_FAILED;

	if (rc) {
		free(m);
		return rc;
	}
	for (uint64_t p = 0; p < PAGES_OF(8 * GIB); p += 16) {
		fill_page(m, p, 3);
		mark(bits, p);
	}
	fd = new_file(b, "8g", path);
	if (fd < 0 || snap_write(m, fd, &o, &w, &e))
		rc = fail(b, path, &e);
	if (fd >= 0)
		(void)close(fd);
	machine_destroy(m);
	free(m);
	return rc;
}

static int bench_inspect(struct bench *b)
{
	struct result *r = bench_result(b, "inspect_8g");
	uint64_t n = b->o->n ? b->o->n : 20;
	char path[128];
	int rc = write_8g(b, path);

	for (uint64_t i = 0; i < n && !rc; i++) {
		double us = 0;

		rc = run_inspect(b, path, &us);
		if (!rc)
			rc = count(b, r, us);
	}
	(void)snprintf(r->note, sizeof(r->note),
		"thaw inspect, start to end, of an 8 GiB guest with a page in "
		"each 64 KiB");
	(void)unlink(path);
	return rc;
}

int bench_snapfile(struct bench *b)
{
	int rc = bench_full(b);

	if (!rc)
		rc = bench_chain(b);
	return rc ? rc : bench_inspect(b);
}
