/*
 * libthaw: the C client of thawd.
 *
 *	struct thaw *t;
 *	struct thaw_error e;
 *	struct thaw_result r;
 *
 *	if (thaw_connect(NULL, &t, &e))
 *		return complain(e.message);
 *	if (!thaw_invoke(t, "worker", "echo hello", 10, 0, &r, &e)) {
 *		const void *data;
 *		size_t len;
 *
 *		if (!thaw_get_data(r.value, "payload", &data, &len))
 *			use(data, len);
 *		thaw_result_free(&r);
 *	}
 *	thaw_close(t);
 *
 * Methods, parameters and results are those of docs/api.md. A request with
 * several parameters is packed with msgpack-c:
 *
 *	msgpack_packer *p = thaw_request(t, "clone", 2);
 *	thaw_pack_str(p, "template", "worker");
 *	thaw_pack_u64(p, "count", 100);
 *	rc = thaw_call(t, -1, &r, &e);
 *
 * Pipelining: thaw_send() instead of thaw_call() returns as soon as the request
 * is on its way; thaw_next() takes answers as they come, thaw_wait() one
 * of them. While sending, answers that arrive are read and kept, so that a
 * client with thousands of requests in flight cannot block against the daemon.
 *
 * Errors: functions return THAW_OK (0) or another enum thaw_code, and fill *e
 * (which may be NULL) with the same code and one line of text. After
 * THAW_PROTOCOL and THAW_CLOSED the connection is of no more use than to be
 * closed. Answers are checked for size, depth and form before anything is
 * allocated for them: a hostile daemon cannot do more than fail.
 *
 * Threads: a connection belongs to one thread at a time. There is no global
 * state; any number of connections may be open. SIGPIPE is never raised.
 */
#ifndef THAW_H
#define THAW_H

#include <signal.h>
#include <stddef.h>
#include <stdint.h>

#include <msgpack.h>

#ifdef __cplusplus
extern "C" {
#endif

#define THAW_API __attribute__((visibility("default")))

/* The first ten are the daemon's own codes, by the same names. */
enum thaw_code {
	THAW_OK,
	THAW_INVALID,
	THAW_NOT_FOUND,
	THAW_EXISTS,
	THAW_BUSY,
	THAW_DENIED,
	THAW_UNSUPPORTED,
	THAW_CORRUPT,
	THAW_TIMEOUT, /* the daemon's, or the time given to the call is over */
	THAW_EXHAUSTED,
	THAW_INTERNAL,
	THAW_CONNECT,     /* nobody listens on the socket */
	THAW_CLOSED,      /* the daemon closed the connection */
	THAW_PROTOCOL,    /* the daemon sent what is no answer */
	THAW_INTERRUPTED, /* see thaw_interrupt_on() */
	THAW_NCODES_
};

struct thaw_error {
	enum thaw_code code;
	char message[512]; /* one line, no newline at its end */
	char detail[16];   /* of the daemon's answer (api.md), or "" */
};

/* An answer. value lives as long as the result, strings inside it too. */
struct thaw_result {
	const msgpack_object *value;
	void *mem_; /* private */
};

struct thaw;

/* "invalid", "not_found", ...; never NULL. */
THAW_API const char *thaw_code_name(enum thaw_code code);

/* $THAW_SOCKET, else $XDG_RUNTIME_DIR/thaw.sock, else /run/thaw/thaw.sock.
 * Returns the length, or 0 when buf is too small. */
THAW_API size_t thaw_default_socket(char *buf, size_t size);

/* path NULL: the default socket. The descriptor is close-on-exec. */
THAW_API int thaw_connect(
	const char *path, struct thaw **out, struct thaw_error *e);
THAW_API void thaw_close(struct thaw *t);

/* For poll(): readable when thaw_next(t, 0, ...) may find something. Answers
 * that were read already do not show: see thaw_buffered(). */
THAW_API int thaw_fd(const struct thaw *t);
/* How many answers were received and not yet taken. */
THAW_API size_t thaw_buffered(const struct thaw *t);

/* Waiting ends with THAW_INTERRUPTED when a signal arrives and *flag is not 0.
 * Otherwise signals only make the wait go on. */
THAW_API void thaw_interrupt_on(
	struct thaw *t, const volatile sig_atomic_t *flag);

/* Called from inside the functions below for every notification. params is the
 * array's first element, valid during the call; the callback may not use t. */
typedef void thaw_notify_fn(
	void *arg, const char *method, const msgpack_object *params);
THAW_API void thaw_on_notify(struct thaw *t, thaw_notify_fn *fn, void *arg);

/*
 * Begin a request with nparams parameters: pack exactly that many pairs of key
 * and value into the packer returned, then thaw_call() or thaw_send(). One
 * request at a time is under construction; beginning another drops it.
 */
THAW_API msgpack_packer *thaw_request(
	struct thaw *t, const char *method, uint32_t nparams);
THAW_API void thaw_pack_str(
	msgpack_packer *p, const char *key, const char *value);
THAW_API void thaw_pack_u64(msgpack_packer *p, const char *key, uint64_t value);
THAW_API void thaw_pack_bool(msgpack_packer *p, const char *key, int value);
THAW_API void thaw_pack_data(
	msgpack_packer *p, const char *key, const void *data, size_t len);
/* Send fd along with the request and pack key: {"fd": index}. fd stays the
 * caller's and must stay open until the request is sent. At most
 * THAW_MAX_FDS; more make the send fail with THAW_INVALID. */
#define THAW_MAX_FDS 4
THAW_API void thaw_pack_fd(
	struct thaw *t, msgpack_packer *p, const char *key, int fd);

/* Send the request under construction; *id names its answer. */
THAW_API int thaw_send(struct thaw *t, uint32_t *id, struct thaw_error *e);

/* timeout_ms: -1 waits for ever, 0 does not wait. A request whose answer did
 * not come in time is still under way; its answer will turn up later. */
THAW_API int thaw_wait(struct thaw *t, uint32_t id, int timeout_ms,
	struct thaw_result *r, struct thaw_error *e);
/* The next answer, whichever it is. *id is set when one came, also when it is
 * an error of the daemon's (then r is empty); else it is 0, which is never the
 * id of a request. */
THAW_API int thaw_next(struct thaw *t, int timeout_ms, uint32_t *id,
	struct thaw_result *r, struct thaw_error *e);
/* thaw_send() and thaw_wait() in one. r may be NULL. */
THAW_API int thaw_call(struct thaw *t, int timeout_ms, struct thaw_result *r,
	struct thaw_error *e);
THAW_API void thaw_result_free(struct thaw_result *r);

/* The most used methods. timeout_ms 0: the daemon's default. */
THAW_API int thaw_invoke(struct thaw *t, const char *template_name,
	const void *payload, size_t len, uint32_t timeout_ms,
	struct thaw_result *r, struct thaw_error *e);
THAW_API int thaw_machine_invoke(struct thaw *t, const char *id,
	const void *payload, size_t len, uint32_t timeout_ms,
	struct thaw_result *r, struct thaw_error *e);
/* mode: "any", "pooled" or "fresh". */
THAW_API int thaw_clone(struct thaw *t, const char *template_name,
	uint32_t count, const char *mode, struct thaw_result *r,
	struct thaw_error *e);
THAW_API int thaw_machine_stop(
	struct thaw *t, const char *id, struct thaw_error *e);

/* A connection to a port in the guest of a running machine, on which
 * msgpack-rpc is spoken as with the daemon: THAW_AGENT_PORT is the agent's
 * (docs/linux.md). THAW_CONNECT when nobody listens there. */
#define THAW_AGENT_PORT 1024
THAW_API int thaw_machine_connect(struct thaw *t, const char *id, uint32_t port,
	int timeout_ms, struct thaw **out, struct thaw_error *e);

/* Reading results. A missing key or another type is -1 (or the default), and
 * maps may be NULL, so that lookups can be chained. */
THAW_API const msgpack_object *thaw_get(
	const msgpack_object *map, const char *key);
THAW_API uint64_t thaw_get_u64(
	const msgpack_object *map, const char *key, uint64_t missing);
/* Bytes of a str or bin; not terminated. */
THAW_API int thaw_get_data(const msgpack_object *map, const char *key,
	const void **data, size_t *len);
/* Copy a str into buf, terminated and cut to size; returns 0 when it was
 * there. buf is always terminated. */
THAW_API int thaw_get_str(
	const msgpack_object *map, const char *key, char *buf, size_t size);

#ifdef __cplusplus
}
#endif
#endif
