#include "api/daemon/helper.h"
#include "api/daemon/methods.h"
#include "api/daemon/peerfile.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* Methods "snapshot.inspect" and "snapshot.verify": a helper process looks at
 * the files, and what it says is checked before it is handed on. */

/* A map of a big guest is one value of some megabytes. */
static const struct mp_limits limits = {
	.max_depth = 16, .max_elements = 1024 * 1024};

struct looking {
	struct request *r; /* until it is answered */
	struct helper *h;
	bool progress;
};

static void looked(
	struct daemon *d, void *arg, struct ctl_packet *pk, const struct err *e)
{
	struct looking *l = arg;
	struct request *r = l->r;
	struct err why = {0};
	msgpack_packer *p;
	int64_t n;

	(void)d;
	/* nothing comes after the answer */
	l->h->progress = NULL;
	free(l);
	if (!pk) {
		request_fail(r, e);
		return;
	}
	n = mp_check(pk->payload, pk->msg.len, pk->msg.len, &limits);
	if (n <= 0 || n != pk->msg.len) {
		err_set(&why, -EIO, "the helper's answer is malformed");
		request_fail(r, &why);
		return;
	}
	p = request_begin(r);
	/* It is one msgpack object: copied as it is. */
	(void)p->callback(p->data, (const char *)pk->payload, pk->msg.len);
	request_end(r);
}

static void progress(struct daemon *d, void *arg, uint64_t done, uint64_t total)
{
	struct looking *l = arg;
	struct conn *c = l->r->conn;
	msgpack_packer *p;

	if (!c || !l->progress)
		return;
	p = notify_begin(d, c, "verify");
	if (!p)
		return;
	(void)msgpack_pack_map(p, 3);
	mp_key_u64(p, "req", l->r->id);
	mp_key_u64(p, "done", done);
	mp_key_u64(p, "total", total);
	notify_end(d, c);
}

/* Nobody waits for it any more. */
static void client_gone(struct daemon *d, struct request *r)
{
	struct looking *l = r->gone_arg;

	/* its pending call ends with an error, as does this request */
	helper_cancel(d, l->h);
}

static int ask(struct looking *l, const struct args *a,
	struct helper_question *q, struct err *e)
{
	struct request *r = l->r;
	char path[4096] = "";

	if (a->path.fd < 0)
		(void)snprintf(path, sizeof(path), "%.*s", (int)a->path.path.n,
			a->path.path.p);
	q->path = path[0] ? path : NULL;
	q->section = a->section;
	q->peer = &r->conn->peer;
	q->fn = looked;
	q->progress = progress;
	q->arg = l;
	l->h = helper_inspect(r->d, q, e);
	if (!l->h)
		return e->code;
	r->gone = client_gone;
	r->gone_arg = l;
	return 0;
}

static int look(struct daemon *d, struct request *r, const struct args *a,
	uint32_t what, struct err *e)
{
	struct looking *l;
	AUTO_FD set = -1;
	AUTO_FD fd = peerfile_read(d, r, "path", &a->path, e);
	int rc;

	if (fd < 0)
		return fd;
	if (a->map && a->section.p)
		return err_set(e, -EINVAL, "section, map: one of them, please");
	l = calloc(1, sizeof(*l));
	if (!l)
		return err_set(e, -ENOMEM, "no memory for a request");
	l->r = r;
	l->progress = a->progress;
	if (a->map)
		set = peerfile_set(d, r, &a->path);
	rc = ask(l, a,
		&(struct helper_question){.fd = fd,
			.set = set,
			.look = {.what = what, .map = (uint32_t)a->map}},
		e);
	if (rc)
		free(l);
	return rc;
}

int inspect_method(
	struct daemon *d, struct request *r, struct args *a, struct err *e)
{
	return look(d, r, a, CTL_INSPECT_SHOW, e);
}

int verify_method(
	struct daemon *d, struct request *r, struct args *a, struct err *e)
{
	return look(d, r, a, CTL_INSPECT_VERIFY, e);
}
