/* thaw-agent: requests, commands and files. The handler and the identity are
 * in test_linux_handler.c. */
#include "tests/unit/test.h"
#include "tests/unit/ta_rig.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>

static void pack_argv(struct ta_rig *r, const char *const *argv)
{
	uint32_t n = 0;

	while (argv[n])
		n++;
	mp_str(&r->pk, "argv");
	msgpack_pack_array(&r->pk, n);
	for (uint32_t i = 0; i < n; i++)
		mp_str(&r->pk, argv[i]);
}

/* "sh -c SCRIPT" with more parameters to come. */
static void begin_sh(struct ta_rig *r, const char *script, uint32_t more)
{
	const char *const argv[] = {"sh", "-c", script, NULL};

	tr_begin(r, "exec", 1 + more);
	pack_argv(r, argv);
}

static const msgpack_object *sh(struct ta_rig *r, const char *script)
{
	begin_sh(r, script, 0);
	tr_send(r);
	return tr_result(r);
}

/* ---- exec ---- */

static void exec_gives_code_and_streams(void **state)
{
	const msgpack_object *o;
	struct ta_rig r;

	(void)state;
	tr_init(&r);
	o = sh(&r, "echo out; echo err >&2; exit 7");
	assert_int_equal(tr_u64(o, "exit"), 7);
	assert_int_equal(tr_u64(o, "signal"), 0);
	assert_string_equal(tr_text(o, "stdout"), "out\n");
	assert_string_equal(tr_text(o, "stderr"), "err\n");
	assert_int_equal(tr_u64(o, "truncated"), 0);
	o = sh(&r, "kill -9 $$");
	assert_int_equal(tr_u64(o, "exit"), 137);
	assert_int_equal(tr_u64(o, "signal"), 9);
	tr_fini(&r);
}

static void exec_takes_stdin_env_and_cwd(void **state)
{
	const msgpack_object *o;
	struct ta_rig r;

	(void)state;
	tr_init(&r);
	begin_sh(&r, "cat; echo \"$GREETING $PWD\"", 3);
	mp_str(&r.pk, "stdin");
	mp_bin(&r.pk, "a\0b\n", 4);
	mp_str(&r.pk, "env");
	msgpack_pack_map(&r.pk, 1);
	mp_key_str(&r.pk, "GREETING", "hello=you");
	mp_key_str(&r.pk, "cwd", "/usr");
	tr_send(&r);
	o = tr_result(&r);
	assert_int_equal(tr_size(o, "stdout"), 19);
	assert_memory_equal(tr_text(o, "stdout"), "a\0b\nhello=you /usr\n", 19);
	/* PATH is still there: the request's environment comes on top. */
	o = sh(&r, "/usr/bin/env | grep -c ^PATH=");
	assert_string_equal(tr_text(o, "stdout"), "1\n");
	tr_fini(&r);
}

static void exec_of_nothing_is_refused(void **state)
{
	static const char *const none[] = {"/no/such/command", NULL};
	static const char *const empty[] = {NULL};
	struct ta_rig r;

	(void)state;
	tr_init(&r);
	tr_begin(&r, "exec", 1);
	pack_argv(&r, none);
	tr_send(&r);
	assert_non_null(strstr(tr_error(&r, "not_found"), "/no/such/command"));
	tr_begin(&r, "exec", 1);
	pack_argv(&r, empty);
	tr_send(&r);
	(void)tr_error(&r, "invalid");
	tr_begin(&r, "exec", 0);
	tr_send(&r);
	(void)tr_error(&r, "invalid");
	begin_sh(&r, "true", 1);
	mp_key_str(&r.pk, "cwd", "/no/such/place");
	tr_send(&r);
	assert_non_null(strstr(tr_error(&r, "not_found"), "/no/such/place"));
	begin_sh(&r, "true", 1);
	mp_key_str(&r.pk, "env", "no map");
	tr_send(&r);
	(void)tr_error(&r, "invalid");
	tr_begin(&r, "exec", 1);
	mp_str(&r.pk, "argv");
	msgpack_pack_array(&r.pk, 1);
	mp_strn(&r.pk, "a\0b", 3);
	tr_send(&r);
	(void)tr_error(&r, "invalid");
	tr_fini(&r);
}

static void exec_bounds_output(void **state)
{
	const msgpack_object *o;
	struct ta_rig r;

	(void)state;
	tr_init(&r);
	o = sh(&r, "head -c 3000000 /dev/zero; echo done >&2");
	assert_int_equal(tr_size(o, "stdout"), TA_MAX_OUTPUT);
	assert_int_equal(tr_u64(o, "truncated"), 1);
	assert_string_equal(tr_text(o, "stderr"), "done\n");
	tr_fini(&r);
}

static void exec_ends_at_its_time(void **state)
{
	const msgpack_object *o;
	struct ta_rig r;

	(void)state;
	tr_init(&r);
	/* The whole group goes, also what the shell started. */
	begin_sh(&r, "echo begun; sleep 1000; echo never", 1);
	mp_key_u64(&r.pk, "timeout_ms", 200);
	tr_send(&r);
	o = tr_result(&r);
	assert_int_equal(tr_u64(o, "timed_out"), 1);
	assert_int_equal(tr_u64(o, "signal"), SIGKILL);
	assert_string_equal(tr_text(o, "stdout"), "begun\n");
	tr_fini(&r);
}

static void exec_does_not_wait_for_survivors(void **state)
{
	const msgpack_object *o;
	struct ta_rig r;

	(void)state;
	tr_init(&r);
	o = sh(&r, "sleep 30 & echo $!; echo last");
	assert_non_null(strstr(tr_text(o, "stdout"), "\nlast\n"));
	assert_int_equal(kill((pid_t)atoi(tr_text(o, "stdout")), SIGKILL), 0);
	tr_fini(&r);
}

/* Streamed output until the result: its exit code; bytes of both streams. */
static uint64_t drain(struct ta_rig *r, size_t got[2])
{
	got[0] = got[1] = 0;
	for (;;) {
		const msgpack_object *o = tr_next(r), *f;
		uint64_t stream;

		if (!o) {
			fail_msg("the agent hung up");
			return 0;
		}
		f = o->via.array.ptr;
		if (o->via.array.size == 4)
			return tr_u64(&f[3], "exit");
		assert_int_equal(f[0].via.u64, 2);
		assert_true(mp_str_eq(&f[1], "output"));
		f = f[2].via.array.ptr;
		assert_int_equal(tr_u64(f, "id"), r->id);
		stream = tr_u64(f, "stream");
		assert_in_range(stream, 1, 2);
		got[stream - 1] += tr_size(f, "data");
	}
}

static void exec_streams(void **state)
{
	struct ta_rig r;
	size_t got[2];

	(void)state;
	tr_init(&r);
	begin_sh(&r, "head -c 5000000 /dev/zero; echo end >&2; exit 3", 1);
	mp_key_bool(&r.pk, "stream", true);
	tr_send(&r);
	assert_int_equal(drain(&r, got), 3);
	assert_int_equal(got[0], 5000000);
	assert_int_equal(got[1], 4);
	tr_fini(&r);
}

/* A reader that does not read must not fill the agent's memory. */
static void stream_waits_for_its_reader(void **state)
{
	struct ta_rig r;
	size_t got[2];

	(void)state;
	tr_init(&r);
	begin_sh(&r, "head -c 30000000 /dev/zero", 1);
	mp_key_bool(&r.pk, "stream", true);
	tr_send(&r);
	for (int i = 0; i < 300; i++)
		(void)ta_step(&r.t, 1);
	assert_true(r.t.conn[0].out.len < 3 * MIB);
	assert_int_equal(drain(&r, got), 0);
	assert_int_equal(got[0], 30000000);
	tr_fini(&r);
}

static void send_input(
	struct ta_rig *r, uint64_t id, const void *p, size_t n, bool eof)
{
	tr_begin(r, "input", 3);
	mp_key_u64(&r->pk, "id", id);
	mp_str(&r->pk, "data");
	mp_bin(&r->pk, p, n);
	mp_key_bool(&r->pk, "eof", eof);
	tr_send(r);
}

static void input_reaches_the_command(void **state)
{
	const msgpack_object *o;
	struct ta_rig r;
	char *big = calloc(1, 1000000);
	uint64_t id;

	(void)state;
	tr_init(&r);
	begin_sh(&r, "wc -c", 1);
	mp_key_bool(&r.pk, "stdin_open", true);
	tr_send(&r);
	id = r.id;
	for (int i = 0; i < 3; i++) {
		send_input(&r, id, big, 1000000, false);
		assert_int_equal(tr_u64(tr_result(&r), "closed"), 0);
	}
	send_input(&r, id, "x", 1, true);
	assert_int_equal(tr_u64(tr_result(&r), "closed"), 0);
	r.id = id;
	o = tr_result(&r);
	assert_string_equal(tr_text(o, "stdout"), "3000001\n");
	free(big);
	/* It has ended. */
	r.id = 100;
	send_input(&r, id, "x", 1, true);
	(void)tr_error(&r, "not_found");
	tr_fini(&r);
}

static void input_that_nobody_wants(void **state)
{
	struct ta_rig r;
	char *big = calloc(1, 1000000);
	uint64_t id;

	(void)state;
	tr_init(&r);
	begin_sh(&r, "exec <&-; sleep 1000", 1);
	mp_key_bool(&r.pk, "stdin_open", true);
	tr_send(&r);
	id = r.id;
	send_input(&r, id, big, 1000000, false);
	assert_int_equal(tr_u64(tr_result(&r), "closed"), 1);
	tr_begin(&r, "signal", 2);
	mp_key_u64(&r.pk, "id", id);
	mp_key_u64(&r.pk, "signal", SIGTERM);
	tr_send(&r);
	(void)tr_result(&r);
	r.id = id;
	assert_int_equal(tr_u64(tr_result(&r), "signal"), SIGTERM);
	free(big);
	tr_fini(&r);
}

static void commands_end_with_their_connection(void **state)
{
	pid_t pid;
	struct ta_rig r;

	(void)state;
	tr_init(&r);
	begin_sh(&r, "sleep 1000", 0);
	tr_send(&r);
	pid = r.t.exec[0].pid;
	assert_int_equal(kill(pid, 0), 0);
	(void)close(r.fd);
	r.fd = -1;
	for (int i = 0; i < 5000 && !kill(pid, 0); i++)
		(void)ta_step(&r.t, 10);
	assert_int_equal(kill(pid, 0), -1);
	assert_false(r.t.exec[0].used);
	tr_fini(&r);
}

/* ---- files ---- */

static void put(struct ta_rig *r, const char *path, const char *text,
	uint64_t offset, bool eof)
{
	tr_begin(r, "put", 5);
	mp_key_str(&r->pk, "path", path);
	mp_str(&r->pk, "data");
	mp_bin(&r->pk, text, strlen(text));
	mp_key_u64(&r->pk, "mode", 0751);
	mp_key_u64(&r->pk, "offset", offset);
	mp_key_bool(&r->pk, "eof", eof);
	tr_send(r);
}

static void get(struct ta_rig *r, const char *path, uint64_t offset, uint64_t n)
{
	tr_begin(r, "get", 3);
	mp_key_str(&r->pk, "path", path);
	mp_key_u64(&r->pk, "offset", offset);
	mp_key_u64(&r->pk, "length", n);
	tr_send(r);
}

static void put_and_get_in_pieces(void **state)
{
	const msgpack_object *o;
	struct stat st;
	struct ta_rig r;
	char path[128];

	(void)state;
	tr_init(&r);
	(void)snprintf(path, sizeof(path), "%s/etc/f", r.dir);
	put(&r, "/etc/f", "hello ", 0, false);
	assert_int_equal(tr_u64(tr_result(&r), "size"), 6);
	assert_int_equal(stat(path, &st), -1);
	put(&r, "/etc/f", "world", 5, true); /* a gap or an overlap */
	(void)tr_error(&r, "invalid");
	put(&r, "/etc/f", "world", 6, true);
	assert_int_equal(tr_u64(tr_result(&r), "size"), 11);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0751);
	get(&r, "/etc/f", 0, 6);
	o = tr_result(&r);
	assert_string_equal(tr_text(o, "data"), "hello ");
	assert_int_equal(tr_u64(o, "eof"), 0);
	assert_int_equal(tr_u64(o, "size"), 11);
	assert_int_equal(tr_u64(o, "mode"), 0751);
	get(&r, "/etc/f", 6, 6);
	o = tr_result(&r);
	assert_string_equal(tr_text(o, "data"), "world");
	assert_int_equal(tr_u64(o, "eof"), 1);
	tr_fini(&r);
}

static void put_keeps_a_link(void **state)
{
	struct stat st;
	struct ta_rig r;
	char path[128];

	(void)state;
	tr_init(&r);
	tr_file(&r, "etc/real", "old", 0600);
	(void)snprintf(path, sizeof(path), "%s/etc/link", r.dir);
	assert_int_equal(symlink("real", path), 0);
	put(&r, "/etc/link", "new", 0, true);
	(void)tr_result(&r);
	assert_int_equal(lstat(path, &st), 0);
	assert_true(S_ISLNK(st.st_mode));
	get(&r, "/etc/real", 0, 100);
	assert_string_equal(tr_text(tr_result(&r), "data"), "new");
	tr_fini(&r);
}

/* "name" counts only where the path is a directory. */
static void put_into_a_directory(void **state)
{
	static const char *const to[] = {"/etc", "/etc/", "/etc/other"};
	struct ta_rig r;

	(void)state;
	tr_init(&r);
	for (size_t i = 0; i < 3; i++) {
		tr_begin(&r, "put", 3);
		mp_key_str(&r.pk, "path", to[i]);
		mp_key_str(&r.pk, "name", "f");
		mp_key_str(&r.pk, "data", to[i]);
		tr_send(&r);
		(void)tr_result(&r);
		get(&r, i < 2 ? "/etc/f" : "/etc/other", 0, 100);
		assert_string_equal(tr_text(tr_result(&r), "data"), to[i]);
	}
	tr_begin(&r, "put", 3);
	mp_key_str(&r.pk, "path", "/etc");
	mp_key_str(&r.pk, "name", "../f");
	mp_key_str(&r.pk, "data", "");
	tr_send(&r);
	(void)tr_error(&r, "invalid");
	tr_fini(&r);
}

static void bad_files_are_refused(void **state)
{
	struct ta_rig r;
	char path[128];

	(void)state;
	tr_init(&r);
	put(&r, "etc/relative", "x", 0, true);
	(void)tr_error(&r, "invalid");
	put(&r, "/no/such/dir/f", "x", 0, true);
	(void)tr_error(&r, "not_found");
	put(&r, "/etc", "x", 0, true);
	(void)tr_error(&r, "invalid");
	(void)snprintf(path, sizeof(path), "%s/etc/fifo", r.dir);
	assert_int_equal(mkfifo(path, 0600), 0);
	get(&r, "/etc/fifo", 0, 10);
	(void)tr_error(&r, "invalid");
	get(&r, "/etc", 0, 10);
	(void)tr_error(&r, "invalid");
	get(&r, "/etc/none", 0, 10);
	(void)tr_error(&r, "not_found");
	get(&r, "/etc/none", 0, TA_MAX_CHUNK + 1);
	(void)tr_error(&r, "invalid");
	tr_fini(&r);
}

/* ---- requests ---- */

static void nonsense_ends_the_connection(void **state)
{
	static const struct {
		const char *bytes;
		size_t n;
	} bad[] = {
		{"\xc1", 1},
		{"\x01", 1},
		{"\x94\x00\x01\xa4ping\x91\x01", 10},
		{"\x94\x05\x01\xa4ping\x90", 9},
		{"\xdd\xff\xff\xff\xff", 5},
		{"\xc6\x7f\xff\xff\xff", 5},
	};
	const msgpack_object *o;
	struct ta_rig r;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		tr_init(&r);
		tr_bytes(&r, bad[i].bytes, bad[i].n);
		o = tr_next(&r);
		assert_non_null(o);
		assert_int_equal(o->via.array.ptr[1].type, MSGPACK_OBJECT_NIL);
		assert_null(tr_next(&r));
		assert_int_equal(r.t.conn[0].fd, -1);
		tr_fini(&r);
	}
}

static void unknown_methods_and_pieces(void **state)
{
	struct ta_rig r;

	(void)state;
	tr_init(&r);
	tr_begin(&r, "fly", 0);
	tr_send(&r);
	(void)tr_error(&r, "not_found");
	tr_begin(&r, "ping", 0);
	for (size_t i = 0; i < r.out.len; i++)
		tr_bytes(&r, buf_data(&r.out) + i, 1);
	buf_free(&r.out);
	assert_string_equal(tr_text(tr_result(&r), "agent"), "linux");
	tr_begin(&r, "poweroff", 0);
	tr_send(&r);
	(void)tr_result(&r);
	assert_int_equal(ta_fake.poweroff, 1);
	tr_fini(&r);
}

/* A peer that asks and shuts its side still gets the answer. */
static void half_closed_peers_are_answered(void **state)
{
	struct ta_rig r;

	(void)state;
	tr_init(&r);
	begin_sh(&r, "sleep 0.2; echo late", 0);
	tr_send(&r);
	assert_int_equal(shutdown(r.fd, SHUT_WR), 0);
	assert_string_equal(tr_text(tr_result(&r), "stdout"), "late\n");
	assert_null(tr_next(&r));
	tr_fini(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(exec_gives_code_and_streams),
		cmocka_unit_test(exec_takes_stdin_env_and_cwd),
		cmocka_unit_test(exec_of_nothing_is_refused),
		cmocka_unit_test(exec_bounds_output),
		cmocka_unit_test(exec_ends_at_its_time),
		cmocka_unit_test(exec_does_not_wait_for_survivors),
		cmocka_unit_test(exec_streams),
		cmocka_unit_test(stream_waits_for_its_reader),
		cmocka_unit_test(input_reaches_the_command),
		cmocka_unit_test(input_that_nobody_wants),
		cmocka_unit_test(commands_end_with_their_connection),
		cmocka_unit_test(put_and_get_in_pieces),
		cmocka_unit_test(put_keeps_a_link),
		cmocka_unit_test(put_into_a_directory),
		cmocka_unit_test(bad_files_are_refused),
		cmocka_unit_test(nonsense_ends_the_connection),
		cmocka_unit_test(unknown_methods_and_pieces),
		cmocka_unit_test(half_closed_peers_are_answered),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
