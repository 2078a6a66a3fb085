/* The entropy device, and with it the transport, against a hostile driver. */
#include "tests/fuzz/device_steps.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct machine_config cfg = {.memory = RIG_MEMORY, .rng = 1};
	static struct steps s;
	struct machine_fds fds;

	memset(&fds, 0xff, sizeof(fds));
	memset(&s, 0, sizeof(s));
	s.p = data;
	s.n = size;
	vrig_init(&s.r, &rng_ops, &cfg, &fds);
	s.features = s.r.vd->features;
	steps_run(&s);
	vrig_fini(&s.r);
	return 0;
}
