/*
 * A machine without a daemon, for debugging: boots a kernel with its console
 * on stdout and says when the agent answers. No jail, no control socket.
 */
#ifndef THAW_API_MACHINE_ALONE_H
#define THAW_API_MACHINE_ALONE_H

/* kernel_path NULL: the built-in guest. Returns the process's exit code. */
int alone_run(const char *kernel_path, const char *cmdline);

#endif
