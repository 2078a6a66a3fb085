#include "api/daemon/machine.h"

#include "api/daemon/events.h"
#include "api/daemon/methods.h"
#include "api/daemon/parents.h"
#include "api/daemon/peerfile.h"
#include "api/daemon/store.h"
#include "api/daemon/template.h"
#include "api/daemon/unfinished.h"
#include "api/daemon/writer.h"
#include "snapshot/publish.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/*
 * Methods "machine.snapshot" and "machine.snapshot_cancel". The file is made
 * with the client's rights in the client's directory and appears there when it
 * is complete; only then the machine counts its pages as saved.
 */

struct snapshot_op {
	struct daemon *d;
	struct request *r; /* NULL: answered */
	struct writer *w;
	char id[ID_LEN];
	char path[4096];
	int dir;  /* owned; -1: the client passed a descriptor */
	int file; /* owned in that case */
	struct publish pub;
	struct peer_rights rights; /* of the client, while they are in use */
	char noted[32];            /* a name of unfinished.h, or "" */
	bool publishing, live, diff, progress, kept;
	struct ucred peer;
	struct ctl_split split;
	struct ctl_written what; /* kept */
	struct err why;          /* not kept */
	uint64_t began;          /* now_ns() */
};

static void op_free(struct snapshot_op *op)
{
	if (op->publishing)
		publish_abort(&op->pub);
	if (op->noted[0])
		unfinished_done(op->d->opt.state_dir, op->noted);
	if (op->dir >= 0)
		(void)close(op->dir);
	if (op->file >= 0)
		(void)close(op->file);
	free(op);
}

static int commit(struct daemon *d, struct snapshot_op *op, struct err *e)
{
	const struct machine_entry *m = op->w->m;
	int r = 0;

	if (!op->publishing)
		return 0;
	/* Somebody may have begun to build on it since we began. */
	if (op->pub.force)
		r = parents_check_replace(d, m ? m->p.parents : NULL, op->diff,
			op->dir, op->pub.name, e);
	if (r)
		return r;
	r = peer_enter(&op->rights, &op->peer,
		op->r && op->r->conn ? op->r->conn->fd : -1, e);
	if (r)
		return r;
	r = publish_commit(&op->pub, e);
	peer_leave(&op->rights);
	return r;
}

/* A temporary name is about to be used: the record is ours, not the client's.
 */
static int note_name(void *arg, const char *temp)
{
	struct snapshot_op *op = arg;
	char dir[sizeof(op->path)];
	struct err e;
	int r;

	(void)snprintf(dir, sizeof(dir), "%s", op->path);
	*(strrchr(dir, '/') + 1) = 0; /* peerfile_parent() found one */
	(void)snprintf(op->noted, sizeof(op->noted), "%s", temp);
	peer_leave(&op->rights);
	r = unfinished_note(op->d->opt.state_dir, op->dir, dir, temp);
	if (peer_enter(&op->rights, &op->peer,
		    op->r && op->r->conn ? op->r->conn->fd : -1, &e))
		return e.code;
	return r;
}

/* What a diff builds on: a path, malloc()ed, or NULL. */
static char *base_path(struct daemon *d, const struct snapshot_op *op)
{
	const struct machine_entry *m = op->w->m;

	if (!m)
		return NULL;
	if (op->split.against == CTL_AGAINST_TEMPLATE)
		return m->t ? store_snapshot_path(d->opt.state_dir, m->t->name)
			    : NULL;
	return m->p.parents && m->p.parents->last ? strdup(m->p.parents->last)
						  : NULL;
}

static int hint(struct daemon *d, void *arg, struct parents **parents,
	char **hint, struct err *e)
{
	const struct snapshot_op *op = arg;
	const struct machine_entry *m = op->w->m;
	bool template = op->split.against == CTL_AGAINST_TEMPLATE;
	const char *path = op->path[0] ? op->path : NULL;
	AUTO_FREE char *base = op->diff ? base_path(d, op) : NULL;
	int r = op->diff && m && !template
			? parents_check_last(d, m->p.parents, e)
			: 0;

	if (r)
		return r;
	/* Without them it is a diff that shares nothing. */
	if (op->diff && m)
		*parents = parents_of_diff(&op->peer, path,
			template ? NULL : m->p.parents,
			template && m->t ? m->t->snap_fd : -1);
	*hint = parents_hint(base, path);
	return 0;
}

/* The machine's next diff builds on this file. */
static void remember(struct daemon *d, struct snapshot_op *op)
{
	const char *path = op->path[0] ? op->path : NULL;
	int fd = op->publishing ? op->pub.fd : op->file;
	struct machine_entry *m = op->w->m;

	if (!m)
		return;
	if (op->diff && op->split.against == CTL_AGAINST_TEMPLATE) {
		AUTO_FREE char *base = base_path(d, op);
		int from = m->t ? m->t->snap_fd : -1;

		if (!m->p.parents)
			m->p.parents = parents_create(&op->peer, base, from);
		else
			parents_push(m->p.parents, base, from, false);
	}
	if (!m->p.parents)
		m->p.parents = parents_create(&op->peer, path, fd);
	else
		parents_push(m->p.parents, path, fd, op->diff);
}

static void frozen(struct daemon *d, void *arg, const struct ctl_split *split)
{
	struct snapshot_op *op = arg;

	op->split = *split;
	if (op->live)
		histogram_add(
			&d->metrics.hist[HIST_SNAPSHOT_PAUSE], split->us.pause);
	events_snapshot(d, "snapshot.frozen", op->id, NULL);
}

static void progress(struct daemon *d, void *arg, uint64_t done, uint64_t total)
{
	struct snapshot_op *op = arg;
	struct conn *c = op->r ? op->r->conn : NULL;
	char text[8];
	msgpack_packer *p;

	(void)snprintf(text, sizeof(text), "%u%%",
		(unsigned)(total ? done * 100 / total : 100));
	events_snapshot(d, "snapshot.progress", op->id, text);
	if (!c || !op->progress)
		return;
	p = notify_begin(d, c, "snapshot");
	if (!p)
		return;
	(void)msgpack_pack_map(p, 4);
	mp_key_u64(p, "req", op->r->id);
	mp_key_str(p, "id", op->id);
	mp_key_u64(p, "done", done);
	mp_key_u64(p, "total", total);
	notify_end(d, c);
}

static void written(
	struct daemon *d, void *arg, struct ctl_packet *p, const struct err *e)
{
	struct snapshot_op *op = arg;

	if (p) {
		op->what = p->msg.written;
		op->kept = commit(d, op, &op->why) == 0;
		if (op->kept)
			remember(d, op);
	} else {
		op->why = *e;
	}
	writer_settle(d, op->w, op->kept, &op->what);
}

static void pack_pause(
	msgpack_packer *p, const struct freeze_us *us, uint32_t resume)
{
	(void)msgpack_pack_map(p, 6);
	mp_key_u64(p, "stop", us->stop);
	mp_key_u64(p, "quiesce", us->quiesce);
	mp_key_u64(p, "state", us->state);
	mp_key_u64(p, "dirty", us->dirty);
	mp_key_u64(p, "fork", us->fork);
	mp_key_u64(p, "resume", resume);
}

static void answer(const struct snapshot_op *op, const struct ctl_settled *s)
{
	const struct freeze_us *us = &op->split.us;
	bool held = s->pause_us != 0;
	msgpack_packer *p = request_begin(op->r);
	char uuid[SNAP_UUID_STR];

	snap_uuid_str(&op->what.uuid, uuid);
	(void)msgpack_pack_map(p, 7);
	mp_key_str(p, "uuid", uuid);
	mp_key_str(p, "path", op->path);
	mp_key_u64(p, "bytes", op->what.bytes);
	mp_key_u64(p, "pages", op->what.pages);
	mp_key_u64(p, "pause_us", held ? s->pause_us : us->pause);
	mp_key_u64(p, "total_us", (now_ns() - op->began) / 1000);
	mp_str(p, "pause");
	pack_pause(p, us, held ? s->resume_us : us->resume);
	request_end(op->r);
}

static void settled(struct daemon *d, void *arg, const struct ctl_settled *s)
{
	struct snapshot_op *op = arg;

	if (op->kept) {
		d->metrics.counter[COUNT_SNAPSHOTS]++;
		d->metrics.counter[COUNT_SNAPSHOT_BYTES] += op->what.bytes;
		histogram_add(
			&d->metrics.hist[HIST_SNAPSHOT], us_since(op->began));
	} else {
		d->metrics.counter[COUNT_SNAPSHOTS_FAILED]++;
	}
	events_snapshot(d, op->kept ? "snapshot.written" : "snapshot.failed",
		op->id, op->kept ? op->path : op->why.msg);
	if (op->kept && op->r)
		answer(op, s);
	else if (op->r)
		request_fail(op->r, &op->why);
	op_free(op);
}

static const struct writer_fns fns = {
	.frozen = frozen,
	.hint = hint,
	.progress = progress,
	.written = written,
	.settled = settled,
};

/* Nobody waits for it any more. */
static void client_gone(struct daemon *d, struct request *r)
{
	struct snapshot_op *op = r->gone_arg;
	struct err e = {.code = -ECANCELED,
		.msg = "the client that asked for the snapshot has gone"};

	writer_cancel(d, op->w, &e);
}

int machine_snapshot_cancel_method(
	struct daemon *d, struct request *r, struct args *a, struct err *e)
{
	struct err why = {.code = -ECANCELED,
		.msg = "the snapshot was cancelled; nothing was written"};
	struct machine_entry *m;
	msgpack_packer *p;
	int rc = machine_get(d, a->id, &m, e);

	if (rc)
		return rc;
	if (!m->writer)
		return err_set(e, -ENOENT,
			"%s: no snapshot of this machine is in progress",
			m->id);
	writer_cancel(d, m->writer, &why);
	p = request_begin(r);
	(void)msgpack_pack_map(p, 0);
	request_end(r);
	return 0;
}

static int open_target(struct daemon *d, struct snapshot_op *op,
	const struct machine_entry *m, const struct args *a, struct err *e)
{
	char name[256];
	int r;

	op->peer = op->r->conn->peer;
	if (a->path.fd >= 0) {
		op->file = request_take_fd(op->r, a->path.fd, e);
		return op->file < 0 ? op->file : 0;
	}
	(void)snprintf(op->path, sizeof(op->path), "%.*s", (int)a->path.path.n,
		a->path.path.p);
	op->dir = peerfile_parent(
		d, &op->peer, op->r->conn->fd, &a->path.path, name, e);
	if (op->dir < 0)
		return op->dir;
	r = a->force ? parents_check_replace(
			       d, m->p.parents, a->type, op->dir, name, e)
		     : 0;
	if (r)
		return r;
	r = peer_enter(&op->rights, &op->peer, op->r->conn->fd, e);
	if (r)
		return r;
	op->pub.record = note_name;
	op->pub.arg = op;
	r = publish_begin(&op->pub, op->dir, name, a->force, e);
	peer_leave(&op->rights);
	op->publishing = r == 0;
	return r;
}

static int check(
	const struct args *a, const struct machine_entry *m, struct err *e)
{
	if (!a->type && a->against)
		return err_set(e, -EINVAL, "against: only a diff has that");
	if (a->type && a->against != CTL_AGAINST_TEMPLATE && m->p.parents &&
		m->p.parents->n > SNAP_MAX_CHAIN)
		return err_set(e, -EOPNOTSUPP,
			"type: the machine's last snapshot is the %dth of a "
			"chain already: make a full one",
			SNAP_MAX_CHAIN + 1);
	if (a->level && !a->codec)
		return err_set(e, -EINVAL, "level: only codec zstd has one");
	if (m->state != ENTRY_RUNNING && m->state != ENTRY_PAUSED)
		return err_set(e, -EBUSY, "%s: the machine is %s", m->id,
			machine_state(m));
	if (m->writer)
		return err_set(e, -EBUSY,
			"%s: another snapshot of this machine is in progress",
			m->id);
	return 0;
}

static int begin(struct daemon *d, struct snapshot_op *op,
	struct machine_entry *m, const struct args *a, struct err *e)
{
	struct writer_job job = {.fn = &fns, .arg = op};
	struct devfiles files;
	int r;

	job.what.live = (uint32_t)a->live;
	job.what.diff = (uint32_t)a->type;
	job.what.against = (uint32_t)a->against;
	if (a->codec)
		job.how.zstd_level = a->level ? (uint32_t)a->level : 1;
	job.output = op->publishing ? op->pub.fd : op->file;
	devfiles_init(&files);
	job.overlays = &files;
	r = devfiles_exports(op->r, a->overlays, &files, e);
	if (!r) {
		op->w = writer_begin(d, m, &job, e);
		r = op->w ? 0 : e->code;
	}
	devfiles_close(&files);
	return r;
}

int machine_snapshot_method(
	struct daemon *d, struct request *r, struct args *a, struct err *e)
{
	struct snapshot_op *op;
	struct machine_entry *m;
	int rc = machine_get(d, a->id, &m, e);

	if (!rc)
		rc = check(a, m, e);
	if (rc)
		return rc;
	op = calloc(1, sizeof(*op));
	if (!op)
		return err_set(e, -ENOMEM, "no memory for a request");
	op->d = d;
	op->r = r;
	op->dir = op->file = -1;
	op->live = a->live;
	op->diff = a->type;
	op->progress = a->progress;
	op->began = r->began;
	(void)snprintf(op->id, sizeof(op->id), "%s", m->id);
	rc = open_target(d, op, m, a, e);
	if (!rc)
		rc = begin(d, op, m, a, e);
	if (rc) {
		op_free(op);
		return rc;
	}
	r->gone = client_gone;
	r->gone_arg = op;
	return 0;
}
