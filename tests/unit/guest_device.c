#include "tests/unit/guest_device.h"
#include "tests/unit/test.h"

#include "core/guest/agent.h"
#include "core/guest/boot.h"
#include "core/guest/cpu.h"
#include "core/guest/function.h"

#include <stdlib.h>
#include <string.h>

#define PEER_ALLOC 100000u
#define MAX_WAITS  200000u

struct guest_device dev;

uint32_t crash_triple; /* global: boot.h */

/* ---- the machine ---- */

void out8(uint16_t port, uint8_t v)
{
	(void)port, (void)v;
}

uint64_t rdtsc(void)
{
	return dev.tsc += 1000;
}

void door_event(uint32_t event)
{
	fail_msg("the guest ended with event %u", event);
}

struct ident *ident_page(void)
{
	return &dev.ident;
}

const char *fn_option(const char *key, size_t *n)
{
	(void)key;
	*n = 0;
	return NULL;
}

void door_wait(uint32_t us)
{
	dev.tsc += (uint64_t)us * dev.ident.tsc_khz / 1000;
	if (++dev.waits > MAX_WAITS)
		fail_msg("the guest does not come to an end");
	device_run();
}

/* ---- registers ---- */

uint32_t mmio_read(uint64_t addr)
{
	uint32_t reg = addr & 0xfff;

	switch (reg) {
	case 0x00:
		return 0x74726976;
	case 0x04:
		return 2;
	case 0x08:
		return 19;
	case 0x10:
		return dev.reg[0x14 / 4] == 1;
	case 0x34:
		return 256;
	case 0x100:
		return OUR_CID;
	default:
		return reg < 0x100 ? dev.reg[reg / 4] : 0;
	}
}

void mmio_write(uint64_t addr, uint32_t v)
{
	uint32_t reg = addr & 0xff, q = dev.reg[0x30 / 4];

	dev.reg[reg / 4] = v;
	if (reg == 0x38)
		dev.size[q] = (uint16_t)v;
	if (reg >= 0x80 && reg < 0xb0) {
		uint64_t *a = &dev.ring[q][(reg - 0x80) / 16];

		if (reg & 4)
			*a = (*a & UINT32_MAX) | (uint64_t)v << 32;
		else
			*a = v;
	}
}

/* ---- rings ---- */

struct test_desc {
	uint64_t addr;
	uint32_t len;
	uint16_t flags, next;
};

static uint16_t *avail(unsigned q)
{
	return (uint16_t *)(uintptr_t)dev.ring[q][1];
}

/* The next chain: its head, or -1. */
static int pop(unsigned q)
{
	if (!dev.size[q] || avail(q)[1] == dev.seen[q])
		return -1;
	return avail(q)[2 + dev.seen[q]++ % dev.size[q]];
}

static void push(unsigned q, int head, uint32_t len)
{
	uint16_t *used = (uint16_t *)(uintptr_t)dev.ring[q][2];
	uint32_t elem[2] = {(uint32_t)head, len};

	memcpy(used + 2 + 4 * (used[1] % dev.size[q]), elem, sizeof(elem));
	used[1]++;
}

/* Copy between a chain and a buffer; returns the bytes. */
static size_t chain_copy(
	unsigned q, int head, uint8_t *buf, size_t n, bool to_guest)
{
	const struct test_desc *d = (void *)(uintptr_t)dev.ring[q][0];
	size_t at = 0;

	for (int i = head;; i = d[i].next) {
		size_t m = d[i].len < n - at ? d[i].len : n - at;

		assert_int_equal(!!(d[i].flags & 2), to_guest);
		if (to_guest)
			memcpy((void *)(uintptr_t)d[i].addr, buf + at, m);
		else
			memcpy(buf + at, (void *)(uintptr_t)d[i].addr, m);
		at += m;
		if (!(d[i].flags & 1) || at == n)
			return at;
	}
}

static size_t chain_room(unsigned q, int head)
{
	const struct test_desc *d = (void *)(uintptr_t)dev.ring[q][0];
	size_t n = d[head].len;

	return n + (d[head].flags & 1 ? d[d[head].next].len : 0);
}

/* ---- peers ---- */

static struct peer *find_peer(const struct vsock_hdr *h)
{
	for (unsigned i = 0; i < PEERS; i++) {
		if (dev.peer[i].used && dev.peer[i].port == h->dst_port &&
			dev.peer[i].guest_port == h->src_port)
			return &dev.peer[i];
	}
	return NULL;
}

static struct vsock_hdr head_of(const struct peer *p, uint16_t op)
{
	return (struct vsock_hdr){
		.src_cid = HOST_CID,
		.dst_cid = OUR_CID,
		.src_port = p->port,
		.dst_port = p->guest_port,
		.type = VSOCK_TYPE_STREAM,
		.op = op,
		.buf_alloc = p->our_alloc,
		.fwd_cnt = p->no_reading ? 0 : (uint32_t)p->nin,
	};
}

void device_control(const struct vsock_hdr *h)
{
	for (unsigned i = 0; i < 256; i++) {
		if (!dev.control[i].used) {
			dev.control[i].h = *h;
			dev.control[i].used = true;
			return;
		}
	}
	fail_msg("too many control packets");
}

void peer_control(struct peer *p, uint16_t op, uint32_t flags)
{
	struct vsock_hdr h = head_of(p, op);

	h.flags = flags;
	device_control(&h);
}

static void from_guest(const struct vsock_hdr *h, const uint8_t *data)
{
	struct peer *p = find_peer(h);

	if (h->op == OP_REQUEST) {
		dev.requests++;
		return;
	}
	if (!p) {
		dev.refused += h->op == OP_RST;
		return;
	}
	p->alloc = h->buf_alloc;
	p->fwd = h->fwd_cnt;
	p->answered |= h->op == OP_RESPONSE;
	p->ended |= h->op == OP_RST;
	p->shut |= h->op == OP_SHUTDOWN;
	if (h->op == OP_CREDIT_REQUEST && !p->no_reading)
		peer_control(p, OP_CREDIT_UPDATE, 0);
	if (h->op != OP_RW)
		return;
	p->in = realloc(p->in, p->nin + h->len + 1);
	memcpy(p->in + p->nin, data, h->len);
	p->nin += h->len;
	if (!p->no_reading)
		peer_control(p, OP_CREDIT_UPDATE, 0);
}

static void take_tx(void)
{
	static uint8_t buf[70000];
	struct vsock_hdr h;
	int head;

	while ((head = pop(1)) >= 0) {
		size_t n = chain_copy(1, head, buf, sizeof(buf), false);

		assert_true(n >= sizeof(h));
		memcpy(&h, buf, sizeof(h));
		assert_int_equal(h.len, n - sizeof(h));
		push(1, head, 0);
		from_guest(&h, buf + sizeof(h));
	}
}

static size_t next_data(const struct peer *p, size_t room)
{
	size_t n = p->nout - p->out_at, credit;

	if (!p->used || p->ended || !p->answered)
		return 0;
	credit = p->alloc - ((uint32_t)p->out_at - p->fwd);
	if (!p->no_credit && n > credit)
		n = credit;
	if (p->chunk && n > p->chunk)
		n = p->chunk;
	return n < room ? n : room;
}

/* One packet into the guest's next buffer. False: nothing to send, no room. */
static bool give_rx(void)
{
	static uint8_t buf[70000];
	struct vsock_hdr h;
	int head;

	if (!dev.size[0] || avail(0)[1] == dev.seen[0])
		return false;
	for (unsigned i = 0; i < 256; i++) {
		if (!dev.control[i].used)
			continue;
		dev.control[i].used = false;
		head = pop(0);
		push(0, head,
			(uint32_t)chain_copy(0, head,
				(uint8_t *)&dev.control[i].h, sizeof(h), true));
		return true;
	}
	for (unsigned i = 0; i < PEERS; i++) {
		struct peer *p = &dev.peer[i];
		size_t n = next_data(p, sizeof(buf) - sizeof(h));

		if (!n)
			continue;
		head = pop(0);
		n = next_data(p, chain_room(0, head) - sizeof(h));
		h = head_of(p, OP_RW);
		h.len = (uint32_t)n;
		memcpy(buf, &h, sizeof(h));
		memcpy(buf + sizeof(h), p->out + p->out_at, n);
		p->out_at += n;
		push(0, head,
			(uint32_t)chain_copy(
				0, head, buf, sizeof(h) + n, true));
		return true;
	}
	return false;
}

void device_run(void)
{
	take_tx();
	while (give_rx())
		;
}

void guest_serve(void)
{
	bool any = true;

	dev.waits = 0;
	while (any) {
		device_run();
		any = vsock_poll();
		any |= agent_run();
		device_run();
		any |= vsock_poll();
	}
}

void peer_free(struct peer *p)
{
	free(p->in);
	free(p->out);
	memset(p, 0, sizeof(*p));
}

void device_reset_streams(void)
{
	uint32_t event = 0;
	int head;

	for (unsigned i = 0; i < PEERS; i++)
		peer_free(&dev.peer[i]);
	memset(dev.control, 0, sizeof(dev.control));
	head = pop(2);
	assert_true(head >= 0);
	push(2, head,
		(uint32_t)chain_copy(
			2, head, (uint8_t *)&event, sizeof(event), true));
	guest_serve();
}

struct peer *peer_open(uint32_t guest_port)
{
	static uint32_t port = 5000; /* global: no port is used twice */
	struct peer *p = dev.peer;

	while (p->used)
		p++;
	*p = (struct peer){.used = true,
		.port = port++,
		.guest_port = guest_port,
		.our_alloc = PEER_ALLOC};
	peer_control(p, OP_REQUEST, 0);
	return p;
}

void peer_send(struct peer *p, const void *data, size_t n)
{
	p->out = realloc(p->out, p->nout + n + 1);
	memcpy(p->out + p->nout, data, n);
	p->nout += n;
}
