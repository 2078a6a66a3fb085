/*
 * msgpack <-> JSON, for people and for options given as JSON.
 *
 * To JSON: bytes (bin) that are text become a string, others "base64:..", and
 * so does text that is not UTF-8; a number above 2^63 - 1, which JSON libraries
 * cannot hold, becomes a decimal string; map keys that are no strings are
 * printed as JSON text; ext becomes {"ext": type, "data": "base64:.."}.
 */
#ifndef THAW_CORE_MP_JSON_H
#define THAW_CORE_MP_JSON_H

#include "core/mp.h"

#include <jansson.h>

/* A new reference, NULL for lack of memory. The object went through
 * mp_check(), so its depth is bounded. */
json_t *mp_to_json(const msgpack_object *o) MUST_USE;

/* Pack a JSON value; -ENOMEM, or -EINVAL when deeper than 16. */
int mp_pack_json(msgpack_packer *p, const json_t *j) MUST_USE;

#endif
