#include "api/daemon/parents.h"

#include "api/daemon/fetch.h"
#include "api/daemon/machine.h"
#include "api/daemon/peerfile.h"
#include "api/daemon/template.h"
#include "snapshot/format.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

/* Questions of one process: a file of the longest chain in each place. */
#define MAX_QUESTIONS (SNAP_MAX_CHAIN * NPLACES_)

/* Where a parent is looked for, in this order. */
enum place {
	PLACE_HINT,     /* the path in the diff, relative to the diff's */
	PLACE_BESIDE,   /* its last component, in the diff's directory */
	PLACE_TEMPLATE, /* the file of a template of ours with this uuid */
	NPLACES_
};

struct parents *parents_create(
	const struct ucred *peer, const char *path, int fd)
{
	struct parents *p = calloc(1, sizeof(*p));

	if (!p)
		return NULL;
	p->peer = *peer;
	parents_push(p, path, fd, false);
	return p;
}

void parents_free(struct parents *p)
{
	if (!p)
		return;
	free(p->last);
	free(p->child);
	free(p->given);
	free(p);
}

static struct parents_file identify(int fd)
{
	struct parents_file f = {.ino = 0};
	struct stat st;

	if (fd >= 0 && !fstat(fd, &st)) {
		f.dev = st.st_dev;
		f.ino = st.st_ino;
	}
	return f;
}

static void add_file(struct parents *p, int fd)
{
	struct parents_file f = identify(fd);

	if (f.ino && p->n < ARRAY_SIZE(p->file))
		p->file[p->n++] = f;
}

void parents_push(struct parents *p, const char *path, int fd, bool diff)
{
	free(p->last);
	p->last = path ? strdup(path) : NULL;
	p->newest = identify(fd);
	if (!diff)
		p->n = 0;
	add_file(p, fd);
}

struct parents *parents_of_diff(const struct ucred *peer, const char *path,
	const struct parents *on, int fd)
{
	struct parents *p = parents_create(peer, path, fd);

	if (!p)
		return NULL;
	p->known = true;
	if (fd < 0 && on) {
		p->n = on->n;
		memcpy(p->file, on->file, on->n * sizeof(on->file[0]));
	}
	return p;
}

void parents_close(struct parents *p)
{
	if (p)
		p->closed = true;
}

static bool has_file(const struct parents *p, const struct stat *st)
{
	for (unsigned i = 0; p && i < p->n; i++) {
		if (p->file[i].dev == st->st_dev &&
			p->file[i].ino == st->st_ino)
			return true;
	}
	return false;
}

/* ---- finding ---- */

/* Does it begin like a snapshot? Nothing else is handed to a process. */
static bool looks_right(const struct parents *p, int fd)
{
	char magic[SNAP_MAGIC_SIZE];
	struct stat st;

	return !fstat(fd, &st) && S_ISREG(st.st_mode) &&
	       (!p->known || has_file(p, &st)) &&
	       !pread_full(fd, magic, sizeof(magic), 0) &&
	       !memcmp(magic, SNAP_MAGIC, SNAP_MAGIC_SIZE);
}

/* dir of path, with its slash, then name. False: too long. */
static bool beside(const char *path, const char *name, char *out, size_t size)
{
	const char *slash = strrchr(path, '/');
	int len = slash ? (int)(slash - path) + 1 : 0;
	int n = snprintf(out, size, "%.*s%s", len, path, name);

	return n >= 0 && (size_t)n < size;
}

static int open_template(
	struct daemon *d, const struct snap_uuid *uuid, struct parents *p)
{
	list_for_each(it, &d->templates)
	{
		struct template *t = container_of(it, struct template, all);

		if (t->state != TEMPLATE_READY || t->snap_fd < 0 ||
			memcmp(t->uuid.b, uuid->b, sizeof(uuid->b)) != 0)
			continue;
		p->given = store_snapshot_path(d->opt.state_dir, t->name);
		return fcntl(t->snap_fd, F_DUPFD_CLOEXEC, 0);
	}
	return -ENOENT;
}

/* The file, and its path into p->given, which is also set on errors other than
 * -ENOENT: something is there. */
static int open_path(
	struct daemon *d, struct parents *p, enum place place, const char *hint)
{
	const char *slash = strrchr(hint, '/');
	char path[4096];
	struct err e;
	int fd;

	if (!hint[0])
		return -ENOENT;
	if (place == PLACE_HINT && hint[0] == '/')
		(void)snprintf(path, sizeof(path), "%s", hint);
	else if (!p->child ||
		 !beside(p->child,
			 place == PLACE_BESIDE && slash ? slash + 1 : hint,
			 path, sizeof(path)))
		return -ENOENT;
	fd = peerfile_reopen(d, p->peer.uid, p->peer.gid, path, &e);
	if (fd != -ENOENT)
		p->given = strdup(path);
	return fd == -EINVAL ? -EBADMSG : fd;
}

static int open_place(struct daemon *d, struct parents *p, enum place place,
	const struct snap_uuid *uuid, const char *hint)
{
	int fd = place == PLACE_TEMPLATE ? open_template(d, uuid, p)
					 : open_path(d, p, place, hint);

	if (fd >= 0 && !looks_right(p, fd)) {
		(void)close(fd);
		return -EBADMSG;
	}
	return fd;
}

/* Of a remote snapshot: parents are on the other host, too, and have been
 * brought here. Only its pager adds to them. */
static int from_cache(
	struct daemon *d, const struct proc *p, const struct ctl_parent *q)
{
	struct remote_file f = {.uuid = q->uuid};

	memcpy(f.digest, q->digest, sizeof(f.digest));
	return fetch_cached(d, &f, p->kind == PROC_PAGER);
}

/* A new question is about the parent of what was handed out last. */
static void begin_question(struct parents *p)
{
	free(p->child);
	p->child = p->given ? p->given : p->last ? strdup(p->last) : NULL;
	p->given = NULL;
}

void parents_answer(struct daemon *d, struct proc *p, struct ctl_packet *pk)
{
	struct parents *parents = p->parents;
	uint32_t place = pk->msg.parent.attempt;
	struct ctl_msg m = {0};
	const char *given = NULL;
	char hint[1024] = "";
	int fd = -ENOENT;

	if (pk->msg.len < sizeof(hint) && !memchr(pk->payload, 0, pk->msg.len))
		memcpy(hint, pk->payload, pk->msg.len);
	hint[min_u64(pk->msg.len, sizeof(hint) - 1)] = 0;
	if (parents && (parents->closed || parents->asked++ >= MAX_QUESTIONS))
		parents = NULL;
	if (parents && place == 0)
		begin_question(parents);
	if (parents) {
		free(parents->given);
		parents->given = NULL;
	}
	if (p->remote && place == 0) {
		fd = from_cache(d, p, &pk->msg.parent);
		place = NPLACES_;
	}
	for (; parents && fd == -ENOENT && place < NPLACES_; place++)
		fd = open_place(d, parents, (enum place)place,
			&pk->msg.parent.uuid, hint);
	ctl_make_reply(&pk->msg, &m);
	m.parent.attempt = place;
	m.status = fd < 0 ? fd : 0;
	if (parents)
		given = parents->given;
	if (given)
		m.len = (uint32_t)strlen(given);
	if (fd >= 0 && parents && !parents->known)
		add_file(parents, fd);
	/* A process that does not read is killed by its setup's time limit. */
	(void)!proc_send(p, &m, given, &(struct ctl_fd){fd, CTL_FD_PARENT, 0},
		fd >= 0 ? 1 : 0);
	if (fd >= 0)
		(void)close(fd);
}

/* ---- keeping ---- */

char *parents_hint(const char *last, const char *path)
{
	const char *a, *b;

	if (!last)
		return NULL;
	a = strrchr(last, '/');
	b = path ? strrchr(path, '/') : NULL;
	if (a && b && a - last == b - path &&
		!strncmp(last, path, (size_t)(a - last)))
		return strdup(a + 1);
	return strdup(last);
}

int parents_check_last(struct daemon *d, const struct parents *p, struct err *e)
{
	struct parents_file f;
	struct err why;
	int fd;

	if (!p || !p->last || !p->newest.ino)
		return 0;
	fd = peerfile_reopen(d, p->peer.uid, p->peer.gid, p->last, &why);
	f = identify(fd);
	if (fd >= 0)
		(void)close(fd);
	if (f.ino == p->newest.ino && f.dev == p->newest.dev)
		return 0;
	/* who may not look there any more may still know where it is */
	if (fd < 0 && fd != -ENOENT && fd != -ENOTDIR && fd != -EINVAL)
		return 0;
	return err_set(e, -ENOENT,
		"the diff's parent, %s, %s: make a full snapshot", p->last,
		fd == -ENOENT || fd == -ENOTDIR ? "is missing"
						: "is another file by now");
}

int parents_check_replace(struct daemon *d, const struct parents *p, bool diff,
	int dir, const char *name, struct err *e)
{
	struct stat st;

	if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW))
		return 0;
	if (diff && has_file(p, &st))
		return err_set(e, -EBUSY,
			"%s is what the new snapshot would build on: it is not "
			"replaced",
			name);
	list_for_each(it, &d->machines)
	{
		struct machine_entry *m =
			container_of(it, struct machine_entry, all);

		/* A full one alone on its chain may be replaced by the next. */
		if (!has_file(m->p.parents, &st) ||
			(m->p.parents == p && p->n == 1))
			continue;
		return err_set(e, -EBUSY,
			"%s is part of the chain of snapshots of machine %s: "
			"it is not replaced while that runs",
			name, m->id);
	}
	return 0;
}
