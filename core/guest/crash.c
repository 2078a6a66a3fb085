/*
 * The end after an exception: boot.S recorded it and came here, at CPL 3, on a
 * stack of its own. Says what happened in one line, then never returns.
 */
#include "core/guest/boot.h"
#include "core/guest/cpu.h"
#include "core/guest/lib.h"

/* global: written by boot.S */
struct crash_regs crash_regs;
uint32_t crash_depth, crash_triple; /* global: see boot.h */

#define VECTOR_PF 14

#define PF_WRITE 2u /* SDM 3A 4.7 */
#define PF_FETCH 16u

static const char names[32][24] = {
	"divide error",
	"debug trap",
	"NMI",
	"breakpoint",
	"overflow",
	"bound range",
	"invalid opcode",
	"device not available",
	"double fault",
	"coprocessor overrun",
	"invalid TSS",
	"segment not present",
	"stack fault",
	"general protection fault",
	"page fault",
	"reserved exception",
	"x87 exception",
	"alignment check",
	"machine check",
	"SIMD exception",
	"virtualization fault",
	"control protection",
};

struct line {
	char *p;
	size_t n, max;
};

static void add(struct line *l, const char *s)
{
	while (*s && l->n < l->max)
		l->p[l->n++] = *s++;
}

static void add_hex(struct line *l, uint64_t v)
{
	char digit[17] = {0};
	unsigned i = 16;

	do {
		digit[--i] = "0123456789abcdef"[v & 15];
		v >>= 4;
	} while (v);
	add(l, "0x");
	while (i < 16) {
		const char one[2] = {digit[i++], '\0'};

		add(l, one);
	}
}

static void describe(struct line *l)
{
	const struct crash_regs *r = &crash_regs;

	if (r->vector >= 32)
		add(l, "unexpected interrupt");
	else
		add(l, names[r->vector][0] ? names[r->vector]
					   : "reserved exception");
	if (r->vector == VECTOR_PF) {
		add(l, " at ");
		add_hex(l, r->cr2);
		if (r->error & PF_FETCH)
			add(l, " fetching");
		else
			add(l, r->error & PF_WRITE ? " writing" : " reading");
	} else if (r->error) {
		add(l, ", error ");
		add_hex(l, r->error);
	}
	add(l, ", rip ");
	add_hex(l, r->rip);
	add(l, ", rsp ");
	add_hex(l, r->rsp);
	if (!(r->cs & 3))
		add(l, ", CPL 0");
}

_Noreturn void crash_main(void)
{
	static const char prefix[] = "guest: ";
	struct ident *id = ident_page();
	struct line l = {.p = id->crash, .max = sizeof(id->crash) - 1};

	describe(&l);
	l.p[l.n] = '\0';
	for (size_t i = 0; prefix[i]; i++)
		out8(SERIAL_PORT, (uint8_t)prefix[i]);
	for (size_t i = 0; i < l.n; i++)
		out8(SERIAL_PORT, (uint8_t)l.p[i]);
	out8(SERIAL_PORT, '\n');
	door_event(DOOR_EV_CRASH);
	for (;;)
		door_wait(DOOR_FOREVER);
}
