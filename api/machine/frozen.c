#include "api/machine/chain.h"

#include "core/pagemap.h"

#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <string.h>
#include <sys/stat.h>

/*
 * The process that holds a frozen machine: forked by freeze_fork(), under whose
 * rules everything here runs (core/freeze.c: no lock of the machine, _exit()).
 * It waits for one CTL_WRITE, writes, answers and is gone. The daemon
 * supervises it like any other process of ours; to cancel, it kills it. Nothing
 * that is written has a name before the daemon gives it one.
 *
 * Several threads pack, checksum and compress. They have the filters of the
 * machine's loop, like this thread, and so can make no ring: writes go by
 * snapshot/output.c's other ways.
 */

#define PROGRESS_NS 100000000ULL
#define MAX_THREADS 4
/* Beside a guest that runs: a third of the processor where both want it. */
#define LIVE_NICE 5

struct job {
	struct worker *w;
	const struct frozen *f;
	uint64_t said; /* now_ns() of the last CTL_PROGRESS */
};

static int progress(void *arg, uint64_t done, uint64_t total)
{
	struct ctl_msg m = {.type = CTL_PROGRESS};
	struct job *j = arg;
	uint64_t now = now_ns();
	int r;

	if (now - j->said < PROGRESS_NS)
		return 0;
	j->said = now;
	m.progress.done = done;
	m.progress.total = total;
	/* A daemon that is busy misses one; one that hung up wants no file. */
	r = ctl_send(j->w->ctl, &m, NULL, NULL, 0);
	return r && r != -EAGAIN;
}

static bool is_zero(const uint8_t *p)
{
	static const uint8_t zero[PAGE_SIZE_4K];

	return memcmp(p, zero, sizeof(zero)) == 0;
}

/* Every page that is not zero. */
static void copy_pages(
	const struct mem *from, const struct mem *to, const uint64_t *bits)
{
	for (uint64_t at = 0; at < from->size; at += PAGE_SIZE_4K) {
		uint64_t page = at / PAGE_SIZE_4K;

		if (!(bits[page / 64] >> page % 64 & 1))
			continue;
		if (!is_zero(from->map + at))
			memcpy(to->map + at, from->map + at, PAGE_SIZE_4K);
	}
}

/* The machine's memory as the base of a template: a copy, sealed. */
static int make_base(struct job *j, const uint64_t *bits, struct err *e)
{
	const struct mem *from = &j->w->m.mem;
	struct mem to;
	int r = mem_create(&to, from->size, MEM_BUILDER, -1, e);

	if (r)
		return r;
	copy_pages(from, &to, bits);
	return mem_seal_base(&to, e);
}

/* Bytes of memory that it really takes. */
static uint64_t file_size(int fd)
{
	struct stat st;

	return fstat(fd, &st) ? 0 : (uint64_t)st.st_blocks * 512;
}

/* The pages that are worth looking at: for a diff those that changed, for a
 * full snapshot those that may hold something. Owned. */
static uint64_t *pages_of(struct job *j, int pagemap, struct err *e)
{
	const struct mem *m = &j->w->m.mem;
	size_t size = m->size / PAGE_SIZE_4K / 8;
	uint64_t *bits = calloc(1, size);
	int r = 0;

	if (!bits) {
		err_set(e, -ENOMEM, "no memory for a snapshot");
		return NULL;
	}
	if (j->f->diff && j->f->against == CTL_AGAINST_LAST)
		memcpy(bits, j->f->taken, size);
	else if (j->f->diff && pagemap < 0)
		r = err_set(e, -EOPNOTSUPP,
			"a diff needs /proc/PID/pagemap of the machine");
	else if (j->f->diff)
		r = pagemap_private(m, pagemap, bits, e);
	else if (pagemap >= 0)
		r = pagemap_content(m, pagemap, bits, e);
	else
		memset(bits, 0xff, size);
	if (!r)
		return bits;
	free(bits);
	return NULL;
}

static uint64_t count_pages(const struct mem *m, const uint64_t *bits)
{
	uint64_t n = 0;

	for (uint64_t i = 0; i < m->size / PAGE_SIZE_4K / 64; i++)
		n += (uint64_t)__builtin_popcountll(bits[i]);
	return n;
}

/* Threads beside this one: one for each processor that we may use. */
static unsigned helpers(void)
{
	unsigned n = MAX_THREADS;
	cpu_set_t set;

	/* fails when there are more than the set has room for */
	if (!sched_getaffinity(0, sizeof(set), &set))
		n = (unsigned)CPU_COUNT(&set);
	return (n < MAX_THREADS ? n : MAX_THREADS) - 1;
}

static int write_file(struct job *j, const struct ctl_packet *p,
	const uint64_t *bits, struct ctl_written *out, struct err *e)
{
	struct snap_write_opts o = {.progress = progress, .arg = j};
	struct chain on = {.n = 0};
	struct snap_parent parent;
	struct snap_written w;
	uint64_t start = now_ns();
	int r;

	o.threads = helpers();
	o.zstd_level = (int)p->msg.write.zstd_level;
	if (j->w->m.mem.backing != MEM_BUILDER)
		o.pages = bits;
	if (j->f->diff) {
		const struct worker_parent *from =
			j->f->against == CTL_AGAINST_LAST ? &j->w->last
							  : &j->w->origin;

		parent.uuid = from->uuid;
		memcpy(parent.digest, from->digest, sizeof(parent.digest));
		parent.path = (const char *)p->payload;
		o.parent = &parent;
		chain_ancestors(
			j->w, &parent, count_pages(&j->w->m.mem, bits), &on);
		o.ancestors = on.n ? on.s[0] : NULL;
	}
	r = snap_write(&j->w->m, ctl_fd(p, CTL_FD_OUTPUT, 0), &o, &w, e);
	chain_close(&on);
	if (r)
		return r;
	out->uuid = w.uuid;
	memcpy(out->digest, w.digest, sizeof(out->digest));
	out->bytes = w.file_bytes;
	out->pages = w.pages_present;
	out->zero = w.pages_zero;
	out->write_us = (uint32_t)((now_ns() - start) / 1000);
	return 0;
}

static void serve(struct job *j, struct ctl_packet *p)
{
	AUTO_FREE uint64_t *bits = NULL;
	AUTO_FD base = -1;
	struct ctl_msg m = {0};
	struct err e = {0};
	uint64_t start = now_ns();
	int r = 0;

	if (p->msg.type != CTL_WRITE || ctl_fd(p, CTL_FD_OUTPUT, 0) < 0)
		r = err_set(&e, -EINVAL, "not a request for this process");
	if (!r) {
		bits = pages_of(j, ctl_fd(p, CTL_FD_PAGEMAP, 0), &e);
		r = bits ? 0 : e.code;
	}
	if (!r && p->msg.write.want_base) {
		base = make_base(j, bits, &e);
		r = base < 0 ? base : 0;
		m.written.base_bytes = base < 0 ? 0 : file_size(base);
		m.written.base_us = (uint32_t)((now_ns() - start) / 1000);
	}
	if (!r)
		r = write_file(j, p, bits, &m.written, &e);
	if (r)
		worker_reply_error(j->w, &p->msg, &e);
	else
		worker_reply(j->w, &p->msg, &m, NULL,
			&(struct ctl_fd){base, CTL_FD_BASE, 0}, base >= 0);
}

void frozen_run(struct worker *w, const struct frozen *f)
{
	struct pollfd pfd = {.fd = f->sock, .events = POLLIN};
	struct job j = {.w = w, .f = f};
	struct ctl_packet p;
	int r;

	w->ctl = f->sock;
	if (f->live)
		(void)!nice(LIVE_NICE);
	do {
		r = ctl_recv(w->ctl, &p, w->buf);
		if (r == -EAGAIN && poll(&pfd, 1, -1) < 0 && errno != EINTR)
			_exit(1);
	} while (r == -EAGAIN);
	if (r == 1)
		serve(&j, &p);
	_exit(r == 1 ? 0 : 1);
}
