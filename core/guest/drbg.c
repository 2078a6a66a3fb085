#include "core/guest/drbg.h"

#include "core/guest/cpu.h"

static uint32_t rotl(uint32_t v, int n)
{
	return v << n | v >> (32 - n);
}

static void quarter(uint32_t *x, int a, int b, int c, int d)
{
	x[a] += x[b];
	x[d] = rotl(x[d] ^ x[a], 16);
	x[c] += x[d];
	x[b] = rotl(x[b] ^ x[c], 12);
	x[a] += x[b];
	x[d] = rotl(x[d] ^ x[a], 8);
	x[c] += x[d];
	x[b] = rotl(x[b] ^ x[c], 7);
}

void chacha20_block(const uint32_t key[8], uint32_t counter,
	const uint32_t nonce[3], uint8_t out[64])
{
	uint32_t x[16] = {0x61707865, 0x3320646e, 0x79622d32, 0x6b206574};
	uint32_t in[16];

	memcpy(x + 4, key, 32);
	x[12] = counter;
	memcpy(x + 13, nonce, 12);
	memcpy(in, x, sizeof(in));
	for (int i = 0; i < 10; i++) {
		/* columns, then diagonals */
		for (int q = 0; q < 4; q++)
			quarter(x, q, q + 4, q + 8, q + 12);
		for (int q = 0; q < 4; q++)
			quarter(x, q, (q + 1) % 4 + 4, (q + 2) % 4 + 8,
				(q + 3) % 4 + 12);
	}
	for (int i = 0; i < 16; i++)
		x[i] += in[i];
	memcpy(out, x, 64);
	wipe(x, sizeof(x));
	wipe(in, sizeof(in));
}

/* Says what a block is used for: no output is ever a key of another use. */
static const uint32_t nonce_mix[3] = {1}, nonce_fill[3] = {2};

void drbg_mix(struct drbg *d, const void *seed, size_t n)
{
	const uint8_t *p = seed;
	uint8_t block[64];
	uint32_t part = 0;

	/* The length goes in as the counter of the last block. */
	do {
		size_t m = n < 32 ? n : 32;

		memset(block, 0, 32);
		memcpy(block, p, m);
		for (int i = 0; i < 8; i++) {
			uint32_t w;

			memcpy(&w, block + 4 * i, 4);
			d->key[i] ^= w;
		}
		p += m;
		n -= m;
		chacha20_block(
			d->key, n ? part++ : ~(uint32_t)m, nonce_mix, block);
		memcpy(d->key, block, 32);
	} while (n);
	wipe(block, sizeof(block));
}

void drbg_fill(struct drbg *d, void *out, size_t n)
{
	uint8_t next[32], block[64];
	uint8_t *p = out;
	uint32_t counter = 1;

	chacha20_block(d->key, 0, nonce_fill, block);
	memcpy(next, block, 32);
	while (n) {
		size_t m = n < 64 ? n : 64;

		chacha20_block(d->key, counter++, nonce_fill, block);
		/* 256 GiB in one call: the counter's end */
		if (!counter)
			break;
		memcpy(p, block, m);
		p += m;
		n -= m;
	}
	memcpy(d->key, next, 32);
	wipe(next, sizeof(next));
	wipe(block, sizeof(block));
}

/* global: the guest's generator */
static struct drbg own HOT;

void random_mix(const void *seed, size_t n)
{
	drbg_mix(&own, seed, n);
}

static bool any(const uint8_t *p, size_t n)
{
	uint8_t or = 0;

	while (n--)
		or |= *p++;
	return or ;
}

void random_take_seed(void)
{
	struct ident *id = ident_page();

	if (any(id->seed, sizeof(id->seed))) {
		drbg_mix(&own, id->seed, sizeof(id->seed));
		drbg_mix(&own, id->generation, sizeof(id->generation));
		wipe(id->seed, sizeof(id->seed));
	}
}

void random_fill(void *out, size_t n)
{
	random_take_seed();
	drbg_fill(&own, out, n);
}
