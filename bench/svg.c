/*
 * Plots: for every result with enough samples one panel, the histogram as bars
 * and the distribution as a line, over a logarithmic axis of time.
 */
#include "bench/bench.h"

#include <math.h>

#define WIDTH       760
#define PANEL       230
#define LEFT        64
#define RIGHT       64
#define TOP         40
#define PLOT_H      140
#define PLOT_W      (WIDTH - LEFT - RIGHT)
#define BINS        76
#define MIN_SAMPLES 5

struct axis {
	double lo, hi; /* log10 */
};

static double x_of(const struct axis *a, double v)
{
	double t = (log10(v) - a->lo) / (a->hi - a->lo);

	if (t < 0)
		t = 0;
	if (t > 1)
		t = 1;
	return LEFT + t * PLOT_W;
}

/* From the smallest to the largest sample, widened to halves of a decade. */
static struct axis axis_of(struct series *s)
{
	double min = fmax(series_quantile(s, 0), 0.1);
	double max = fmax(series_quantile(s, 1), min * 1.01);
	struct axis a = {floor(log10(min) * 2) / 2, ceil(log10(max) * 2) / 2};

	if (a.hi - a.lo < 0.5)
		a.hi = a.lo + 0.5;
	return a;
}

static void draw_ticks(FILE *f, const struct axis *a, double y)
{
	static const double marks[] = {1, 2, 5};
	bool wide = a->hi - a->lo > 2.5;

	for (int d = (int)floor(a->lo) - 1; d <= (int)ceil(a->hi); d++) {
		for (int i = 0; i < (wide ? 1 : 3); i++) {
			double v = marks[i] * pow(10, d);
			char label[16];

			if (log10(v) < a->lo - 1e-9 || log10(v) > a->hi + 1e-9)
				continue;
			fprintf(f,
				"<line x1='%.1f' x2='%.1f' y1='%.1f' y2='%.1f' "
				"class='grid'/><text x='%.1f' y='%.1f' "
				"text-anchor='middle'>%s</text>\n",
				x_of(a, v), x_of(a, v), y, y + PLOT_H,
				x_of(a, v), y + PLOT_H + 15,
				v < 1 ? "<1 us" : fmt_us(v, label));
		}
	}
}

static void draw_bars(FILE *f, struct series *s, const struct axis *a, double y)
{
	unsigned count[BINS] = {0}, most = 1;
	const double w = (double)PLOT_W / BINS;

	for (size_t i = 0; i < s->n; i++) {
		int bin = (int)((x_of(a, fmax(s->v[i], 0.1)) - LEFT) / w);

		bin = bin < BINS ? bin : BINS - 1;
		if (++count[bin] > most)
			most = count[bin];
	}
	for (int i = 0; i < BINS; i++) {
		double h = (double)count[i] * PLOT_H / most;

		if (count[i])
			fprintf(f,
				"<rect x='%.1f' y='%.1f' width='%.1f' "
				"height='%.1f' class='bar'/>\n",
				LEFT + i * w, y + PLOT_H - h, w - 1, h);
	}
	fprintf(f,
		"<text x='%d' y='%.1f' text-anchor='end'>%u</text>\n"
		"<text x='%d' y='%.1f' text-anchor='end'>0</text>\n",
		LEFT - 6, y + 10, most, LEFT - 6, y + PLOT_H);
}

/* The distribution: a step upwards at every sample, thinned to 400 points. */
static void draw_line(FILE *f, struct series *s, const struct axis *a, double y)
{
	size_t step = s->n / 400 + 1;

	fprintf(f, "<polyline class='cdf' points='%d,%.1f ", LEFT, y + PLOT_H);
	for (size_t i = 0; i < s->n; i += step) {
		double q = (double)(i + 1) / (double)s->n;

		fprintf(f, "%.1f,%.1f ", x_of(a, fmax(s->v[i], 0.1)),
			y + PLOT_H * (1 - q));
	}
	fprintf(f, "%d,%.1f'/>\n", LEFT + PLOT_W, y);
	for (int i = 0; i <= 2; i++)
		fprintf(f, "<text x='%d' y='%.1f'>%d%%</text>\n",
			LEFT + PLOT_W + 6, y + PLOT_H * (1 - i / 2.0) + 4,
			i * 50);
}

static void draw_marks(
	FILE *f, struct series *s, const struct axis *a, double y)
{
	static const struct {
		double q;
		const char *name;
	} marks[] = {{0.5, "p50"}, {0.99, "p99"}};

	for (size_t i = 0; i < ARRAY_SIZE(marks); i++) {
		double x = x_of(a, fmax(series_quantile(s, marks[i].q), 0.1));

		fprintf(f,
			"<line x1='%.1f' x2='%.1f' y1='%.1f' y2='%.1f' "
			"class='mark'/><text x='%.1f' y='%.1f' "
			"text-anchor='middle' class='mark-text'>%s</text>\n",
			x, x, y, y + PLOT_H, x, y - 4, marks[i].name);
	}
}

static void draw_panel(FILE *f, struct result *r, double top)
{
	struct axis a = axis_of(&r->us);
	char p50[16], p99[16], max[16];
	double y = top + TOP;

	fprintf(f,
		"<text x='%d' y='%.1f' class='title'>%s</text>"
		"<text x='%d' y='%.1f' text-anchor='end'>n %zu, p50 %s, p99 "
		"%s, max %s</text>\n",
		LEFT, top + 18, r->name, LEFT + PLOT_W, top + 18, r->us.n,
		fmt_us(series_quantile(&r->us, 0.5), p50),
		fmt_us(series_quantile(&r->us, 0.99), p99),
		fmt_us(series_quantile(&r->us, 1), max));
	draw_ticks(f, &a, y);
	draw_bars(f, &r->us, &a, y);
	draw_line(f, &r->us, &a, y);
	draw_marks(f, &r->us, &a, y);
	fprintf(f,
		"<rect x='%d' y='%.1f' width='%d' height='%d' "
		"class='frame'/>\n"
		"<text x='%d' y='%.1f' text-anchor='middle'>time, logarithmic"
		"</text>\n<text transform='translate(16 %.1f) rotate(-90)' "
		"text-anchor='middle'>samples per bar</text>\n"
		"<text transform='translate(%d %.1f) rotate(-90)' "
		"text-anchor='middle'>share at most</text>\n",
		LEFT, y, PLOT_W, PLOT_H, LEFT + PLOT_W / 2, y + PLOT_H + 32,
		y + PLOT_H / 2.0, WIDTH - 8, y + PLOT_H / 2.0);
}

static bool drawable(const struct result *r)
{
	return r->us.n >= MIN_SAMPLES && r->unit[0] == 'u';
}

int svg_write(FILE *f, const char *title, struct result *r, unsigned n)
{
	double top = 44;
	int height = 54;

	for (unsigned i = 0; i < n; i++)
		height += drawable(&r[i]) ? PANEL : 0;
	fprintf(f,
		"<svg xmlns='http://www.w3.org/2000/svg' width='%d' "
		"height='%d' viewBox='0 0 %d %d'>\n<style>"
		"text{font:12px sans-serif;fill:#333}"
		".head{font:bold 16px sans-serif}"
		".title{font:bold 13px sans-serif}"
		".bar{fill:#7aa6d8}.frame{fill:none;stroke:#888}"
		".grid{stroke:#e4e4e4}"
		".cdf{fill:none;stroke:#c0392b;stroke-width:1.5}"
		".mark{stroke:#444;stroke-dasharray:3 3}"
		".mark-text{font-size:10px}</style>\n"
		"<rect width='100%%' height='100%%' fill='white'/>\n"
		"<text x='%d' y='26' class='head'>%s</text>\n"
		"<text x='%d' y='26' text-anchor='end'>bars: histogram; "
		"line: distribution</text>\n",
		WIDTH, height, WIDTH, height, LEFT, title, LEFT + PLOT_W);
	for (unsigned i = 0; i < n; i++) {
		if (!drawable(&r[i]))
			continue;
		draw_panel(f, &r[i], top);
		top += PANEL;
	}
	fprintf(f, "</svg>\n");
	return ferror(f) ? -1 : 0;
}
