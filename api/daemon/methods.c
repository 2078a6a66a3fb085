#include "api/daemon/methods.h"

#include "api/daemon/fetch.h"

#include <stddef.h>
#include <string.h>

#define AT(field) offsetof(struct args, field)
#define HOUR_MS   3600000
/* A piece of a file, as thaw-agent takes it. */
#define PIECE_MAX (4 * MIB)

static const char *const modes[] = {[MODE_ANY] = "any",
	[MODE_POOLED] = "pooled",
	[MODE_FRESH] = "fresh",
	NULL};
static const char *const snapshot_types[] = {"full", "diff", NULL};
static const char *const againsts[] = {[CTL_AGAINST_ANY] = "any",
	[CTL_AGAINST_LAST] = "last",
	[CTL_AGAINST_TEMPLATE] = "template",
	NULL};
static const char *const fills[] = {
	[FILL_BACKGROUND] = "background", [FILL_NONE] = "none", NULL};
static const char *const codecs[] = {"raw", "zstd", NULL};

static const struct param machine_create_params[] = {
	{"config", PARAM_OBJECT, false, AT(config),
		.help = "configuration map, see config.md"},
	{"snapshot", PARAM_SOURCE, false, AT(snapshot),
		.help = "instead: restore this snapshot; `\"tcp://...\"` with "
			"`lazy`: one on another host (pager.md)"},
	{"name", PARAM_NAME, false, AT(name), .help = "a name of your own"},
	{"ready", PARAM_OBJECT, false, AT(ready),
		.help = "`\"agent\"`, `{\"text\": T}` (on the console) or "
			"`{\"seconds\": S}`: what to wait for before "
			"answering; absent: nothing"},
	{"timeout_ms", PARAM_UINT, false, AT(timeout_ms), 1, HOUR_MS, 60000,
		.help = "how long that may take"},
	{"track_dirty", PARAM_BOOL, false, AT(track_dirty),
		.help = "keep track of what changes, for diff snapshots "
			"against "
			"the last one"},
	{"bind", PARAM_BOOL, false, AT(bind),
		.help = "end the machine with this connection"},
	{"console", PARAM_FD, false, AT(console),
		.help = "`{\"fd\": i}`: serial output is written there instead "
			"of being kept"},
	{"vsock", PARAM_PATH, false, AT(vsock),
		.help = "where to make the machine's vsock socket, or a "
			"listening socket as descriptor"},
	{"hostname", PARAM_HOST, false, AT(hostname),
		.help = "default: the id"},
	{"cid", PARAM_UINT, false, AT(cid), 3, UINT32_MAX - 1, 0,
		.help = "the guest's vsock context id"},
	{"disks", PARAM_OBJECT, false, AT(disks),
		.help = "with `snapshot`: the files of its disks, `{ID: path "
			"or "
			"descriptor}`; none is opened that is not given here"},
	{"overlays", PARAM_OBJECT, false, AT(overlays),
		.help = "with `snapshot`: what was written to its disks' "
			"overlays, the files of machine.snapshot, `{ID: path "
			"or descriptor}`"},
	{"taps", PARAM_OBJECT, false, AT(taps),
		.help = "with `snapshot`: the taps of its interfaces, `{ID: "
			"name or descriptor}`; without one the link is down"},
	{"macs", PARAM_OBJECT, false, AT(macs),
		.help = "with `snapshot`: other addresses, `{ID: address}`; "
			"`busy` for one that another machine has"},
	{"ips", PARAM_OBJECT, false, AT(ips),
		.help = "with `snapshot`: IP addresses that the agent sets, "
			"`{ID: \"ADDRESS/PREFIX\"}`, or "
			"`\"ADDRESS/PREFIX,GATEWAY\"`"},
	{"lazy", PARAM_BOOL, false, AT(lazy),
		.help = "bring memory in when it is touched (lazy.md)"},
	{"fill", PARAM_CHOICE, false, AT(fill), .choices = fills,
		.help = "lazy: after the first answer bring in the rest, too; "
			"or never"},
	{"fill_rate", PARAM_UINT, false, AT(fill_rate), 1, 1000000, 0,
		.help = "lazy: MiB a second for that; absent: no limit"},
	{"stall_ms", PARAM_UINT, false, AT(stall_ms), 100, HOUR_MS, 0,
		.help = "lazy, pager: how long a page may take before the "
			"machine is ended; default 10000"},
	{"pager", PARAM_TEXT, false, AT(pager),
		.help = "with `snapshot`: `\"unix:/PATH\"`, a program of "
			"yours brings in the memory (lazy.md)"},
	{0}};
static const struct param id_params[] = {
	{"id", PARAM_ID, true, AT(id), .help = "machine"}, {0}};
static const struct param input_params[] = {
	{"id", PARAM_ID, true, AT(id), .help = "machine"},
	{"data", PARAM_DATA, true, AT(data), 0, RPC_MAX_REQUEST,
		.help = "bytes for the serial console"},
	{0}};
static const struct param machine_snapshot_params[] = {
	{"id", PARAM_ID, true, AT(id), .help = "machine"},
	{"path", PARAM_PATH, true, AT(path),
		.help = "file to make; must not exist"},
	{"type", PARAM_CHOICE, false, AT(type), .choices = snapshot_types,
		.help = "diff: only what changed, on top of another snapshot"},
	{"against", PARAM_CHOICE, false, AT(against), .choices = againsts,
		.help = "of a diff: the machine's last snapshot (of one "
			"started "
			"with `track_dirty`), the template (of a clone), or "
			"the first of these that there is"},
	{"codec", PARAM_CHOICE, false, AT(codec), .choices = codecs,
		.help = "of the memory: as it is, or compressed"},
	{"level", PARAM_UINT, false, AT(level), 1, SNAP_MAX_ZSTD, 0,
		.help = "with codec zstd: how much to try (default 1)"},
	{"live", PARAM_BOOL, false, AT(live),
		.help = "the guest pauses only while it is frozen, not until "
			"the file is written"},
	{"progress", PARAM_BOOL, false, AT(progress),
		.help = "also send notifications `snapshot` `{req, id, done, "
			"total}` (bytes of guest memory)"},
	{"overlays", PARAM_OBJECT, false, AT(overlays),
		.help = "of disks with an overlay: empty files that get what "
			"is in it, `{ID: path or descriptor}`; the machine "
			"waits for that. A machine with overlays can be "
			"restored only with these"},
	{"force", PARAM_BOOL, false, AT(force),
		.help = "replace an existing file"},
	{0}};
static const struct param machine_invoke_params[] = {
	{"id", PARAM_ID, true, AT(id), .help = "machine"},
	{"payload", PARAM_DATA, true, AT(payload), 0, RPC_MAX_PAYLOAD,
		.help = "request for the agent"},
	{"timeout_ms", PARAM_UINT, false, AT(timeout_ms), 1, HOUR_MS, 30000,
		.help = "how long the answer may take"},
	{0}};
static const struct param exec_params[] = {
	{"id", PARAM_ID, true, AT(id), .help = "machine"},
	{"argv", PARAM_ARRAY, true, AT(argv),
		.help = "the command and its arguments, strings; no shell"},
	{"env", PARAM_OBJECT, false, AT(env),
		.help = "map of strings, on top of the agent's environment"},
	{"stdin", PARAM_DATA, false, AT(data), 0, PIECE_MAX,
		.help = "what it reads; up to 4 MiB"},
	{"cwd", PARAM_TEXT, false, AT(cwd),
		.help = "directory to start in; absent: the agent's"},
	{"timeout_ms", PARAM_UINT, false, AT(timeout_ms), 1, HOUR_MS, 30000,
		.help = "after that it is killed"},
	{0}};
static const struct param put_params[] = {
	{"id", PARAM_ID, true, AT(id), .help = "machine"},
	{"path", PARAM_TEXT, true, AT(file),
		.help = "file in the guest, absolute"},
	{"data", PARAM_DATA, true, AT(data), 0, PIECE_MAX,
		.help = "up to 4 MiB of it"},
	{"mode", PARAM_UINT, false, AT(file_mode), 0, 07777, 0644,
		.help = "its permissions, with the last piece"},
	{"offset", PARAM_UINT, false, AT(offset), 0, INT64_MAX, 0,
		.help = "where this piece begins: where the last one ended"},
	{"eof", PARAM_BOOL, false, AT(eof), .def = 1,
		.help = "this is the last piece: the file appears, whole"},
	{0}};
static const struct param get_params[] = {
	{"id", PARAM_ID, true, AT(id), .help = "machine"},
	{"path", PARAM_TEXT, true, AT(file),
		.help = "file in the guest, absolute"},
	{"offset", PARAM_UINT, false, AT(offset), 0, INT64_MAX / 2, 0,
		.help = "where to begin"},
	{"length", PARAM_UINT, false, AT(length), 0, PIECE_MAX, PIECE_MAX,
		.help = "how much of it at most"},
	{0}};
static const struct param machine_connect_params[] = {
	{"id", PARAM_ID, true, AT(id), .help = "machine"},
	{"socket", PARAM_FD, true, AT(socket),
		.help = "`{\"fd\": i}`: one end of a stream socketpair(2)"},
	{0}};
static const struct param template_create_params[] = {
	{"name", PARAM_NAME, true, AT(name), .help = "the new template"},
	{"config", PARAM_OBJECT, false, AT(config),
		.help = "boot this machine (config.md), freeze it when ready"},
	{"snapshot", PARAM_SOURCE, false, AT(snapshot),
		.help = "instead: a snapshot, which is copied; "
			"`\"tcp://...\"` with `lazy`: one on another host "
			"(pager.md)"},
	{"machine", PARAM_ID, false, AT(machine),
		.help = "instead: this machine as it is now; it goes on"},
	{"disks", PARAM_OBJECT, false, AT(disks),
		.help = "with `snapshot` or `machine`: the files of its disks, "
			"as for machine.create"},
	{"pool", PARAM_UINT, false, AT(pool), 0, 100000, 0,
		.help = "clones to keep made ahead of time"},
	{"ready", PARAM_OBJECT, false, AT(ready),
		.help = "as for machine.create; default `\"agent\"`"},
	{"timeout_ms", PARAM_UINT, false, AT(timeout_ms), 1, HOUR_MS, 60000,
		.help = "until the template is ready"},
	{"limits", PARAM_OBJECT, false, AT(limits),
		.help = "`{max_clones, invoke_ms}`"},
	{"lazy", PARAM_BOOL, false, AT(lazy),
		.help = "bring memory in when it is touched (lazy.md)"},
	{"fill", PARAM_CHOICE, false, AT(fill), .choices = fills,
		.help = "lazy: after the first answer bring in the rest, too; "
			"or never"},
	{"fill_rate", PARAM_UINT, false, AT(fill_rate), 1, 1000000, 0,
		.help = "lazy: MiB a second for that; absent: no limit"},
	{"stall_ms", PARAM_UINT, false, AT(stall_ms), 100, HOUR_MS, 0,
		.help = "lazy: how long a page may take before the machine "
			"is ended; default 10000"},
	{0}};
static const struct param record_params[] = {
	{"name", PARAM_NAME, true, AT(name), .help = "template"},
	{"payload", PARAM_DATA, true, AT(payload), 0, RPC_MAX_PAYLOAD,
		.help = "a request that is like those to come"},
	{"timeout_ms", PARAM_UINT, false, AT(timeout_ms), 1, HOUR_MS, 30000,
		.help = "how long the answer may take"},
	{"replace", PARAM_BOOL, false, AT(replace),
		.help = "forget earlier recordings instead of adding to them"},
	{"path", PARAM_PATH, false, AT(path),
		.help = "also write the set there: SNAPSHOT.ws"},
	{0}};
static const struct param name_params[] = {
	{"name", PARAM_NAME, true, AT(name), .help = "template"}, {0}};
static const struct param remove_params[] = {
	{"name", PARAM_NAME, true, AT(name), .help = "template"},
	{"force", PARAM_BOOL, false, AT(force), .help = "end its clones, too"},
	{0}};
static const struct param clone_params[] = {
	{"template", PARAM_NAME, true, AT(template), .help = "template"},
	{"count", PARAM_UINT, false, AT(count), 1, 100000, 1,
		.help = "how many"},
	{"mode", PARAM_CHOICE, false, AT(mode), .choices = modes,
		.help = "pooled ones first and the rest fresh, or only one "
			"kind"},
	{"overrides", PARAM_OBJECT, false, AT(overrides),
		.help = "map, or one map per clone, of `name`, `hostname`, "
			"`cid`, `vsock`, and as for machine.create `disks`, "
			"`taps`, `macs`, `ips`; only `name` leaves pooled "
			"clones usable"},
	{"stream", PARAM_BOOL, false, AT(stream),
		.help = "also send a notification `clone` `{req, index, id, "
			"us}` per clone as it is ready"},
	{"bind", PARAM_BOOL, false, AT(bind),
		.help = "end the clones with this connection"},
	{"timeout_ms", PARAM_UINT, false, AT(timeout_ms), 1, HOUR_MS, 10000,
		.help = "for one clone to acknowledge"},
	{0}};
static const struct param invoke_params[] = {
	{"template", PARAM_NAME, true, AT(template), .help = "template"},
	{"payload", PARAM_DATA, true, AT(payload), 0, RPC_MAX_PAYLOAD,
		.help = "request for the agent"},
	{"timeout_ms", PARAM_UINT, false, AT(timeout_ms), 1, HOUR_MS, 30000,
		.help = "how long the answer may take"},
	{"mode", PARAM_CHOICE, false, AT(mode), .choices = modes,
		.help = "as for clone"},
	{0}};
static const struct param inspect_params[] = {
	{"path", PARAM_PATH, true, AT(path), .help = "snapshot"},
	{"section", PARAM_TEXT, false, AT(section),
		.help = "print this section in full"},
	{"map", PARAM_BOOL, false, AT(map),
		.help = "also a cell for each page of guest memory"},
	{0}};
static const struct param verify_params[] = {
	{"path", PARAM_PATH, true, AT(path), .help = "snapshot"},
	{"progress", PARAM_BOOL, false, AT(progress),
		.help = "also send notifications `verify` `{req, done, "
			"total}` (bytes of files)"},
	{0}};

#define STATE "`{id, state}`"

const struct method methods[] = {
	{"server.info", info_method, NULL, false,
		"`{version, format, pid, uptime_ms, socket, state_dir, host: "
		"{kind, kernel, cpu, cpus, memory_total, memory_available, "
		"kvm}, limits}`",
		"The daemon, its host and its limits."},
	{"machine.create", machine_create_method, machine_create_params, false,
		"`{id, us: {build, ready, total}}`",
		"Boot a machine, or restore one from a snapshot."},
	{"machine.input", machine_input_method, input_params, false, "`{}`",
		"Type on a machine's serial console."},
	{"machine.logs", machine_logs_method, id_params, false,
		"`{data, dropped}`",
		"The last 16 KiB of a machine's serial output."},
	{"machine.list", machine_list_method, NULL, false, "`{machines: [M]}`",
		"All machines, also the last 256 that have ended."},
	{"machine.show", machine_show_method, id_params, false, "M",
		"One machine, with its memory."},
	{"machine.pause", machine_pause_method, id_params, false, STATE,
		"Stop its processors."},
	{"machine.resume", machine_resume_method, id_params, false, STATE,
		"Let them go on."},
	{"machine.stop", machine_stop_method, id_params, false, STATE,
		"End a machine at once and forget it."},
	{"machine.snapshot", machine_snapshot_method, machine_snapshot_params,
		false,
		"`{uuid, path, bytes, pages, pause_us, total_us, pause: {stop, "
		"quiesce, state, dirty, fork, resume}}`",
		"Write a machine into a file, which appears complete or not at "
		"all. The machine pauses (`pause_us`, with its parts) and goes "
		"on. One at a time per machine, else `busy`; closing the "
		"connection cancels it."},
	{"machine.snapshot_cancel", machine_snapshot_cancel_method, id_params,
		false, "`{}`",
		"Cancel the snapshot of a machine that is in progress; nothing "
		"is left of it."},
	{"machine.invoke", machine_invoke_method, machine_invoke_params, true,
		"`{payload, us: {take, go, ready, answer, total}}`",
		"Hand a machine's agent one request."},
	{"machine.exec", machine_exec_method, exec_params, true,
		"`{exit, signal, timed_out, stdout, stderr, truncated}`",
		"Run a command in a Linux guest and wait for its end. `exit` "
		"is 128 + `signal` when a signal ended it. The first 2 MiB of "
		"stdout and of stderr are kept. It runs on when the client "
		"goes. Longer streams, or live ones: `machine.connect`."},
	{"machine.put", machine_put_method, put_params, true, "`{size}`",
		"Write a file in a Linux guest, in pieces if it is large; it "
		"appears with the last one."},
	{"machine.get", machine_get_method, get_params, false,
		"`{data, eof, size, mode}`",
		"Read from a file in a Linux guest. `eof`: nothing follows "
		"`data`."},
	{"machine.connect", machine_connect_method, machine_connect_params,
		false, "`{}`",
		"Connect a socket to the machine's vsock: say `CONNECT PORT` "
		"and a newline on the other end, as on its vsock socket. On "
		"port 1024 a Linux guest's agent takes commands and files "
		"(linux.md)."},
	{"template.create", template_create_method, template_create_params,
		false,
		"`{name, uuid, memory, us: {boot, ready, freeze, zygote, "
		"pause, "
		"total}}`",
		"Make a template; it comes back after a restart of the "
		"daemon."},
	{"template.list", template_list_method, NULL, false,
		"`{templates: [T]}`", "All templates."},
	{"template.show", template_show_method, name_params, false, "T",
		"One template."},
	{"template.remove", template_remove_method, remove_params, false,
		"`{name}`",
		"Remove a template and its file; `busy` while it has clones, "
		"unless forced."},
	{"template.record", template_record_method, record_params, true,
		"`{pages, set, recordings}`",
		"Run a request and note which pages it needs (lazy.md); the "
		"set is used the next time the template is loaded lazily."},
	{"clone", clone_method, clone_params, true,
		"`{clones: [{id, us, pooled, steps: {fork, build, ack, go}}], "
		"errors: [{index, code, message}], us}`",
		"Make clones that run and have acknowledged. When some fail "
		"the others are still given; when all fail the request fails "
		"with the first one's error."},
	{"invoke", invoke_method, invoke_params, true,
		"`{payload, us: {take, go, ready, answer, total}, pooled}`",
		"Take a clone, hand its agent one request, discard it."},
	{"snapshot.inspect", inspect_method, inspect_params, false, "a map",
		"What `thaw inspect --json` prints. What the file builds on is "
		"looked for where it says, beside it, and among the files of "
		"templates, with the client's rights."},
	{"snapshot.verify", verify_method, verify_params, false,
		"`{file, ok, uuid, files, bytes, chunks, pages, zero}`",
		"Check every checksum and every rule of the format, also of "
		"all files that it builds on, as `thaw verify --json` does. "
		"What is not sound is an error: `corrupt` for damage and for "
		"a parent that is another file, `not_found` when one is "
		"missing. Closing the connection cancels it."},
	{"metrics", metrics_method, NULL, false,
		"`{counters: {name: n}, gauges: {name: n}, histograms: {name: "
		"{count, sum, p50, p90, p99, max}}}`",
		"Counters and histograms (microseconds) since the start."},
	{"events", events_method, NULL, false, "`{}`",
		"From now on this connection gets notifications `event` "
		"`{type, time_ns, id?, template?, text?}`."},
};
const unsigned nmethods = ARRAY_SIZE(methods);

const struct method *method_find(const char *name, size_t len)
{
	for (unsigned i = 0; i < nmethods; i++) {
		if (strlen(methods[i].name) == len &&
			!memcmp(methods[i].name, name, len))
			return &methods[i];
	}
	return NULL;
}

uint64_t method_limit(const char *name, size_t len)
{
	const struct method *m = method_find(name, len);

	return m && m->payload ? RPC_MAX_PAYLOAD + RPC_PAYLOAD_ROOM
			       : RPC_MAX_REQUEST;
}

int method_call(struct daemon *d, struct request *r,
	const msgpack_object *params, struct err *e)
{
	struct args a;
	int rc = params_parse(r->method->params, params, &a, e);

	if (!rc && fetch_wanted(&a) && !r->fetched)
		return fetch_hold(d, r, params, &a, e);
	return rc ? rc : r->method->fn(d, r, &a, e);
}
