/*
 * An example function: the CRC-32 (as in zip and PNG) of the payload.
 *
 *	make function SRC=core/guest/example.c OUT=build/crc32.elf
 *	thaw template create crc --kernel build/crc32.elf
 *	thaw invoke crc --data 123456789		prints cbf43926
 */
#include "core/guest/function.h"

const char *const function_names[] = {"crc32", NULL};

/* global: made before the freeze, shared by all clones */
static uint32_t *table;

/* What is slow to make belongs here: clones find it done. */
int function_init(struct fn_ctx *ctx)
{
	table = fn_alloc(256 * sizeof(*table));
	if (!table)
		return fn_fail(ctx, FN_EXHAUSTED, "out of memory");
	for (uint32_t i = 0; i < 256; i++) {
		uint32_t c = i;

		for (int bit = 0; bit < 8; bit++)
			c = c & 1 ? 0xedb88320 ^ c >> 1 : c >> 1;
		table[i] = c;
	}
	return 0;
}

int function_main(struct fn_ctx *ctx)
{
	uint32_t crc = ~0u;
	uint8_t out[4];

	for (size_t i = 0; i < ctx->in_len; i++)
		crc = table[(crc ^ ctx->in[i]) & 0xff] ^ crc >> 8;
	crc = ~crc;
	for (unsigned i = 0; i < 4; i++)
		out[i] = (uint8_t)(crc >> (24 - 8 * i));
	return fn_write_hex(ctx, out, sizeof(out));
}
