/* A remote snapshot: a peer on 127.0.0.1 that can lie, the process that
 * connects, as a thread, and the link between. */
#ifndef THAW_TESTS_UNIT_REMOTE_RIG_H
#define THAW_TESTS_UNIT_REMOTE_RIG_H

#include "snapshot/remote.h"

#define RIG_FILES 3
#define RIG_SIZE  (16 * MIB)

enum lie {
	LIE_NONE,
	LIE_TYPE,    /* the answer is to something else */
	LIE_ID,      /* likewise */
	LIE_STATUS,  /* no status that there is */
	LIE_LONG,    /* says that more comes */
	LIE_SHORT,   /* says that less comes */
	LIE_TEXT,    /* an error without end */
	LIE_REFUSE,  /* it does not have the file */
	LIE_BROKEN,  /* it cannot read it */
	LIE_BYTES,   /* one bit is wrong */
	LIE_ZEROS,   /* all of it is zeros */
	LIE_OTHER,   /* the bytes of another file */
	LIE_CUT,     /* half of it, then the end */
	LIE_CLOSE,   /* the end at once */
	LIE_SILENCE, /* nothing */
	LIE_DRIP,    /* a byte now and then */
	NLIES_
};

struct remote_rig {
	int file[RIG_FILES]; /* owned: a full snapshot and diffs on it */
	struct remote_file is[RIG_FILES];
	uint64_t length[RIG_FILES];
	struct remote_name name;
	int listener, dialer[2];
	pthread_t accept, dial;
	struct remote_link link;
	pthread_mutex_t lock; /* .is, and what follows but for the last two */
	/* Which request is answered how, all others are answered well; once:
	 * only that one. */
	unsigned requests, lie_at;
	enum lie lie;
	bool once;
	bool stop;      /* atomic */
	unsigned peers; /* threads that run; atomic */
};

/* zstd: of the files. timeout_ms: of the link. */
void remote_rig_init(struct remote_rig *r, int zstd, uint32_t timeout_ms);
void remote_rig_fini(struct remote_rig *r);
/* How many there were. */
unsigned remote_rig_requests(struct remote_rig *r);
/* From now on, the n-th request from here on is answered like that. */
void remote_rig_lie(struct remote_rig *r, enum lie lie, unsigned n, bool once);

#endif
