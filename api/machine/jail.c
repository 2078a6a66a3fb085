#include "api/machine/jail.h"

#include <errno.h>
#include <linux/if_tun.h>
#include <linux/seccomp.h>
#include <seccomp.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define JAIL_FILTERS 0
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) ||     \
	__has_feature(undefined_behavior_sanitizer)
#define JAIL_FILTERS 0
#endif
#endif
#ifndef JAIL_FILTERS
#define JAIL_FILTERS 1
#endif

#define KVM_IOCTL_TYPE 0xae00 /* KVMIO in bits 8..15 of the request */
/* PAGEMAP_SCAN of linux/fs.h; its struct has 12 numbers of 64 bits. It can be
 * asked of a page map only, and a machine gets none but its own. */
#define PAGEMAP_SCAN_IOCTL _IOC(_IOC_READ | _IOC_WRITE, 'f', 16, 96)
#define UFFD_IOCTL_TYPE    0xaa00 /* USERFAULTFD_IOC, likewise */

/* What every thread of a machine needs: guest exits, locks, its own end. */
static const int common_calls[] = {
	SCMP_SYS(read), SCMP_SYS(write), SCMP_SYS(futex),
	SCMP_SYS(rt_sigreturn), SCMP_SYS(rt_sigprocmask), SCMP_SYS(exit),
	SCMP_SYS(exit_group), SCMP_SYS(munmap), SCMP_SYS(madvise),
	SCMP_SYS(brk), /* free() gives back the end of the heap */
	SCMP_SYS(clock_gettime), SCMP_SYS(clock_nanosleep),
	SCMP_SYS(sched_yield), SCMP_SYS(restart_syscall), SCMP_SYS(gettid),
	SCMP_SYS(getpid), SCMP_SYS(tgkill), SCMP_SYS(rseq),
	SCMP_SYS(io_uring_enter), /* a reset waits for the disk */
};

/* The event loop: control messages, vsock streams, snapshots, memory. No call
 * that takes a path: a machine opens nothing. */
static const int loop_calls[] = {
	SCMP_SYS(readv), SCMP_SYS(writev), SCMP_SYS(pread64),
	SCMP_SYS(pwrite64), SCMP_SYS(pwritev), SCMP_SYS(lseek), SCMP_SYS(close),
	SCMP_SYS(fstat), SCMP_SYS(newfstatat), SCMP_SYS(fcntl),
	SCMP_SYS(ftruncate), SCMP_SYS(fallocate), SCMP_SYS(fsync),
	SCMP_SYS(fdatasync), SCMP_SYS(memfd_create), SCMP_SYS(mmap),
	SCMP_SYS(mprotect), SCMP_SYS(mremap), SCMP_SYS(mincore),
	SCMP_SYS(epoll_create1), SCMP_SYS(epoll_ctl), SCMP_SYS(epoll_wait),
	SCMP_SYS(epoll_pwait), SCMP_SYS(poll), SCMP_SYS(ppoll),
	SCMP_SYS(eventfd2), SCMP_SYS(timerfd_create), SCMP_SYS(timerfd_settime),
	SCMP_SYS(sendmsg), SCMP_SYS(recvmsg), SCMP_SYS(sendto),
	SCMP_SYS(recvfrom), SCMP_SYS(accept4), SCMP_SYS(shutdown),
	SCMP_SYS(getsockopt), SCMP_SYS(setsockopt), SCMP_SYS(getrandom),
	SCMP_SYS(rt_sigaction), SCMP_SYS(clone), SCMP_SYS(clone3),
	SCMP_SYS(set_robust_list), SCMP_SYS(seccomp), SCMP_SYS(prctl),
	SCMP_SYS(getppid), SCMP_SYS(uname), SCMP_SYS(membarrier),
	SCMP_SYS(prlimit64), SCMP_SYS(sched_getaffinity), SCMP_SYS(preadv),
	SCMP_SYS(preadv2), SCMP_SYS(pwritev2), SCMP_SYS(io_uring_setup),
	SCMP_SYS(io_uring_register), SCMP_SYS(close_range), /* core/freeze.c */
	SCMP_SYS(fadvise64), /* inspection says what it will read */
	SCMP_SYS(io_setup), SCMP_SYS(io_submit),
	SCMP_SYS(io_getevents), /* snapshot/output.c */
	SCMP_SYS(sysinfo),      /* qsort() of glibc asks for the memory size */
	SCMP_SYS(getpriority),  /* nice(); see rules_loop() */
};

/* A zygote also makes clones and waits for them. */
static const int zygote_calls[] = {
	SCMP_SYS(fork),
	SCMP_SYS(wait4),
	SCMP_SYS(waitid),
	SCMP_SYS(socketpair),
	SCMP_SYS(pidfd_open),
	SCMP_SYS(signalfd4),
	SCMP_SYS(set_tid_address),
};

/* Memory that comes from a pager: the machine's side of it. */
static const int uffd_calls[] = {
	SCMP_SYS(userfaultfd),
};

/* A pager: its reads, and the priority of its background. */
static const int pager_calls[] = {
	SCMP_SYS(preadv2),
	SCMP_SYS(io_uring_enter),
	SCMP_SYS(setpriority),
};
/* The same until its rings are there, and restricted. */
static const int ring_calls[] = {
	SCMP_SYS(io_uring_setup),
	SCMP_SYS(io_uring_register),
};

int jail_tie(pid_t parent, struct err *e)
{
	if (prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0))
		return err_sys(e, -errno, "PR_SET_PDEATHSIG");
	/* It may have died before the line above: then no signal comes. */
	if (parent && getppid() != parent)
		return err_set(e, -ESRCH, "the parent process is gone");
	return 0;
}

static int allow(scmp_filter_ctx ctx, const int *calls, size_t n)
{
	int r = 0;

	for (size_t i = 0; i < n && !r; i++)
		r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, calls[i], 0);
	return r;
}

/* libseccomp writes a program to a descriptor; read it back as an array. */
static int export_program(scmp_filter_ctx ctx, struct jail_program *p)
{
	AUTO_FD fd = memfd_create("bpf", MFD_CLOEXEC);
	struct stat st;
	int r;

	if (fd < 0)
		return -errno;
	r = seccomp_export_bpf(ctx, fd);
	if (r)
		return r;
	if (fstat(fd, &st))
		return -errno;
	p->insn = malloc((size_t)st.st_size);
	if (!p->insn)
		return -ENOMEM;
	p->n = (unsigned short)((size_t)st.st_size / sizeof(*p->insn));
	return pread_full(fd, p->insn, (size_t)st.st_size, 0);
}

/* Of a network device: what its guest can take. */
static const scmp_datum_t tap_ioctls[] = {TUNSETOFFLOAD, TUNSETVNETHDRSZ};

static int allow_ioctl(scmp_filter_ctx ctx, scmp_datum_t type)
{
	return seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(ioctl), 1,
		SCMP_A1(SCMP_CMP_MASKED_EQ, 0xff00, type));
}

static int rules_loop(scmp_filter_ctx ctx, enum jail_kind kind)
{
	int r = allow(ctx, loop_calls, ARRAY_SIZE(loop_calls));

	if (!r)
		r = allow_ioctl(ctx, UFFD_IOCTL_TYPE);
	if (!r)
		r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(ioctl), 1,
			SCMP_A1(SCMP_CMP_MASKED_EQ, UINT32_MAX,
				PAGEMAP_SCAN_IOCTL));
	/* Its own: a snapshot of a guest that runs. */
	if (!r && kind != JAIL_PAGER)
		r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(setpriority),
			2, SCMP_A0(SCMP_CMP_EQ, PRIO_PROCESS, 0),
			SCMP_A1(SCMP_CMP_EQ, 0, 0));
	for (size_t i = 0; !r && i < ARRAY_SIZE(tap_ioctls); i++)
		r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(ioctl), 1,
			SCMP_A1(SCMP_CMP_EQ, tap_ioctls[i], 0));
	if (!r)
		r = allow(ctx, uffd_calls, ARRAY_SIZE(uffd_calls));
	if (!r && kind == JAIL_ZYGOTE)
		r = allow(ctx, zygote_calls, ARRAY_SIZE(zygote_calls));
	if (!r && kind == JAIL_PAGER)
		r = allow(ctx, pager_calls, ARRAY_SIZE(pager_calls));
	return r;
}

/* first: of the process; else what it narrows down to, on a vCPU thread or in a
 * pager that is set up. */
static int rules(scmp_filter_ctx ctx, enum jail_kind kind, bool first)
{
	int r = allow(ctx, common_calls, ARRAY_SIZE(common_calls));

	if (!r && kind != JAIL_PAGER)
		r = allow_ioctl(ctx, KVM_IOCTL_TYPE);
	if (!r && (first || kind == JAIL_PAGER))
		r = rules_loop(ctx, kind);
	if (!r && first && kind == JAIL_PAGER)
		r = allow(ctx, ring_calls, ARRAY_SIZE(ring_calls));
	return r;
}

static int compile(struct jail_program *p, enum jail_kind kind, bool first)
{
	scmp_filter_ctx ctx = seccomp_init(SCMP_ACT_KILL_PROCESS);
	int r;

	if (!ctx)
		return -ENOMEM;
	/* A search tree instead of a list: shorter way for each call. */
	r = seccomp_attr_set(ctx, SCMP_FLTATR_CTL_OPTIMIZE, 2);
	if (!r)
		r = rules(ctx, kind, first);
	if (!r)
		r = export_program(ctx, p);
	seccomp_release(ctx);
	return r;
}

int jail_prepare(struct jail *j, enum jail_kind kind, struct err *e)
{
	int r;

	*j = (struct jail){0};
	if (!JAIL_FILTERS)
		return 0;
	r = compile(&j->main, kind, true);
	if (!r)
		r = compile(&j->vcpu, kind, false);
	if (r) {
		jail_fini(j);
		return err_sys(e, r, "compiling the seccomp filters");
	}
	return 0;
}

void jail_fini(struct jail *j)
{
	free(j->main.insn);
	free(j->vcpu.insn);
	*j = (struct jail){0};
}

static int install(const struct jail_program *p)
{
	struct sock_fprog prog = {.len = p->n, .filter = p->insn};

	if (!p->n)
		return 0;
	return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &prog) ? -errno
								       : 0;
}

int jail_main(const struct jail *j, struct err *e)
{
	int r;

	one_heap();
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
		return err_sys(e, -errno, "PR_SET_NO_NEW_PRIVS");
	r = install(&j->main);
	return r ? err_sys(e, r, "installing the seccomp filter") : 0;
}

/* Written by hand: compiling it would cost each clone 0.3 ms. The first filter
 * has looked at the architecture. */
int jail_rings(struct err *e)
{
	struct sock_filter insn[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS,
			offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_setup, 1, 0),
		BPF_JUMP(
			BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_register, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	const struct jail_program p = {insn, ARRAY_SIZE(insn)};
	int r;

	if (!JAIL_FILTERS)
		return 0;
	r = install(&p);
	return r ? err_sys(e, r, "installing the seccomp filter") : 0;
}

int jail_vcpu(const struct jail *j)
{
	return install(&j->vcpu);
}

int jail_pager(const struct jail *j)
{
	return install(&j->vcpu);
}
