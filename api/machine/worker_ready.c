#include "api/machine/worker.h"

#include <errno.h>
#include <string.h>

/*
 * CTL_WAIT_READY: the guest counts as ready when its agent answers, when a
 * text appears on the console, or after a time. One wait at a time.
 */

static void answer(struct worker *w)
{
	struct ctl_msg m = {0};

	worker_reply(w, &w->wait.request, &m, NULL, NULL, 0);
	memset(&w->wait, 0, sizeof(w->wait));
}

static void refuse(struct worker *w, const struct err *e)
{
	worker_reply_error(w, &w->wait.request, e);
	memset(&w->wait, 0, sizeof(w->wait));
}

static void agent_answered(void *arg, int status, const msgpack_object *result,
	const struct err *e)
{
	struct worker *w = arg;

	(void)result;
	if (!w->wait.request.type)
		return;
	if (status)
		refuse(w, e);
	else
		answer(w);
}

static int ask_agent(struct worker *w, uint64_t timeout_ns, struct err *e)
{
	int r;

	if (!w->agent)
		return err_set(e, -EINVAL, "ready: agent needs a vsock device");
	/* A builder stays nobody: its clones get identities of their own. */
	if (w->role == CTL_ROLE_BUILDER)
		r = agent_ping(w->agent, timeout_ns, agent_answered, w);
	else
		r = agent_identity(
			w->agent, &w->id, timeout_ns, agent_answered, w);
	return r ? err_sys(e, r, "asking the agent") : 0;
}

void worker_wait_ready(struct worker *w, struct ctl_packet *p)
{
	const struct ctl_wait_ready *q = &p->msg.wait_ready;
	uint64_t now = now_ns();
	struct err e = {0};
	int r = 0;

	if (w->wait.request.type || !w->have_machine) {
		err_set(&e, -EBUSY, "already waiting");
		worker_reply_error(w, &p->msg, &e);
		return;
	}
	memset(&w->wait, 0, sizeof(w->wait));
	w->wait.request = p->msg;
	switch ((enum ctl_ready)q->kind) {
	case CTL_READY_AGENT:
		r = ask_agent(w, q->timeout_ms * 1000000ULL, &e);
		break;
	case CTL_READY_TEXT:
		if (!p->msg.len || p->msg.len >= WORKER_READY_TEXT)
			r = err_set(&e, -EINVAL, "ready: text of 1 to %d bytes",
				WORKER_READY_TEXT - 1);
		else
			memcpy(w->wait.text, p->payload, p->msg.len);
		w->wait.deadline = now + q->timeout_ms * 1000000ULL;
		break;
	case CTL_READY_AFTER:
		w->wait.at = now + q->after_ms * 1000000ULL;
		break;
	default:
		r = err_set(&e, -EINVAL, "ready: unknown kind %u", q->kind);
	}
	if (r)
		refuse(w, &e);
}

void worker_ready_console(struct worker *w, const char *p, size_t n)
{
	if (!w->wait.text[0])
		return;
	for (size_t i = 0; i < n; i++) {
		if (w->wait.nseen == sizeof(w->wait.seen) - 1) {
			/* Keep the half that a match may still begin in. */
			memmove(w->wait.seen, w->wait.seen + WORKER_READY_TEXT,
				w->wait.nseen - WORKER_READY_TEXT);
			w->wait.nseen -= WORKER_READY_TEXT;
		}
		w->wait.seen[w->wait.nseen++] = p[i] ? p[i] : ' ';
		w->wait.seen[w->wait.nseen] = 0;
		if (p[i] == w->wait.text[strlen(w->wait.text) - 1] &&
			strstr(w->wait.seen, w->wait.text)) {
			answer(w);
			return;
		}
	}
}

void worker_ready_tick(struct worker *w)
{
	uint64_t now;
	struct err e;

	if (!w->wait.at && !w->wait.deadline)
		return;
	now = now_ns();
	if (w->wait.at && now >= w->wait.at) {
		answer(w);
	} else if (w->wait.deadline && now >= w->wait.deadline) {
		err_set(&e, -ETIMEDOUT,
			"\"%.100s\" did not appear on the console in time",
			w->wait.text);
		refuse(w, &e);
	}
}
