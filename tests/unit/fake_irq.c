#include "tests/unit/fake_irq.h"

#include "core/irq.h"

#include <sys/eventfd.h>

/* In place of core/irq.c: eventfds that no KVM serves. */
int irq_fd_create(struct machine *m, uint32_t gsi, struct err *e)
{
	(void)m, (void)gsi, (void)e;
	return eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
}

int irq_ioeventfd_create(struct machine *m, uint64_t addr, uint32_t len,
	uint64_t value, struct err *e)
{
	(void)m, (void)addr, (void)len, (void)value, (void)e;
	return eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
}

void fake_irq(void)
{
}
