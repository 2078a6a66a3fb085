/*
 * thaw run: a machine in the foreground.
 *
 * How it works: the guest's console comes through a pipe whose other end the
 * machine got; what is typed goes to the daemon as machine.input. The machine
 * is bound to our connection, so it ends when we do, however that happens. An
 * event tells that the guest ended; then the pipe is read to its end, so that
 * the guest's last words are not lost.
 */
#include "api/cli/run.h"
#include "core/mp_json.h"
#include "api/cli/term.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>

struct run_values {
	struct config_opts cfg;
	const char *name, *hostname, *vsock, *exec;
	bool track_dirty, in;
};

#define AT(m) offsetof(struct run_values, m)
static const struct opt run_opts[] = {
	CONFIG_OPTS(struct run_values, cfg),
	{"name", 0, OPT_STR, "NAME", AT(name), "name of the machine"},
	{"hostname", 0, OPT_STR, "NAME", AT(hostname), "the guest's hostname"},
	{"exec", 0, OPT_STR, "CMD", AT(exec),
		"run this in the guest (/bin/sh -c, by its agent), print what "
		"it prints, power off; exit with its code"},
	{"stdin", 'i', OPT_FLAG, NULL, AT(in),
		"with --exec: hand our stdin to the command"},
	{"track-dirty", 0, OPT_FLAG, NULL, AT(track_dirty),
		"keep track of what changes, for thaw snapshot --diff"},
	{"vsock", 0, OPT_STR, "PATH", AT(vsock),
		"unix socket for the machine's vsock"},
	OPT_END,
};

struct run {
	struct cli *c;
	char id[TEXT_MAX];
	int console; /* owned: our end of the pipe */
	bool stdin_open, ended, interrupted, ctrl_a;
};

static void on_event(
	void *arg, const char *method, const msgpack_object *params)
{
	struct run *r = arg;
	char id[TEXT_MAX];
	const msgpack_object *type = thaw_get(params, "type");

	if (strcmp(method, "event") != 0 || !type ||
		!mp_str_eq(type, "machine.ended"))
		return;
	if (!thaw_get_str(params, "id", id, sizeof(id)) &&
		strcmp(id, r->id) == 0)
		r->ended = true;
}

static void pack_machine(struct run *r, const struct run_values *v,
	const json_t *cfg, const char *vsock, int console)
{
	uint32_t n = (uint32_t)(3 + (v->name != NULL) + (v->hostname != NULL) +
				(v->vsock != NULL));
	msgpack_packer *p = thaw_request(r->c->t, "machine.create", n + 1);

	mp_str(p, "config");
	if (mp_pack_json(p, cfg))
		(void)msgpack_pack_nil(p);
	mp_key_bool(p, "bind", true);
	mp_key_bool(p, "track_dirty", v->track_dirty);
	thaw_pack_fd(r->c->t, p, "console", console);
	if (v->name)
		mp_key_str(p, "name", v->name);
	if (v->hostname)
		mp_key_str(p, "hostname", v->hostname);
	if (v->vsock)
		mp_key_str(p, "vsock", vsock);
}

static int create(struct run *r, const struct run_values *v, const json_t *cfg)
{
	struct thaw_result res = {0};
	char vsock[4096] = "";
	int pipes[2], rc;

	if (v->vsock && cli_abspath(v->vsock, vsock, sizeof(vsock)))
		return cli_fail(
			r->c, EXIT_USAGE, "%s: path too long", v->vsock);
	rc = cli_call1(r->c, "events", NULL, NULL, &res);
	thaw_result_free(&res);
	if (rc)
		return rc;
	if (pipe2(pipes, O_CLOEXEC))
		return cli_fail(r->c, EXIT_FAILED, "pipe: %s", strerror(errno));
	r->console = pipes[0];
	pack_machine(r, v, cfg, vsock, pipes[1]);
	rc = cli_call(r->c, "starting the machine", &res);
	/* Ours must be closed, or the pipe would never end. */
	(void)close(pipes[1]);
	if (!rc && thaw_get_str(res.value, "id", r->id, sizeof(r->id)))
		rc = cli_fail(r->c, EXIT_FAILED, "the answer has no id");
	thaw_result_free(&res);
	return rc;
}

/* An end before the id was known was not recognised as ours. */
static int look_ended(struct run *r)
{
	const msgpack_object *state;
	struct thaw_result res;
	int rc = cli_call1(r->c, "machine.show", "id", r->id, &res);

	state = thaw_get(res.value, "state");
	if (state && mp_str_eq(state, "ended"))
		r->ended = true;
	thaw_result_free(&res);
	return rc;
}

/* What was typed. Ctrl-A x ends the machine, and so does Ctrl-C: in raw mode it
 * is a byte like any other. */
static bool wants_end(struct run *r, char *buf, size_t *len, bool raw)
{
	size_t n = 0;

	for (size_t i = 0; i < *len; i++) {
		if (raw && buf[i] == 0x03)
			return true;
		if (raw && r->ctrl_a && buf[i] == 'x')
			return true;
		if (raw && !r->ctrl_a && buf[i] == 0x01) {
			r->ctrl_a = true;
			continue;
		}
		r->ctrl_a = false;
		buf[n++] = buf[i];
	}
	*len = n;
	return false;
}

static int take_input(struct run *r, bool raw)
{
	char buf[4096];
	struct thaw_error e;
	msgpack_packer *p;
	ssize_t n = read(STDIN_FILENO, buf, sizeof(buf));
	size_t len;
	uint32_t id;

	if (n < 0 && (errno == EINTR || errno == EAGAIN))
		return EXIT_DONE;
	if (n <= 0) {
		r->stdin_open = false;
		return EXIT_DONE;
	}
	len = (size_t)n;
	if (wants_end(r, buf, &len, raw)) {
		r->interrupted = true;
		return EXIT_DONE;
	}
	if (!len)
		return EXIT_DONE;
	p = thaw_request(r->c->t, "machine.input", 2);
	mp_key_str(p, "id", r->id);
	thaw_pack_data(p, "data", buf, len);
	if (thaw_send(r->c->t, &id, &e))
		return cli_error(r->c, &e);
	return EXIT_DONE;
}

/* false: the pipe has ended, or nobody takes our output. */
static bool take_console(struct run *r)
{
	char buf[16384];
	ssize_t n = read(r->console, buf, sizeof(buf));

	if (n < 0 && errno == EINTR)
		return true;
	return n > 0 && write_full(STDOUT_FILENO, buf, (size_t)n) == 0;
}

static int take_answers(struct run *r)
{
	struct thaw_result res;
	struct thaw_error e;
	uint32_t id;
	int rc;

	do {
		rc = thaw_next(r->c->t, 0, &id, &res, &e);
		thaw_result_free(&res);
		/* Input that a machine no longer takes is of no interest. */
	} while (id);
	if (rc == THAW_TIMEOUT || rc == THAW_INTERRUPTED)
		return EXIT_DONE;
	return cli_error(r->c, &e);
}

static int loop(struct run *r, struct term *term)
{
	bool console = true;
	int rc = EXIT_DONE;

	while (!rc && !r->interrupted && !(r->ended && !console)) {
		struct pollfd p[3] = {
			{.fd = console ? r->console : -1, .events = POLLIN},
			{.fd = thaw_fd(r->c->t), .events = POLLIN},
			{.fd = r->stdin_open ? STDIN_FILENO : -1,
				.events = POLLIN},
		};
		/* After the end the pipe closes by itself; a process that
		 * holds on to it may not hold us. */
		int n = poll(p, 3, r->ended ? 500 : -1);

		if (term->stop)
			r->interrupted = true;
		if (n == 0)
			break;
		if (n < 0)
			continue;
		if (p[0].revents)
			console = take_console(r);
		if (p[1].revents)
			rc = take_answers(r);
		if (!rc && p[2].revents)
			rc = take_input(r, term->raw);
	}
	return rc;
}

/* How the guest ended decides the exit code. */
static int report_end(struct run *r)
{
	const msgpack_object *end, *kind;
	struct thaw_result res;
	char text[TEXT_MAX];
	int rc;

	rc = cli_call1(r->c, "machine.show", "id", r->id, &res);
	if (rc)
		return rc;
	end = thaw_get(res.value, "end");
	kind = thaw_get(end, "kind");
	if (kind && mp_str_eq(kind, "poweroff"))
		rc = EXIT_DONE;
	else if (kind && mp_str_eq(kind, "reboot"))
		rc = EXIT_REBOOT; /* whoever wants another run starts one */
	else
		rc = cli_fail(r->c, EXIT_FAILED, "the guest ended: %s",
			get_text(end, "text", text));
	thaw_result_free(&res);
	return rc;
}

static void remove_machine(struct run *r)
{
	struct thaw_error e;

	if (r->id[0])
		(void)thaw_machine_stop(r->c->t, r->id, &e);
}

static int exec(struct cli *c, const struct run_values *v, const json_t *cfg)
{
	const struct run_exec x = {.cfg = cfg,
		.command = v->exec,
		.name = v->name,
		.hostname = v->hostname,
		.in = v->in};

	if (!v->exec)
		return cli_fail(c, EXIT_USAGE, "--stdin goes with --exec");
	if (v->vsock || v->track_dirty)
		return cli_fail(c, EXIT_USAGE,
			"--exec does not go together with --vsock or "
			"--track-dirty");
	return run_exec(c, &x);
}

int cmd_run(struct cli *c, void *values)
{
	const struct run_values *v = values;
	struct run r = {.c = c, .console = -1, .stdin_open = true};
	json_t *cfg = NULL;
	struct term term;
	int rc;

	rc = config_build(c, &v->cfg, c->nargs ? c->arg[0] : NULL, &cfg);
	if (rc)
		return rc;
	if (v->exec || v->in) {
		rc = exec(c, v, cfg);
		json_decref(cfg);
		return rc;
	}
	thaw_on_notify(c->t, on_event, &r);
	rc = create(&r, v, cfg);
	json_decref(cfg);
	if (!rc)
		rc = look_ended(&r);
	if (!rc) {
		term_open(&term);
		rc = loop(&r, &term);
		term_close(&term);
		if (!rc && r.interrupted)
			fprintf(stderr, "thaw: run: ended by Ctrl-C\n");
		else if (!rc)
			rc = report_end(&r);
		remove_machine(&r);
	}
	thaw_on_notify(c->t, NULL, NULL);
	if (r.console >= 0)
		(void)close(r.console);
	return rc;
}

const struct command run_command = {"run", "[GUEST]",
	"boot a machine in the foreground, console on stdio",
	"GUEST is \"builtin\" (default) or a kernel image. Ctrl-C or Ctrl-A x "
	"ends the machine. Exit code 0 when the guest powered off, 6 when it "
	"asked for a reboot (it is not started again), 1 when it crashed.",
	run_opts, sizeof(struct run_values), 0, 1, CMD_DAEMON, cmd_run};
