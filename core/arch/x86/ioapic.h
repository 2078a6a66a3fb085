/*
 * I/O APIC in user space (Intel 82093AA datasheet), beside KVM's local APICs
 * (split irqchip). The registers are here; what they mean for an irqfd is
 * handed to KVM as MSI routes, and only for pins that are not masked.
 *
 * Threads: all functions from any thread; the device has a lock of its own.
 */
#ifndef THAW_CORE_ARCH_X86_IOAPIC_H
#define THAW_CORE_ARCH_X86_IOAPIC_H

#include "core/machine.h"

#define IOAPIC_BASE 0xfec00000ULL
#define IOAPIC_SIZE 0x1000ULL
#define IOAPIC_PINS 24 /* GSI 0..23; KVM_CAP_SPLIT_IRQCHIP's argument */

/* Give KVM the routes that the redirection entries describe now. No ioctl
 * when KVM has them already. Called by the device itself on every change and
 * in realize(); needs a VM with the split irqchip. */
int ioapic_apply_routes(struct machine *m) MUST_USE;

/* KVM_EXIT_IOAPIC_EOI: a local APIC has finished with this vector. */
void ioapic_eoi(struct machine *m, uint8_t vector);

/* Drive a pin from user space. A level-triggered pin stays asserted until it
 * is set low; an edge-triggered one fires when it goes high. */
void ioapic_set_line(struct machine *m, uint32_t pin, bool high);

#endif
