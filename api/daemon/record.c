#include "api/daemon/admit.h"
#include "api/daemon/methods.h"
#include "api/daemon/peerfile.h"
#include "api/daemon/starter.h"
#include "api/daemon/store.h"
#include "api/daemon/template.h"
#include "core/log.h"
#include "snapshot/publish.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

/*
 * Method "template.record": which pages of a template's memory does a request
 * need? A machine is restored lazily from the template's file by a pager that
 * brings in single pages and notes them; it is handed the request; what it
 * asked for until its answer is the working set. It goes beside the template's
 * snapshot in the store and, if wanted, beside the client's.
 */

#define RECORD_MS 60000
#define GRACE_MS  2000

struct record_op {
	struct request *r;
	char template[NAME_LEN];
	struct machine_entry *m; /* until it is discarded */
	uint64_t timeout_ms;
	bool replace;
	int out; /* owned memfd: the set */
	/* also for the client */
	int dir; /* owned; -1: not */
	struct ucred peer;
	char name[256];
	size_t len;
	uint8_t *payload; /* owned */
};

static void op_free(struct record_op *op)
{
	if (op->out >= 0)
		(void)close(op->out);
	if (op->dir >= 0)
		(void)close(op->dir);
	free(op->payload);
	free(op);
}

static void end_machine(struct daemon *d, struct record_op *op)
{
	struct machine_entry *m = op->m;

	op->m = NULL;
	if (m && m->state != ENTRY_ENDED)
		machine_discard(d, m);
	else if (m)
		machine_forget(d, m);
}

static void failed(struct daemon *d, struct record_op *op, const struct err *e)
{
	struct err why = *e;

	end_machine(d, op);
	request_fail(op->r, &why);
	op_free(op);
}

/* With the client's rights, as a snapshot would be. */
static int put_beside(struct record_op *op, struct err *e)
{
	struct peer_rights rights;
	struct publish pub = {.record = NULL};
	int r, sock = op->r->conn ? op->r->conn->fd : -1;

	if (op->dir < 0)
		return 0;
	r = peer_enter(&rights, &op->peer, sock, e);
	if (r)
		return r;
	r = publish_begin(&pub, op->dir, op->name, true, e);
	if (!r) {
		r = store_copy(op->out, pub.fd, e);
		if (!r)
			r = publish_commit(&pub, e);
		publish_abort(&pub);
	}
	peer_leave(&rights);
	return r;
}

static void recorded(
	struct daemon *d, void *arg, struct ctl_packet *p, const struct err *e)
{
	struct record_op *op = arg;
	struct template *t = template_find(d, op->template);
	struct err why = {.code = -ENOENT, .msg = "the template is gone"};
	msgpack_packer *pk;

	if (!p) {
		failed(d, op, e);
		return;
	}
	if (!t || store_replace_set(d->state_fd, op->template, op->out, &why) ||
		put_beside(op, &why)) {
		failed(d, op, &why);
		return;
	}
	pk = request_begin(op->r);
	(void)msgpack_pack_map(pk, 3);
	mp_key_u64(pk, "pages", p->msg.recorded.pages);
	mp_key_u64(pk, "set", p->msg.recorded.set);
	mp_key_u64(pk, "recordings", p->msg.recorded.recordings);
	request_end(op->r);
	end_machine(d, op);
	op_free(op);
}

static void answered(
	struct daemon *d, void *arg, struct ctl_packet *p, const struct err *e)
{
	struct record_op *op = arg;
	struct ctl_msg msg = {.type = CTL_RECORDED};
	struct feed *f = op->m->feed;
	struct err why = {.code = -EIO, .msg = "the pager is gone"};
	AUTO_FD old = -1;
	struct ctl_fd fds[2];

	if (!p || !f) {
		failed(d, op, p ? &why : e);
		return;
	}
	old = op->replace ? -1 : store_open_set(d->state_fd, op->template);
	fds[0] = (struct ctl_fd){op->out, CTL_FD_OUTPUT, 0};
	fds[1] = (struct ctl_fd){old, CTL_FD_SET, 0};
	if (proc_call(d, &f->p,
		    &(struct proc_request){.m = &msg,
			    .fds = fds,
			    .nfds = old < 0 ? 1 : 2,
			    .timeout_ms = RECORD_MS,
			    .fn = recorded,
			    .arg = op},
		    &why))
		failed(d, op, &why);
}

static void started(struct daemon *d, void *arg, struct machine_entry *m,
	const struct start_times *us, const struct err *e)
{
	struct record_op *op = arg;
	struct ctl_msg msg = {.type = CTL_INVOKE, .len = (uint32_t)op->len};
	struct err why = {0};

	(void)us;
	op->m = m;
	if (e) {
		failed(d, op, e);
		return;
	}
	msg.invoke.timeout_ms = (uint32_t)op->timeout_ms;
	if (proc_call(d, &m->p,
		    &(struct proc_request){.m = &msg,
			    .payload = op->payload,
			    .timeout_ms = op->timeout_ms + GRACE_MS,
			    .fn = answered,
			    .arg = op},
		    &why))
		failed(d, op, &why);
}

static struct record_op *op_create(struct daemon *d, struct request *r,
	const struct args *a, struct err *e)
{
	struct record_op *op = calloc(1, sizeof(*op));

	if (op)
		op->payload = malloc(a->payload.n + 1);
	if (!op || !op->payload) {
		free(op);
		err_set(e, -ENOMEM, "no memory for a recording");
		return NULL;
	}
	op->r = r;
	op->dir = -1;
	op->timeout_ms = a->timeout_ms;
	op->replace = a->replace;
	memcpy(op->payload, a->payload.p, a->payload.n);
	op->len = a->payload.n;
	(void)snprintf(op->template, sizeof(op->template), "%s", a->name);
	op->out = memfd_create("working-set", MFD_CLOEXEC);
	if (op->out < 0)
		err_sys(e, -errno, "working set");
	else if (a->path.path.p) {
		op->peer = r->conn->peer;
		op->dir = peerfile_parent(
			d, &op->peer, r->conn->fd, &a->path.path, op->name, e);
	}
	if (op->out >= 0 && (!a->path.path.p || op->dir >= 0))
		return op;
	op_free(op);
	return NULL;
}

int template_record_method(
	struct daemon *d, struct request *r, struct args *a, struct err *e)
{
	const struct feed_opts paging = {.lazy = 1, .fill_none = 1};
	struct start s = {.kind = ENTRY_MACHINE,
		.role = CTL_ROLE_RESTORE,
		.initrd = -1,
		.set = -1,
		.listener = -1,
		.paging = &paging,
		.record = true,
		.timeout_ms = RECORD_MS,
		.fn = started};
	struct machine_entry *m;
	struct record_op *op;
	struct template *t;
	char id[ID_LEN];
	int rc = template_get(d, a->name, &t, e);

	if (!rc && t->snap_fd < 0)
		rc = err_set(
			e, -EBUSY, "template \"%s\" has no file yet", a->name);
	if (rc)
		return rc;
	op = op_create(d, r, a, e);
	if (!op)
		return e->code;
	(void)snprintf(id, sizeof(id), "m-%llu",
		(unsigned long long)++d->next_machine);
	s.id = id;
	s.file = t->snap_fd;
	s.remote = t->remote;
	s.arg = op;
	rc = starter_begin(d, &s, &m, e);
	if (rc)
		op_free(op);
	return rc;
}
