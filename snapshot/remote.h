/*
 * Snapshots that are on another host, where "thaw pager --listen" serves them.
 * docs/pager.md has the protocol, field by field.
 *
 *   remote.c         names, and what is right in a message
 *   remote_dial.c    a process that connects, for one that may not
 *   remote_link.c    requests over several connections
 *   remote_front.c   everything of a file but its chunks, into a sparse file
 *   remote_source.c  that file as a source of pages: chunks when they are asked
 *                    for
 *
 * Nothing that a server says is believed: header and section table must have
 * the digest that the caller knows, everything else the checksums that those
 * pin. A file of zeros where a chunk is missing has the wrong checksum, so that
 * a cache cannot lie, whatever became of it.
 */
#ifndef THAW_SNAPSHOT_REMOTE_H
#define THAW_SNAPSHOT_REMOTE_H

#include "snapshot/snap.h"
#include "uffd/source.h"

#include <pthread.h>

/* ---- names ---- */

struct remote_file {
	struct snap_uuid uuid;
	uint8_t digest[16];
};
struct remote_name {
	char host[256], port[6];
	struct remote_file file;
};
#define REMOTE_SCHEME   "tcp://"
#define REMOTE_PEER_MAX 272
#define REMOTE_URL_MAX  (REMOTE_PEER_MAX + 96)
#define REMOTE_KEY_MAX  80

/* tcp://HOST:PORT/UUID?digest=HEX; an IPv6 address stands in brackets. */
int remote_parse(
	const char *url, struct remote_name *out, struct err *e) MUST_USE;
/* HOST:PORT alone; host may be empty. */
int remote_parse_peer(const char *text, size_t len, struct remote_name *out,
	struct err *e) MUST_USE;
void remote_peer(const struct remote_name *n, char out[REMOTE_PEER_MAX]);
void remote_url(const struct remote_name *n, char out[REMOTE_URL_MAX]);
/* UUID-DIGEST: what a cached copy is called. */
void remote_key(const struct remote_file *f, char out[REMOTE_KEY_MAX]);

/* ---- messages; little-endian, as they are ---- */

#define REMOTE_MAGIC    "\x89thawpg\n"
#define REMOTE_VERSION  1
#define REMOTE_MAX_READ (512U * 1024)
#define REMOTE_MAX_TEXT 200
#define REMOTE_MAX_FILE (1ULL << 44)
#define REMOTE_MAX_SET  (64ULL * 1024 * 1024)

/* From both sides, first of all. */
struct remote_hello {
	uint8_t magic[8];
	uint16_t version;
	uint16_t reserved;
	uint32_t max_read; /* longest READ: the server's say */
};
_Static_assert(sizeof(struct remote_hello) == 16, "hello");

enum remote_type {
	REMOTE_STAT = 1, /* how long the file and its working set are */
	REMOTE_READ,
};
enum remote_part {
	REMOTE_PART_FILE,
	REMOTE_PART_SET
};
struct remote_request {
	uint32_t type; /* enum remote_type */
	uint32_t id;   /* the answer repeats it */
	uint8_t uuid[16], digest[16];
	uint64_t offset;
	uint32_t length;
	uint32_t part; /* enum remote_part */
	uint64_t reserved;
};
_Static_assert(sizeof(struct remote_request) == 64, "request");

enum remote_status {
	REMOTE_OK,
	REMOTE_NOT_FOUND, /* no such file, or no working set */
	REMOTE_INVALID,   /* the request is no good; the server hangs up */
	REMOTE_BROKEN,    /* it cannot read its file */
	REMOTE_NSTATUS_
};
struct remote_answer {
	uint32_t type, id; /* of the request */
	uint32_t status;   /* enum remote_status */
	uint32_t length;   /* of what follows: the bytes, or a text */
	uint64_t file_length, set_length; /* STAT; set 0: there is none */
};
_Static_assert(sizeof(struct remote_answer) == 32, "answer");

/* NULL, or what is wrong with it. */
const char *remote_check_hello(const struct remote_hello *h);
const char *remote_check_request(const struct remote_request *q);
const char *remote_check_answer(
	const struct remote_request *q, const struct remote_answer *a);

/* ---- connecting: remote_dial.c ---- */

/* The life of a process that connects to one peer whenever the other end of
 * sock (SOCK_SEQPACKET) asks for it. Returns when that is closed. */
void remote_dial_serve(int sock, const struct remote_name *n);

/* ---- requests: remote_link.c ---- */

#define REMOTE_CONNS 16

struct remote_link {
	int dialer;          /* borrowed */
	int cancel;          /* owned eventfd: readable when cancelled */
	uint32_t timeout_ms; /* of a request, with everything */
	char peer[REMOTE_PEER_MAX];
	pthread_mutex_t lock; /* idle connections */
	pthread_mutex_t dial; /* one at a time asks the dialer */
	uint32_t next_id;
	unsigned nidle;
	int idle[REMOTE_CONNS]; /* owned */
};
int remote_link_init(struct remote_link *l, int dialer,
	const struct remote_name *n, uint32_t timeout_ms,
	struct err *e) MUST_USE;
void remote_link_fini(struct remote_link *l);
/* All requests end with -ECANCELED, now and from now on. */
void remote_link_cancel(struct remote_link *l);

struct remote_span {
	uint64_t offset;
	uint32_t length; /* at most REMOTE_MAX_READ */
	void *buf;
};
#define REMOTE_SPANS 64
/* Get n (at most REMOTE_SPANS) pieces of one file, asked for all at once. Any
 * number of threads. -ENOENT: the peer does not have the file; -ETIMEDOUT,
 * -EPROTO and others name the peer. */
int remote_read(struct remote_link *l, const struct remote_file *f,
	enum remote_part part, const struct remote_span *span, unsigned n,
	struct err *e) MUST_USE;
int remote_stat(struct remote_link *l, const struct remote_file *f,
	uint64_t *length, uint64_t *set_length, struct err *e) MUST_USE;

/* ---- files: remote_front.c, remote_source.c ---- */

/* What is the same in all copies of a file: is fd one, with everything but
 * chunks in it and right? */
int remote_front_check(
	int fd, const struct remote_file *f, struct err *e) MUST_USE;
/* Make the empty file fd one. */
int remote_front_get(struct remote_link *l, const struct remote_file *f, int fd,
	struct err *e) MUST_USE;
/* The working set into the empty file fd; -ENOENT: there is none. */
int remote_set_get(struct remote_link *l, const struct remote_file *f, int fd,
	struct err *e) MUST_USE;

/* Like snap_source(): s, with its parents, has been opened from such files, and
 * fd[] are the same files open for writing, the newest first; all is borrowed.
 * What is fetched is checked, and kept in them. */
int remote_source(struct snap *s, const int *fd, struct remote_link *l,
	struct psrc **out, struct err *e) MUST_USE;

#endif
