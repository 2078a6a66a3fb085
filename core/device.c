#include "core/device.h"

/* Order matters: the interrupt controller first, since realizing a device may
 * ask it for a route. */
const struct device_ops *const device_types[] = {
	&ioapic_ops,
	&acpi_ops,
	&serial_ops,
	&vsock_ops,
	&rng_ops,
	&block_ops,
	&net_ops,
	NULL,
};

bool device_wanted(const struct device_ops *ops, const struct machine_config *c,
	uint32_t i)
{
	if (i >= (ops->max_instances ? ops->max_instances : 1))
		return false;
	return !ops->wanted || ops->wanted(c, i);
}
