/*
 * Registry of machines: cold-booted ones, restored ones, builders and clones.
 *
 *   STARTING   the process is being set up; a clone has no socket yet
 *   PARKED     a clone in its template's pool
 *   RUNNING PAUSED
 *   DYING      a clone whose socket closed: its zygote says how it ended
 *   ENDED      kept to be looked at, has no process
 */
#ifndef THAW_API_DAEMON_MACHINE_H
#define THAW_API_DAEMON_MACHINE_H

#include "api/daemon/proc.h"

#define MAX_ENDED 256

enum entry_kind {
	ENTRY_MACHINE,
	ENTRY_CLONE,
	ENTRY_BUILDER
};
enum entry_state {
	ENTRY_STARTING,
	ENTRY_RUNNING,
	ENTRY_PAUSED,
	ENTRY_PARKED,
	ENTRY_DYING,
	ENTRY_ENDED
};

struct want;
struct feed;
struct handler;
struct console;
struct listener;
struct macs;

struct machine_entry {
	struct proc p;
	enum entry_kind kind;
	enum entry_state state;
	struct strmap_node by_id;
	char id[ID_LEN];
	char *name;         /* owned, may be NULL */
	struct list all;    /* daemon.machines or daemon.ended */
	struct list bound;  /* conn.bound */
	struct conn *owner; /* bound to this connection */
	bool discarded;     /* killed by us: how it died says nothing */
	bool was_parked;    /* died in the pool */
	bool ending;        /* machine_ended() is at work, or done */
	bool kept;          /* on daemon.ended */
	bool forgotten;     /* buried */

	/* clones */
	struct template *t;    /* borrowed; NULL when it is not a clone */
	struct zygote *z;      /* borrowed; NULL once it is gone */
	struct list of_zygote; /* zygote.clones */
	struct list of_pool;   /* template.parked */
	uint64_t number;
	struct want *want; /* who waits for it, until it is born */
	uint32_t want_index;
	bool for_pool;
	struct deadline late;

	uint64_t memory;   /* bytes of guest memory */
	uint64_t reserved; /* part of admission.reserved */
	uint64_t born;     /* now_ns() */
	uint64_t created;  /* wall_ns() */
	struct ctl_times us;
	uint8_t generation[16], machine_id[16];

	uint32_t end_kind; /* enum machine_end_kind; END_KILLED and above */
	bool have_end;
	char *end_text; /* owned */

	struct writer *writer; /* borrowed: its snapshot in progress, or NULL */
	/* Memory that a pager brings in; see feed.h. */
	struct feed *feed; /* borrowed from .t, or owned; NULL: none */
	uint64_t feed_id, uffd_addr;
	int uffd;                 /* owned copy, -1: none */
	uint32_t first_answer_us; /* since .born; 0: none yet */
	struct handler *handler;  /* owned: its external pager, or NULL */

	struct console *console;   /* owned, NULL until it is needed */
	struct listener *listener; /* owned, NULL without a vsock socket */
	struct macs *macs;         /* owned, NULL: none that are known */
};

/* registry.c */
struct machine_entry *machine_create_entry(
	struct daemon *d, enum entry_kind kind, const char *id);
/* Leaves every list and is buried: for what nobody may look at any more. */
void machine_forget(struct daemon *d, struct machine_entry *m);
struct machine_entry *machine_find(struct daemon *d, const char *id);
/* As machine_find(), with the error that a client gets. */
int machine_get(struct daemon *d, const char *id, struct machine_entry **m,
	struct err *e) MUST_USE;
/* It has ended: keep it on the list of ended machines, or forget it. */
void machine_ended(
	struct daemon *d, struct machine_entry *m, const struct err *why);
/* Kill and keep or forget, as machine_ended(). */
void machine_kill(
	struct daemon *d, struct machine_entry *m, const struct err *why);
/* Kill without a trace: for clones that have answered. */
void machine_discard(struct daemon *d, struct machine_entry *m);
void machine_set_end(struct machine_entry *m, uint32_t kind, const char *text);
const char *machine_end_name(uint32_t kind);
const char *machine_state(const struct machine_entry *m);
const char *machine_kind(const struct machine_entry *m);
void machine_bind(struct machine_entry *m, struct conn *c);
void machines_unbind(struct daemon *d, struct conn *c);

/* machine_proc.c: messages and the end of the process */
void machine_message(
	struct daemon *d, struct machine_entry *m, struct ctl_packet *p);
void machine_gone(struct daemon *d, struct machine_entry *m, int status);
/* The process that its zygote named is not a clone: the zygote must go. */
void machine_not_ours(struct machine_entry *m);
/* CTL_REAPED of a clone. */
void machine_reaped(struct daemon *d, struct machine_entry *m, int status);

#endif
