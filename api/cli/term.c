#include "api/cli/term.h"

#include <string.h>
#include <unistd.h>

/* global: a signal handler has nothing else to reach the terminal by. */
static struct term *volatile current;

static void on_signal(int sig)
{
	struct term *t = current;

	(void)sig;
	if (t)
		t->stop = 1;
}

void term_open(struct term *t)
{
	/* No SA_RESTART: poll() must return. */
	struct sigaction sa = {.sa_handler = on_signal};
	struct termios raw;

	memset(t, 0, sizeof(*t));
	current = t;
	(void)sigaction(SIGINT, &sa, &t->old_int);
	(void)sigaction(SIGTERM, &sa, &t->old_term);
	(void)sigaction(SIGHUP, &sa, &t->old_hup);
	if (!isatty(STDIN_FILENO) || tcgetattr(STDIN_FILENO, &t->saved))
		return;
	raw = t->saved;
	cfmakeraw(&raw);
	/* The guest sends what a terminal expects only as far as a serial line
	 * does: newlines stay ours. */
	raw.c_oflag |= OPOST | ONLCR;
	t->raw = tcsetattr(STDIN_FILENO, TCSANOW, &raw) == 0;
}

void term_close(struct term *t)
{
	if (t->raw)
		(void)tcsetattr(STDIN_FILENO, TCSADRAIN, &t->saved);
	t->raw = false;
	(void)sigaction(SIGINT, &t->old_int, NULL);
	(void)sigaction(SIGTERM, &t->old_term, NULL);
	(void)sigaction(SIGHUP, &t->old_hup, NULL);
	current = NULL;
}
