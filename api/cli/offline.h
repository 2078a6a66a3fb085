/*
 * Offline tools read files that anybody may have made. A child process without
 * rights does it: it has the descriptors that were open when it was forked, and
 * a seccomp filter that lets it read them, write to them, compute, and nothing
 * else. What it finds comes back through a pipe, as one msgpack object that is
 * checked like everything from outside. Names, and giving a finished file its
 * name, stay here.
 */
#ifndef THAW_API_CLI_OFFLINE_H
#define THAW_API_CLI_OFFLINE_H

#include "api/cli/cli.h"
#include "core/err.h"

/* In the child: pack the answer, or say what is wrong. */
typedef int offline_fn(void *arg, msgpack_packer *out, struct err *e);

struct offline_answer {
	char *buf; /* owned; what msg points into */
	msgpack_unpacked msg;
};

/* Run fn in such a child and wait. fn's error comes back as it was; a child
 * that crashed is -EBADMSG: the file was too much for it; one that was killed
 * -EINTR. On 0 the answer is to be freed. */
int offline_run(offline_fn *fn, void *arg, struct offline_answer *a,
	struct err *e) MUST_USE;
void offline_free(struct offline_answer *a);

/* What the snapshot code reports, as an exit code. */
int offline_exit(int code);

#endif
