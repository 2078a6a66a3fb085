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

/* The parent of a file that is not there yet. */
static int is_it(
	const struct snap *s, const struct snap_parent *want, struct err *e)
{
	uint8_t digest[16];
	int r = snap_digest(s, digest);

	if (!r && (memcmp(snap_get_uuid(s), &want->uuid, sizeof(want->uuid)) ||
			  memcmp(digest, want->digest, sizeof(digest))))
		r = -ESTALE;
	return r ? err_set(e, r, "not the snapshot that is meant") : 0;
}

/* Is this file the parent? Then it is part of the chain. */
static int try_file(
	struct chain *c, const struct snap_parent *want, int fd, struct err *e)
{
	struct snap *s = NULL;
	int r = snap_open(fd, &s, e);

	if (!r)
		r = c->n ? snap_attach(c->s[c->n - 1], s, e)
			 : is_it(s, want, e);
	if (r) {
		snap_close(s);
		return r;
	}
	c->s[c->n] = s;
	c->fd[c->n++] = fd;
	return 0;
}

static int missing(
	const struct snap_parent *want, const struct err *found, struct err *e)
{
	char uuid[SNAP_UUID_STR];

	snap_uuid_str(&want->uuid, uuid);
	if (found->code)
		return err_set(e, -EBADMSG,
			"the snapshot builds on %s (%.200s); what is there is "
			"not it: %.200s",
			uuid, want->path[0] ? want->path : "no path",
			found->msg);
	return err_set(e, -ENOENT,
		"the snapshot builds on %s, which is neither at \"%.300s\" nor "
		"beside it",
		uuid, want->path);
}

/* The files that the daemon knows, until one is the right one. */
static int find_parent(struct worker *w, struct chain *c,
	const struct snap_parent *want, uint8_t *buf, struct err *e)
{
	struct err found = {0};
	uint32_t attempt = 0;

	for (;;) {
		struct ctl_packet p;
		struct err why = {0};
		int fd, r = ask(w, want, attempt, &p, buf);

		if (r < 0)
			return err_sys(e, r, "asking for a parent");
		fd = ctl_take(&p, CTL_FD_PARENT, 0);
		r = p.msg.status;
		/* Each answer says where the search goes on. */
		if (p.msg.parent.attempt <= attempt && !r)
			r = -EPROTO;
		attempt = p.msg.parent.attempt;
		ctl_packet_free(&p);
		if (r < 0 || fd < 0) {
			if (fd >= 0)
				(void)close(fd);
			return missing(want, &found, e);
		}
		if (!try_file(c, want, fd, &why))
			return 0;
		(void)close(fd);
		if (!found.code)
			found = why;
	}
}

int chain_open(struct worker *w, int fd, struct chain *c, struct err *e)
{
	AUTO_FREE uint8_t *buf = malloc(CTL_INLINE + 1);
	int r;

	c->n = 0;
	if (!buf)
		return err_set(e, -ENOMEM, "no memory for a snapshot");
	r = snap_open(fd, &c->s[0], e);
	if (r)
		return r;
	c->fd[0] = -1;
	c->n = 1;
	while (!r && snap_get_parent(c->s[c->n - 1])) {
		if (c->n > SNAP_MAX_CHAIN)
			r = err_set(e, -EOPNOTSUPP,
				"a chain of more than %d snapshots: merge it",
				SNAP_MAX_CHAIN);
		else
			r = find_parent(
				w, c, snap_get_parent(c->s[c->n - 1]), buf, e);
	}
	if (r)
		chain_close(c);
	return r;
}

void chain_ancestors(struct worker *w, const struct snap_parent *want,
	uint64_t pages, struct chain *c)
{
	AUTO_FREE uint8_t *buf = malloc(CTL_INLINE + 1);
	struct err e;

	c->n = 0;
	while (buf && want && c->n < SNAP_MAX_CHAIN &&
		snap_worth_opening(c->n ? c->s[0] : NULL, pages) &&
		!find_parent(w, c, want, buf, &e))
		want = snap_get_parent(c->s[c->n - 1]);
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
