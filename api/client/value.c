/* Reading results. */
#include "api/client/client.h"

#include <string.h>

const msgpack_object *thaw_get(const msgpack_object *map, const char *key)
{
	return mp_get(map, key);
}

uint64_t thaw_get_u64(
	const msgpack_object *map, const char *key, uint64_t missing)
{
	const msgpack_object *o = mp_get(map, key);

	if (!o || o->type != MSGPACK_OBJECT_POSITIVE_INTEGER)
		return missing;
	return o->via.u64;
}

int thaw_get_data(const msgpack_object *map, const char *key, const void **data,
	size_t *len)
{
	const msgpack_object *o = mp_get(map, key);

	*data = "";
	*len = 0;
	if (o && o->type == MSGPACK_OBJECT_BIN) {
		*data = o->via.bin.ptr;
		*len = o->via.bin.size;
	} else if (o && o->type == MSGPACK_OBJECT_STR) {
		*data = o->via.str.ptr;
		*len = o->via.str.size;
	} else {
		return -1;
	}
	return 0;
}

int thaw_get_str(
	const msgpack_object *map, const char *key, char *buf, size_t size)
{
	const msgpack_object *o = mp_get(map, key);
	size_t n = 0;

	if (o && o->type == MSGPACK_OBJECT_STR) {
		n = o->via.str.size < size ? o->via.str.size : size - 1;
		memcpy(buf, o->via.str.ptr, n);
	}
	buf[n] = 0;
	return o && o->type == MSGPACK_OBJECT_STR ? 0 : -1;
}
