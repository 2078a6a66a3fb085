/*
 * A machine: one VM, one process. See docs/architecture.md.
 *
 * Life cycle (the calls that are legal in each state):
 *
 *   NEW      machine_init(), mem_create(); then machine_boot(), or a restore
 *            fills memory and state: no KVM object exists. A zygote stays here
 *            and forks; nothing but plain memory is inherited.
 *   BUILT    machine_realize(): VM, memory slots, vCPUs with all their state,
 *            devices. Threads exist and are paused.
 *   RUNNING  machine_resume()
 *   PAUSED   machine_pause(): every vCPU is out of KVM_RUN with its I/O
 *            completed, every device is quiesced. Saving is legal here and in
 *            NEW, nowhere else, and not while m->parked.
 *   DEAD     the guest ended or a vCPU failed: machine.end says how.
 *
 * Cold boot, restore and clone differ only in what fills memory and state in
 * NEW; from there on it is one path.
 *
 * A machine is complete with: cfg (machine_config_desc), saved
 * (machine_state_desc), cpu[i]->s (vcpu_state_desc), for every device
 * ops->saved(dev) (ops->state), and the bytes of mem. A restore is:
 * machine_init with that cfg, st_load() into those, mem_create() and the bytes,
 * machine_realize(), machine_set_identity(), machine_set_time(),
 * machine_resume(). A guest asleep at the door needs nothing more: waking it
 * early is legal, so a restored guest simply looks at its queues again.
 *
 * Threads: all functions are for the loop thread unless they say otherwise.
 */
#ifndef THAW_CORE_MACHINE_H
#define THAW_CORE_MACHINE_H

#include "core/bus.h"
#include "core/device.h"
#include "core/guest/abi.h"
#include "core/loop.h"
#include "core/mem.h"

#include <pthread.h>

#define MACHINE_MAX_CPUS    32
#define MACHINE_MAX_DEVICES 32
#define MACHINE_CMDLINE_MAX 2048
#define MACHINE_MAX_DISKS   8
#define MACHINE_MAX_NETS    8
#define MACHINE_ID_MAX      32 /* of a device, with its zero byte */
#define MACHINE_SERIAL_MAX  20 /* virtio 1.2 section 5.2.6.1 */

/* A disk; one with an empty id is not there. The files come as descriptors. */
struct machine_disk {
	char id[MACHINE_ID_MAX]; /* unique among all devices */
	char path[256];          /* name for people */
	char serial[24];         /* at most MACHINE_SERIAL_MAX bytes */
	uint32_t read_only;      /* 1: the guest is told so */
	uint32_t overlay; /* 1: writes go to a private file, not to the disk */
	uint32_t queues;  /* 1 .. BLOCK_MAX_QUEUES */
	uint32_t reserved;
};
extern const struct st_desc machine_disk_desc;

/* A network interface; one with an empty id is not there. */
struct machine_net {
	char id[MACHINE_ID_MAX];
	char tap[16]; /* name for people: the tap comes as a descriptor */
	uint8_t mac[6];
	uint16_t mtu; /* told to the guest; 0: nothing is */
};
extern const struct st_desc machine_net_desc;

/* IP addresses that an interface gets by the guest's agent. */
struct machine_ip {
	char ip[56];      /* "10.0.0.2/24", "fd00::2/64"; empty: as it is */
	char gateway[48]; /* of the default route; empty: none */
};

/* What a machine is made of. Plain data: it travels in control messages and
 * stands, as a state table, in the snapshot ("config" section). */
struct machine_config {
	uint64_t memory; /* bytes, a multiple of 2 MiB */
	uint32_t cpus;
	uint32_t vsock_cid; /* 0: no vsock device */
	uint32_t builtin;   /* 1: the kernel is the built-in guest */
	uint32_t reserved;
	char kernel[256]; /* name for people; the file comes as an fd */
	char cmdline[MACHINE_CMDLINE_MAX];
	struct machine_disk disk[MACHINE_MAX_DISKS];
	struct machine_net net[MACHINE_MAX_NETS];
	uint32_t rng; /* 1: an entropy device */
	uint32_t reserved2;
	char initrd[256]; /* as kernel; empty: none */
	uint32_t acpi;    /* 1: ACPI tables and the device behind them */
	uint32_t reserved3;
};
extern const struct st_desc machine_config_desc;
/* Its devices: do they make sense, each and together? */
int machine_devices_check(
	const struct machine_config *c, struct err *e) MUST_USE;
/* Index of the disk or interface with this id, or -1. */
int machine_find_disk(const struct machine_config *c, const char *id);
int machine_find_net(const struct machine_config *c, const char *id);

/* What belongs to no vCPU and no device. */
struct machine_saved {
	uint64_t clock_ns; /* kvm-clock when the machine was paused */
	uint64_t wall_ns;  /* CLOCK_REALTIME then; for people */
};
extern const struct st_desc machine_state_desc;

enum machine_state {
	MACHINE_NEW,
	MACHINE_BUILT,
	MACHINE_RUNNING,
	MACHINE_PAUSED,
	MACHINE_DEAD,
	MACHINE_NSTATES_
};
const char *machine_state_name(enum machine_state s);

/* How a guest ended. */
enum machine_end_kind {
	MACHINE_END_NONE,
	MACHINE_END_POWEROFF,
	MACHINE_END_REBOOT,
	MACHINE_END_CRASH,    /* the guest's own report */
	MACHINE_END_SHUTDOWN, /* triple fault */
	MACHINE_END_ERROR,    /* KVM or the VMM failed */
	MACHINE_NENDS_
};

struct machine_end {
	enum machine_end_kind kind;
	char text[300];
};

/* Identity and time: what makes a clone another machine. */
struct identity {
	uint8_t generation[16];
	uint8_t seed[IDENT_SEED_SIZE];
	uint8_t machine_id[16];
	char hostname[64];
	uint64_t wall_ns; /* handed over with the identity call */
	uint32_t vsock_cid;
};

struct vcpu;
struct arch_host; /* core/arch/x86/host.h */
struct ioapic;
struct vsock;

/* What the host puts behind the devices: owned, -1 where there is nothing. Set
 * between machine_init() and machine_realize(). */
struct machine_fds {
	int disk[MACHINE_MAX_DISKS];
	int layer[MACHINE_MAX_DISKS];   /* a frozen overlay under .overlay */
	int overlay[MACHINE_MAX_DISKS]; /* this machine's alone */
	int tap[MACHINE_MAX_NETS];
};

/* Called on each vCPU thread before its first KVM_RUN: installs the thread's
 * seccomp filter. 0 or -errno. */
typedef int vcpu_jail_fn(void *arg);

struct machine {
	enum machine_state state;
	struct machine_config cfg;
	struct machine_saved saved;
	struct mem mem;
	struct machine_fds fds;
	struct loop *loop;       /* borrowed; set before machine_realize() */
	vcpu_jail_fn *vcpu_jail; /* NULL: none; set before machine_realize() */
	void *vcpu_jail_arg;     /* borrowed */

	struct vcpu *cpu[MACHINE_MAX_CPUS]; /* owned */
	unsigned ncpus;
	struct device *dev[MACHINE_MAX_DEVICES]; /* owned */
	unsigned ndevs;
	struct bus bus;

	struct arch_host *host; /* owned: what KVM can do; machine_prepare() */
	int kvm_fd; /* borrowed, during machine_realize() only: /dev/kvm */
	int vm_fd;  /* owned, -1 in NEW */
	struct ioapic *ioapic; /* borrowed from dev[] */
	struct vsock *vsock;   /* borrowed from dev[], NULL without vsock */

	/* lock: everything that vCPU threads wait for (vcpu.c, door.c): want_*,
	 * paused and door_* here and in struct vcpu; and end. */
	pthread_mutex_t lock;
	pthread_cond_t run_cond;   /* vCPU threads wait: pause, exit, door */
	pthread_cond_t pause_cond; /* the loop thread waits: paused */
	uint64_t door_seq;         /* used-buffer events so far; see door.c */
	int door_event;            /* owned eventfd: a vCPU came to the door */
	bool parked;               /* paused by machine_park() */

	int end_event; /* owned eventfd: machine.end is set, read it */
	struct machine_end end;

	/* Addresses that the guest goes by, of interfaces that are to get
	 * others: the agent is told (core/net.h). Zero: nothing to tell. */
	uint8_t net_was[MACHINE_MAX_NETS][6];
	/* The agent must set these, or its identity call fails. */
	struct machine_ip net_ip[MACHINE_MAX_NETS];

	/* What machine_set_time() saw: the guest's TSC at a moment of wall
	 * time. A guest that is told both knows the time, however late it hears
	 * of it. tsc_khz 0: not set. */
	struct {
		uint64_t wall_ns, tsc;
		uint32_t tsc_khz;
	} told;

	/* microseconds of each step of realize, and of the last pause */
	struct {
		uint32_t vm, slots, cpus, devices;
		uint32_t stop, quiesce, state;
	} us;
};

/* Fill *m with an empty machine of this configuration: memory is not there
 * yet, devices are created. Checks the configuration. */
int machine_init(struct machine *m, const struct machine_config *cfg,
	struct err *e) MUST_USE;
void machine_destroy(struct machine *m);

/* What the configuration has to say because of this kernel (an open file);
 * before machine_init(). Refuses what is no kernel. */
int machine_probe_kernel(
	struct machine_config *cfg, int kernel_fd, struct err *e) MUST_USE;
/* Cold boot: load the kernel image (kernel_fd, or the built-in guest when -1)
 * and the initrd (-1: none) into m->mem and set the boot vCPU state. */
int machine_boot(struct machine *m, int kernel_fd, int initrd_fd,
	struct err *e) MUST_USE;

/* For a zygote, once its state is complete: ask the host what every clone would
 * ask again, and find out, in a VM that is thrown away, whether it takes this
 * state at all (-EOPNOTSUPP and why not). Optional; NEW only. */
int machine_prepare(struct machine *m, int kvm_fd, struct err *e) MUST_USE;

/* Create the VM and put all state into it. kvm_fd is /dev/kvm. The order of
 * the steps matters and is explained in machine.c. */
int machine_realize(struct machine *m, int kvm_fd, struct err *e) MUST_USE;

int machine_resume(struct machine *m, struct err *e) MUST_USE;
/* Bounded: -ETIMEDOUT when a vCPU does not come out within timeout_ms. Ends
 * with all vCPU state read into vcpu.s; after an error the machine runs on. */
int machine_pause(
	struct machine *m, uint32_t timeout_ms, struct err *e) MUST_USE;
/* Pause a clone that waits to be handed out: cheaper than machine_pause(), and
 * its timers are stopped; after an error it is of no use any more. Not a state
 * to save in. machine_set_time() and machine_resume() let it go. */
int machine_park(
	struct machine *m, uint32_t timeout_ms, struct err *e) MUST_USE;

/* Write the identity page. In NEW or before the first resume: generation,
 * seed; at go: time only. */
int machine_set_identity(
	struct machine *m, const struct identity *id, struct err *e) MUST_USE;
/* Hand over time: the identity page's clock, KVM_SET_CLOCK, TSC deadline. Call
 * just before machine_resume() of a machine that was parked or restored. */
int machine_set_time(struct machine *m, struct err *e) MUST_USE;

/* The number of devices' events that pend: call when loop_wait() reports a
 * ref of type MACHINE_EV_BASE or above. */
void machine_event(struct machine *m, union ev_ref ref, uint32_t events);

/* Types of ev_ref that belong to the machine; owners use smaller ones. */
enum {
	MACHINE_EV_BASE = 0x1000,
	MACHINE_EV_DOOR = MACHINE_EV_BASE,
	MACHINE_EV_END,
	MACHINE_EV_DEVICE, /* index = device index << 16 | what */
};

/* For devices: put an fd on the loop; event(d, what, ..) is called. */
int machine_watch(
	struct device *d, int fd, uint32_t events, uint32_t what) MUST_USE;
void machine_unwatch(struct device *d, int fd);
/* For devices, any thread: a buffer was used; wake vCPUs at the door. */
void machine_door_wake(struct machine *m);
/* Any thread: the guest or a vCPU ended; the first call wins. */
void machine_end(struct machine *m, enum machine_end_kind kind, const char *fmt,
	...) PRINTF(3, 4);

#endif
