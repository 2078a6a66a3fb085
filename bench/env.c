/*
 * Where a benchmark runs: a daemon of its own in a temporary directory, so that
 * nothing of the user's is measured or touched, unless --socket names one. On
 * the way out, Ctrl-C included, all of it goes away again.
 */
#include "bench/bench.h"
#include "core/mp_json.h"

#include <errno.h>
#include <ftw.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

#define POOL_TIMEOUT_NS 120000000000ULL

/* global: a signal handler has nothing else to write to. */
static volatile sig_atomic_t stopped;

static void on_stop(int sig)
{
	(void)sig;
	stopped = 1;
}

bool bench_stopped(void)
{
	return stopped != 0;
}

int bench_error(struct bench *b, const struct thaw_error *e)
{
	return cli_error(b->c, e);
}

static void nap_ms(long ms)
{
	const struct timespec ts = {ms / 1000, ms % 1000 * 1000000};

	(void)nanosleep(&ts, NULL);
}

static int start_own(struct bench *b)
{
	const char *tmp = getenv("TMPDIR");
	char socket[96], state[96];
	const char *extra[] = {
		"--state-dir", state, "--max-machines", "8000", NULL};

	(void)snprintf(b->dir, sizeof(b->dir), "%s/thaw-bench-XXXXXX",
		tmp && *tmp && strlen(tmp) < 40 ? tmp : "/tmp");
	if (!mkdtemp(b->dir)) {
		int rc = cli_fail(b->c, EXIT_FAILED,
			"%s: %s; set TMPDIR to a directory you can write",
			b->dir, strerror(errno));

		b->dir[0] = 0;
		return rc;
	}
	(void)snprintf(socket, sizeof(socket), "%s/s", b->dir);
	(void)snprintf(state, sizeof(state), "%s/state", b->dir);
	return daemon_start(b->c, socket, extra, &b->t, &b->daemon);
}

static int look_at_server(struct bench *b)
{
	const msgpack_object *host, *limits;
	struct thaw_error e;
	struct thaw_result r;
	uint64_t inflight;

	(void)thaw_request(b->t, "server.info", 0);
	if (thaw_call(b->t, -1, &r, &e))
		return bench_error(b, &e);
	host = thaw_get(r.value, "host");
	limits = thaw_get(r.value, "limits");
	inflight = thaw_get_u64(limits, "max_inflight", 64);
	b->window = inflight > 64 ? 64 : (uint32_t)inflight;
	if (!b->window)
		b->window = 1;
	b->thawd = (pid_t)thaw_get_u64(r.value, "pid", 0);
	b->host = host ? mp_to_json(host) : json_object();
	thaw_result_free(&r);
	return EXIT_DONE;
}

int bench_open(struct bench *b)
{
	/* No SA_RESTART: waiting must end. A second Ctrl-C kills. */
	struct sigaction sa = {
		.sa_handler = on_stop, .sa_flags = (int)SA_RESETHAND};
	struct thaw_error e;
	int rc = EXIT_DONE;

	(void)sigaction(SIGINT, &sa, NULL);
	(void)sigaction(SIGTERM, &sa, NULL);
	if (!b->c->socket)
		rc = start_own(b);
	else if (thaw_connect(b->c->socket, &b->t, &e))
		rc = bench_error(b, &e);
	if (rc)
		return rc;
	thaw_interrupt_on(b->t, &stopped);
	return look_at_server(b);
}

static int remove_one(
	const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st;
	(void)type;
	(void)ftw;
	return remove(path);
}

/* SIGTERM makes thawd end its machines and then itself. */
static void stop_own(struct bench *b)
{
	uint64_t deadline = now_ns() + 20000000000ULL;

	if (b->daemon > 0) {
		(void)kill(b->daemon, SIGTERM);
		while (waitpid(b->daemon, NULL, WNOHANG) == 0) {
			if (now_ns() > deadline) {
				(void)kill(b->daemon, SIGKILL);
				(void)waitpid(b->daemon, NULL, 0);
				break;
			}
			nap_ms(10);
		}
	}
	if (b->dir[0])
		(void)nftw(b->dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

void bench_close(struct bench *b)
{
	if (b->t)
		thaw_interrupt_on(b->t, NULL);
	for (unsigned i = 0; b->t && b->daemon <= 0 && i < b->ntemplates; i++) {
		msgpack_packer *p = thaw_request(b->t, "template.remove", 2);
		struct thaw_error e;

		mp_key_str(p, "name", b->templates[i]);
		mp_key_bool(p, "force", true);
		(void)thaw_call(b->t, 30000, NULL, &e);
	}
	thaw_close(b->t);
	b->t = NULL;
	stop_own(b);
	json_decref(b->host);
	for (unsigned i = 0; i < b->nresults; i++) {
		series_free(&b->results[i].us);
		for (unsigned k = 0; k < b->results[i].nsteps; k++)
			series_free(&b->results[i].steps[k].us);
	}
}

int bench_template(struct bench *b, const char *label, uint64_t mem,
	unsigned pool, const char **name)
{
	struct thaw_error e;
	msgpack_packer *p;

	if (b->o->template_name) {
		*name = b->o->template_name;
		return EXIT_DONE;
	}
	if (b->ntemplates == ARRAY_SIZE(b->templates))
		return cli_fail(b->c, EXIT_FAILED, "too many templates");
	(void)snprintf(b->templates[b->ntemplates], sizeof(b->templates[0]),
		"bench-%d-%s", (int)getpid(), label);
	*name = b->templates[b->ntemplates];
	p = thaw_request(b->t, "template.create", 4);
	mp_key_str(p, "name", *name);
	mp_str(p, "config");
	(void)msgpack_pack_map(p, 1);
	mp_key_u64(p, "memory", mem);
	mp_key_u64(p, "pool", pool);
	mp_key_str(p, "ready", "agent");
	if (thaw_call(b->t, -1, NULL, &e))
		return bench_error(b, &e);
	b->ntemplates++;
	return pool ? bench_pool_full(b, *name) : EXIT_DONE;
}

void bench_gap(void)
{
	nap_ms(5);
}

int bench_pool_full(struct bench *b, const char *name)
{
	uint64_t deadline = now_ns() + POOL_TIMEOUT_NS;

	while (now_ns() < deadline) {
		const msgpack_object *pool;
		uint64_t target, parked, filling;
		struct thaw_error e;
		struct thaw_result r;

		mp_key_str(
			thaw_request(b->t, "template.show", 1), "name", name);
		if (thaw_call(b->t, -1, &r, &e))
			return bench_error(b, &e);
		pool = thaw_get(r.value, "pool");
		target = thaw_get_u64(pool, "target", 0);
		parked = thaw_get_u64(pool, "parked", 0);
		filling = thaw_get_u64(pool, "filling", 0);
		thaw_result_free(&r);
		if (!target)
			return cli_fail(b->c, EXIT_FAILED,
				"template %s has no pool; make it with --pool",
				name);
		if (parked >= target && !filling)
			return EXIT_DONE;
		nap_ms(2);
		if (stopped)
			return cli_fail(b->c, EXIT_FAILED, "interrupted");
	}
	return cli_fail(b->c, EXIT_FAILED,
		"the pool of %s is not full after two minutes", name);
}
