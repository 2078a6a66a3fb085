/* Plots: balanced XML, inside the canvas, for awkward samples too. */
#include "tests/unit/test.h"

#include "bench/bench.h"

#include <string.h>

/* json.c, which comes along with the text helpers, wants one. */
int cli_fail(const struct cli *c, int exit_code, const char *fmt, ...)
{
	(void)c;
	(void)fmt;
	return exit_code;
}

static char *draw(struct result *r, unsigned n)
{
	char *text = NULL;
	size_t len = 0;
	FILE *f = open_memstream(&text, &len);

	assert_non_null(f);
	assert_int_equal(svg_write(f, "a title", r, n), 0);
	fclose(f);
	return text;
}

static unsigned count(const char *text, const char *what)
{
	unsigned n = 0;

	for (const char *p = strstr(text, what); p; p = strstr(p + 1, what))
		n++;
	return n;
}

static void fill(struct result *r, const char *name, double first, double ratio)
{
	*r = (struct result){.name = name, .unit = "us"};
	for (int i = 0; i < 200; i++) {
		assert_int_equal(series_add(&r->us, first), 0);
		first *= ratio;
	}
}

/* Every number after x=' and y=' is finite and inside. */
static void check_inside(const char *text)
{
	assert_null(strstr(text, "nan"));
	assert_null(strstr(text, "inf"));
	for (const char *p = strstr(text, " x='"); p; p = strstr(p + 1, " x='"))
		assert_true(strtod(p + 4, NULL) <= 760);
	for (const char *p = strstr(text, "height='"); p;
		p = strstr(p + 1, "height='"))
		assert_true(strtod(p + 8, NULL) >= 0);
}

static void check_balance(const char *text)
{
	assert_int_equal(count(text, "<text"), count(text, "</text>"));
	assert_int_equal(count(text, "<svg"), 1);
	assert_int_equal(count(text, "</svg>"), 1);
	assert_int_equal(count(text, "'") % 2, 0);
}

static void test_panels(void **state)
{
	struct result r[3];
	char *text;

	(void)state;
	fill(&r[0], "spread", 0.5, 1.07);
	fill(&r[1], "all_equal", 300, 1);
	fill(&r[2], "zeros", 0, 1);
	text = draw(r, 3);
	check_balance(text);
	check_inside(text);
	assert_non_null(strstr(text, ">spread<"));
	assert_non_null(strstr(text, ">all_equal<"));
	assert_non_null(strstr(text, "time, logarithmic"));
	assert_int_equal(count(text, "<polyline"), 3);
	free(text);
	for (int i = 0; i < 3; i++)
		series_free(&r[i].us);
}

/* Too few samples, or no times: no panel, still a picture. */
static void test_nothing_to_draw(void **state)
{
	struct result r[2] = {{.name = "few", .unit = "us"},
		{.name = "memory", .unit = "KiB"}};
	char *text;

	(void)state;
	assert_int_equal(series_add(&r[0].us, 1), 0);
	for (int i = 0; i < 100; i++)
		assert_int_equal(series_add(&r[1].us, i), 0);
	text = draw(r, 2);
	check_balance(text);
	assert_int_equal(count(text, "<polyline"), 0);
	free(text);
	series_free(&r[0].us);
	series_free(&r[1].us);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_panels),
		cmocka_unit_test(test_nothing_to_draw),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
