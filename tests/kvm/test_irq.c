/* From an I/O APIC's register to a local APIC in the kernel, by irqfd and by
 * message, and whatever a guest may write there. */
#include "core/arch/x86/ioapic.h"
#include "core/serial.h"
#include "tests/kvm/kvm_test.h"

#include <linux/kvm.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#define LAPIC_SVR 0xf0
#define LAPIC_TMR 0x180
#define LAPIC_IRR 0x200

#define LEVEL  (1ULL << 15)
#define MASKED (1ULL << 16)

static int setup(void **state)
{
	static const uint8_t halt[] = {0xf4, 0xeb, 0xfd}; /* 1: hlt; jmp 1b */
	struct stub *s = calloc(1, sizeof(*s));
	struct machine_config cfg;
	struct kvm_lapic_state l;

	*state = NULL;
	if (!s || !stub_kvm(s)) {
		free(s);
		return s ? 0 : -1;
	}
	stub_config(&cfg);
	stub_build(s, &cfg, halt, sizeof(halt));
	/* Fixed interrupts reach only an APIC that software has enabled. */
	assert_true(kvm_ioctl(s->m.cpu[0]->fd, KVM_GET_LAPIC, &l) >= 0);
	l.regs[LAPIC_SVR + 1] |= 1;
	assert_true(kvm_ioctl(s->m.cpu[0]->fd, KVM_SET_LAPIC, &l) >= 0);
	*state = s;
	return 0;
}

static int teardown(void **state)
{
	struct stub *s = *state;

	if (s)
		stub_destroy(s);
	free(s);
	return 0;
}

static bool lapic_bit(struct stub *s, unsigned reg, unsigned vector)
{
	struct kvm_lapic_state l;

	assert_true(kvm_ioctl(s->m.cpu[0]->fd, KVM_GET_LAPIC, &l) >= 0);
	/* 32 vectors in every 16 bytes */
	return (uint8_t)l.regs[reg + vector / 32 * 16 + vector / 8 % 4] &
	       1U << vector % 8;
}

static void mmio(struct stub *s, uint64_t off, uint32_t v)
{
	bus_access(&s->m.bus, BUS_MMIO, IOAPIC_BASE + off, &v, 4, true);
}

static void program(struct stub *s, uint32_t pin, uint64_t rte)
{
	mmio(s, 0, 0x11 + 2 * pin);
	mmio(s, 0x10, (uint32_t)(rte >> 32));
	mmio(s, 0, 0x10 + 2 * pin);
	mmio(s, 0x10, (uint32_t)rte);
}

static void serial_out(struct stub *s, unsigned reg, uint8_t v)
{
	bus_access(&s->m.bus, BUS_PORT, SERIAL_PORT + reg, &v, 1, true);
}

static void test_irqfd(void **state)
{
	struct stub *s = *state;

	if (!s) {
		skip();
		return;
	}
	serial_out(s, 4, 8);
	program(s, SERIAL_GSI, 0x41);
	assert_false(lapic_bit(s, LAPIC_IRR, 0x41));
	serial_out(s, 1, 2); /* THR is empty: an interrupt at once */
	/* An irqfd may be served by the kernel a moment later. */
	for (int i = 0; i < 2000 && !lapic_bit(s, LAPIC_IRR, 0x41); i++)
		(void)usleep(1000);
	assert_true(lapic_bit(s, LAPIC_IRR, 0x41));
	assert_false(lapic_bit(s, LAPIC_TMR, 0x41));
}

static void test_message(void **state)
{
	struct stub *s = *state;

	if (!s) {
		skip();
		return;
	}
	program(s, 10, 0x51 | LEVEL | MASKED);
	ioapic_set_line(&s->m, 10, true);
	assert_false(lapic_bit(s, LAPIC_IRR, 0x51));
	program(s, 10, 0x51 | LEVEL);
	assert_true(lapic_bit(s, LAPIC_IRR, 0x51));
	assert_true(lapic_bit(s, LAPIC_TMR, 0x51));
	program(s, 11, 0x61 | 7ULL << 56); /* no such local APIC */
	ioapic_set_line(&s->m, 11, true);
	assert_int_equal(s->m.end.kind, MACHINE_END_NONE);
}

/* KVM takes every entry that a guest can write; the machine stays up. But for
 * INIT and SMI, which end or stop the guest's CPU by design. */
static void test_hostile_entries(void **state)
{
	struct stub *s = *state;
	uint64_t r = 0x9e3779b97f4a7c15ULL;

	if (!s) {
		skip();
		return;
	}
	for (int i = 0; i < 300; i++) {
		uint32_t pin = (uint32_t)(r >> 32) % IOAPIC_PINS;
		uint64_t mode = r >> 8 & 7;

		if (mode != 2 && mode != 5) {
			program(s, pin, r & ~MASKED);
			ioapic_set_line(&s->m, pin, true);
			ioapic_eoi(&s->m, (uint8_t)r);
			ioapic_set_line(&s->m, pin, false);
			assert_int_equal(s->m.end.kind, MACHINE_END_NONE);
		}
		r ^= r << 13;
		r ^= r >> 7;
		r ^= r << 17;
	}
}

#define LEVEL_PIN    10
#define LEVEL_VECTOR 0x51
#define COUNT        0x2000
#define READY        0x2008
#define TAKE         0x2018 /* interrupts on */
#define FINISH       0x201c /* the handler may end */
#define IDTR         0x2100
#define IDT          0x3000

static void until(struct stub *s, gpa_t at, uint32_t least)
{
	for (int i = 0; i < 20000 && stub_peek(s, at) < least; i++)
		stub_poll(s, 1);
	assert_int_equal(s->m.end.kind, MACHINE_END_NONE);
	assert_true(stub_peek(s, at) >= least);
}

/* A guest with an interrupt table; it spins with interrupts off. */
static void level_start(struct stub *s)
{
	uint64_t handler =
		STUB_ENTRY + (size_t)(stub_level_handler - stub_level);
	uint8_t idtr[10] = {0xff, 0x0f, IDT & 0xff, IDT >> 8};
	struct machine_config cfg;
	struct err e = {0};

	stub_config(&cfg);
	stub_build(s, &cfg, STUB(level));
	assert_int_equal(mem_write(&s->m.mem, IDTR, idtr, sizeof(idtr)), 0);
	/* SDM 3A figure 6-8: present, interrupt gate, code segment 0x10 */
	stub_poke(s, IDT + 16 * LEVEL_VECTOR,
		(handler & 0xffff) | 0x10 << 16 | 0x8e00ULL << 32 |
			(handler >> 16) << 48);
	stub_resume(s);
	until(s, READY, 1);
	if (machine_pause(&s->m, 10000, &e))
		fail_msg("%s", e.msg);
	program(s, LEVEL_PIN, LEVEL_VECTOR | LEVEL);
	stub_resume(s);
}

static void level_move(struct stub *a, struct stub *b)
{
	struct err e = {0};

	stub_pause(a);
	assert_true(stub_kvm(b));
	stub_copy(a, b);
	stub_destroy(a);
	stub_realize(b);
	assert_int_equal(machine_set_time(&b->m, &e), 0);
	stub_resume(b);
}

/* A level-triggered interrupt that pends, or is being handled, when its machine
 * is saved: it is taken in the next one, comes again while the line is high,
 * and no more once it is low. */
static void level_moved(bool in_service)
{
	struct stub a, b;
	uint32_t seen;

	if (!stub_kvm(&a))
		skip();
	level_start(&a);
	ioapic_set_line(&a.m, LEVEL_PIN, true);
	if (in_service) {
		stub_poke(&a, TAKE, 1);
		until(&a, COUNT, 1);
	}
	stub_poll(&a, 5);
	level_move(&a, &b);
	stub_poll(&b, 5);
	/* Not twice for one end of interrupt, not without interrupts on. */
	assert_int_equal(stub_peek(&b, COUNT), in_service);
	stub_poke(&b, TAKE, 1);
	until(&b, COUNT, 1);
	stub_poke(&b, FINISH, 1);
	until(&b, COUNT, 4);
	ioapic_set_line(&b.m, LEVEL_PIN, false);
	stub_poll(&b, 20);
	seen = stub_peek(&b, COUNT);
	stub_poll(&b, 20);
	assert_int_equal(stub_peek(&b, COUNT), seen);
	ioapic_set_line(&b.m, LEVEL_PIN, true);
	until(&b, COUNT, seen + 2);
	stub_destroy(&b);
}

static void test_level_pending(void **state)
{
	(void)state;
	level_moved(false);
}

static void test_level_in_service(void **state)
{
	(void)state;
	level_moved(true);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_irqfd),
		TEST(test_message),
		TEST(test_hostile_entries),
		cmocka_unit_test(test_level_pending),
		cmocka_unit_test(test_level_in_service),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
