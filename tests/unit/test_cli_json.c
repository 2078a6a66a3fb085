/* JSON in and out, and the text helpers. */
#include "tests/unit/test.h"
#include "core/mp_json.h"

#include "api/cli/cli.h"

#include <stdarg.h>
#include <string.h>

int cli_fail(const struct cli *c, int exit_code, const char *fmt, ...)
{
	(void)c;
	(void)fmt;
	return exit_code;
}

static char *json_text(const void *bytes, size_t len)
{
	static const struct mp_limits lim = {16, 1000};
	msgpack_unpacked msg;
	json_t *j;
	char *s;

	assert_int_equal(mp_unpack(bytes, len, &lim, &msg, NULL), 0);
	j = mp_to_json(&msg.data);
	assert_non_null(j);
	s = json_dumps(j, JSON_COMPACT | JSON_ENCODE_ANY);
	json_decref(j);
	msgpack_unpacked_destroy(&msg);
	return s;
}

#define JSON_IS(bytes, want)                                                   \
	do {                                                                   \
		char *s_ = json_text(bytes, sizeof(bytes) - 1);                \
		assert_string_equal(s_, want);                                 \
		free(s_);                                                      \
	} while (0)

static void test_out(void **state)
{
	(void)state;
	JSON_IS("\xc0", "null");
	JSON_IS("\xc3", "true");
	JSON_IS("\x07", "7");
	JSON_IS("\xff", "-1");
	JSON_IS("\xa2hi", "\"hi\"");
	JSON_IS("\x92\x01\x02", "[1,2]");
	JSON_IS("\x82\xa1"
		"a\x01\xa1"
		"b\x80",
		"{\"a\":1,\"b\":{}}");
	/* bin that is text, and bin that is not. */
	JSON_IS("\xc4\x02ok", "\"ok\"");
	JSON_IS("\xc4\x03\xff\x00\x01", "\"base64:/wAB\"");
	JSON_IS("\xc4\x02\xff\x00", "\"base64:/wA=\"");
	JSON_IS("\xc4\x01\xff", "\"base64:/w==\"");
	JSON_IS("\xc4\x02\x01\x00", "\"base64:AQA=\"");
	/* A key that is no string is printed as one. */
	JSON_IS("\x81\x01\x02", "{\"1\":2}");
	/* above what a JSON integer holds: no digit may be lost */
	JSON_IS("\xcf\xff\xff\xff\xff\x80\x00\x00\x01",
		"\"18446744071562067969\"");
}

static void test_round_trip(void **state)
{
	const char *text = "{\"a\":[1,-2,1.5,true,false,null,\"x\"],\"b\":{}}";
	json_t *j = json_loads(text, 0, NULL);
	msgpack_sbuffer buf;
	msgpack_packer p;
	char *s;

	(void)state;
	msgpack_sbuffer_init(&buf);
	msgpack_packer_init(&p, &buf, msgpack_sbuffer_write);
	assert_int_equal(mp_pack_json(&p, j), 0);
	s = json_text(buf.data, buf.size);
	assert_string_equal(s, text);
	free(s);
	msgpack_sbuffer_destroy(&buf);
	json_decref(j);
}

static void test_text(void **state)
{
	char buf[16], s[] = "a\033[31m\tb\nc\x7f";

	(void)state;
	assert_string_equal(fmt_size(0, buf), "0 B");
	assert_string_equal(fmt_size(1023, buf), "1023 B");
	assert_string_equal(fmt_size(1024, buf), "1.0 KiB");
	assert_string_equal(fmt_size(128 * MIB, buf), "128 MiB");
	assert_string_equal(fmt_size(UINT64_MAX, buf), "16777216 TiB");
	assert_string_equal(fmt_us(12, buf), "12 us");
	assert_string_equal(fmt_us(1234, buf), "1.23 ms");
	assert_string_equal(fmt_us(12340, buf), "12.3 ms");
	assert_string_equal(fmt_us(2.5e6, buf), "2.50 s");
	assert_string_equal(fmt_age(5000, buf), "5 s");
	assert_string_equal(fmt_age(600000, buf), "10 min");
	clean_text(s);
	assert_string_equal(s, "a.[31m b c.");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_out),
		cmocka_unit_test(test_round_trip),
		cmocka_unit_test(test_text),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
