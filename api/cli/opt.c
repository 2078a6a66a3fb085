/*
 * Options: one table per command, read by the parser and by the help text.
 * Options and arguments may be mixed; "--" ends the options; "-" is an argument
 * like any other.
 */
#include "api/cli/cli.h"

#include <errno.h>
#include <string.h>

struct common {
	bool help, json;
	const char *socket;
};

static const struct opt opt_help_row = {"help", 'h', OPT_FLAG, NULL,
	offsetof(struct common, help), "show this text"};
static const struct opt opt_json_row = {"json", 0, OPT_FLAG, NULL,
	offsetof(struct common, json), "print the data as JSON"};
static const struct opt opt_socket_row = {"socket", 0, OPT_STR, "PATH",
	offsetof(struct common, socket),
	"the daemon's socket (default: $THAW_SOCKET, else thaw.sock in "
	"$XDG_RUNTIME_DIR, else /run/thaw/thaw.sock)"};

static bool opt_is(const struct opt *o, const char *name, size_t n)
{
	if (n == 1 && o->letter == name[0])
		return true;
	return strlen(o->name) == n && memcmp(o->name, name, n) == 0;
}

/* The row of an option, and where its value goes. */
static const struct opt *opt_find(
	const struct command *cmd, const char *name, size_t n, bool *is_common)
{
	*is_common = false;
	for (const struct opt *o = cmd->opts; o && o->name; o++) {
		if (opt_is(o, name, n))
			return o;
	}
	*is_common = true;
	if (opt_is(&opt_help_row, name, n))
		return &opt_help_row;
	if ((cmd->flags & CMD_JSON) && opt_is(&opt_json_row, name, n))
		return &opt_json_row;
	if ((cmd->flags & (CMD_DAEMON | CMD_SOCKET)) &&
		opt_is(&opt_socket_row, name, n))
		return &opt_socket_row;
	return NULL;
}

static int parse_u64(const char *s, uint64_t *v)
{
	char *end;

	if (*s < '0' || *s > '9')
		return -EINVAL;
	errno = 0;
	*v = strtoull(s, &end, 10);
	return errno || *end ? -EINVAL : 0;
}

/* Seconds with a fraction to milliseconds; a day at most. */
static int parse_ms(const char *s, uint64_t *ms)
{
	double v;
	char *end;

	if ((*s < '0' || *s > '9') && *s != '.')
		return -EINVAL;
	v = strtod(s, &end);
	if (end == s || *end || !(v >= 0.001) || v > 86400)
		return -EINVAL;
	*ms = (uint64_t)(v * 1000 + 0.5);
	return 0;
}

static int add_text(struct opt_labels *l, const char *s)
{
	if (l->n == OPT_MAX_LABELS)
		return -EINVAL;
	l->at[l->n++] = s;
	return 0;
}

static int not_zero(int rc, const uint64_t *v)
{
	return rc ? rc : *v ? 0 : -EINVAL;
}

static bool is_picture(const char *s)
{
	size_t n = strlen(s);

	return n > 4 &&
	       (!strcmp(s + n - 4, ".png") || !strcmp(s + n - 4, ".svg"));
}

static int opt_store(const struct opt *o, void *at, const char *value)
{
	switch ((enum opt_type)o->type) {
	case OPT_FLAG:
		*(bool *)at = true;
		return 0;
	case OPT_STR:
		*(const char **)at = value;
		return 0;
	case OPT_U64:
		return parse_u64(value, at);
	case OPT_COUNT:
		return not_zero(parse_u64(value, at), at);
	case OPT_SIZE:
		return not_zero(parse_size(value, at), at);
	case OPT_MS:
		return parse_ms(value, at);
	case OPT_LABEL:
		return strchr(value, '=') && *value != '=' ? add_text(at, value)
							   : -EINVAL;
	case OPT_LIST:
		return add_text(at, value);
	case OPT_PICTURE:
		*(const char **)at = value;
		return !*value || is_picture(value) ? 0 : -EINVAL;
	default:
		return -EINVAL;
	}
}

struct parse {
	struct cli *c;
	int argc, at;
	char **argv;
	void *values;
	struct common common;
};

/* One option: argv[at] without its dashes, name n bytes long. */
static int opt_take(struct parse *p, const char *name, size_t n)
{
	const char *value = name[n] == '=' ? name + n + 1 : NULL;
	const char *dash = n == 1 ? "-" : "--";
	int len = (int)n;
	bool is_common;
	const struct opt *o = opt_find(p->c->cmd, name, n, &is_common);
	char *base;

	if (!o)
		return cli_fail(p->c, EXIT_USAGE,
			"unknown option %s%.*s; see thaw %s --help", dash, len,
			name, p->c->cmd->name);
	if (o->type == OPT_FLAG && value)
		return cli_fail(p->c, EXIT_USAGE,
			"%s%.*s takes no value; leave out \"=%s\"", dash, len,
			name, value);
	if (o->type == OPT_PICTURE && !value) {
		value = p->at + 1 < p->argc ? p->argv[p->at + 1] : "";
		if (is_picture(value))
			p->at++;
		else
			value = "";
	}
	if (o->type != OPT_FLAG && !value) {
		if (p->at + 1 >= p->argc)
			return cli_fail(p->c, EXIT_USAGE,
				"%s%.*s needs a value: %s", dash, len, name,
				o->arg);
		value = p->argv[++p->at];
	}
	base = is_common ? (char *)&p->common : p->values;
	if (opt_store(o, base + o->off, value))
		return cli_fail(p->c, EXIT_USAGE,
			"%s%.*s: \"%s\" is not a valid %s", dash, len, name,
			value, o->arg);
	return EXIT_DONE;
}

static int take_word(struct parse *p, bool *only_args)
{
	const char *s = p->argv[p->at];
	struct cli *c = p->c;

	if (!*only_args && strcmp(s, "--") == 0) {
		*only_args = true;
		return EXIT_DONE;
	}
	if (!*only_args && s[0] == '-' && s[1] == '-')
		return opt_take(p, s + 2, strcspn(s + 2, "="));
	if (!*only_args && s[0] == '-' && s[1] && !s[2])
		return opt_take(p, s + 1, 1);
	if (!*only_args && s[0] == '-' && s[1])
		return cli_fail(c, EXIT_USAGE,
			"%s: one-letter options stand alone: -x VALUE", s);
	if (c->nargs == CLI_MAX_ARGS || c->nargs >= c->cmd->max_args)
		return cli_fail(c, EXIT_USAGE,
			"too many arguments, the first is \"%s\"; see thaw %s "
			"--help",
			s, c->cmd->name);
	c->arg[c->nargs++] = s;
	return EXIT_DONE;
}

int opt_parse(struct cli *c, int argc, char **argv, void *values, bool *help)
{
	struct parse p = {.c = c, .argc = argc, .argv = argv, .values = values};
	bool only_args = false;

	/* --help wins over any mistake beside it. */
	for (int i = 0; i < argc && strcmp(argv[i], "--") != 0; i++)
		*help |= !strcmp(argv[i], "--help") || !strcmp(argv[i], "-h");
	if (*help)
		return EXIT_DONE;
	for (; p.at < argc; p.at++) {
		int rc = take_word(&p, &only_args);

		if (rc)
			return rc;
	}
	c->json = p.common.json;
	c->socket = p.common.socket;
	if (c->nargs < c->cmd->min_args)
		return cli_fail(c, EXIT_USAGE, "usage: thaw %s %s",
			c->cmd->name, c->cmd->args);
	return EXIT_DONE;
}

/* Wrapped at 78 columns, continued at column `indent`. */
static void print_wrapped(FILE *f, const char *text, int col, int indent)
{
	while (*text) {
		size_t n = strcspn(text, " \n");
		char end = text[n];

		fprintf(f, "%.*s", (int)n, text);
		col += (int)n;
		text += n + (end != 0);
		if (end == '\n' ||
			(end == ' ' &&
				col + 1 + (int)strcspn(text, " \n") > 78)) {
			fprintf(f, "\n%*s", indent, "");
			col = indent;
		} else if (end == ' ') {
			fputc(' ', f);
			col++;
		}
	}
	fputc('\n', f);
}

static void help_row(const struct opt *o, FILE *f)
{
	char left[64];
	int n;

	n = snprintf(left, sizeof(left), "  %c%c%s--%s%s%s",
		o->letter ? '-' : ' ', o->letter ? o->letter : ' ',
		o->letter ? ", " : "  ", o->name, o->arg ? " " : "",
		o->arg ? o->arg : "");
	fprintf(f, "%-28s", left);
	if (n >= 28)
		fprintf(f, "\n%28s", "");
	print_wrapped(f, o->help, 28, 28);
}

void opt_help(const struct command *cmd, FILE *f)
{
	fprintf(f, "usage: thaw %s%s%s [options]\n\n", cmd->name,
		*cmd->args ? " " : "", cmd->args);
	print_wrapped(f, cmd->summary, 0, 0);
	if (cmd->details) {
		fputc('\n', f);
		print_wrapped(f, cmd->details, 0, 0);
	}
	fprintf(f, "\noptions:\n");
	for (const struct opt *o = cmd->opts; o && o->name; o++)
		help_row(o, f);
	if (cmd->flags & CMD_JSON)
		help_row(&opt_json_row, f);
	if (cmd->flags & (CMD_DAEMON | CMD_SOCKET))
		help_row(&opt_socket_row, f);
	help_row(&opt_help_row, f);
}
