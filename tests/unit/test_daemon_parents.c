/* Which files the daemon hands to a process that asks for parents. */
#include "api/daemon/parents.h"
#include "snapshot/format.h"
#include "tests/unit/test.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

struct rig {
	struct daemon d;
	struct proc p;
	struct ucred me;
	char dir[64];
	int other; /* the process's end of its socket */
};

static int set_up(void **state)
{
	struct rig *r = calloc(1, sizeof(*r));
	int pair[2];

	assert_non_null(r);
	(void)snprintf(r->dir, sizeof(r->dir), "/tmp/thaw-parents-XXXXXX");
	assert_non_null(mkdtemp(r->dir));
	assert_int_equal(
		socketpair(AF_UNIX,
			SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair),
		0);
	proc_init(&r->p, PROC_WRITER);
	r->p.sock = pair[0];
	r->other = pair[1];
	r->me = (struct ucred){.uid = geteuid(), .gid = getegid()};
	list_init(&r->d.templates);
	list_init(&r->d.machines);
	*state = r;
	return 0;
}

static int tear_down(void **state)
{
	struct rig *r = *state;
	char command[96];

	parents_free(r->p.parents);
	(void)close(r->p.sock);
	(void)close(r->other);
	(void)snprintf(command, sizeof(command), "rm -r %s", r->dir);
	assert_int_equal(system(command), 0);
	free(r);
	return 0;
}

static const char *path_of(const struct rig *r, const char *name)
{
	static char path[300]; /* until the next call */

	(void)snprintf(path, sizeof(path), "%s/%s", r->dir, name);
	return path;
}

/* A file that begins like a snapshot, or does not; its descriptor. */
static int make_file(const struct rig *r, const char *name, bool good)
{
	int fd = open(path_of(r, name), O_RDWR | O_CREAT | O_CLOEXEC, 0600);

	assert_true(fd >= 0);
	assert_int_equal(pwrite_full(fd, good ? SNAP_MAGIC : "somebody",
				 SNAP_MAGIC_SIZE, 0),
		0);
	return fd;
}

/* Is the file of this name handed out? where: to go on with. */
static bool asks(struct rig *r, const char *hint, uint32_t *where)
{
	static uint8_t buf[CTL_INLINE + 1]; /* too large for the stack */
	struct ctl_packet q = {.msg.type = CTL_PARENT}, p;
	char payload[200], *slash;
	struct stat a, b;
	bool given;

	q.msg.parent.attempt = *where;
	q.msg.len = (uint32_t)strlen(hint);
	(void)snprintf(payload, sizeof(payload), "%s", hint);
	q.payload = (uint8_t *)payload;
	parents_answer(&r->d, &r->p, &q);
	assert_int_equal(ctl_recv(r->other, &p, buf), 1);
	assert_int_equal(p.msg.type, CTL_PARENT);
	*where = p.msg.parent.attempt;
	given = ctl_fd(&p, CTL_FD_PARENT, 0) >= 0;
	assert_int_equal(p.msg.status == 0, given);
	if (given) {
		assert_int_equal(fstat(ctl_fd(&p, CTL_FD_PARENT, 0), &a), 0);
		slash = strrchr(payload, '/');
		assert_int_equal(
			stat(path_of(r, slash ? slash + 1 : payload), &b), 0);
		assert_int_equal(a.st_ino, b.st_ino);
	}
	ctl_packet_free(&p);
	return given;
}

static bool gets(struct rig *r, const char *hint)
{
	uint32_t where = 0;

	return asks(r, hint, &where);
}

/* A machine that is being restored. */
static void test_setup(void **state)
{
	struct rig *r = *state;
	int a = make_file(r, "a", true), c = make_file(r, "c", false);

	r->p.parents = parents_create(&r->me, path_of(r, "diff"), -1);
	assert_true(gets(r, "a"));
	assert_true(gets(r, path_of(r, "a")));
	assert_false(gets(r, "b"));
	assert_false(gets(r, "c"));
	/* beside it, although the hint is another place */
	assert_true(gets(r, "/nowhere/a"));
	parents_close(r->p.parents);
	assert_false(gets(r, "a"));
	(void)close(a);
	(void)close(c);
}

/* Who writes a diff gets what the machine builds on and nothing else. */
static void test_diff(void **state)
{
	struct rig *r = *state;
	int a = make_file(r, "a", true), b = make_file(r, "b", true),
	    c = make_file(r, "c", true);
	struct parents *on = parents_create(&r->me, path_of(r, "a"), a);

	assert_non_null(on);
	parents_push(on, path_of(r, "b"), b, true);
	r->p.parents = parents_of_diff(&r->me, path_of(r, "diff"), on, -1);
	parents_close(on);
	assert_true(gets(r, "b"));
	assert_true(gets(r, "a"));
	assert_false(gets(r, "c"));
	assert_false(gets(r, path_of(r, "c")));
	/* not even when it takes the place of one */
	assert_int_equal(unlink(path_of(r, "b")), 0);
	(void)close(make_file(r, "b", true));
	assert_false(gets(r, "b"));
	assert_true(gets(r, "a"));
	parents_free(r->p.parents);
	/* against a template: that only */
	r->p.parents = parents_of_diff(&r->me, NULL, on, c);
	assert_true(gets(r, path_of(r, "c")));
	assert_false(gets(r, path_of(r, "a")));
	/* no path, no parents */
	parents_free(r->p.parents);
	r->p.parents = parents_of_diff(&r->me, NULL, NULL, -1);
	assert_false(gets(r, path_of(r, "a")));
	assert_false(gets(r, ""));
	parents_free(on);
	(void)close(a);
	(void)close(b);
	(void)close(c);
}

/* Nobody keeps the daemon busy with questions. */
static void test_many(void **state)
{
	struct rig *r = *state;
	int a = make_file(r, "a", true);
	unsigned n = 0;

	r->p.parents = parents_create(&r->me, path_of(r, "diff"), -1);
	while (n < 1000 && gets(r, "a"))
		n++;
	assert_in_range(n, SNAP_MAX_CHAIN, 999);
	(void)close(a);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_setup, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_diff, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_many, set_up, tear_down),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
