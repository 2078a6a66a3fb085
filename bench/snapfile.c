#include "bench/snapfile.h"
#include "core/machine.h"
#include "core/vcpu.h"
#include "snapshot/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>

#define DD_BLOCK       (1 * MIB)
#define CHAIN          16
#define CHAIN_MEM      (256 * MIB)
#define PAGES_OF(size) ((size) / PAGE_SIZE_4K)

static int fail(struct bench *b, const char *what, const struct err *e)
{
	return cli_fail(b->c, EXIT_FAILED, "%s: %s", what, e->msg);
}

int bench_count(struct bench *b, struct result *r, double v)
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
	us = fsync(fd) || at < len ? -1 : bench_us_since(start);
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

void bench_fill_page(struct mem *mem, uint64_t page, uint64_t seed)
{
	uint64_t *p = (uint64_t *)(void *)(mem->map + page * PAGE_SIZE_4K);
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
		bench_fill_page(&m->mem, p, 1);
	rc = add_file(b, m, c, &o, &w);
	for (unsigned i = 0; i < depth && !rc; i++) {
		memset(bits, 0, PAGES_OF(CHAIN_MEM) / 8);
		for (uint64_t p = 4 * i; p < PAGES_OF(CHAIN_MEM);
			p += 4ULL * depth) {
			bench_fill_page(&m->mem, p, 2);
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
	*us = bench_us_since(start);
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
			rc = bench_count(b, r, u16 / u1);
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
	*us = bench_us_since(start);
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
		bench_fill_page(&m->mem, p, 3);
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
			rc = bench_count(b, r, us);
	}
	(void)snprintf(r->note, sizeof(r->note),
		"thaw inspect, start to end, of an 8 GiB guest with a page in "
		"each 64 KiB");
	(void)unlink(path);
	return rc;
}

int bench_snapfile(struct bench *b)
{
	int rc = bench_chain(b);

	return rc ? rc : bench_inspect(b);
}
