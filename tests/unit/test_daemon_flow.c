/*
 * The whole daemon without KVM: it runs in a child process, its machines are
 * fake ones (fake_machine.h) that misbehave on demand, and the test is its
 * client.
 */
#include "api/daemon/daemon.h"
#include "api/thaw.h"
#include "tests/unit/fake_machine.h"
#include "tests/unit/test.h"

#include "core/log.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>

#define PATIENCE_MS 20000

struct fixture {
	char dir[64], socket[80], state[80];
	pid_t daemon;
	struct thaw *t;
	struct thaw_error e;
};

static int run_daemon(struct fixture *f)
{
	static struct daemon d; /* global: large */
	struct err e = {0};
	char exe[] = "/proc/self/exe";
	int code = 1;

	log_init("thawd", LOG_ERROR);
	d.opt.socket = f->socket;
	d.opt.state_dir = f->state;
	d.opt.machine_exe = exe;
	d.opt.max_machines = 40;
	d.opt.max_per_template = 30;
	daemon_prepare(&d);
	if (daemon_init(&d, &e))
		fprintf(stderr, "daemon: %s\n", e.msg);
	else
		code = daemon_run(&d);
	daemon_fini(&d);
	return code;
}

static void start_daemon(struct fixture *f)
{
	f->daemon = fork();
	if (f->daemon == 0)
		exit(run_daemon(f)); /* not _exit(): leaks are reported there */
	for (int i = 0; i < 400; i++) {
		if (thaw_connect(f->socket, &f->t, &f->e) == THAW_OK)
			return;
		(void)usleep(10000);
	}
	fail_msg("the daemon does not listen: %s", f->e.message);
}

/* The daemon ends by itself and leaves nothing. */
static void stop_daemon(struct fixture *f, int sig)
{
	int status = 0;

	thaw_close(f->t);
	f->t = NULL;
	(void)kill(f->daemon, sig);
	assert_int_equal(waitpid(f->daemon, &status, 0), f->daemon);
	if (sig == SIGTERM) {
		assert_true(WIFEXITED(status));
		assert_int_equal(WEXITSTATUS(status), 0);
		assert_int_equal(access(f->socket, F_OK), -1);
	}
}

static int set_up(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	(void)snprintf(f->dir, sizeof(f->dir), "/tmp/thaw-flow-XXXXXX");
	if (!mkdtemp(f->dir))
		return -1;
	(void)snprintf(f->socket, sizeof(f->socket), "%s/s", f->dir);
	(void)snprintf(f->state, sizeof(f->state), "%s/state", f->dir);
	start_daemon(f);
	*state = f;
	return 0;
}

static int tear_down(void **state)
{
	struct fixture *f = *state;
	char cmd[100];

	stop_daemon(f, SIGTERM);
	(void)snprintf(cmd, sizeof(cmd), "rm -rf %s", f->dir);
	free(f);
	return system(cmd);
}

static int make_template(
	struct fixture *f, const char *name, const char *told, unsigned pool)
{
	msgpack_packer *p = thaw_request(f->t, "template.create", 4);

	thaw_pack_str(p, "name", name);
	thaw_pack_u64(p, "pool", pool);
	thaw_pack_u64(p, "timeout_ms", 3000);
	mp_str(p, "config");
	msgpack_pack_map(p, 1);
	mp_key_str(p, "cmdline", told);
	return thaw_call(f->t, PATIENCE_MS, NULL, &f->e);
}

static int clones(struct fixture *f, const char *name, unsigned n,
	const char *mode, unsigned timeout_ms, struct thaw_result *r)
{
	msgpack_packer *p = thaw_request(f->t, "clone", 4);

	memset(r, 0, sizeof(*r));
	thaw_pack_str(p, "template", name);
	thaw_pack_u64(p, "count", n);
	thaw_pack_str(p, "mode", mode);
	thaw_pack_u64(p, "timeout_ms", timeout_ms);
	return thaw_call(f->t, PATIENCE_MS, r, &f->e);
}

static unsigned array_size(const struct thaw_result *r, const char *key)
{
	const msgpack_object *o = thaw_get(r->value, key);

	assert_non_null(o);
	assert_int_equal(o->type, MSGPACK_OBJECT_ARRAY);
	return o->via.array.size;
}

static uint64_t gauge(struct fixture *f, const char *group, const char *name)
{
	struct thaw_result r;
	uint64_t v;

	(void)thaw_request(f->t, "metrics", 0);
	assert_int_equal(thaw_call(f->t, PATIENCE_MS, &r, &f->e), THAW_OK);
	v = thaw_get_u64(thaw_get(r.value, group), name, UINT64_MAX);
	thaw_result_free(&r);
	return v;
}

static void wait_for(struct fixture *f, const char *name, uint64_t value)
{
	for (int i = 0; i < 1000; i++) {
		if (gauge(f, "gauges", name) == value)
			return;
		(void)usleep(5000);
	}
	fail_msg("%s is %llu, not %llu", name,
		(unsigned long long)gauge(f, "gauges", name),
		(unsigned long long)value);
}

/* Nothing is left of failed attempts. */
static void expect_quiet(struct fixture *f)
{
	wait_for(f, "machines", 0);
	wait_for(f, "memory_reserved", 0);
	assert_int_equal(gauge(f, "gauges", "active_requests"), 0);
}

static void test_path(void **state)
{
	struct fixture *f = *state;
	const void *data;
	struct thaw_result r;
	size_t len;

	assert_int_equal(make_template(f, "t", "", 0), THAW_OK);
	assert_int_equal(make_template(f, "t", "", 0), THAW_EXISTS);
	assert_int_equal(clones(f, "t", 20, "fresh", 5000, &r), THAW_OK);
	assert_int_equal(array_size(&r, "clones"), 20);
	assert_int_equal(array_size(&r, "errors"), 0);
	thaw_result_free(&r);
	assert_int_equal(
		thaw_invoke(f->t, "t", "hello", 5, 0, &r, &f->e), THAW_OK);
	assert_int_equal(thaw_get_data(r.value, "payload", &data, &len), 0);
	assert_int_equal(len, 5);
	assert_memory_equal(data, "hello", 5);
	thaw_result_free(&r);
	wait_for(f, "machines", 20);
	assert_int_equal(thaw_machine_invoke(f->t, "t-3", "x", 1, 0, &r, &f->e),
		THAW_OK);
	thaw_result_free(&r);
	for (int i = 1; i <= 20; i++) {
		char id[16];

		(void)snprintf(id, sizeof(id), "t-%d", i);
		assert_int_equal(thaw_machine_stop(f->t, id, &f->e), THAW_OK);
	}
	expect_quiet(f);
}

static void test_large_payload(void **state)
{
	struct fixture *f = *state;
	size_t n = 5 * MIB, len;
	char *payload = malloc(n);
	struct thaw_result r;
	const void *data;

	memset(payload, 'p', n);
	assert_int_equal(make_template(f, "t", "", 0), THAW_OK);
	assert_int_equal(
		thaw_invoke(f->t, "t", payload, n, 0, &r, &f->e), THAW_OK);
	assert_int_equal(thaw_get_data(r.value, "payload", &data, &len), 0);
	assert_int_equal(len, n);
	assert_memory_equal(data, payload, n);
	thaw_result_free(&r);
	free(payload);
}

static void test_pool(void **state)
{
	struct fixture *f = *state;
	struct thaw_result r;

	assert_int_equal(make_template(f, "t", "", 5), THAW_OK);
	wait_for(f, "parked", 5);
	assert_int_equal(clones(f, "t", 7, "pooled", 5000, &r), THAW_OK);
	assert_int_equal(array_size(&r, "clones"), 5);
	assert_int_equal(array_size(&r, "errors"), 2);
	thaw_result_free(&r);
	wait_for(f, "parked", 5);
	assert_int_equal(clones(f, "t", 9, "any", 5000, &r), THAW_OK);
	assert_int_equal(array_size(&r, "clones"), 9);
	thaw_result_free(&r);
	assert_int_equal(gauge(f, "counters", "clones_pooled"), 10);
}

static void test_limits(void **state)
{
	struct fixture *f = *state;
	struct thaw_result r;

	assert_int_equal(make_template(f, "t", "", 0), THAW_OK);
	assert_int_equal(make_template(f, "u", "", 0), THAW_OK);
	assert_int_equal(clones(f, "t", 31, "fresh", 5000, &r), THAW_EXHAUSTED);
	assert_int_equal(clones(f, "t", 30, "fresh", 5000, &r), THAW_OK);
	thaw_result_free(&r);
	assert_int_equal(clones(f, "t", 1, "fresh", 5000, &r), THAW_EXHAUSTED);
	assert_int_equal(clones(f, "u", 11, "fresh", 5000, &r), THAW_EXHAUSTED);
	assert_int_equal(gauge(f, "gauges", "machines"), 30);
	assert_int_equal(clones(f, "u", 10, "fresh", 5000, &r), THAW_OK);
	thaw_result_free(&r);
	assert_int_equal(gauge(f, "gauges", "machines"), 40);
}

/* Each way in which clones do not come, and what the client is told. */
static void test_clones_that_fail(void **state)
{
	static const struct {
		const char *told;
		int code;
		const char *text;
	} cases[] = {
		{"clone-fails", THAW_INTERNAL, "told to fail"},
		{"clone-silent", THAW_TIMEOUT, "did not acknowledge"},
		{"clone-dies", THAW_INTERNAL, "killed by signal 9"},
		{"zygote-dies", THAW_INTERNAL, "the template's zygote"},
	};
	struct fixture *f = *state;
	struct thaw_result r;

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		const char *name = cases[i].told;

		assert_int_equal(make_template(f, name, name, 0), THAW_OK);
		assert_int_equal(
			clones(f, name, 5, "fresh", 200, &r), cases[i].code);
		if (!strstr(f->e.message, cases[i].text))
			fail_msg("%s: \"%s\"", name, f->e.message);
		expect_quiet(f);
	}
}

static void test_invokes_that_fail(void **state)
{
	static const struct {
		const char *told;
		int code;
		const char *text;
	} cases[] = {
		{"clone-crashes", THAW_INTERNAL, "killed by signal 11"},
		/* unprintable bytes of the guest do not reach the client */
		{"clone-ends", THAW_INTERNAL, "guest crashed: a?b?!"},
		{"invoke-silent", THAW_TIMEOUT, "did not answer in time"},
	};
	struct fixture *f = *state;
	struct thaw_result r;

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		const char *name = cases[i].told;

		assert_int_equal(make_template(f, name, name, 0), THAW_OK);
		assert_int_equal(
			thaw_invoke(f->t, name, "x", 1, 100, &r, &f->e),
			cases[i].code);
		if (!strstr(f->e.message, cases[i].text))
			fail_msg("%s: \"%s\"", name, f->e.message);
		expect_quiet(f);
	}
	assert_int_equal(gauge(f, "counters", "zygotes_retired"), 1);
}

/* Whoever waits for a clone is told when somebody stops it on its way. */
static void test_stopped_on_its_way(void **state)
{
	struct fixture *f = *state;
	struct thaw_result r;
	struct thaw *other;
	msgpack_packer *p;
	uint32_t id;

	assert_int_equal(make_template(f, "t", "clone-silent", 0), THAW_OK);
	assert_int_equal(thaw_connect(f->socket, &other, &f->e), THAW_OK);
	p = thaw_request(other, "clone", 2);
	thaw_pack_str(p, "template", "t");
	thaw_pack_u64(p, "count", 2);
	assert_int_equal(thaw_send(other, &id, &f->e), THAW_OK);
	wait_for(f, "machines", 2);
	assert_int_equal(thaw_machine_stop(f->t, "t-1", &f->e), THAW_OK);
	assert_int_equal(thaw_machine_stop(f->t, "t-2", &f->e), THAW_OK);
	assert_int_equal(thaw_wait(other, id, 5000, &r, &f->e), THAW_BUSY);
	assert_non_null(strstr(f->e.message, "stopped by a client"));
	thaw_close(other);
	expect_quiet(f);
}

/* The same for a machine of its own; its entry goes once. */
static void test_machine_stopped_on_its_way(void **state)
{
	struct fixture *f = *state;
	msgpack_packer *p;
	struct thaw_result r;
	struct thaw *other;
	uint32_t id;

	assert_int_equal(thaw_connect(f->socket, &other, &f->e), THAW_OK);
	p = thaw_request(other, "machine.create", 2);
	mp_str(p, "config");
	msgpack_pack_map(p, 1);
	mp_key_str(p, "cmdline", "ready-never");
	thaw_pack_str(p, "ready", "agent");
	assert_int_equal(thaw_send(other, &id, &f->e), THAW_OK);
	wait_for(f, "machines", 1);
	assert_int_equal(thaw_machine_stop(f->t, "m-1", &f->e), THAW_OK);
	assert_int_equal(thaw_wait(other, id, 5000, &r, &f->e), THAW_BUSY);
	thaw_close(other);
	expect_quiet(f);
	assert_int_equal(gauge(f, "gauges", "machines_ended"), 0);
}

static pid_t pid_of(struct fixture *f, const char *id)
{
	struct thaw_result r;
	pid_t pid;

	thaw_pack_str(thaw_request(f->t, "machine.show", 1), "id", id);
	assert_int_equal(thaw_call(f->t, PATIENCE_MS, &r, &f->e), THAW_OK);
	pid = (pid_t)thaw_get_u64(thaw_get(r.value, "pids"), "machine", 0);
	thaw_result_free(&r);
	assert_true(pid > 0);
	return pid;
}

/* A zygote that is heard before its clone does not take the clone's last words
 * away. It is when it had something to say already: here, of another clone. */
static void test_last_words(void **state)
{
	struct fixture *f = *state;
	struct thaw_result r;
	msgpack_packer *p;
	uint32_t id;
	pid_t other;

	assert_int_equal(make_template(f, "t", "clone-ends-late", 0), THAW_OK);
	assert_int_equal(clones(f, "t", 2, "fresh", 5000, &r), THAW_OK);
	thaw_result_free(&r);
	other = pid_of(f, "t-2");
	p = thaw_request(f->t, "machine.invoke", 2);
	thaw_pack_str(p, "id", "t-1");
	thaw_pack_data(p, "payload", "x", 1);
	assert_int_equal(thaw_send(f->t, &id, &f->e), THAW_OK);
	(void)usleep(100000);
	assert_int_equal(kill(f->daemon, SIGSTOP), 0);
	assert_int_equal(kill(other, SIGKILL), 0);
	(void)usleep(500000);
	assert_int_equal(kill(f->daemon, SIGCONT), 0);
	assert_int_equal(
		thaw_wait(f->t, id, PATIENCE_MS, &r, &f->e), THAW_INTERNAL);
	assert_non_null(strstr(f->e.message, "guest crashed: a?b?!"));
}

/* A pool that cannot be filled is not tried without end. */
static void test_pool_backs_off(void **state)
{
	struct fixture *f = *state;
	uint64_t n;

	assert_int_equal(make_template(f, "t", "clone-fails", 4), THAW_OK);
	(void)usleep(500000);
	n = gauge(f, "counters", "clones_failed");
	assert_in_range(n, 1, 40);
}

static void test_templates_that_fail(void **state)
{
	struct fixture *f = *state;
	char path[120];

	assert_int_equal(make_template(f, "a", "ready-never", 0), THAW_TIMEOUT);
	assert_int_equal(
		make_template(f, "b", "setup-fails", 0), THAW_INTERNAL);
	assert_non_null(strstr(f->e.message, "told to refuse"));
	expect_quiet(f);
	assert_int_equal(gauge(f, "gauges", "templates"), 0);
	(void)snprintf(path, sizeof(path), "%s/templates/b", f->state);
	assert_int_equal(access(path, F_OK), -1);
	(void)snprintf(path, sizeof(path), "%s/templates/.new-a", f->state);
	assert_int_equal(access(path, F_OK), -1);
	/* The names are free again. */
	assert_int_equal(make_template(f, "a", "", 0), THAW_OK);
}

/* A zygote that was taken over cannot make the daemon kill what it likes. */
static void test_hostile_zygote(void **state)
{
	struct fixture *f = *state;
	struct thaw_result r;

	assert_int_equal(make_template(f, "l", "zygote-lies", 0), THAW_OK);
	assert_int_equal(clones(f, "l", 1, "fresh", 1000, &r), THAW_OK);
	thaw_result_free(&r);
	assert_int_equal(thaw_machine_stop(f->t, "l-1", &f->e), THAW_OK);
	/* The zygote named itself. It is not its own child, so that process
	 * is not killed for a clone; the zygote is, for lying. */
	for (int i = 0; i < 400 && !gauge(f, "counters", "zygotes_lost"); i++)
		(void)usleep(5000);
	assert_int_equal(gauge(f, "counters", "zygotes_lost"), 1);
	assert_int_equal(make_template(f, "g", "zygote-garbage", 0), THAW_OK);
	(void)clones(f, "g", 3, "fresh", 300, &r);
	thaw_result_free(&r);
	assert_int_equal(make_template(f, "ok", "", 0), THAW_OK);
	assert_int_equal(clones(f, "ok", 3, "fresh", 1000, &r), THAW_OK);
	thaw_result_free(&r);
}

static void test_client_leaves(void **state)
{
	struct fixture *f = *state;
	msgpack_packer *p;
	struct thaw *other;
	uint32_t id;

	assert_int_equal(make_template(f, "t", "", 0), THAW_OK);
	assert_int_equal(make_template(f, "s", "invoke-silent", 0), THAW_OK);
	/* Bound clones end with the connection, others do not. */
	for (int bind = 0; bind < 2; bind++) {
		assert_int_equal(
			thaw_connect(f->socket, &other, &f->e), THAW_OK);
		p = thaw_request(other, "clone", 3);
		thaw_pack_str(p, "template", "t");
		thaw_pack_u64(p, "count", 3);
		thaw_pack_bool(p, "bind", bind);
		assert_int_equal(
			thaw_call(other, PATIENCE_MS, NULL, &f->e), THAW_OK);
		thaw_close(other);
		wait_for(f, "connections", 1);
		wait_for(f, "machines", 3);
	}
	/* Requests whose client is gone come to their end. */
	assert_int_equal(thaw_connect(f->socket, &other, &f->e), THAW_OK);
	p = thaw_request(other, "invoke", 3);
	thaw_pack_str(p, "template", "s");
	thaw_pack_str(p, "payload", "x");
	thaw_pack_u64(p, "timeout_ms", 100);
	assert_int_equal(thaw_send(other, &id, &f->e), THAW_OK);
	thaw_close(other);
	wait_for(f, "connections", 1);
	wait_for(f, "active_requests", 0);
	wait_for(f, "machines", 3);
}

static void test_restart(void **state)
{
	struct fixture *f = *state;
	struct thaw_result r;

	assert_int_equal(make_template(f, "t", "", 2), THAW_OK);
	stop_daemon(f, SIGTERM);
	start_daemon(f);
	/* Requests wait until the template is back. */
	assert_int_equal(clones(f, "t", 3, "fresh", 5000, &r), THAW_OK);
	thaw_result_free(&r);
	wait_for(f, "parked", 2);
	/* A daemon that was killed leaves its socket: the next one takes it. */
	stop_daemon(f, SIGKILL);
	start_daemon(f);
	assert_int_equal(clones(f, "t", 3, "fresh", 5000, &r), THAW_OK);
	thaw_result_free(&r);
}

static void test_second_daemon(void **state)
{
	struct fixture *f = *state;
	int status = 0;
	pid_t pid = fork();

	if (pid == 0) {
		/* Its complaint is expected. */
		(void)!freopen("/dev/null", "w", stderr);
		exit(run_daemon(f));
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(WEXITSTATUS(status), 1);
	/* And the first one still serves. */
	assert_int_equal(gauge(f, "gauges", "templates"), 0);
}

/* The file is not there, the machine is as before, the daemon lives. */
static void snapshot_fails(struct fixture *f, const char *told, unsigned n)
{
	char path[100], id[16];
	msgpack_packer *p = thaw_request(f->t, "machine.create", 1);

	mp_str(p, "config");
	msgpack_pack_map(p, 1);
	mp_key_str(p, "cmdline", told);
	assert_int_equal(thaw_call(f->t, PATIENCE_MS, NULL, &f->e), THAW_OK);
	(void)snprintf(id, sizeof(id), "m-%u", n);
	(void)snprintf(path, sizeof(path), "%s/file", f->dir);
	p = thaw_request(f->t, "machine.snapshot", 2);
	thaw_pack_str(p, "id", id);
	thaw_pack_str(p, "path", path);
	assert_int_equal(
		thaw_call(f->t, PATIENCE_MS, NULL, &f->e), THAW_INTERNAL);
	assert_int_equal(access(path, F_OK), -1);
	assert_int_equal(thaw_machine_stop(f->t, id, &f->e), THAW_OK);
}

static void test_hostile_snapshots(void **state)
{
	struct fixture *f = *state;

	snapshot_fails(f, "snapshot-parent", 1);
	snapshot_fails(f, "snapshot-nobody", 2);
	snapshot_fails(f, "snapshot-dies", 3);
	snapshot_fails(f, "snapshot-raves", 4);
	expect_quiet(f);
	assert_int_equal(gauge(f, "counters", "snapshots_failed"), 4);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, set_up, tear_down)

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		TEST(test_path),
		TEST(test_large_payload),
		TEST(test_pool),
		TEST(test_limits),
		TEST(test_clones_that_fail),
		TEST(test_invokes_that_fail),
		TEST(test_stopped_on_its_way),
		TEST(test_machine_stopped_on_its_way),
		TEST(test_last_words),
		TEST(test_pool_backs_off),
		TEST(test_templates_that_fail),
		TEST(test_hostile_zygote),
		TEST(test_hostile_snapshots),
		TEST(test_client_leaves),
		TEST(test_restart),
		TEST(test_second_daemon),
	};

	if (argc > 1 && argv[1][0] == '-')
		return fake_machine_run(argc, argv);
	return cmocka_run_group_tests_name("daemon_flow", tests, NULL, NULL);
}
