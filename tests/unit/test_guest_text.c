/* The guest's SHA-256, wordcount, sort and number helpers. */
#include "tests/unit/test.h"
#include "core/guest/sha256.h"
#include "core/guest/text.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Numbers that look random and are the same each time. */
static uint32_t rnd(void)
{
	static uint32_t x = 2463534242; /* global: its state */

	x ^= x << 13;
	x ^= x >> 17;
	x ^= x << 5;
	return x;
}

static void check_sha(const void *p, size_t n, const char *want)
{
	uint8_t digest[32];
	char hex[65] = "";

	sha256(p, n, digest);
	put_hex(hex, digest, 32);
	assert_string_equal(hex, want);
}

/* FIPS 180-4 examples, and lengths around the block size. */
static void test_sha256(void **state)
{
	char *million = malloc(1000000);
	uint8_t zero[128] = {0};

	(void)state;
	check_sha("", 0,
		"e3b0c44298fc1c149afbf4c8996fb924"
		"27ae41e4649b934ca495991b7852b855");
	check_sha("abc", 3,
		"ba7816bf8f01cfea414140de5dae2223"
		"b00361a396177a9cb410ff61f20015ad");
	check_sha("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
		56,
		"248d6a61d20638b8e5c026930c3e6039"
		"a33ce45964ff2167f6ecedd419db06c1");
	memset(million, 'a', 1000000);
	check_sha(million, 1000000,
		"cdc76e5c9914fb9281a1c7e284d73e67"
		"f1809a48a497200e046d39ccc7112cd0");
	check_sha(zero, 55,
		"02779466cdec163811d078815c633f21"
		"901413081449002f24aa3e80f0b88ef7");
	check_sha(zero, 64,
		"f5a5fd42d16a20302798ef6ed309979b"
		"43003d2320d9f0e8ea9831a92759fb4b");
	free(million);
}

/* Values printed by `LC_ALL=C wc` of coreutils 9.1. */
static void test_wordcount(void **state)
{
	static const struct {
		const char *text;
		size_t n;
		uint64_t lines, words;
	} cases[] = {
		{"", 0, 0, 0},
		{"a", 1, 0, 1},
		{"a b\nc", 5, 1, 3},
		{"\n\n \t\n", 5, 3, 0},
		{"a\vb\fc\rd", 7, 0, 4},
		{"a \x80\x81 b\n", 7, 1, 2},
		{"\x01 b\n", 4, 1, 1},
		{"a\xc3\xa9 b\xa0"
		 "c\n",
			8, 1, 2},
		{"a\0b\n", 4, 1, 1},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct text_counts c =
			text_count((const uint8_t *)cases[i].text, cases[i].n);

		assert_int_equal(c.lines, cases[i].lines);
		assert_int_equal(c.words, cases[i].words);
		assert_int_equal(c.bytes, cases[i].n);
	}
}

static int by_bytes(const void *a, const void *b)
{
	return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static void sort_lines(unsigned lines, unsigned letters)
{
	char *text = malloc(lines * 9 + 1), **want;
	struct text_line *line, *tmp;
	size_t n = 0;

	want = calloc(lines, sizeof(*want));
	for (unsigned i = 0; i < lines; i++) {
		char word[9];
		uint32_t len = rnd() % 8;

		for (uint32_t k = 0; k < len; k++)
			word[k] = (char)('a' + rnd() % letters);
		word[len] = '\0';
		want[i] = strdup(word);
		n += (size_t)sprintf(text + n, "%s\n", word);
	}
	qsort(want, lines, sizeof(*want), by_bytes);
	assert_int_equal(text_lines((uint8_t *)text, n), lines);
	line = calloc(lines, sizeof(*line));
	tmp = calloc(lines, sizeof(*tmp));
	text_split((uint8_t *)text, n, line);
	text_sort(line, tmp, lines);
	for (unsigned i = 0; i < lines; i++) {
		assert_int_equal(line[i].n, strlen(want[i]));
		assert_memory_equal(line[i].p, want[i], line[i].n);
		free(want[i]);
	}
	free(want);
	free(line);
	free(tmp);
	free(text);
}

static void test_sort(void **state)
{
	(void)state;
	for (unsigned lines = 1; lines < 70; lines++)
		sort_lines(lines, 3);
	sort_lines(20000, 26);
}

static void test_split_end(void **state)
{
	struct text_line line[3];

	(void)state;
	assert_int_equal(text_lines((const uint8_t *)"", 0), 0);
	assert_int_equal(text_lines((const uint8_t *)"a\nbc", 4), 2);
	text_split((const uint8_t *)"a\nbc", 4, line);
	assert_int_equal(line[1].n, 2);
	assert_memory_equal(line[1].p, "bc", 2);
	assert_int_equal(text_lines((const uint8_t *)"a\n\n", 3), 2);
	text_split((const uint8_t *)"a\n\n", 3, line);
	assert_int_equal(line[0].n, 1);
	assert_int_equal(line[1].n, 0);
}

static void test_numbers(void **state)
{
	char buf[21] = "";
	uint64_t v;

	(void)state;
	assert_true(get_dec("18446744073709551615", 20, &v));
	assert_true(v == UINT64_MAX);
	assert_false(get_dec("18446744073709551616", 20, &v));
	assert_false(get_dec("", 0, &v));
	assert_false(get_dec("1x", 2, &v));
	assert_int_equal(put_dec(buf, UINT64_MAX), 20);
	assert_string_equal(buf, "18446744073709551615");
	assert_int_equal(put_dec(buf, 0), 1);
	assert_true(str_is("abc", 3, "abc"));
	assert_false(str_is("abc", 2, "abc"));
	assert_false(str_is("abcd", 4, "abc"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_sha256),
		cmocka_unit_test(test_wordcount),
		cmocka_unit_test(test_sort),
		cmocka_unit_test(test_split_end),
		cmocka_unit_test(test_numbers),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
