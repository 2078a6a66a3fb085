/* What the handler says: its answers on stdout, its last words on stderr. */
#include "core/guest/linux/handler.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

/* ---- its stdout ---- */

static void answer_invoke(struct ta *t, bool ok, const uint8_t *p, size_t n)
{
	struct ta_handler *h = &t->h;
	struct ta_invoke *v = h->now;
	struct err e = {0};
	msgpack_packer pk;

	h->now = NULL;
	h->state = TA_H_IDLE;
	if (!ok) {
		err_set(&e, -EIO, "%.*s", (int)min_u64(n, sizeof(e.msg) - 1),
			n ? (const char *)p : "");
		ta_fail(t, &v->req, &e);
	} else if (ta_result(t, &v->req, 1, &pk)) {
		mp_str(&pk, "payload");
		mp_bin(&pk, p, n);
		ta_result_end(t, &v->req);
	}
	ta_invoke_free(v);
}

/* One complete exchange. NULL, or what is wrong. */
static const char *message(
	struct ta *t, const char *word, const uint8_t *p, size_t n)
{
	struct ta_handler *h = &t->h;
	bool ok = !strcmp(word, "ok"), error = !strcmp(word, "error");

	if (!strcmp(word, "ready") && h->state == TA_H_STARTING) {
		h->state = TA_H_IDLE;
		h->failures = 0;
		ta_handler_tell_waiters(t);
	} else if ((ok || error) && h->state == TA_H_BUSY) {
		answer_invoke(t, ok, p, n);
	} else if ((ok || error) && h->state == TA_H_IDENTITY) {
		h->state = TA_H_IDLE;
		ta_handler_end_identity(t);
	} else {
		return "spoke out of turn";
	}
	return NULL;
}

/* "WORD LENGTH\n" at the start of out: its length, 0: more is needed, -1. */
static int head(const struct buf *out, char word[8], size_t *n)
{
	const char *p = (const char *)buf_data(out), *end;
	size_t len = (size_t)min_u64(out->len, TA_HANDLER_HEAD), i = 0;
	uint64_t v = 0;

	end = len ? memchr(p, '\n', len) : NULL;
	if (!end)
		return len < TA_HANDLER_HEAD ? 0 : -1;
	while (p + i < end && i < 7 && islower((unsigned char)p[i])) {
		word[i] = p[i];
		i++;
	}
	word[i] = '\0';
	if (p[i] != ' ' || p + i + 1 == end)
		return -1;
	for (i++; p + i < end; i++) {
		if (!isdigit((unsigned char)p[i]))
			return -1;
		v = v * 10 + (unsigned)(p[i] - '0');
		if (v > TA_MAX_PAYLOAD)
			return -1;
	}
	*n = (size_t)v;
	return (int)i + 1;
}

static void take_messages(struct ta *t)
{
	struct ta_handler *h = &t->h;

	while (h->out.len) {
		const char *wrong = NULL;
		char word[8];
		size_t n = 0;
		int len = head(&h->out, word, &n);

		/* Nobody has asked it anything. */
		if (h->state == TA_H_IDLE) {
			ta_handler_failed(t, "spoke out of turn");
			return;
		}
		if (!len || (len > 0 && h->out.len < (size_t)len + n))
			return;
		if (len > 0)
			wrong = message(t, word, buf_data(&h->out) + len, n);
		if (len < 0)
			wrong = "wrote something on its stdout that is no "
				"answer, or one above 6 MiB";
		if (wrong) {
			ta_handler_failed(t, wrong);
			return;
		}
		if (h->out.len)
			buf_consume(&h->out, (size_t)len + n);
	}
}

void ta_handler_stdout(struct ta *t)
{
	struct ta_handler *h = &t->h;
	uint8_t chunk[TA_PIPE_CHUNK];
	ssize_t n = ta_pipe_read(h->fd[TA_OUT], chunk, sizeof(chunk));

	if (n == -EAGAIN)
		return;
	if (n <= 0) {
		/* It ends, or its time will be over. */
		loop_del(&t->loop, h->fd[TA_OUT]);
		(void)close(h->fd[TA_OUT]);
		h->fd[TA_OUT] = -1;
		return;
	}
	if (buf_append(&h->out, chunk, (size_t)n)) {
		ta_handler_failed(t, "wrote more than there is memory");
		return;
	}
	take_messages(t);
	ta_handler_next(t);
}

/* Its stderr goes on to ours; the last line is kept. */
bool ta_handler_stderr(struct ta *t)
{
	struct ta_handler *h = &t->h;
	char chunk[4096];
	ssize_t n = ta_pipe_read(h->fd[TA_ERR], chunk, sizeof(chunk));
	ssize_t end, begin;

	if (n == -EAGAIN)
		return false;
	if (n <= 0) {
		loop_del(&t->loop, h->fd[TA_ERR]);
		(void)close(h->fd[TA_ERR]);
		h->fd[TA_ERR] = -1;
		return false;
	}
	/* A log that is full must not stop the agent. */
	(void)!write(STDERR_FILENO, chunk, (size_t)n);
	for (end = n; end > 0 && isspace((unsigned char)chunk[end - 1]);)
		end--;
	for (begin = end; begin > 0 && chunk[begin - 1] != '\n';)
		begin--;
	if (end > begin)
		(void)snprintf(h->said, sizeof(h->said), "%.*s",
			(int)(end - begin), chunk + begin);
	return true;
}

void ta_handler_event(struct ta *t, uint32_t stream, uint32_t events)
{
	(void)events;
	if (stream > TA_ERR || t->h.fd[stream] < 0)
		return;
	if (stream == TA_IN)
		ta_handler_push(t);
	else if (stream == TA_OUT)
		ta_handler_stdout(t);
	else
		(void)ta_handler_stderr(t);
}
