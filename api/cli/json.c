/* msgpack to JSON and back. */
#include "api/cli/cli.h"
#include "core/mp.h"

#include <errno.h>
#include <string.h>

static const char b64[] =
	"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/* Bytes that are no text: "base64:...". */
static json_t *base64(const char *data, size_t len)
{
	const uint8_t *p = (const uint8_t *)data;
	char *s = malloc(8 + (len + 2) / 3 * 4);
	json_t *j;
	size_t n = 7;

	if (!s)
		return NULL;
	memcpy(s, "base64:", 7);
	for (size_t i = 0; i < len; i += 3) {
		uint32_t v = (uint32_t)p[i] << 16;

		v |= i + 1 < len ? (uint32_t)p[i + 1] << 8 : 0;
		v |= i + 2 < len ? p[i + 2] : 0;
		s[n++] = b64[v >> 18];
		s[n++] = b64[v >> 12 & 63];
		s[n++] = i + 1 < len ? b64[v >> 6 & 63] : '=';
		s[n++] = i + 2 < len ? b64[v & 63] : '=';
	}
	j = json_stringn(s, n);
	free(s);
	return j;
}

static json_t *text(const char *data, size_t len)
{
	json_t *j = json_stringn(data, len);

	return j ? j : base64(data, len);
}

/* JSON numbers of jansson are signed; a double would lose digits. */
static json_t *unsigned_of(uint64_t v)
{
	char s[24];

	if (v <= INT64_MAX)
		return json_integer((json_int_t)v);
	(void)snprintf(s, sizeof(s), "%llu", (unsigned long long)v);
	return json_string(s);
}

static json_t *array_of(const msgpack_object_array *a)
{
	json_t *j = json_array();

	for (uint32_t i = 0; i < a->size; i++)
		json_array_append_new(j, json_of(&a->ptr[i]));
	return j;
}

static json_t *map_of(const msgpack_object_map *m)
{
	json_t *j = json_object();

	for (uint32_t i = 0; i < m->size; i++) {
		const msgpack_object *k = &m->ptr[i].key;
		char key[256];

		if (k->type != MSGPACK_OBJECT_STR ||
			k->via.str.size >= sizeof(key))
			continue;
		memcpy(key, k->via.str.ptr, k->via.str.size);
		key[k->via.str.size] = 0;
		json_object_set_new(j, key, json_of(&m->ptr[i].val));
	}
	return j;
}

json_t *json_of(const msgpack_object *o)
{
	switch (o->type) {
	case MSGPACK_OBJECT_BOOLEAN:
		return json_boolean(o->via.boolean);
	case MSGPACK_OBJECT_POSITIVE_INTEGER:
		return unsigned_of(o->via.u64);
	case MSGPACK_OBJECT_NEGATIVE_INTEGER:
		return json_integer(o->via.i64);
	case MSGPACK_OBJECT_FLOAT32:
	case MSGPACK_OBJECT_FLOAT64:
		return json_real(o->via.f64);
	case MSGPACK_OBJECT_STR:
		return text(o->via.str.ptr, o->via.str.size);
	case MSGPACK_OBJECT_BIN:
		return text(o->via.bin.ptr, o->via.bin.size);
	case MSGPACK_OBJECT_ARRAY:
		return array_of(&o->via.array);
	case MSGPACK_OBJECT_MAP:
		return map_of(&o->via.map);
	case MSGPACK_OBJECT_NIL:
	case MSGPACK_OBJECT_EXT:
	default:
		return json_null();
	}
}

static int pack_object(msgpack_packer *p, const json_t *j)
{
	/* The iterator's type is not const, the object is not changed. */
	json_t *o = (json_t *)(uintptr_t)j;
	const char *key;
	json_t *v;
	int rc = 0;

	(void)msgpack_pack_map(p, json_object_size(j));
	json_object_foreach(o, key, v)
	{
		mp_str(p, key);
		rc = json_pack_value(p, v);
		if (rc)
			break;
	}
	return rc;
}

int json_pack_value(msgpack_packer *p, const json_t *j)
{
	int rc = 0;

	switch (json_typeof(j)) {
	case JSON_OBJECT:
		return pack_object(p, j);
	case JSON_ARRAY:
		(void)msgpack_pack_array(p, json_array_size(j));
		for (size_t i = 0; !rc && i < json_array_size(j); i++)
			rc = json_pack_value(p, json_array_get(j, i));
		return rc;
	case JSON_STRING:
		mp_strn(p, json_string_value(j), json_string_length(j));
		return 0;
	case JSON_INTEGER:
		(void)msgpack_pack_int64(p, json_integer_value(j));
		return 0;
	case JSON_REAL:
		(void)msgpack_pack_double(p, json_real_value(j));
		return 0;
	case JSON_TRUE:
		(void)msgpack_pack_true(p);
		return 0;
	case JSON_FALSE:
		(void)msgpack_pack_false(p);
		return 0;
	case JSON_NULL:
		(void)msgpack_pack_nil(p);
		return 0;
	default:
		return -EINVAL;
	}
}

int json_print(const struct cli *c, const msgpack_object *o)
{
	json_t *j = json_of(o);
	int rc = -1;

	if (j)
		rc = json_dumpf(j, c->out,
			JSON_INDENT(2) | JSON_ENCODE_ANY |
				JSON_REAL_PRECISION(9));
	json_decref(j);
	if (rc || fputc('\n', c->out) == EOF)
		return cli_fail(c, EXIT_FAILED, "cannot write JSON to stdout");
	return EXIT_DONE;
}
