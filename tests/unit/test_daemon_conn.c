/*
 * Clients that go away or do not read, while the daemon is in the middle of
 * something else. No process and no event loop: the test calls the functions in
 * the order in which the loop would.
 */
#include "api/daemon/conn.h"
#include "api/daemon/console.h"
#include "api/daemon/events.h"
#include "api/daemon/machine.h"
#include "api/daemon/template.h"
#include "tests/unit/test.h"

#include "core/log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

/* A loop that never ends is a failure, too. */
#define PATIENCE_S 20

static int set_up(void **state)
{
	struct daemon *d = calloc(1, sizeof(*d));

	daemon_prepare(d);
	if (strmap_init(&d->machine_by_id) ||
		strmap_init(&d->template_by_name) || loop_init(&d->loop))
		return -1;
	*state = d;
	(void)alarm(PATIENCE_S);
	log_init("thawd", LOG_ERROR);
	return 0;
}

static int tear_down(void **state)
{
	daemon_fini(*state);
	free(*state);
	(void)alarm(0);
	return 0;
}

/* A connection that wants events; *peer is the client's end. */
static struct conn *subscriber(struct daemon *d, int *peer)
{
	struct conn *c;
	int pair[2];

	assert_int_equal(
		socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC,
			0, pair),
		0);
	conn_create(d, pair[0]);
	c = container_of(d->conns.prev, struct conn, link);
	list_add(&d->subscribers, &c->subscribed);
	*peer = pair[1];
	return c;
}

static struct machine_entry *bound_machine(
	struct daemon *d, struct conn *c, const char *id)
{
	struct machine_entry *m = machine_create_entry(d, ENTRY_MACHINE, id);

	assert_non_null(m);
	m->state = ENTRY_RUNNING;
	machine_bind(m, c);
	return m;
}

static unsigned length(const struct list *l)
{
	unsigned n = 0;

	list_for_each(it, l)
	{
		assert_true(n < 100);
		n++;
	}
	return n;
}

/* Each one's end tells the daemon of the next one's. */
static void test_subscribers_gone(void **state)
{
	struct daemon *d = *state;
	struct machine_entry *m = NULL;
	struct err why = {.code = -EIO, .msg = "a test"};

	for (int i = 0; i < 5; i++) {
		struct conn *c;
		char id[16];
		int peer;

		(void)snprintf(id, sizeof(id), "m-%d", i);
		c = subscriber(d, &peer);
		(void)close(peer);
		m = bound_machine(d, c, id);
	}
	machine_kill(d, m, &why);
	conns_close_doomed(d);
	assert_int_equal(d->nconns, 0);
	assert_true(list_empty(&d->subscribers));
	assert_int_equal(d->nmachines, 0);
	assert_int_equal(d->nended, 5);
	assert_int_equal(length(&d->ended), 5);
	assert_int_equal(length(&d->machines), 0);
}

/* What waits for a client is bounded, also after its last request. */
static void test_never_reads(void **state)
{
	struct daemon *d = *state;
	struct template t = {.name = "t"};

	for (int closing = 0; closing < 2; closing++) {
		struct conn *c;
		int peer;

		c = subscriber(d, &peer);
		memset(t.error, 'x', sizeof(t.error) - 1);
		c->closing = closing;
		for (size_t sent = 0; sent < 2UL * CONN_OUT_MAX; sent += 300) {
			events_template(d, "template.failed", &t);
			assert_true(c->out.size <=
				    CONN_OUT_MAX + 10 * KIB + CONN_OUT_PAUSE);
		}
		conns_close_doomed(d);
		assert_int_equal(d->nconns, 0);
		(void)close(peer);
	}
}

/* The clones of a new template are not taken for those of one of the same name
 * that was removed. */
static void test_id_again(void **state)
{
	struct daemon *d = *state;
	struct err why = {.code = -EIO, .msg = "a test"};
	struct machine_entry *m[900];
	char id[16];

	for (int round = 0; round < 2; round++) {
		/* Enough for the map of ids to grow in each round. */
		unsigned count = round ? ARRAY_SIZE(m) : 600;

		for (unsigned i = 0; i < count; i++) {
			(void)snprintf(id, sizeof(id), "t-%u", i);
			m[i] = machine_create_entry(d, ENTRY_MACHINE, id);
			assert_non_null(m[i]);
			for (unsigned k = 0; k <= i; k++) {
				(void)snprintf(id, sizeof(id), "t-%u", k);
				assert_ptr_equal(machine_find(d, id), m[k]);
			}
		}
		for (unsigned i = 0; i < count; i++)
			machine_kill(d, m[i], &why);
		assert_int_equal(d->nended, MAX_ENDED);
	}
}

/* The daemon opens a pipe or terminal again, with its own rights. */
static void test_console_rights(void **state)
{
	static const int modes[] = {O_RDONLY, O_PATH, O_WRONLY, O_RDWR};
	struct daemon *d = *state;
	struct machine_entry *m;
	struct err e = {0};

	for (size_t i = 0; i < ARRAY_SIZE(modes); i++) {
		bool may = i >= 2;
		char id[16];

		(void)snprintf(id, sizeof(id), "m-%zu", i);
		m = machine_create_entry(d, ENTRY_MACHINE, id);
		assert_non_null(m);
		assert_int_equal(
			console_attach(
				m, open("/dev/null", modes[i] | O_CLOEXEC), &e),
			may ? 0 : -EACCES);
		machine_discard(d, m);
	}
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_subscribers_gone),
		TEST(test_never_reads),
		TEST(test_id_again),
		TEST(test_console_rights),
	};

	return cmocka_run_group_tests_name("daemon_conn", tests, NULL, NULL);
}
