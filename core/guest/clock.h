/*
 * Time. The identity page has the wall time at a moment when kvm-clock and the
 * TSC had known values; kvm-clock, or the TSC, says how long ago that was.
 */
#ifndef THAW_CORE_GUEST_CLOCK_H
#define THAW_CORE_GUEST_CLOCK_H

#include <stdint.h>

/* kvm_clock: boot.S registered guest_clock_page with KVM. */
void clock_init(uint32_t kvm_clock);
/* Nanoseconds of a clock that goes on evenly, also through a clone's start. */
uint64_t clock_ns(void);
/* Nanoseconds since 1970. */
uint64_t clock_wall_ns(void);

#endif
