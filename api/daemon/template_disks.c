/*
 * Disks of a template. Its images stay where they are and are only read; what
 * its builder wrote is in the store, one file for each disk. template.json
 * keeps the images' paths and who named them, so that the next daemon finds
 * them again with the same rights.
 */
#include "api/daemon/peerfile.h"
#include "api/daemon/template.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

static void add(json_t *list, const char *id, size_t nid, const char *path,
	size_t npath)
{
	json_t *one = json_object();

	(void)json_object_set_new(one, "id", json_stringn(id, nid));
	(void)json_object_set_new(one, "path", json_stringn(path, npath));
	(void)json_array_append_new(list, one);
}

char *template_disks_json(const struct config *c, const msgpack_object *disks)
{
	json_t *list = json_array();
	char *text = NULL;

	for (unsigned i = 0; i < c->ndisks; i++)
		add(list, c->mc.disk[i].id, strlen(c->mc.disk[i].id),
			c->disk[i].path.p ? c->disk[i].path.p : "",
			c->disk[i].path.n);
	for (uint32_t i = 0; disks && disks->type == MSGPACK_OBJECT_MAP &&
			     i < disks->via.map.size;
		i++) {
		const msgpack_object_kv *kv = &disks->via.map.ptr[i];
		bool path = kv->val.type == MSGPACK_OBJECT_STR;

		if (kv->key.type == MSGPACK_OBJECT_STR)
			add(list, kv->key.via.str.ptr, kv->key.via.str.size,
				path ? kv->val.via.str.ptr : "",
				path ? kv->val.via.str.size : 0);
	}
	if (json_array_size(list))
		text = json_dumps(list, JSON_COMPACT);
	json_decref(list);
	return text;
}

static int open_one(struct daemon *d, struct template *t,
	const struct store_meta *meta, const json_t *j, struct err *e)
{
	const char *id = json_string_value(json_object_get(j, "id"));
	const char *path = json_string_value(json_object_get(j, "path"));
	struct devfiles *f = &t->files;
	unsigned i = 0;

	if (!id || !path || strlen(id) >= MACHINE_ID_MAX)
		return err_set(e, -EBADMSG, "template.json: disks");
	while (i < f->ndisks && strcmp(f->disk[i].id, id) != 0)
		i++;
	if (i == MACHINE_MAX_DISKS)
		return err_set(e, -EBADMSG, "template.json: too many disks");
	if (i == f->ndisks) {
		(void)snprintf(f->disk[i].id, sizeof(f->disk[i].id), "%s", id);
		f->ndisks++;
	}
	if (f->layer[i] < 0)
		f->layer[i] = store_overlay(d->state_fd, t->name, id);
	if (f->image[i] >= 0)
		return 0;
	if (!path[0])
		return err_set(e, -ENOENT,
			"disk \"%s\" came as a descriptor, which a new daemon "
			"has not",
			id);
	f->image[i] = peerfile_reopen(
		d, (unsigned)meta->uid, (unsigned)meta->gid, path, e);
	if (f->image[i] < 0)
		return err_wrap(e, "disk \"%s\"", id);
	return 0;
}

int template_open_disks(struct daemon *d, struct template *t,
	const struct store_meta *meta, struct err *e)
{
	json_t *list, *one;
	size_t i;
	int r = 0;

	if (!meta->disks)
		return 0;
	list = json_loads(meta->disks, 0, NULL);
	json_array_foreach(list, i, one)
	{
		if (!r)
			r = open_one(d, t, meta, one, e);
	}
	json_decref(list);
	return r;
}
