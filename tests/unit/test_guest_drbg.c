/* The guest's random generator: ChaCha20, seeding, what clones share. */
#include "tests/unit/test.h"
#include "core/guest/cpu.h"
#include "core/guest/drbg.h"

#include <string.h>

/* global: the guest's identity page */
static struct ident page;

struct ident *ident_page(void)
{
	return &page;
}

/* RFC 8439 section 2.3.2 */
static void test_chacha20(void **state)
{
	static const uint8_t want[64] = {0x10, 0xf1, 0xe7, 0xe4, 0xd1, 0x3b,
		0x59, 0x15, 0x50, 0x0f, 0xdd, 0x1f, 0xa3, 0x20, 0x71, 0xc4,
		0xc7, 0xd1, 0xf4, 0xc7, 0x33, 0xc0, 0x68, 0x03, 0x04, 0x22,
		0xaa, 0x9a, 0xc3, 0xd4, 0x6c, 0x4e, 0xd2, 0x82, 0x64, 0x46,
		0x07, 0x9f, 0xaa, 0x09, 0x14, 0xc2, 0xd7, 0x05, 0xd9, 0x8b,
		0x02, 0xa2, 0xb5, 0x12, 0x9c, 0xd1, 0xde, 0x16, 0x4e, 0xb9,
		0xcb, 0xd0, 0x83, 0xe8, 0xa2, 0x50, 0x3c, 0x4e};
	static const uint32_t nonce[3] = {0x09000000, 0x4a000000, 0};
	uint8_t key[32], out[64];
	uint32_t words[8];

	(void)state;
	for (unsigned i = 0; i < 32; i++)
		key[i] = (uint8_t)i;
	memcpy(words, key, 32);
	chacha20_block(words, 1, nonce, out);
	assert_memory_equal(out, want, 64);
}

static void test_streams_differ(void **state)
{
	struct drbg a = {{1}}, b = {{1}};
	uint8_t x[200], y[200];

	(void)state;
	drbg_fill(&a, x, sizeof(x));
	drbg_fill(&b, y, sizeof(y));
	assert_memory_equal(x, y, sizeof(x));
	/* the key moved on, and no output repeats inside a call */
	drbg_fill(&a, y, sizeof(y));
	assert_memory_not_equal(x, y, 32);
	assert_memory_not_equal(x, x + 64, 64);
	/* how much was asked for does not change what comes next */
	drbg_fill(&b, x, 1);
	assert_memory_equal(a.key, b.key, sizeof(a.key));
}

static void test_seeds(void **state)
{
	struct drbg a = {{7}}, b = {{7}};
	uint8_t seed[40] = {1};

	(void)state;
	drbg_mix(&a, seed, 32);
	drbg_mix(&b, seed, 33);
	assert_memory_not_equal(a.key, b.key, sizeof(a.key));
	b = (struct drbg){{7}};
	drbg_mix(&b, seed, 32);
	assert_memory_equal(a.key, b.key, sizeof(a.key));
	/* the last byte of a long seed counts */
	b = a;
	drbg_mix(&a, seed, 40);
	seed[39] ^= 1;
	drbg_mix(&b, seed, 40);
	assert_memory_not_equal(a.key, b.key, sizeof(a.key));
}

static void test_page_seed(void **state)
{
	static const uint8_t zero[IDENT_SEED_SIZE];
	uint8_t x[16], y[16];

	(void)state;
	memset(page.seed, 0xa5, sizeof(page.seed));
	random_fill(x, sizeof(x));
	assert_memory_equal(page.seed, zero, sizeof(zero));
	random_fill(y, sizeof(y));
	assert_memory_not_equal(x, y, sizeof(x));
	page.seed[63] = 1;
	random_take_seed();
	assert_memory_equal(page.seed, zero, sizeof(zero));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_chacha20),
		cmocka_unit_test(test_streams_differ),
		cmocka_unit_test(test_seeds),
		cmocka_unit_test(test_page_seed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
