/*
 * Errors with a message.
 *
 * Inside thaw a function returns 0 or a negative errno. Where a person will
 * read the result, the last parameter is a struct err that also carries one
 * line of text: what failed, why, and what to do about it. It may be NULL.
 *
 * Meaning of the codes that cross a boundary (api/ maps them to API codes):
 *   -EINVAL    a parameter is wrong             -> invalid
 *   -ENOENT    no such template, machine, file  -> not_found
 *   -EEXIST    the name or the file is taken    -> exists
 *   -EBUSY     not now                          -> busy
 *   -EACCES, -EPERM                             -> denied
 *   -EOPNOTSUPP this thaw or host cannot        -> unsupported
 *   -ENOEXEC   not this machine on this host    -> unsupported, detail "host"
 *   -EBADMSG, -ESTALE the file or the guest lies -> corrupt
 *   -ETIMEDOUT                                  -> timeout
 *   -ENOMEM, -ENOSPC, -EMFILE, -EAGAIN          -> exhausted
 *   everything else                             -> internal
 */
#ifndef THAW_CORE_ERR_H
#define THAW_CORE_ERR_H

#include "core/util.h"

struct err {
	int code; /* negative errno, 0 when nothing went wrong */
	char msg[500];
};

/* Set code and message; returns code, so that "return err_set(...)" works. */
int err_set(struct err *e, int code, const char *fmt, ...) PRINTF(3, 4);
/* As err_set(), with ": strerror(-code)" appended. */
int err_sys(struct err *e, int code, const char *fmt, ...) PRINTF(3, 4);
/* Put "context: " before the message; returns the code that is in e. */
int err_wrap(struct err *e, const char *fmt, ...) PRINTF(2, 3);

#endif
