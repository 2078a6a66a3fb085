/* From a snapshot to the first answer: hot, lazy with and without a working
 * set, eager; what a lazy template costs to make; memory of many lazy clones.
 */
#include "bench/bench.h"
#include "bench/restore_tcp.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <string.h>
#include <time.h>

#define GUEST_MEM     (640 * MIB)
#define NONZERO       "512" /* MiB of it that are not zeros */
#define TOUCH_MIB     8     /* that the request looks at */
#define CLONES        100
#define CLONE_MIB     64 /* that each of many clones looks at */
#define MEMORY_ROUNDS 3
/* Of a clone's own, beside the memory it shares. */
#define CLONE_OWN_KIB (1.7 * 1024)

struct restore {
	struct bench *b;
	char file[96], bare[96]; /* the snapshot; another name without a set */
	double set_bytes, bare_faults, set_faults, answer_faults;
	unsigned faults_n;
};

/* ---- requests ---- */

static int call(struct bench *b, struct thaw_result *res)
{
	struct thaw_error e;

	return thaw_call(b->t, -1, res, &e) ? bench_error(b, &e) : EXIT_DONE;
}

static int remove_template(struct bench *b, const char *name)
{
	msgpack_packer *p = thaw_request(b->t, "template.remove", 2);

	mp_key_str(p, "name", name);
	mp_key_bool(p, "force", true);
	return call(b, NULL);
}

static int create_template(
	struct bench *b, const char *name, const char *file, bool lazy)
{
	msgpack_packer *p = thaw_request(b->t, "template.create", lazy ? 4 : 2);

	mp_key_str(p, "name", name);
	mp_key_str(p, "snapshot", file);
	if (lazy) {
		mp_key_bool(p, "lazy", true);
		mp_key_str(p, "fill", "none");
	}
	return call(b, NULL);
}

/* "check": the words that "touch" left in the snapshot. */
static int ask_check(struct bench *b, const char *method, const char *key,
	const char *who, unsigned mib, bool *right)
{
	char text[32], want[32];
	msgpack_packer *p = thaw_request(b->t, method, 2);
	struct thaw_result res;
	const void *data;
	size_t len;
	int rc, n = snprintf(text, sizeof(text), "check %u", mib);

	(void)snprintf(want, sizeof(want), "right %u MiB", mib);
	mp_key_str(p, key, who);
	thaw_pack_data(p, "payload", text, (size_t)n);
	rc = call(b, &res);
	if (rc)
		return rc;
	*right = !thaw_get_data(res.value, "payload", &data, &len) &&
		 len == strlen(want) && !memcmp(data, want, len);
	thaw_result_free(&res);
	return EXIT_DONE;
}

static int pager_value(
	struct bench *b, const char *name, const char *key, uint64_t *v)
{
	struct thaw_result res;
	int rc;

	mp_key_str(thaw_request(b->t, "template.show", 1), "name", name);
	rc = call(b, &res);
	if (rc)
		return rc;
	*v = thaw_get_u64(thaw_get(res.value, "pager"), key, 0);
	thaw_result_free(&res);
	return EXIT_DONE;
}

static int sample(struct restore *t, struct result *r, bool right, double us)
{
	r->n++;
	if (!right)
		return EXIT_DONE;
	r->ok++;
	return series_add(&r->us, us)
		       ? cli_fail(t->b->c, EXIT_FAILED, "out of memory")
		       : EXIT_DONE;
}

/* ---- the snapshot ---- */

/* A clone of an ordinary template, filled, into a file. */
static int make_snapshot(struct bench *b, const char *label, uint64_t mem,
	const char *touch, const char *file)
{
	struct clones cl = {0};
	const char *name;
	msgpack_packer *p;
	char text[32];
	int rc = bench_template(b, label, mem, 0, &name);

	if (!rc)
		rc = bench_clone(b, name, 1, "fresh", &cl, NULL);
	if (!rc) {
		int n = snprintf(text, sizeof(text), "touch %s", touch);

		p = thaw_request(b->t, "machine.invoke", 3);
		mp_key_str(p, "id", cl.id[0]);
		thaw_pack_data(p, "payload", text, (size_t)n);
		mp_key_u64(p, "timeout_ms", 600000);
		rc = call(b, NULL);
	}
	if (!rc) {
		p = thaw_request(b->t, "machine.snapshot", 2);
		mp_key_str(p, "id", cl.id[0]);
		mp_key_str(p, "path", file);
		rc = call(b, NULL);
	}
	if (!rc)
		rc = bench_stop_all(b, &cl);
	clones_free(&cl);
	return rc;
}

/* The next read comes from the disk, not from memory. */
static void drop_cache(const char *file)
{
	int fd = open(file, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return;
	(void)fdatasync(fd);
	(void)posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
	(void)close(fd);
}

/* ---- time to the first answer ---- */

static int lazy_once(
	struct restore *t, struct result *r, const char *file, double *windows)
{
	struct bench *b = t->b;
	uint64_t demand = 0, start;
	bool right = false;
	double us;
	int rc;

	drop_cache(file);
	start = now_ns();
	rc = create_template(b, "bench-lazy", file, true);
	if (!rc)
		rc = ask_check(b, "invoke", "template", "bench-lazy", TOUCH_MIB,
			&right);
	us = (double)(now_ns() - start) / 1000;
	if (!rc)
		rc = pager_value(b, "bench-lazy", "windows_demand", &demand);
	*windows += (double)demand;
	if (!rc)
		rc = remove_template(b, "bench-lazy");
	return rc ? rc : sample(t, r, right, us);
}

static int eager_once(struct restore *t, struct result *r)
{
	struct bench *b = t->b;
	struct thaw_result res;
	struct clones one = {.n = 1};
	char id[1][64];
	bool right = false;
	uint64_t start;
	double us;
	int rc;

	drop_cache(t->bare);
	start = now_ns();
	mp_key_str(
		thaw_request(b->t, "machine.create", 1), "snapshot", t->bare);
	rc = call(b, &res);
	if (rc)
		return rc;
	rc = thaw_get_str(res.value, "id", id[0], sizeof(id[0]));
	thaw_result_free(&res);
	if (rc)
		return cli_fail(b->c, EXIT_FAILED, "an answer without an id");
	rc = ask_check(b, "machine.invoke", "id", id[0], TOUCH_MIB, &right);
	us = (double)(now_ns() - start) / 1000;
	one.id = id;
	if (!rc)
		rc = bench_stop_all(b, &one);
	return rc ? rc : sample(t, r, right, us);
}

static int hot_once(struct restore *t, struct result *r)
{
	bool right = false;
	uint64_t start;
	int rc;

	bench_gap();
	start = now_ns();
	rc = ask_check(
		t->b, "invoke", "template", "bench-hot", TOUCH_MIB, &right);
	return rc ? rc : sample(t, r, right, (double)(now_ns() - start) / 1000);
}

static int record(struct restore *t)
{
	uint64_t n = t->b->o->record ? t->b->o->record : 1;
	int rc = EXIT_DONE;

	for (uint64_t i = 0; !rc && i < n; i++) {
		msgpack_packer *p = thaw_request(t->b->t, "template.record", 3);
		struct thaw_result res;
		char text[32], set[112];
		int len = snprintf(text, sizeof(text), "check %d", TOUCH_MIB);

		(void)snprintf(set, sizeof(set), "%s.ws", t->file);
		mp_key_str(p, "name", "bench-hot");
		thaw_pack_data(p, "payload", text, (size_t)len);
		mp_key_str(p, "path", set);
		rc = call(t->b, &res);
		if (rc)
			break;
		t->set_bytes = (double)thaw_get_u64(res.value, "set", 0) * 4096;
		thaw_result_free(&res);
	}
	return rc;
}

/* What the set's bytes alone take to come from the disk. */
static double read_time(const struct restore *t)
{
	const size_t size = (size_t)t->set_bytes;
	AUTO_FREE uint8_t *buf = malloc(size + 1);
	AUTO_FD fd = open(t->bare, O_RDONLY | O_CLOEXEC);
	uint64_t start;

	drop_cache(t->bare);
	start = now_ns();
	if (!buf || fd < 0 || pread_full(fd, buf, size, 16 * MIB))
		return 0;
	return (double)(now_ns() - start) / 1000;
}

static int first_answers(struct restore *t, uint64_t n)
{
	struct bench *b = t->b;
	struct result *hot = bench_result(b, "hot");
	struct result *set = bench_result(b, "lazy_set");
	struct result *lazy = bench_result(b, "lazy");
	struct result *eager = bench_result(b, "eager");
	double read_us;
	int rc = create_template(b, "bench-hot", t->bare, false);

	for (uint64_t i = 0; !rc && i < 4 * n; i++)
		rc = hot_once(t, hot);
	if (!rc)
		rc = record(t);
	for (uint64_t i = 0; !rc && i < n; i++) {
		bench_progress(b, "first answers", i, n);
		rc = lazy_once(t, set, t->file, &t->set_faults);
		if (!rc)
			rc = lazy_once(t, lazy, t->bare, &t->bare_faults);
		if (!rc && i < 5)
			rc = eager_once(t, eager);
	}
	bench_progress(b, "first answers", n, n);
	if (rc)
		return rc;
	read_us = read_time(t);
	(void)snprintf(hot->note, sizeof(hot->note),
		"fresh clone of an eager template, " NONZERO
		" MiB not zero; the request looks at %d MiB of them",
		TOUCH_MIB);
	(void)snprintf(set->note, sizeof(set->note),
		"template.create --lazy to the answer, file not in memory; "
		"set of %.0f KiB, which alone takes %.0f us to read: %.2f of "
		"(hot + that)",
		t->set_bytes / 1024, read_us,
		series_quantile(&set->us, 0.5) /
			(series_quantile(&hot->us, 0.5) + read_us + 1e-9));
	(void)snprintf(lazy->note, sizeof(lazy->note),
		"the same without a set: eager takes %.1f times as long",
		series_quantile(&eager->us, 0.5) /
			(series_quantile(&lazy->us, 0.5) + 1e-9));
	(void)snprintf(eager->note, sizeof(eager->note),
		"machine.create of the snapshot to the answer, file not in "
		"memory");
	return EXIT_DONE;
}

/* The same as "lazy", but nothing of the snapshot is here: a pager on this host
 * has it. */
static int over_tcp(struct restore *t, uint64_t n)
{
	struct result *r = bench_result(t->b, "lazy_tcp");
	double windows = 0;
	struct tcp_pager tcp;
	int rc = tcp_pager_start(t->b, t->bare, &tcp);

	for (uint64_t i = 0; !rc && i < n; i++) {
		bench_progress(t->b, "over TCP", i, n);
		drop_cache(t->bare);
		tcp_pager_cold(&tcp);
		rc = lazy_once(t, r, tcp.url, &windows);
	}
	bench_progress(t->b, "over TCP", n, n);
	tcp_pager_stop(&tcp);
	(void)snprintf(r->note, sizeof(r->note),
		"as lazy, by thaw pager on this host, nothing cached");
	return rc;
}

/* Demand loads with the set, of those without; in percent. */
static int faults_left(struct restore *t)
{
	struct result *r = bench_result(t->b, "faults_left");
	double n = (double)t->b->results[1].n;

	r->unit = "%";
	(void)snprintf(r->note, sizeof(r->note),
		"windows loaded because of a fault: %.1f with the set, %.1f "
		"without",
		t->set_faults / (n + 1e-9), t->bare_faults / (n + 1e-9));
	return sample(
		t, r, true, 100 * t->set_faults / (t->bare_faults + 1e-9));
}

/* ---- templates of several sizes ---- */

static int create_lazy(struct restore *t, const char *result, uint64_t mem,
	const char *touch, const char *label, uint64_t n)
{
	struct result *r = bench_result(t->b, result);
	char file[128], mem_text[16];
	int rc;

	(void)snprintf(file, sizeof(file), "%s.%s", t->file, label);
	rc = make_snapshot(t->b, label, mem, touch, file);
	for (uint64_t i = 0; !rc && i < n; i++) {
		uint64_t start;
		double us;
		bool right = false;

		bench_gap();
		start = now_ns();
		rc = create_template(t->b, "bench-lazy", file, true);
		us = (double)(now_ns() - start) / 1000;
		if (!rc)
			rc = ask_check(t->b, "invoke", "template", "bench-lazy",
				1, &right);
		if (!rc)
			rc = remove_template(t->b, "bench-lazy");
		if (!rc)
			rc = sample(t, r, right, us);
	}
	(void)snprintf(r->note, sizeof(r->note),
		"template.create --lazy, call to return; %s of memory, %s MiB "
		"not zero",
		fmt_size(mem, mem_text), touch);
	(void)unlink(file);
	return rc;
}

/* ---- memory ---- */

static double available_kib(void)
{
	char line[128];
	double v = 0;
	FILE *f = fopen("/proc/meminfo", "re");

	while (f && fgets(line, sizeof(line), f)) {
		if (sscanf(line, "MemAvailable: %lf", &v) == 1)
			break;
	}
	if (f)
		(void)fclose(f);
	return v;
}

/* What ended before gives its memory back for a while: wait until it has. */
static double settled_kib(void)
{
	const struct timespec quarter = {.tv_nsec = 250000000};
	double last = available_kib();
	unsigned same = 0;

	for (unsigned i = 0; i < 80 && same < 6; i++) {
		double now;

		(void)nanosleep(&quarter, NULL);
		now = available_kib();
		same = fabs(now - last) < 512 ? same + 1 : 0;
		last = now;
	}
	return last;
}

/* KiB that the clones of a new lazy template took, its base included; negative:
 * an error was reported. */
static int one_memory(struct restore *t, struct result *r, double *used)
{
	struct bench *b = t->b;
	struct clones cl = {0};
	double before;
	int rc = create_template(b, "bench-lazy", t->bare, true);

	if (rc)
		return rc;
	before = settled_kib();
	rc = bench_clone(b, "bench-lazy", CLONES, "fresh", &cl, NULL);
	for (size_t i = 0; !rc && i < cl.n; i++) {
		bool right = false;

		rc = ask_check(
			b, "machine.invoke", "id", cl.id[i], CLONE_MIB, &right);
		r->n++;
		r->ok += right;
	}
	*used = before - settled_kib();
	if (!rc)
		rc = bench_stop_all(b, &cl);
	clones_free(&cl);
	return rc ? rc : remove_template(b, "bench-lazy");
}

static int clones_memory(struct restore *t)
{
	struct result *r = bench_result(t->b, "memory_100");
	const double own = CLONES * CLONE_OWN_KIB;
	struct series all = {0};
	int rc = EXIT_DONE;

	r->unit = "%";
	for (unsigned i = 0; !rc && i < MEMORY_ROUNDS; i++) {
		double used = 0;

		rc = one_memory(t, r, &used);
		if (rc)
			continue;
		/* There is one copy at least, or somebody else's memory was
		 * measured. */
		if (used < CLONE_MIB * 1024)
			rc = cli_fail(t->b->c, EXIT_FAILED,
				"memory_100: %.0f KiB for a copy of %d MiB and "
				"%d clones cannot be: something else freed "
				"memory; measure on an idle host",
				used, CLONE_MIB, CLONES);
		else if (series_add(&all, used) ||
			 series_add(&r->us, 100 * fmax(used - own, 0) /
						    (CLONE_MIB * 1024)))
			rc = cli_fail(t->b->c, EXIT_FAILED, "out of memory");
	}
	if (!rc)
		(void)snprintf(r->note, sizeof(r->note),
			"MemAvailable that %d lazy clones took which looked at "
			"the same %d MiB, their template's base included: %.0f "
			"MiB (median of %d), less 1.7 MiB for each, of one "
			"copy",
			CLONES, CLONE_MIB, series_quantile(&all, 0.5) / 1024,
			MEMORY_ROUNDS);
	series_free(&all);
	return rc;
}

int bench_restore(struct bench *b)
{
	struct restore t = {.b = b};
	uint64_t n = b->o->n ? b->o->n : 20;
	int rc;

	if (!b->dir[0])
		return cli_fail(b->c, EXIT_USAGE,
			"restore needs a daemon and a directory of its own: "
			"leave out --socket");
	(void)snprintf(t.file, sizeof(t.file), "%s/s.thaw", b->dir);
	(void)snprintf(t.bare, sizeof(t.bare), "%s/bare.thaw", b->dir);
	rc = make_snapshot(b, "restore", GUEST_MEM, NONZERO, t.file);
	if (!rc && link(t.file, t.bare))
		rc = cli_fail(
			b->c, EXIT_FAILED, "%s: %s", t.bare, strerror(errno));
	if (!rc)
		rc = first_answers(&t, n);
	if (!rc)
		rc = faults_left(&t);
	if (!rc)
		rc = over_tcp(&t, n);
	if (!rc)
		rc = create_lazy(
			&t, "create_lazy_128m", 128 * MIB, "64", "128m", n);
	if (!rc)
		rc = create_lazy(&t, "create_lazy_4g", 4 * GIB, "512", "4g", n);
	if (!rc)
		rc = clones_memory(&t);
	return rc ? rc : bench_faults(b, t.bare);
}
