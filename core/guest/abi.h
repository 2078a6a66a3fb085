/*
 * What the built-in guest and the machine agree on beyond the standards
 * (Linux 64-bit boot protocol, virtio 1.2). Included by both sides.
 */
#ifndef THAW_CORE_GUEST_ABI_H
#define THAW_CORE_GUEST_ABI_H

#include <stdint.h>

/*
 * The door: two I/O ports.
 *
 * DOOR_WAIT, 32-bit write of a time in microseconds (DOOR_FOREVER: no limit):
 * "look at every queue; then let me sleep until a device has used a buffer or
 * the time is over". The vCPU leaves KVM_RUN, so no interrupt is delivered: a
 * guest that sleeps here runs with interrupts masked and polls its rings when
 * it wakes. Waking early is always allowed. A device may have used a buffer
 * between the guest's last look and the write: the machine counts, so that
 * such a wait returns at once.
 *
 * A write also counts as a notification of every virtqueue. Once a guest
 * has written DOOR_WAIT, devices set VIRTQ_USED_F_NO_NOTIFY.
 *
 * Why: where KVM is software, an interrupt with hlt and iretq costs the guest
 * several hundred emulated or trapped instructions; a port write costs one
 * exit, from CPL 3 too. And a machine asleep at the door is out of KVM_RUN
 * with no I/O half done, which is just what pausing needs.
 *
 * A used buffer of a queue whose avail ring has DOOR_AVAIL_F_NO_WAKE in its
 * flags (a bit that virtio leaves alone) does not end a wait. It saves a guest
 * that does not wait for its transmitted packets one exit for each of them.
 *
 * DOOR_EVENT, 32-bit write: the guest reports how it ended.
 */
#define DOOR_PORT    0x7a0
#define DOOR_WAIT    0 /* offsets from DOOR_PORT */
#define DOOR_EVENT   4
#define DOOR_SIZE    8
#define DOOR_FOREVER 0xffffffffu

#define DOOR_AVAIL_F_NO_WAKE 0x8000

#define DOOR_EV_POWEROFF 1
#define DOOR_EV_REBOOT   2
#define DOOR_EV_CRASH    3 /* struct ident.crash says more */

/*
 * The identity page: 4 KiB of guest memory, reserved in the e820 map, filled
 * by the machine before the first instruction of every boot, restore and
 * clone. The guest finds it on its command line: "thaw.ident=0x9e000".
 */
#define IDENT_GPA   0x9e000
#define IDENT_MAGIC 0x3144494e57414854ULL /* "THAWNID1" */

#define IDENT_SEED_SIZE 64

struct ident {
	uint64_t magic;
	uint8_t generation[16]; /* new for every boot, restore and clone */
	uint8_t seed[IDENT_SEED_SIZE]; /* fresh random bytes; wipe after use */
	/* Wall time = wall_ns + (kvm-clock now - clock_ns); written at go. */
	uint64_t wall_ns;  /* CLOCK_REALTIME */
	uint64_t clock_ns; /* kvm-clock at that moment */
	uint64_t tsc;      /* host TSC at that moment */
	uint32_t tsc_khz;
	uint32_t reserved;
	/* Guest to machine, before DOOR_EV_CRASH: one line of text. */
	char crash[256];
};

/* virtio-mmio windows: 4 KiB each from here, window i has GSI 5 + i. On the
 * command line: "virtio_mmio.device=4K@0xd0000000:5". */
#define VMMIO_BASE     0xd0000000ULL
#define VMMIO_SIZE     0x1000ULL
#define VMMIO_GSI_BASE 5

#define AGENT_VSOCK_PORT 1024

#define SERIAL_PORT 0x3f8
#define SERIAL_GSI  4

#endif
