/* CRC-32C: published values, and the fast path against the table. */
#include "tests/unit/test.h"
#include "core/crc32c.h"

#include <string.h>

static void test_known(void **state)
{
	uint8_t buf[32];

	(void)state;
	assert_int_equal(crc32c(0, "", 0), 0);
	assert_int_equal(crc32c(0, "123456789", 9), 0xe3069283);
	/* RFC 3720, section B.4 */
	memset(buf, 0, 32);
	assert_int_equal(crc32c(0, buf, 32), 0x8a9136aa);
	memset(buf, 0xff, 32);
	assert_int_equal(crc32c(0, buf, 32), 0x62a8ab43);
	for (uint8_t i = 0; i < 32; i++)
		buf[i] = i;
	assert_int_equal(crc32c(0, buf, 32), 0x46dd794e);
	assert_int_equal(crc32c_table(0, buf, 32), 0x46dd794e);
}

static void test_agree(void **state)
{
	static uint8_t buf[70000];
	uint32_t seed = 7;

	(void)state;
	for (size_t i = 0; i < sizeof(buf); i++) {
		seed = seed * 1664525 + 1013904223;
		buf[i] = (uint8_t)(seed >> 24);
	}
	for (size_t n = 0; n < sizeof(buf); n += n < 9000 ? 7 : 997) {
		size_t off = n % 13, len = n;

		if (off + len > sizeof(buf))
			len = sizeof(buf) - off;
		assert_int_equal(crc32c(5, buf + off, len),
			crc32c_table(5, buf + off, len));
	}
}

static void test_pieces(void **state)
{
	uint8_t buf[10000];
	uint32_t whole;

	(void)state;
	for (size_t i = 0; i < sizeof(buf); i++)
		buf[i] = (uint8_t)(i * i >> 3);
	whole = crc32c(0, buf, sizeof(buf));
	for (size_t cut = 0; cut <= sizeof(buf); cut += 101)
		assert_int_equal(crc32c(crc32c(0, buf, cut), buf + cut,
					 sizeof(buf) - cut),
			whole);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_known),
		cmocka_unit_test(test_agree),
		cmocka_unit_test(test_pieces),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
