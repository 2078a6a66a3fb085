/*
 * The handler: one process that answers invokes, kept warm between them. It
 * speaks on its stdin and stdout, one exchange after the other:
 *
 *   handler: "ready 0\n"                     once, when it has warmed up
 *   agent:   "invoke LENGTH\n" and the bytes of the request
 *   handler: "ok LENGTH\n" and the answer, or "error LENGTH\n" and a text
 *   agent:   "identity LENGTH\n" and lines "hostname ...", "machine_id ...",
 *            "boot_id ..."                   the machine is another one now
 *   handler: "ok 0\n"
 *
 * A handler that ends, breaks these rules or does not answer in time is killed
 * with all of its session, what it was to answer is answered with the reason,
 * and it is started again: at once, then after growing pauses.
 */
#include "core/guest/linux/handler.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#define SECOND      1000000000ULL
#define START_NS    (120 * SECOND)
#define IDENTITY_NS (5 * SECOND)
/* For an invoke that says no limit. */
#define INVOKE_MS 60000
/* From so many failed starts in a row on it counts as broken. */
#define BROKEN    3
#define PAUSE_NS  (SECOND / 10)
#define PAUSE_MAX (5 * SECOND)

static void start(struct ta *t);

static const char *state_name(const struct ta_handler *h)
{
	switch (h->state) {
	case TA_H_NONE:
		return "none";
	case TA_H_STARTING:
		return "starting";
	case TA_H_IDLE:
	case TA_H_IDENTITY:
		return "ready";
	case TA_H_BUSY:
		return "busy";
	case TA_H_DEAD:
		return "dead";
	default:
		return "unknown";
	}
}

static bool broken(const struct ta_handler *h)
{
	return h->failures >= BROKEN;
}

static void broken_error(const struct ta_handler *h, struct err *e)
{
	err_set(e, -EIO, "the handler %s does not start: it %s", h->path,
		h->last);
}

/* ---- ping ---- */

static void pong(struct ta *t, const struct ta_req *q)
{
	msgpack_packer pk;

	if (!ta_result(t, q, 4, &pk))
		return;
	mp_key_str(&pk, "agent", "linux");
	mp_key_str(&pk, "version", TA_VERSION);
	mp_key_str(&pk, "handler", state_name(&t->h));
	mp_key_str(&pk, "hostname", t->hostname);
	ta_result_end(t, q);
}

int ta_ping(struct ta *t, const struct ta_req *q, const msgpack_object *params,
	struct err *e)
{
	struct ta_handler *h = &t->h;
	bool ready = false;
	int r = ta_get_bool(params, "ready", &ready, e);

	if (r)
		return r;
	if (ready && (h->state == TA_H_STARTING || h->state == TA_H_DEAD)) {
		if (broken(h)) {
			broken_error(h, e);
			return e->code;
		}
		if (h->nwait == TA_WAITERS)
			return err_set(e, -EBUSY,
				"%d requests wait for the handler already",
				TA_WAITERS);
		h->wait[h->nwait++] = *q;
		return 0;
	}
	pong(t, q);
	return 0;
}

/* Those who wait for "ready" learn how it went. */
void ta_handler_tell_waiters(struct ta *t)
{
	struct ta_handler *h = &t->h;
	struct err e = {0};
	unsigned n = h->nwait;

	h->nwait = 0;
	for (unsigned i = 0; i < n; i++) {
		if (!broken(h)) {
			pong(t, &h->wait[i]);
			continue;
		}
		broken_error(h, &e);
		ta_fail(t, &h->wait[i], &e);
	}
}

/* ---- the queue ---- */

void ta_invoke_free(struct ta_invoke *v)
{
	if (v)
		buf_free(&v->payload);
	free(v);
}

static struct ta_invoke *pop(struct ta_handler *h)
{
	struct ta_invoke *v = h->queue;

	if (v) {
		h->queue = v->next;
		h->nqueue--;
	}
	return v;
}

static void refuse_all(struct ta *t, const struct err *e)
{
	struct ta_invoke *v;

	while ((v = pop(&t->h))) {
		ta_fail(t, &v->req, e);
		ta_invoke_free(v);
	}
}

static int queue_up(struct ta_handler *h, struct ta_invoke *v, const void *p,
	size_t n, struct err *e)
{
	struct ta_invoke **end = &h->queue;
	char head[TA_HANDLER_HEAD];
	int len = snprintf(head, sizeof(head), "invoke %zu\n", n);

	if (buf_append(&v->payload, head, (size_t)len) ||
		buf_append(&v->payload, p, n))
		return err_set(e, -ENOMEM, "no memory for the request");
	while (*end)
		end = &(*end)->next;
	*end = v;
	h->nqueue++;
	return 0;
}

int ta_invoke(struct ta *t, const struct ta_req *q,
	const msgpack_object *params, struct err *e)
{
	struct ta_handler *h = &t->h;
	uint64_t ms = INVOKE_MS;
	struct ta_invoke *v;
	const void *p = NULL;
	size_t n = 0;
	int r = ta_get_bytes(params, "payload", &p, &n, e);

	if (!r)
		r = ta_get_u64(params, "timeout_ms", UINT32_MAX, &ms, e);
	if (r)
		return r;
	if (!p)
		return err_set(e, -EINVAL,
			"invoke needs a payload of type bin or str");
	if (h->state == TA_H_NONE)
		return err_set(e, -EOPNOTSUPP,
			"no handler is configured in the guest "
			"(/etc/thaw/handler)");
	if (broken(h)) {
		broken_error(h, e);
		return e->code;
	}
	if (h->nqueue >= TA_INVOKES)
		return err_set(e, -EBUSY, "%d requests wait for the handler",
			TA_INVOKES);
	v = calloc(1, sizeof(*v));
	if (!v)
		return err_set(e, -ENOMEM, "no memory for the request");
	v->req = *q;
	v->deadline = now_ns() + (ms ? ms : INVOKE_MS) * 1000000ULL;
	r = queue_up(h, v, p, n, e);
	if (r) {
		ta_invoke_free(v);
		return r;
	}
	ta_handler_next(t);
	return 0;
}

/* ---- the end of a handler ---- */

static void cut_off(struct ta *t)
{
	struct ta_handler *h = &t->h;

	for (int i = 0; i < 3; i++) {
		if (h->fd[i] >= 0 && (i != TA_IN || h->watched_in))
			loop_del(&t->loop, h->fd[i]);
	}
	h->watched_in = false;
	ta_close_pipes(h->fd);
	if (h->pid)
		(void)kill(-h->pid, SIGKILL);
	h->pid = 0;
	buf_free(&h->in);
	buf_free(&h->out);
}

void ta_handler_end_identity(struct ta *t)
{
	struct ta_req q = t->h.id_req;

	if (!t->h.id_waits)
		return;
	t->h.id_waits = false;
	ta_identity_done(t, &q);
}

/* It is gone, or will be: "it ...". */
void ta_handler_failed(struct ta *t, const char *why)
{
	struct ta_handler *h = &t->h;
	struct ta_invoke *v = h->now;
	bool was_ready = h->state != TA_H_STARTING && h->state != TA_H_DEAD;
	uint64_t pause = PAUSE_NS;
	struct err e = {0};

	(void)snprintf(h->last, sizeof(h->last), "%.90s%s%s", why,
		h->said[0] ? "; it said: " : "", h->said);
	cut_off(t);
	h->now = NULL;
	h->failures = was_ready ? 1 : h->failures + 1;
	for (unsigned i = 1; i < h->failures && pause < PAUSE_MAX; i++)
		pause *= 2;
	h->at = now_ns() + (was_ready ? 0 : min_u64(pause, PAUSE_MAX));
	h->state = TA_H_DEAD;
	if (v) {
		err_set(&e, -EIO, "the handler %s", h->last);
		ta_fail(t, &v->req, &e);
		ta_invoke_free(v);
	}
	/* One that starts from nothing has no old identity. */
	h->news = false;
	ta_handler_end_identity(t);
	if (broken(h)) {
		broken_error(h, &e);
		refuse_all(t, &e);
		ta_handler_tell_waiters(t);
	}
}

/* ---- its stdin ---- */

void ta_handler_push(struct ta *t)
{
	struct ta_handler *h = &t->h;
	union ev_ref ref = {.type = TA_EV_HANDLER, .index = TA_IN};

	if (h->fd[TA_IN] < 0)
		return;
	if (ta_pipe_write(h->fd[TA_IN], &h->in)) {
		/* Its end is seen elsewhere, with the reason. */
		buf_free(&h->in);
	}
	if (h->watched_in == (h->in.len > 0))
		return;
	h->watched_in = h->in.len > 0;
	if (!h->watched_in)
		loop_del(&t->loop, h->fd[TA_IN]);
	else if (loop_add(&t->loop, h->fd[TA_IN], EPOLLOUT, ref))
		ta_handler_failed(t, "could not be watched");
}

static void send_identity(struct ta *t)
{
	struct ta_handler *h = &t->h;
	char text[256], head[40];
	int n, len;

	n = snprintf(text, sizeof(text),
		"hostname %s\nmachine_id %s\nboot_id %s\n", t->hostname,
		t->machine_id, t->boot_id);
	len = snprintf(head, sizeof(head), "identity %d\n", n);
	h->news = false;
	h->state = TA_H_IDENTITY;
	h->id_deadline = now_ns() + IDENTITY_NS;
	if (buf_append(&h->in, head, (size_t)len) ||
		buf_append(&h->in, text, (size_t)n))
		ta_handler_failed(
			t, "could not be told of the identity (no memory)");
	else
		ta_handler_push(t);
}

/* Give an idle handler what waits. */
void ta_handler_next(struct ta *t)
{
	struct ta_handler *h = &t->h;
	struct ta_invoke *v;

	if (h->state != TA_H_IDLE)
		return;
	if (h->news) {
		send_identity(t);
		return;
	}
	while ((v = pop(h)) && !ta_conn_of(t, &v->req))
		ta_invoke_free(v);
	if (!v)
		return;
	h->now = v;
	h->state = TA_H_BUSY;
	h->in = v->payload;
	v->payload = (struct buf){0};
	ta_handler_push(t);
}

void ta_handler_identity(struct ta *t, const struct ta_req *q)
{
	struct ta_handler *h = &t->h;

	if (h->state != TA_H_IDLE) {
		/* Not there: it will start with it. Else before its next
		 * request. */
		h->news = h->state != TA_H_NONE && h->state != TA_H_DEAD;
		ta_identity_done(t, q);
		return;
	}
	h->id_req = *q;
	h->id_waits = true;
	send_identity(t);
}

/* ---- its life ---- */

static void start(struct ta *t)
{
	struct ta_handler *h = &t->h;
	char path[256];
	char *argv[] = {path, NULL};
	const struct ta_spawn s = {.argv = argv, .out_fd = -1};
	struct err e = {0};
	pid_t pid;
	int r = 0;

	(void)snprintf(path, sizeof(path), "%s", h->path);
	h->said[0] = '\0';
	h->state = TA_H_STARTING;
	h->at = now_ns() + START_NS;
	pid = ta_spawn(&s, h->fd, &e);
	if (pid < 0) {
		ta_handler_failed(t, e.msg);
		return;
	}
	h->pid = pid;
	for (uint32_t i = TA_OUT; i <= TA_ERR && !r; i++)
		r = loop_add(&t->loop, h->fd[i], EPOLLIN,
			(union ev_ref){.type = TA_EV_HANDLER, .index = i});
	if (r)
		ta_handler_failed(t, "could not be watched");
}

void ta_handler_start(struct ta *t, const char *path)
{
	t->h.path = path;
	start(t);
}

bool ta_handler_reaped(struct ta *t, pid_t pid, int status)
{
	struct ta_handler *h = &t->h;
	char how[100];

	if (!h->pid || h->pid != pid)
		return false;
	/* An answer that it wrote before its end counts. */
	if (h->fd[TA_OUT] >= 0 && h->state != TA_H_STARTING)
		ta_handler_stdout(t);
	if (h->pid != pid)
		return true;
	while (h->fd[TA_ERR] >= 0 && ta_handler_stderr(t)) {
	}
	ta_describe_status(status, how, sizeof(how));
	ta_handler_failed(t, how);
	return true;
}

uint64_t ta_handler_deadline(const struct ta *t)
{
	const struct ta_handler *h = &t->h;
	uint64_t at = 0;

	if (h->state == TA_H_STARTING || h->state == TA_H_DEAD)
		at = h->at;
	if (h->state == TA_H_IDENTITY)
		at = h->id_deadline;
	if (h->now)
		at = h->now->deadline;
	for (const struct ta_invoke *v = h->queue; v; v = v->next) {
		if (!at || v->deadline < at)
			at = v->deadline;
	}
	return at;
}

/* Invokes that waited too long. */
static void drop_late(struct ta *t, uint64_t now)
{
	struct ta_handler *h = &t->h;
	struct ta_invoke **p = &h->queue;
	struct err e = {0};

	err_set(&e, -ETIMEDOUT, "the handler (%s) did not come to it in time",
		state_name(h));
	while (*p) {
		struct ta_invoke *v = *p;

		if (v->deadline > now) {
			p = &v->next;
			continue;
		}
		*p = v->next;
		h->nqueue--;
		ta_fail(t, &v->req, &e);
		ta_invoke_free(v);
	}
}

void ta_handler_tick(struct ta *t, uint64_t now)
{
	struct ta_handler *h = &t->h;
	struct err e = {0};

	if (h->state == TA_H_NONE)
		return;
	if (h->now && h->now->deadline <= now) {
		struct ta_invoke *v = h->now;

		h->now = NULL;
		err_set(&e, -ETIMEDOUT,
			"the handler did not answer in time and was killed");
		ta_fail(t, &v->req, &e);
		ta_invoke_free(v);
		ta_handler_failed(t, "did not answer in time");
	} else if (h->state == TA_H_IDENTITY && h->id_deadline <= now) {
		ta_handler_failed(t, "did not answer to its new identity");
	} else if (h->state == TA_H_STARTING && h->at <= now) {
		ta_handler_failed(t, "did not say that it is ready");
	}
	if (h->queue)
		drop_late(t, now);
	if (h->state == TA_H_DEAD && h->at <= now)
		start(t);
	ta_handler_next(t);
}

void ta_handler_fini(struct ta *t)
{
	struct ta_invoke *v;

	while ((v = pop(&t->h)))
		ta_invoke_free(v);
	ta_invoke_free(t->h.now);
	t->h.now = NULL;
	if (t->h.state != TA_H_NONE)
		cut_off(t);
	t->h.state = TA_H_NONE;
}
