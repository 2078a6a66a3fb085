/* thaw: the client and the offline tools. The table of commands. */
#include "api/cli/cli.h"

#include <errno.h>
#include <signal.h>
#include <string.h>

static const struct command *const commands[] = {&run_command,
	&template_commands[0], &template_commands[1], &template_commands[2],
	&template_commands[3], &clone_command, &invoke_command,
	&machine_commands[0], &machine_commands[1], &machine_commands[2],
	&machine_commands[3], &machine_commands[4], &machine_commands[5],
	&snapshot_command, &restore_command, &inspect_command, &verify_command,
	&diff_command, &merge_command, &convert_command, &bench_command,
	&metrics_command, &events_command, &info_command, &doctor_command,
	&image_command, &exec_command, &cp_command, &pager_command};

static void print_commands(FILE *f)
{
	fprintf(f, "usage: thaw COMMAND [options]\n\n"
		   "Boot a machine once, freeze it, start every further one as "
		   "a clone.\n\n");
	for (size_t i = 0; i < ARRAY_SIZE(commands); i++)
		fprintf(f, "  %-16s %s\n", commands[i]->name,
			commands[i]->summary);
	fprintf(f, "  %-16s %s\n", "version", "print the version");
	fprintf(f, "\nthaw COMMAND --help says more. Exit codes: 0 done, "
		   "1 failed, 2 usage, 3 not found,\n4 the host cannot, 5 the "
		   "file or the guest lied, 6 the guest of \"run\" wants a "
		   "reboot.\n");
}

/* Match a command by one word or two; *words says how many it took. */
static const struct command *find_command(int argc, char **argv, int *words)
{
	char two[64];

	for (*words = 2; *words >= 1; (*words)--) {
		if (*words > argc)
			continue;
		(void)snprintf(two, sizeof(two), "%s%s%s", argv[0],
			*words == 2 ? " " : "", *words == 2 ? argv[1] : "");
		for (size_t i = 0; i < ARRAY_SIZE(commands); i++) {
			if (strcmp(commands[i]->name, two) == 0)
				return commands[i];
		}
	}
	return NULL;
}

/* "thaw template" alone: its family. Returns false when there is none. */
static bool print_family(const char *word, FILE *f)
{
	size_t n = strlen(word);
	bool any = false;

	for (size_t i = 0; i < ARRAY_SIZE(commands); i++) {
		if (strncmp(commands[i]->name, word, n) != 0 ||
			commands[i]->name[n] != ' ')
			continue;
		fprintf(f, "%s thaw %s %s\n",
			any ? "      " : "usage:", commands[i]->name,
			commands[i]->args);
		any = true;
	}
	return any;
}

static int unknown_command(int argc, char **argv, FILE *f, int exit_code)
{
	struct cli c = {0};

	if (print_family(argv[0], f))
		return exit_code;
	return cli_fail(&c, EXIT_USAGE,
		"unknown command \"%s%s%s\"; thaw help lists them", argv[0],
		argc > 1 && argv[1][0] != '-' ? " " : "",
		argc > 1 && argv[1][0] != '-' ? argv[1] : "");
}

static int help_command(int argc, char **argv)
{
	const struct command *cmd;
	int words;

	if (argc == 0) {
		print_commands(stdout);
		return EXIT_DONE;
	}
	cmd = find_command(argc, argv, &words);
	if (!cmd)
		return unknown_command(argc, argv, stdout, EXIT_DONE);
	opt_help(cmd, stdout);
	return EXIT_DONE;
}

static int run_command_row(const struct command *cmd, int argc, char **argv)
{
	struct cli c = {.cmd = cmd, .out = stdout};
	AUTO_FREE void *values = calloc(1, cmd->values_size + 1);
	bool help = false;
	int rc;

	if (!values)
		return cli_fail(&c, EXIT_FAILED, "out of memory");
	rc = opt_parse(&c, argc, argv, values, &help);
	if (!rc && help)
		opt_help(cmd, stdout);
	if (!rc && !help && (cmd->flags & CMD_DAEMON))
		rc = cli_connect(&c);
	if (!rc && !help)
		rc = cmd->run(&c, values);
	thaw_close(c.t);
	if (fflush(stdout) && !rc)
		rc = cli_fail(&c, EXIT_FAILED, "stdout: %s", strerror(errno));
	return rc;
}

int main(int argc, char **argv)
{
	const struct command *cmd;
	int words;

	/* A reader that left is an error of write(), not a sudden death that
	 * would leave the terminal raw and machines running. */
	(void)signal(SIGPIPE, SIG_IGN);
	argc--;
	argv++;
	if (argc == 0) {
		print_commands(stderr);
		return EXIT_USAGE;
	}
	if (!strcmp(argv[0], "help") || !strcmp(argv[0], "--help") ||
		!strcmp(argv[0], "-h"))
		return help_command(argc - 1, argv + 1);
	if (!strcmp(argv[0], "version") || !strcmp(argv[0], "--version")) {
		printf("thaw %s\n", THAW_VERSION);
		return EXIT_DONE;
	}
	cmd = find_command(argc, argv, &words);
	if (!cmd && argc == 2 &&
		(!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h")))
		return unknown_command(1, argv, stdout, EXIT_DONE);
	if (!cmd)
		return unknown_command(argc, argv, stderr, EXIT_USAGE);
	return run_command_row(cmd, argc - words, argv + words);
}
