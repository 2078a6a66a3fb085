/*
 * Interrupts: split irqchip. The local APICs are in the kernel, the IOAPIC is
 * ours (arch/x86/ioapic.c); a GSI raised through its irqfd becomes the MSI
 * that the IOAPIC's redirection entry describes. Routes are handed to KVM only
 * when the guest unmasks a pin, so a guest without interrupts pays nothing.
 */
#ifndef THAW_CORE_IRQ_H
#define THAW_CORE_IRQ_H

#include "core/err.h"

struct machine;

/* An eventfd that raises this GSI (edge). Owned by the caller. */
int irq_fd_create(struct machine *m, uint32_t gsi, struct err *e) MUST_USE;
/* An eventfd that fires when the guest writes value (len bytes) at addr
 * (MMIO), without an exit to user space. Owned by the caller. */
int irq_ioeventfd_create(struct machine *m, uint64_t addr, uint32_t len,
	uint64_t value, struct err *e) MUST_USE;

#endif
