/*
 * How it works: bytes are read into one growing buffer. mp_check() says whether
 * a whole message is there, without allocating; only then is it copied into an
 * answer of its own (so that it may outlive the buffer) and unpacked.
 * Notifications go to the callback at once, answers into a list by age.
 *
 * Waiting: where the daemon runs on another, idle CPU, waking it and being
 * woken takes longer than a short call itself. Sleeps that end after 20 to
 * 100 us look like that: then the next waits look for the answer a while before
 * they sleep. When that is in vain, because the call is a long one or the
 * daemon needs this very CPU, it is left for some time. Shorter sleeps mean
 * that both share a CPU, and longer ones that there is nothing to gain.
 */
#include "api/client/client.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

static const struct mp_limits answer_limits = {
	.max_depth = 16,
	.max_elements = 4 * 1024 * 1024,
};

enum {
	RPC_ANSWER = 1,
	RPC_NOTIFY = 2
};

static void answer_free(struct answer *a)
{
	msgpack_unpacked_destroy(&a->msg);
	free(a);
}

static int bad_answer(struct thaw *t, struct thaw_error *e, const char *what)
{
	return client_break(t, e, THAW_PROTOCOL,
		"the daemon's answer makes no sense (%s): is it thawd that "
		"listens there?",
		what);
}

static bool is_uint(const msgpack_object *o, uint64_t max)
{
	return o->type == MSGPACK_OBJECT_POSITIVE_INTEGER && o->via.u64 <= max;
}

static int take_notify(
	struct thaw *t, const msgpack_object_array *m, struct thaw_error *e)
{
	const msgpack_object *params;
	char name[64];

	if (m->size != 3 || m->ptr[1].type != MSGPACK_OBJECT_STR ||
		m->ptr[1].via.str.size >= sizeof(name) ||
		m->ptr[2].type != MSGPACK_OBJECT_ARRAY)
		return bad_answer(t, e, "notification");
	memcpy(name, m->ptr[1].via.str.ptr, m->ptr[1].via.str.size);
	name[m->ptr[1].via.str.size] = 0;
	params = m->ptr[2].via.array.size ? m->ptr[2].via.array.ptr : NULL;
	if (t->notify && params)
		t->notify(t->notify_arg, name, params);
	return THAW_OK;
}

/* An error without an id is about what we sent: nothing more will come. */
static int take_refusal(
	struct thaw *t, const msgpack_object *err, struct thaw_error *e)
{
	char text[400];

	if (thaw_get_str(err, "message", text, sizeof(text)))
		return bad_answer(t, e, "error without an id");
	return client_break(t, e, THAW_PROTOCOL,
		"the daemon does not understand this client: %s", text);
}

/* Sort one message in: *keep is set when it goes into the list. */
static int take_message(
	struct thaw *t, struct answer *a, bool *keep, struct thaw_error *e)
{
	const msgpack_object *o = &a->msg.data;
	const msgpack_object_array *m = &o->via.array;

	*keep = false;
	if (o->type != MSGPACK_OBJECT_ARRAY || m->size < 3 ||
		!is_uint(&m->ptr[0], RPC_NOTIFY))
		return bad_answer(t, e, "not msgpack-rpc");
	if (m->ptr[0].via.u64 == RPC_NOTIFY)
		return take_notify(t, m, e);
	if (m->ptr[0].via.u64 != RPC_ANSWER || m->size != 4)
		return bad_answer(t, e, "not an answer");
	if (m->ptr[1].type == MSGPACK_OBJECT_NIL)
		return take_refusal(t, &m->ptr[2], e);
	if (!is_uint(&m->ptr[1], UINT32_MAX))
		return bad_answer(t, e, "id");
	a->id = (uint32_t)m->ptr[1].via.u64;
	*keep = true;
	return THAW_OK;
}

static int file_message(
	struct thaw *t, const uint8_t *bytes, size_t len, struct thaw_error *e)
{
	struct answer *a = malloc(sizeof(*a) + len);
	bool keep = false;
	struct err err;
	int rc;

	if (!a)
		return client_break(t, e, THAW_INTERNAL, "out of memory");
	a->next = NULL;
	a->id = 0;
	a->len = len;
	memcpy(a->bytes, bytes, len);
	if (mp_unpack(a->bytes, len, &answer_limits, &a->msg, &err))
		rc = bad_answer(t, e, err.msg);
	else
		rc = take_message(t, a, &keep, e);
	if (!keep) {
		answer_free(a);
		return rc;
	}
	*t->tail = a;
	t->tail = &a->next;
	t->nanswers++;
	return THAW_OK;
}

/* Every complete message in the buffer. */
static int file_all(struct thaw *t, struct thaw_error *e)
{
	while (t->rx_pos < t->rx_len) {
		int64_t n = mp_check(t->rx + t->rx_pos, t->rx_len - t->rx_pos,
			CLIENT_MAX_ANSWER, &answer_limits);
		int rc;

		if (n == 0)
			return THAW_OK;
		if (n < 0)
			return bad_answer(
				t, e, n == -E2BIG ? "too long" : "not msgpack");
		rc = file_message(t, t->rx + t->rx_pos, (size_t)n, e);
		t->rx_pos += (size_t)n;
		if (rc)
			return rc;
	}
	t->rx_pos = t->rx_len = 0;
	return THAW_OK;
}

/* Room for more: move the rest to the front, then grow. */
static int rx_room(struct thaw *t, struct thaw_error *e)
{
	size_t cap = t->rx_cap ? t->rx_cap * 2 : 64 * KIB;
	uint8_t *p;

	if (t->rx_pos) {
		memmove(t->rx, t->rx + t->rx_pos, t->rx_len - t->rx_pos);
		t->rx_len -= t->rx_pos;
		t->rx_pos = 0;
	}
	if (t->rx_cap - t->rx_len >= 16 * KIB)
		return THAW_OK;
	p = realloc(t->rx, cap);
	if (!p)
		return client_break(t, e, THAW_INTERNAL, "out of memory");
	t->rx = p;
	t->rx_cap = cap;
	return THAW_OK;
}

int client_receive(struct thaw *t, bool blocking, struct thaw_error *e)
{
	int rc = rx_room(t, e);
	ssize_t n;

	if (rc)
		return rc;
	n = recv(t->fd, t->rx + t->rx_len, t->rx_cap - t->rx_len,
		blocking ? 0 : MSG_DONTWAIT);
	if (n < 0 && (errno == EINTR || errno == EAGAIN))
		return THAW_OK;
	if (n < 0)
		return client_break(t, e, THAW_CLOSED,
			"the connection to the daemon broke: %s",
			strerror(errno));
	if (n == 0)
		return client_break(
			t, e, THAW_CLOSED, "the daemon closed the connection");
	t->rx_len += (size_t)n;
	return file_all(t, e);
}

/* The oldest answer, or with id the one of that request. */
static struct answer *take_answer(struct thaw *t, uint32_t id)
{
	for (struct answer **pp = &t->head; *pp; pp = &(*pp)->next) {
		struct answer *a = *pp;

		if (id && a->id != id)
			continue;
		*pp = a->next;
		if (!a->next)
			t->tail = pp;
		t->nanswers--;
		return a;
	}
	return NULL;
}

static enum thaw_code code_by_name(const msgpack_object *name)
{
	for (int i = THAW_INVALID; name && i <= THAW_INTERNAL; i++) {
		if (mp_str_eq(name, thaw_code_name((enum thaw_code)i)))
			return (enum thaw_code)i;
	}
	return THAW_INTERNAL;
}

/* Hand an answer over; it is freed here unless the result keeps it. */
static int deliver(
	struct answer *a, struct thaw_result *r, struct thaw_error *e)
{
	const msgpack_object *m = a->msg.data.via.array.ptr;
	enum thaw_code code;
	char text[500];

	if (m[2].type == MSGPACK_OBJECT_NIL) {
		r->value = &m[3];
		r->mem_ = a;
		return THAW_OK;
	}
	code = code_by_name(thaw_get(&m[2], "code"));
	if (thaw_get_str(&m[2], "message", text, sizeof(text)))
		(void)client_error(e, code, "%s", thaw_code_name(code));
	else
		(void)client_error(e, code, "%s", text);
	if (e)
		(void)thaw_get_str(
			&m[2], "detail", e->detail, sizeof(e->detail));
	answer_free(a);
	return (int)code;
}

#define SPIN_NS      60000
#define SPIN_PAUSE   16
#define SLEEP_MIN_NS 20000
#define SLEEP_MAX_NS 100000

static int receive_spinning(struct thaw *t, struct thaw_error *e)
{
	uint64_t end = now_ns() + SPIN_NS;
	int rc;

	do {
		rc = client_receive(t, false, e);
	} while (!rc && !t->head && now_ns() < end);
	if (!t->head)
		t->spin = -SPIN_PAUSE;
	return rc;
}

static int receive_sleeping(struct thaw *t, struct thaw_error *e)
{
	uint64_t start = now_ns(), took;
	int rc = client_receive(t, true, e);

	took = now_ns() - start;
	if (t->spin < 0)
		t->spin++;
	else if (t->head && took >= SLEEP_MIN_NS && took <= SLEEP_MAX_NS)
		t->spin = 1;
	return rc;
}

static int receive_wait(struct thaw *t, struct thaw_error *e)
{
	return t->spin > 0 ? receive_spinning(t, e) : receive_sleeping(t, e);
}

static int wait_answer(struct thaw *t, uint32_t want, int timeout_ms,
	struct answer **out, struct thaw_error *e)
{
	uint64_t deadline = 0;

	if (timeout_ms >= 0)
		deadline = now_ns() + (uint64_t)timeout_ms * 1000000 + 1;
	while (!(*out = take_answer(t, want))) {
		short got = 0;
		int rc = (int)t->broken.code;

		if (rc && e)
			*e = t->broken;
		if (!rc && deadline)
			rc = client_poll(t, POLLIN, deadline, &got, e);
		if (!rc && t->interrupt && *t->interrupt)
			rc = client_error(e, THAW_INTERRUPTED, "interrupted");
		if (!rc)
			rc = deadline ? client_receive(t, false, e)
				      : receive_wait(t, e);
		/* A break after good answers must not hide them. */
		if (rc && !(*out = take_answer(t, want)))
			return rc;
		if (*out)
			break;
	}
	return THAW_OK;
}

int thaw_wait(struct thaw *t, uint32_t id, int timeout_ms,
	struct thaw_result *r, struct thaw_error *e)
{
	struct answer *a;
	int rc;

	*r = (struct thaw_result){0};
	rc = wait_answer(t, id, timeout_ms, &a, e);
	return rc ? rc : deliver(a, r, e);
}

int thaw_next(struct thaw *t, int timeout_ms, uint32_t *id,
	struct thaw_result *r, struct thaw_error *e)
{
	struct answer *a;
	int rc;

	*r = (struct thaw_result){0};
	*id = 0;
	rc = wait_answer(t, 0, timeout_ms, &a, e);
	if (rc)
		return rc;
	*id = a->id;
	return deliver(a, r, e);
}

void thaw_result_free(struct thaw_result *r)
{
	if (r->mem_)
		answer_free(r->mem_);
	*r = (struct thaw_result){0};
}
