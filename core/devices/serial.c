#include "core/serial.h"

#include "core/irq.h"

#include <errno.h>
#include <string.h>

/*
 * 16550A, by the datasheet of the National PC16550D (register numbers and bits
 * in its section 8), with these liberties: sending takes no time, so THR and
 * TSR are always empty; the receive FIFO is deeper than 16 bytes and is used
 * also while FIFO mode is off.
 *
 * Threads: io() on a vCPU thread, the rest on the loop thread; all of struct
 * serial below the lock is touched only with the lock held.
 *
 * Interrupts: the port's line is a level, computed from the registers; the
 * GSI is edge triggered, so the eventfd is kicked when the line rises. An edge
 * may be under way in the kernel while the state is saved. Therefore
 * resumed() kicks again whenever the line is high: a spurious edge is
 * harmless, a lost one leaves the console stuck. The same holds for
 * s.thre_pending, which cannot be derived from the other registers.
 */
enum {
	REG_DATA,
	REG_IER,
	REG_IIR, /* read; FCR when written */
	REG_LCR,
	REG_MCR,
	REG_LSR,
	REG_MSR,
	REG_SCR,
	NREGS
};

#define IER_RX    0x01
#define IER_THRE  0x02
#define IER_LINE  0x04
#define IER_MODEM 0x08
#define IER_MASK  0x0f

#define IIR_MODEM   0x00
#define IIR_NONE    0x01
#define IIR_THRE    0x02
#define IIR_RX      0x04
#define IIR_LINE    0x06
#define IIR_TIMEOUT 0x0c
#define IIR_FIFO    0xc0

#define FCR_ENABLE   0x01
#define FCR_CLEAR_RX 0x02
#define FCR_KEPT     0xc9 /* enable, DMA mode, trigger level */

#define LCR_DLAB 0x80

#define MCR_DTR  0x01
#define MCR_RTS  0x02
#define MCR_OUT1 0x04
#define MCR_OUT2 0x08 /* gates the interrupt line on a PC */
#define MCR_LOOP 0x10
#define MCR_MASK 0x1f

#define LSR_DR      0x01
#define LSR_OVERRUN 0x02
#define LSR_EMPTY   0x60 /* THRE and TEMT */

#define MSR_DELTA 0x0f
#define MSR_TERI  0x04
#define MSR_CTS   0x10
#define MSR_DSR   0x20
#define MSR_RI    0x40
#define MSR_DCD   0x80

#define RX_MAX 1024

/* What a driver believes the FIFO to be. It clears it several times before it
 * reads: each time so much of what waits is lost, not RX_MAX. */
#define FIFO_SIZE 16

struct serial_state {
	uint32_t rx_len;
	uint8_t rx[RX_MAX];
	uint8_t ier, fcr, lcr, mcr;
	uint8_t msr, scr, dll, dlm;
	uint8_t overrun;      /* LSR bit 1, until LSR is read */
	uint8_t thre_pending; /* THR empty not yet reported */
	uint8_t reserved[2];
};

static int serial_check(const void *state, struct err *e)
{
	const struct serial_state *s = state;

	if (s->ier & ~IER_MASK || s->mcr & ~MCR_MASK || s->fcr & ~FCR_KEPT ||
		s->overrun > 1 || s->thre_pending > 1 || s->reserved[0] ||
		s->reserved[1])
		return err_set(e, -EBADMSG, "serial: impossible registers");
	return 0;
}

static const struct st_field serial_fields[] = {
	ST_VAR(struct serial_state, rx, rx_len, 1),
	ST_U(struct serial_state, ier, 1),
	ST_U(struct serial_state, fcr, 1),
	ST_U(struct serial_state, lcr, 1),
	ST_U(struct serial_state, mcr, 1),
	ST_U(struct serial_state, msr, 1),
	ST_U(struct serial_state, scr, 1),
	ST_U(struct serial_state, dll, 1),
	ST_U(struct serial_state, dlm, 1),
	ST_U(struct serial_state, overrun, 1),
	ST_U(struct serial_state, thre_pending, 1),
	ST_ARR(struct serial_state, reserved, 1),
};

static const struct st_desc serial_desc = {
	.name = "serial",
	.size = sizeof(struct serial_state),
	.version = 1,
	.nfields = ARRAY_SIZE(serial_fields),
	.fields = serial_fields,
	.check = serial_check,
};

struct serial {
	struct device dev;
	int irq_fd; /* owned, -1 before realize */
	pthread_mutex_t lock;
	struct serial_state s;
	bool line; /* the interrupt line, as last computed */
	/* Input that waits for room in the FIFO. */
	uint8_t *queue; /* owned: SERIAL_QUEUE_MAX bytes, when needed */
	size_t queue_at, queue_len;
	serial_output_fn *out;
	void *out_arg;
};

static struct serial *to_serial(struct device *d)
{
	return container_of(d, struct serial, dev);
}

/* What IIR reports: the pending interrupt of the highest priority. */
static uint8_t iir_cause(const struct serial_state *s)
{
	static const uint8_t trigger[] = {1, 4, 8, 14};

	if (s->ier & IER_LINE && s->overrun)
		return IIR_LINE;
	if (s->ier & IER_RX && s->rx_len) {
		if (!(s->fcr & FCR_ENABLE) || s->rx_len >= trigger[s->fcr >> 6])
			return IIR_RX;
		return IIR_TIMEOUT;
	}
	if (s->ier & IER_THRE && s->thre_pending)
		return IIR_THRE;
	if (s->ier & IER_MODEM && s->msr & MSR_DELTA)
		return IIR_MODEM;
	return IIR_NONE;
}

static void update_line(struct serial *u)
{
	bool high = iir_cause(&u->s) != IIR_NONE &&
		    (u->s.mcr & (MCR_OUT2 | MCR_LOOP)) == MCR_OUT2;

	if (high && !u->line && u->irq_fd >= 0)
		eventfd_kick(u->irq_fd);
	u->line = high;
}

/* Modem lines: a cable that is always connected, or the loop's own. */
static void update_modem(struct serial_state *s)
{
	unsigned old = s->msr, now = MSR_DCD | MSR_DSR | MSR_CTS, changed;

	if (s->mcr & MCR_LOOP) {
		now = s->mcr & MCR_RTS ? MSR_CTS : 0;
		now |= s->mcr & MCR_DTR ? MSR_DSR : 0;
		now |= s->mcr & MCR_OUT1 ? MSR_RI : 0;
		now |= s->mcr & MCR_OUT2 ? MSR_DCD : 0;
	}
	changed = (old ^ now) >> 4;
	if (!(old & MSR_RI)) /* only the end of a ring counts */
		changed &= ~(unsigned)MSR_TERI;
	s->msr = (uint8_t)(now | (old & MSR_DELTA) | changed);
}

static size_t rx_put(struct serial_state *s, const uint8_t *data, size_t len)
{
	size_t n = min_u64(len, RX_MAX - s->rx_len);

	memcpy(s->rx + s->rx_len, data, n);
	s->rx_len += (uint32_t)n;
	return n;
}

static uint8_t rx_get(struct serial_state *s)
{
	uint8_t v = s->rx[0];

	if (!s->rx_len)
		return 0;
	s->rx_len--;
	memmove(s->rx, s->rx + 1, s->rx_len);
	s->rx[s->rx_len] = 0;
	return v;
}

/* From what waits, at most max bytes; while the port is a loop, its line is cut
 * off. */
static void refill(struct serial *u, size_t max)
{
	size_t n;

	if (u->s.rx_len || !u->queue_len || u->s.mcr & MCR_LOOP)
		return;
	n = rx_put(&u->s, u->queue + u->queue_at, min_u64(u->queue_len, max));
	u->queue_at += n;
	u->queue_len -= n;
}

static size_t queue_put(struct serial *u, const uint8_t *data, size_t len)
{
	size_t n = min_u64(len, SERIAL_QUEUE_MAX - u->queue_len);

	if (n && !u->queue)
		u->queue = malloc(SERIAL_QUEUE_MAX);
	if (!u->queue)
		return 0;
	memmove(u->queue, u->queue + u->queue_at, u->queue_len);
	memcpy(u->queue + u->queue_len, data, n);
	u->queue_at = 0;
	u->queue_len += n;
	return n;
}

static void rx_clear(struct serial_state *s)
{
	s->rx_len = 0;
	memset(s->rx, 0, sizeof(s->rx));
}

static void transmit(struct serial *u, uint8_t v)
{
	if (u->s.mcr & MCR_LOOP) {
		if (!rx_put(&u->s, &v, 1))
			u->s.overrun = 1;
	} else if (u->out) {
		u->out(u->out_arg, &v, 1);
	}
	u->s.thre_pending = 1;
}

static uint8_t reg_read(struct serial *u, unsigned reg)
{
	struct serial_state *s = &u->s;
	uint8_t v = 0xff;

	switch (reg) {
	case REG_DATA:
		if (s->lcr & LCR_DLAB)
			return s->dll;
		v = rx_get(s);
		refill(u, RX_MAX);
		return v;
	case REG_IER:
		return s->lcr & LCR_DLAB ? s->dlm : s->ier;
	case REG_IIR:
		v = iir_cause(s);
		if (v == IIR_THRE)
			s->thre_pending = 0;
		return s->fcr & FCR_ENABLE ? v | IIR_FIFO : v;
	case REG_LCR:
		return s->lcr;
	case REG_MCR:
		return s->mcr;
	case REG_LSR:
		v = LSR_EMPTY;
		v |= s->rx_len ? LSR_DR : 0;
		v |= s->overrun ? LSR_OVERRUN : 0;
		s->overrun = 0;
		return v;
	case REG_MSR:
		v = s->msr;
		s->msr &= (uint8_t)~MSR_DELTA;
		return v;
	case REG_SCR:
		return s->scr;
	default:
		return v;
	}
}

static void fcr_write(struct serial_state *s, uint8_t v)
{
	/* Switching FIFO mode clears the FIFOs; without it the other bits of
	 * this write are not taken. */
	if ((v ^ s->fcr) & FCR_ENABLE || v & FCR_CLEAR_RX)
		rx_clear(s);
	s->fcr = v & FCR_ENABLE ? v & FCR_KEPT : 0;
}

static void reg_write(struct serial *u, unsigned reg, uint8_t v)
{
	struct serial_state *s = &u->s;

	switch (reg) {
	case REG_DATA:
		if (s->lcr & LCR_DLAB)
			s->dll = v;
		else
			transmit(u, v);
		break;
	case REG_IER:
		if (s->lcr & LCR_DLAB) {
			s->dlm = v;
			break;
		}
		/* Enabling it with an empty THR is an interrupt at once:
		 * drivers start sending that way. */
		if (v & IER_THRE && !(s->ier & IER_THRE))
			s->thre_pending = 1;
		s->ier = v & IER_MASK;
		break;
	case REG_IIR:
		fcr_write(s, v);
		update_line(u); /* falls: more input is an edge again */
		refill(u, FIFO_SIZE);
		break;
	case REG_LCR:
		s->lcr = v;
		break;
	case REG_MCR:
		s->mcr = v & MCR_MASK;
		update_modem(s);
		refill(u, RX_MAX);
		break;
	case REG_SCR:
		s->scr = v;
		break;
	default: /* LSR and MSR are read-only */
		break;
	}
}

/* An access wider than a byte reaches one register after the other, as on the
 * ISA bus. */
static void serial_io(struct device *d, uint32_t bar, uint64_t off, void *data,
	uint32_t len, bool write)
{
	struct serial *u = to_serial(d);
	uint8_t *p = data;

	(void)bar;
	pthread_mutex_lock(&u->lock);
	for (uint32_t i = 0; i < len; i++) {
		if (write)
			reg_write(u, (unsigned)off + i, p[i]);
		else
			p[i] = reg_read(u, (unsigned)off + i);
		update_line(u);
	}
	pthread_mutex_unlock(&u->lock);
}

static int serial_create(struct machine *m, uint32_t instance,
	struct device **out, struct err *e)
{
	struct serial *u = calloc(1, sizeof(*u));

	(void)instance;
	(void)m;
	if (!u || pthread_mutex_init(&u->lock, NULL)) {
		free(u);
		return err_set(e, -ENOMEM, "serial: no memory");
	}
	u->irq_fd = -1;
	u->s.dll = 12; /* 9600 baud, as firmware leaves it */
	u->s.msr = MSR_DCD | MSR_DSR | MSR_CTS;
	*out = &u->dev;
	return 0;
}

static void *serial_saved(struct device *d)
{
	return &to_serial(d)->s;
}

static int serial_realize(struct device *d, struct err *e)
{
	struct serial *u = to_serial(d);
	int r;

	u->irq_fd = irq_fd_create(d->m, SERIAL_GSI, e);
	if (u->irq_fd < 0)
		return u->irq_fd;
	r = bus_add(&d->m->bus, BUS_PORT, SERIAL_PORT, NREGS, d, 0);
	return r ? err_sys(e, r, "serial: port %#x", SERIAL_PORT) : 0;
}

static void serial_resumed(struct device *d)
{
	struct serial *u = to_serial(d);

	pthread_mutex_lock(&u->lock);
	u->line = false;
	update_line(u);
	pthread_mutex_unlock(&u->lock);
}

static void serial_destroy(struct device *d)
{
	struct serial *u = to_serial(d);

	if (u->irq_fd >= 0)
		(void)close(u->irq_fd);
	pthread_mutex_destroy(&u->lock);
	free(u->queue);
	free(u);
}

const struct device_ops serial_ops = {
	.name = "serial",
	.section = 0x76b1eff1b811568cULL,
	.state = &serial_desc,
	.create = serial_create,
	.saved = serial_saved,
	.realize = serial_realize,
	.resumed = serial_resumed,
	.destroy = serial_destroy,
	.io = serial_io,
};

static struct serial *serial_of(struct machine *m)
{
	for (unsigned i = 0; i < m->ndevs; i++)
		if (m->dev[i]->ops == &serial_ops)
			return to_serial(m->dev[i]);
	return NULL;
}

void serial_set_output(struct machine *m, serial_output_fn *fn, void *arg)
{
	struct serial *u = serial_of(m);

	if (!u)
		return;
	pthread_mutex_lock(&u->lock);
	u->out = fn;
	u->out_arg = arg;
	pthread_mutex_unlock(&u->lock);
}

size_t serial_input(struct machine *m, const void *data, size_t len)
{
	struct serial *u = serial_of(m);
	size_t n;

	if (!u)
		return 0;
	pthread_mutex_lock(&u->lock);
	n = rx_put(&u->s, data, len);
	update_line(u);
	pthread_mutex_unlock(&u->lock);
	return n;
}

size_t serial_queue_input(struct machine *m, const void *data, size_t len)
{
	struct serial *u = serial_of(m);
	size_t n = 0;

	if (!u)
		return 0;
	pthread_mutex_lock(&u->lock);
	if (!u->queue_len && !(u->s.mcr & MCR_LOOP))
		n = rx_put(&u->s, data, len);
	n += queue_put(u, (const uint8_t *)data + n, len - n);
	refill(u, RX_MAX);
	update_line(u);
	pthread_mutex_unlock(&u->lock);
	return n;
}
