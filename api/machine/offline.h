/*
 * The inspect role: parse one snapshot file on behalf of the daemon, which
 * never does that itself. Answers one CTL_INSPECT request with msgpack, then
 * ends. Runs under the loop filter: it can open nothing.
 */
#ifndef THAW_API_MACHINE_OFFLINE_H
#define THAW_API_MACHINE_OFFLINE_H

struct worker;

/* Returns the process's exit code. */
int offline_run(struct worker *w);

#endif
