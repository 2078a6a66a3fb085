/*
 * Shared by the files of the pager, nobody else's business; uffd/pager.h has
 * what others call.
 *
 * How it works
 *
 *   fault.c     one thread reads the events of all clients, answers what is
 *               there, starts a load for what is not, and collects the reads
 *   readahead.c the fault thread's too: what a sequence of faults comes to next
 *   prefetch.c  one thread starts loads of the working set, then of the rest
 *   worker.c    several threads check and unpack what was read; they also read
 *               when there is no io_uring, or the source is no file
 *   load.c      jobs: one window (or a run of them) on its way
 *   publish.c   puts pages where guests see them, and answers who waits
 *
 * A window is ABSENT, LOADING (it belongs to one job), PRESENT or BAD. A fault
 * on a window that is LOADING waits with its job; if that job is of the
 * background it is robbed of the window instead: the fault starts a load of its
 * own, so that no fault ever waits behind the background. Two loads of a window
 * are harmless: what is there already is skipped.
 *
 * What has to be fetched, rather than read from a file, may take as long as its
 * source likes. Such jobs have neither all workers nor all of the demand's
 * jobs, so that faults on what is at hand do not wait behind them; who finds
 * none free is parked.
 *
 * .lock protects windows, jobs, queues, clients and waiters. It is never held
 * over a system call that can wait. When all of a window is checked, the pages
 * that somebody waits for are published first, and those who wait for them are
 * woken; then come the others. Only then the window becomes PRESENT, and
 * whoever else waits with the job is answered after that; an event that is read
 * later finds the window PRESENT and is answered at once. So no wake is lost.
 */
#ifndef THAW_UFFD_ENGINE_H
#define THAW_UFFD_ENGINE_H

#include "uffd/pager.h"
#include "uffd/ring.h"
#include "uffd/uffd.h"

#include <pthread.h>

#define JOB_WINDOWS 8 /* of a run: 512 KiB */
#define DEMAND_JOBS 64
#define AHEAD_JOBS  4
/* Of the demand jobs, those that read-ahead may have: the smaller part. */
#define READAHEAD_JOBS 24
/* Of the demand jobs, those that may wait for bytes that are fetched. */
#define FETCH_JOBS  48
#define NSTREAMS    4
#define MAX_WORKERS 64
#define MAX_EVENTS  64 /* read from a client at once */

enum win_state {
	WIN_ABSENT,
	WIN_LOADING,
	WIN_PRESENT,
	WIN_BAD
};
struct window {
	union {
		struct job *job; /* LOADING */
		uint8_t *held;   /* PRESENT, record: owned, its bytes */
	};
	uint16_t zero; /* PRESENT: pages of zeros */
	uint8_t state;
};

/* A sequence of faults, in windows; readahead.c. */
struct stream {
	uint64_t at, to; /* .to 0: none */
	unsigned n;      /* asked for the last time */
};

struct client {
	struct client *next;
	uint64_t id, addr;
	int fd;        /* owned; closed with the last reference */
	unsigned refs; /* the list's, and one per waiter or user */
	bool gone;     /* detached */
	bool failed;   /* reported; is not answered any more */
	struct pager_client_stats *stats; /* borrowed, may be NULL */
	struct stream stream[NSTREAMS];   /* the fault thread's */
	unsigned next_stream;
	/* direct: pages that the machine threw away are zeros from then on */
	pthread_mutex_t memory; /* .removed, and copies into the memory */
	uint8_t *removed;       /* owned bitmap of pages, or NULL */
};

struct waiter {
	struct waiter *next;
	struct client *c;
	uint64_t page;  /* of guest memory */
	uint64_t since; /* now_ns() */
};

enum lane {
	LANE_DEMAND,
	LANE_AHEAD, /* a job of the demand's */
	LANE_SET,
	LANE_FILL,
	NLANES_
};
struct job {
	struct job *next; /* in a queue or a list of free ones */
	enum lane lane;
	bool busy;       /* not free */
	bool ahead;      /* begun by read-ahead, whatever the lane is now */
	bool counted;    /* in pager.nfetch */
	bool mapped;     /* the pieces are known */
	unsigned nread;  /* pieces whose bytes are in .stored */
	uint64_t window; /* the first one */
	unsigned nwin;   /* more than one: each has one piece, in one file and
			  * one behind the other */
	unsigned npieces;
	struct psrc_piece piece[PSRC_PAGES];
	uint16_t zero[JOB_WINDOWS];
	uint16_t early[JOB_WINDOWS]; /* published for who waited */
	struct err bad[JOB_WINDOWS]; /* .code: this window is bad */
	uint8_t *stored;             /* owned: room for what is read at once */
	uint8_t *win;                /* owned: nwin windows, unpacked */
	uint32_t stored_len;         /* of a run's one read */
	struct waiter *waiters;
};

struct bad_window {
	struct bad_window *next;
	uint64_t window;
	struct err e;
};
struct event_node {
	struct event_node *next;
	struct pager_event ev;
};

struct pager {
	struct pager_opts o;
	struct psrc *src;
	uint64_t size, nwindows;
	int base; /* owned memfd, -1: direct */
	uint8_t *
		map; /* owned: the base, shared and registered, never touched */
	int own;     /* owned: userfaultfd of .map */

	pthread_mutex_t lock;
	pthread_cond_t work;  /* workers: a queue has something */
	pthread_cond_t slow;  /* the worker of the background: likewise */
	pthread_cond_t ahead; /* prefetch: a job is free, fill, stop */
	struct window *win;   /* owned: sparse mapping */
	struct client *clients;
	struct client *direct; /* the one client, one reference */
	struct job demand[DEMAND_JOBS], run[AHEAD_JOBS];
	struct job *free_demand, *free_run;
	struct job *queue[NLANES_], **tail[NLANES_];
	struct waiter *backlog, **backlog_tail; /* no demand job was free */
	struct waiter *parked, **parked_tail;   /* none that fetches was */
	struct bad_window *bad;
	uint64_t present; /* windows that are PRESENT */
	unsigned loading; /* jobs that are not free */
	unsigned nahead;  /* of these: begun by read-ahead */
	unsigned nfetch;  /* of these: the demand's, and have to be fetched */
	bool stop, complete, filling, pinged;

	struct event_node *events, **events_tail;
	int event; /* owned eventfd: events, or fill and stop for .epoll */
	int kick;  /* owned eventfd: fault thread, look at the backlog */
	int epoll; /* owned */
	struct ring fault_ring, ahead_ring;

	pthread_t fault_thread, ahead_thread, worker[MAX_WORKERS + 1];
	unsigned nworkers;  /* that run, the slow one and those kept included */
	unsigned nfast;     /* of these, may read and fetch; at least 2 */
	unsigned nreading;  /* of these, busy with reads no fault waits for */
	unsigned nfetching; /* of these, busy with fetches of faults */
	bool fault_runs, ahead_runs;
	uint8_t *scratch; /* owned: a window for each thread that unpacks */
	unsigned nscratch;

	struct ws set;      /* bits NULL: none */
	uint64_t *recorded; /* owned bitmap of pages, opts.record */

	struct pager_stats *stats; /* owned mapping */
	uint64_t stats_len;
};

static inline void stat_add(uint64_t *v, uint64_t n)
{
	__atomic_fetch_add(v, n, __ATOMIC_RELAXED);
}

/* load.c; those with _locked need p->lock. */
struct job *job_take_locked(struct pager *p, enum lane lane);
void job_put_locked(struct pager *p, struct job *j);
void job_queue(struct pager *p, struct job *j);
void job_queue_locked(struct pager *p, struct job *j);
struct bad_window *bad_find_locked(struct pager *p, uint64_t window);
/* Where the pieces of a single window are. -EAGAIN as psrc_ops.map. */
int job_map(struct pager *p, struct job *j, bool may_block, struct err *e);
/* Some of its bytes are yet to be fetched. */
bool job_fetches(const struct job *j);
/* It is mapped: may it be loaded? If not, it is gone; who waits is parked. */
bool job_admit(struct pager *p, struct job *j) MUST_USE;
/* Get what is not read yet, check, unpack, publish, and answer. Any thread. */
void job_run(struct pager *p, struct job *j, uint8_t *scratch);
/* Ask a ring for what is read at once; an error: read it synchronously. */
int job_ask(struct ring *r, struct job *j) MUST_USE;
/* The read of a ring is done. */
void job_read_done(struct pager *p, struct job *j, int res);
/* Its bytes are not to be had. */
void job_fail(struct pager *p, struct job *j, const struct err *e);

/* fault.c */
void start_load(struct pager *p, struct job *j);

/* readahead.c; the fault thread. */
void follow_stream(struct pager *p, struct client *c, uint64_t window);
/* A fault waits with this job of LANE_AHEAD. */
void urge_locked(struct pager *p, struct job *j);

/* publish.c */
void publish_job(struct pager *p, struct job *j);
/* This page's window is PRESENT. 0, or -EAGAIN: read events first. */
int answer(struct pager *p, struct client *c, uint64_t page) MUST_USE;
/* Takes w. -EAGAIN of the kernel: it comes round again by the backlog. */
void waiter_answer(struct pager *p, struct waiter *w);
/* It comes round once more, with the time that it has left. */
void waiter_again(struct pager *p, struct waiter *w);
void waiter_fail(struct pager *p, struct waiter *w, const struct err *e);
void client_fail(struct pager *p, struct client *c, const struct err *e);
void client_put_locked(struct client *c);
void publish_removed(
	struct pager *p, struct client *c, uint64_t start, uint64_t end);

/* pager.c */
void post_event(struct pager *p, enum pager_event_type type, uint64_t id,
	const struct err *e);

/* The calling thread's, from its start to its end. */
uint8_t *scratch_take(struct pager *p);

void *fault_main(void *pager);
void *ahead_main(void *pager);
void *worker_main(void *pager);
void *slow_worker_main(void *pager);
void kick_fault(struct pager *p);

#endif
