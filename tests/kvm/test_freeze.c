/* A machine frozen while it runs: the image is that of one moment. */
#include "core/arch/x86/vcpu_state.h"
#include "core/dirty.h"
#include "core/freeze.h"
#include "tests/kvm/kvm_test.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include <cmocka.h>

#define FIRST 0x200000ULL
#define END   0x3f0000ULL

/* The guest goes through its pages upwards, writing the number of the round. So
 * its registers say what every page must hold; the page that rbx points to may
 * have been written already. "" or what is wrong, in text. */
static bool exact(const struct machine *m, char *text, size_t size)
{
	const struct kvm_regs *r = &m->cpu[0]->s->regs;

	for (gpa_t at = FIRST; at < END; at += PAGE_SIZE_4K) {
		uint64_t have, want = at < r->rbx ? r->r8 : r->r8 - 1;

		memcpy(&have, m->mem.map + at, sizeof(have));
		if (have == want || (at == r->rbx && have == r->r8))
			continue;
		(void)snprintf(text, size,
			"page %#llx holds %llu, not %llu (rbx %#llx r8 %llu)",
			(unsigned long long)at, (unsigned long long)have,
			(unsigned long long)want, (unsigned long long)r->rbx,
			(unsigned long long)r->r8);
		return false;
	}
	(void)snprintf(text, size, "exact");
	return true;
}

static void nap(void)
{
	struct timespec ts = {.tv_nsec = 2000000};

	(void)nanosleep(&ts, NULL);
}

/* Nothing is open but 0 to 2 and the one to keep. */
static bool alone(int keep)
{
	for (int fd = 3; fd < 1024; fd++) {
		if (fd != keep && fcntl(fd, F_GETFD) != -1)
			return false;
	}
	return fcntl(keep, F_GETFD) != -1;
}

static void *allocate(void *arg)
{
	bool *good = arg;

	for (unsigned i = 0; i < 100 && *good; i++) {
		void *p = malloc(100000 + i);

		*good = p;
		free(p);
	}
	return NULL;
}

/* Threads can be started, and be waited for. */
static bool threads(void)
{
	bool good[3] = {true, true, true};
	pthread_t t[3];

	for (unsigned i = 0; i < 3; i++) {
		if (pthread_create(&t[i], NULL, allocate, &good[i]))
			return false;
	}
	for (unsigned i = 0; i < 3; i++) {
		if (pthread_join(t[i], NULL))
			return false;
	}
	return good[0] && good[1] && good[2];
}

/* In the child: look for a while, then say what was seen. */
static void __attribute__((noreturn))
look(const struct machine *m, const struct freeze *f)
{
	char text[200] = "";
	bool good = alone(f->keep);
	void *p;

	if (!good)
		(void)snprintf(text, sizeof(text), "descriptors are open");
	for (unsigned i = 0; good && i < 30; i++) {
		good = exact(m, text, sizeof(text));
		/* malloc() works: nobody held its locks */
		p = malloc(100000 + i);
		good = good && p;
		free(p);
		nap();
	}
	good = good && threads();
	(void)!write(f->keep, text, strlen(text));
	_exit(good ? 0 : 1);
}

struct watch {
	int fd; /* where the child reports */
	struct freeze f;
};

static void freeze(struct stub *s, struct watch *w, bool stay)
{
	struct err e = {0};
	int pair[2], r;

	assert_int_equal(
		socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
	w->fd = pair[0];
	w->f = (struct freeze){
		.timeout_ms = 10000, .keep = pair[1], .stay = stay};
	r = freeze_fork(&s->m, &w->f, &e);
	if (r == 1)
		look(&s->m, &w->f);
	(void)close(pair[1]);
	if (r)
		fail_msg("%s", e.msg);
	assert_true(w->f.pidfd >= 0 && w->f.pid > 0);
}

/* What the child said; it ends. */
static void reported(struct watch *w, const char *want)
{
	struct pollfd p = {.fd = w->f.pidfd, .events = POLLIN};
	char text[256] = "";
	ssize_t n = read(w->fd, text, sizeof(text) - 1);

	assert_true(n >= 0);
	assert_string_equal(text, want);
	assert_int_equal(poll(&p, 1, 20000), 1);
	(void)close(w->fd);
	(void)close(w->f.pidfd);
}

static void build(struct stub *s, bool track)
{
	struct machine_config cfg;
	struct err e = {0};

	stub_config(&cfg);
	stub_boot(s, &cfg, STUB(rounds));
	if (track)
		assert_int_equal(dirty_start(&s->m.mem, &e), 0);
	stub_realize(s);
	stub_poke(s, 0x2008, END);
	stub_resume(s);
	stub_poll(s, 10);
}

/* The guest writes on; the child sees none of it. */
static void test_exact(void **state)
{
	struct watch w;
	struct stub s;

	(void)state;
	if (!stub_kvm(&s))
		skip();
	build(&s, false);
	for (unsigned i = 0; i < 5; i++) {
		uint32_t before;

		freeze(&s, &w, false);
		assert_int_equal(s.m.state, MACHINE_RUNNING);
		assert_true(w.f.us.pause >= w.f.us.stop + w.f.us.fork);
		before = stub_peek(&s, FIRST);
		/* A round of the guest takes long where all is emulated. */
		for (unsigned k = 0; k < 1000 && stub_peek(&s, FIRST) == before;
			k++)
			stub_poll(&s, 20);
		assert_true(stub_peek(&s, FIRST) != before);
		reported(&w, "exact");
	}
	stub_destroy(&s);
}

/* The child outlives its machine. */
static void test_survives(void **state)
{
	struct watch w;
	struct stub s;

	(void)state;
	if (!stub_kvm(&s))
		skip();
	build(&s, false);
	freeze(&s, &w, false);
	stub_destroy(&s);
	reported(&w, "exact");
}

/* A paused machine stays paused, one that is to stay stopped, too. */
static void test_paused(void **state)
{
	struct watch w;
	struct stub s;

	(void)state;
	if (!stub_kvm(&s))
		skip();
	build(&s, false);
	freeze(&s, &w, true);
	assert_int_equal(s.m.state, MACHINE_PAUSED);
	assert_true(w.f.paused);
	reported(&w, "exact");
	freeze(&s, &w, false);
	assert_int_equal(s.m.state, MACHINE_PAUSED);
	assert_false(w.f.paused);
	assert_int_equal(w.f.us.pause, 0);
	reported(&w, "exact");
	stub_resume(&s);
	stub_poll(&s, 5);
	freeze(&s, &w, false);
	assert_int_equal(s.m.state, MACHINE_RUNNING);
	reported(&w, "exact");
	stub_destroy(&s);
}

/* Dirty pages are given out once, until they are settled. */
static void test_tracked(void **state)
{
	struct err e = {0};
	struct watch w;
	struct stub s;

	(void)state;
	if (!stub_kvm(&s))
		skip();
	build(&s, true);
	freeze(&s, &w, false);
	assert_non_null(w.f.taken);
	assert_true(w.f.taken[FIRST / PAGE_SIZE_4K / 64] & 1);
	assert_int_equal(freeze_fork(&s.m, &w.f, &e), -EBUSY);
	assert_int_equal(s.m.state, MACHINE_RUNNING);
	stub_poll(&s, 5);
	dirty_settle(s.m.mem.dirty, false);
	(void)close(w.fd);
	freeze(&s, &w, false);
	assert_true(w.f.taken[FIRST / PAGE_SIZE_4K / 64] & 1);
	dirty_settle(s.m.mem.dirty, true);
	reported(&w, "exact");
	stub_destroy(&s);
}

static bool fail_quiesce;

static int quiesce(struct device *d, struct err *e)
{
	(void)d;
	return fail_quiesce ? err_set(e, -EIO, "not now") : 0;
}

/* A pause that fails leaves a guest that runs, and that can be paused. */
static void test_pause_fails(void **state)
{
	struct device_ops ops;
	struct machine_config cfg;
	struct err e = {0};
	struct stub s;
	uint32_t before;

	(void)state;
	if (!stub_kvm(&s))
		skip();
	stub_config(&cfg);
	stub_build(&s, &cfg, STUB(spinner));
	ops = *s.m.dev[0]->ops;
	ops.quiesce = quiesce;
	s.m.dev[0]->ops = &ops;
	stub_resume(&s);
	for (unsigned i = 0; i < 20; i++) {
		fail_quiesce = i % 2;
		/* without time for it, or with a device that fails */
		if (!machine_pause(&s.m, fail_quiesce ? 10000 : 0, &e))
			stub_resume(&s);
		assert_int_equal(s.m.state, MACHINE_RUNNING);
		before = stub_peek(&s, 0x2000);
		for (unsigned k = 0; stub_peek(&s, 0x2000) == before; k++) {
			if (k == 2000)
				fail_msg("the guest stands still");
			nap();
		}
	}
	fail_quiesce = false;
	stub_pause(&s);
	before = stub_peek(&s, 0x2000);
	stub_poll(&s, 5);
	assert_int_equal(stub_peek(&s, 0x2000), before);
	stub_destroy(&s);
}

/* One that has ended, or that shares its memory, is left alone. */
static void test_refused(void **state)
{
	struct machine_config cfg;
	struct freeze f = {.timeout_ms = 1000};
	struct err e = {0};
	struct stub s;

	(void)state;
	if (!stub_kvm(&s))
		skip();
	stub_config(&cfg);
	stub_build(&s, &cfg, STUB(triple));
	stub_resume(&s);
	stub_wait_end(&s);
	assert_int_equal(freeze_fork(&s.m, &f, &e), -EBUSY);
	s.m.mem.backing = MEM_BUILDER;
	assert_int_equal(freeze_fork(&s.m, &f, &e), -EINVAL);
	s.m.mem.backing = MEM_PRIVATE;
	assert_int_equal(f.pidfd, -1);
	stub_destroy(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_exact),
		cmocka_unit_test(test_survives),
		cmocka_unit_test(test_paused),
		cmocka_unit_test(test_tracked),
		cmocka_unit_test(test_pause_fails),
		cmocka_unit_test(test_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
