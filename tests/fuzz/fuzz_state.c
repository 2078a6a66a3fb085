/* State sections of every device and of the rest of a machine: the first byte
 * chooses the table, the rest is what a hostile snapshot file would carry. What
 * loads must save, and load again to the same bytes. */
#include "core/device.h"
#include "core/vcpu.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void round_trip(const struct st_desc *d, const void *state)
{
	void *again = calloc(1, d->size);
	msgpack_sbuffer a, b;
	struct err e;

	msgpack_sbuffer_init(&a);
	msgpack_sbuffer_init(&b);
	if (!again || st_save(d, state, &a) ||
		st_load(d, again, a.data, a.size, &e) ||
		st_save(d, again, &b) || a.size != b.size ||
		memcmp(a.data, b.data, a.size) != 0)
		abort();
	msgpack_sbuffer_destroy(&a);
	msgpack_sbuffer_destroy(&b);
	free(again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const struct st_desc *const others[] = {
		&machine_config_desc, &machine_state_desc, &vcpu_state_desc};
	const struct st_desc *d;
	unsigned n = 0, i;
	struct err e;
	void *state;

	while (device_types[n])
		n++;
	if (!size)
		return 0;
	i = data[0] % (n + (unsigned)ARRAY_SIZE(others));
	d = i < n ? device_types[i]->state : others[i - n];
	state = calloc(1, d->size);
	if (state && !st_load(d, state, data + 1, size - 1, &e))
		round_trip(d, state);
	free(state);
	return 0;
}
