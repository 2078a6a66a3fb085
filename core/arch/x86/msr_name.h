/* Names of MSRs, for people: as in the SDM (volume 4), the APM for AMD's, and
 * Linux Documentation/virt/kvm/x86/msr.rst for KVM's. */
#ifndef THAW_CORE_ARCH_X86_MSR_NAME_H
#define THAW_CORE_ARCH_X86_MSR_NAME_H

#include <stdint.h>

#define MSR_NAME_MAX 40

/* The name of an MSR in buf, "0x..." for one without; returns buf. */
const char *msr_name(uint32_t index, char buf[MSR_NAME_MAX]);

#endif
