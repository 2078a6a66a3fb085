/* The I/O APIC: registers, the routes and messages that KVM is given, and the
 * life of a level-triggered interrupt. KVM is the ioctl() below. */
#include "core/arch/x86/ioapic.h"
#include "core/kvm.h"
#include "tests/unit/state_generic.h"
#include "tests/unit/test.h"

#include <errno.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <string.h>

/* global: what the device asked of KVM since forget(). */
static struct {
	struct {
		struct kvm_irq_routing head;
		struct kvm_irq_routing_entry entry[IOAPIC_PINS];
	} table;
	struct kvm_msi msi;
	unsigned nroutings, nmsis, nends;
	int fail;
} kvm;

int kvm_ioctl(int fd, unsigned long req, void *arg)
{
	const struct kvm_irq_routing *t = arg;

	assert_int_equal(fd, 1234);
	if (kvm.fail)
		return -kvm.fail;
	if (req == KVM_SET_GSI_ROUTING) {
		assert_in_range(t->nr, 0, IOAPIC_PINS);
		memcpy(&kvm.table, t,
			sizeof(*t) + t->nr * sizeof(t->entries[0]));
		kvm.nroutings++;
		return 0;
	}
	assert_int_equal(req, KVM_SIGNAL_MSI);
	memcpy(&kvm.msi, arg, sizeof(kvm.msi));
	kvm.nmsis++;
	return 1;
}

void machine_end(
	struct machine *m, enum machine_end_kind kind, const char *fmt, ...)
{
	(void)m;
	(void)fmt;
	assert_int_equal(kind, MACHINE_END_ERROR);
	kvm.nends++;
}

static void forget(void)
{
	memset(&kvm, 0, sizeof(kvm));
}

static struct device *up(struct machine *m)
{
	struct err e = {0};

	memset(m, 0, sizeof(*m));
	m->vm_fd = 1234;
	assert_int_equal(ioapic_ops.create(m, 0, &m->dev[0], &e), 0);
	m->dev[0]->ops = &ioapic_ops;
	m->dev[0]->m = m;
	m->ndevs = 1;
	assert_non_null(m->ioapic);
	return m->dev[0];
}

static void realize(struct machine *m)
{
	struct err e = {0};

	assert_int_equal(ioapic_ops.realize(m->dev[0], &e), 0);
}

static int setup(void **state)
{
	struct machine *m = malloc(sizeof(*m));

	if (!m)
		return -1;
	forget();
	(void)up(m);
	realize(m);
	*state = m;
	return 0;
}

static int teardown(void **state)
{
	struct machine *m = *state;

	ioapic_ops.destroy(m->dev[0]);
	free(m);
	return 0;
}

static void mmio_write(struct machine *m, uint64_t off, uint32_t v)
{
	bus_access(&m->bus, BUS_MMIO, IOAPIC_BASE + off, &v, 4, true);
}

static uint32_t get(struct machine *m, uint32_t reg)
{
	uint32_t v = 0;

	mmio_write(m, 0, reg);
	bus_access(&m->bus, BUS_MMIO, IOAPIC_BASE + 0x10, &v, 4, false);
	return v;
}

static void set(struct machine *m, uint32_t reg, uint32_t v)
{
	mmio_write(m, 0, reg);
	mmio_write(m, 0x10, v);
}

/* Entry of a pin: high word first, as drivers do. */
static void program(struct machine *m, uint32_t pin, uint64_t rte)
{
	set(m, 0x11 + 2 * pin, (uint32_t)(rte >> 32));
	set(m, 0x10 + 2 * pin, (uint32_t)rte);
}

#define MASKED (1ULL << 16)
#define LEVEL  (1ULL << 15)
#define IRR    (1ULL << 14)

static void test_registers(void **state)
{
	struct machine *m = *state;
	uint64_t v = UINT64_MAX;

	assert_int_equal(get(m, 1), 0x00170011);
	assert_int_equal(get(m, 0), 0);
	set(m, 0, 0xffffffff);
	assert_int_equal(get(m, 0), 0x0f000000);
	assert_int_equal(get(m, 2), 0x0f000000);
	set(m, 1, 0);
	assert_int_equal(get(m, 1), 0x00170011);
	for (uint32_t i = 0; i < IOAPIC_PINS; i++) {
		assert_int_equal(get(m, 0x10 + 2 * i), MASKED);
		assert_int_equal(get(m, 0x11 + 2 * i), 0);
	}
	/* registers that are not there */
	for (uint32_t r = 0x40; r < 0x100; r++) {
		set(m, r, ~0U);
		assert_int_equal(get(m, r), 0);
	}
	/* status and reserved bits cannot be written */
	program(m, 3, UINT64_MAX);
	assert_int_equal(get(m, 0x16), 0x1afff);
	assert_int_equal(get(m, 0x17), 0xff000000);
	/* other sizes and offsets */
	bus_access(&m->bus, BUS_MMIO, IOAPIC_BASE + 0x20, &v, 8, false);
	assert_true(v == 0);
	bus_access(&m->bus, BUS_MMIO, IOAPIC_BASE + 0x20, &v, 8, true);
	v = 0x1;
	bus_access(&m->bus, BUS_MMIO, IOAPIC_BASE, &v, 1, true);
	bus_access(&m->bus, BUS_MMIO, IOAPIC_BASE + 0x10, &v, 8, false);
	assert_true(v == 0x00170011);
	assert_int_equal(kvm.nroutings, 0);
	assert_int_equal(kvm.nmsis, 0);
}

static void test_routes(void **state)
{
	struct machine *m = *state;

	/* masked entries cost nothing, whatever is written to them */
	for (uint32_t i = 0; i < IOAPIC_PINS; i++)
		program(m, i, MASKED | (0x30 + i) | 5ULL << 56);
	assert_int_equal(ioapic_apply_routes(m), 0);
	assert_int_equal(kvm.nroutings, 0);

	program(m, 5, 0x31 | 2ULL << 56);
	assert_int_equal(kvm.nroutings, 1);
	assert_int_equal(kvm.table.head.nr, 1);
	assert_int_equal(kvm.table.entry[0].gsi, 5);
	assert_int_equal(kvm.table.entry[0].type, KVM_IRQ_ROUTING_MSI);
	assert_int_equal(kvm.table.entry[0].u.msi.address_lo, 0xfee02000);
	assert_int_equal(kvm.table.entry[0].u.msi.address_hi, 0);
	assert_int_equal(kvm.table.entry[0].u.msi.data, 0x31);

	/* the same again costs nothing */
	program(m, 5, 0x31 | 2ULL << 56);
	assert_int_equal(ioapic_apply_routes(m), 0);
	assert_int_equal(kvm.nroutings, 1);

	/* level, logical, lowest priority */
	program(m, 9, 0x40 | 1 << 8 | 1 << 11 | LEVEL | 0xffULL << 56);
	assert_int_equal(kvm.table.head.nr, 2);
	assert_int_equal(kvm.table.entry[1].gsi, 9);
	assert_int_equal(kvm.table.entry[1].u.msi.address_lo, 0xfeeff004);
	assert_int_equal(kvm.table.entry[1].u.msi.data, 0x8140);

	program(m, 5, MASKED | 0x31);
	assert_int_equal(kvm.table.head.nr, 1);
	assert_int_equal(kvm.table.entry[0].gsi, 9);
	program(m, 9, MASKED);
	assert_int_equal(kvm.table.head.nr, 0);
	assert_int_equal(kvm.nends, 0);

	kvm.fail = EINVAL;
	program(m, 1, 0x50);
	assert_int_equal(kvm.nends, 1);
	kvm.fail = 0;
	assert_int_equal(ioapic_apply_routes(m), 0); /* tried again */
	assert_int_equal(kvm.table.entry[0].gsi, 1);
}

static void test_edge(void **state)
{
	struct machine *m = *state;

	ioapic_set_line(m, 4, true);
	assert_int_equal(kvm.nmsis, 0);
	program(m, 4, 0x34 | 1ULL << 56);
	assert_int_equal(kvm.nmsis, 0); /* a masked edge is lost */
	ioapic_set_line(m, 4, true);
	assert_int_equal(kvm.nmsis, 0);
	ioapic_set_line(m, 4, false);
	ioapic_set_line(m, 4, true);
	assert_int_equal(kvm.nmsis, 1);
	assert_int_equal(kvm.msi.address_lo, 0xfee01000);
	assert_int_equal(kvm.msi.data, 0x34);
	ioapic_eoi(m, 0x34);
	assert_int_equal(kvm.nmsis, 1);
	assert_int_equal(get(m, 0x18) & IRR, 0);

	kvm.fail = EPERM; /* no such local APIC */
	ioapic_set_line(m, 4, false);
	ioapic_set_line(m, 4, true);
	assert_int_equal(kvm.nends, 0);
	kvm.fail = EIO;
	ioapic_set_line(m, 4, false);
	ioapic_set_line(m, 4, true);
	assert_int_equal(kvm.nends, 1);
	kvm.fail = 0;
	ioapic_set_line(m, 24, true);
	ioapic_set_line(m, UINT32_MAX, true);
	assert_int_equal(kvm.nmsis, 1);
}

static void test_level(void **state)
{
	struct machine *m = *state;

	program(m, 10, 0x41 | LEVEL | MASKED);
	ioapic_set_line(m, 10, true);
	assert_int_equal(kvm.nmsis, 0);
	program(m, 10, 0x41 | LEVEL); /* unmasked while asserted */
	assert_int_equal(kvm.nmsis, 1);
	assert_int_equal(kvm.nroutings, 1);
	assert_int_equal(kvm.msi.data, 0x8041);
	assert_true(get(m, 0x24) & IRR);
	/* nothing more until the EOI */
	ioapic_set_line(m, 10, false);
	ioapic_set_line(m, 10, true);
	assert_int_equal(kvm.nmsis, 1);
	ioapic_eoi(m, 0x42); /* someone else's */
	assert_true(get(m, 0x24) & IRR);
	ioapic_eoi(m, 0x41); /* still asserted: again */
	assert_int_equal(kvm.nmsis, 2);
	assert_true(get(m, 0x24) & IRR);
	ioapic_set_line(m, 10, false);
	ioapic_eoi(m, 0x41);
	assert_int_equal(kvm.nmsis, 2);
	assert_false(get(m, 0x24) & IRR);
	/* a guest cannot set or clear remote IRR by writing */
	program(m, 10, 0x41 | LEVEL | IRR);
	assert_false(get(m, 0x24) & IRR);
	ioapic_set_line(m, 10, true);
	assert_int_equal(kvm.nmsis, 3);
	program(m, 10, 0x41 | LEVEL);
	assert_true(get(m, 0x24) & IRR);
	assert_int_equal(kvm.nroutings, 1); /* remote IRR is no route */
	/* but switching to edge clears it, and the line fires anew */
	program(m, 10, 0x41 | MASKED);
	assert_false(get(m, 0x24) & IRR);
	program(m, 10, 0x41 | LEVEL);
	assert_int_equal(kvm.nmsis, 4);
}

/* Two pins may share a vector: an EOI serves both. */
static void test_shared_vector(void **state)
{
	struct machine *m = *state;

	program(m, 10, 0x41 | LEVEL);
	program(m, 11, 0x41 | LEVEL);
	ioapic_set_line(m, 10, true);
	ioapic_set_line(m, 11, true);
	assert_int_equal(kvm.nmsis, 2);
	ioapic_set_line(m, 10, false);
	ioapic_eoi(m, 0x41);
	assert_int_equal(kvm.nmsis, 3);
	assert_false(get(m, 0x24) & IRR);
	assert_true(get(m, 0x26) & IRR);
}

static void test_restore(void **state)
{
	struct machine *m = *state, n;
	struct err e = {0};
	msgpack_sbuffer buf;
	struct device *d = m->dev[0];

	msgpack_sbuffer_init(&buf);
	program(m, 5, 0x31 | 2ULL << 56);
	program(m, 10, 0x41 | LEVEL);
	ioapic_set_line(m, 10, true);
	assert_int_equal(st_save(d->ops->state, d->ops->saved(d), &buf), 0);
	st_test_generic(d->ops->state, d->ops->saved(d));

	forget();
	d = up(&n);
	assert_int_equal(st_load(d->ops->state, d->ops->saved(d), buf.data,
				 buf.size, &e),
		0);
	realize(&n);
	assert_int_equal(kvm.nroutings, 1);
	assert_int_equal(kvm.table.head.nr, 2);
	assert_int_equal(kvm.nmsis, 0); /* it is in the saved local APIC */
	ioapic_eoi(&n, 0x41);
	assert_int_equal(kvm.nmsis, 1);
	d->ops->destroy(d);
	msgpack_sbuffer_destroy(&buf);
}

static void test_hostile_state(void **state)
{
	struct machine *m = *state;
	const struct st_desc *t = ioapic_ops.state;
	uint64_t redir[IOAPIC_PINS + 1] = {0}; /* the saved struct's size */
	struct err e;

	(void)m;
	assert_int_equal(t->size, sizeof(redir));
	assert_int_equal(t->check(redir, &e), 0);
	redir[7] = LEVEL | IRR;
	assert_int_equal(t->check(redir, &e), 0);
	redir[7] = IRR;
	assert_int_equal(t->check(redir, &e), -EBADMSG);
	redir[7] = 1ULL << 20;
	assert_int_equal(t->check(redir, &e), -EBADMSG);
	redir[7] = 0;
	redir[IOAPIC_PINS] = 1U << 24; /* line */
	assert_int_equal(t->check(redir, &e), -EBADMSG);
	redir[IOAPIC_PINS] = 0x100ULL << 32; /* select */
	assert_int_equal(t->check(redir, &e), -EBADMSG);
	redir[IOAPIC_PINS] = 0x10ULL << 48; /* id */
	assert_int_equal(t->check(redir, &e), -EBADMSG);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_registers),
		TEST(test_routes),
		TEST(test_edge),
		TEST(test_level),
		TEST(test_shared_vector),
		TEST(test_restore),
		TEST(test_hostile_state),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
