#include "api/daemon/config.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#define DEFAULT_MEMORY (128 * MIB)
#define MIN_MEMORY     (32 * MIB)
#define MAX_MEMORY     (1024 * GIB)
#define MEMORY_STEP    (2 * MIB)

static int parse_kernel(const msgpack_object *v, const char *path,
	struct config *c, struct err *e)
{
	if (mp_str_eq(v, "builtin"))
		return 0;
	c->mc.builtin = 0;
	if (v->type == MSGPACK_OBJECT_STR)
		(void)snprintf(c->mc.kernel, sizeof(c->mc.kernel), "%.*s",
			(int)v->via.str.size, v->via.str.ptr);
	else
		(void)snprintf(
			c->mc.kernel, sizeof(c->mc.kernel), "descriptor");
	return param_path(v, path, &c->kernel, e);
}

static int parse_initrd(const msgpack_object *v, const char *path,
	struct config *c, struct err *e)
{
	if (v->type == MSGPACK_OBJECT_STR)
		(void)snprintf(c->mc.initrd, sizeof(c->mc.initrd), "%.*s",
			(int)v->via.str.size, v->via.str.ptr);
	else
		(void)snprintf(
			c->mc.initrd, sizeof(c->mc.initrd), "descriptor");
	return param_path(v, path, &c->initrd, e);
}

static int parse_cmdline(const msgpack_object *v, const char *path,
	struct config *c, struct err *e)
{
	struct text t = {0};
	int r = param_text(v, path, sizeof(c->mc.cmdline) - 1, &t, e);

	if (!r)
		memcpy(c->mc.cmdline, t.p, t.n);
	return r;
}

static int parse_memory(const msgpack_object *v, const char *path,
	struct config *c, struct err *e)
{
	uint64_t bytes = 0;
	int r;

	if (v->type == MSGPACK_OBJECT_STR) {
		char s[32];

		(void)snprintf(s, sizeof(s), "%.*s",
			(int)min_u64(v->via.str.size, 31), v->via.str.ptr);
		if (v->via.str.size > 31 || parse_size(s, &bytes))
			return err_set(e, -EINVAL,
				"%s: \"%s\" is not a size like 128M or 4G",
				path, s);
	} else {
		r = param_uint(v, path, 0, UINT64_MAX, &bytes, e);
		if (r)
			return r;
	}
	if (bytes < MIN_MEMORY || bytes > MAX_MEMORY || bytes % MEMORY_STEP)
		return err_set(e, -EINVAL,
			"%s: must be %llu MiB to %llu GiB, a multiple of 2 MiB",
			path, (unsigned long long)(MIN_MEMORY / MIB),
			(unsigned long long)(MAX_MEMORY / GIB));
	c->mc.memory = bytes;
	return 0;
}

static int parse_cpus(const msgpack_object *v, const char *path,
	struct config *c, struct err *e)
{
	uint64_t n = 0;
	int r = param_uint(v, path, 1, MACHINE_MAX_CPUS, &n, e);

	c->mc.cpus = (uint32_t)n;
	return r;
}

static int parse_unsupported(const msgpack_object *v, const char *path,
	struct config *c, struct err *e)
{
	(void)v;
	(void)c;
	return err_set(
		e, -EOPNOTSUPP, "%s: this thaw does not support it yet", path);
}

static int parse_labels(const msgpack_object *v, const char *path,
	struct config *c, struct err *e)
{
	struct text t;

	if (v->type != MSGPACK_OBJECT_MAP)
		return err_set(e, -EINVAL, "%s: must be a map", path);
	for (uint32_t i = 0; i < v->via.map.size; i++) {
		const msgpack_object_kv *kv = &v->via.map.ptr[i];
		int r = param_text(&kv->key, path, 256, &t, e);

		if (!r)
			r = param_text(&kv->val, path, 4096, &t, e);
		if (r)
			return r;
	}
	c->labels = v;
	return 0;
}

int config_parse_map(const msgpack_object *o, const char *where,
	const struct config_key *keys, unsigned n, struct config *c,
	struct err *e)
{
	char path[128];

	if (o->type != MSGPACK_OBJECT_MAP)
		return err_set(e, -EINVAL, "%s: must be a map",
			*where ? where : "config");
	for (uint32_t i = 0; i < o->via.map.size; i++) {
		const msgpack_object_kv *kv = &o->via.map.ptr[i];
		unsigned k = 0;
		int r;

		(void)snprintf(path, sizeof(path), "%s%s%.*s", where,
			*where ? "." : "",
			kv->key.type == MSGPACK_OBJECT_STR
				? (int)min_u64(kv->key.via.str.size, 64)
				: 1,
			kv->key.type == MSGPACK_OBJECT_STR ? kv->key.via.str.ptr
							   : "?");
		while (k < n && !mp_str_eq(&kv->key, keys[k].key))
			k++;
		if (k == n)
			return err_set(e, -EINVAL, "%s: unknown key", path);
		r = keys[k].parse(&kv->val, path, c, e);
		if (r)
			return r;
	}
	return 0;
}

const struct config_key config_keys[] = {
	{"kernel", "path", "\"builtin\"",
		"What boots: a Linux kernel (bzImage or ELF), a guest of your "
		"own (see functions.md), or `\"builtin\"` for the guest that "
		"thaw brings along.",
		parse_kernel},
	{"initrd", "path", "none",
		"The first root file system of a kernel of your own.",
		parse_initrd},
	{"cmdline", "string", "\"\"",
		"The kernel's command line. A kernel of your own also gets "
		"`console=ttyS0 panic=-1 reboot=k pci=off`, each unless the "
		"line has "
		"its own.",
		parse_cmdline},
	{"memory", "size or bytes", "\"128M\"",
		"Guest memory, a multiple of 2 MiB from 32M on.", parse_memory},
	{"cpus", "number", "1", "Virtual processors, 1 to 32.", parse_cpus},
	{"cpu_template", "string", "none", "Refused: not supported yet.",
		parse_unsupported},
	{"devices", "array of maps", "one vsock",
		"The devices, see below. An empty array: none; without a vsock "
		"there is no agent.",
		config_parse_devices},
	{"labels", "map of strings", "none",
		"Kept with a template and shown again.", parse_labels},
};
const unsigned nconfig_keys = ARRAY_SIZE(config_keys);

int config_parse(const msgpack_object *o, struct config *c, struct err *e)
{
	int r = 0;

	memset(c, 0, sizeof(*c));
	c->kernel.fd = -1;
	c->initrd.fd = -1;
	c->mc.memory = DEFAULT_MEMORY;
	c->mc.cpus = 1;
	c->mc.builtin = 1;
	c->mc.vsock_cid = CONFIG_DEFAULT_CID;
	(void)snprintf(c->mc.kernel, sizeof(c->mc.kernel), "builtin");
	if (o)
		r = config_parse_map(o, "", config_keys, nconfig_keys, c, e);
	if (!r && c->mc.initrd[0] && c->mc.builtin)
		return err_set(e, -EINVAL,
			"initrd: the built-in guest has no use for one; name a "
			"kernel");
	return r;
}

char *config_labels_json(const struct config *c)
{
	json_t *j;
	char *text;

	if (!c->labels)
		return NULL;
	j = json_object();
	for (uint32_t i = 0; j && i < c->labels->via.map.size; i++) {
		const msgpack_object_kv *kv = &c->labels->via.map.ptr[i];
		char key[257];

		(void)snprintf(key, sizeof(key), "%.*s",
			(int)kv->key.via.str.size, kv->key.via.str.ptr);
		/* What is not UTF-8 is left out. */
		if (json_object_set_new(j, key,
			    json_stringn(
				    kv->val.via.str.ptr, kv->val.via.str.size)))
			continue;
	}
	text = json_dumps(j, JSON_COMPACT);
	json_decref(j);
	return text;
}

/* "--ready 0.5" is a fraction. */
static int ready_seconds(const msgpack_object *o, uint32_t *ms, struct err *e)
{
	uint64_t s = 0;
	int rc;

	if ((o->type == MSGPACK_OBJECT_FLOAT64 ||
		    o->type == MSGPACK_OBJECT_FLOAT32) &&
		o->via.f64 >= 0 && o->via.f64 <= 3600) {
		*ms = (uint32_t)(o->via.f64 * 1000 + 0.5);
		return 0;
	}
	rc = param_uint(o, "ready.seconds", 0, 3600, &s, e);
	*ms = (uint32_t)(s * 1000);
	return rc;
}

int ready_parse(const msgpack_object *o, struct ready *r, struct err *e)
{
	const msgpack_object *text = mp_get(o, "text");
	const msgpack_object *seconds = mp_get(o, "seconds");
	struct text t = {0};
	int rc;

	memset(r, 0, sizeof(*r));
	if (!o)
		return 0;
	if (mp_str_eq(o, "agent")) {
		r->kind = CTL_READY_AGENT;
		return 0;
	}
	if (o->type != MSGPACK_OBJECT_MAP || o->via.map.size != 1 ||
		(!text && !seconds))
		return err_set(e, -EINVAL,
			"ready: must be \"agent\", {\"text\": string} or "
			"{\"seconds\": number}");
	if (seconds) {
		r->kind = CTL_READY_AFTER;
		return ready_seconds(seconds, &r->after_ms, e);
	}
	rc = param_text(text, "ready.text", sizeof(r->text) - 1, &t, e);
	if (!rc && !t.n)
		return err_set(e, -EINVAL, "ready.text: is empty");
	if (!rc)
		memcpy(r->text, t.p, t.n);
	r->kind = CTL_READY_TEXT;
	return rc;
}

int limits_parse(
	const msgpack_object *o, struct template_limits *l, struct err *e)
{
	memset(l, 0, sizeof(*l));
	if (!o)
		return 0;
	if (o->type != MSGPACK_OBJECT_MAP)
		return err_set(e, -EINVAL, "limits: must be a map");
	for (uint32_t i = 0; i < o->via.map.size; i++) {
		const msgpack_object_kv *kv = &o->via.map.ptr[i];
		int r;

		if (mp_str_eq(&kv->key, "max_clones"))
			r = param_uint(&kv->val, "limits.max_clones", 1,
				1000000, &l->max_clones, e);
		else if (mp_str_eq(&kv->key, "invoke_ms"))
			r = param_uint(&kv->val, "limits.invoke_ms", 1, 3600000,
				&l->invoke_ms, e);
		else
			r = err_set(e, -EINVAL,
				"limits: unknown key (max_clones and invoke_ms "
				"are known)");
		if (r)
			return r;
	}
	return 0;
}
