/*
 * The kernel's userfaultfd: open one, register memory, answer faults.
 *
 * A userfaultfd belongs to the address space that opened it: a clone opens its
 * own after fork(). A vCPU's faults come from inside KVM, that is from the
 * kernel, and catching those needs a permission: /dev/userfaultfd (Linux 6.1)
 * opened before rights are dropped, or else the system call with CAP_SYS_PTRACE
 * or vm.unprivileged_userfaultfd=1.
 *
 * Any thread, any process that holds the descriptor.
 */
#ifndef THAW_UFFD_UFFD_H
#define THAW_UFFD_UFFD_H

#include "core/mem.h"

#include <linux/userfaultfd.h>

struct uffd_host {
	int dev;      /* owned: /dev/userfaultfd; -1: use the system call */
	bool allowed; /* one of the two works */
};

/* Find out how; -EOPNOTSUPP with what to set on this host. */
int uffd_host_open(struct uffd_host *h, struct err *e) MUST_USE;
void uffd_host_close(struct uffd_host *h);

/* A new userfaultfd of this process, non-blocking; events: also hear of memory
 * that is removed or moved. */
int uffd_open(const struct uffd_host *h, bool events, struct err *e) MUST_USE;
int uffd_register(int fd, void *start, uint64_t len, struct err *e) MUST_USE;
/* All of [start, start + len), registered or not; what waits there goes on. */
int uffd_unregister(int fd, uint64_t start, uint64_t len) MUST_USE;

/*
 * MEM_LAZY memory of this process: register what is paged and let it be
 * touched. After fork() and before anything else sees the memory. When the
 * base is complete there is nothing to register and m->uffd stays -1. Whoever
 * calls this sends m->uffd to the pager at once: the first touch waits for it.
 */
int uffd_arm(const struct uffd_host *h, struct mem *m, struct err *e) MUST_USE;

/* Up to max events without waiting, whatever flags the other holder of the
 * descriptor has set: the number, -EAGAIN when there is none, or -errno. */
int uffd_read(int fd, struct uffd_msg *msg, unsigned max) MUST_USE;

/*
 * Answers. -EAGAIN: the memory is being changed (an event of that waits to be
 * read): read events, then ask again; *done says how far it came. -ESRCH and
 * -ENOENT: the process, or its mapping, is gone. A page that is there already
 * is skipped and woken.
 */
int uffd_copy(int fd, uint64_t to, const void *from, uint64_t len, bool wake,
	uint64_t *done) MUST_USE;
int uffd_zero(int fd, uint64_t to, uint64_t len, uint64_t *done) MUST_USE;
int uffd_wake(int fd, uint64_t start, uint64_t len) MUST_USE;

/* Is this descriptor, which somebody sent us, one at all? */
bool uffd_is_one(int fd);

#endif
