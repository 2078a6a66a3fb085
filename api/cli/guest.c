/*
 * How it works: the daemon connects a socket of ours to the guest's vsock, and
 * from there on we speak with the agent as we do with the daemon, by the same
 * library. Output of a command comes as notifications; stdin goes out in
 * pieces, the next when the agent has acknowledged the last.
 */
#include "api/cli/guest.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>

#define CONNECT_MS 5000
#define RETRY_US   20000
#define PIECE      65536u

/* global: a signal handler has nothing else to write to. */
static volatile sig_atomic_t caught;

static void on_signal(int sig)
{
	caught = sig;
}

int guest_open(
	struct cli *c, const char *id, uint64_t timeout_ms, struct thaw **g)
{
	uint64_t end = now_ns() + timeout_ms * 1000000;
	struct thaw_error e;
	int rc;

	for (;;) {
		rc = thaw_machine_connect(
			c->t, id, THAW_AGENT_PORT, CONNECT_MS, g, &e);
		if (!rc)
			return EXIT_DONE;
		if ((rc != THAW_CONNECT && rc != THAW_TIMEOUT) ||
			now_ns() > end)
			return cli_error(c, &e);
		(void)usleep(RETRY_US);
	}
}

/* The built-in guest's agent, and functions', know only invokes. */
static int guest_error(struct cli *c, const struct thaw_error *e)
{
	if (e->code == THAW_NOT_FOUND && !strcmp(e->message, "unknown method"))
		return cli_fail(c, EXIT_FAILED,
			"this guest's agent takes no commands and files; that "
			"needs a Linux guest with thaw-agent");
	return cli_error(c, e);
}

int guest_call(struct cli *c, struct thaw *g, struct thaw_result *r)
{
	struct thaw_error e;

	return thaw_call(g, -1, r, &e) ? guest_error(c, &e) : EXIT_DONE;
}

/* ---- exec ---- */

struct running {
	struct cli *c;
	struct thaw *g;
	uint32_t id, input; /* of the requests; input 0: none under way */
	bool in_open, done;
	int broken; /* errno: nobody takes our output */
	int code;
};

static void on_output(
	void *arg, const char *method, const msgpack_object *params)
{
	struct running *r = arg;
	const void *data;
	size_t n;
	int fd = thaw_get_u64(params, "stream", 1) == 2 ? STDERR_FILENO
							: STDOUT_FILENO;

	if (strcmp(method, "output") != 0 ||
		thaw_get_u64(params, "id", 0) != r->id ||
		thaw_get_data(params, "data", &data, &n))
		return;
	if (!r->broken)
		r->broken = -write_full(fd, data, n);
}

static int start(struct running *r, const struct guest_exec *x)
{
	uint32_t n = 3U + (x->env && x->env->n) + (x->cwd != NULL) +
		     (x->timeout_ms != 0);
	msgpack_packer *p = thaw_request(r->g, "exec", n);
	struct thaw_error e;

	mp_str(p, "argv");
	msgpack_pack_array(p, x->nargs);
	for (unsigned i = 0; i < x->nargs; i++)
		mp_str(p, x->argv[i]);
	mp_key_bool(p, "stream", true);
	mp_key_bool(p, "stdin_open", x->in);
	if (x->env && x->env->n) {
		mp_str(p, "env");
		msgpack_pack_map(p, x->env->n);
		for (unsigned i = 0; i < x->env->n; i++) {
			const char *kv = x->env->at[i];
			size_t len = strcspn(kv, "=");

			mp_strn(p, kv, len);
			mp_str(p, kv + len + (kv[len] == '='));
		}
	}
	if (x->cwd)
		mp_key_str(p, "cwd", x->cwd);
	if (x->timeout_ms)
		mp_key_u64(p, "timeout_ms", x->timeout_ms);
	return thaw_send(r->g, &r->id, &e) ? cli_error(r->c, &e) : EXIT_DONE;
}

static int send_input(struct running *r)
{
	static char piece[PIECE]; /* global: one at a time, large */
	ssize_t n = read(STDIN_FILENO, piece, sizeof(piece));
	struct thaw_error e;
	msgpack_packer *p;

	if (n < 0 && (errno == EINTR || errno == EAGAIN))
		return EXIT_DONE;
	p = thaw_request(r->g, "input", 3);
	mp_key_u64(p, "id", r->id);
	thaw_pack_data(p, "data", piece, n > 0 ? (size_t)n : 0);
	mp_key_bool(p, "eof", n <= 0);
	r->in_open = n > 0;
	return thaw_send(r->g, &r->input, &e) ? cli_error(r->c, &e) : EXIT_DONE;
}

/* Our own Ctrl-C is the command's. */
static int send_signal(struct running *r, int sig)
{
	msgpack_packer *p = thaw_request(r->g, "signal", 2);
	struct thaw_error e;
	uint32_t id;

	mp_key_u64(p, "id", r->id);
	mp_key_u64(p, "signal", (unsigned)sig);
	return thaw_send(r->g, &id, &e) ? cli_error(r->c, &e) : EXIT_DONE;
}

static bool is_true(const msgpack_object *map, const char *key)
{
	const msgpack_object *o = thaw_get(map, key);

	return o && o->type == MSGPACK_OBJECT_BOOLEAN && o->via.boolean;
}

static int take_answers(struct running *r)
{
	struct thaw_result res;
	struct thaw_error e;
	uint32_t id;
	int rc;

	do {
		rc = thaw_next(r->g, 0, &id, &res, &e);
		if (id == r->id && !rc) {
			r->code = (int)thaw_get_u64(res.value, "exit", 1);
			r->done = true;
			if (is_true(res.value, "timed_out"))
				fprintf(stderr,
					"thaw: %s: the command's time "
					"was over\n",
					r->c->cmd->name);
		}
		if (id && id == r->input) {
			r->input = 0;
			if (rc || is_true(res.value, "closed"))
				r->in_open = false;
		}
		thaw_result_free(&res);
		if (rc && id == r->id)
			return guest_error(r->c, &e);
	} while (id);
	if (rc == THAW_TIMEOUT || rc == THAW_INTERRUPTED)
		return EXIT_DONE;
	return cli_error(r->c, &e);
}

static int pump(struct running *r)
{
	int rc = EXIT_DONE;

	while (!rc && !r->done) {
		struct pollfd p[2] = {
			{.fd = thaw_fd(r->g), .events = POLLIN},
			{.fd = r->in_open && !r->input ? STDIN_FILENO : -1,
				.events = POLLIN},
		};

		if (!thaw_buffered(r->g) && poll(p, 2, -1) < 0)
			p[0].revents = p[1].revents = 0;
		if (caught) {
			rc = send_signal(r, caught);
			caught = 0;
		}
		if (!rc)
			rc = take_answers(r);
		if (!rc && !r->done && p[1].revents)
			rc = send_input(r);
		if (!rc && r->broken)
			rc = cli_fail(r->c, EXIT_FAILED,
				"output: %s; the command is ended",
				strerror(r->broken));
	}
	return rc;
}

int guest_exec(
	struct cli *c, struct thaw *g, const struct guest_exec *x, int *code)
{
	struct sigaction sa = {.sa_handler = on_signal}, old_int, old_term;
	struct running r = {.c = c, .g = g, .in_open = x->in};
	int rc;

	caught = 0;
	thaw_on_notify(g, on_output, &r);
	(void)sigaction(SIGINT, &sa, &old_int);
	(void)sigaction(SIGTERM, &sa, &old_term);
	rc = start(&r, x);
	if (!rc)
		rc = pump(&r);
	(void)sigaction(SIGINT, &old_int, NULL);
	(void)sigaction(SIGTERM, &old_term, NULL);
	thaw_on_notify(g, NULL, NULL);
	*code = r.code;
	return rc;
}
