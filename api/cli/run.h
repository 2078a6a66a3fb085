/* thaw run, between its two halves: cmd_run.c (console) and run_exec.c. */
#ifndef THAW_API_CLI_RUN_H
#define THAW_API_CLI_RUN_H

#include "api/cli/cli.h"

struct run_exec {
	const json_t *cfg;           /* borrowed */
	const char *command;         /* for /bin/sh -c */
	const char *name, *hostname; /* or NULL */
	bool in;                     /* our stdin is the command's */
};

/* Boot, run, power off. The command's exit code, or ours after a message. */
int run_exec(struct cli *c, const struct run_exec *x);

#endif
