/*
 * Starting a machine that is a process of its own: cold boot, builder or
 * restore. Process -> CTL_SETUP -> CTL_RESUME -> CTL_WAIT_READY -> done.
 */
#ifndef THAW_API_DAEMON_STARTER_H
#define THAW_API_DAEMON_STARTER_H

#include "api/daemon/devfiles.h"
#include "api/daemon/feed.h"
#include "api/daemon/machine.h"

#include <sys/socket.h>

#define FREEZE_MS 600000

struct start_times {
	uint32_t build, ready, total;
};

/* e NULL: the machine runs and is ready. Otherwise it failed; the entry still
 * exists unless it was ended, and is the callee's to remove. */
typedef void started_fn(struct daemon *d, void *arg, struct machine_entry *m,
	const struct start_times *us, const struct err *e);

struct start {
	const struct machine_config *cfg; /* NULL: restore */
	enum entry_kind kind;
	enum ctl_role role;
	const char *id, *name; /* name may be NULL */
	int file; /* borrowed: kernel or snapshot, -1: built-in guest */
	const struct feed_opts *paging; /* restore; NULL or not lazy: eager */
	bool record;                    /* lazy: note what is touched */
	/* restore: memory comes from the external pager that listens there; a
	 * borrowed O_PATH descriptor or -1, and what to call it */
	int handler;
	const char *handler_path;
	int set;                  /* lazy: working set, or -1 */
	int initrd;               /* borrowed; -1: none */
	int listener;             /* borrowed: vsock socket, or -1 */
	struct devfiles *files;   /* borrowed; NULL: none */
	const char *hostname;     /* NULL or "": none */
	const struct ucred *peer; /* restore: whose rights find parents */
	const char *path;         /* restore: of the snapshot, or NULL */
	const struct remote_name *remote; /* restore: it is on another host */
	bool track_dirty;
	uint32_t cid;
	struct ready ready;
	uint64_t timeout_ms;
	started_fn *fn;
	void *arg;
};

/* On success fn will be called once. On error nothing is left. */
int starter_begin(struct daemon *d, const struct start *s,
	struct machine_entry **out, struct err *e) MUST_USE;

#endif
