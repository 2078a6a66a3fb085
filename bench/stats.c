/* Samples and their quantiles. */
#include "bench/bench.h"

#include <errno.h>
#include <math.h>

int series_add(struct series *s, double v)
{
	if (!isfinite(v) || v < 0)
		return -EINVAL;
	if (s->n == s->cap) {
		size_t cap = s->cap ? s->cap * 2 : 256;
		double *p = realloc(s->v, cap * sizeof(*p));

		if (!p)
			return -ENOMEM;
		s->v = p;
		s->cap = cap;
	}
	s->v[s->n++] = v;
	s->sorted = false;
	return 0;
}

void series_free(struct series *s)
{
	free(s->v);
	*s = (struct series){0};
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

double series_quantile(struct series *s, double q)
{
	double rank;

	if (!s->n)
		return 0;
	if (!s->sorted)
		qsort(s->v, s->n, sizeof(*s->v), by_value);
	s->sorted = true;
	/* The tiny subtraction keeps 0.9 * 10 from becoming rank 10. */
	rank = ceil(q * (double)s->n - 1e-9);
	if (rank < 1)
		rank = 1;
	if (rank > (double)s->n)
		rank = (double)s->n;
	return s->v[(size_t)rank - 1];
}

double series_mean(const struct series *s)
{
	double sum = 0;

	for (size_t i = 0; i < s->n; i++)
		sum += s->v[i];
	return s->n ? sum / (double)s->n : 0;
}
