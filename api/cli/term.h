/*
 * The terminal of `thaw run`: raw while the machine has it, and given back as
 * it was on every way out, signals included.
 */
#ifndef THAW_API_CLI_TERM_H
#define THAW_API_CLI_TERM_H

#include <signal.h>
#include <stdbool.h>
#include <termios.h>

struct term {
	bool raw; /* stdin is a terminal, now in raw mode */
	struct termios saved;
	struct sigaction old_int, old_term, old_hup;
	volatile sig_atomic_t stop; /* SIGINT, SIGTERM or SIGHUP came */
};

/* One at a time per process. */
void term_open(struct term *t);
void term_close(struct term *t);

#endif
