/*
 * A pager process that was taken over: whatever it says to the daemon, only
 * machines that it feeds are concerned, and nothing of the daemon.
 */
#include "api/daemon/feed.h"
#include "api/daemon/template.h"
#include "tests/unit/test.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

struct rig {
	struct daemon d;
	struct template *t;
	struct feed *f;
	struct machine_entry *mine, *other; /* fed by .f, by another one */
	struct feed *g;                     /* feeds .other, has no process */
	pid_t child;                        /* the pager's process */
	int sock;                           /* its end */
	unsigned answers;
	struct err why; /* of the last answer */
	int status;
};

static struct feed *feed_make(struct rig *r)
{
	struct feed *f = calloc(1, sizeof(*f));

	assert_non_null(f);
	proc_init(&f->p, PROC_PAGER);
	f->state = FEED_RUNNING;
	f->stats_fd = -1;
	list_add(&r->d.feeds, &f->link);
	return f;
}

static struct machine_entry *machine_make(
	struct rig *r, struct feed *f, const char *id)
{
	struct machine_entry *m =
		machine_create_entry(&r->d, ENTRY_MACHINE, id);

	assert_non_null(m);
	m->state = ENTRY_RUNNING;
	m->feed = f;
	m->feed_id = 1;
	f->nmachines++;
	return m;
}

static void process_make(struct rig *r)
{
	int pair[2], pidfd;

	assert_int_equal(
		socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
	r->child = fork();
	if (r->child == 0) {
		for (;;)
			(void)pause();
	}
	assert_true(r->child > 0);
	pidfd = (int)syscall(SYS_pidfd_open, r->child, 0);
	assert_true(pidfd >= 0);
	assert_int_equal(
		proc_adopt(&r->d, &r->f->p, pair[0], pidfd, getpid()), 0);
	r->f->p.pid = r->child;
	r->f->p.trusted = true;
	r->sock = pair[1];
}

static int set_up(void **state)
{
	struct rig *r = calloc(1, sizeof(*r));

	assert_non_null(r);
	daemon_prepare(&r->d);
	r->d.ctl_buf = malloc(CTL_INLINE + 1);
	assert_non_null(r->d.ctl_buf);
	assert_int_equal(strmap_init(&r->d.machine_by_id), 0);
	assert_int_equal(strmap_init(&r->d.template_by_name), 0);
	assert_int_equal(loop_init(&r->d.loop), 0);
	r->t = calloc(1, sizeof(*r->t));
	assert_non_null(r->t);
	(void)snprintf(r->t->name, sizeof(r->t->name), "lazy");
	r->f = feed_make(r);
	r->f->t = r->t;
	r->g = feed_make(r);
	r->g->t = r->t;
	r->mine = machine_make(r, r->f, "m-1");
	r->other = machine_make(r, r->g, "m-2");
	process_make(r);
	*state = r;
	return 0;
}

static int tear_down(void **state)
{
	struct rig *r = *state;

	(void)close(r->sock);
	/* Ends the machines, the feeds and the process, and waits for it. */
	daemon_fini(&r->d);
	assert_int_equal(waitpid(r->child, NULL, WNOHANG), -1);
	free(r->t);
	free(r);
	return 0;
}

/* The daemon reads all that was said. */
static void heard(struct rig *r)
{
	proc_ctl_event(&r->d, &r->f->p, EPOLLIN);
}

static void say(struct rig *r, struct ctl_msg *m, const void *text)
{
	assert_int_equal(ctl_send(r->sock, m, text, NULL, 0), 0);
	heard(r);
}

static struct ctl_msg paged(uint32_t type, uint64_t id, int64_t code)
{
	struct ctl_msg m = {.type = CTL_PAGER};

	m.paged.type = type;
	m.paged.id = id;
	m.paged.code = code;
	return m;
}

static bool runs(const struct machine_entry *m)
{
	return m->state == ENTRY_RUNNING;
}

/* Nothing came of it. */
static void as_before(const struct rig *r)
{
	assert_true(runs(r->mine));
	assert_true(runs(r->other));
	assert_int_equal(r->f->state, FEED_RUNNING);
	assert_true(r->f->p.sock >= 0);
	assert_int_equal(waitpid(r->child, NULL, WNOHANG), 0);
}

static void unknown_ids(void **state)
{
	static const uint64_t ids[] = {0, 2, UINT32_MAX, UINT64_MAX};
	struct rig *r = *state;
	struct ctl_msg m;

	for (size_t i = 0; i < ARRAY_SIZE(ids); i++) {
		m = paged(PAGER_FAILED, ids[i], -EIO);
		say(r, &m, NULL);
		as_before(r);
	}
	/* Its own number 1, and nobody else's. */
	m = paged(PAGER_FAILED, 1, -EIO);
	say(r, &m, NULL);
	assert_int_equal(r->mine->state, ENTRY_ENDED);
	assert_true(runs(r->other));
	/* It has ended already. */
	say(r, &m, NULL);
	assert_true(runs(r->other));
}

static void unknown_types(void **state)
{
	static const uint32_t types[] = {0, CTL_SETUP, CTL_UFFD, CTL_CLONED,
		CTL_REAPED, CTL_ENDED, CTL_CONSOLE, CTL_DIAL, CTL_PARENT, 1000,
		UINT32_MAX};
	static const uint32_t events[] = {
		0, PAGER_SET_DONE, PAGER_ALIVE, 99, UINT32_MAX};
	struct rig *r = *state;

	for (size_t i = 0; i < ARRAY_SIZE(types); i++) {
		struct ctl_msg m = {.type = types[i]};

		memset(m.pad, 0xff, sizeof(m.pad));
		say(r, &m, NULL);
		as_before(r);
	}
	for (size_t i = 0; i < ARRAY_SIZE(events); i++) {
		struct ctl_msg m = paged(events[i], 1, -EIO);

		say(r, &m, NULL);
		as_before(r);
	}
}

/* Its text is cut, and printable; its code is an errno. */
static void texts(void **state)
{
	struct rig *r = *state;
	struct ctl_msg m = paged(PAGER_FAILED, 1, INT64_MIN);
	uint8_t text[4000];
	size_t n;

	for (size_t i = 0; i < sizeof(text); i++)
		text[i] = (uint8_t)(i * 7);
	m.len = sizeof(text);
	say(r, &m, text);
	assert_int_equal(r->mine->state, ENTRY_ENDED);
	assert_non_null(r->mine->end_text);
	n = strlen(r->mine->end_text);
	assert_true(n > 20 && n < 600);
	for (size_t i = 0; i < n; i++)
		assert_true(r->mine->end_text[i] >= ' ' &&
			    r->mine->end_text[i] <= '~');
	m = paged(PAGER_DAMAGED, 0, -EBADMSG);
	m.len = sizeof(text);
	say(r, &m, text);
	n = strlen(r->f->damaged);
	assert_true(n > 20 && n < sizeof(r->f->damaged));
	for (size_t i = 0; i < n; i++)
		assert_true(r->f->damaged[i] >= ' ' && r->f->damaged[i] <= '~');
}

/* After the end of its work it has no say any more. */
static void after_completion(void **state)
{
	struct rig *r = *state;
	struct ctl_msg m = paged(PAGER_FAILED, 1, -EIO);

	r->f->state = FEED_COMPLETE;
	say(r, &m, NULL);
	m = paged(PAGER_COMPLETE, 1, 0);
	say(r, &m, NULL);
	m = paged(PAGER_DAMAGED, 1, -EBADMSG);
	say(r, &m, NULL);
	assert_int_equal(r->f->state, FEED_COMPLETE);
	assert_int_equal(r->f->damaged[0], 0);
	assert_true(runs(r->mine));
}

static void on_answer(
	struct daemon *d, void *arg, struct ctl_packet *p, const struct err *e)
{
	struct rig *r = arg;

	(void)d;
	r->answers++;
	r->status = p ? p->msg.status : 0;
	if (e)
		r->why = *e;
}

/* Answers count once, and only to what was asked. */
static void answers(void **state)
{
	struct rig *r = *state;
	struct ctl_msg m = {.type = CTL_ALIVE};
	struct err e = {0};
	uint32_t req;

	assert_int_equal(proc_call(&r->d, &r->f->p,
				 &(struct proc_request){
					 .m = &m, .fn = on_answer, .arg = r},
				 &e),
		0);
	req = m.req;
	m = (struct ctl_msg){
		.type = CTL_ALIVE, .flags = CTL_F_REPLY, .req = req + 1};
	say(r, &m, NULL);
	m = (struct ctl_msg){
		.type = CTL_RECORDED, .flags = CTL_F_REPLY, .req = req};
	say(r, &m, NULL);
	m = (struct ctl_msg){.type = CTL_ALIVE, .flags = CTL_F_REPLY};
	say(r, &m, NULL);
	assert_int_equal(r->answers, 0);
	m = (struct ctl_msg){.type = CTL_ALIVE,
		.flags = CTL_F_REPLY,
		.req = req,
		.status = INT_MIN,
		.len = 3};
	say(r, &m, "\x1b[m");
	assert_int_equal(r->answers, 1);
	assert_int_equal(r->why.code, -EIO);
	assert_string_equal(r->why.msg, "?[m");
	say(r, &m, "\x1b[m");
	assert_int_equal(r->answers, 1);
	as_before(r);
}

/* One that cannot even be read: the process ends, which feed_gone() then sees.
 */
static void end_of(struct rig *r, const void *packet, size_t n)
{
	siginfo_t si = {0};

	assert_int_equal(send(r->sock, packet, n, 0), n);
	heard(r);
	assert_int_equal(r->f->p.sock, -1);
	/* The daemon waits for it, too. */
	assert_int_equal(
		waitid(P_PID, (id_t)r->child, &si, WEXITED | WNOWAIT), 0);
	assert_true(si.si_code == CLD_KILLED && si.si_status == SIGKILL);
	assert_true(runs(r->other));
}

static void short_message(void **state)
{
	struct ctl_msg m = paged(PAGER_FAILED, 1, -EIO);

	end_of(*state, &m, sizeof(m) - 1);
}

static void one_byte(void **state)
{
	end_of(*state, "x", 1);
}

static void wrong_length(void **state)
{
	struct ctl_msg m = paged(PAGER_FAILED, 1, -EIO);

	m.len = UINT32_MAX;
	end_of(*state, &m, sizeof(m));
}

static void wrong_count(void **state)
{
	struct ctl_msg m = paged(PAGER_FAILED, 1, -EIO);

	m.nfds = CTL_MAX_FDS + 1;
	end_of(*state, &m, sizeof(m));
}

static void no_memfd(void **state)
{
	struct ctl_msg m = paged(PAGER_FAILED, 1, -EIO);

	m.flags = CTL_F_MEMFD;
	end_of(*state, &m, sizeof(m));
}

/* Descriptors that nobody asked for are closed. */
static void gifts(void **state)
{
	struct rig *r = *state;
	struct ctl_msg m = {.type = CTL_PAGER};
	struct ctl_fd fds[2];
	struct pollfd p;
	int pair[2];

	assert_int_equal(pipe2(pair, O_CLOEXEC), 0);
	fds[0] = (struct ctl_fd){pair[1], CTL_FD_UFFD, 0};
	fds[1] = (struct ctl_fd){pair[1], CTL_FD_BASE, 3};
	assert_int_equal(ctl_send(r->sock, &m, NULL, fds, 2), 0);
	(void)close(pair[1]);
	heard(r);
	p = (struct pollfd){.fd = pair[0], .events = POLLIN};
	assert_int_equal(poll(&p, 1, 1000), 1);
	assert_true(p.revents & POLLHUP);
	(void)close(pair[0]);
	as_before(r);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(unknown_ids),
		CASE(unknown_types),
		CASE(texts),
		CASE(after_completion),
		CASE(answers),
		CASE(short_message),
		CASE(one_byte),
		CASE(wrong_length),
		CASE(wrong_count),
		CASE(no_memfd),
		CASE(gifts),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
