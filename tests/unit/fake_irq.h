/* Interrupts of a machine without KVM: plain eventfds instead of core/irq.c. */
#ifndef THAW_TESTS_UNIT_FAKE_IRQ_H
#define THAW_TESTS_UNIT_FAKE_IRQ_H

/* Called so that the linker takes these functions and not the real ones. */
void fake_irq(void);

#endif
