/*
 * ACPI 6.4 for general kernels: the tables, and the device behind them
 * (acpi_dev.c): power off, reset, and the two ways to tell a guest that it is
 * another machine now.
 *
 *   VMGenID   16 bytes in guest memory (Microsoft, "Virtual Machine Generation
 *             ID"): Linux from 5.18 on mixes them into its random state
 *   VMClock   a page with a counter of generations (Linux
 *             include/uapi/linux/vmclock-abi.h), for user space
 *
 * Both are announced by a generic event device (ACPI 5.6.9): an interrupt whose
 * handler, in AML, notifies both devices. It is raised when the machine starts
 * to run with its new identity, after the interrupt controller has its state.
 */
#ifndef THAW_CORE_ARCH_X86_ACPI_H
#define THAW_CORE_ARCH_X86_ACPI_H

#include "core/machine.h"

/* Guest addresses; see boot.h. */
#define ACPI_VMGENID  0x9f000
#define ACPI_VMCLOCK  0xd0000
#define ACPI_TABLES   0xe0000 /* the RSDP is the first of them */
#define ACPI_SIZE_MAX 0x10000

/* Ports: sleep control and status (4.8.3.7); the keyboard controller's two, of
 * which only the reset command is there. */
#define ACPI_PORT_SLEEP 0x600
#define ACPI_PORT_8042  0x64
/* Where a panicking kernel says so. */
#define ACPI_PORT_PANIC 0x505
/* SLP_TYP that means off; \_S5 in the DSDT says so. */
#define ACPI_SLEEP_S5 5
/* The event device's interrupt: the last pin, behind all virtio devices. */
#define ACPI_GED_GSI 23

#define ACPI_MAX_WINDOWS 24

/* What the tables depend on. */
struct acpi_layout {
	uint32_t ncpus;
	uint32_t nwindows;
	uint32_t window[ACPI_MAX_WINDOWS]; /* numbers of virtio-mmio windows */
};

/* Tables for a place in memory that begins at base. Returns their length,
 * -ENOSPC. */
int acpi_build(const struct acpi_layout *l, uint64_t base, uint8_t *buf,
	size_t size) MUST_USE;

/* Put this machine's tables into its memory. */
int acpi_write(struct machine *m, uint64_t *rsdp, struct err *e) MUST_USE;

/* A new identity: both places in guest memory say so at once, the event comes
 * when the machine is resumed. No-op for a machine without ACPI. */
int acpi_new_generation(struct machine *m, const uint8_t generation[16],
	struct err *e) MUST_USE;

#endif
