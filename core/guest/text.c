#include "core/guest/text.h"

static bool is_space(uint8_t c)
{
	return c == ' ' || (c >= '\t' && c <= '\r');
}

static bool is_print(uint8_t c)
{
	return c >= ' ' && c <= '~';
}

struct text_counts text_count(const uint8_t *p, size_t n)
{
	struct text_counts c = {.bytes = n};
	bool word = false;

	for (size_t i = 0; i < n; i++) {
		c.lines += p[i] == '\n';
		if (is_space(p[i])) {
			word = false;
		} else if (is_print(p[i]) && !word) {
			word = true;
			c.words++;
		}
	}
	return c;
}

size_t text_lines(const uint8_t *p, size_t n)
{
	size_t lines = 0;

	for (size_t i = 0; i < n; i++)
		lines += p[i] == '\n';
	return lines + (n && p[n - 1] != '\n');
}

void text_split(const uint8_t *p, size_t n, struct text_line *line)
{
	size_t start = 0;

	for (size_t i = 0; i < n; i++) {
		if (p[i] != '\n' && i + 1 < n)
			continue;
		line->p = p + start;
		line->n = i - start + (p[i] != '\n');
		line++;
		start = i + 1;
	}
}

static int compare(const struct text_line *a, const struct text_line *b)
{
	int r = memcmp(a->p, b->p, a->n < b->n ? a->n : b->n);

	if (r)
		return r;
	return (a->n > b->n) - (a->n < b->n);
}

static void merge(const struct text_line *from, struct text_line *to, size_t lo,
	size_t mid, size_t hi)
{
	size_t a = lo, b = mid;

	for (size_t i = lo; i < hi; i++) {
		if (b == hi || (a < mid && compare(&from[a], &from[b]) <= 0))
			to[i] = from[a++];
		else
			to[i] = from[b++];
	}
}

/* Merge sort from the bottom up. */
void text_sort(struct text_line *line, struct text_line *tmp, size_t n)
{
	struct text_line *from = line, *to = tmp;

	for (size_t run = 1; run < n; run *= 2) {
		struct text_line *t;

		for (size_t lo = 0; lo < n; lo += 2 * run) {
			size_t mid = lo + run < n ? lo + run : n;
			size_t hi = mid + run < n ? mid + run : n;

			merge(from, to, lo, mid, hi);
		}
		t = from;
		from = to;
		to = t;
	}
	if (from != line)
		memcpy(line, from, n * sizeof(*line));
}
