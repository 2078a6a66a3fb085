#include "core/irq.h"
#include "core/kvm.h"
#include "core/machine.h"

#include <linux/kvm.h>
#include <errno.h>
#include <sys/eventfd.h>

static int make_eventfd(struct err *e)
{
	int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

	return fd < 0 ? err_sys(e, -errno, "eventfd") : fd;
}

int irq_fd_create(struct machine *m, uint32_t gsi, struct err *e)
{
	AUTO_FD fd = make_eventfd(e);
	struct kvm_irqfd k = {.gsi = gsi};
	int r;

	if (fd < 0)
		return fd;
	k.fd = (uint32_t)fd;
	r = kvm_ioctl(m->vm_fd, KVM_IRQFD, &k);
	if (r < 0)
		return err_sys(e, r, "KVM_IRQFD for GSI %u", gsi);
	return take_fd(&fd);
}

int irq_ioeventfd_create(struct machine *m, uint64_t addr, uint32_t len,
	uint64_t value, struct err *e)
{
	AUTO_FD fd = make_eventfd(e);
	struct kvm_ioeventfd k = {
		.datamatch = value,
		.addr = addr,
		.len = len,
		.flags = KVM_IOEVENTFD_FLAG_DATAMATCH,
	};
	int r;

	if (fd < 0)
		return fd;
	k.fd = fd;
	r = kvm_ioctl(m->vm_fd, KVM_IOEVENTFD, &k);
	if (r < 0)
		return err_sys(e, r, "KVM_IOEVENTFD at 0x%llx",
			(unsigned long long)addr);
	return take_fd(&fd);
}
