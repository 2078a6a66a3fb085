/* Temporary names that a daemon left behind. */
#include "api/daemon/unfinished.h"
#include "tests/unit/test.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#define NAME "/.thaw-0123456789abcdef"

struct place {
	char top[64], state[80], dir[80], other[80];
	int fd;
};

static void touch(const char *dir, const char *name)
{
	char path[200];
	int fd;

	(void)snprintf(path, sizeof(path), "%s%s", dir, name);
	fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	(void)close(fd);
}

static bool there(const char *dir, const char *name)
{
	char path[200];
	struct stat st;

	(void)snprintf(path, sizeof(path), "%s%s", dir, name);
	return !lstat(path, &st);
}

static void make(struct place *p)
{
	(void)snprintf(p->top, sizeof(p->top), "/tmp/thaw-unfin-XXXXXX");
	assert_non_null(mkdtemp(p->top));
	(void)snprintf(p->state, sizeof(p->state), "%s/state", p->top);
	(void)snprintf(p->dir, sizeof(p->dir), "%s/dir", p->top);
	(void)snprintf(p->other, sizeof(p->other), "%s/other", p->top);
	assert_int_equal(mkdir(p->state, 0700), 0);
	assert_int_equal(mkdir(p->dir, 0700), 0);
	assert_int_equal(mkdir(p->other, 0700), 0);
	p->fd = open(p->dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
	assert_true(p->fd >= 0);
}

static void destroy(struct place *p)
{
	char cmd[100];

	(void)close(p->fd);
	(void)snprintf(cmd, sizeof(cmd), "rm -rf %s", p->top);
	assert_int_equal(system(cmd), 0);
}

static void test_left(void **state)
{
	struct place p = {.fd = -1};

	(void)state;
	make(&p);
	unfinished_clean(p.state); /* nothing there at all */
	assert_int_equal(unfinished_note(p.state, p.fd, p.dir, &NAME[1]), 0);
	touch(p.dir, NAME);
	touch(p.dir, "/.thaw-0123456789abcdee");
	unfinished_clean(p.state);
	assert_false(there(p.dir, NAME));
	assert_true(there(p.dir, "/.thaw-0123456789abcdee"));
	/* the record went, too */
	touch(p.dir, NAME);
	unfinished_clean(p.state);
	assert_true(there(p.dir, NAME));
	destroy(&p);
}

static void test_done(void **state)
{
	struct place p = {.fd = -1};

	(void)state;
	make(&p);
	assert_int_equal(unfinished_note(p.state, p.fd, p.dir, &NAME[1]), 0);
	unfinished_done(p.state, &NAME[1]);
	touch(p.dir, NAME);
	unfinished_clean(p.state);
	assert_true(there(p.dir, NAME));
	destroy(&p);
}

/* The client put something else in its directory's place. */
static void test_swapped(void **state)
{
	struct place p = {.fd = -1};
	char away[100];

	(void)state;
	make(&p);
	(void)snprintf(away, sizeof(away), "%s.away", p.dir);
	touch(p.other, NAME);
	assert_int_equal(unfinished_note(p.state, p.fd, p.dir, &NAME[1]), 0);
	assert_int_equal(rename(p.dir, away), 0);
	assert_int_equal(symlink(p.other, p.dir), 0);
	unfinished_clean(p.state);
	assert_true(there(p.other, NAME));
	destroy(&p);
}

/* Not what publishing makes: a directory, another kind of name. */
static void test_careful(void **state)
{
	struct place p = {.fd = -1};
	char path[200];

	(void)state;
	make(&p);
	(void)snprintf(path, sizeof(path), "%s" NAME, p.dir);
	assert_int_equal(unfinished_note(p.state, p.fd, p.dir, &NAME[1]), 0);
	assert_int_equal(mkdir(path, 0700), 0);
	assert_int_equal(unfinished_note(p.state, p.fd, p.dir, "precious"), 0);
	touch(p.dir, "/precious");
	unfinished_clean(p.state);
	assert_true(there(p.dir, NAME));
	assert_true(there(p.dir, "/precious"));
	destroy(&p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_left),
		cmocka_unit_test(test_done),
		cmocka_unit_test(test_swapped),
		cmocka_unit_test(test_careful),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
