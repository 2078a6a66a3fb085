#include "api/machine/chain.h"

#include <errno.h>
#include <poll.h>
#include <string.h>

/* The daemon's answer to one question, into p; buf as for ctl_recv(). */
static int ask(struct worker *w, const struct snap_parent *want,
	uint32_t attempt, struct ctl_packet *p, uint8_t *buf)
{
	struct pollfd pfd = {.fd = w->ctl, .events = POLLIN};
	struct ctl_msg m = {.type = CTL_PARENT};
	int r;

	m.parent.uuid = want->uuid;
	m.parent.attempt = attempt;
	memcpy(m.parent.digest, want->digest, sizeof(m.parent.digest));
	m.len = (uint32_t)strlen(want->path);
	r = worker_send(w, &m, want->path, NULL, 0);
	while (!r) {
		r = ctl_recv(w->ctl, p, buf);
		if (r == -EAGAIN) {
			r = 0;
			if (poll(&pfd, 1, -1) < 0 && errno != EINTR)
				r = -errno;
			continue;
		}
		if (r == 1 && p->msg.type != CTL_PARENT) {
			/* Nothing else is asked of a process in setup. */
			ctl_packet_free(p);
			r = -EPROTO;
		}
		return r == 0 ? -EPIPE : r;
	}
	return r;
}

struct search {
	struct worker *w;
	uint8_t *buf; /* for ctl_recv() */
	uint32_t attempt;
	bool over;
};

/* What is in an answer; as of snap_find_fn. */
static int take(struct search *s, struct ctl_packet *p, char path[PATH_MAX],
	struct err *e)
{
	int fd = ctl_take(p, CTL_FD_PARENT, 0);

	if (p->msg.len < PATH_MAX)
		(void)snprintf(path, PATH_MAX, "%s", (char *)p->payload);
	if (fd >= 0)
		return fd;
	s->over = p->msg.status >= 0 || p->msg.status == -ENOENT;
	return s->over ? -ENOENT
		       : err_set(e, p->msg.status, "%.200s: %s", path,
				 p->msg.status == -EBADMSG
					 ? "bytes 0-7: not a thaw snapshot"
					 : strerror(-p->msg.status));
}

static int find(void *arg, const struct snap_file *child, bool first,
	char path[PATH_MAX], struct err *e)
{
	struct snap_parent want = {.path = child->is.parent_path};
	struct search *s = arg;
	struct ctl_packet p = {.nfds = 0};
	uint32_t next;
	int r;

	if (first) {
		s->attempt = 0;
		s->over = false;
	}
	if (s->over)
		return -ENOENT;
	want.uuid = child->is.parent_uuid;
	memcpy(want.digest, child->is.parent_digest, sizeof(want.digest));
	r = ask(s->w, &want, s->attempt, &p, s->buf);
	if (r < 0) {
		s->over = true;
		return err_sys(e, r, "asking for a parent");
	}
	/* Each answer says where the search goes on. */
	next = p.msg.parent.attempt;
	if (next <= s->attempt)
		p.msg.status = -ENOENT;
	s->attempt = next;
	r = take(s, &p, path, e);
	ctl_packet_free(&p);
	return r;
}

int chain_follow(struct worker *w, int fd, const char *path,
	struct snap_files *files, struct err *e)
{
	AUTO_FREE uint8_t *buf = malloc(CTL_INLINE + 1);
	struct search s = {.w = w, .buf = buf};

	if (!buf)
		return err_set(e, -ENOMEM, "no memory for a snapshot");
	return snap_follow(fd, path, find, &s, files, e);
}

int chain_open(struct worker *w, int fd, struct chain *c, struct err *e)
{
	struct snap_files files = {.n = 0};
	int r;

	c->n = 0;
	r = chain_follow(w, fd, "", &files, e);
	if (r)
		return r;
	r = snap_files_open(&files, c->s, e);
	if (!r) {
		c->n = files.n;
		c->fd[0] = -1;
		for (unsigned i = 1; i < files.n; i++)
			c->fd[i] = files.file[i].fd;
		files.n = 1;
	}
	snap_files_close(&files);
	return r;
}

/* One more ancestor; child: what is known about the file before it, which then
 * is this one. */
static int add_ancestor(struct search *s, struct snap_file *child,
	struct chain *c, struct err *e)
{
	AUTO_FREE struct snap_file *f = calloc(1, sizeof(*f));
	int r;

	if (!f)
		return err_set(e, -ENOMEM, "no memory for a snapshot");
	r = snap_find_parent(child, find, s, f, e);
	if (r)
		return r;
	r = snap_open(f->fd, &c->s[c->n], e);
	if (!r && c->n)
		r = snap_attach(c->s[c->n - 1], c->s[c->n], e);
	if (r) {
		snap_close(c->s[c->n]);
		(void)close(f->fd);
		return r;
	}
	c->fd[c->n++] = f->fd;
	*child = *f;
	return 0;
}

void chain_ancestors(struct worker *w, const struct snap_parent *want,
	uint64_t pages, struct chain *c)
{
	AUTO_FREE struct snap_file *child = calloc(1, sizeof(*child));
	AUTO_FREE uint8_t *buf = malloc(CTL_INLINE + 1);
	struct search s = {.w = w, .buf = buf};
	struct err e = {0};

	c->n = 0;
	if (!buf || !child)
		return;
	child->is.diff = true;
	child->is.parent_uuid = want->uuid;
	memcpy(child->is.parent_digest, want->digest, sizeof(want->digest));
	(void)snprintf(child->is.parent_path, sizeof(child->is.parent_path),
		"%s", want->path);
	while (child->is.diff && c->n < SNAP_MAX_CHAIN &&
		snap_worth_opening(c->n ? c->s[0] : NULL, pages) &&
		!add_ancestor(&s, child, c, &e))
		;
}

void chain_close(struct chain *c)
{
	for (unsigned i = 0; i < c->n; i++) {
		snap_close(c->s[i]);
		if (c->fd[i] >= 0)
			(void)close(c->fd[i]);
	}
	c->n = 0;
}
