#include "api/daemon/helper.h"

#include "api/daemon/parents.h"
#include "api/daemon/spawn.h"
#include "api/daemon/store.h"
#include "core/log.h"

#include <errno.h>
#include <string.h>
#include <sys/wait.h>

#define INSPECT_MS  120000
#define MAX_HELPERS 32

static unsigned count(const struct daemon *d)
{
	unsigned n = 0;

	list_for_each(it, &d->helpers) n++;
	return n;
}

static struct helper *create(struct daemon *d, struct err *e)
{
	struct helper *h;

	if (count(d) >= MAX_HELPERS) {
		err_set(e, -EBUSY, "%d snapshots are being looked at",
			MAX_HELPERS);
		return NULL;
	}
	h = calloc(1, sizeof(*h));
	if (!h) {
		err_set(e, -ENOMEM, "no memory for a helper");
		return NULL;
	}
	proc_init(&h->p, PROC_HELPER);
	list_add(&d->helpers, &h->link);
	return h;
}

static void forget(struct daemon *d, struct helper *h)
{
	list_del(&h->link);
	daemon_bury(d, h);
}

void helper_cancel(struct daemon *d, struct helper *h)
{
	struct err e = {.code = -ECANCELED, .msg = "cancelled"};

	h->flattened = NULL;
	proc_kill(d, &h->p, &e);
	forget(d, h);
}

/* The first message's answer: a refusal comes as the death of the process. */
static void set_up(
	struct daemon *d, void *arg, struct ctl_packet *p, const struct err *e)
{
	(void)d;
	(void)arg;
	(void)p;
	(void)e;
}

static int ask(struct daemon *d, struct helper *h,
	const struct helper_question *q, struct err *e)
{
	struct ctl_msg setup = {.type = CTL_SETUP};
	size_t path_len = q->path ? strlen(q->path) : 0;
	struct ctl_msg m = {.type = CTL_INSPECT, .look = q->look};
	AUTO_FREE char *text = malloc(path_len + q->section.n + 1);
	struct ctl_fd fds[2] = {
		{q->fd, CTL_FD_SNAPSHOT, 0}, {q->set, CTL_FD_SET, 0}};
	int r;

	if (!text)
		return err_set(e, -ENOMEM, "no memory for a helper");
	if (path_len)
		memcpy(text, q->path, path_len);
	if (q->section.n)
		memcpy(text + path_len, q->section.p, q->section.n);
	m.len = (uint32_t)(path_len + q->section.n);
	m.look.path_len = (uint32_t)path_len;
	setup.setup.version = CTL_VERSION;
	setup.setup.role = CTL_ROLE_INSPECT;
	r = proc_call(d, &h->p,
		&(struct proc_request){
			.m = &setup, .timeout_ms = INSPECT_MS, .fn = set_up},
		e);
	if (r)
		return r;
	/* Reading all of a chain takes as long as the disk does. */
	return proc_call(d, &h->p,
		&(struct proc_request){.m = &m,
			.payload = text,
			.fds = fds,
			.nfds = q->set >= 0 ? 2 : 1,
			.timeout_ms = q->look.what == CTL_INSPECT_VERIFY
					      ? 0
					      : INSPECT_MS,
			.fn = q->fn,
			.arg = q->arg},
		e);
}

struct helper *helper_inspect(
	struct daemon *d, const struct helper_question *q, struct err *e)
{
	struct helper *h = create(d, e);
	int r;

	if (!h)
		return NULL;
	h->progress = q->progress;
	h->arg = q->arg;
	h->p.parents = parents_create(q->peer, q->path, q->fd);
	r = h->p.parents ? proc_spawn(d, &h->p, false, e)
			 : err_set(e, -ENOMEM, "no memory for a helper");
	if (!r)
		r = ask(d, h, q, e);
	if (!r)
		return h;
	helper_cancel(d, h);
	return NULL;
}

void helper_message(struct daemon *d, struct helper *h, struct ctl_packet *p)
{
	const struct ctl_progress *q = &p->msg.progress;

	if (p->msg.type != CTL_PROGRESS)
		log_debug("a helper sent control message %u", p->msg.type);
	else if (h->progress && q->done <= q->total)
		h->progress(d, h->arg, q->done, q->total);
}

struct helper *helper_copy(struct daemon *d, int from, int to, copied_fn *fn,
	void *arg, struct err *e)
{
	struct helper *h = create(d, e);

	if (!h)
		return NULL;
	h->copied = fn;
	h->arg = arg;
	if (proc_spawn_copy(d, &h->p, from, to, e)) {
		forget(d, h);
		return NULL;
	}
	return h;
}

static void flat(
	struct daemon *d, void *arg, struct ctl_packet *p, const struct err *e)
{
	struct helper *h = arg;
	flattened_fn *fn = h->flattened;

	/* Once; its end comes later and says nothing new. */
	h->flattened = NULL;
	if (fn)
		fn(d, h->arg, p && p->msg.setup_done.depth, p ? NULL : e);
}

struct helper *helper_flatten(struct daemon *d, const struct helper_files *f,
	flattened_fn *fn, void *arg, struct err *e)
{
	struct ctl_msg m = {.type = CTL_SETUP};
	struct ctl_fd fds[2] = {
		{f->from, CTL_FD_SNAPSHOT, 0}, {f->to, CTL_FD_OUTPUT, 0}};
	struct helper *h = create(d, e);
	int r;

	if (!h) {
		parents_free(f->parents);
		return NULL;
	}
	h->p.parents = f->parents;
	m.setup.version = CTL_VERSION;
	m.setup.role = CTL_ROLE_FLATTEN;
	r = proc_spawn(d, &h->p, false, e);
	if (!r)
		r = proc_call(d, &h->p,
			&(struct proc_request){.m = &m,
				.fds = fds,
				.nfds = 2,
				.fn = flat,
				.arg = h},
			e);
	if (r) {
		helper_cancel(d, h);
		return NULL;
	}
	h->flattened = fn;
	h->arg = arg;
	return h;
}

static void called(
	struct daemon *d, void *arg, struct ctl_packet *p, const struct err *e)
{
	struct helper *h = arg;
	call_fn *fn = h->called;

	h->called = NULL;
	if (fn)
		fn(d, h->arg, p, e);
}

struct helper *helper_call(
	struct daemon *d, const struct proc_request *q, struct err *e)
{
	struct proc_request mine = *q;
	struct helper *h = create(d, e);
	int r;

	if (!h)
		return NULL;
	mine.fn = called;
	mine.arg = h;
	r = proc_spawn(d, &h->p, false, e);
	if (!r)
		r = proc_call(d, &h->p, &mine, e);
	if (r) {
		helper_cancel(d, h);
		return NULL;
	}
	h->called = q->fn;
	h->arg = q->arg;
	return h;
}

void helper_gone(struct daemon *d, struct helper *h, int status)
{
	struct err e = {.code = -EIO,
		.msg = "the process that looks at snapshots died"};
	copied_fn *fn = h->copied;
	void *arg = h->arg;

	proc_release(d, &h->p, &e);
	forget(d, h);
	if (!fn)
		return;
	if (status == 0) {
		fn(d, arg, NULL);
		return;
	}
	/* The exit code of a copier is its errno. */
	if (status > 0 && WIFEXITED(status))
		err_sys(&e, -WEXITSTATUS(status), "copying the snapshot");
	fn(d, arg, &e);
}
