/* Limits of devices that a configuration is checked against. */
#ifndef THAW_CORE_DEVICES_LIMITS_H
#define THAW_CORE_DEVICES_LIMITS_H

#define BLOCK_MAX_QUEUES 4u
/* virtio 1.2 section 5.1.4.1; also the least that IPv4 asks of a link. */
#define NET_MIN_MTU 68u

/* virtio-mmio windows: one each, the same in every machine, so that a snapshot
 * needs no map of them. vsock has 0, rng has 1. */
#define BLOCK_FIRST_SLOT 2u
#define NET_FIRST_SLOT   10u

#endif
