/* mp_check() on anything: what it accepts, msgpack-c reads with the same
 * length, and in pieces the answer is the same as at once. */
#include "core/mp.h"
#include "core/mp_json.h"

#include <errno.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A byte more at a time: the same answer, never an earlier one. */
static void in_pieces(const uint8_t *data, size_t size, int64_t whole)
{
	struct mp_walk w;
	int64_t n = 0;

	mp_walk_init(&w, &mp_default_limits);
	for (size_t len = 0; len <= size && n == 0; len++)
		n = mp_walk(&w, data, len, size);
	if (n != whole)
		abort();
}

static void unpack(const uint8_t *data, size_t size)
{
	msgpack_unpacked msg;
	json_t *j;

	if (mp_unpack(data, size, &mp_default_limits, &msg, NULL))
		abort();
	j = mp_to_json(&msg.data);
	if (!j)
		abort();
	json_decref(j);
	msgpack_unpacked_destroy(&msg);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	int64_t n = mp_check(data, size, size, &mp_default_limits);

	if (n > (int64_t)size || (n < 0 && n != -EBADMSG && n != -E2BIG))
		abort();
	if (size < 4096)
		in_pieces(data, size, n);
	if (n > 0)
		unpack(data, (size_t)n);
	return 0;
}
