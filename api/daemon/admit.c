#include "api/daemon/admit.h"

#include "core/log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

#define FRESH_NS 5000000ULL
/* A clone's processes, KVM objects and first private pages; and what KVM on a
 * software host keeps per page of guest memory: 10 bytes of 4096. */
#define CLONE_BYTES (2 * MIB)
#define SLOT_SHARE  400
/* A machine of its own: what a small guest touches. Larger ones grow slowly
 * and are seen in MemAvailable. */
#define MACHINE_BYTES (32 * MIB)
/* The most that each may need. Of a clone: control socket, pidfd, userfaultfd
 * and the directory of its vsock's socket; of another machine also a console,
 * and a pager with control socket, pidfd and counters. Of a template: zygote
 * and pager, its file, its base; and what it keeps of its disks. Then of a
 * client, and what the daemon needs besides. */
#define FDS_PER_CLONE    4
#define FDS_PER_MACHINE  8
#define FDS_PER_TEMPLATE 7
#define FDS_PER_DISK     2
#define FDS_PER_CLIENT   9
#define FDS_SPARE        128

int admit_init(struct daemon *d, struct err *e)
{
	struct rlimit lim;
	int fd;

	if (getrlimit(RLIMIT_NOFILE, &lim))
		return err_sys(e, -errno, "RLIMIT_NOFILE");
	lim.rlim_cur = lim.rlim_max;
	if (setrlimit(RLIMIT_NOFILE, &lim))
		return err_sys(e, -errno, "raising RLIMIT_NOFILE");
	d->adm.fd_limit = min_u64(lim.rlim_cur, 1024 * 1024);
	/* Growing the table later would wait for all readers (RCU). */
	fd = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC,
		(int)min_u64(d->adm.fd_limit - 1, 16384));
	if (fd >= 0)
		(void)close(fd);
	d->adm.meminfo_fd = open("/proc/meminfo", O_RDONLY | O_CLOEXEC);
	if (d->adm.meminfo_fd < 0)
		return err_sys(e, -errno, "/proc/meminfo");
	return 0;
}

void admit_fini(struct daemon *d)
{
	if (d->adm.meminfo_fd >= 0)
		(void)close(d->adm.meminfo_fd);
}

uint64_t admit_available(struct daemon *d)
{
	struct admission *a = &d->adm;
	uint64_t now = now_ns();
	char buf[1024], *at;
	ssize_t n;

	if (a->read_ns && now - a->read_ns < FRESH_NS)
		return a->available;
	n = pread(a->meminfo_fd, buf, sizeof(buf) - 1, 0);
	if (n <= 0)
		return a->available;
	buf[n] = 0;
	at = strstr(buf, "MemAvailable:");
	if (at)
		a->available = strtoull(at + 13, NULL, 10) * KIB;
	a->read_ns = now;
	return a->available;
}

uint64_t admit_clone_bytes(const struct template *t)
{
	return CLONE_BYTES + t->cfg.memory / SLOT_SHARE;
}

void admit_reserve(struct daemon *d, uint64_t bytes)
{
	d->adm.reserved += bytes;
}

void admit_unreserve(struct daemon *d, uint64_t bytes)
{
	d->adm.reserved -= min_u64(bytes, d->adm.reserved);
}

void admit_release(struct daemon *d, struct machine_entry *m)
{
	admit_unreserve(d, m->reserved);
	m->reserved = 0;
}

static int check_memory(struct daemon *d, uint64_t bytes, struct err *e)
{
	uint64_t have = admit_available(d), taken = d->adm.reserved;

	if (have >= d->opt.min_available + taken &&
		bytes <= have - d->opt.min_available - taken)
		return 0;
	d->metrics.counter[COUNT_REFUSED_MEMORY]++;
	return err_set(e, -EAGAIN,
		"not enough memory: about %llu MiB needed, %llu MiB available, "
		"%llu MiB are kept free (--min-available)",
		(unsigned long long)((bytes + taken) / MIB),
		(unsigned long long)(have / MIB),
		(unsigned long long)(d->opt.min_available / MIB));
}

static uint64_t fds_at_most(const struct daemon *d, uint64_t clones)
{
	const uint64_t of_template =
		FDS_PER_TEMPLATE + MACHINE_MAX_DISKS * FDS_PER_DISK;

	return FDS_SPARE + (uint64_t)d->nconns * FDS_PER_CLIENT +
	       d->ntemplates * of_template +
	       (d->nmachines + clones) * FDS_PER_MACHINE;
}

static uint64_t fds_needed(const struct daemon *d, uint64_t clones)
{
	uint64_t n = FDS_SPARE + (uint64_t)d->nconns * FDS_PER_CLIENT +
		     clones * FDS_PER_CLONE;

	list_for_each(it, &d->templates)
	{
		const struct template *t =
			container_of(it, struct template, all);

		n += FDS_PER_TEMPLATE + t->files.ndisks * FDS_PER_DISK;
	}
	list_for_each(it, &d->machines)
	{
		const struct machine_entry *m =
			container_of(it, struct machine_entry, all);

		n += m->kind == ENTRY_CLONE ? FDS_PER_CLONE : FDS_PER_MACHINE;
	}
	return n;
}

/* n: more clones; a machine of its own has been counted. */
static int check_count(struct daemon *d, uint64_t n, struct err *e)
{
	if (n > d->opt.max_machines || d->nmachines > d->opt.max_machines - n) {
		d->metrics.counter[COUNT_REFUSED_LIMIT]++;
		return err_set(e, -EAGAIN,
			"%llu more machines: %u exist, the limit is %llu "
			"(--max-machines)",
			(unsigned long long)n, d->nmachines,
			(unsigned long long)d->opt.max_machines);
	}
	/* Counting one by one takes long where there are thousands. */
	if (fds_at_most(d, n) > d->adm.fd_limit &&
		fds_needed(d, n) > d->adm.fd_limit) {
		d->metrics.counter[COUNT_REFUSED_LIMIT]++;
		return err_set(e, -EAGAIN,
			"%llu more machines would use up the daemon's %llu "
			"descriptors (ulimit -n)",
			(unsigned long long)(n ? n : 1),
			(unsigned long long)d->adm.fd_limit);
	}
	return 0;
}

int admit_clones(struct daemon *d, const struct template *t, uint64_t total,
	uint64_t fresh, struct err *e)
{
	uint64_t limit = d->opt.max_per_template, have = template_clones(t);
	int r;

	if (t->max_clones && t->max_clones < limit)
		limit = t->max_clones;
	if (total > limit || have > limit - total) {
		d->metrics.counter[COUNT_REFUSED_LIMIT]++;
		return err_set(e, -EAGAIN,
			"%llu more clones of \"%s\": %llu exist, the limit is "
			"%llu",
			(unsigned long long)total, t->name,
			(unsigned long long)have, (unsigned long long)limit);
	}
	if (!fresh)
		return 0;
	r = check_count(d, fresh, e);
	if (!r)
		r = check_memory(d, fresh * admit_clone_bytes(t), e);
	if (!r)
		admit_reserve(d, fresh * admit_clone_bytes(t));
	return r;
}

int admit_pool(
	struct daemon *d, const struct template *t, uint64_t n, struct err *e)
{
	int r = check_count(d, n, e);

	return r ? r : check_memory(d, n * admit_clone_bytes(t), e);
}

int admit_machine(struct daemon *d, struct machine_entry *m, struct err *e)
{
	uint64_t bytes =
		min_u64(m->memory, MACHINE_BYTES) + m->memory / SLOT_SHARE;
	int r = check_count(d, 0, e);

	if (!r)
		r = check_memory(d, bytes, e);
	if (r)
		return r;
	m->reserved = bytes;
	admit_reserve(d, bytes);
	return 0;
}
