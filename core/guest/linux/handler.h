/* Shared by handler.c (its life, the queue) and handler_io.c (what it says). */
#ifndef THAW_CORE_GUEST_LINUX_HANDLER_H
#define THAW_CORE_GUEST_LINUX_HANDLER_H

#include "core/guest/linux/agent.h"

/* "WORD LENGTH\n" */
#define TA_HANDLER_HEAD 32u

/* It is gone, or will be; why: "it ...". */
void ta_handler_failed(struct ta *t, const char *why);
/* Give an idle handler what waits. */
void ta_handler_next(struct ta *t);
/* Write what waits for its stdin. */
void ta_handler_push(struct ta *t);
/* Those who wait for "ready" learn how it went. */
void ta_handler_tell_waiters(struct ta *t);
/* The identity that waits for it is acknowledged. */
void ta_handler_end_identity(struct ta *t);
void ta_invoke_free(struct ta_invoke *v);
void ta_handler_stdout(struct ta *t);
/* Read once; false: nothing there, or closed. */
bool ta_handler_stderr(struct ta *t);

#endif
