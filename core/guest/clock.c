/* How it works: clock.h */
#include "core/guest/clock.h"

#include "core/guest/cpu.h"
#include "core/guest/lib.h"

/* KVM's pvclock ABI: Documentation/virt/kvm/x86/msr.rst, MSR_KVM_SYSTEM_TIME
 * (asm/pvclock-abi.h). */
struct pvclock {
	uint32_t version; /* odd while KVM writes */
	uint32_t pad;
	uint64_t tsc_timestamp;
	uint64_t system_time;
	uint32_t mul;
	int8_t shift;
	uint8_t flags;
	uint8_t pad2[2];
};
_Static_assert(sizeof(struct pvclock) == 32, "pvclock ABI");

__extension__ typedef unsigned __int128 wide;

/* global: KVM writes it; boot.S registered it */
struct pvclock guest_clock_page HOT __attribute__((aligned(64)));
/* global: is that page in use? */
static uint32_t have_page HOT;

void clock_init(uint32_t kvm_clock)
{
	have_page = kvm_clock;
}

static uint64_t scale(uint64_t ticks, const struct pvclock *c)
{
	if (c->shift < 0)
		ticks >>= -c->shift;
	else
		ticks <<= c->shift;
	return (uint64_t)((wide)ticks * c->mul >> 32);
}

static uint64_t pvclock_ns(void)
{
	const volatile struct pvclock *page = &guest_clock_page;
	struct pvclock c = {0};
	uint64_t tsc;

	do {
		c.version = page->version;
		__atomic_thread_fence(__ATOMIC_ACQUIRE);
		c.tsc_timestamp = page->tsc_timestamp;
		c.system_time = page->system_time;
		c.mul = page->mul;
		c.shift = page->shift;
		tsc = rdtsc();
		__atomic_thread_fence(__ATOMIC_ACQUIRE);
	} while ((c.version & 1) || c.version != page->version);
	return c.system_time + scale(tsc - c.tsc_timestamp, &c);
}

static uint64_t tsc_ns(const struct ident *id)
{
	uint64_t khz = id->tsc_khz ? id->tsc_khz : 1000000;
	uint64_t ticks = rdtsc() - id->tsc;

	/* in two parts: ticks * 10^6 would overflow after two hours */
	return id->clock_ns + ticks / khz * 1000000 +
	       ticks % khz * 1000000 / khz;
}

uint64_t clock_ns(void)
{
	if (have_page && guest_clock_page.version)
		return pvclock_ns();
	return tsc_ns(ident_page());
}

uint64_t clock_wall_ns(void)
{
	const struct ident *id = ident_page();

	return id->wall_ns + (clock_ns() - id->clock_ns);
}
