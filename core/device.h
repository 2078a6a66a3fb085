/*
 * Devices: one file each under core/devices/, one list of them (device.c).
 *
 * A device is a struct that embeds struct device first and its saved struct
 * next to it; the saved struct has a state table (core/state.h). Host handles
 * (fds, pointers, timers) stay outside the saved struct and are made again in
 * realize(). Cold boot, restore and clone build devices by the same path:
 *
 *   create()   allocate; state as after power-on          no KVM yet
 *   (load)     st_load() over the saved struct             restore only
 *   realize()  ioeventfd, irqfd, bus ranges, loop fds      KVM VM exists
 *   resumed()  machine starts or goes on running: kick queues, arm timers
 *   quiesce()  before saving: finish what is in flight, disarm timers
 *   destroy()
 *
 * Threads: io() runs on a vCPU thread, everything else on the loop thread; a
 * device that shares data between them has a lock of its own and says so.
 */
#ifndef THAW_CORE_DEVICE_H
#define THAW_CORE_DEVICE_H

#include "core/bus.h"
#include "core/state.h"

struct machine;
struct device;
struct machine_config;

struct device_ops {
	const char *name; /* wire name of the state section: "serial" */
	uint64_t section; /* its tag in a snapshot: random, never changes */
	const struct st_desc *state;

	uint32_t max_instances; /* of this type in a machine; 0 means 1 */

	/* Does a machine with this configuration have this one? NULL: every
	 * machine has. Asked of snapshots too. */
	bool (*wanted)(const struct machine_config *c, uint32_t instance);
	/* Make a device that is wanted. */
	int (*create)(struct machine *m, uint32_t instance, struct device **out,
		struct err *e);
	void *(*saved)(struct device *d); /* the struct that .state describes */
	int (*realize)(struct device *d, struct err *e);
	void (*resumed)(struct device *d);
	int (*quiesce)(struct device *d, struct err *e);
	void (*destroy)(struct device *d);
	/* bar: as given to bus_add(); off: inside that range */
	void (*io)(struct device *d, uint32_t bar, uint64_t off, void *data,
		uint32_t len, bool write);
	/* A vCPU came to the door (core/guest/abi.h): the guest uses the door
	 * from now on, so suppress its notifications, and look at every queue.
	 * May be NULL. */
	void (*kick)(struct device *d);
	/* An fd that the device put on the machine's loop is ready. what: the
	 * number the device gave to machine_watch(). */
	void (*event)(struct device *d, uint32_t what, uint32_t events);
};

struct device {
	const struct device_ops *ops;
	struct machine *m; /* borrowed */
	uint32_t index;    /* in machine.dev[] */
	uint32_t instance; /* among those of its type; index of its section */
	uint32_t window;   /* its virtio-mmio window + 1; 0: none */
};

extern const struct device_ops ioapic_ops; /* arch/x86/ioapic.c */
extern const struct device_ops acpi_ops;   /* arch/x86/acpi_dev.c */
extern const struct device_ops serial_ops; /* devices/serial.c */
extern const struct device_ops vsock_ops;  /* devices/vsock.c */
extern const struct device_ops rng_ops;    /* devices/rng.c */
extern const struct device_ops block_ops;  /* devices/block.c */
extern const struct device_ops net_ops;    /* devices/net.c */

/* THE list: order of creation, of saving and of restoring. NULL-terminated. */
extern const struct device_ops *const device_types[];
/* Is instance number i of this type in a machine with this configuration? */
bool device_wanted(const struct device_ops *ops, const struct machine_config *c,
	uint32_t i);

#endif
