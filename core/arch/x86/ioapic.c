#include "core/arch/x86/ioapic.h"

#include "core/kvm.h"

#include <errno.h>
#include <linux/kvm.h>
#include <string.h>

/*
 * How it works
 *
 * A redirection entry (82093AA 3.2.4) is translated into the MSI that says the
 * same. Interrupts reach the guest by two ways: an irqfd, for which KVM holds
 * the MSI as the route of the pin's GSI, or ioapic_set_line(), which sends it
 * with KVM_SIGNAL_MSI. Changing routes makes KVM wait for a grace period, so
 * that is done only when an entry of an unmasked pin changes.
 *
 * Level-triggered pins: remote IRR is set when the interrupt is sent and
 * cleared by the EOI, which KVM reports for every vector that stands in a
 * level-triggered route; if the line is still high then, it is sent again.
 */
#define REG_SELECT 0x00
#define REG_WINDOW 0x10

#define IDX_ID      0x00
#define IDX_VERSION 0x01
#define IDX_ARB     0x02
#define IDX_REDIR   0x10

#define VERSION ((IOAPIC_PINS - 1) << 16 | 0x11)

#define RTE_VECTOR     0xffULL
#define RTE_DELIVERY   (7ULL << 8)
#define RTE_LOGICAL    (1ULL << 11)
#define RTE_REMOTE_IRR (1ULL << 14)
#define RTE_LEVEL      (1ULL << 15)
#define RTE_MASKED     (1ULL << 16)
#define RTE_DEST_SHIFT 56
/* What a guest can write: not the status bits, not the reserved ones. */
#define RTE_WRITABLE 0xff0000000001afffULL

#define MSI_BASE    0xfee00000U
#define MSI_LOGICAL (1U << 2)
#define MSI_LEVEL   (1U << 15)

#define MAX_ROUTES IOAPIC_PINS

struct ioapic_state {
	uint64_t redir[IOAPIC_PINS];
	uint32_t line; /* pins driven high by ioapic_set_line() */
	uint16_t select;
	uint16_t id;
};

static int ioapic_check(const void *state, struct err *e)
{
	const struct ioapic_state *s = state;

	for (unsigned i = 0; i < IOAPIC_PINS; i++) {
		uint64_t r = s->redir[i];

		if (r & ~(RTE_WRITABLE | RTE_REMOTE_IRR))
			return err_set(e, -EBADMSG,
				"ioapic: entry %u has reserved bits", i);
		if (r & RTE_REMOTE_IRR && !(r & RTE_LEVEL))
			return err_set(e, -EBADMSG,
				"ioapic: entry %u: remote IRR of an edge", i);
	}
	if (s->line >> IOAPIC_PINS || s->select > 0xff || s->id > 0xf)
		return err_set(e, -EBADMSG, "ioapic: impossible registers");
	return 0;
}

static const struct st_field ioapic_fields[] = {
	ST_ARR(struct ioapic_state, redir, 1),
	ST_U(struct ioapic_state, line, 1),
	ST_U(struct ioapic_state, select, 1),
	ST_U(struct ioapic_state, id, 1),
};

static const struct st_desc ioapic_desc = {
	.name = "ioapic",
	.size = sizeof(struct ioapic_state),
	.version = 1,
	.nfields = ARRAY_SIZE(ioapic_fields),
	.fields = ioapic_fields,
	.check = ioapic_check,
};

struct ioapic {
	struct device dev;
	pthread_mutex_t lock; /* for all below */
	struct ioapic_state s;
	uint64_t applied[IOAPIC_PINS]; /* entries as KVM has them */
};

static struct ioapic *to_ioapic(struct device *d)
{
	return container_of(d, struct ioapic, dev);
}

static struct kvm_msi rte_msi(uint64_t r)
{
	struct kvm_msi msi = {
		.address_lo = MSI_BASE | (uint32_t)(r >> RTE_DEST_SHIFT) << 12,
		.data = (uint32_t)(r & (RTE_VECTOR | RTE_DELIVERY)),
	};

	if (r & RTE_LOGICAL)
		msi.address_lo |= MSI_LOGICAL;
	if (r & RTE_LEVEL)
		msi.data |= MSI_LEVEL;
	return msi;
}

/* The part of an entry that its route depends on; all masked ones are alike. */
static uint64_t rte_route(uint64_t r)
{
	if (r & RTE_MASKED)
		return RTE_MASKED;
	return r & ~RTE_REMOTE_IRR;
}

static int apply_routes_locked(struct ioapic *a)
{
	struct {
		struct kvm_irq_routing head;
		struct kvm_irq_routing_entry entry[MAX_ROUTES];
	} t = {0};
	uint64_t want[IOAPIC_PINS];
	uint32_t n = 0;
	int r;

	for (uint32_t i = 0; i < IOAPIC_PINS; i++) {
		struct kvm_msi msi = rte_msi(a->s.redir[i]);

		want[i] = rte_route(a->s.redir[i]);
		if (want[i] & RTE_MASKED)
			continue;
		t.entry[n].gsi = i;
		t.entry[n].type = KVM_IRQ_ROUTING_MSI;
		t.entry[n].u.msi.address_lo = msi.address_lo;
		t.entry[n].u.msi.data = msi.data;
		n++;
	}
	if (!memcmp(want, a->applied, sizeof(want)))
		return 0;
	t.head.nr = n;
	r = kvm_ioctl(a->dev.m->vm_fd, KVM_SET_GSI_ROUTING, &t);
	if (r < 0)
		return r;
	memcpy(a->applied, want, sizeof(want));
	return 0;
}

int ioapic_apply_routes(struct machine *m)
{
	struct ioapic *a = m->ioapic;
	int r;

	pthread_mutex_lock(&a->lock);
	r = apply_routes_locked(a);
	pthread_mutex_unlock(&a->lock);
	return r;
}

static void deliver(struct ioapic *a, uint32_t pin)
{
	struct kvm_msi msi = rte_msi(a->s.redir[pin]);
	int r = kvm_ioctl(a->dev.m->vm_fd, KVM_SIGNAL_MSI, &msi);

	/* 0 and -EPERM: no local APIC took it, which is the guest's affair. */
	if (r < 0 && r != -EPERM)
		machine_end(a->dev.m, MACHINE_END_ERROR,
			"KVM_SIGNAL_MSI for pin %u: %s", pin, strerror(-r));
}

/* Send a level-triggered interrupt if its line asks for one. */
static void serve_level(struct ioapic *a, uint32_t pin)
{
	uint64_t *r = &a->s.redir[pin];

	if (!(*r & RTE_LEVEL) || *r & (RTE_MASKED | RTE_REMOTE_IRR) ||
		!(a->s.line & 1U << pin))
		return;
	*r |= RTE_REMOTE_IRR;
	deliver(a, pin);
}

void ioapic_set_line(struct machine *m, uint32_t pin, bool high)
{
	struct ioapic *a = m->ioapic;
	uint32_t bit;

	if (pin >= IOAPIC_PINS)
		return;
	bit = 1U << pin;
	pthread_mutex_lock(&a->lock);
	if (!high) {
		a->s.line &= ~bit;
	} else if (!(a->s.line & bit)) {
		a->s.line |= bit;
		if (a->s.redir[pin] & RTE_LEVEL)
			serve_level(a, pin);
		else if (!(a->s.redir[pin] & RTE_MASKED))
			deliver(a, pin);
	}
	pthread_mutex_unlock(&a->lock);
}

void ioapic_eoi(struct machine *m, uint8_t vector)
{
	struct ioapic *a = m->ioapic;

	pthread_mutex_lock(&a->lock);
	for (uint32_t i = 0; i < IOAPIC_PINS; i++) {
		uint64_t *r = &a->s.redir[i];

		if ((*r & RTE_VECTOR) != vector || !(*r & RTE_LEVEL))
			continue;
		*r &= ~RTE_REMOTE_IRR;
		serve_level(a, i);
	}
	pthread_mutex_unlock(&a->lock);
}

static void redir_write(struct ioapic *a, uint32_t idx, uint32_t v)
{
	uint32_t pin = idx / 2;
	uint64_t *r = &a->s.redir[pin];
	unsigned shift = idx % 2 ? 32 : 0;
	uint64_t mask = RTE_WRITABLE & 0xffffffffULL << shift;

	*r = (*r & ~mask) | ((uint64_t)v << shift & mask);
	/* Drivers clear a stuck remote IRR by switching to edge and back. */
	if (!(*r & RTE_LEVEL))
		*r &= ~RTE_REMOTE_IRR;
}

static uint32_t window_read(const struct ioapic *a)
{
	const struct ioapic_state *s = &a->s;
	uint32_t idx = s->select - (uint32_t)IDX_REDIR;

	if (s->select == IDX_ID || s->select == IDX_ARB)
		return (uint32_t)s->id << 24;
	if (s->select == IDX_VERSION)
		return VERSION;
	if (s->select < IDX_REDIR || idx / 2 >= IOAPIC_PINS)
		return 0;
	return (uint32_t)(s->redir[idx / 2] >> (idx % 2 ? 32 : 0));
}

static void window_write(struct ioapic *a, uint32_t v)
{
	struct ioapic_state *s = &a->s;
	uint32_t idx = s->select - (uint32_t)IDX_REDIR;
	int r;

	if (s->select == IDX_ID)
		s->id = v >> 24 & 0xf;
	if (s->select < IDX_REDIR || idx / 2 >= IOAPIC_PINS)
		return;
	redir_write(a, idx, v);
	r = apply_routes_locked(a);
	if (r)
		machine_end(a->dev.m, MACHINE_END_ERROR,
			"KVM_SET_GSI_ROUTING: %s", strerror(-r));
	/* After the route is in place, or KVM would not report the EOI. */
	serve_level(a, idx / 2);
}

/* The registers are 32 bits wide; narrower accesses reach their low bytes. */
static void ioapic_io(struct device *d, uint32_t bar, uint64_t off, void *data,
	uint32_t len, bool write)
{
	struct ioapic *a = to_ioapic(d);
	uint32_t v = 0;

	(void)bar;
	pthread_mutex_lock(&a->lock);
	if (write) {
		memcpy(&v, data, min_u64(len, sizeof(v)));
		if (off == REG_SELECT)
			a->s.select = v & 0xff;
		else if (off == REG_WINDOW)
			window_write(a, v);
	} else {
		if (off == REG_SELECT)
			v = a->s.select;
		else if (off == REG_WINDOW)
			v = window_read(a);
		memset(data, 0, len);
		memcpy(data, &v, min_u64(len, sizeof(v)));
	}
	pthread_mutex_unlock(&a->lock);
}

static int ioapic_create(struct machine *m, uint32_t instance,
	struct device **out, struct err *e)
{
	struct ioapic *a = calloc(1, sizeof(*a));

	(void)instance;
	if (!a || pthread_mutex_init(&a->lock, NULL)) {
		free(a);
		return err_set(e, -ENOMEM, "ioapic: no memory");
	}
	for (unsigned i = 0; i < IOAPIC_PINS; i++) {
		a->s.redir[i] = RTE_MASKED;
		a->applied[i] = RTE_MASKED;
	}
	m->ioapic = a;
	*out = &a->dev;
	return 0;
}

static void *ioapic_saved(struct device *d)
{
	return &to_ioapic(d)->s;
}

static int ioapic_realize(struct device *d, struct err *e)
{
	int r = ioapic_apply_routes(d->m);

	if (r)
		return err_sys(e, r, "ioapic: KVM_SET_GSI_ROUTING");
	r = bus_add(&d->m->bus, BUS_MMIO, IOAPIC_BASE, IOAPIC_SIZE, d, 0);
	return r ? err_sys(e, r, "ioapic: registers") : 0;
}

static void ioapic_destroy(struct device *d)
{
	struct ioapic *a = to_ioapic(d);

	pthread_mutex_destroy(&a->lock);
	free(a);
}

const struct device_ops ioapic_ops = {
	.name = "ioapic",
	.section = 0xfa023ed799617b5dULL,
	.state = &ioapic_desc,
	.create = ioapic_create,
	.saved = ioapic_saved,
	.realize = ioapic_realize,
	.destroy = ioapic_destroy,
	.io = ioapic_io,
};
