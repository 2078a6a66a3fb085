/*
 * A snapshot in progress: the machine is frozen, and the process that holds the
 * frozen copy writes it (api/machine/frozen.c). Used by machine.snapshot and by
 * template.create from a machine.
 *
 *   writer_begin()    freeze; then the child writes to the output
 *   fn.written        once: it is complete and synced, or why not
 *   writer_settle()   the caller made the file visible, or could not; the
 *                     machine hears of it, and goes on if it was held
 *   fn.settled        once; the writer is gone after it
 *
 * A machine has one at a time. It may end meanwhile; the child goes on.
 */
#ifndef THAW_API_DAEMON_WRITER_H
#define THAW_API_DAEMON_WRITER_H

#include "api/daemon/machine.h"

struct writer;
struct devfiles;

struct writer_fns {
	void (*frozen)(struct daemon *d, void *arg,
		const struct ctl_split *split); /* may be NULL */
	/* How a diff is to name its parent, malloc()ed or NULL; after frozen,
	 * which says what it differs from. *parents: which files its process
	 * may ask for, owned by the writer, or NULL. On error nothing is
	 * written. May be NULL. */
	int (*hint)(struct daemon *d, void *arg, struct parents **parents,
		char **hint, struct err *e);
	void (*progress)(struct daemon *d, void *arg, uint64_t done,
		uint64_t total); /* may be NULL */
	/* p: the answer, CTL_FD_BASE may be taken out of it; or NULL and e. The
	 * callee calls writer_settle(), now or later. */
	void (*written)(struct daemon *d, void *arg, struct ctl_packet *p,
		const struct err *e);
	void (*settled)(
		struct daemon *d, void *arg, const struct ctl_settled *s);
};

struct writer_job {
	struct ctl_snapshot what;
	struct ctl_write how;
	int output; /* borrowed until written */
	/* Where overlays go; borrowed during writer_begin(); may be NULL. */
	const struct devfiles *overlays;
	const struct writer_fns *fn;
	void *arg;
};

struct writer {
	struct proc p;           /* the child */
	struct machine_entry *m; /* borrowed; NULL: it has ended */
	struct list link;        /* daemon.writers */
	struct writer_job job;
	int sock; /* owned: our end, until the child is adopted */
	bool adopted, said;
	char *hint; /* owned, may be NULL: see ctl_write */
};

/* -EBUSY when the machine has one already. */
struct writer *writer_begin(struct daemon *d, struct machine_entry *m,
	const struct writer_job *job, struct err *e);
void writer_settle(struct daemon *d, struct writer *w, bool kept,
	const struct ctl_written *what);
/* Kill the child; fn.written follows with why, from inside this call. Nothing
 * happens once it has been called. */
void writer_cancel(struct daemon *d, struct writer *w, const struct err *why);
/* proc.c: what the child says on its own, and its end. machine registry: the
 * machine is gone. */
void writer_message(struct daemon *d, struct writer *w, struct ctl_packet *p);
void writer_gone(struct daemon *d, struct writer *w, int status);
void writer_machine_ended(struct writer *w);

#endif
