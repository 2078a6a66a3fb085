/* Inside libthaw. */
#ifndef THAW_API_CLIENT_CLIENT_H
#define THAW_API_CLIENT_CLIENT_H

#include "api/thaw.h"
#include "core/mp.h"

/* Largest answer taken: machine.list of thousands of machines and payloads of
 * 6 MiB are far below. */
#define CLIENT_MAX_ANSWER (64 * MIB)

/* An answer that arrived: its bytes, unpacked. One allocation; the zone that
 * unpacking makes hangs on it. */
struct answer {
	struct answer *next;
	uint32_t id;
	msgpack_unpacked msg;
	size_t len;
	uint8_t bytes[];
};

struct thaw {
	int fd; /* owned */
	uint32_t last_id;
	/* The request under construction. */
	msgpack_sbuffer out;
	msgpack_packer packer;
	int fds[THAW_MAX_FDS]; /* borrowed */
	unsigned nfds;
	/* Received bytes: [rx_pos, rx_len) are not yet looked at. */
	uint8_t *rx; /* owned */
	size_t rx_cap, rx_pos, rx_len;
	/* Answers nobody asked for yet, oldest first. */
	struct answer *head, **tail; /* owned */
	size_t nanswers;
	/* 1: look for the answer a while before sleeping (answer.c). Below 0:
	 * that was in vain; so many waits until it may be tried again. */
	int spin;
	/* Not THAW_OK: the connection is broken, and this is why. */
	struct thaw_error broken;
	thaw_notify_fn *notify;
	void *notify_arg;
	const volatile sig_atomic_t *interrupt; /* borrowed */
};

/* A client on a connected socket, which it owns from here. */
int client_new(int fd, struct thaw **out, struct thaw_error *e) MUST_USE;
int client_error(struct thaw_error *e, enum thaw_code code, const char *fmt,
	...) PRINTF(3, 4);
/* As client_error(), and the connection is of no use any more. */
int client_break(struct thaw *t, struct thaw_error *e, enum thaw_code code,
	const char *fmt, ...) PRINTF(4, 5);

/* Wait for events on the socket until deadline (now_ns() scale, 0: for ever).
 * THAW_OK, THAW_TIMEOUT or THAW_INTERRUPTED; *revents is set. */
int client_poll(struct thaw *t, short events, uint64_t deadline, short *revents,
	struct thaw_error *e) MUST_USE;
/* Read once what is there (blocking: wait for something) and file the answers.
 * THAW_OK also when nothing complete came. */
int client_receive(
	struct thaw *t, bool blocking, struct thaw_error *e) MUST_USE;

#endif
