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
