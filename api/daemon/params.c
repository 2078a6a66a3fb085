#include "api/daemon/params.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

static const char *type_name(const msgpack_object *o)
{
	switch (o->type) {
	case MSGPACK_OBJECT_NIL:
		return "nil";
	case MSGPACK_OBJECT_BOOLEAN:
		return "a boolean";
	case MSGPACK_OBJECT_POSITIVE_INTEGER:
	case MSGPACK_OBJECT_NEGATIVE_INTEGER:
		return "a number";
	case MSGPACK_OBJECT_FLOAT32:
	case MSGPACK_OBJECT_FLOAT64:
		return "a fraction";
	case MSGPACK_OBJECT_STR:
		return "a string";
	case MSGPACK_OBJECT_ARRAY:
		return "an array";
	case MSGPACK_OBJECT_MAP:
		return "a map";
	case MSGPACK_OBJECT_BIN:
		return "binary data";
	case MSGPACK_OBJECT_EXT:
	default:
		return "an extension";
	}
}

static int wrong(const msgpack_object *o, const char *key, const char *want,
	struct err *e)
{
	return err_set(
		e, -EINVAL, "%s: must be %s, not %s", key, want, type_name(o));
}

int param_uint(const msgpack_object *o, const char *key, uint64_t min,
	uint64_t max, uint64_t *v, struct err *e)
{
	if (o->type == MSGPACK_OBJECT_NEGATIVE_INTEGER)
		return err_set(e, -EINVAL,
			"%s: %lld is out of range %llu..%llu", key,
			(long long)o->via.i64, (unsigned long long)min,
			(unsigned long long)max);
	if (o->type != MSGPACK_OBJECT_POSITIVE_INTEGER)
		return wrong(o, key, "a number", e);
	if (o->via.u64 < min || o->via.u64 > max)
		return err_set(e, -EINVAL,
			"%s: %llu is out of range %llu..%llu", key,
			(unsigned long long)o->via.u64, (unsigned long long)min,
			(unsigned long long)max);
	*v = o->via.u64;
	return 0;
}

static bool is_alnum(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
	       (c >= '0' && c <= '9');
}

int param_name(const msgpack_object *o, const char *key, size_t size, char *v,
	struct err *e)
{
	const char *s;
	size_t n;

	if (o->type != MSGPACK_OBJECT_STR)
		return wrong(o, key, "a string", e);
	s = o->via.str.ptr;
	n = o->via.str.size;
	if (!n || n >= size || !is_alnum(s[0]))
		goto bad;
	for (size_t i = 0; i < n; i++) {
		if (!is_alnum(s[i]) && s[i] != '.' && s[i] != '_' &&
			s[i] != '-')
			goto bad;
	}
	memcpy(v, s, n);
	v[n] = 0;
	return 0;
bad:
	return err_set(e, -EINVAL,
		"%s: 1 to %zu letters, digits, '.', '_', '-', the first one a "
		"letter or a digit",
		key, size - 1);
}

int param_host(
	const msgpack_object *o, const char *key, char v[64], struct err *e)
{
	return param_name(o, key, 64, v, e);
}

int param_text(const msgpack_object *o, const char *key, size_t max,
	struct text *v, struct err *e)
{
	if (o->type != MSGPACK_OBJECT_STR)
		return wrong(o, key, "a string", e);
	if (o->via.str.size > max)
		return err_set(
			e, -EINVAL, "%s: longer than %zu bytes", key, max);
	if (memchr(o->via.str.ptr, 0, o->via.str.size))
		return err_set(e, -EINVAL, "%s: has a zero byte in it", key);
	v->p = o->via.str.ptr;
	v->n = o->via.str.size;
	return 0;
}

static int param_data(const msgpack_object *o, const char *key, size_t max,
	struct text *v, struct err *e)
{
	if (o->type == MSGPACK_OBJECT_BIN) {
		v->p = o->via.bin.ptr;
		v->n = o->via.bin.size;
	} else if (o->type == MSGPACK_OBJECT_STR) {
		v->p = o->via.str.ptr;
		v->n = o->via.str.size;
	} else {
		return wrong(o, key, "binary data or a string", e);
	}
	if (v->n > max)
		return err_set(e, -EINVAL, "%s: %zu bytes, at most %zu", key,
			v->n, max);
	if (!v->p)
		v->p = "";
	return 0;
}

static int param_fd(const msgpack_object *o, const char *key,
	struct path_arg *v, struct err *e)
{
	const msgpack_object *fd = mp_get(o, "fd");
	uint64_t i = 0;
	int r;

	if (!fd || o->via.map.size != 1)
		return err_set(e, -EINVAL, "%s: must be {\"fd\": number}", key);
	r = param_uint(fd, key, 0, 64, &i, e);
	v->fd = (int64_t)i;
	return r;
}

int param_path(const msgpack_object *o, const char *key, struct path_arg *v,
	struct err *e)
{
	if (o->type == MSGPACK_OBJECT_MAP)
		return param_fd(o, key, v, e);
	if (o->type != MSGPACK_OBJECT_STR)
		return wrong(o, key, "a path or {\"fd\": number}", e);
	if (!o->via.str.size || o->via.str.ptr[0] != '/')
		return err_set(e, -EINVAL,
			"%s: the path must begin with '/': the daemon does not "
			"know your directory",
			key);
	return param_text(o, key, PATH_MAX - 1, &v->path, e);
}

/* Whether it is a good one is found out by who parses it. */
static int param_source(const msgpack_object *o, const char *key,
	struct path_arg *v, struct err *e)
{
	static const char scheme[] = "tcp://";

	if (o->type == MSGPACK_OBJECT_STR && o->via.str.size > strlen(scheme) &&
		!memcmp(o->via.str.ptr, scheme, strlen(scheme)))
		return param_text(o, key, PATH_MAX - 1, &v->path, e);
	return param_path(o, key, v, e);
}

static int choice(const struct param *p, const msgpack_object *o, uint64_t *v,
	struct err *e)
{
	char list[200] = "";
	size_t n = 0;

	for (uint64_t i = 0; p->choices[i]; i++) {
		if (mp_str_eq(o, p->choices[i])) {
			*v = i;
			return 0;
		}
		if (n < sizeof(list))
			n += (size_t)snprintf(list + n, sizeof(list) - n,
				"%s\"%s\"", i ? ", " : "", p->choices[i]);
	}
	return err_set(e, -EINVAL, "%s: must be one of %s", p->name, list);
}

static int parse_one(const struct param *p, const msgpack_object *o,
	struct args *a, struct err *e)
{
	void *at = (char *)a + p->offset;

	switch (p->type) {
	case PARAM_NAME:
		return param_name(o, p->name, NAME_LEN, at, e);
	case PARAM_ID:
		return param_name(o, p->name, ID_LEN, at, e);
	case PARAM_HOST:
		return param_host(o, p->name, at, e);
	case PARAM_TEXT:
		return param_text(o, p->name, 4096, at, e);
	case PARAM_DATA:
		return param_data(o, p->name, p->max, at, e);
	case PARAM_PATH:
		return param_path(o, p->name, at, e);
	case PARAM_SOURCE:
		return param_source(o, p->name, at, e);
	case PARAM_FD:
		return param_fd(o, p->name, at, e);
	case PARAM_UINT:
		return param_uint(o, p->name, p->min, p->max, at, e);
	case PARAM_BOOL:
		if (o->type != MSGPACK_OBJECT_BOOLEAN)
			return wrong(o, p->name, "a boolean", e);
		*(uint64_t *)at = o->via.boolean;
		return 0;
	case PARAM_CHOICE:
		return choice(p, o, at, e);
	case PARAM_OBJECT:
	case PARAM_ARRAY:
		*(const msgpack_object **)at = o;
		return 0;
	case PARAM_END:
	default:
		return err_set(e, -EINVAL, "%s: unknown parameter", p->name);
	}
}

static void set_defaults(const struct param *table, struct args *a)
{
	for (const struct param *p = table; p && p->type; p++) {
		if (p->type == PARAM_UINT || p->type == PARAM_BOOL ||
			p->type == PARAM_CHOICE)
			*(uint64_t *)(void *)((char *)a + p->offset) = p->def;
	}
	a->snapshot.fd = a->path.fd = a->console.fd = a->vsock.fd = -1;
}

/* The map inside params; *map stays NULL when there is none. */
static int find_map(
	const msgpack_object *params, const msgpack_object **map, struct err *e)
{
	*map = NULL;
	if (!params || params->type == MSGPACK_OBJECT_NIL)
		return 0;
	if (params->type != MSGPACK_OBJECT_ARRAY || params->via.array.size > 1)
		return err_set(e, -EINVAL,
			"params must be an array of one map of named "
			"parameters");
	if (!params->via.array.size ||
		params->via.array.ptr[0].type == MSGPACK_OBJECT_NIL)
		return 0;
	if (params->via.array.ptr[0].type != MSGPACK_OBJECT_MAP)
		return err_set(e, -EINVAL,
			"params must hold a map of named parameters, not %s",
			type_name(&params->via.array.ptr[0]));
	*map = &params->via.array.ptr[0];
	return 0;
}

static int unknown(const msgpack_object *key, struct err *e)
{
	if (key->type != MSGPACK_OBJECT_STR)
		return err_set(
			e, -EINVAL, "a parameter's name is %s", type_name(key));
	return err_set(e, -EINVAL, "unknown parameter \"%.*s\"",
		(int)min_u64(key->via.str.size, 64), key->via.str.ptr);
}

int params_parse(const struct param *table, const msgpack_object *params,
	struct args *a, struct err *e)
{
	const msgpack_object *map;
	uint64_t seen = 0;
	int r;

	memset(a, 0, sizeof(*a));
	set_defaults(table, a);
	r = find_map(params, &map, e);
	for (uint32_t i = 0; !r && map && i < map->via.map.size; i++) {
		const msgpack_object_kv *kv = &map->via.map.ptr[i];
		const struct param *p = table;

		while (p && p->type && !mp_str_eq(&kv->key, p->name))
			p++;
		if (!p || !p->type)
			return unknown(&kv->key, e);
		if (seen & (1ULL << (p - table)))
			return err_set(e, -EINVAL, "%s: given twice", p->name);
		seen |= 1ULL << (p - table);
		r = parse_one(p, &kv->val, a, e);
	}
	for (const struct param *p = table; !r && p && p->type; p++) {
		if (p->required && !(seen & (1ULL << (p - table))))
			return err_set(e, -EINVAL,
				"parameter \"%s\" is missing", p->name);
	}
	return r;
}
