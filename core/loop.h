/*
 * Event loop: epoll, where the tag in the event data names the handler.
 *
 * There are no callbacks: whoever owns the loop calls loop_wait() and
 * switches on ev_ref.type, so that everything a process reacts to can be
 * read in one switch. Values of .type belong to the owner (an enum there).
 * One thread waits on a loop; loop_add/mod/del may be called from any thread.
 */
#ifndef THAW_CORE_LOOP_H
#define THAW_CORE_LOOP_H

#include "core/util.h"

#include <sys/epoll.h>

union ev_ref {
	struct {
		uint32_t type;  /* the owner's enum */
		uint32_t index; /* which one: slot number, connection ... */
	};
	void *ptr; /* or an object whose first member says its type */
	uint64_t u64;
};
_Static_assert(sizeof(union ev_ref) == 8, "must fit epoll_event.data");

struct loop {
	int epfd; /* owned */
};

int loop_init(struct loop *l) MUST_USE;
void loop_fini(struct loop *l);
int loop_add(
	struct loop *l, int fd, uint32_t events, union ev_ref ref) MUST_USE;
int loop_mod(
	struct loop *l, int fd, uint32_t events, union ev_ref ref) MUST_USE;
/* The fd must still be open. */
void loop_del(struct loop *l, int fd);
/* epoll_wait, EINTR retried as 0 events; timeout in ms, -1 for ever. */
int loop_wait(struct loop *l, struct epoll_event *ev, int max, int timeout_ms);

/* A timerfd (CLOCK_MONOTONIC, non-blocking, close-on-exec), or -errno. */
int timer_open(void) MUST_USE;
/* Fire once after ns (0: disarm). */
int timer_arm(int fd, uint64_t ns);
/* Read and drop a timerfd's or an eventfd's count. */
void eventfd_drain(int fd);
/* Add 1 to an eventfd. */
void eventfd_kick(int fd);

#endif
