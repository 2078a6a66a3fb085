/*
 * exec: commands. A command has ended when its process has; what it wrote by
 * then is in its pipes and is read to the last byte. Processes that it left
 * behind may keep the pipes open and are not waited for.
 */
#include "core/guest/linux/agent.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>

#define MAX_ARGS   1024u
#define MAX_STRING 65536u
/* Streamed output stops being read while so much waits for the peer. */
#define BACKLOG_MAX (1 * MIB)
/* stdin that waits for the command: more is not acknowledged. */
#define STDIN_ROOM (256 * KIB)

/* ---- parameters ---- */

struct strings {
	char **v; /* owned, with its strings; NULL-terminated */
	size_t n;
};

static void strings_free(struct strings *s)
{
	for (size_t i = 0; i < s->n; i++)
		free(s->v[i]);
	free(s->v);
	*s = (struct strings){0};
}

static int strings_room(struct strings *s, size_t n, struct err *e)
{
	s->v = calloc(n + 1, sizeof(*s->v));
	if (s->v)
		return 0;
	err_set(e, -ENOMEM, "no memory for the arguments");
	return -ENOMEM;
}

/* a, or "a=b" */
static int strings_add(struct strings *s, const msgpack_object *a,
	const msgpack_object *b, const char *what, struct err *e)
{
	const msgpack_object *o[2] = {a, b};
	size_t n = 0, len = 2;
	char *p;

	for (int i = 0; i < 2 && o[i]; i++) {
		if (o[i]->type != MSGPACK_OBJECT_STR ||
			o[i]->via.str.size > MAX_STRING ||
			memchr(o[i]->via.str.ptr, 0, o[i]->via.str.size))
			return err_set(e, -EINVAL,
				"%s must hold strings of up to 64 KiB without "
				"a zero byte",
				what);
		len += o[i]->via.str.size;
	}
	p = malloc(len);
	if (!p)
		return err_set(e, -ENOMEM, "no memory for the arguments");
	for (int i = 0; i < 2 && o[i]; i++) {
		if (i)
			p[n++] = '=';
		memcpy(p + n, o[i]->via.str.ptr, o[i]->via.str.size);
		n += o[i]->via.str.size;
	}
	p[n] = '\0';
	s->v[s->n++] = p;
	return 0;
}

static int get_argv(
	const msgpack_object *params, struct strings *s, struct err *e)
{
	const msgpack_object *o = mp_get(params, "argv");
	int r;

	if (!o || o->type != MSGPACK_OBJECT_ARRAY || !o->via.array.size ||
		o->via.array.size > MAX_ARGS)
		return err_set(e, -EINVAL,
			"exec needs argv, an array of 1 to %u strings",
			MAX_ARGS);
	r = strings_room(s, o->via.array.size, e);
	if (r)
		return r;
	for (uint32_t i = 0; !r && i < o->via.array.size; i++)
		r = strings_add(s, &o->via.array.ptr[i], NULL, "argv", e);
	if (!r && (!s->n || !s->v[0][0]))
		r = err_set(e, -EINVAL, "the command's name is empty");
	return r;
}

/* An entry of our environment, unless the request has one of that name. */
static int add_inherited(struct strings *s, const char *entry, struct err *e)
{
	size_t key = strcspn(entry, "=") + 1;
	char *copy;

	for (size_t i = 0; i < s->n; i++) {
		if (s->v[i] && !strncmp(s->v[i], entry, key))
			return 0;
	}
	copy = strdup(entry);
	if (!copy)
		return err_set(e, -ENOMEM, "no memory for the arguments");
	s->v[s->n++] = copy;
	return 0;
}

/* The agent's own environment with the request's on top. */
static int get_env(
	const msgpack_object *params, struct strings *s, struct err *e)
{
	const msgpack_object *o = mp_get(params, "env");
	size_t n = 0;
	int r;

	if (!o)
		return 0;
	if (o->type != MSGPACK_OBJECT_MAP || o->via.map.size > MAX_ARGS)
		return err_set(e, -EINVAL,
			"env must be a map of up to %u strings", MAX_ARGS);
	for (char **p = environ; p && *p; p++)
		n++;
	r = strings_room(s, o->via.map.size + n, e);
	if (r)
		return r;
	for (uint32_t i = 0; !r && i < o->via.map.size; i++)
		r = strings_add(s, &o->via.map.ptr[i].key,
			&o->via.map.ptr[i].val, "env", e);
	for (char **p = environ; !r && p && *p; p++) {
		r = add_inherited(s, *p, e);
	}
	return r;
}

/* ---- the end of a command ---- */

static void close_stream(struct ta *t, struct ta_exec *x, int i)
{
	if (x->fd[i] < 0)
		return;
	if (x->watched[i])
		loop_del(&t->loop, x->fd[i]);
	x->watched[i] = false;
	(void)close(x->fd[i]);
	x->fd[i] = -1;
}

static void input_done(struct ta *t, struct ta_exec *x, bool closed)
{
	msgpack_packer pk;

	if (!x->input_waits)
		return;
	x->input_waits = false;
	if (!ta_result(t, &x->input, 1, &pk))
		return;
	mp_key_bool(&pk, "closed", closed);
	ta_result_end(t, &x->input);
}

static void forget(struct ta *t, struct ta_exec *x)
{
	for (int i = 0; i < 3; i++)
		close_stream(t, x, i);
	buf_free(&x->in);
	buf_free(&x->out[0]);
	buf_free(&x->out[1]);
	x->used = false;
}

static void pack_result(struct ta_exec *x, msgpack_packer *pk)
{
	bool by_signal = WIFSIGNALED(x->status);

	mp_key_u64(pk, "exit",
		by_signal ? 128U + (unsigned)WTERMSIG(x->status)
			  : (unsigned)WEXITSTATUS(x->status));
	mp_key_u64(pk, "signal", by_signal ? (unsigned)WTERMSIG(x->status) : 0);
	mp_key_bool(pk, "timed_out", x->timed_out);
	if (x->stream)
		return;
	mp_str(pk, "stdout");
	mp_bin(pk, buf_data(&x->out[0]), x->out[0].len);
	mp_str(pk, "stderr");
	mp_bin(pk, buf_data(&x->out[1]), x->out[1].len);
	mp_key_bool(pk, "truncated", x->truncated);
}

static void finish(struct ta *t, struct ta_exec *x)
{
	struct ta_req q = x->req;
	msgpack_packer pk;
	bool wanted;

	input_done(t, x, true);
	wanted = ta_result(t, &q, x->stream ? 3 : 6, &pk);
	if (wanted)
		pack_result(x, &pk);
	forget(t, x);
	if (wanted)
		ta_result_end(t, &q);
}

/* ---- its streams ---- */

/* Have the loop watch stream i, or not. */
static void watch(struct ta *t, struct ta_exec *x, int i, bool on)
{
	union ev_ref ref = {.type = TA_EV_EXEC,
		.index = (uint32_t)(x - t->exec) << 2 | (uint32_t)i};

	if (x->fd[i] < 0 || on == x->watched[i])
		return;
	if (!on)
		loop_del(&t->loop, x->fd[i]);
	else if (loop_add(&t->loop, x->fd[i], i == TA_IN ? EPOLLOUT : EPOLLIN,
			 ref))
		return;
	x->watched[i] = on;
}

static void got_output(
	struct ta *t, struct ta_exec *x, int i, const uint8_t *p, size_t n)
{
	struct buf *b = &x->out[i - TA_OUT];
	size_t room = (size_t)(TA_MAX_OUTPUT - b->len);
	msgpack_packer pk;

	if (!x->stream) {
		if (n > room)
			x->truncated = true;
		if (buf_append(b, p, n < room ? n : room))
			x->truncated = true;
		return;
	}
	if (!ta_notify(t, &x->req, "output", 3, &pk))
		return;
	mp_key_u64(&pk, "id", x->req.id);
	mp_key_u64(&pk, "stream", (unsigned)i);
	mp_str(&pk, "data");
	mp_bin(&pk, p, n);
	/* May end the connection and with it the command. */
	ta_result_end(t, &x->req);
}

/* Read once. False when there is nothing to be read (now, or for ever). */
static bool read_output(struct ta *t, struct ta_exec *x, int i)
{
	uint8_t chunk[TA_PIPE_CHUNK];
	ssize_t n;

	if (!x->used || x->fd[i] < 0)
		return false;
	n = ta_pipe_read(x->fd[i], chunk, sizeof(chunk));
	if (n > 0) {
		got_output(t, x, i, chunk, (size_t)n);
		return x->used;
	}
	if (n != -EAGAIN)
		close_stream(t, x, i);
	return false;
}

static void write_input(struct ta *t, struct ta_exec *x)
{
	if (x->fd[TA_IN] < 0)
		return;
	if (ta_pipe_write(x->fd[TA_IN], &x->in)) {
		/* The command does not want it. */
		close_stream(t, x, TA_IN);
		buf_free(&x->in);
		input_done(t, x, true);
		return;
	}
	if (!x->in.len && !x->in_open) {
		close_stream(t, x, TA_IN);
		input_done(t, x, false);
		return;
	}
	watch(t, x, TA_IN, x->in.len > 0);
	if (x->in.len <= STDIN_ROOM)
		input_done(t, x, false);
}

void ta_exec_event(struct ta *t, uint32_t index, uint32_t events)
{
	struct ta_exec *x = &t->exec[index >> 2];
	int i = (int)(index & 3);

	(void)events;
	if (!x->used)
		return;
	if (i == TA_IN) {
		write_input(t, x);
	} else if (x->stream && ta_backlog(t, &x->req) > BACKLOG_MAX) {
		watch(t, x, i, false);
	} else {
		(void)read_output(t, x, i);
	}
}

void ta_exec_room(struct ta *t, const struct ta_conn *c)
{
	for (unsigned i = 0; i < TA_EXECS; i++) {
		struct ta_exec *x = &t->exec[i];

		if (x->used && ta_conn_of(t, &x->req) == c) {
			watch(t, x, TA_OUT, true);
			watch(t, x, TA_ERR, true);
		}
	}
}

bool ta_exec_reaped(struct ta *t, pid_t pid, int status)
{
	for (unsigned i = 0; i < TA_EXECS; i++) {
		struct ta_exec *x = &t->exec[i];

		if (!x->used || x->pid != pid)
			continue;
		x->pid = 0;
		x->status = status;
		/* A pipe holds 1 MiB at most: what the command itself wrote is
		 * read, a survivor that goes on writing is left. */
		for (int s = TA_OUT; s <= TA_ERR; s++) {
			for (int n = 0; n < 32 && read_output(t, x, s);)
				n++;
		}
		if (x->used)
			finish(t, x);
		return true;
	}
	return false;
}

/* ---- requests ---- */

static struct ta_exec *free_slot(struct ta *t)
{
	for (unsigned i = 0; i < TA_EXECS; i++) {
		if (!t->exec[i].used)
			return &t->exec[i];
	}
	return NULL;
}

static int spawn(struct ta_exec *x, const msgpack_object *params,
	const void *input, size_t n, struct err *e)
{
	struct strings argv = {0}, env = {0};
	char cwd[4096];
	int r = get_argv(params, &argv, e);

	if (!r)
		r = get_env(params, &env, e);
	if (!r)
		r = ta_get_text(params, "cwd", cwd, sizeof(cwd), e);
	if (!r && buf_append(&x->in, input, n))
		r = err_set(e, -ENOMEM, "no memory for stdin");
	if (!r) {
		const struct ta_spawn s = {
			.argv = argv.v, .env = env.v, .cwd = cwd, .out_fd = -1};
		pid_t pid = ta_spawn(&s, x->fd, e);

		r = pid < 0 ? (int)pid : 0;
		x->pid = r ? 0 : pid;
	}
	strings_free(&argv);
	strings_free(&env);
	return r;
}

int ta_exec_start(struct ta *t, const struct ta_req *q,
	const msgpack_object *params, struct err *e)
{
	struct ta_exec *x = free_slot(t);
	uint64_t timeout_ms = 0;
	const void *input = NULL;
	size_t n = 0;
	int r;

	if (!x)
		return err_set(e, -EBUSY, "%d commands run already", TA_EXECS);
	*x = (struct ta_exec){.req = *q, .fd = {-1, -1, -1}};
	r = ta_get_u64(params, "timeout_ms", UINT32_MAX, &timeout_ms, e);
	if (!r)
		r = ta_get_bool(params, "stream", &x->stream, e);
	if (!r)
		r = ta_get_bool(params, "stdin_open", &x->in_open, e);
	if (!r)
		r = ta_get_bytes(params, "stdin", &input, &n, e);
	if (!r)
		r = spawn(x, params, input, n, e);
	if (r) {
		buf_free(&x->in);
		return r;
	}
	if (timeout_ms)
		x->deadline = now_ns() + timeout_ms * 1000000ULL;
	x->used = true;
	watch(t, x, TA_OUT, true);
	watch(t, x, TA_ERR, true);
	write_input(t, x);
	return 0;
}

/* The command that "id" on the same connection names. */
static struct ta_exec *find(struct ta *t, const struct ta_req *q,
	const msgpack_object *params, struct err *e)
{
	uint64_t id = UINT64_MAX;

	if (ta_get_u64(params, "id", UINT64_MAX, &id, e))
		return NULL;
	for (unsigned i = 0; i < TA_EXECS; i++) {
		struct ta_exec *x = &t->exec[i];

		if (x->used && x->req.conn == q->conn &&
			x->req.serial == q->serial && x->req.id == id)
			return x;
	}
	err_set(e, -ENOENT, "no command runs for this id");
	return NULL;
}

int ta_exec_input(struct ta *t, const struct ta_req *q,
	const msgpack_object *params, struct err *e)
{
	struct ta_exec *x = find(t, q, params, e);
	bool eof = false;
	const void *p = NULL;
	size_t n = 0;
	int r;

	if (!x)
		return e->code;
	r = ta_get_bytes(params, "data", &p, &n, e);
	if (!r)
		r = ta_get_bool(params, "eof", &eof, e);
	if (r)
		return r;
	if (x->input_waits)
		return err_set(e, -EBUSY,
			"the last input of this command has not been "
			"acknowledged");
	x->input = *q;
	x->input_waits = true;
	if (x->fd[TA_IN] < 0 || !x->in_open) {
		input_done(t, x, true);
		return 0;
	}
	if (buf_append(&x->in, p, n)) {
		x->input_waits = false;
		return err_set(e, -ENOMEM, "no memory for stdin");
	}
	x->in_open = !eof;
	write_input(t, x);
	return 0;
}

/* A command is the leader of its own session and group. */
static void kill_group(const struct ta_exec *x, int sig)
{
	if (x->pid && kill(-x->pid, sig) && errno == ESRCH)
		(void)kill(x->pid, sig);
}

int ta_exec_signal(struct ta *t, const struct ta_req *q,
	const msgpack_object *params, struct err *e)
{
	struct ta_exec *x = find(t, q, params, e);
	uint64_t sig = SIGTERM;
	msgpack_packer pk;

	if (!x)
		return e->code;
	if (ta_get_u64(params, "signal", 64, &sig, e))
		return e->code;
	kill_group(x, (int)sig);
	if (ta_result(t, q, 0, &pk))
		ta_result_end(t, q);
	return 0;
}

void ta_exec_conn_gone(struct ta *t, const struct ta_conn *c)
{
	for (unsigned i = 0; i < TA_EXECS; i++) {
		struct ta_exec *x = &t->exec[i];

		if (!x->used || x->req.conn != (uint32_t)(c - t->conn) ||
			x->req.serial != c->serial)
			continue;
		/* It is reaped as nobody's child. */
		kill_group(x, SIGKILL);
		forget(t, x);
	}
}

uint64_t ta_exec_deadline(const struct ta *t)
{
	uint64_t at = 0;

	for (unsigned i = 0; i < TA_EXECS; i++) {
		const struct ta_exec *x = &t->exec[i];

		if (x->used && x->deadline && (!at || x->deadline < at))
			at = x->deadline;
	}
	return at;
}

void ta_exec_tick(struct ta *t, uint64_t now)
{
	for (unsigned i = 0; i < TA_EXECS; i++) {
		struct ta_exec *x = &t->exec[i];

		if (!x->used || !x->deadline || x->deadline > now)
			continue;
		x->deadline = 0;
		x->timed_out = true;
		kill_group(x, SIGKILL);
	}
}

void ta_exec_fini(struct ta *t)
{
	for (unsigned i = 0; i < TA_EXECS; i++) {
		if (t->exec[i].used)
			forget(t, &t->exec[i]);
	}
}
