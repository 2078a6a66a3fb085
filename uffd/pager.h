/*
 * The pager: brings the pages of a snapshot to where they are touched.
 *
 *   shared   It makes the base of a template, which it alone can write. Clones
 *            map the base private and register; a page is published once, for
 *            all of them, in the base.
 *   direct   One machine with anonymous memory: pages are copied into it.
 *
 * Windows of 64 KiB are loaded on a fault, each once, whoever waits for it; the
 * working set first of all and by itself; and, when asked to, all the rest in
 * the background. Nothing is visible to a guest before all of its window was
 * checked. A page that never comes is never a page of zeros: its machine is
 * reported (PAGER_FAILED), stays where it is, and is for the owner to kill.
 *
 * Threads: pager_* are for one thread, the owner's; the pager has threads of
 * its own from pager_start() on. The owner polls pager_event_fd().
 */
#ifndef THAW_UFFD_PAGER_H
#define THAW_UFFD_PAGER_H

#include "uffd/source.h"
#include "uffd/uffd.h"
#include "uffd/ws.h"

#define PAGER_STALL_MS 10000 /* default */

/*
 * What it did so far. Shared with the daemon as it is: a file of a page, then a
 * struct pager_client_stats for each slot. Only the pager writes, atomically.
 */
struct pager_stats {
	uint64_t faults;         /* page faults that were read */
	uint64_t faults_late;    /* of these: the page had just come */
	uint64_t faults_waited;  /* of these: its window was on its way */
	uint64_t faults_zero;    /* of these: a page of zeros */
	uint64_t windows_demand; /* windows loaded because of a fault */
	/* Pages published: for a fault, ahead of a sequence of faults, of the
	 * working set, in the background. */
	uint64_t pages_demand, pages_ahead, pages_set, pages_filled;
	uint64_t pages_total; /* that are not zeros */
	uint64_t set_pages;   /* in the working set; 0: there is none */
	uint64_t bytes_read;  /* stored bytes, from the source */
	uint64_t fault_ns;    /* from reading an event to its answer; sum */
	uint64_t failed;      /* machines that were given up */
	uint64_t bad_windows;
	uint64_t complete;      /* 1: all is there */
	uint64_t set_done;      /* 1: the working set is there */
	uint64_t bytes_fetched; /* of bytes_read: from another host */
};
#define PAGER_STATS_SLOTS  4096 /* offset of slot 0 */
#define PAGER_STATS_NSLOTS 65536
struct pager_client_stats {
	uint64_t faults, faults_zero, fault_ns;
	uint64_t reserved;
};

struct pager_opts {
	struct psrc *src; /* borrowed, outlives the pager */
	/* Borrowed, for pager_create() only; not needed by a direct one. */
	const struct uffd_host *host;
	bool direct;
	bool record;       /* publish single pages and note which */
	bool exact;        /* load only windows that are touched */
	bool no_uring;     /* read synchronously */
	bool fill;         /* go on in the background after pager_fill() */
	uint32_t stall_ms; /* 0: PAGER_STALL_MS */
	uint64_t rate;     /* of the background, bytes a second; 0: no limit */
	unsigned workers;  /* 0: as many as there are processors */
	int stats_fd;      /* borrowed: a file for the stats; -1: none */
};

enum pager_event_type {
	PAGER_FAILED = 1, /* a client waits for a page that cannot come */
	PAGER_SET_DONE,   /* the working set is there */
	PAGER_COMPLETE,   /* all is there; the base is sealed for ever */
	PAGER_DAMAGED,    /* the background found a bad window */
	PAGER_ALIVE,      /* answer to pager_ping() */
};
struct pager_event {
	enum pager_event_type type;
	uint64_t id;  /* FAILED: of the client */
	struct err e; /* FAILED, DAMAGED */
};

struct pager;

/* Opens everything that needs rights; the jail comes after it. */
int pager_create(
	const struct pager_opts *o, struct pager **out, struct err *e) MUST_USE;
int pager_start(struct pager *p, struct err *e) MUST_USE;
/* Stops all threads and closes all; clients must be dead by then. */
void pager_destroy(struct pager *p);

/* The base, borrowed; -1: direct. Sealed: only the pager can write to it. */
int pager_base(const struct pager *p);
int pager_event_fd(const struct pager *p);
/* The next event; false: there is none. */
bool pager_next_event(struct pager *p, struct pager_event *ev);

/* A machine that registered [addr, addr + memory). Takes fd, also on error. */
int pager_attach(struct pager *p, uint64_t id, int fd, uint64_t addr,
	uint32_t slot, struct err *e) MUST_USE;
/* It is dead. */
void pager_detach(struct pager *p, uint64_t id);

/* Load these pages first. Before pager_start(). */
int pager_use_set(
	struct pager *p, const struct ws *set, struct err *e) MUST_USE;
/* The first answer is out: the background may begin. */
void pager_fill(struct pager *p);
/* With opts.record: add all pages that were asked for. */
void pager_recorded(struct pager *p, struct ws *into);

/* PAGER_ALIVE comes from the thread that answers faults: so it does that. */
void pager_ping(struct pager *p);

void pager_get_stats(const struct pager *p, struct pager_stats *out);

#endif
