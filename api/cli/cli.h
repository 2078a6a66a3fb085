/*
 * The `thaw` command line: what its commands share.
 *
 * A command is one row of the table in main.c: its options are a table too,
 * from which both the parser and the help text are made. Option values land in
 * a struct of the command's own, at the offsets the table names.
 */
#ifndef THAW_API_CLI_CLI_H
#define THAW_API_CLI_CLI_H

#include "api/thaw.h"
#include "api/version.h"
#include "core/mp.h"

#include <jansson.h>
#include <stdio.h>

/* Exit codes: a contract with scripts. */
enum {
	EXIT_DONE,
	EXIT_FAILED,
	EXIT_USAGE,
	EXIT_NOT_FOUND,
	EXIT_HOST,    /* no KVM, no permission */
	EXIT_CORRUPT, /* the file or the guest lied */
	EXIT_REBOOT   /* run: the guest asked to be started again */
};

enum opt_type {
	OPT_FLAG,   /* bool */
	OPT_STR,    /* const char * */
	OPT_U64,    /* uint64_t */
	OPT_COUNT,  /* uint64_t, from 1: 0 says that it was not given */
	OPT_SIZE,   /* uint64_t, "128M", not 0 */
	OPT_MS,     /* uint64_t milliseconds, given in seconds: "1.5" */
	OPT_LABEL,  /* struct opt_labels: "key=value", may be repeated */
	OPT_LIST,   /* struct opt_labels: any text, may be repeated */
	OPT_PICTURE /* const char *: a .png or .svg file; "" when left out */
};

#define OPT_MAX_LABELS 16
struct opt_labels {
	const char *at[OPT_MAX_LABELS];
	unsigned n;
};

struct opt {
	const char *name; /* without "--"; NULL ends the table */
	char letter;      /* 0: none */
	uint8_t type;     /* enum opt_type */
	const char *arg;  /* metavariable, NULL for flags */
	size_t off;       /* into the command's values */
	const char *help;
};

#define OPT_END                                                                \
	{                                                                      \
		NULL, 0, 0, NULL, 0, NULL                                      \
	}

#define CMD_DAEMON 1u /* has --socket, is connected before it runs */
#define CMD_JSON   2u /* has --json */
#define CMD_SOCKET 8u /* has --socket, connects by itself */

#define CLI_MAX_ARGS 256

struct cli {
	const struct command *cmd;
	const char *socket; /* --socket, or NULL */
	bool json;
	const char *arg[CLI_MAX_ARGS];
	unsigned nargs;
	struct thaw *t; /* owned; CMD_DAEMON: connected */
	FILE *out;      /* borrowed: stdout */
};

struct command {
	const char *name; /* "clone" or "template create" */
	const char *args; /* positional arguments in the synopsis, or "" */
	const char *summary;
	const char *details; /* more paragraphs for --help, or NULL */
	const struct opt *opts;
	size_t values_size;
	uint8_t min_args, max_args;
	unsigned flags;
	int (*run)(struct cli *c, void *values);
};

/* opt.c. Returns EXIT_DONE, or the exit code after a message. *help is set
 * when --help was given. */
int opt_parse(struct cli *c, int argc, char **argv, void *values, bool *help);
void opt_help(const struct command *cmd, FILE *f);

/* cli.c */
/* "thaw: clone: text" on stderr; returns exit_code. */
int cli_fail(const struct cli *c, int exit_code, const char *fmt, ...)
	PRINTF(3, 4);
/* The daemon's or the library's error; the code decides the exit code. */
int cli_error(const struct cli *c, const struct thaw_error *e);
/* Connect, starting a private daemon if need be. */
int cli_connect(struct cli *c);
/* Send the request under construction and wait; shows what and the seconds on
 * a terminal when it takes long. Returns an exit code, after a message. */
int cli_call(struct cli *c, const char *what, struct thaw_result *r);
/* thaw_request() with a single string parameter (or none: key NULL). */
int cli_call1(struct cli *c, const char *method, const char *key,
	const char *value, struct thaw_result *r);
/* Ask for the thing named by the first argument and print all of it. */
int cli_show(struct cli *c, const char *method, const char *key);
/* Absolute path of a file named by the user. -ENAMETOOLONG. */
int cli_abspath(const char *path, char *out, size_t size) MUST_USE;
/* Of a snapshot that may be on another host: then as it is. */
bool cli_is_remote(const char *text);
int cli_source(const char *text, char *out, size_t size) MUST_USE;

/* daemon.c: start thawd for the socket; *t is connected on EXIT_DONE. extra:
 * more arguments, NULL-terminated, or NULL. *pid: its process. */
int daemon_start(const struct cli *c, const char *socket,
	const char *const *extra, struct thaw **t, pid_t *pid);

/* json.c */
int json_print(const struct cli *c, const msgpack_object *o);

/* out.c: text for people */
const char *fmt_size(uint64_t bytes, char buf[16]);
const char *fmt_us(double us, char buf[16]);
const char *fmt_age(uint64_t ms, char buf[16]);
/* A result's string, "-" when absent; cut to the buffer. */
#define TEXT_MAX 256
const char *get_text(
	const msgpack_object *map, const char *key, char buf[TEXT_MAX]);
/* Control characters of untrusted text become dots. */
void clean_text(char *s);
/* Print a map as "key  value" lines, nested maps indented. */
void print_map(FILE *f, const msgpack_object *map, int indent);

/* config.c: the options that make a machine's configuration, and its map. */
struct config_opts {
	const char *config; /* JSON file */
	const char *kernel, *initrd, *cmdline;
	uint64_t mem, cpus, cid;
	struct opt_labels labels, disks, nets;
	bool rng;
};
/* clang-format off */
#define CONFIG_OPTS(T, m) \
	{"config", 0, OPT_STR, "FILE", offsetof(T, m.config), \
		"JSON file with the machine's configuration"}, \
	{"kernel", 0, OPT_STR, "FILE", offsetof(T, m.kernel), \
		"kernel image, or builtin (default)"}, \
	{"initrd", 0, OPT_STR, "FILE", offsetof(T, m.initrd), \
		"initrd of the kernel"}, \
	{"cmdline", 0, OPT_STR, "TEXT", offsetof(T, m.cmdline), \
		"added to the kernel's command line"}, \
	{"mem", 'm', OPT_SIZE, "SIZE", offsetof(T, m.mem), \
		"guest memory, default 128M"}, \
	{"cpus", 0, OPT_COUNT, "N", offsetof(T, m.cpus), \
		"virtual CPUs, default 1"}, \
	{"cid", 0, OPT_COUNT, "N", offsetof(T, m.cid), \
		"vsock context id of the guest"}, \
	{"label", 0, OPT_LABEL, "KEY=VALUE", offsetof(T, m.labels), \
		"a label, may be repeated"}, \
	{"disk", 0, OPT_LIST, "FILE[,ro][,overlay][,id=ID]", \
		offsetof(T, m.disks), "a disk, may be repeated"}, \
	{"net", 0, OPT_LIST, "tap=NAME[,mac=ADDRESS][,id=ID]", \
		offsetof(T, m.nets), "a network interface, may be repeated"}, \
	{"rng", 0, OPT_FLAG, NULL, offsetof(T, m.rng), \
		"an entropy device"}
/* clang-format on */
/* New reference in *out; guest: the positional GUEST or NULL. */
int config_build(struct cli *c, const struct config_opts *o, const char *guest,
	json_t **out);
/* devices.c: its part of that. */
int devices_build(struct cli *c, const struct config_opts *o, json_t *cfg);

/* Other files, taps and addresses of a clone or a restored machine. */
struct device_opts {
	struct opt_labels disks, taps, macs, ips;
};
/* clang-format off */
#define DEVICE_OPTS(T, m) \
	{"disk", 0, OPT_LABEL, "ID=FILE", offsetof(T, m.disks), \
		"the file of a disk, may be repeated"}, \
	{"tap", 0, OPT_LABEL, "ID=NAME", offsetof(T, m.taps), \
		"the tap of a network interface, may be repeated"}, \
	{"mac", 0, OPT_LABEL, "ID=ADDRESS", offsetof(T, m.macs), \
		"another address of an interface, may be repeated"}, \
	{"ip", 0, OPT_LABEL, "ID=ADDRESS/PREFIX[,GATEWAY]", offsetof(T, m.ips), \
		"the IP address of an interface; needs thaw-agent"}
/* clang-format on */
/* How many keys devices_pack() makes, and those: "disks", "taps", "macs",
 * "ips". */
uint32_t devices_count(const struct device_opts *o);
int devices_pack(struct cli *c, msgpack_packer *p, const struct device_opts *o);
/* {ID: value} of "ID=value" under this key, if there are any. */
int devices_pack_map(struct cli *c, msgpack_packer *p, const char *key,
	const struct opt_labels *l, bool paths);
/* Pack key "ready" from the text of --ready. */
void config_pack_ready(msgpack_packer *p, const char *ready);

/* The commands: one per file or family. */
int cmd_run(struct cli *c, void *values);
extern const struct command run_command;
extern const struct command template_commands[4];
extern const struct command clone_command, invoke_command;
extern const struct command machine_commands[6];
extern const struct command snapshot_command, restore_command;
extern const struct command inspect_command, verify_command;
extern const struct command diff_command, merge_command, convert_command;
extern const struct command metrics_command, events_command, info_command;
extern const struct command doctor_command;
extern const struct command image_command, exec_command, cp_command;
extern const struct command pager_command;
extern const struct command bench_command; /* bench/bench.c */

/* ---- memory that is brought in when it is touched: lazy.c ---- */

struct lazy_opts {
	bool lazy, no_fill;
	uint64_t rate, stall_ms; /* MiB a second */
};
/* Rows for a command's option table; type is its values struct. */
#define LAZY_OPTS(type, m)                                                     \
	{"lazy", 0, OPT_FLAG, NULL, offsetof(type, m.lazy),                    \
		"bring memory in when it is touched, and the working set "     \
		"(FILE.ws) first"},                                            \
		{"no-fill", 0, OPT_FLAG, NULL, offsetof(type, m.no_fill),      \
			"with --lazy: leave in the file what nobody touches "  \
			"(default: bring in the rest after the first "         \
			"answer)"},                                            \
		{"fill-rate", 0, OPT_COUNT, "MIB", offsetof(type, m.rate),     \
			"with --lazy: at most so many MiB a second for that"}, \
	{                                                                      \
		"stall-timeout", 0, OPT_MS, "SECONDS",                         \
			offsetof(type, m.stall_ms),                            \
			"with --lazy: end a machine that waits longer for a "  \
			"page (default 10)"                                    \
	}
/* Parameters that lazy_pack() adds to a request. */
uint32_t lazy_count(const struct lazy_opts *o);
void lazy_pack(msgpack_packer *p, const struct lazy_opts *o);

#endif
