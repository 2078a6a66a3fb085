/*
 * The function of the built-in guest: picks one of the functions below, by
 * thaw.function= on the command line, else by the payload's first word.
 */
#include "core/guest/fn.h"

static int fn_echo(struct fn_ctx *ctx, const struct fn_input *in)
{
	/* Everything behind the name, whatever lines it has. */
	ctx->out = (const uint8_t *)in->arg;
	ctx->out_len = (size_t)(ctx->in + ctx->in_len - ctx->out);
	return 0;
}

static COLD int fn_identity(struct fn_ctx *ctx, const struct fn_input *in)
{
	uint8_t random[16];
	int r;

	(void)in;
	fn_random(random, sizeof(random));
	r = fn_write_str(ctx, "hostname=");
	r = r ? r : fn_write_str(ctx, fn_hostname());
	r = r ? r : fn_write_str(ctx, "\nmachine_id=");
	r = r ? r : fn_write_hex(ctx, fn_machine_id(), 16);
	r = r ? r : fn_write_str(ctx, "\ngeneration=");
	r = r ? r : fn_write_hex(ctx, fn_generation(), 16);
	r = r ? r : fn_write_str(ctx, "\nrandom=");
	r = r ? r : fn_write_hex(ctx, random, sizeof(random));
	r = r ? r : fn_write_str(ctx, "\nwall_ns=");
	r = r ? r : fn_write_dec(ctx, fn_wall_ns());
	return r ? r : fn_write_str(ctx, "\n");
}

static COLD int fn_random_hex(struct fn_ctx *ctx, const struct fn_input *in)
{
	uint8_t block[256];
	uint64_t n;
	int r = fn_number(ctx, in, 3u << 20, &n);

	while (!r && n) {
		size_t m = n < sizeof(block) ? n : sizeof(block);

		fn_random(block, m);
		r = fn_write_hex(ctx, block, m);
		n -= m;
	}
	return r;
}

static COLD int fn_console_text(struct fn_ctx *ctx, const struct fn_input *in)
{
	const char *end = (const char *)ctx->in + ctx->in_len;

	fn_console(in->arg, (size_t)(end - in->arg));
	fn_console("\n", 1);
	return fn_write_str(ctx, "written");
}

const char *const function_names[] = {
	"echo",
	"sha256",
	"wordcount",
	"sort",
	"spin",
	"touch",
	"zero",
	"check",
	"sleep",
	"crash",
	"identity",
	"random",
	"flood",
	"connect",
	"console",
	"poweroff",
	"reboot",
	NULL,
};

/* In the order of the names. */
static fn_builtin *const builtins[] = {
	fn_echo,
	fn_sha256,
	fn_wordcount,
	fn_sort,
	fn_spin,
	fn_touch,
	fn_zero,
	fn_check,
	fn_sleep,
	fn_crash,
	fn_identity,
	fn_random_hex,
	fn_flood,
	fn_connect,
	fn_console_text,
	fn_poweroff,
	fn_reboot,
};
_Static_assert(sizeof(function_names) / sizeof(function_names[0]) ==
		       sizeof(builtins) / sizeof(builtins[0]) + 1,
	"a name for each");

static fn_builtin *find(const char *name, size_t n)
{
	for (unsigned i = 0; function_names[i]; i++) {
		if (str_is(name, n, function_names[i]))
			return builtins[i];
	}
	return NULL;
}

int fn_number(struct fn_ctx *ctx, const struct fn_input *in, uint64_t max,
	uint64_t *v)
{
	size_t n = in->narg;

	while (n && (in->arg[n - 1] == '\n' || in->arg[n - 1] == ' '))
		n--;
	if (!get_dec(in->arg, n, v) || *v > max)
		return fn_fail(ctx, FN_INVALID,
			"needs one decimal number within its limit");
	return 0;
}

/* "name words\ndata" */
static size_t split(struct fn_ctx *ctx, struct fn_input *in)
{
	const char *s = (const char *)ctx->in;
	size_t n = ctx->in_len, name = 0, line;

	while (name < n && s[name] != ' ' && s[name] != '\n')
		name++;
	line = name;
	while (line < n && s[line] != '\n')
		line++;
	in->arg = s + name + (name < n);
	in->narg = line > name ? line - name - 1 : 0;
	in->data = ctx->in + line + (line < n);
	in->ndata = line < n ? n - line - 1 : 0;
	return name;
}

/* global: the function of the command line, NULL: named by each payload */
static fn_builtin *fixed HOT;

int function_init(struct fn_ctx *ctx)
{
	size_t n;
	const char *name = fn_option("thaw.function", &n);

	if (!name)
		return 0;
	fixed = find(name, n);
	if (!fixed)
		return fn_fail(ctx, FN_NOT_FOUND,
			"thaw.function= names no built-in function");
	return 0;
}

int function_main(struct fn_ctx *ctx)
{
	struct fn_input in = {
		.arg = (const char *)ctx->in,
		.narg = ctx->in_len,
		.data = ctx->in,
		.ndata = ctx->in_len,
	};
	fn_builtin *fn = fixed;

	if (!fn)
		fn = find((const char *)ctx->in, split(ctx, &in));
	if (!fn)
		return fn_fail(ctx, FN_NOT_FOUND,
			"the payload's first word names no function");
	return fn(ctx, &in);
}
