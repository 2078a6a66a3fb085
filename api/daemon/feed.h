/*
 * Feeds: a pager process, and the machines whose memory it brings in. A lazy
 * template has one for all of its clones, a machine that was restored lazily
 * has one of its own.
 *
 *   STARTING   the process is being set up
 *   RUNNING    pages come on demand; perhaps also in the background
 *   COMPLETE   all is there: no process is left, the counters are
 *   DEAD       it died before that; its machines were killed
 *
 * The daemon holds a copy of each machine's userfaultfd. When a pager dies, or
 * reports a page that cannot come, the machine is killed first and everything
 * else happens after that: closing the last copy would show it zeros.
 */
#ifndef THAW_API_DAEMON_FEED_H
#define THAW_API_DAEMON_FEED_H

#include "api/daemon/machine.h"
#include "uffd/pager.h"

enum feed_state {
	FEED_STARTING,
	FEED_RUNNING,
	FEED_COMPLETE,
	FEED_DEAD
};

struct feed;
/* It is set up: p is the answer; or it is not, and e says why. */
typedef void feed_fn(struct daemon *d, struct feed *f, struct ctl_packet *p,
	const struct err *e);

struct feed {
	struct proc p;
	struct list link;        /* daemon.feeds */
	struct template *t;      /* borrowed; NULL: of a single machine */
	struct machine_entry *m; /* borrowed; likewise the other way round */
	enum feed_state state;
	struct ctl_pager_opts o;
	int stats_fd; /* owned */
	uint64_t last_id;
	struct deadline fill_at, ask_at;
	bool fill_sent, asked, late;
	unsigned nmachines; /* that wait for pages, or may */
	char damaged[300];  /* what the background found */
	feed_fn *fn;
};

/* What a client asked for, and what a template keeps. */
struct feed_opts {
	uint64_t lazy, fill_none, rate, stall_ms; /* rate: bytes a second */
};
struct args;
/* From the parameters lazy, fill, fill_rate and stall_ms. */
int feed_opts_parse(
	const struct args *a, struct feed_opts *o, struct err *e) MUST_USE;

struct feed_start {
	struct template *t;
	struct machine_entry *m;
	const struct feed_opts *o;
	bool record;
	int file, set;            /* borrowed; set -1: none */
	const struct ucred *peer; /* whose rights find parents; NULL: none */
	const char *path;         /* of the snapshot, or NULL */
	const struct remote_name *remote; /* NULL: file is all there is */
	feed_fn *fn;
};
/* NULL and e on error; else fn will be called once. */
struct feed *feed_start(
	struct daemon *d, const struct feed_start *s, struct err *e);
/* Kill it and forget it. Its machines must be dead. */
void feed_end(struct daemon *d, struct feed *f);

/* CTL_UFFD of a machine, CTL_PAGER of a pager, and its end. */
void feed_uffd(struct daemon *d, struct machine_entry *m, struct ctl_packet *p);
void feed_message(struct daemon *d, struct feed *f, struct ctl_packet *p);
void feed_gone(struct daemon *d, struct feed *f, int status);
/* The machine is dead. */
void feed_leave(struct daemon *d, struct machine_entry *m);
/* It has answered its first request. */
void feed_answered(struct daemon *d, struct machine_entry *m);

/* Counters so far, all zero when there are none. */
void feed_stats(const struct feed *f, struct pager_stats *out);
/* The map "pager" of a template or a machine; key included. */
void feed_pack(const struct feed *f, msgpack_packer *p);
void feed_pack_machine(const struct machine_entry *m, msgpack_packer *p);
/* Into the daemon's counters. Returns how many pages with content nobody has
 * needed so far. */
uint64_t feed_count(struct daemon *d);

#endif
