/*
 * The few instructions that C does not have; all legal at CPL 3. Unit tests on
 * the host supply their own versions.
 */
#ifndef THAW_CORE_GUEST_CPU_H
#define THAW_CORE_GUEST_CPU_H

#include "core/guest/abi.h"

#ifdef THAW_GUEST

static inline void out8(uint16_t port, uint8_t v)
{
	__asm__ volatile("outb %0, %1" ::"a"(v), "Nd"(port) : "memory");
}

static inline void out32(uint16_t port, uint32_t v)
{
	__asm__ volatile("outl %0, %1" ::"a"(v), "Nd"(port) : "memory");
}

static inline uint32_t mmio_read(uint64_t addr)
{
	uint32_t v;

	/* A form that every instruction emulator knows. */
	__asm__ volatile("movl (%1), %0" : "=r"(v) : "r"(addr) : "memory");
	return v;
}

static inline void mmio_write(uint64_t addr, uint32_t v)
{
	__asm__ volatile("movl %0, (%1)" ::"r"(v), "r"(addr) : "memory");
}

static inline uint64_t rdtsc(void)
{
	uint32_t lo, hi;

	__asm__ volatile("lfence; rdtsc" : "=a"(lo), "=d"(hi)::"memory");
	return (uint64_t)hi << 32 | lo;
}

/* Sleep until a device used a buffer or the time is over (abi.h). */
static inline void door_wait(uint32_t us)
{
	out32(DOOR_PORT + DOOR_WAIT, us);
}

static inline void door_event(uint32_t event)
{
	out32(DOOR_PORT + DOOR_EVENT, event);
}

static inline struct ident *ident_page(void)
{
	return (struct ident *)IDENT_GPA;
}

#else

void out8(uint16_t port, uint8_t v);
uint32_t mmio_read(uint64_t addr);
void mmio_write(uint64_t addr, uint32_t v);
uint64_t rdtsc(void);
void door_wait(uint32_t us);
void door_event(uint32_t event);
struct ident *ident_page(void);

#endif
#endif
