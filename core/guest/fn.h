/* The built-in functions: fn_*.c; chosen by fn_builtin.c. */
#ifndef THAW_CORE_GUEST_FN_H
#define THAW_CORE_GUEST_FN_H

#include "core/guest/function.h"

/* What a function gets: the words after its name on the first line, and what
 * comes after that line. Chosen by thaw.function=, it gets the whole payload as
 * both. */
struct fn_input {
	const char *arg;
	size_t narg;
	uint8_t *data;
	size_t ndata;
};

typedef int fn_builtin(struct fn_ctx *ctx, const struct fn_input *in);

/* fn_builtin.c: arg is one number up to max. */
int fn_number(struct fn_ctx *ctx, const struct fn_input *in, uint64_t max,
	uint64_t *v);

/* fn_text.c */
fn_builtin fn_sha256, fn_wordcount, fn_sort;
/* fn_load.c: time and memory */
fn_builtin fn_spin, fn_touch, fn_zero, fn_check, fn_sleep;
/* fn_end.c */
fn_builtin fn_crash, fn_poweroff, fn_reboot;
/* fn_net.c */
fn_builtin fn_flood, fn_connect;

#endif
