#include "api/machine/offline.h"

#include "api/machine/chain.h"
#include "core/arch.h"
#include "core/mp.h"

#include <errno.h>
#include <poll.h>
#include <string.h>

#define PROGRESS_NS 100000000ULL

struct question {
	struct worker *w;
	const struct ctl_packet *p;
	int fd;
	char *path, *section; /* owned; the snapshot's, perhaps "" */
	struct snap_files files;
	uint64_t said; /* now_ns() of the last CTL_PROGRESS */
};

static int progress(void *arg, uint64_t done, uint64_t total)
{
	struct ctl_msg m = {.type = CTL_PROGRESS};
	struct question *q = arg;
	uint64_t now = now_ns();
	int r;

	if (now - q->said < PROGRESS_NS)
		return 0;
	q->said = now;
	m.progress.done = done;
	m.progress.total = total;
	/* A daemon that is busy misses one. */
	r = ctl_send(q->w->ctl, &m, NULL, NULL, 0);
	return r && r != -EAGAIN;
}

static int verify(struct question *q, msgpack_packer *p, struct err *e)
{
	int r = chain_follow(q->w, q->fd, q->path, &q->files, e);

	return r ? r : snap_files_verify(&q->files, progress, q, p, e);
}

static int inspect(struct question *q, msgpack_packer *p, struct err *e)
{
	struct snap_inspect_opts o = {
		.section = q->section && q->section[0] ? q->section : NULL,
		.map = q->p->msg.look.map != 0,
		.ws_fd = ctl_fd(q->p, CTL_FD_SET, 0)};
	AUTO_FREE struct arch_compat *host = NULL;
	struct err why = {0};

	/* a host that cannot say is not compared */
	if (q->w->kvm.fd >= 0)
		(void)!arch_compat_host(q->w->kvm.fd, &host, e);
	o.host = host;
	/* what is not sound is described, and cannot be followed */
	(void)!chain_follow(q->w, q->fd, q->path, &q->files, &why);
	return snap_files_inspect(q->fd, &q->files, &o, p, e);
}

/* The texts are in a buffer that questions to the daemon need. */
static int read_question(
	struct question *q, const struct ctl_packet *p, struct err *e)
{
	uint32_t n = p->msg.look.path_len;

	q->fd = ctl_fd(p, CTL_FD_SNAPSHOT, 0);
	if (p->msg.type != CTL_INSPECT || q->fd < 0 || n > p->msg.len)
		return err_set(e, -EINVAL, "not a request for this process");
	q->path = strndup((const char *)p->payload, n);
	q->section = strndup((const char *)p->payload + n, p->msg.len - n);
	if (!q->path || !q->section)
		return err_set(e, -ENOMEM, "no memory for a question");
	return 0;
}

static void answer(struct worker *w, struct ctl_packet *p)
{
	struct question q = {.w = w, .p = p};
	struct ctl_msg m = {0};
	struct err e = {0};
	msgpack_sbuffer buf;
	msgpack_packer pk;
	int r;

	msgpack_sbuffer_init(&buf);
	msgpack_packer_init(&pk, &buf, msgpack_sbuffer_write);
	r = read_question(&q, p, &e);
	if (!r && p->msg.look.what == CTL_INSPECT_VERIFY)
		r = verify(&q, &pk, &e);
	else if (!r)
		r = inspect(&q, &pk, &e);
	m.len = (uint32_t)buf.size;
	if (r)
		worker_reply_error(w, &p->msg, &e);
	else
		worker_reply(w, &p->msg, &m, buf.data, NULL, 0);
	msgpack_sbuffer_destroy(&buf);
	snap_files_close(&q.files);
	free(q.path);
	free(q.section);
}

int offline_run(struct worker *w)
{
	struct pollfd pfd = {.fd = w->ctl, .events = POLLIN};
	struct ctl_packet p;

	while (!w->done) {
		int r = ctl_recv(w->ctl, &p, w->buf);

		if (r == 1) {
			answer(w, &p);
			ctl_packet_free(&p);
			return 0;
		} else if (r != -EAGAIN) {
			return r == 0 ? 0 : 1;
		} else if (poll(&pfd, 1, -1) < 0 && errno != EINTR) {
			return 1;
		}
	}
	return 0;
}
