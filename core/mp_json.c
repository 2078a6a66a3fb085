#include "core/mp_json.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#define JSON_MAX_DEPTH 16

static json_t *base64(const char *data, size_t len)
{
	static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijkl"
				     "mnopqrstuvwxyz0123456789+/";
	static const char prefix[] = "base64:";
	const uint8_t *p = (const uint8_t *)data;
	AUTO_FREE char *s = malloc(sizeof(prefix) + (len + 2) / 3 * 4);
	size_t n = sizeof(prefix) - 1;

	if (!s)
		return NULL;
	memcpy(s, prefix, n);
	for (size_t i = 0; data && i < len; i += 3) {
		uint32_t v = (uint32_t)p[i] << 16;

		v |= i + 1 < len ? (uint32_t)p[i + 1] << 8 : 0;
		v |= i + 2 < len ? p[i + 2] : 0;
		s[n++] = digits[v >> 18];
		s[n++] = digits[v >> 12 & 63];
		s[n++] = i + 1 < len ? digits[v >> 6 & 63] : '=';
		s[n++] = i + 2 < len ? digits[v & 63] : '=';
	}
	return json_stringn_nocheck(s, n);
}

static json_t *str_to_json(const char *s, size_t n)
{
	json_t *j = json_stringn(s ? s : "", n);

	return j ? j : base64(s, n);
}

/* Registers full of small numbers are UTF-8, but not text. */
static json_t *bin_to_json(const char *s, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		if ((uint8_t)s[i] < ' ' &&
			(!s[i] || !strchr("\n\r\t\033", s[i])))
			return base64(s, n);
	}
	return str_to_json(s, n);
}

static json_t *u64_to_json(uint64_t v)
{
	char text[24];

	if (v <= INT64_MAX)
		return json_integer((json_int_t)v);
	(void)snprintf(text, sizeof(text), "%llu", (unsigned long long)v);
	return json_string(text);
}

static json_t *array_to_json(const msgpack_object_array *a)
{
	json_t *out = json_array();

	for (uint32_t i = 0; out && i < a->size; i++) {
		if (json_array_append_new(out, mp_to_json(&a->ptr[i]))) {
			json_decref(out);
			return NULL;
		}
	}
	return out;
}

static int map_add(json_t *out, const msgpack_object_kv *kv)
{
	json_t *value = mp_to_json(&kv->val);
	json_t *key = mp_to_json(&kv->key);
	char *text = NULL;
	int rc = -1;

	if (value && key && json_typeof(key) == JSON_STRING) {
		rc = json_object_set(out, json_string_value(key), value);
	} else if (value && key) {
		text = json_dumps(key, JSON_ENCODE_ANY | JSON_COMPACT);
		rc = text ? json_object_set(out, text, value) : -1;
	}
	free(text);
	json_decref(key);
	json_decref(value);
	return rc;
}

static json_t *map_to_json(const msgpack_object_map *m)
{
	json_t *out = json_object();

	for (uint32_t i = 0; out && i < m->size; i++) {
		if (map_add(out, &m->ptr[i])) {
			json_decref(out);
			return NULL;
		}
	}
	return out;
}

static json_t *ext_to_json(const msgpack_object_ext *x)
{
	json_t *data = base64(x->ptr, x->size);

	return data ? json_pack("{s:i,s:o}", "ext", (int)x->type, "data", data)
		    : NULL;
}

json_t *mp_to_json(const msgpack_object *o)
{
	switch (o->type) {
	case MSGPACK_OBJECT_BOOLEAN:
		return json_boolean(o->via.boolean);
	case MSGPACK_OBJECT_POSITIVE_INTEGER:
		return u64_to_json(o->via.u64);
	case MSGPACK_OBJECT_NEGATIVE_INTEGER:
		return json_integer(o->via.i64);
	case MSGPACK_OBJECT_FLOAT32:
	case MSGPACK_OBJECT_FLOAT64:
		return isfinite(o->via.f64) ? json_real(o->via.f64)
					    : json_null();
	case MSGPACK_OBJECT_STR:
		return str_to_json(o->via.str.ptr, o->via.str.size);
	case MSGPACK_OBJECT_BIN:
		return bin_to_json(o->via.bin.ptr, o->via.bin.size);
	case MSGPACK_OBJECT_ARRAY:
		return array_to_json(&o->via.array);
	case MSGPACK_OBJECT_MAP:
		return map_to_json(&o->via.map);
	case MSGPACK_OBJECT_EXT:
		return ext_to_json(&o->via.ext);
	case MSGPACK_OBJECT_NIL:
	default:
		return json_null();
	}
}

/* ---- the other way ---- */

static int pack_value(msgpack_packer *p, const json_t *j, unsigned depth);

static int pack_array(msgpack_packer *p, const json_t *j, unsigned depth)
{
	size_t n = json_array_size(j);
	int rc = msgpack_pack_array(p, n) ? -ENOMEM : 0;

	for (size_t i = 0; i < n && !rc; i++)
		rc = pack_value(p, json_array_get(j, i), depth + 1);
	return rc;
}

static int pack_object(msgpack_packer *p, json_t *j, unsigned depth)
{
	int rc = msgpack_pack_map(p, json_object_size(j)) ? -ENOMEM : 0;
	const char *key;
	json_t *value;

	json_object_foreach(j, key, value)
	{
		if (rc)
			break;
		mp_str(p, key);
		rc = pack_value(p, value, depth + 1);
	}
	return rc;
}

static int pack_value(msgpack_packer *p, const json_t *j, unsigned depth)
{
	int rc;

	if (depth > JSON_MAX_DEPTH)
		return -EINVAL;
	switch (json_typeof(j)) {
	case JSON_OBJECT:
		return pack_object(p, (json_t *)(uintptr_t)j, depth);
	case JSON_ARRAY:
		return pack_array(p, j, depth);
	case JSON_STRING:
		rc = msgpack_pack_str_with_body(
			p, json_string_value(j), json_string_length(j));
		break;
	case JSON_INTEGER:
		rc = msgpack_pack_int64(p, json_integer_value(j));
		break;
	case JSON_REAL:
		rc = msgpack_pack_double(p, json_real_value(j));
		break;
	case JSON_TRUE:
		rc = msgpack_pack_true(p);
		break;
	case JSON_FALSE:
		rc = msgpack_pack_false(p);
		break;
	case JSON_NULL:
	default:
		rc = msgpack_pack_nil(p);
		break;
	}
	return rc ? -ENOMEM : 0;
}

int mp_pack_json(msgpack_packer *p, const json_t *j)
{
	return pack_value(p, j, 1);
}
