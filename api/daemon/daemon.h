/*
 * thawd: one thread, one epoll loop, and everything hangs from struct daemon.
 *
 *   conn       a client; reads requests, keeps answers until they are read
 *   request    one call of a method, until it is answered
 *   proc       a process of ours with its control socket and pidfd
 *   machine    a registry entry: a machine, a builder or a clone (is a proc)
 *   template   a frozen machine: its files, its zygote, its pool
 *   zygote     the process that forks a template's clones (is a proc)
 *   want       somebody waits for clones of a template
 *
 * Rules that hold everywhere:
 * - Whoever may be in the current batch of events is not freed at once but
 *   buried: daemon_bury() frees it after the batch.
 * - A request is answered exactly once. Its connection may be gone by then.
 * - What comes from a machine or a zygote is checked before it is used.
 */
#ifndef THAW_API_DAEMON_DAEMON_H
#define THAW_API_DAEMON_DAEMON_H

#include "api/ctl.h"
#include "api/daemon/deadline.h"
#include "api/daemon/list.h"
#include "api/daemon/metrics.h"
#include "api/daemon/strmap.h"
#include "api/rpc.h"
#include "uffd/pager.h"

#define NAME_LEN 49 /* template names, with the zero byte */
#define ID_LEN   72 /* NAME-NUMBER */

struct conn;
struct request;
struct machine_entry;
struct template;
struct creation;
struct zygote;

/* What the loop's events point to: the first member of the watched object. */
enum ev_type {
	EV_LISTENER = 1,
	EV_SIGNAL,
	EV_CONN,
	EV_CTL,  /* struct proc.on_ctl */
	EV_EXIT, /* struct proc.on_exit: the pidfd */
	EV_PROBE
};
struct watch {
	enum ev_type type;
};

struct options {
	char *socket, *state_dir; /* owned */
	char *machine_exe;        /* owned: path of thaw-machine */
	uint64_t max_machines, max_per_template;
	uint64_t min_available; /* bytes */
	char **allow;           /* owned strings; none: every directory */
	unsigned nallow;
	uint64_t idle_exit_s; /* 0: never */
	bool verbose;
};

/* What the helper found out about the host (info.c). */
struct host {
	struct watch on;
	int fd; /* owned: the helper's output, -1 when it is done */
	pid_t pid;
	size_t len;
	char text[4096];
	char kind[16], kvm[300];
	char kernel[80], cpu[64];
	unsigned cpus;
	uint64_t memory_total;
};

struct admission {
	int meminfo_fd; /* owned */
	uint64_t available, read_ns;
	uint64_t fd_limit;
	unsigned
		starting; /* clones and machines whose memory is not yet seen */
	uint64_t reserved; /* bytes expected for them */
};

struct daemon {
	struct loop loop;
	struct options opt;
	struct deadlines deadlines;
	uint64_t started; /* now_ns() */
	bool stopping;

	struct watch on_listener, on_signal;
	int listen_fd, lock_fd, signal_fd; /* owned */
	int null_fd;                       /* owned: /dev/null for children */
	int state_fd;                      /* owned: DIR/templates */

	struct list conns;
	unsigned nconns;
	bool some_doomed;        /* conn.doomed of at least one */
	struct list subscribers; /* connections that asked for events */

	struct strmap machine_by_id;
	struct strmap machine_by_mac; /* macs.h */
	struct list machines;         /* alive, oldest first */
	struct list ended;            /* kept to be looked at, oldest first */
	unsigned nmachines, nended;
	uint64_t next_machine; /* number of the next "m-N" */
	uint64_t next_cid;
	uint64_t next_fetch; /* names of files that are being fetched */

	struct strmap template_by_name;
	struct list templates;
	unsigned ntemplates;

	struct list helpers; /* inspections in progress */
	struct list writers; /* snapshots in progress */
	struct {
		struct deadline look;
		unsigned rounds; /* that are left */
		pid_t seen;
	} strays; /* children of ours that nobody named, see writer.c */
	struct list feeds;             /* pagers */
	struct pager_stats pager_past; /* of those that are gone */
	unsigned active;               /* requests that wait for a clone */
	uint64_t quiet_since;          /* now_ns() when active became 0 */
	struct deadline fill;          /* pool filling goes on */
	uint64_t fill_due;      /* at the latest then, while .fill is set */
	struct deadline accept; /* out of descriptors: listen again then */
	struct deadline idle;   /* --idle-exit */
	struct admission adm;
	struct metrics metrics;
	struct host host;

	uint8_t *ctl_buf;        /* owned: for ctl_recv() */
	msgpack_sbuffer nowhere; /* owned: answers to clients that left */
	msgpack_packer packer;   /* of the answer under construction */

	pid_t *orphans; /* owned: children to be waited for at SIGCHLD */
	size_t norphans, orphans_cap;

	void **dead; /* owned: freed after the batch of events */
	size_t ndead, dead_cap;
};

/* daemon.c. The options are set and stay the caller's. */
void daemon_prepare(struct daemon *d);
/* Needs daemon_fini() also when it fails. */
int daemon_init(struct daemon *d, struct err *e) MUST_USE;
/* Until a signal or idleness ends it; the exit code. */
int daemon_run(struct daemon *d);
/* Ends every process, waits for them, removes the socket. */
void daemon_fini(struct daemon *d);

/* free(p) when the current batch of events is done. */
void daemon_bury(struct daemon *d, void *p);

static inline uint32_t us_since(uint64_t ns)
{
	uint64_t us = (now_ns() - ns) / 1000;

	return us > UINT32_MAX ? UINT32_MAX : (uint32_t)us;
}

#endif
