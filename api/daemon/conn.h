/*
 * Clients. A connection reads requests one after the other and may have many
 * in flight; what it gets is kept in .out until the client reads it, up to a
 * bound after which the client is disconnected.
 */
#ifndef THAW_API_DAEMON_CONN_H
#define THAW_API_DAEMON_CONN_H

#include "api/daemon/daemon.h"

#include <sys/socket.h>

#define CONN_MAX_FDS      8
#define CONN_MAX_INFLIGHT 1024
#define CONN_MAX          512
/* Above the first, no more requests are read; above the second the client is
 * disconnected. */
#define CONN_OUT_PAUSE (1 * MIB)
#define CONN_OUT_MAX   (16 * MIB)

struct method;
struct fetched;

struct conn {
	struct watch on;
	struct list link, subscribed, requests, bound;
	int fd; /* owned */
	uint32_t events;
	struct rpc_reader in;
	msgpack_sbuffer out;
	size_t out_sent;
	unsigned inflight;
	struct ucred peer;
	/* Descriptors that came with the byte before fds_at. */
	int fds[CONN_MAX_FDS]; /* owned */
	unsigned nfds;
	uint64_t fds_at;
	bool corked;  /* answers are flushed after the batch */
	bool closing; /* no more requests; ends when .out is empty */
	bool doomed;  /* closed after the batch of events */
};

/* One call; see request.c for how it is answered. */
struct request {
	struct daemon *d;
	struct conn *conn; /* NULL: the client has gone */
	struct list link;
	const struct method *method;
	uint64_t id, began;
	int fds[CONN_MAX_FDS]; /* owned; sent along with the request */
	unsigned nfds;
	struct fetched *fetched; /* borrowed, while the handler runs */
	/* The client closed its connection before the answer; .conn is NULL.
	 * NULL: that changes nothing. */
	void (*gone)(struct daemon *d, struct request *r);
	void *gone_arg;
};

/* server.c */
int server_listen(struct daemon *d, struct err *e) MUST_USE;
void server_unlisten(struct daemon *d);
void server_accept(struct daemon *d);

/* conn.c */
void conn_create(struct daemon *d, int fd);
void conn_event(struct daemon *d, struct conn *c, uint32_t events);
/* Nothing more goes in or out. Closing it may end machines, and events of that
 * may show that others are gone: so it is done when nobody is in the middle of
 * anything, by conns_close_doomed(). */
void conn_doom(struct daemon *d, struct conn *c);
void conns_close_doomed(struct daemon *d);
/* Send what waits; may doom the connection. */
void conn_flush(struct daemon *d, struct conn *c);

/* request.c */
void request_receive(struct daemon *d, struct conn *c, const struct rpc_msg *m);
/* The answer's result is packed with the packer that is returned; nothing
 * else may be answered between begin and end. request_end() frees r. */
msgpack_packer *request_begin(struct request *r);
void request_end(struct request *r);
void request_fail(struct request *r, const struct err *e);
/* A notification to a connection: pack one value in between. NULL: it reads
 * too slowly and is disconnected. */
msgpack_packer *notify_begin(
	struct daemon *d, struct conn *c, const char *method);
void notify_end(struct daemon *d, struct conn *c);
/* Take the i-th descriptor of a request, -EINVAL when it has none. */
int request_take_fd(struct request *r, int64_t i, struct err *e) MUST_USE;

#endif
