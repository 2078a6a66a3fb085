#include "api/daemon/template.h"

#include "api/daemon/birth.h"
#include "api/daemon/creation.h"
#include "api/daemon/events.h"
#include "api/daemon/store.h"
#include "api/daemon/zygote.h"
#include "core/log.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

struct template *template_find(struct daemon *d, const char *name)
{
	struct strmap_node *n = strmap_find(&d->template_by_name, name);

	return n ? container_of(n, struct template, by_name) : NULL;
}

int template_get(
	struct daemon *d, const char *name, struct template **t, struct err *e)
{
	*t = template_find(d, name);
	if (!*t)
		return err_set(e, -ENOENT, "no template \"%s\"", name);
	if ((*t)->state == TEMPLATE_CREATING)
		return err_set(
			e, -EBUSY, "template \"%s\" is being created", name);
	if ((*t)->state == TEMPLATE_FAILED)
		return err_set(e, (*t)->error_code,
			"template \"%s\" failed: %s", name, (*t)->error);
	return 0;
}

struct template *template_add(struct daemon *d, const char *name)
{
	struct template *t = calloc(1, sizeof(*t));

	if (!t)
		return NULL;
	(void)snprintf(t->name, sizeof(t->name), "%s", name);
	t->snap_fd = t->base_fd = -1;
	devfiles_init(&t->files);
	t->began = now_ns();
	t->next_number = 1;
	t->created = wall_ns();
	list_init(&t->retired);
	list_init(&t->parked);
	list_init(&t->wants);
	list_add(&d->templates, &t->all);
	strmap_add(&d->template_by_name, &t->by_name, t->name);
	d->ntemplates++;
	return t;
}

static void fail_wants(
	struct daemon *d, struct template *t, const struct err *why)
{
	while (!list_empty(&t->wants))
		want_fail(
			d, container_of(t->wants.next, struct want, link), why);
}

void template_drop(struct daemon *d, struct template *t, const struct err *why)
{
	t->pool_target = 0;
	deadline_clear(&d->deadlines, &t->retry);
	fail_wants(d, t, why);
	if (t->z)
		zygote_kill(d, t->z, why);
	while (!list_empty(&t->retired))
		zygote_kill(d,
			container_of(t->retired.next, struct zygote, link),
			why);
	/* The machines were killed with their zygotes. */
	if (t->feed)
		feed_end(d, t->feed);
	strmap_del(&d->template_by_name, &t->by_name);
	list_del(&t->all);
	d->ntemplates--;
	if (t->snap_fd >= 0)
		(void)close(t->snap_fd);
	devfiles_close(&t->files);
	if (t->base_fd >= 0)
		(void)close(t->base_fd);
	free(t->labels);
	free(t->remote);
	daemon_bury(d, t);
}

void template_failed(
	struct daemon *d, struct template *t, const struct err *why)
{
	log_error("template \"%s\": %s", t->name, why->msg);
	(void)snprintf(t->error, sizeof(t->error), "%.290s", why->msg);
	t->error_code = why->code;
	t->state = TEMPLATE_FAILED;
	events_template(d, "template.failed", t);
	fail_wants(d, t, why);
	/* Its creation, if it is still in progress, removes it. */
	creation_failed(d, t, why);
}

void template_ready(struct daemon *d, struct template *t)
{
	t->error[0] = 0;
	creation_ready(d, t);
}

void template_complete(struct daemon *d, struct template *t)
{
	struct stat st;

	if (t->base_fd >= 0 && !fstat(t->base_fd, &st))
		t->base_bytes = (uint64_t)st.st_blocks * 512;
	events_template(d, "template.complete", t);
}

void template_feed_lost(struct daemon *d, struct template *t, struct feed *f,
	const struct err *why)
{
	struct err e = *why;
	bool current = t->feed == f;

	/* Retired ones may have clones of an older feed, or of none. */
	if (t->z && t->z->feed == f)
		zygote_kill(d, t->z, &e);
	list_for_each_safe(it, &t->retired)
	{
		struct zygote *z = container_of(it, struct zygote, link);

		if (z->feed == f)
			zygote_kill(d, z, &e);
	}
	feed_end(d, f);
	if (!current)
		return;
	if (t->base_fd >= 0)
		(void)close(t->base_fd);
	t->base_fd = -1;
	zygote_lost(d, t, &e);
}

unsigned template_clones(const struct template *t)
{
	return t->nmachines - t->nparked - t->nfilling;
}

void template_leave(struct daemon *d, struct machine_entry *m)
{
	template_unpark(m);
	m->t->nmachines--;
	pool_schedule(d);
}

static void load_one(void *arg, const char *name)
{
	struct store_meta meta;
	struct daemon *d = arg;
	struct err e = {0};
	struct template *t;
	int fd = -1;

	if (strlen(name) >= NAME_LEN)
		return;
	if (store_load(d->state_fd, name, &meta, &fd, &e)) {
		log_error("template \"%s\": %s", name, e.msg);
		return;
	}
	t = template_add(d, name);
	if (!t) {
		free(meta.labels);
		free(meta.disks);
		free(meta.remote);
		(void)close(fd);
		return;
	}
	t->snap_fd = fd;
	t->labels = meta.labels;
	t->pool_target = meta.pool;
	t->max_clones = meta.max_clones;
	t->invoke_ms = meta.invoke_ms;
	t->paging = meta.paging;
	t->remote = meta.remote;
	t->created = meta.created;
	/* Its zygote will say what is missing, by name. */
	if (template_open_disks(d, t, &meta, &e))
		log_error("template \"%s\": %s", name, e.msg);
	free(meta.disks);
	t->state = TEMPLATE_LOADING;
	zygote_start(d, t);
}

void templates_load(struct daemon *d)
{
	int r = store_list(d->state_fd, load_one, d);

	if (r)
		log_error("reading the state directory: %s", strerror(-r));
}
