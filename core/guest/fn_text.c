/* Functions on the payload's data. */
#include "core/guest/fn.h"
#include "core/guest/sha256.h"
#include "core/guest/text.h"

int fn_sha256(struct fn_ctx *ctx, const struct fn_input *in)
{
	uint8_t digest[32];

	sha256(in->data, in->ndata, digest);
	return fn_write_hex(ctx, digest, sizeof(digest));
}

int fn_wordcount(struct fn_ctx *ctx, const struct fn_input *in)
{
	struct text_counts c = text_count(in->data, in->ndata);
	int r = fn_write_dec(ctx, c.lines);

	r = r ? r : fn_write_str(ctx, " ");
	r = r ? r : fn_write_dec(ctx, c.words);
	r = r ? r : fn_write_str(ctx, " ");
	return r ? r : fn_write_dec(ctx, c.bytes);
}

int fn_sort(struct fn_ctx *ctx, const struct fn_input *in)
{
	size_t n = text_lines(in->data, in->ndata), at = 0;
	struct text_line *line = fn_alloc(n * sizeof(*line));
	struct text_line *tmp = fn_alloc(n * sizeof(*tmp));
	uint8_t *out = fn_alloc(in->ndata + 1);

	if (!line || !tmp || !out)
		return fn_fail(ctx, FN_EXHAUSTED, "out of memory");
	text_split(in->data, in->ndata, line);
	text_sort(line, tmp, n);
	for (size_t i = 0; i < n; i++) {
		memcpy(out + at, line[i].p, line[i].n);
		at += line[i].n;
		out[at++] = '\n';
	}
	ctx->out = out;
	ctx->out_len = at;
	return 0;
}
