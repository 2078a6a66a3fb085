/* thaw-agent: the handler process and the identity. */
#include "tests/unit/test.h"
#include "tests/unit/ta_rig.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>

/* The smallest handler: answers with its pid and the request. */
#define LOOP                                                                   \
	"#!/bin/sh\n"                                                          \
	"say() { printf '%s %d\\n%s' \"$1\" ${#2} \"$2\"; }\n"                 \
	"say ready ''\n"                                                       \
	"while read -r kind len; do\n"                                         \
	"  body=$(head -c \"$len\")\n"                                         \
	"  [ \"$kind\" = invoke ] || { news=$body; say ok ''; continue; }\n"

#define ECHO LOOP "say ok \"$$ $body\"; done\n"

static void invoke(struct ta_rig *r, const char *payload, uint64_t ms)
{
	tr_begin(r, "invoke", 2);
	mp_str(&r->pk, "payload");
	mp_bin(&r->pk, payload, strlen(payload));
	mp_key_u64(&r->pk, "timeout_ms", ms);
	tr_send(r);
}

static void ping_ready(struct ta_rig *r)
{
	tr_begin(r, "ping", 1);
	mp_key_bool(&r->pk, "ready", true);
	tr_send(r);
}

static void handler_stays_warm(void **state)
{
	struct ta_rig r;
	char first[64], second[64];

	(void)state;
	tr_init(&r);
	tr_handler(&r, ECHO);
	ping_ready(&r);
	assert_string_equal(tr_text(tr_result(&r), "handler"), "ready");
	invoke(&r, "one", 0);
	(void)snprintf(
		first, sizeof(first), "%s", tr_text(tr_result(&r), "payload"));
	invoke(&r, "one", 0);
	(void)snprintf(second, sizeof(second), "%s",
		tr_text(tr_result(&r), "payload"));
	assert_string_equal(first, second);
	assert_non_null(strstr(first, " one"));
	tr_fini(&r);
}

static void many_requests_in_order(void **state)
{
	struct ta_rig r;

	(void)state;
	tr_init(&r);
	tr_handler(&r, ECHO);
	for (int i = 0; i < 20; i++) {
		char text[16];

		(void)snprintf(text, sizeof(text), "n%d", i);
		invoke(&r, text, 0);
	}
	r.id = 0;
	for (int i = 0; i < 20; i++) {
		char want[16];

		r.id++;
		(void)snprintf(want, sizeof(want), " n%d", i);
		assert_non_null(
			strstr(tr_text(tr_result(&r), "payload"), want));
	}
	tr_fini(&r);
}

/* Every byte value, and more than a pipe holds, both ways. */
static void large_binary_payloads(void **state)
{
	size_t n = 3000000;
	uint8_t *big = malloc(n);
	const msgpack_object *o;
	struct ta_rig r;

	(void)state;
	for (size_t i = 0; i < n; i++)
		big[i] = (uint8_t)(i * 7 + i / 256);
	tr_init(&r);
	tr_handler(&r, "#!/bin/sh\n"
		       "printf 'ready 0\\n'\n"
		       "while read -r kind len; do\n"
		       "  printf 'ok %d\\n' $len; head -c $len\n"
		       "done\n");
	tr_begin(&r, "invoke", 1);
	mp_str(&r.pk, "payload");
	mp_bin(&r.pk, big, n);
	tr_send(&r);
	o = mp_get(tr_result(&r), "payload");
	assert_non_null(o);
	assert_int_equal(o->via.bin.size, n);
	assert_memory_equal(o->via.bin.ptr, big, n);
	free(big);
	tr_fini(&r);
}

static void its_errors_come_through(void **state)
{
	struct ta_rig r;

	(void)state;
	tr_init(&r);
	tr_handler(&r, LOOP "say error \"no $body here\"; done\n");
	invoke(&r, "tea", 0);
	assert_string_equal(tr_error(&r, "internal"), "no tea here");
	invoke(&r, "milk", 0);
	assert_string_equal(tr_error(&r, "internal"), "no milk here");
	tr_fini(&r);
}

static void one_that_dies_is_started_again(void **state)
{
	const char *text;
	struct ta_rig r;

	(void)state;
	tr_init(&r);
	tr_handler(&r, LOOP
		"[ \"$body\" != die ] || { echo 'out of tea' >&2; exit 3; }\n"
		"say ok \"$body\"; done\n");
	invoke(&r, "die", 0);
	text = tr_error(&r, "internal");
	assert_non_null(strstr(text, "exited with code 3"));
	assert_non_null(strstr(text, "out of tea"));
	invoke(&r, "live", 0);
	assert_string_equal(tr_text(tr_result(&r), "payload"), "live");
	tr_fini(&r);
}

static void one_that_hangs_is_killed(void **state)
{
	struct ta_rig r;
	pid_t pid;

	(void)state;
	tr_init(&r);
	tr_handler(&r, LOOP "[ \"$body\" != hang ] || sleep 1000\n"
			    "say ok \"$body\"; done\n");
	ping_ready(&r);
	(void)tr_result(&r);
	pid = r.t.h.pid;
	invoke(&r, "hang", 200);
	(void)tr_error(&r, "timeout");
	invoke(&r, "live", 0);
	assert_string_equal(tr_text(tr_result(&r), "payload"), "live");
	assert_int_not_equal(r.t.h.pid, pid);
	tr_fini(&r);
}

static void one_that_breaks_the_rules(void **state)
{
	static const char *const bad[] = {"echo hello", "say ready ''",
		"printf 'ok 99999999\\n'", "printf 'ok x\\n'",
		"printf 'ok 1\\nab'", "head -c 100 /dev/zero"};
	char script[1024];
	struct ta_rig r;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		tr_init(&r);
		(void)snprintf(script, sizeof(script),
			"%s[ \"$body\" != bad ] || { %s; sleep 1000; }\n"
			"say ok \"$body\"; done\n",
			LOOP, bad[i]);
		tr_handler(&r, script);
		invoke(&r, "bad", 0);
		if (strstr(bad[i], "nab")) /* the answer, then a stray byte */
			(void)tr_result(&r);
		else
			(void)tr_error(&r, "internal");
		invoke(&r, "good", 0);
		assert_string_equal(tr_text(tr_result(&r), "payload"), "good");
		tr_fini(&r);
	}
}

static void one_that_never_starts(void **state)
{
	const char *text;
	struct ta_rig r;

	(void)state;
	tr_init(&r);
	tr_handler(&r, "#!/bin/sh\necho 'No module named tea' >&2\nexit 1\n");
	ping_ready(&r);
	text = tr_error(&r, "internal");
	assert_non_null(strstr(text, "does not start"));
	assert_non_null(strstr(text, "No module named tea"));
	invoke(&r, "x", 0);
	assert_non_null(strstr(tr_error(&r, "internal"), "does not start"));
	/* A plain ping says how it is and does not wait. */
	tr_begin(&r, "ping", 0);
	tr_send(&r);
	(void)tr_result(&r);
	/* Mended meanwhile: it comes back by itself. */
	tr_file(&r, "handler", ECHO, 0755);
	while (r.t.h.state != TA_H_IDLE)
		(void)ta_step(&r.t, 50);
	invoke(&r, "x", 0);
	(void)tr_result(&r);
	tr_fini(&r);
}

static void none_is_configured(void **state)
{
	struct ta_rig r;

	(void)state;
	tr_init(&r);
	ping_ready(&r);
	assert_string_equal(tr_text(tr_result(&r), "handler"), "none");
	invoke(&r, "x", 0);
	(void)tr_error(&r, "unsupported");
	tr_begin(&r, "invoke", 0);
	tr_send(&r);
	(void)tr_error(&r, "invalid");
	tr_fini(&r);
}

/* ---- identity ---- */

static void identity(struct ta_rig *r, const char *hostname, uint8_t fill)
{
	uint8_t seed[64], id[16];

	memset(seed, fill, sizeof(seed));
	memset(id, fill, sizeof(id));
	tr_begin(r, "identity", 5);
	mp_key_str(&r->pk, "hostname", hostname);
	mp_str(&r->pk, "machine_id");
	mp_bin(&r->pk, id, sizeof(id));
	mp_str(&r->pk, "seed");
	mp_bin(&r->pk, seed, sizeof(seed));
	mp_key_u64(&r->pk, "wall_ns", 1234567890123456789);
	mp_str(&r->pk, "interfaces");
	msgpack_pack_array(&r->pk, 1);
	msgpack_pack_map(&r->pk, 4);
	mp_key_str(&r->pk, "match", "02:00:00:00:00:01");
	mp_key_str(&r->pk, "mac", "02:00:00:00:00:fe");
	mp_key_str(&r->pk, "ip", "10.1.2.3/24");
	mp_key_str(&r->pk, "gateway", "10.1.2.1");
	tr_send(r);
}

static const char *contents(struct ta_rig *r, const char *name)
{
	static char text[256]; /* global: for one comparison */
	char path[128];
	FILE *f;
	size_t n;

	(void)snprintf(path, sizeof(path), "%s/%s", r->dir, name);
	f = fopen(path, "re");
	assert_non_null(f);
	n = fread(text, 1, sizeof(text) - 1, f);
	text[n] = '\0';
	assert_int_equal(fclose(f), 0);
	return text;
}

static void identity_is_applied(void **state)
{
	const msgpack_object *o;
	char boot_id[64];
	uint8_t seed[64];
	struct ta_rig r;

	(void)state;
	tr_init(&r);
	ta_fake.eth[0] = 1;
	memset(seed, 0x5a, sizeof(seed));
	identity(&r, "clone-1", 0x5a);
	o = tr_result(&r);
	assert_string_equal(tr_text(o, "hostname"), "clone-1");
	assert_int_equal(mp_get(o, "addresses")->via.u64, 1);
	assert_string_equal(ta_fake.name, "clone-1");
	assert_memory_equal(ta_fake.seed, seed, sizeof(seed));
	assert_int_equal(ta_fake.wall, 1234567890123456789);
	assert_string_equal(ta_fake.n.ip, "10.1.2.3/24");
	assert_string_equal(ta_fake.n.gateway, "10.1.2.1");
	assert_int_equal(ta_fake.n.match[5], 1);
	assert_int_equal(ta_fake.n.mac[5], 0xfe);
	assert_string_equal(contents(&r, "etc/machine-id"),
		"5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a\n");
	assert_non_null(strstr(ta_fake.bound, "/random/boot_id"));
	(void)snprintf(boot_id, sizeof(boot_id), "%s",
		contents(&r, "run/thaw/boot_id"));
	assert_int_equal(strlen(boot_id), 37);
	assert_int_equal(boot_id[14], '4');
	/* Once more: bound already, another value. */
	identity(&r, "clone-2", 0x11);
	(void)tr_result(&r);
	assert_int_equal(ta_fake.bind, 1);
	assert_string_not_equal(boot_id, contents(&r, "run/thaw/boot_id"));
	tr_fini(&r);
}

static void identity_reaches_the_handler(void **state)
{
	const char *text;
	struct ta_rig r;

	(void)state;
	tr_init(&r);
	tr_handler(&r, LOOP "say ok \"$news\"; done\n");
	ping_ready(&r);
	(void)tr_result(&r);
	ta_fake.eth[0] = 1;
	identity(&r, "clone-9", 0x5a);
	(void)tr_result(&r);
	invoke(&r, "", 0);
	text = tr_text(tr_result(&r), "payload");
	assert_non_null(strstr(text, "hostname clone-9\n"));
	assert_non_null(strstr(text, "machine_id 5a5a5a5a"));
	tr_fini(&r);
}

/* Acknowledged only when the handler has heard of it: one that does not listen
 * is replaced by one that knows nothing of the old identity. */
static void a_deaf_handler_is_replaced(void **state)
{
	struct ta_rig r;
	pid_t pid;

	(void)state;
	tr_init(&r);
	tr_handler(&r, "#!/bin/sh\nprintf 'ready 0\\n'\nexec sleep 1000\n");
	ping_ready(&r);
	(void)tr_result(&r);
	pid = r.t.h.pid;
	ta_fake.eth[0] = 1;
	identity(&r, "clone-3", 1);
	(void)tr_result(&r);
	assert_int_not_equal(r.t.h.pid, pid);
	tr_fini(&r);
}

/* One that is busy is not disturbed and hears of it before its next request. */
static void a_busy_handler_hears_later(void **state)
{
	struct ta_rig r;
	uint64_t id;

	(void)state;
	tr_init(&r);
	tr_handler(&r, LOOP "sleep 0.3; say ok \"$news\"; done\n");
	ping_ready(&r);
	(void)tr_result(&r);
	invoke(&r, "", 0);
	id = r.id;
	ta_fake.eth[0] = 1;
	identity(&r, "clone-4", 1);
	(void)tr_result(&r);
	assert_int_equal(r.t.h.state, TA_H_BUSY);
	r.id = id;
	assert_string_equal(tr_text(tr_result(&r), "payload"), "");
	r.id = id + 1;
	invoke(&r, "", 0);
	assert_non_null(strstr(tr_text(tr_result(&r), "payload"), "clone-4"));
	tr_fini(&r);
}

static void pack_change(struct ta_rig *r, const char *match, const char *mac)
{
	msgpack_pack_map(&r->pk, 2);
	mp_key_str(&r->pk, "match", match);
	mp_key_str(&r->pk, "mac", mac);
}

static void change_two(struct ta_rig *r)
{
	tr_begin(r, "identity", 1);
	mp_str(&r->pk, "interfaces");
	msgpack_pack_array(&r->pk, 2);
	pack_change(r, "02:00:00:00:00:01", "02:00:00:00:00:02");
	pack_change(r, "02:00:00:00:00:02", "02:00:00:00:00:03");
	tr_send(r);
}

/* One gets the address that another one has until then. */
static void interfaces_are_found_before_they_change(void **state)
{
	struct ta_rig r;

	(void)state;
	tr_init(&r);
	ta_fake.eth[0] = 1;
	ta_fake.eth[1] = 2;
	change_two(&r);
	(void)tr_result(&r);
	assert_int_equal(ta_fake.eth[0], 2);
	assert_int_equal(ta_fake.eth[1], 3);
	tr_fini(&r);
}

/* And none changes if one of them is not there. */
static void interface_that_is_not_there(void **state)
{
	struct ta_rig r;

	(void)state;
	tr_init(&r);
	ta_fake.eth[1] = 1;
	change_two(&r);
	assert_non_null(strstr(tr_error(&r, "internal"), "02:00:00:00:00:02"));
	/* The first one's new address is the other's own, not done already. */
	ta_fake.eth[1] = 2;
	change_two(&r);
	assert_non_null(strstr(tr_error(&r, "internal"), "02:00:00:00:00:01"));
	assert_int_equal(ta_fake.netif, 0);
	tr_fini(&r);
}

static void a_step_that_fails_is_no_acknowledgement(void **state)
{
	struct ta_rig r;

	(void)state;
	tr_init(&r);
	ta_fake.fail = -1;
	identity(&r, "clone-5", 1);
	assert_non_null(strstr(tr_error(&r, "denied"), "generator"));
	assert_int_equal(ta_fake.hostname, 0);
	tr_fini(&r);
}

static void bad_identities(void **state)
{
	struct ta_rig r;

	(void)state;
	tr_init(&r);
	tr_begin(&r, "identity", 1);
	mp_key_str(&r.pk, "machine_id", "short");
	tr_send(&r);
	(void)tr_error(&r, "invalid");
	tr_begin(&r, "identity", 1);
	mp_key_u64(&r.pk, "hostname", 5);
	tr_send(&r);
	(void)tr_error(&r, "invalid");
	tr_begin(&r, "identity", 1);
	mp_str(&r.pk, "interfaces");
	msgpack_pack_array(&r.pk, 1);
	msgpack_pack_map(&r.pk, 2);
	mp_key_str(&r.pk, "name", "eth0");
	mp_key_str(&r.pk, "mac", "02:00:00");
	tr_send(&r);
	(void)tr_error(&r, "invalid");
	assert_int_equal(ta_fake.netif, 0);
	tr_fini(&r);
}

static void clock_alone(void **state)
{
	struct ta_rig r;

	(void)state;
	tr_init(&r);
	tr_begin(&r, "clock", 1);
	mp_key_u64(&r.pk, "wall_ns", 42);
	tr_send(&r);
	(void)tr_result(&r);
	assert_int_equal(ta_fake.wall, 42);
	assert_int_equal(ta_fake.clock, 1);
	assert_int_equal(ta_fake.hostname + ta_fake.entropy, 0);
	tr_fini(&r);
}

#ifdef __x86_64__
static void send_clock(struct ta_rig *r, uint64_t tsc, uint64_t khz)
{
	tr_begin(r, "clock", 3);
	mp_key_u64(&r->pk, "wall_ns", 42000000000);
	mp_key_u64(&r->pk, "tsc", tsc);
	mp_key_u64(&r->pk, "tsc_khz", khz);
	tr_send(r);
	(void)tr_result(r);
}

/* What has passed since the message was made is added, by the TSC. */
static void clock_by_tsc(void **state)
{
	struct ta_rig r;

	(void)state;
	tr_init(&r);
	/* 10^9 ticks a second: ten seconds ago */
	send_clock(&r, __builtin_ia32_rdtsc() - 10000000000, 1000000);
	assert_in_range(ta_fake.wall, 52000000000, 72000000000);
	/* The other one's TSC, or none that counts. */
	send_clock(&r, __builtin_ia32_rdtsc() + 1000000000, 1000000);
	assert_int_equal(ta_fake.wall, 42000000000);
	send_clock(&r, 0, 1);
	assert_int_equal(ta_fake.wall, 42000000000);
	send_clock(&r, __builtin_ia32_rdtsc(), 0);
	assert_int_equal(ta_fake.wall, 42000000000);
	tr_fini(&r);
}
#endif

static void command_line(void **state)
{
	struct ta_boot b;

	(void)state;
	ta_boot_parse(&b, "console=ttyS0 thaw.root=/dev/vda ro thaw.start=/bin/"
			  "x thaw.modules=a,b\n");
	assert_string_equal(b.root, "/dev/vda");
	assert_string_equal(b.start, "/bin/x");
	assert_string_equal(b.modules, "a,b");
	assert_string_equal(b.init, "");
	assert_true(b.read_only);
	ta_boot_parse(&b, "");
	assert_string_equal(b.root, "");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(handler_stays_warm),
		cmocka_unit_test(many_requests_in_order),
		cmocka_unit_test(large_binary_payloads),
		cmocka_unit_test(its_errors_come_through),
		cmocka_unit_test(one_that_dies_is_started_again),
		cmocka_unit_test(one_that_hangs_is_killed),
		cmocka_unit_test(one_that_breaks_the_rules),
		cmocka_unit_test(one_that_never_starts),
		cmocka_unit_test(none_is_configured),
		cmocka_unit_test(identity_is_applied),
		cmocka_unit_test(identity_reaches_the_handler),
		cmocka_unit_test(a_deaf_handler_is_replaced),
		cmocka_unit_test(a_busy_handler_hears_later),
		cmocka_unit_test(a_step_that_fails_is_no_acknowledgement),
		cmocka_unit_test(interfaces_are_found_before_they_change),
		cmocka_unit_test(interface_that_is_not_there),
		cmocka_unit_test(bad_identities),
		cmocka_unit_test(clock_alone),
#ifdef __x86_64__
		cmocka_unit_test(clock_by_tsc),
#endif
		cmocka_unit_test(command_line),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
