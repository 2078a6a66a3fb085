#include "api/cli/offline.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <seccomp.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#define ANSWER_MAX (512 * MIB)

/* The run-time of a sanitizer needs more than the filter allows. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define OFFLINE_FILTER 0
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) ||     \
	__has_feature(undefined_behavior_sanitizer)
#define OFFLINE_FILTER 0
#endif
#endif
#ifndef OFFLINE_FILTER
#define OFFLINE_FILTER 1
#endif

/* Descriptors that are there, memory, threads, time, the end. No call that
 * takes a path, no socket, no process. */
static const int calls[] = {SCMP_SYS(read), SCMP_SYS(write), SCMP_SYS(readv),
	SCMP_SYS(writev), SCMP_SYS(pread64), SCMP_SYS(pwrite64),
	SCMP_SYS(preadv), SCMP_SYS(pwritev), SCMP_SYS(lseek), SCMP_SYS(close),
	SCMP_SYS(fstat), SCMP_SYS(newfstatat), SCMP_SYS(fcntl),
	SCMP_SYS(ftruncate), SCMP_SYS(fallocate), SCMP_SYS(fsync),
	SCMP_SYS(fdatasync), SCMP_SYS(io_setup), SCMP_SYS(io_submit),
	SCMP_SYS(io_getevents), SCMP_SYS(io_pgetevents), SCMP_SYS(io_destroy),
	SCMP_SYS(fadvise64), SCMP_SYS(copy_file_range), SCMP_SYS(mmap),
	SCMP_SYS(munmap), SCMP_SYS(mprotect), SCMP_SYS(mremap),
	SCMP_SYS(madvise), SCMP_SYS(brk), SCMP_SYS(futex),
	SCMP_SYS(rt_sigreturn), SCMP_SYS(rt_sigprocmask),
	SCMP_SYS(rt_sigaction), SCMP_SYS(set_robust_list), SCMP_SYS(rseq),
	SCMP_SYS(gettid), SCMP_SYS(getpid), SCMP_SYS(tgkill),
	SCMP_SYS(sched_yield), SCMP_SYS(sched_getaffinity), SCMP_SYS(sysinfo),
	SCMP_SYS(clock_gettime), SCMP_SYS(clock_nanosleep), SCMP_SYS(getrandom),
	SCMP_SYS(uname), SCMP_SYS(eventfd2), SCMP_SYS(memfd_create),
	SCMP_SYS(mincore), SCMP_SYS(restart_syscall), SCMP_SYS(exit),
	SCMP_SYS(exit_group)};

/* Calls that libraries try and can do without. io_uring is one: a ring can
 * open files without seccomp noticing. */
static const int refused[] = {SCMP_SYS(io_uring_setup), SCMP_SYS(clone3),
	SCMP_SYS(prctl), SCMP_SYS(sched_setaffinity), SCMP_SYS(ioctl)};

static int add_rules(scmp_filter_ctx ctx)
{
	int r = 0;

	for (size_t i = 0; i < ARRAY_SIZE(calls) && !r; i++)
		r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, calls[i], 0);
	for (size_t i = 0; i < ARRAY_SIZE(refused) && !r; i++)
		r = seccomp_rule_add(
			ctx, SCMP_ACT_ERRNO(ENOSYS), refused[i], 0);
	/* look at limits, but set none */
	if (!r)
		r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(prlimit64),
			1, SCMP_A2(SCMP_CMP_MASKED_EQ, UINT64_MAX, 0));
	/* threads, but no process */
	if (!r)
		r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(clone), 1,
			SCMP_A0(SCMP_CMP_MASKED_EQ, CLONE_THREAD,
				CLONE_THREAD));
	return r;
}

static int lock_in(struct err *e)
{
	scmp_filter_ctx ctx;
	int r;

	if (prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0))
		return err_sys(e, -errno, "PR_SET_PDEATHSIG");
	one_heap();
	if (!OFFLINE_FILTER)
		return 0;
	ctx = seccomp_init(SCMP_ACT_KILL_PROCESS);
	if (!ctx)
		return err_set(e, -ENOMEM, "seccomp: out of memory");
	r = add_rules(ctx);
	if (!r)
		r = seccomp_load(ctx); /* sets no-new-privs as well */
	seccomp_release(ctx);
	return r ? err_sys(e, r, "installing the seccomp filter") : 0;
}

/* What goes through the pipe: this, then the answer or the text. */
struct head {
	int32_t code;
	uint32_t reserved;
	uint64_t len;
};

static _Noreturn void child(offline_fn *fn, void *arg, int pipe)
{
	struct head h = {.code = 0};
	struct err e = {0};
	msgpack_sbuffer buf;
	msgpack_packer p;
	int r;

	msgpack_sbuffer_init(&buf);
	msgpack_packer_init(&p, &buf, msgpack_sbuffer_write);
	/* a limit on the length of files is an error like a full disk */
	(void)signal(SIGXFSZ, SIG_IGN);
	/* jansson would open /dev/urandom at its first object */
	json_object_seed((size_t)now_ns() ^ (size_t)getpid());
	r = lock_in(&e);
	if (!r)
		r = fn(arg, &p, &e);
	h.code = r;
	h.len = r ? strlen(e.msg) : buf.size;
	r = write_full(pipe, &h, sizeof(h));
	if (!r)
		r = write_full(pipe, h.code ? e.msg : buf.data, h.len);
	_exit(r ? 1 : 0);
}

static int receive(int fd, struct offline_answer *a, struct err *e)
{
	static const struct mp_limits lim = {
		.max_depth = 16, .max_elements = 16 * 1024 * 1024};
	struct err why = {0};
	struct head h;
	char *buf;

	if (read_full(fd, &h, sizeof(h)) || h.len > ANSWER_MAX)
		return -EPIPE;
	buf = malloc(h.len + 1);
	if (!buf)
		return err_set(e, -ENOMEM, "out of memory");
	if (read_full(fd, buf, h.len)) {
		free(buf);
		return -EPIPE;
	}
	buf[h.len] = '\0';
	if (h.code) {
		(void)err_set(e, h.code < 0 ? h.code : -EIO, "%s", buf);
		free(buf);
		return e->code;
	}
	if (mp_unpack(buf, h.len, &lim, &a->msg, &why)) {
		msgpack_unpacked_destroy(&a->msg);
		free(buf);
		return err_set(e, -EIO, "the answer: %.200s", why.msg);
	}
	a->buf = buf;
	return 0;
}

/* A file can make us do what the first ones are for; all others somebody sent:
 * the user, or a kernel that is out of memory. */
static int died_of(int sig, struct err *e)
{
	if (sig == SIGSEGV || sig == SIGBUS || sig == SIGABRT || sig == SIGSYS)
		return err_set(e, -EBADMSG,
			"the process that reads it died of signal %d (%s); "
			"please report this",
			sig, strsignal(sig));
	return err_set(e, -EINTR,
		"the process that reads it was ended by signal %d (%s)", sig,
		strsignal(sig));
}

int offline_run(
	offline_fn *fn, void *arg, struct offline_answer *a, struct err *e)
{
	int fds[2], status = 0, r;
	pid_t pid;

	(void)fflush(stdout);
	if (pipe2(fds, O_CLOEXEC))
		return err_sys(e, -errno, "pipe");
	pid = fork();
	if (pid == 0) {
		(void)close(fds[0]);
		child(fn, arg, fds[1]);
	}
	(void)close(fds[1]);
	if (pid < 0) {
		r = err_sys(e, -errno, "fork");
		(void)close(fds[0]);
		return r;
	}
	r = receive(fds[0], a, e);
	(void)close(fds[0]);
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
	}
	if (r == -EPIPE && WIFSIGNALED(status))
		return died_of(WTERMSIG(status), e);
	if (r == -EPIPE)
		return err_set(e, -EIO, "the process that reads it ended");
	return r;
}

void offline_free(struct offline_answer *a)
{
	msgpack_unpacked_destroy(&a->msg);
	free(a->buf);
	a->buf = NULL;
}

int offline_exit(int code)
{
	switch (-code) {
	case ENOENT:
		return EXIT_NOT_FOUND;
	case EACCES:
	case EPERM:
		return EXIT_HOST;
	case EBADMSG:
	case ESTALE: /* a parent that is another file */
		return EXIT_CORRUPT;
	default:
		return EXIT_FAILED;
	}
}
