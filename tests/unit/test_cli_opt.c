/* The option parser and the help text it shares a table with. */
#include "tests/unit/test.h"

#include "api/cli/cli.h"

#include <stdarg.h>
#include <string.h>

/* The parser's messages land here instead of on stderr. */
/* global: the stub of cli_fail() has no other way out. */
static char message[1200];

int cli_fail(const struct cli *c, int exit_code, const char *fmt, ...)
{
	va_list ap;

	(void)c;
	va_start(ap, fmt);
	(void)vsnprintf(message, sizeof(message), fmt, ap);
	va_end(ap);
	return exit_code;
}

struct values {
	bool flag;
	const char *str;
	uint64_t n, size, ms;
	struct opt_labels labels;
};

#define AT(m) offsetof(struct values, m)
static const struct opt opts[] = {
	{"flag", 'f', OPT_FLAG, NULL, AT(flag), "a flag"},
	{"str", 's', OPT_STR, "TEXT", AT(str), "a text"},
	{"count", 'n', OPT_U64, "N", AT(n), "a number"},
	{"size", 0, OPT_SIZE, "SIZE", AT(size), "a size"},
	{"timeout", 0, OPT_MS, "SECONDS", AT(ms), "a time"},
	{"label", 0, OPT_LABEL, "KEY=VALUE", AT(labels), "a label"},
	OPT_END,
};

static const struct command cmd = {"test", "A [B]", "summary of it",
	"More words about it.", opts, sizeof(struct values), 1, 2,
	CMD_DAEMON | CMD_JSON, NULL};

#define MAX_WORDS 12

static int parse(struct cli *c, struct values *v, bool *help, const char *line)
{
	static char copy[256];
	char *argv[MAX_WORDS], *save = NULL;
	int argc = 0;

	memset(c, 0, sizeof(*c));
	memset(v, 0, sizeof(*v));
	c->cmd = &cmd;
	*help = false;
	message[0] = 0;
	(void)snprintf(copy, sizeof(copy), "%s", line);
	for (char *w = strtok_r(copy, " ", &save); w && argc < MAX_WORDS;
		w = strtok_r(NULL, " ", &save))
		argv[argc++] = w;
	return opt_parse(c, argc, argv, v, help);
}

static void test_values(void **state)
{
	struct values v;
	struct cli c;
	bool help;

	(void)state;
	assert_int_equal(parse(&c, &v, &help,
				 "one -f --str=x=y -n 7 --size 2G --timeout "
				 "1.5 two --label a=b"),
		0);
	assert_true(v.flag);
	assert_string_equal(v.str, "x=y");
	assert_int_equal(v.n, 7);
	assert_int_equal(v.size, 2 * GIB);
	assert_int_equal(v.ms, 1500);
	assert_int_equal(v.labels.n, 1);
	assert_int_equal(c.nargs, 2);
	assert_string_equal(c.arg[0], "one");
	assert_string_equal(c.arg[1], "two");
	assert_false(c.json);
}

static void test_common(void **state)
{
	struct values v;
	struct cli c;
	bool help;

	(void)state;
	assert_int_equal(parse(&c, &v, &help, "--json one --socket /s -"), 0);
	assert_true(c.json);
	assert_string_equal(c.socket, "/s");
	assert_string_equal(c.arg[1], "-");
	assert_int_equal(parse(&c, &v, &help, "-- --flag -x"), 0);
	assert_string_equal(c.arg[0], "--flag");
	assert_string_equal(c.arg[1], "-x");
}

static void test_usage_errors(void **state)
{
	static const char *const bad[] = {"", "a b c", "a --nope", "a -z",
		"a --str", "a -n", "a -n x", "a -n -1", "a -n 1x",
		"a -n 99999999999999999999", "a --size 1Q", "a --flag=1",
		"a --timeout 0", "a --timeout x", "a --timeout nan",
		"a --timeout 1e99", "a --label x", "a --label =x", "a -fn"};
	struct values v;
	struct cli c;
	bool help;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		assert_int_equal(parse(&c, &v, &help, bad[i]), EXIT_USAGE);
		assert_true(strlen(message) > 10);
	}
}

/* Planned options are named, never taken and ignored. */
static void test_help(void **state)
{
	struct values v;
	struct cli c;
	char *text = NULL;
	size_t len = 0;
	FILE *f;
	bool help;

	(void)state;
	assert_int_equal(parse(&c, &v, &help, "--nope --help"), 0);
	assert_true(help);
	assert_int_equal(parse(&c, &v, &help, "a -- --help"), 0);
	assert_false(help);
	f = open_memstream(&text, &len);
	assert_non_null(f);
	opt_help(&cmd, f);
	fclose(f);
	assert_non_null(strstr(text, "usage: thaw test A [B]"));
	assert_non_null(strstr(text, "-n, --count N"));
	assert_non_null(strstr(text, "--json"));
	assert_non_null(strstr(text, "--socket PATH"));
	for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n"))
		assert_true(strlen(line) <= 80);
	free(text);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_values),
		cmocka_unit_test(test_common),
		cmocka_unit_test(test_usage_errors),
		cmocka_unit_test(test_help),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
