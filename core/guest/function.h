/*
 * What the author of a function sees: docs/functions.md.
 *
 * The guest is one thread without a C library; the code runs at CPL 3 with the
 * baseline x86-64 instructions (SSE2 included). A function may use 48 KiB of
 * stack.
 */
#ifndef THAW_CORE_GUEST_FUNCTION_H
#define THAW_CORE_GUEST_FUNCTION_H

#include "core/guest/lib.h"

/* Error codes of the API (docs/api.md). */
enum fn_code {
	FN_OK,
	FN_INVALID,
	FN_NOT_FOUND,
	FN_UNSUPPORTED,
	FN_TIMEOUT,
	FN_EXHAUSTED,
	FN_INTERNAL,
	FN_NCODES_
};

/* One request. */
struct fn_ctx {
	/* The payload; yours to read and to change until you return. */
	uint8_t *in;
	size_t in_len;
	/* The answer: point it at any memory that stays as it is (the payload,
	 * static, fn_alloc()), or use fn_write(). At most 6 MiB. */
	const uint8_t *out;
	size_t out_len;
	/* for fn_write() and fn_fail() */
	uint8_t *out_buf;
	size_t out_cap;
	enum fn_code code;
	const char *error;
};

/*
 * To be supplied. Returns 0, or what fn_fail() returned.
 */
int function_main(struct fn_ctx *ctx);
/*
 * May be supplied: runs once at boot, before the first request and so before a
 * template is frozen. What it allocates stays. ctx has no payload, and what it
 * answers is dropped. An error stops the boot.
 */
int function_init(struct fn_ctx *ctx);
/* May be supplied: what ping lists, NULL at the end. */
extern const char *const function_names[];

/* Memory until the end of the request, aligned to 16 bytes, not cleared; NULL
 * when there is no more. There is no free. */
void *fn_alloc(size_t size);
/* What one fn_alloc() could give at most, and several together. */
size_t fn_room(void);
size_t fn_free(void);

/* Append to the answer. 0, or an error to return (out of memory). */
int fn_write(struct fn_ctx *ctx, const void *p, size_t n);
int fn_write_str(struct fn_ctx *ctx, const char *s);
int fn_write_dec(struct fn_ctx *ctx, uint64_t v);
int fn_write_hex(struct fn_ctx *ctx, const void *p, size_t n);

/* The request fails with this code and text, which must stay as it is (a
 * literal, fn_alloc()). Returns the negative code: "return fn_fail(...)". */
int fn_fail(struct fn_ctx *ctx, enum fn_code code, const char *text);

/* Unpredictable bytes; no two clones get the same. */
void fn_random(void *p, size_t n);
/* Nanoseconds since 1970; right in a clone, too. */
uint64_t fn_wall_ns(void);
/* Nanoseconds of a clock that never jumps back. */
uint64_t fn_mono_ns(void);
void fn_sleep_us(uint64_t us);
/* To the serial port: `thaw logs`. An exit per byte: some 20 us each. */
void fn_console(const char *s, size_t n);
/* "" before the identity was set. */
const char *fn_hostname(void);
/* 16 bytes each. */
const uint8_t *fn_machine_id(void);
const uint8_t *fn_generation(void);
/* The value of "key=value" on the kernel command line, or NULL; *n: length. */
const char *fn_option(const char *key, size_t *n);

#endif
