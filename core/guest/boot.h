/*
 * What the assembler and the C parts of the guest share: selectors, the record
 * of an exception, what boot.S hands over.
 */
#ifndef THAW_CORE_GUEST_BOOT_H
#define THAW_CORE_GUEST_BOOT_H

#define SEL_CODE0 0x08
#define SEL_DATA0 0x10
#define SEL_DATA3 0x1b
#define SEL_CODE3 0x23
#define SEL_TSS   0x28

/* offsets in struct crash_regs */
#define CRASH_VECTOR 0
#define CRASH_ERROR  8
#define CRASH_RIP    16
#define CRASH_CS     24
#define CRASH_RSP    32
#define CRASH_CR2    40

#ifdef __ASSEMBLER__

/* of abi.h, which the assembler cannot read */
#define DOOR_PORT     0x7a0
#define DOOR_EVENT    4
#define DOOR_EV_CRASH 3
#define SERIAL_PORT   0x3f8

#else

#include <stdint.h>

struct crash_regs {
	uint64_t vector, error, rip, cs, rsp, cr2;
};

/* boot.S fills this and goes on in crash_main(). */
extern struct crash_regs crash_regs;
/* Exceptions so far: the second one ends the machine at once. */
extern uint32_t crash_depth;
/* Set: the next exception becomes a triple fault. */
extern uint32_t crash_triple;

/* CPL 3, on the stack. params: struct boot_params. have_clock: KVM fills
 * guest_clock_page. pd: npd empty page directories, for 1 GiB each from 4 GiB
 * on, at the end of the memory below the hole. */
_Noreturn void guest_main(
	const uint8_t *params, uint32_t have_clock, uint64_t *pd, uint32_t npd);
_Noreturn void crash_main(void);

#endif
#endif
