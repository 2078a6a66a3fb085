/*
 * The serial console of a worker. The guest's bytes arrive on a vCPU thread
 * and are only put into a small buffer; the loop thread sends them on as
 * CTL_CONSOLE messages. A guest that prints faster than the daemon reads loses
 * bytes, counted, and is never held up.
 */
#ifndef THAW_API_MACHINE_CONSOLE_H
#define THAW_API_MACHINE_CONSOLE_H

#include "core/machine.h"

#define CONSOLE_BUF 8192

struct worker;

struct console {
	pthread_mutex_t lock; /* buf, n, dropped */
	int event;            /* owned eventfd: there are bytes */
	size_t n;
	uint64_t dropped;
	char buf[CONSOLE_BUF];
};

/* Before machine_realize(); ref: how the loop will report the event. */
int console_open(struct console *c, struct machine *m, union ev_ref ref,
	struct err *e) MUST_USE;
void console_close(struct console *c);
/* The event fired: send what is there; the worker also looks at it when it
 * waits for a text. */
void console_flush(struct worker *w);

#endif
