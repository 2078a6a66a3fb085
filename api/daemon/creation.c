#include "api/daemon/creation.h"

#include "api/daemon/admit.h"
#include "api/daemon/config.h"
#include "api/daemon/events.h"
#include "api/daemon/fetch.h"
#include "api/daemon/helper.h"
#include "api/daemon/methods.h"
#include "api/daemon/parents.h"
#include "api/daemon/peerfile.h"
#include "api/daemon/starter.h"
#include "api/daemon/store.h"
#include "api/daemon/writer.h"
#include "api/daemon/zygote.h"
#include "core/log.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/*
 * Method "template.create":
 *
 *   from a configuration: builder boots -> ready -> freeze -> published
 *   from a snapshot:      the file is copied into the store, with all that it
 *                         builds on in one -> published
 *   from a machine:       frozen while it runs; the frozen copy makes the base
 *                         and writes the file -> published
 *   then all:            zygote -> ready -> answer
 *
 * The name is taken at once; whatever fails, it is free again and nothing is
 * left in the state directory.
 */

struct creation {
	struct daemon *d;
	struct request *r;
	struct template *t;
	struct machine_entry *builder; /* NULL: none, or no more */
	struct helper *copier;
	struct writer *writer; /* until it has written */
	struct store_new store;
	struct store_meta meta;
	struct ready ready;
	int file;   /* owned: the snapshot being written */
	int source; /* owned: the client's snapshot */
	bool published, over;
	uint64_t began, step; /* now_ns() */
	struct deadline late;
	struct {
		uint32_t boot, ready, freeze, zygote, pause;
	} us;
};

static void release(struct creation *c)
{
	struct daemon *d = c->d;

	deadline_clear(&d->deadlines, &c->late);
	c->t->creation = NULL;
	if (c->copier)
		helper_cancel(d, c->copier);
	if (c->writer) {
		const struct err e = {.code = -ECANCELED,
			.msg = "the template is not wanted"};

		writer_cancel(d, c->writer, &e);
	}
	store_abort(d->state_fd, &c->store);
	if (c->file >= 0)
		(void)close(c->file);
	if (c->source >= 0)
		(void)close(c->source);
	free(c->meta.labels);
	free(c->meta.disks);
	free(c->meta.remote);
	daemon_bury(d, c);
}

static void failed(struct creation *c, const struct err *e)
{
	struct template *t = c->t;
	struct machine_entry *b = c->builder;
	struct daemon *d = c->d;
	struct request *r = c->r;
	char name[NAME_LEN];
	struct err why = *e;

	/* Ending the builder ends its pending calls, which come here, too. */
	if (c->over)
		return;
	c->over = true;
	(void)snprintf(name, sizeof(name), "%s", t->name);
	(void)snprintf(t->error, sizeof(t->error), "%.290s", why.msg);
	c->builder = NULL;
	if (t->state != TEMPLATE_FAILED)
		events_template(d, "template.failed", t);
	if (c->published)
		store_remove(d->state_fd, name);
	release(c);
	if (b)
		machine_discard(d, b);
	template_drop(d, t, &why);
	request_fail(r, &why);
}

void creation_failed(
	struct daemon *d, struct template *t, const struct err *why)
{
	(void)d;
	if (t->creation)
		failed(t->creation, why);
}

static void creation_late(struct daemon *d, struct deadline *dl)
{
	struct creation *c = container_of(dl, struct creation, late);
	struct err e = {0};

	(void)d;
	err_set(&e, -ETIMEDOUT, "template \"%s\" was not ready in time",
		c->t->name);
	failed(c, &e);
}

void creation_ready(struct daemon *d, struct template *t)
{
	struct creation *c = t->creation;
	char uuid[SNAP_UUID_STR];
	msgpack_packer *p;

	if (!c)
		return;
	c->us.zygote = us_since(c->step);
	snap_uuid_str(&t->uuid, uuid);
	p = request_begin(c->r);
	(void)msgpack_pack_map(p, 4);
	mp_key_str(p, "name", t->name);
	mp_key_str(p, "uuid", uuid);
	mp_key_u64(p, "memory", t->cfg.memory);
	mp_str(p, "us");
	(void)msgpack_pack_map(p, 6);
	mp_key_u64(p, "boot", c->us.boot);
	mp_key_u64(p, "ready", c->us.ready);
	mp_key_u64(p, "freeze", c->us.freeze);
	mp_key_u64(p, "zygote", c->us.zygote);
	mp_key_u64(p, "pause", c->us.pause);
	mp_key_u64(p, "total", us_since(c->began));
	histogram_add(
		&d->metrics.hist[HIST_TEMPLATE_CREATE], us_since(c->began));
	request_end(c->r);
	events_template(d, "template.created", t);
	release(c);
}

/* The snapshot is complete: into the store with it, and a zygote. */
static void publish(struct creation *c)
{
	struct daemon *d = c->d;
	struct template *t = c->t;
	struct err e = {0};
	int r = store_commit(d->state_fd, &c->store, &c->meta, &e);

	if (r) {
		failed(c, &e);
		return;
	}
	c->published = true;
	/* The descriptor that was written through goes; a reader comes. */
	(void)close(c->file);
	c->file = -1;
	free(c->meta.labels);
	free(c->meta.disks);
	free(c->meta.remote);
	memset(&c->meta, 0, sizeof(c->meta));
	r = store_load(d->state_fd, t->name, &c->meta, &t->snap_fd, &e);
	if (!r)
		r = template_open_disks(d, t, &c->meta, &e);
	if (r) {
		failed(c, &e);
		return;
	}
	t->labels = c->meta.labels;
	c->meta.labels = NULL;
	t->state = TEMPLATE_LOADING;
	c->step = now_ns();
	zygote_start(d, t);
}

static void frozen(
	struct daemon *d, void *arg, struct ctl_packet *p, const struct err *e)
{
	struct creation *c = arg;
	struct machine_entry *b = c->builder;

	if (!p) {
		failed(c, e);
		return;
	}
	c->us.freeze = us_since(c->step);
	if (ctl_fd(p, CTL_FD_BASE, 0) >= 0)
		zygote_keep_base(c->t, p);
	c->t->base_bytes = p->msg.frozen.base_bytes;
	c->builder = NULL;
	machine_discard(d, b);
	publish(c);
}

static void builder_started(struct daemon *d, void *arg,
	struct machine_entry *m, const struct start_times *us,
	const struct err *e)
{
	struct creation *c = arg;
	struct ctl_msg msg = {.type = CTL_FREEZE};
	struct err why = {0};

	if (c->over)
		return;
	c->builder = m;
	if (e) {
		failed(c, e);
		return;
	}
	c->us.boot = us->build;
	c->us.ready = us->ready;
	c->step = now_ns();
	if (proc_call(d, &m->p,
		    &(struct proc_request){.m = &msg,
			    .fds = &(struct ctl_fd){c->file, CTL_FD_OUTPUT, 0},
			    .nfds = 1,
			    .timeout_ms = FREEZE_MS,
			    .fn = frozen,
			    .arg = c},
		    &why))
		failed(c, &why);
}

static void copied(struct daemon *d, void *arg, const struct err *e)
{
	struct creation *c = arg;

	(void)d;
	c->copier = NULL;
	if (e) {
		failed(c, e);
		return;
	}
	c->us.freeze = us_since(c->step);
	publish(c);
}

/* A diff is in the store now; anything else is still to be copied. */
static void flattened(
	struct daemon *d, void *arg, bool was_diff, const struct err *e)
{
	struct creation *c = arg;
	struct err why = {0};

	c->copier = NULL;
	if (e || was_diff) {
		copied(d, c, e);
		return;
	}
	/* What is linked may change later: every chunk is checked against what
	 * its pager has read at the start. */
	if (c->t->paging.lazy && store_link(&c->store, c->source, c->file)) {
		copied(d, c, NULL);
		return;
	}
	c->copier = helper_copy(d, c->source, c->file, copied, c, &why);
	if (!c->copier)
		failed(c, &why);
}

/* The template opens no image twice: its zygote gets the builder's. */
static void keep_images(struct template *t, struct devfiles *f)
{
	t->files.ndisks = f->ndisks;
	memcpy(t->files.disk, f->disk, sizeof(f->disk));
	for (unsigned i = 0; i < f->ndisks; i++)
		t->files.image[i] = take_fd(&f->image[i]);
}

static int from_config(struct creation *c, struct config *cfg,
	const struct args *a, struct err *e)
{
	struct devfiles files;
	struct start s = {.cfg = &cfg->mc,
		.kind = ENTRY_BUILDER,
		.role = CTL_ROLE_BUILDER,
		.file = -1,
		.initrd = -1,
		.set = -1,
		.listener = -1,
		.files = &files,
		.ready = c->ready,
		.timeout_ms = a->timeout_ms,
		.fn = builder_started,
		.arg = c};
	char id[ID_LEN];
	int r;

	/* A guest that is frozen in the middle of its boot serves nobody. */
	if (!s.ready.kind)
		s.ready.kind =
			cfg->mc.vsock_cid ? CTL_READY_AGENT : CTL_READY_AFTER;
	if (!cfg->mc.builtin) {
		s.file = peerfile_read(
			c->d, c->r, "config.kernel", &cfg->kernel, e);
		if (s.file < 0)
			return s.file;
	}
	if (cfg->mc.initrd[0]) {
		s.initrd = peerfile_read(
			c->d, c->r, "config.initrd", &cfg->initrd, e);
		if (s.initrd < 0) {
			(void)close(s.file);
			return s.initrd;
		}
	}
	(void)snprintf(id, sizeof(id), "%s-builder", c->t->name);
	s.id = id;
	devfiles_init(&files);
	r = devfiles_of_config(c->d, c->r, cfg, c->store.dir, &files, e);
	c->t->cfg = cfg->mc;
	if (!r)
		r = starter_begin(c->d, &s, &c->builder, e);
	if (!r)
		keep_images(c->t, &files);
	devfiles_close(&files);
	if (s.file >= 0)
		(void)close(s.file);
	if (s.initrd >= 0)
		(void)close(s.initrd);
	return r;
}

/* A working set that stands beside the snapshot comes along. */
static void take_set(struct creation *c, const struct args *a)
{
	AUTO_FD fd = peerfile_set(c->d, c->r, &a->snapshot);
	struct err e = {0};

	if (fd >= 0 && store_put_set(c->store.dir, fd, &e))
		log_warning("%s", e.msg);
}

static int from_snapshot(
	struct creation *c, const struct args *a, struct err *e)
{
	struct parents *parents;
	char path[4096];
	const struct devfiles_maps maps = {.disks = a->disks};
	int r = devfiles_overrides(c->r, &maps, &c->t->files, e);

	if (r)
		return r;
	c->source = peerfile_read(c->d, c->r, "snapshot", &a->snapshot, e);
	if (c->source < 0)
		return c->source;
	take_set(c, a);
	(void)snprintf(path, sizeof(path), "%.*s", (int)a->snapshot.path.n,
		a->snapshot.path.p ? a->snapshot.path.p : "");
	parents = parents_create(
		&c->r->conn->peer, a->snapshot.path.p ? path : NULL, c->source);
	if (!parents)
		return err_set(e, -ENOMEM, "no memory for a template");
	c->copier = helper_flatten(c->d,
		&(struct helper_files){c->source, c->file, parents}, flattened,
		c, e);
	return c->copier ? 0 : e->code;
}

/* Its file is the one in the cache: what one template's pager fetches, all of
 * the snapshot's find there. */
static int from_remote(struct creation *c, const struct args *a, struct err *e)
{
	const struct devfiles_maps maps = {.disks = a->disks};
	const struct fetched *got = c->r->fetched;
	int r = devfiles_overrides(c->r, &maps, &c->t->files, e);

	if (!r)
		r = store_adopt(&c->store, got->file, e);
	if (!r && got->set >= 0 && store_put_set(c->store.dir, got->set, e))
		log_warning("%s", e->msg);
	if (r)
		return r;
	c->us.freeze = us_since(c->step);
	publish(c);
	return 0;
}

static void machine_frozen(
	struct daemon *d, void *arg, const struct ctl_split *split)
{
	struct creation *c = arg;

	(void)d;
	if (!c->over)
		c->us.pause = split->us.pause;
}

static void machine_written(
	struct daemon *d, void *arg, struct ctl_packet *p, const struct err *e)
{
	struct creation *c = arg;
	struct writer *w = c->writer;

	c->writer = NULL;
	/* The machine's own snapshots do not know of this one: its changes
	 * still count from the last of those. */
	writer_settle(d, w, false, NULL);
	if (c->over)
		return;
	if (!p) {
		failed(c, e);
		return;
	}
	c->us.freeze = us_since(c->step);
	if (ctl_fd(p, CTL_FD_BASE, 0) >= 0)
		zygote_keep_base(c->t, p);
	c->t->base_bytes = p->msg.written.base_bytes;
	publish(c);
}

/* The creation may be over by now. */
static void machine_settled(
	struct daemon *d, void *arg, const struct ctl_settled *s)
{
	(void)d;
	(void)arg;
	(void)s;
}

static int from_machine(struct creation *c, const struct args *a, struct err *e)
{
	static const struct writer_fns fns = {
		.frozen = machine_frozen,
		.written = machine_written,
		.settled = machine_settled,
	};
	struct writer_job job = {.what.live = 1,
		.how.want_base = 1,
		.output = c->file,
		.fn = &fns,
		.arg = c};
	struct machine_entry *m;
	int r = machine_get(c->d, a->machine, &m, e);

	if (!r)
		r = devfiles_overrides(c->r,
			&(struct devfiles_maps){.disks = a->disks},
			&c->t->files, e);
	if (r)
		return r;
	if (m->state != ENTRY_RUNNING && m->state != ENTRY_PAUSED)
		return err_set(e, -EBUSY, "%s: the machine is %s", m->id,
			machine_state(m));
	c->writer = writer_begin(c->d, m, &job, e);
	return c->writer ? 0 : e->code;
}

static int check(struct daemon *d, const struct args *a, struct err *e)
{
	bool snapshot = a->snapshot.path.p || a->snapshot.fd >= 0;

	if ((snapshot && a->config) ||
		(a->machine[0] && (snapshot || a->config)))
		return err_set(e, -EINVAL,
			"config, snapshot and machine: give one of them");
	if ((snapshot || a->machine[0]) && a->ready)
		return err_set(e, -EINVAL,
			"ready: a snapshot or a machine is as ready as it was");
	if (!snapshot && !a->machine[0] && a->disks)
		return err_set(e, -EINVAL,
			"disks: is for a snapshot or a machine; a "
			"configuration has devices");
	if (a->lazy && !snapshot)
		return err_set(e, -EINVAL,
			"lazy: a template that boots has all of its memory");
	if (!strcmp(a->name, "m"))
		return err_set(e, -EINVAL,
			"name: \"m\" is kept for the ids of machines");
	if (template_find(d, a->name))
		return err_set(e, -EEXIST, "template \"%s\" exists", a->name);
	return 0;
}

static struct creation *create(struct daemon *d, struct request *r,
	const struct args *a, struct err *e)
{
	struct creation *c = calloc(1, sizeof(*c));

	if (c)
		c->t = template_add(d, a->name);
	if (!c || !c->t) {
		free(c);
		err_set(e, -ENOMEM, "no memory for a template");
		return NULL;
	}
	c->d = d;
	c->r = r;
	c->file = c->source = -1;
	c->store.dir = -1;
	c->began = c->step = r->began;
	c->t->creation = c;
	c->t->state = TEMPLATE_CREATING;
	return c;
}

static struct remote_name *dup_remote(const struct remote_name *n)
{
	struct remote_name *copy = malloc(sizeof(*copy));

	if (copy)
		*copy = *n;
	return copy;
}

static int begin(struct creation *c, struct config *cfg,
	const struct template_limits *limits, const struct args *a,
	struct err *e)
{
	struct daemon *d = c->d;
	struct template *t = c->t;
	int r;

	t->cfg = cfg->mc;
	t->pool_target = c->meta.pool = a->pool;
	t->max_clones = c->meta.max_clones = limits->max_clones;
	t->invoke_ms = c->meta.invoke_ms = limits->invoke_ms;
	r = feed_opts_parse(a, &t->paging, e);
	if (r)
		return r;
	c->meta.paging = t->paging;
	c->meta.created = t->created;
	if (c->r->fetched) {
		c->meta.remote = dup_remote(&c->r->fetched->name);
		t->remote = dup_remote(&c->r->fetched->name);
		if (!c->meta.remote || !t->remote)
			return err_set(e, -ENOMEM, "no memory for a template");
	}
	c->meta.labels = config_labels_json(cfg);
	c->meta.disks = template_disks_json(cfg, a->disks);
	c->meta.uid = c->r->conn ? c->r->conn->peer.uid : geteuid();
	c->meta.gid = c->r->conn ? c->r->conn->peer.gid : getegid();
	r = store_begin(d->state_fd, t->name, &c->store, &c->file, e);
	if (r)
		return r;
	deadline_set(&d->deadlines, &c->late,
		now_ns() + a->timeout_ms * 1000000, creation_late);
	if (a->machine[0])
		return from_machine(c, a, e);
	if (c->r->fetched)
		return from_remote(c, a, e);
	if (a->snapshot.path.p || a->snapshot.fd >= 0)
		return from_snapshot(c, a, e);
	return from_config(c, cfg, a, e);
}

int template_create_method(
	struct daemon *d, struct request *r, struct args *a, struct err *e)
{
	struct template_limits limits;
	struct config cfg;
	struct creation *c;
	struct ready ready = {0};
	int rc = check(d, a, e);

	if (!rc)
		rc = config_parse(a->config, &cfg, e);
	if (!rc)
		rc = ready_parse(a->ready, &ready, e);
	if (!rc)
		rc = limits_parse(a->limits, &limits, e);
	if (rc)
		return rc;
	c = create(d, r, a, e);
	if (!c)
		return e->code;
	c->ready = ready;
	rc = begin(c, &cfg, &limits, a, e);
	if (rc) {
		struct template *t = c->t;

		release(c);
		template_drop(d, t, e);
	}
	return rc;
}
