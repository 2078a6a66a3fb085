#include "api/daemon/docs.h"

#include "api/daemon/config.h"
#include "api/daemon/methods.h"

#include <stdio.h>
#include <string.h>

static const char api_head[] =
	"# API of thawd\n"
	"\n"
	"This page is made from the daemon's method table: `thawd --print-docs "
	"api`.\n"
	"\n"
	"thawd speaks [msgpack-rpc]"
	"(https://github.com/msgpack-rpc/msgpack-rpc/blob/master/spec.md)\n"
	"over a unix stream socket: `$THAW_SOCKET`, else "
	"`$XDG_RUNTIME_DIR/thaw.sock`, else\n"
	"`/run/thaw/thaw.sock`. A request is `[0, id, method, params]`, its "
	"answer\n"
	"`[1, id, error, result]`, a notification `[2, method, params]`. "
	"`params` is an array\n"
	"of one map of named parameters; it may be empty when nothing is "
	"required. Many\n"
	"requests may be in flight; answers come as they are ready. "
	"Notifications sent to\n"
	"the daemon are ignored.\n"
	"\n"
	"Sizes are bytes, times microseconds unless the name ends in `_ms` or "
	"`_ns`.\n"
	"Strings are UTF-8. A *path* is absolute and is opened with the rights "
	"of the\n"
	"client's uid and groups; instead it may be `{\"fd\": i}`, the i-th "
	"descriptor sent\n"
	"(SCM_RIGHTS) in one message with the bytes of the request. *data* is "
	"bin; str is\n"
	"taken, too.\n"
	"\n"
	"## Limits\n"
	"\n";

static const char api_errors[] =
	"\n"
	"## Errors\n"
	"\n"
	"`{code, message, detail?}`; the message is one line for people. "
	"`detail` is\n"
	"`host` where an `unsupported` snapshot could go on on another host.\n"
	"\n"
	"| code | meaning |\n"
	"|---|---|\n"
	"| `invalid` | a parameter is wrong, unknown or missing |\n"
	"| `not_found` | no such method, template, machine or file |\n"
	"| `exists` | the name or the file is taken |\n"
	"| `busy` | not now: in use, being created, too many requests; or a "
	"client ended it meanwhile (a snapshot was cancelled, a machine "
	"stopped) |\n"
	"| `denied` | the client's rights do not suffice |\n"
	"| `unsupported` | this thaw or this host cannot |\n"
	"| `corrupt` | the file is damaged or is no snapshot |\n"
	"| `timeout` | it took too long; what did not answer was killed |\n"
	"| `exhausted` | a limit on machines, clones, memory or descriptors; "
	"nothing was made |\n"
	"| `internal` | everything else, e.g. `guest crashed: ...` |\n"
	"\n"
	"## Objects\n"
	"\n"
	"M, a machine: `{id, name, kind: \"machine\"|\"clone\"|\"builder\", "
	"state:\n"
	"\"starting\"|\"running\"|\"paused\"|\"parked\"|\"ended\", template?, "
	"pids: {machine},\n"
	"memory: {size, shared, private}, times: {created_ns, age_ms, build, "
	"ack, go},\n"
	"vsock?, generation?, machine_id?, first_answer_us?, pager?, "
	"end?: {kind, text}}`. `shared` and "
	"`private` are in\n"
	"`machine.show` only; the list has 0 for a clone's pid on\n"
	"Linux before 6.13. "
	"Machines are\n"
	"called `m-N`, clones `TEMPLATE-N`.\n"
	"\n"
	"T, a template: `{name, uuid, state: \"ready\"|\"loading\"|\"failed\", "
	"memory,\n"
	"base_bytes, pool: {target, parked, filling}, clones, pid, created_ns, "
	"config,\n"
	"counters, remote?, first_answer_us?, pager?, error?}`. After a "
	"restart of the daemon templates are `loading` at first;\n"
	"requests for their clones wait. `pager` is a map of numbers "
	"([lazy.md](lazy.md)).\n"
	"\n"
	"Events: `machine.created machine.ready machine.paused "
	"machine.resumed machine.ended\n"
	"template.created template.failed template.removed pool.filled "
	"zygote.lost`.\n"
	"\n"
	"## Methods\n";

static const char *type_of(const struct param *p)
{
	switch (p->type) {
	case PARAM_NAME:
	case PARAM_ID:
	case PARAM_HOST:
		return "name";
	case PARAM_TEXT:
		return "string";
	case PARAM_DATA:
		return "data";
	case PARAM_PATH:
	case PARAM_SOURCE:
		return "path";
	case PARAM_UINT:
		return "number";
	case PARAM_BOOL:
		return "boolean";
	case PARAM_CHOICE:
		return "choice";
	case PARAM_FD:
		return "descriptor";
	case PARAM_ARRAY:
		return "array";
	case PARAM_OBJECT:
		return "map";
	case PARAM_END:
	default:
		return "";
	}
}

static void print_default(const struct param *p)
{
	if (p->required)
		printf("required");
	else if (p->type == PARAM_UINT && p->def)
		printf("%llu", (unsigned long long)p->def);
	else if (p->type == PARAM_BOOL)
		printf("%s", p->def ? "true" : "false");
	else if (p->type == PARAM_CHOICE)
		printf("`\"%s\"`", p->choices[p->def]);
}

static void print_choices(const struct param *p)
{
	for (unsigned i = 0; p->choices && p->choices[i]; i++)
		printf("%s`\"%s\"`", i ? ", " : " (", p->choices[i]);
	printf("%s |\n", p->choices ? ")" : "");
}

static void print_method(const struct method *m)
{
	printf("\n### %s\n\n%s\n", m->name, m->help);
	if (m->params && m->params->type)
		printf("\n| parameter | type | default | |\n|---|---|---|---|"
		       "\n");
	for (const struct param *p = m->params; p && p->type; p++) {
		printf("| `%s` | %s | ", p->name, type_of(p));
		print_default(p);
		printf(" | %s", p->help);
		print_choices(p);
	}
	printf("\nResult: %s\n", m->result);
}

static void print_api(void)
{
	fputs(api_head, stdout);
	printf("- A request has at most %d bytes, one of a method with a "
	       "payload "
	       "(",
		RPC_MAX_REQUEST);
	for (unsigned i = 0, n = 0; i < nmethods; i++) {
		if (methods[i].payload)
			printf("%s`%s`", n++ ? ", " : "", methods[i].name);
	}
	printf(") %llu plus\n  %d. A longer one gets an error; the connection "
	       "goes on.\n",
		(unsigned long long)RPC_MAX_PAYLOAD, RPC_PAYLOAD_ROOM);
	printf("- What is not msgpack-rpc, or nests deeper than 12, or has "
	       "more "
	       "than 16,384\n  values gets an error with id nil, and the "
	       "connection is closed.\n"
	       "- %d requests in flight per connection, %d connections, %d "
	       "descriptors per\n  request.\n"
	       "- A client that lets more than %llu MiB of answers wait is "
	       "disconnected.\n",
		CONN_MAX_INFLIGHT, CONN_MAX, CONN_MAX_FDS,
		(unsigned long long)(CONN_OUT_MAX / MIB));
	fputs(api_errors, stdout);
	for (unsigned i = 0; i < nmethods; i++)
		print_method(&methods[i]);
}

static void print_keys(const struct config_key *k, unsigned n)
{
	printf("| key | type | default | |\n|---|---|---|---|\n");
	for (unsigned i = 0; i < n; i++)
		printf("| `%s` | %s | %s | %s |\n", k[i].key, k[i].type,
			k[i].def, k[i].help);
}

static void print_config(void)
{
	printf("# Configuration of a machine\n\n"
	       "This page is made from the table that checks configurations: "
	       "`thawd --print-docs\nconfig`.\n\n"
	       "A map of these keys is the parameter `config` of "
	       "`machine.create` and\n`template.create`, and, as JSON, the "
	       "file "
	       "that `--config` takes. Unknown keys, wrong\ntypes and values "
	       "out "
	       "of range are refused with the path of the key.\n\n");
	print_keys(config_keys, nconfig_keys);
	printf("\n## Devices\n\n");
	print_keys(config_device_keys, nconfig_device_keys);
	printf("\nExample: `{\"memory\": \"256M\", \"devices\": [{\"type\": "
	       "\"vsock\"}], \"labels\": {\"app\":\n\"resize\"}}`\n");
}

int docs_print(const char *page)
{
	if (!strcmp(page, "api"))
		print_api();
	else if (!strcmp(page, "config"))
		print_config();
	else
		return 2;
	return 1;
}
