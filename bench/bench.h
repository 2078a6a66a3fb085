/*
 * thaw bench: what the benchmarks share.
 *
 * Every benchmark counts a machine only when it has answered a request of its
 * own with the right content. Times are measured by the client, from before the
 * request is packed to after the result is unpacked, in microseconds.
 */
#ifndef THAW_BENCH_BENCH_H
#define THAW_BENCH_BENCH_H

#include "api/cli/cli.h"

/* stats.c: samples and their quantiles. */
struct series {
	double *v; /* owned */
	size_t n, cap;
	bool sorted;
};
/* -ENOMEM, or -EINVAL for what is not a number >= 0. */
int series_add(struct series *s, double v) MUST_USE;
void series_free(struct series *s);
/* Nearest rank: the smallest sample that q (0..1) of all do not exceed. 0 when
 * there is none. Sorts. */
double series_quantile(struct series *s, double q);
double series_mean(const struct series *s);

#define BENCH_MAX_RESULTS 24
#define BENCH_MAX_STEPS   8
#define BENCH_NOTE        500

struct step {
	char name[24];
	struct series us;
};

struct result {
	const char *name, *unit;
	uint64_t n, ok;
	struct series us;
	struct step steps[BENCH_MAX_STEPS];
	unsigned nsteps;
	char note[BENCH_NOTE];
};

struct bench_opts {
	const char *template_name, *json, *plot;
	uint64_t mem, n, record;
};

struct bench {
	struct cli *c;
	const struct bench_opts *o;
	struct thaw *t;        /* owned */
	char dir[64];          /* temporary directory; "" with --socket */
	pid_t daemon;          /* our own, or 0 */
	pid_t thawd;           /* whichever serves us */
	uint64_t seq;          /* makes every payload another */
	uint32_t window;       /* requests in flight on one connection */
	json_t *host;          /* owned */
	char templates[4][48]; /* made by us, removed at the end */
	unsigned ntemplates;
	struct result results[BENCH_MAX_RESULTS];
	unsigned nresults;
};

/* env.c: daemon, templates. All return an exit code, after a message. */
int bench_open(struct bench *b);
void bench_close(struct bench *b);
/* Was Ctrl-C pressed? */
bool bench_stopped(void);
/* A template of the built-in guest; with --template that one (then mem and
 * pool are as they are). *name lives as long as b. */
int bench_template(struct bench *b, const char *label, uint64_t mem,
	unsigned pool, const char **name);
/* Wait until the pool is full and nothing is being filled. */
int bench_pool_full(struct bench *b, const char *name);
#define BENCH_POOL 16 /* of a template for pooled figures; the notes say so */
/* Between fresh ones: the VM before this one is closed behind its answer, and
 * that is not to be measured with the next. */
void bench_gap(void);
/* Like cli_error(), for the connection of b. */
int bench_error(struct bench *b, const struct thaw_error *e);

/* work.c: requests, with their answers checked. */
struct clones {
	char (*id)[64]; /* owned */
	size_t n;
	double us; /* the request, as its client sees it */
};
/* One clone request. Steps go into r when not NULL. */
int bench_clone(struct bench *b, const char *name, uint32_t count,
	const char *mode, struct clones *out, struct result *r);
void clones_free(struct clones *cl);
/* Clone, ask, discard: one invoke. */
int bench_invoke(
	struct bench *b, const char *name, const char *mode, struct result *r);
/* Two kinds of figure are the same loop around one thing that is timed. */
struct bench_loop {
	const char *name; /* of the template */
	const char *mode; /* "pooled": from a full pool; else a gap before */
	uint64_t n;
	int (*once)(struct bench *b, const char *name, const char *mode,
		struct result *r);
};
int bench_repeat(struct bench *b, const struct bench_loop *l, struct result *r);
/* Ask every clone something of its own, many at a time. *ok: right answers. */
int bench_ask_all(
	struct bench *b, const struct clones *cl, uint64_t *ok, double *us);
int bench_stop_all(struct bench *b, const struct clones *cl);
void bench_progress(
	struct bench *b, const char *what, uint64_t done, uint64_t total);

/* report.c */
struct result *bench_result(struct bench *b, const char *name);
/* Microseconds since a now_ns(). */
double bench_us_since(uint64_t start_ns);
int step_add(struct result *r, const msgpack_object *us);
void bench_print(struct bench *b);
int bench_write_json(struct bench *b, const char *name, const char *path);

/* svg.c: histogram and distribution of the samples of each result. */
int svg_write(FILE *f, const char *title, struct result *r, unsigned n);

/* One file each. */
int bench_boot(struct bench *b);
int bench_clone_run(struct bench *b);
int bench_invoke_run(struct bench *b);
int bench_burst(struct bench *b);
int bench_density(struct bench *b);
int bench_snapshot(struct bench *b);
int bench_restore(struct bench *b);
/* Of bench_restore(): on this snapshot. */
int bench_faults(struct bench *b, const char *file);

#endif
