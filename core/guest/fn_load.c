/* Functions that use time or memory, for tests and benchmarks. */
#include "core/guest/fn.h"

#define MIB          (1ULL << 20)
#define MAX_MEGABYTE (1ULL << 20) /* 1 TiB */
#define MAX_SLEEP_MS (24 * 3600 * 1000ULL)

int fn_spin(struct fn_ctx *ctx, const struct fn_input *in)
{
	uint64_t n;
	int r = fn_number(ctx, in, UINT64_MAX, &n);

	if (r)
		return r;
	for (uint64_t i = 0; i < n; i++)
		__asm__ volatile("" : "+r"(i));
	return fn_write_dec(ctx, n);
}

/* n MiB, of one piece or of several; first: of the words' numbers. */
static int fill(
	struct fn_ctx *ctx, uint64_t megabytes, bool zero, uint64_t first)
{
	uint64_t left = megabytes * MIB;

	/* Rather than fill all there is and fail then. */
	if (left > fn_free())
		return fn_fail(ctx, FN_EXHAUSTED, "out of memory");

	while (left) {
		uint64_t n = fn_room();
		uint64_t *p;

		if (n > left)
			n = left;
		n &= ~7ULL;
		p = n ? fn_alloc(n) : NULL;
		if (!p)
			return fn_fail(ctx, FN_EXHAUSTED, "out of memory");
		left -= n;
		if (zero) {
			memset(p, 0, n);
			continue;
		}
		/* odd multiples: no two words and no two pages are alike */
		for (uint64_t i = 0; i < n / 8; i++)
			p[i] = (2 * (first + left / 8 + i) + 1) *
			       0x9e3779b97f4a7c15ULL;
	}
	return 0;
}

int fn_touch(struct fn_ctx *ctx, const struct fn_input *in)
{
	uint64_t n;
	int r = fn_number(ctx, in, MAX_MEGABYTE, &n);

	/* Data behind the line move the content by 64 KiB a byte. */
	r = r ? r : fill(ctx, n, false, in->ndata * (65536 / 8));
	/* The answer needs a little memory: it is a small one. */
	r = r ? r : fn_write_str(ctx, "touched ");
	r = r ? r : fn_write_dec(ctx, n);
	return r ? r : fn_write_str(ctx, " MiB");
}

/* Is what an earlier "touch" of at least as much left there? Below the device
 * hole that is the first piece, whose words do not depend on how much it was.
 */
COLD int fn_check(struct fn_ctx *ctx, const struct fn_input *in)
{
	const uint64_t *p;
	uint64_t n;
	int r = fn_number(ctx, in, MAX_MEGABYTE, &n);

	if (r)
		return r;
	p = n * MIB <= fn_room() ? fn_alloc(n * MIB) : NULL;
	if (!p)
		return fn_fail(ctx, FN_EXHAUSTED, "out of memory");
	for (uint64_t i = 0; i < n * MIB / 8; i++)
		if (p[i] != (2 * i + 1) * 0x9e3779b97f4a7c15ULL)
			return fn_fail(ctx, FN_INVALID, "memory is wrong");
	r = fn_write_str(ctx, "right ");
	r = r ? r : fn_write_dec(ctx, n);
	return r ? r : fn_write_str(ctx, " MiB");
}

int fn_zero(struct fn_ctx *ctx, const struct fn_input *in)
{
	uint64_t n;
	int r = fn_number(ctx, in, MAX_MEGABYTE, &n);

	r = r ? r : fill(ctx, n, true, 0);
	r = r ? r : fn_write_str(ctx, "zeroed ");
	r = r ? r : fn_write_dec(ctx, n);
	return r ? r : fn_write_str(ctx, " MiB");
}

int fn_sleep(struct fn_ctx *ctx, const struct fn_input *in)
{
	uint64_t ms;
	int r = fn_number(ctx, in, MAX_SLEEP_MS, &ms);

	if (r)
		return r;
	fn_sleep_us(ms * 1000);
	return fn_write_str(ctx, "slept");
}
