/*
 * /dev/kvm: open it, look at what it can do, say what is missing.
 *
 * One probe gives one struct kvm_host; there is nothing global. Capabilities
 * are listed in a table with the reason why thaw wants each (kvm.c, and
 * arch_kvm_caps for those of the architecture). API: Linux
 * Documentation/virt/kvm/api.rst; version 12 is the only stable one.
 */
#ifndef THAW_CORE_KVM_H
#define THAW_CORE_KVM_H

#include "core/err.h"

#define KVM_STABLE_API 12

enum kvm_kind {
	KVM_KIND_NONE,     /* no usable /dev/kvm */
	KVM_KIND_VMX,      /* Intel hardware, bare or nested */
	KVM_KIND_SVM,      /* AMD hardware, bare or nested */
	KVM_KIND_SOFTWARE, /* kvm-pvm: paging and CPL 0 in software */
	KVM_KIND_UNKNOWN,  /* works, but we do not know what is behind it */
	KVM_NKINDS_
};
/* "hardware (VT-x)", "software (kvm-pvm)" ... */
const char *kvm_kind_name(enum kvm_kind k);

struct kvm_cap {
	const char *name; /* without KVM_CAP_ */
	uint32_t cap;
	bool required;
	const char *why; /* what thaw does with it */
};
/* Ended by a row without a name. */
extern const struct kvm_cap kvm_caps[];
extern const struct kvm_cap arch_kvm_caps[]; /* arch/x86/vm.c */

#define KVM_HOST_MAX_CAPS 48

struct kvm_host {
	int fd; /* owned */
	enum kvm_kind kind;
	int api;
	unsigned ncaps; /* rows of both tables, in order */
	struct {
		const struct kvm_cap *cap;
		int value; /* as KVM_CHECK_EXTENSION answers; 0: missing */
	} caps[KVM_HOST_MAX_CAPS];
	const struct kvm_cap *missing; /* first required one that is, or NULL */
	uint32_t max_cpus;
};

/* Open path ("/dev/kvm") and probe. -ENOENT no device, -EACCES no permission,
 * -EOPNOTSUPP version or a required capability; the message says what to do.
 * On -EOPNOTSUPP for a capability the caps are filled, for "thaw doctor". */
int kvm_open(const char *path, struct kvm_host *h, struct err *e) MUST_USE;
void kvm_close(struct kvm_host *h);

/* ioctl() that goes on after a signal; result or -errno. */
int kvm_ioctl(int fd, unsigned long req, void *arg);
int kvm_ioctl_val(int fd, unsigned long req, unsigned long val);

#endif
