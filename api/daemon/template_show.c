#include "api/daemon/template.h"

#include "api/daemon/events.h"
#include "api/daemon/methods.h"
#include "api/daemon/store.h"
#include "api/daemon/zygote.h"

#include <errno.h>
#include <jansson.h>

/* Methods "template.list", "template.show", "template.remove". */

static void pack_labels(const struct template *t, msgpack_packer *p)
{
	json_t *j = t->labels ? json_loads(t->labels, 0, NULL) : NULL;
	const char *key;
	json_t *v;

	mp_str(p, "labels");
	(void)msgpack_pack_map(p, json_object_size(j));
	json_object_foreach(j, key, v)
	{
		mp_str(p, key);
		mp_str(p, json_string_value(v) ? json_string_value(v) : "");
	}
	json_decref(j);
}

static void pack_config(const struct template *t, msgpack_packer *p)
{
	const struct machine_config *c = &t->cfg;

	mp_str(p, "config");
	(void)msgpack_pack_map(p, 6);
	mp_key_str(p, "kernel", c->builtin ? "builtin" : c->kernel);
	mp_key_str(p, "cmdline", c->cmdline);
	mp_key_u64(p, "memory", c->memory);
	mp_key_u64(p, "cpus", c->cpus);
	mp_str(p, "devices");
	(void)msgpack_pack_array(p, c->vsock_cid ? 1 : 0);
	if (c->vsock_cid) {
		(void)msgpack_pack_map(p, 2);
		mp_key_str(p, "type", "vsock");
		mp_key_u64(p, "cid", c->vsock_cid);
	}
	pack_labels(t, p);
}

static void pack_pool(const struct template *t, msgpack_packer *p)
{
	mp_str(p, "pool");
	(void)msgpack_pack_map(p, 3);
	mp_key_u64(p, "target", t->pool_target);
	mp_key_u64(p, "parked", t->nparked);
	mp_key_u64(p, "filling", t->nfilling);
}

static void pack_counters(const struct template *t, msgpack_packer *p)
{
	mp_str(p, "counters");
	(void)msgpack_pack_map(p, 4);
	mp_key_u64(p, "clones_pooled", t->made_pooled);
	mp_key_u64(p, "clones_fresh", t->made_fresh);
	mp_key_u64(p, "clones_failed", t->failed);
	mp_key_u64(p, "invokes", t->invokes);
}

static void pack_template(const struct template *t, msgpack_packer *p)
{
	static const char *const states[] = {
		[TEMPLATE_CREATING] = "loading",
		[TEMPLATE_LOADING] = "loading",
		[TEMPLATE_READY] = "ready",
		[TEMPLATE_FAILED] = "failed",
	};
	uint32_t n = 11;
	char uuid[SNAP_UUID_STR], url[REMOTE_URL_MAX];

	n += t->error[0] ? 1 : 0;
	n += t->feed ? 1 : 0;
	n += t->remote ? 1 : 0;
	n += t->first_answer_us ? 1 : 0;
	snap_uuid_str(&t->uuid, uuid);
	(void)msgpack_pack_map(p, n);
	mp_key_str(p, "name", t->name);
	mp_key_str(p, "uuid", uuid);
	mp_key_str(p, "state", states[t->state]);
	mp_key_u64(p, "memory", t->cfg.memory);
	mp_key_u64(p, "base_bytes", t->base_bytes);
	pack_pool(t, p);
	mp_key_u64(p, "clones", template_clones(t));
	mp_key_u64(p, "pid", t->z ? (uint64_t)t->z->p.pid : 0);
	mp_key_u64(p, "created_ns", t->created);
	pack_config(t, p);
	pack_counters(t, p);
	if (t->first_answer_us)
		mp_key_u64(p, "first_answer_us", t->first_answer_us);
	if (t->remote) {
		remote_url(t->remote, url);
		mp_key_str(p, "remote", url);
	}
	if (t->feed)
		feed_pack(t->feed, p);
	if (t->error[0])
		mp_key_str(p, "error", t->error);
}

int template_list_method(
	struct daemon *d, struct request *r, struct args *a, struct err *e)
{
	msgpack_packer *p = request_begin(r);

	(void)a;
	(void)e;
	(void)msgpack_pack_map(p, 1);
	mp_str(p, "templates");
	(void)msgpack_pack_array(p, d->ntemplates);
	list_for_each(it, &d->templates)
		pack_template(container_of(it, struct template, all), p);
	request_end(r);
	return 0;
}

int template_show_method(
	struct daemon *d, struct request *r, struct args *a, struct err *e)
{
	struct template *t = template_find(d, a->name);

	if (!t)
		return err_set(e, -ENOENT, "no template \"%s\"", a->name);
	pack_template(t, request_begin(r));
	request_end(r);
	return 0;
}

int template_remove_method(
	struct daemon *d, struct request *r, struct args *a, struct err *e)
{
	struct err why = {.code = -ESRCH, .msg = "the template was removed"};
	struct template *t = template_find(d, a->name);
	msgpack_packer *p;

	if (!t)
		return err_set(e, -ENOENT, "no template \"%s\"", a->name);
	if (t->creation)
		return err_set(
			e, -EBUSY, "template \"%s\" is being created", a->name);
	if (template_clones(t) && !a->force)
		return err_set(e, -EBUSY,
			"template \"%s\" has %u clones; stop them, or use "
			"force",
			a->name, template_clones(t));
	store_remove(d->state_fd, t->name);
	events_template(d, "template.removed", t);
	template_drop(d, t, &why);
	p = request_begin(r);
	(void)msgpack_pack_map(p, 1);
	mp_key_str(p, "name", a->name);
	request_end(r);
	return 0;
}
