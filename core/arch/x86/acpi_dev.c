/*
 * The device behind the ACPI tables: see acpi.h.
 *
 * Threads: io() on vCPU threads, without state; the rest on the loop thread.
 */
#include "core/arch/x86/acpi.h"

#include "core/irq.h"

#include <errno.h>
#include <string.h>

/* 4.8.3.7: sleep control register */
#define SLEEP_ENABLE  0x20
#define SLEEP_TYPE(v) ((v) >> 2 & 7)

/* pvpanic (QEMU docs/specs/pvpanic): what the guest may tell, and tells. */
#define PANIC_PANICKED 1
#define PANIC_DUMPED   2

#define PORT_KBD_DATA 0x60
#define KBD_RESET     0xfe

enum {
	BAR_SLEEP,
	BAR_KBD_DATA,
	BAR_KBD_COMMAND,
	BAR_PANIC,
};

/* Linux include/uapi/linux/vmclock-abi.h. Of the clock it says nothing; what
 * matters is that both counters are other ones than before. */
struct vmclock {
	uint32_t magic, size;
	uint16_t version;
	uint8_t counter_id, time_type;
	uint32_t seq;
	uint64_t disruption_marker;
	uint64_t flags;
	uint8_t pad[2], clock_status, smearing;
	uint16_t tai_offset;
	uint8_t leap, shift;
	uint64_t counter[8]; /* offsets 40 to 103 */
	uint64_t generation;
};
_Static_assert(offsetof(struct vmclock, generation) == 104, "its place");

#define VMCLOCK_MAGIC           0x4b4c4356 /* "VCLK" */
#define VMCLOCK_COUNTER_INVALID 0xff
#define VMCLOCK_HAS_GENERATION  (1 << 8)
#define VMCLOCK_HAS_NOTIFY      (1 << 9)

struct acpi_state {
	uint32_t notify; /* 1: the event is raised at the next resume */
	uint32_t reserved;
};

static int state_check(const void *state, struct err *e)
{
	const struct acpi_state *s = state;

	if (s->notify > 1 || s->reserved)
		return err_set(e, -EBADMSG, "acpi: impossible state");
	return 0;
}

static const struct st_field fields[] = {
	ST_U(struct acpi_state, notify, 1),
	ST_U(struct acpi_state, reserved, 1),
};

static const struct st_desc acpi_desc = {
	.name = "acpi",
	.size = sizeof(struct acpi_state),
	.version = 1,
	.nfields = ARRAY_SIZE(fields),
	.fields = fields,
	.check = state_check,
};

struct acpi {
	struct device dev;
	struct acpi_state s;
	int irq_fd; /* owned; -1 before realize */
};

static struct acpi *to_acpi(struct device *d)
{
	return container_of(d, struct acpi, dev);
}

static struct acpi *acpi_of(struct machine *m)
{
	for (unsigned i = 0; i < m->ndevs; i++) {
		if (m->dev[i]->ops == &acpi_ops)
			return to_acpi(m->dev[i]);
	}
	return NULL;
}

int acpi_new_generation(
	struct machine *m, const uint8_t generation[16], struct err *e)
{
	struct acpi *a = acpi_of(m);
	uint32_t seq = 0;
	struct vmclock now = {
		.magic = VMCLOCK_MAGIC,
		.size = PAGE_SIZE_4K,
		.version = 1,
		.counter_id = VMCLOCK_COUNTER_INVALID,
		.flags = VMCLOCK_HAS_GENERATION | VMCLOCK_HAS_NOTIFY,
	};

	if (!a)
		return 0;
	if (mem_read(&m->mem, ACPI_VMCLOCK + offsetof(struct vmclock, seq),
		    &seq, sizeof(seq)) < 0)
		goto no_memory;
	/* No vCPU runs, yet one may be in the middle of reading: it must find
	 * another even number. */
	now.seq = (seq | 1) + 1;
	memcpy(&now.generation, generation, sizeof(now.generation));
	now.disruption_marker = now.generation;
	if (mem_write(&m->mem, ACPI_VMCLOCK, &now, sizeof(now)) < 0 ||
		mem_write(&m->mem, ACPI_VMGENID, generation, 16) < 0)
		goto no_memory;
	a->s.notify = 1;
	return 0;
no_memory:
	return err_set(e, -EINVAL, "no memory for the generation id");
}

/* vCPU thread */
static void acpi_io(struct device *d, uint32_t bar, uint64_t off, void *data,
	uint32_t len, bool write)
{
	uint8_t v;

	if (!write) {
		/* sleep status: not woken; keyboard: nothing to read, ready for
		 * a command */
		memset(data, 0, len);
		v = PANIC_PANICKED | PANIC_DUMPED;
		if (bar == BAR_PANIC)
			memcpy(data, &v, 1);
		return;
	}
	memcpy(&v, data, 1);
	if (bar == BAR_PANIC && v & (PANIC_PANICKED | PANIC_DUMPED))
		machine_end(d->m, MACHINE_END_CRASH,
			"the guest's kernel panicked; its console says why");
	if (bar == BAR_KBD_COMMAND && v == KBD_RESET)
		machine_end(d->m, MACHINE_END_REBOOT, "reset");
	if (bar == BAR_SLEEP && off == 0 && v & SLEEP_ENABLE &&
		SLEEP_TYPE(v) == ACPI_SLEEP_S5)
		machine_end(d->m, MACHINE_END_POWEROFF, "power off");
}

static bool acpi_wanted(const struct machine_config *c, uint32_t instance)
{
	(void)instance;
	return c->acpi != 0;
}

static int acpi_create(struct machine *m, uint32_t instance,
	struct device **out, struct err *e)
{
	struct acpi *a;

	(void)m;
	(void)instance;
	*out = NULL;
	a = calloc(1, sizeof(*a));
	if (!a)
		return err_set(e, -ENOMEM, "acpi: no memory");
	a->irq_fd = -1;
	*out = &a->dev;
	return 0;
}

static void *acpi_saved(struct device *d)
{
	return &to_acpi(d)->s;
}

static int acpi_realize(struct device *d, struct err *e)
{
	struct acpi *a = to_acpi(d);
	struct bus *b = &d->m->bus;
	int r;

	a->irq_fd = irq_fd_create(d->m, ACPI_GED_GSI, e);
	if (a->irq_fd < 0)
		return a->irq_fd;
	r = bus_add(b, BUS_PORT, ACPI_PORT_SLEEP, 2, d, BAR_SLEEP);
	if (!r)
		r = bus_add(b, BUS_PORT, PORT_KBD_DATA, 1, d, BAR_KBD_DATA);
	if (!r)
		r = bus_add(b, BUS_PORT, ACPI_PORT_8042, 1, d, BAR_KBD_COMMAND);
	if (!r)
		r = bus_add(b, BUS_PORT, ACPI_PORT_PANIC, 1, d, BAR_PANIC);
	return r ? err_sys(e, r, "acpi: ports") : 0;
}

static void acpi_resumed(struct device *d)
{
	struct acpi *a = to_acpi(d);

	if (a->s.notify)
		eventfd_kick(a->irq_fd);
	a->s.notify = 0;
}

static void acpi_destroy(struct device *d)
{
	struct acpi *a = to_acpi(d);

	if (a->irq_fd >= 0)
		(void)close(a->irq_fd);
	free(a);
}

const struct device_ops acpi_ops = {
	.name = "acpi",
	.section = 0x3b9cd40a71e65f28ULL,
	.state = &acpi_desc,
	.wanted = acpi_wanted,
	.create = acpi_create,
	.saved = acpi_saved,
	.realize = acpi_realize,
	.resumed = acpi_resumed,
	.destroy = acpi_destroy,
	.io = acpi_io,
};
