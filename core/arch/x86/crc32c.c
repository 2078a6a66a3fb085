/*
 * CRC-32C with the crc32 instruction of SSE4.2.
 *
 * How it works: the instruction takes three cycles but a new one can start in
 * every cycle, so three lanes of LANE bytes run side by side. Their results
 * are joined by shifting: the CRC of A followed by B is crc(A) * x^(8 |B|)
 * xor crc(B). With bit-reflected operands, the carry-less product of a and b
 * stands for a * b * x, and crc32 of a 64-bit value v with initial value 0
 * gives v * x^32 mod P. So a shift by n bytes is one multiplication by
 * x^(8n - 33) mod P and one crc32.
 */
#include "core/crc32c.h"

#include <nmmintrin.h>
#include <string.h>
#include <wmmintrin.h>

#define LANE      1360U       /* three fill a 4 KiB page but for 16 bytes */
#define SHIFT_1   0x3f70cc6fU /* x^(8 * LANE - 33) mod P, reflected */
#define SHIFT_2   0x5aa1f3cfU /* x^(8 * 2 * LANE - 33) */
#define WITH_SSE4 __attribute__((target("sse4.2,pclmul")))

static uint64_t load64(const uint8_t *p)
{
	uint64_t v;

	memcpy(&v, p, sizeof(v));
	return v;
}

WITH_SSE4 static uint32_t shift(uint64_t crc, uint32_t by)
{
	__m128i a = _mm_cvtsi64_si128((long long)crc);
	__m128i b = _mm_cvtsi32_si128((int)by);
	__m128i product = _mm_clmulepi64_si128(a, b, 0);

	return (uint32_t)_mm_crc32_u64(0, (uint64_t)_mm_cvtsi128_si64(product));
}

WITH_SSE4 static uint32_t three_lanes(uint32_t crc, const uint8_t *p)
{
	uint64_t a = crc, b = 0, c = 0;

	for (size_t i = 0; i < LANE; i += 8) {
		a = _mm_crc32_u64(a, load64(p + i));
		b = _mm_crc32_u64(b, load64(p + i + LANE));
		c = _mm_crc32_u64(c, load64(p + i + 2 * LANE));
	}
	return shift(a, SHIFT_2) ^ shift(b, SHIFT_1) ^ (uint32_t)c;
}

WITH_SSE4 static uint32_t run(uint32_t crc, const uint8_t *p, size_t len)
{
	for (; len >= 3 * LANE; len -= 3 * LANE, p += 3 * LANE)
		crc = three_lanes(crc, p);
	for (; len >= 8; len -= 8, p += 8)
		crc = (uint32_t)_mm_crc32_u64(crc, load64(p));
	for (; len; len--, p++)
		crc = _mm_crc32_u8(crc, *p);
	return crc;
}

bool arch_crc32c(uint32_t *crc, const void *data, size_t len)
{
	if (!__builtin_cpu_supports("sse4.2") ||
		!__builtin_cpu_supports("pclmul"))
		return false;
	*crc = ~run(~*crc, data, len);
	return true;
}
