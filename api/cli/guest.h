/* The agent in a machine's guest, for the commands that talk to it. */
#ifndef THAW_API_CLI_GUEST_H
#define THAW_API_CLI_GUEST_H

#include "api/cli/cli.h"

/* Connect to the agent of a running machine; one that does not listen yet is
 * tried again for timeout_ms. *g is the caller's. Returns an exit code. */
int guest_open(
	struct cli *c, const char *id, uint64_t timeout_ms, struct thaw **g);

struct guest_exec {
	const char *const *argv; /* borrowed, nargs strings */
	unsigned nargs;
	const struct opt_labels *env; /* or NULL */
	const char *cwd;              /* or NULL */
	uint64_t timeout_ms;          /* 0: no limit */
	bool in;                      /* our stdin is the command's */
};
/* Run a command, its streams on ours. Returns EXIT_DONE with the command's
 * exit code in *code, or an exit code after a message. */
int guest_exec(
	struct cli *c, struct thaw *g, const struct guest_exec *x, int *code);
/* One call of the agent; cli_error() after a failure. r may be NULL. */
int guest_call(struct cli *c, struct thaw *g, struct thaw_result *r);

#endif
