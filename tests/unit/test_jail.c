/* The jail: what a machine may call works, anything else ends the process. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "api/machine/jail.h"

/* Run body in a child under the main filter (and the vCPU filter); returns
 * the wait status. */
static int in_jail(bool zygote, bool vcpu, void (*body)(void))
{
	struct jail j;
	struct err e = {0};
	int status;
	pid_t pid;

	assert_int_equal(jail_prepare(&j, zygote, &e), 0);
	if (!j.main.n)
		skip(); /* sanitizer build */
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		if (jail_main(&j, &e) || (vcpu && jail_vcpu(&j)))
			_exit(99);
		body();
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	jail_fini(&j);
	return status;
}

static bool killed(int status)
{
	return WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS;
}

static void nothing(void)
{
}

static void open_file(void)
{
	int fd = open("/etc/passwd", O_RDONLY);

	_exit(fd >= 0 ? 1 : 2);
}

static void exec_shell(void)
{
	execl("/bin/true", "true", (char *)NULL);
}

static void make_socket(void)
{
	_exit(socket(AF_UNIX, SOCK_STREAM, 0) >= 0 ? 1 : 2);
}

static void terminal_ioctl(void)
{
	struct {
		unsigned short v[4];
	} ws;

	_exit(ioctl(0, TIOCGWINSZ, &ws) ? 1 : 2);
}

static void kvm_like_ioctl(void)
{
	/* KVM_GET_API_VERSION on something that is no KVM: passes the filter
	 * and fails by itself. */
	_exit(ioctl(0, 0xae00, 0) == -1 ? 0 : 1);
}

static void allocate(void)
{
	void *p = malloc(16 * MIB);

	free(p);
	_exit(p ? 0 : 1);
}

/* What grows and shrinks the heap of a thread that has one of its own. */
static void *work(void *arg)
{
	void *p[16];

	for (unsigned round = 0; round < 4; round++) {
		for (unsigned i = 0; i < ARRAY_SIZE(p); i++)
			p[i] = malloc(300 * KIB);
		for (unsigned i = ARRAY_SIZE(p); i-- > 0;)
			free(p[i]);
	}
	return arg;
}

static void allocate_in_thread(void)
{
	pthread_t t;

	/* from now on smaller pieces come from a heap, not from mmap() */
	free(malloc(8 * MIB));
	if (pthread_create(&t, NULL, work, NULL) || pthread_join(t, NULL))
		_exit(1);
	_exit(0);
}

static void fork_once(void)
{
	pid_t pid = fork();
	int status;

	if (pid == 0)
		_exit(0);
	_exit(waitpid(pid, &status, 0) == pid ? 0 : 1);
}

static void send_socket(void)
{
	char c = 0;

	_exit(sendto(0, &c, 1, 0, NULL, 0) < 0 ? 0 : 1);
}

static void be_nice(void)
{
	errno = 0;
	_exit(nice(1) == -1 && errno ? 1 : 0);
}

static void other_priority(void)
{
	_exit(setpriority(PRIO_PROCESS, (id_t)getppid(), 19) ? 1 : 2);
}

static void test_main_filter(void **state)
{
	(void)state;
	assert_int_equal(in_jail(false, false, nothing), 0);
	assert_int_equal(in_jail(false, false, allocate), 0);
	assert_int_equal(in_jail(false, false, allocate_in_thread), 0);
	assert_int_equal(in_jail(false, false, kvm_like_ioctl), 0);
	assert_int_equal(in_jail(false, false, send_socket), 0);
	assert_int_equal(in_jail(false, false, be_nice), 0);
	assert_true(killed(in_jail(false, false, other_priority)));
	assert_true(killed(in_jail(false, false, open_file)));
	assert_true(killed(in_jail(false, false, exec_shell)));
	assert_true(killed(in_jail(false, false, make_socket)));
	assert_true(killed(in_jail(false, false, terminal_ioctl)));
}

static void test_zygote_filter(void **state)
{
	(void)state;
	assert_int_equal(in_jail(true, false, fork_once), 0);
	assert_true(killed(in_jail(true, false, open_file)));
	assert_true(killed(in_jail(true, false, exec_shell)));
}

/* global: the last of the heap, for a child to free */
static void *many[256];

static void free_many(void)
{
	for (unsigned i = 0; i < ARRAY_SIZE(many); i++)
		free(many[i]);
}

/* A reset that waits for the disk frees requests. */
static void test_vcpu_frees(void **state)
{
	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(many); i++) {
		many[i] = malloc(4096);
		assert_non_null(many[i]);
	}
	assert_int_equal(in_jail(false, true, free_many), 0);
	free_many();
}

static void test_vcpu_filter_is_narrower(void **state)
{
	(void)state;
	assert_int_equal(in_jail(false, true, nothing), 0);
	assert_int_equal(in_jail(false, true, kvm_like_ioctl), 0);
	assert_true(killed(in_jail(false, true, send_socket)));
	assert_true(killed(in_jail(false, true, open_file)));
	assert_true(killed(in_jail(true, true, fork_once)));
}

static void show_no_new_privs(void)
{
	_exit(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1 ? 0 : 1);
}

static void test_no_new_privs(void **state)
{
	(void)state;
	assert_int_equal(in_jail(false, false, show_no_new_privs), 0);
}

static void test_tie(void **state)
{
	struct err e;
	pid_t pid;
	int status;

	(void)state;
	/* not our parent: refused */
	assert_int_equal(jail_tie(getppid() + 1, &e), -ESRCH);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		int sig = 0;

		if (jail_tie(getppid(), &e) ||
			prctl(PR_GET_PDEATHSIG, &sig, 0, 0, 0))
			_exit(1);
		_exit(sig == SIGKILL ? 0 : 2);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	assert_int_equal(prctl(PR_SET_PDEATHSIG, 0, 0, 0, 0), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_main_filter),
		cmocka_unit_test(test_zygote_filter),
		cmocka_unit_test(test_vcpu_filter_is_narrower),
		cmocka_unit_test(test_vcpu_frees),
		cmocka_unit_test(test_no_new_privs),
		cmocka_unit_test(test_tie),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
