#include "api/daemon/options.h"

#include "api/daemon/docs.h"
#include "api/version.h"

#include <getopt.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

static const char usage[] =
	"usage: thawd [options]\n"
	"\n"
	"The daemon of thaw: keeps templates, makes machines and clones.\n"
	"\n"
	"  --socket PATH         listen here (default: $THAW_SOCKET, else\n"
	"                        $XDG_RUNTIME_DIR/thaw.sock, else\n"
	"                        /run/thaw/thaw.sock)\n"
	"  --state-dir DIR       templates are kept here (default:\n"
	"                        $XDG_STATE_HOME/thaw, else /var/lib/thaw for\n"
	"                        root, else ~/.local/state/thaw)\n"
	"  --max-machines N      machines and clones, pooled ones too (4000)\n"
	"  --max-per-template N  clones of one template (as --max-machines)\n"
	"  --min-available SIZE  keep this much memory free (256M)\n"
	"  --allow DIR           clients may name files below DIR only; may "
	"be\n"
	"                        given several times (default: everywhere, "
	"with\n"
	"                        the client's own rights)\n"
	"  --idle-exit SECONDS   end after so long without machines and "
	"clients\n"
	"  --verbose             say more\n"
	"  --help, --version\n";

enum {
	OPT_SOCKET = 1,
	OPT_STATE_DIR,
	OPT_MAX_MACHINES,
	OPT_MAX_PER_TEMPLATE,
	OPT_MIN_AVAILABLE,
	OPT_ALLOW,
	OPT_IDLE_EXIT,
	OPT_VERBOSE,
	OPT_HELP,
	OPT_VERSION,
	OPT_DOCS
};

static const struct option longs[] = {
	{"socket", required_argument, NULL, OPT_SOCKET},
	{"state-dir", required_argument, NULL, OPT_STATE_DIR},
	{"max-machines", required_argument, NULL, OPT_MAX_MACHINES},
	{"max-per-template", required_argument, NULL, OPT_MAX_PER_TEMPLATE},
	{"min-available", required_argument, NULL, OPT_MIN_AVAILABLE},
	{"allow", required_argument, NULL, OPT_ALLOW},
	{"idle-exit", required_argument, NULL, OPT_IDLE_EXIT},
	{"verbose", no_argument, NULL, OPT_VERBOSE},
	{"help", no_argument, NULL, OPT_HELP},
	{"version", no_argument, NULL, OPT_VERSION},
	/* For the build: prints docs/api.md or docs/config.md. */
	{"print-docs", required_argument, NULL, OPT_DOCS},
	{NULL, 0, NULL, 0},
};

static int number(const char *option, const char *s, uint64_t *v)
{
	char *end;

	*v = strtoull(s, &end, 10);
	if (*s >= '0' && *s <= '9' && !*end)
		return 0;
	fprintf(stderr, "thawd: --%s: \"%s\" is not a number\n", option, s);
	return 2;
}

static int replace(char **at, char *value)
{
	if (!value) {
		fprintf(stderr, "thawd: no memory\n");
		return 2;
	}
	free(*at);
	*at = value;
	return 0;
}

static int add_allow(struct options *o, const char *dir)
{
	char **list = realloc(o->allow, (o->nallow + 1) * sizeof(*list));
	char *real = realpath(dir, NULL);

	if (list)
		o->allow = list;
	if (!list || !real) {
		fprintf(stderr, "thawd: --allow %s: no such directory\n", dir);
		free(real);
		return 2;
	}
	o->allow[o->nallow++] = real;
	return 0;
}

static int one(struct options *o, int opt)
{
	switch (opt) {
	case OPT_SOCKET:
		return replace(&o->socket, strdup(optarg));
	case OPT_STATE_DIR:
		return replace(&o->state_dir, strdup(optarg));
	case OPT_MAX_MACHINES:
		return number("max-machines", optarg, &o->max_machines);
	case OPT_MAX_PER_TEMPLATE:
		return number("max-per-template", optarg, &o->max_per_template);
	case OPT_MIN_AVAILABLE:
		if (parse_size(optarg, &o->min_available) == 0)
			return 0;
		fprintf(stderr,
			"thawd: --min-available: \"%s\" is not a size like "
			"256M\n",
			optarg);
		return 2;
	case OPT_ALLOW:
		return add_allow(o, optarg);
	case OPT_IDLE_EXIT:
		return number("idle-exit", optarg, &o->idle_exit_s);
	case OPT_VERBOSE:
		o->verbose = true;
		return 0;
	case OPT_HELP:
		fputs(usage, stdout);
		return 1;
	case OPT_VERSION:
		printf("thawd %s\n", THAW_VERSION);
		return 1;
	case OPT_DOCS:
		return docs_print(optarg);
	default:
		fputs("thawd: see thawd --help\n", stderr);
		return 2;
	}
}

static char *join(const char *a, const char *b)
{
	char *s = NULL;

	return asprintf(&s, "%s%s", a, b) < 0 ? NULL : s;
}

static char *default_socket(void)
{
	const char *s = getenv("THAW_SOCKET"), *x = getenv("XDG_RUNTIME_DIR");

	if (s && *s)
		return strdup(s);
	return x && *x ? join(x, "/thaw.sock") : strdup("/run/thaw/thaw.sock");
}

static char *default_state_dir(void)
{
	const char *x = getenv("XDG_STATE_HOME"), *home = getenv("HOME");

	if (x && *x)
		return join(x, "/thaw");
	if (geteuid() == 0 || !home || !*home)
		return strdup("/var/lib/thaw");
	return join(home, "/.local/state/thaw");
}

/* thaw-machine stands beside thawd. */
static char *default_machine(void)
{
	char self[PATH_MAX], *slash;
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);

	if (n <= 0)
		return strdup("/usr/local/bin/thaw-machine");
	self[n] = 0;
	slash = strrchr(self, '/');
	if (slash)
		slash[1] = 0;
	return join(self, "thaw-machine");
}

int options_parse(struct options *o, int argc, char **argv)
{
	const char *exe;
	int opt, r;

	memset(o, 0, sizeof(*o));
	o->max_machines = 4000;
	o->min_available = 256 * MIB;
	while ((opt = getopt_long(argc, argv, "", longs, NULL)) != -1) {
		r = one(o, opt);
		if (r)
			return r;
	}
	if (optind < argc) {
		fprintf(stderr, "thawd: unexpected argument \"%s\"\n",
			argv[optind]);
		return 2;
	}
	if (!o->max_per_template)
		o->max_per_template = o->max_machines;
	if (!o->socket && replace(&o->socket, default_socket()))
		return 2;
	if (!o->state_dir && replace(&o->state_dir, default_state_dir()))
		return 2;
	/* For tests: another program that speaks the control protocol. */
	exe = getenv("THAW_MACHINE");
	if (exe)
		return replace(&o->machine_exe, strdup(exe));
	return replace(&o->machine_exe, default_machine());
}

void options_fini(struct options *o)
{
	for (unsigned i = 0; i < o->nallow; i++)
		free(o->allow[i]);
	free(o->allow);
	free(o->socket);
	free(o->state_dir);
	free(o->machine_exe);
}
