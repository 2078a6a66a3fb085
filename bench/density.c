/*
 * What a live clone costs, by MemAvailable: what a process is charged for (RSS)
 * leaves out most of what KVM takes. Averaged over creating and ending, each
 * settled, because other things on the host move the figure too.
 */
#include "bench/bench.h"

#include <string.h>
#include <time.h>

enum {
	M_AVAILABLE,
	M_SLAB,
	M_PAGETABLES,
	M_STACKS,
	M_PERCPU,
	M_ANON,
	M_VMALLOC,
	M_NKEYS_
};
static const char *const mem_keys[] = {"MemAvailable", "Slab", "PageTables",
	"KernelStack", "Percpu", "AnonPages", "VmallocUsed"};
_Static_assert(ARRAY_SIZE(mem_keys) == M_NKEYS_, "a name for every figure");

struct meminfo {
	double kib[M_NKEYS_];
};

static int read_meminfo(struct bench *b, struct meminfo *m)
{
	char line[128];
	FILE *f;

	*m = (struct meminfo){0};
	f = fopen("/proc/meminfo", "re");
	if (!f)
		return cli_fail(b->c, EXIT_FAILED, "cannot read /proc/meminfo");
	while (fgets(line, sizeof(line), f)) {
		for (int i = 0; i < M_NKEYS_; i++) {
			size_t n = strlen(mem_keys[i]);

			if (!strncmp(line, mem_keys[i], n) && line[n] == ':')
				m->kib[i] = strtod(line + n + 1, NULL);
		}
	}
	(void)fclose(f);
	return EXIT_DONE;
}

/* The kernel gives the memory of ended machines back with a delay, which would
 * be taken for memory that new ones do not need: 2 s, and on until it stands
 * still. */
static int settle_and_read(struct bench *b, struct meminfo *m)
{
	const struct timespec two = {.tv_sec = 2},
			      half = {.tv_nsec = 500000000};
	double last;
	int rc;

	(void)nanosleep(&two, NULL);
	rc = read_meminfo(b, m);
	for (int i = 0; !rc && i < 12; i++) {
		last = m->kib[M_AVAILABLE];
		(void)nanosleep(&half, NULL);
		rc = read_meminfo(b, m);
		if (m->kib[M_AVAILABLE] - last < 2048 &&
			last - m->kib[M_AVAILABLE] < 2048)
			break;
	}
	return rc;
}

/* A key of /proc/PID/FILE in KiB, 0 when unreadable. */
static double proc_kib(pid_t pid, const char *file, const char *key)
{
	char path[64], line[256];
	double v = 0;
	FILE *f;

	(void)snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, file);
	f = fopen(path, "re");
	while (f && fgets(line, sizeof(line), f)) {
		if (!strncmp(line, key, strlen(key)))
			v = strtod(line + strlen(key), NULL);
	}
	if (f)
		(void)fclose(f);
	return v;
}

static pid_t pid_of(struct bench *b, const char *id)
{
	struct thaw_result r;
	struct thaw_error e;
	pid_t pid;

	mp_key_str(thaw_request(b->t, "machine.show", 1), "id", id);
	if (thaw_call(b->t, -1, &r, &e))
		return 0;
	pid = (pid_t)thaw_get_u64(thaw_get(r.value, "pids"), "machine", 0);
	thaw_result_free(&r);
	return pid;
}

/* Creating one more: the same as `thaw bench clone` does, fewer times. */
static int create_some(
	struct bench *b, const char *name, struct result *r, int n)
{
	int rc = EXIT_DONE;

	for (int i = 0; !rc && i < n; i++) {
		struct clones one;
		uint64_t ok = 0;
		double ask;

		rc = bench_clone(b, name, 1, "fresh", &one, r);
		if (!rc)
			rc = bench_ask_all(b, &one, &ok, &ask);
		r->n++;
		if (!rc && ok == 1 && !series_add(&r->us, one.us))
			r->ok++;
		if (!rc)
			rc = bench_stop_all(b, &one);
		clones_free(&one);
	}
	return rc;
}

struct density {
	struct meminfo before, full, after;
	double thawd_before, thawd_full, sample_private;
};

static void note_parts(struct result *r, const struct density *d, double n)
{
	double part[M_NKEYS_], daemon;

	for (int i = 0; i < M_NKEYS_; i++)
		part[i] = (d->full.kib[i] * 2 - d->before.kib[i] -
				  d->after.kib[i]) /
			  2 / n;
	daemon = (d->thawd_full - d->thawd_before) / n;
	(void)snprintf(r->note, sizeof(r->note),
		"MemAvailable, settled 2 s and more, 3 rounds; in the last "
		"creating took %.0f KiB each, ending gave back %.0f. Parts: "
		"kernel slab %.0f, page tables %.0f, kernel stacks %.0f, other "
		"vmalloc %.0f, per-CPU %.0f, anonymous user pages %.0f (one "
		"clone's private pages by smaps_rollup: %.0f), "
		"daemon %.1f",
		(d->before.kib[0] - d->full.kib[0]) / n,
		(d->after.kib[0] - d->full.kib[0]) / n, part[M_SLAB],
		part[M_PAGETABLES], part[M_STACKS],
		part[M_VMALLOC] - part[M_STACKS], part[M_PERCPU], part[M_ANON],
		d->sample_private, daemon);
}

static int fill(struct bench *b, const char *name, uint32_t n,
	struct clones *cl, struct density *d, struct result *r)
{
	double us;
	int rc = settle_and_read(b, &d->before);

	d->thawd_before = proc_kib(b->thawd, "smaps_rollup", "Private_Dirty:");
	if (!rc)
		rc = bench_clone(b, name, n, "fresh", cl, NULL);
	if (!rc)
		rc = bench_ask_all(b, cl, &r->ok, &us);
	r->n += n;
	if (!rc)
		rc = settle_and_read(b, &d->full);
	d->thawd_full = proc_kib(b->thawd, "smaps_rollup", "Private_Dirty:");
	if (!rc && cl->n)
		d->sample_private = proc_kib(pid_of(b, cl->id[cl->n / 2]),
			"smaps_rollup", "Private_Dirty:");
	return rc;
}

/* Memory comes and goes with a delay, and not only ours: creating and ending
 * are averaged, and more than one round is shown. */
#define ROUNDS 3

static int round_once(struct bench *b, const char *name, uint32_t n,
	struct result *mem, struct result *alive)
{
	struct density d = {0};
	struct clones cl = {0};
	uint64_t ok = mem->ok;
	double kib;
	int rc = fill(b, name, n, &cl, &d, mem);

	mem->ok += ok;
	if (!rc && alive)
		rc = create_some(b, name, alive, 200);
	if (!rc)
		rc = bench_stop_all(b, &cl);
	clones_free(&cl);
	if (!rc)
		rc = settle_and_read(b, &d.after);
	if (rc)
		return rc;
	kib = (d.before.kib[0] + d.after.kib[0] - 2 * d.full.kib[0]) / 2 / n;
	if (series_add(&mem->us, kib > 0 ? kib : 0))
		return cli_fail(b->c, EXIT_FAILED, "out of memory");
	note_parts(mem, &d, n);
	return EXIT_DONE;
}

int bench_density(struct bench *b)
{
	uint32_t n = b->o->n ? (uint32_t)b->o->n : 1000;
	struct result *mem, *none, *alive;
	const char *name;
	int rc;

	rc = bench_template(b, "density", b->o->mem, 0, &name);
	if (rc)
		return rc;
	mem = bench_result(b, "memory_per_clone");
	mem->unit = "KiB";
	none = bench_result(b, "create_with_none_alive");
	alive = bench_result(b, "create_with_1000_alive");
	rc = create_some(b, name, none, 200);
	for (int i = 0; !rc && i < ROUNDS; i++)
		rc = round_once(
			b, name, n, mem, i + 1 == ROUNDS ? alive : NULL);
	if (rc)
		return rc;
	(void)snprintf(alive->note, sizeof(alive->note),
		"%.2f times that with none alive (by p50)",
		series_quantile(&alive->us, 0.5) /
			(series_quantile(&none->us, 0.5) + 1e-9));
	return EXIT_DONE;
}
