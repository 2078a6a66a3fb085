/* What function.h promises, on top of the guest. */
#include "core/guest/function.h"

#include "core/guest/agent.h"
#include "core/guest/clock.h"
#include "core/guest/cpu.h"
#include "core/guest/drbg.h"
#include "core/guest/heap.h"
#include "core/guest/vsock.h"

#define FIRST_CAP 4096u

void *fn_alloc(size_t size)
{
	return heap_alloc(size);
}

size_t fn_room(void)
{
	return heap_room();
}

size_t fn_free(void)
{
	return heap_left();
}

int fn_fail(struct fn_ctx *ctx, enum fn_code code, const char *text)
{
	ctx->code = code;
	ctx->error = text;
	return -(int)code;
}

/* The old buffer is left to the end of the request: doubling bounds the waste
 * by the size of the answer. */
static int grow(struct fn_ctx *ctx, size_t need)
{
	size_t cap = ctx->out_cap ? ctx->out_cap : FIRST_CAP;
	uint8_t *p;

	while (cap < need)
		cap *= 2;
	p = heap_alloc(cap);
	if (!p)
		return fn_fail(ctx, FN_EXHAUSTED, "out of memory");
	if (ctx->out_len)
		memcpy(p, ctx->out, ctx->out_len);
	ctx->out_buf = p;
	ctx->out_cap = cap;
	ctx->out = p;
	return 0;
}

int fn_write(struct fn_ctx *ctx, const void *p, size_t n)
{
	if (n > AGENT_MAX_PAYLOAD || n + ctx->out_len > AGENT_MAX_PAYLOAD)
		return fn_fail(ctx, FN_EXHAUSTED, "the answer exceeds 6 MiB");
	if (ctx->out != ctx->out_buf || ctx->out_len + n > ctx->out_cap) {
		int r = grow(ctx, ctx->out_len + n);

		if (r)
			return r;
	}
	memcpy(ctx->out_buf + ctx->out_len, p, n);
	ctx->out_len += n;
	return 0;
}

int fn_write_str(struct fn_ctx *ctx, const char *s)
{
	return fn_write(ctx, s, strlen(s));
}

int fn_write_dec(struct fn_ctx *ctx, uint64_t v)
{
	char digits[20];

	return fn_write(ctx, digits, put_dec(digits, v));
}

int fn_write_hex(struct fn_ctx *ctx, const void *p, size_t n)
{
	const uint8_t *b = p;
	char hex[64];
	int r = 0;

	while (n && !r) {
		size_t m = n < 32 ? n : 32;

		put_hex(hex, b, m);
		r = fn_write(ctx, hex, 2 * m);
		b += m;
		n -= m;
	}
	return r;
}

void fn_random(void *p, size_t n)
{
	random_fill(p, n);
}

uint64_t fn_wall_ns(void)
{
	return clock_wall_ns();
}

uint64_t fn_mono_ns(void)
{
	return clock_ns();
}

COLD void fn_sleep_us(uint64_t us)
{
	uint64_t end = clock_ns() + us * 1000;

	for (;;) {
		uint64_t now = clock_ns(), left = (end - now) / 1000 + 1;

		if (now >= end)
			return;
		vsock_sleep(left < 1000000 ? (uint32_t)left : 1000000);
	}
}

COLD void fn_console(const char *s, size_t n)
{
	for (size_t i = 0; i < n; i++)
		out8(SERIAL_PORT, (uint8_t)s[i]);
}

const char *fn_hostname(void)
{
	return agent_hostname();
}

const uint8_t *fn_machine_id(void)
{
	return agent_machine_id();
}

const uint8_t *fn_generation(void)
{
	return ident_page()->generation;
}
