/* The serial port as a driver sees it, and what survives save and restore. */
#include "core/irq.h"
#include "core/serial.h"
#include "tests/unit/state_generic.h"
#include "tests/unit/test.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>

enum {
	DATA,
	IER,
	IIR,
	LCR,
	MCR,
	LSR,
	MSR,
	SCR
};

struct fixture {
	struct machine m;
	char out[256];
	size_t n;
};

/* global: the eventfd that stands for GSI 4; one machine at a time. */
static int irq = -1;

/* In place of core/irq.c: there is no VM. */
int irq_fd_create(struct machine *m, uint32_t gsi, struct err *e)
{
	(void)m;
	(void)e;
	assert_int_equal(gsi, SERIAL_GSI);
	irq = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	return irq;
}

int irq_ioeventfd_create(struct machine *m, uint64_t addr, uint32_t len,
	uint64_t value, struct err *e)
{
	(void)m;
	(void)addr;
	(void)len;
	(void)value;
	return err_set(e, -EOPNOTSUPP, "not in this test");
}

static void sink(void *arg, const void *data, size_t len)
{
	struct fixture *f = arg;

	assert_true(f->n + len < sizeof(f->out));
	memcpy(f->out + f->n, data, len);
	f->n += len;
}

static void up(struct fixture *f)
{
	struct machine *m = &f->m;
	struct err e = {0};

	memset(f, 0, sizeof(*f));
	assert_int_equal(serial_ops.create(m, 0, &m->dev[0], &e), 0);
	m->dev[0]->ops = &serial_ops;
	m->dev[0]->m = m;
	m->ndevs = 1;
	serial_set_output(m, sink, f);
}

static void realize(struct fixture *f)
{
	struct err e = {0};

	assert_int_equal(f->m.dev[0]->ops->realize(f->m.dev[0], &e), 0);
}

static int setup(void **state)
{
	struct fixture *f = malloc(sizeof(*f));

	if (!f)
		return -1;
	up(f);
	realize(f);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	serial_ops.destroy(f->m.dev[0]);
	free(f);
	return 0;
}

static uint8_t in(struct fixture *f, unsigned reg)
{
	uint8_t v = 0;

	bus_access(&f->m.bus, BUS_PORT, SERIAL_PORT + reg, &v, 1, false);
	return v;
}

static void out(struct fixture *f, unsigned reg, uint8_t v)
{
	bus_access(&f->m.bus, BUS_PORT, SERIAL_PORT + reg, &v, 1, true);
}

/* Was the interrupt raised since the last call? */
static bool raised(void)
{
	uint64_t n;

	return read(irq, &n, sizeof(n)) == sizeof(n);
}

static void test_output(void **state)
{
	struct fixture *f = *state;

	for (const char *p = "hello\n"; *p; p++) {
		assert_int_equal(in(f, LSR) & 0x60, 0x60);
		out(f, DATA, (uint8_t)*p);
	}
	assert_string_equal(f->out, "hello\n");
	assert_false(raised());
	serial_set_output(&f->m, NULL, NULL);
	out(f, DATA, 'x');
	assert_int_equal(f->n, 6);
}

/* 8250 probing of a usual kernel: IER, scratch, FIFO kind, loopback. */
static void test_probe(void **state)
{
	struct fixture *f = *state;

	out(f, IER, 0x0f);
	assert_int_equal(in(f, IER), 0x0f);
	out(f, IER, 0xff);
	assert_int_equal(in(f, IER), 0x0f);
	out(f, IER, 0);
	out(f, SCR, 0xa5);
	assert_int_equal(in(f, SCR), 0xa5);
	out(f, MCR, 0x1a);
	assert_int_equal(in(f, MSR) & 0xf0, 0x90);
	out(f, MCR, 0);
	assert_int_equal(in(f, MSR) & 0xf0, 0xb0);
	assert_int_equal(in(f, IIR) & 0xc0, 0);
	out(f, IIR, 0x01);
	assert_int_equal(in(f, IIR) & 0xc0, 0xc0);
	out(f, LCR, 0x83);
	out(f, DATA, 1);
	out(f, IER, 2);
	assert_int_equal(in(f, DATA), 1);
	assert_int_equal(in(f, IER), 2);
	out(f, LCR, 3);
	assert_int_equal(in(f, IER), 0);
	assert_int_equal(f->n, 0);
}

static void test_transmit_interrupt(void **state)
{
	struct fixture *f = *state;

	out(f, IER, 2);
	assert_false(raised()); /* OUT2 gates the line */
	out(f, MCR, 0x08);
	assert_true(raised());
	assert_int_equal(in(f, IIR), 2);
	assert_int_equal(in(f, IIR), 1); /* reading it took it back */
	out(f, DATA, 'a');
	assert_true(raised());
	out(f, DATA, 'b');
	assert_false(raised()); /* still high: no new edge */
	assert_int_equal(in(f, IIR), 2);
	out(f, DATA, 'c');
	assert_true(raised());
	out(f, IER, 0);
	assert_int_equal(in(f, IIR), 1);
	out(f, IER, 2);
	assert_true(raised());
}

static void test_receive(void **state)
{
	struct fixture *f = *state;

	out(f, MCR, 0x08);
	out(f, IER, 1);
	out(f, IIR, 0xc1); /* trigger level 14 */
	assert_int_equal(serial_input(&f->m, "abc", 3), 3);
	assert_true(raised());
	assert_int_equal(in(f, IIR), 0xcc);
	assert_int_equal(serial_input(&f->m, "0123456789a", 11), 11);
	assert_false(raised());
	assert_int_equal(in(f, IIR), 0xc4);
	for (const char *p = "abc0123456789a"; *p; p++) {
		assert_int_equal(in(f, LSR), 0x61);
		assert_int_equal(in(f, DATA), *p);
	}
	assert_int_equal(in(f, LSR), 0x60);
	assert_int_equal(in(f, IIR), 0xc1);
	assert_int_equal(in(f, DATA), 0);
	assert_int_equal(serial_input(&f->m, "z", 1), 1);
	assert_true(raised());
	out(f, IIR, 0xc3); /* clear the FIFO */
	assert_int_equal(in(f, LSR), 0x60);
}

/* More than the FIFO holds waits outside; order is kept, the end is counted. */
static void test_long_input(void **state)
{
	struct fixture *f = *state;
	static uint8_t block[SERIAL_QUEUE_MAX + 5000];
	size_t all = 0, n = 0;

	for (size_t i = 0; i < sizeof(block); i++)
		block[i] = (uint8_t)(i * 7 + i / 251);
	all = serial_queue_input(&f->m, block, 3000);
	assert_int_equal(all, 3000);
	all += serial_queue_input(&f->m, block + 3000, sizeof(block) - 3000);
	assert_in_range(all, SERIAL_QUEUE_MAX, sizeof(block) - 1);
	assert_int_equal(serial_queue_input(&f->m, block, 1), 0);
	while (in(f, LSR) & 1)
		assert_int_equal(in(f, DATA), block[n++]);
	assert_int_equal(n, all);
}

/* Input that is older than the driver, which clears the FIFO and switches its
 * mode before it reads: the last byte must arrive. */
static void test_input_before_driver(void **state)
{
	struct fixture *f = *state;
	char block[3000];
	unsigned n = 0;
	int last = 0;

	memset(block, 'x', sizeof(block));
	block[sizeof(block) - 1] = '!';
	assert_int_equal(
		serial_queue_input(&f->m, block, sizeof(block)), sizeof(block));
	out(f, IIR, 0x01);
	out(f, IIR, 0x07);
	out(f, IIR, 0);
	(void)in(f, DATA);
	/* The driver looks for a loop meanwhile: nothing but its own. */
	out(f, MCR, 0x10);
	out(f, IIR, 0x07);
	assert_int_equal(in(f, LSR) & 1, 0);
	out(f, DATA, 'l');
	assert_int_equal(in(f, DATA), 'l');
	assert_int_equal(in(f, LSR) & 1, 0);
	out(f, IIR, 0);
	out(f, MCR, 0x0b);
	out(f, IER, 0x05);
	(void)raised();
	out(f, IIR, 0x81);
	assert_true(raised());
	for (; in(f, LSR) & 1; n++)
		last = in(f, DATA);
	assert_in_range(n, 500, 3000);
	assert_int_equal(last, '!');
}

/* A FIFO that was cleared, with more waiting: what comes next finds its way. */
static void test_input_after_clear(void **state)
{
	struct fixture *f = *state;
	char block[2000] = "";
	unsigned n = 0;

	out(f, IIR, 0x01);
	serial_queue_input(&f->m, block, sizeof(block));
	out(f, MCR, 0x10);
	out(f, IIR, 0x03);
	assert_int_equal(serial_queue_input(&f->m, "new", 3), 3);
	assert_int_equal(in(f, LSR) & 1, 0);
	out(f, MCR, 0);
	for (; in(f, LSR) & 1; n++)
		(void)in(f, DATA);
	assert_int_equal(n, sizeof(block) - 1024 + 3);
}

static void test_input_is_bounded(void **state)
{
	struct fixture *f = *state;
	char block[700];
	size_t got, total = 0;

	memset(block, 'q', sizeof(block));
	assert_int_equal(serial_input(&f->m, block, sizeof(block)), 700);
	got = serial_input(&f->m, block, sizeof(block));
	assert_in_range(got, 1, sizeof(block) - 1);
	assert_int_equal(serial_input(&f->m, block, 1), 0);
	while (in(f, LSR) & 1) {
		assert_int_equal(in(f, DATA), 'q');
		total++;
	}
	assert_int_equal(total, 700 + got);
}

static void test_loopback(void **state)
{
	struct fixture *f = *state;
	unsigned n = 0;

	out(f, MCR, 0x10);
	out(f, DATA, 'L');
	assert_int_equal(in(f, DATA), 'L');
	assert_int_equal(f->n, 0);
	while (n < 5000 && !(in(f, LSR) & 2)) { /* until it overruns */
		out(f, DATA, 'x');
		n++;
	}
	assert_in_range(n, 1, 4999);
	assert_int_equal(in(f, LSR), 0x61);
	assert_int_equal(in(f, MSR) & 0x4f, 0x0b); /* the cable went */
	out(f, MCR, 0x14);                         /* OUT1 is RI in the loop */
	assert_int_equal(in(f, MSR) & 0x4f, 0x40);
	out(f, MCR, 0x10);
	assert_int_equal(in(f, MSR) & 0x4f, 0x04); /* the ring's end */
	assert_int_equal(in(f, MSR) & 0x0f, 0);
}

static void test_wide_access(void **state)
{
	struct fixture *f = *state;
	uint32_t v = 0;

	out(f, SCR, 0x77);
	bus_access(&f->m.bus, BUS_PORT, SERIAL_PORT + 4, &v, 4, false);
	assert_int_equal(v >> 24, 0x77);
	v = 0x11223341;
	bus_access(&f->m.bus, BUS_PORT, SERIAL_PORT, &v, 1, true);
	assert_int_equal(f->out[0], 'A');
	v = ~0U;
	bus_access(&f->m.bus, BUS_PORT, SERIAL_PORT + 4, &v, 4, true);
}

/* A machine frozen with a transmit interrupt pending, its edge not yet
 * taken, must raise it again when it wakes, and a quiet one must not. */
static void test_restore(void **state)
{
	struct fixture *f = *state, g;
	msgpack_sbuffer buf;
	struct err e = {0};
	struct device *d;

	msgpack_sbuffer_init(&buf);
	out(f, MCR, 0x08);
	out(f, IER, 3);
	out(f, DATA, 'a');
	assert_int_equal(serial_input(&f->m, "in", 2), 2);
	d = f->m.dev[0];
	assert_int_equal(st_save(d->ops->state, d->ops->saved(d), &buf), 0);

	up(&g);
	d = g.m.dev[0];
	assert_int_equal(st_load(d->ops->state, d->ops->saved(d), buf.data,
				 buf.size, &e),
		0);
	realize(&g);
	assert_false(raised());
	d->ops->resumed(d);
	assert_true(raised());
	assert_int_equal(in(&g, DATA), 'i');
	assert_int_equal(in(&g, DATA), 'n');
	assert_int_equal(in(&g, IIR), 2);
	assert_int_equal(in(&g, IIR), 1);
	d->ops->resumed(d);
	assert_false(raised());
	out(&g, DATA, 'b');
	assert_true(raised());
	d->ops->resumed(d); /* the edge may have been lost while paused */
	assert_true(raised());
	d->ops->destroy(d);
	msgpack_sbuffer_destroy(&buf);
}

static void test_table(void **state)
{
	struct fixture *f = *state;
	struct device *d = f->m.dev[0];

	assert_int_equal(serial_input(&f->m, "some", 4), 4);
	out(f, IER, 5);
	out(f, IIR, 0x81);
	out(f, MCR, 0x0b);
	out(f, SCR, 9);
	st_test_generic(d->ops->state, NULL);
	st_test_generic(d->ops->state, d->ops->saved(d));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_output, setup, teardown),
		cmocka_unit_test_setup_teardown(test_probe, setup, teardown),
		cmocka_unit_test_setup_teardown(
			test_transmit_interrupt, setup, teardown),
		cmocka_unit_test_setup_teardown(test_receive, setup, teardown),
		cmocka_unit_test_setup_teardown(
			test_long_input, setup, teardown),
		cmocka_unit_test_setup_teardown(
			test_input_before_driver, setup, teardown),
		cmocka_unit_test_setup_teardown(
			test_input_after_clear, setup, teardown),
		cmocka_unit_test_setup_teardown(
			test_input_is_bounded, setup, teardown),
		cmocka_unit_test_setup_teardown(test_loopback, setup, teardown),
		cmocka_unit_test_setup_teardown(
			test_wide_access, setup, teardown),
		cmocka_unit_test_setup_teardown(test_restore, setup, teardown),
		cmocka_unit_test_setup_teardown(test_table, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
