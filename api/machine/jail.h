/*
 * Dropping rights, in named stages.
 *
 *   jail_tie      dies with its parent: PDEATHSIG, parent checked again
 *   jail_prepare  compiles the seccomp programs (libseccomp, 0.3 ms each);
 *                 a zygote does this once for all of its clones
 *   jail_main     no-new-privs and the process's filter; inherited by fork()
 *                 and by threads, so a clone gets it for nothing
 *   jail_pager    after a pager has opened what it needs: it makes no more
 *                 rings; its threads inherit that
 *   jail_vcpu     the narrower filter of a vCPU thread, on the thread itself,
 *                 before its first KVM_RUN
 *
 *   jail_rings    no more io_uring: what a ring does passes no filter, so the
 *                 ones that devices made, each bound to its own files, are all
 *                 there will be; once the machine is realized
 *
 * In a sanitizer build the filters are not installed: the sanitizer's runtime
 * makes system calls of its own.
 */
#ifndef THAW_API_MACHINE_JAIL_H
#define THAW_API_MACHINE_JAIL_H

#include "core/err.h"

#include <linux/filter.h>

struct jail_program {
	struct sock_filter *insn; /* owned */
	unsigned short n;
};

struct jail {
	struct jail_program main, vcpu;
};

/* parent: the pid that must still be the parent, 0 not to check. */
int jail_tie(pid_t parent, struct err *e) MUST_USE;
/* What the process is, and so what it needs beyond any machine's calls. */
enum jail_kind {
	JAIL_MACHINE,
	JAIL_ZYGOTE, /* fork, waiting for children, a clone's start */
	JAIL_PAGER,  /* io_uring; no KVM */
};
int jail_prepare(struct jail *j, enum jail_kind kind, struct err *e) MUST_USE;
void jail_fini(struct jail *j);
int jail_main(const struct jail *j, struct err *e) MUST_USE;
int jail_pager(const struct jail *j) MUST_USE;
int jail_vcpu(const struct jail *j) MUST_USE;
int jail_rings(struct err *e) MUST_USE;

#endif
