#include "tests/unit/fake_guest.h"

#include "tests/unit/fake_irq.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define DESC_NEXT  1u
#define DESC_WRITE 2u

static void die(const char *what)
{
	(void)fprintf(stderr, "fake guest: %s\n", what);
	abort();
}

static void must(bool ok, const char *what)
{
	if (!ok)
		die(what);
}

void fg_init(struct fake_guest *g)
{
	struct err e = {0};

	fake_irq();
	memset(g, 0, sizeof(*g));
	g->m.cfg.vsock_cid = FG_CID;
	g->m.cfg.builtin = 1; /* events first, in one thread */
	g->m.vm_fd = g->m.kvm_fd = -1;
	must(!pthread_mutex_init(&g->m.lock, NULL), "mutex");
	must(!pthread_cond_init(&g->m.run_cond, NULL), "cond");
	must(!loop_init(&g->loop), "loop");
	g->m.loop = &g->loop;
	must(!mem_create(&g->m.mem, FG_MEMORY, MEM_PRIVATE, -1, &e), e.msg);
	must(!vsock_ops.create(&g->m, 0, &g->dev, &e), e.msg);
	must(g->dev, "no device");
	g->m.dev[g->m.ndevs++] = g->dev;
	g->v = g->m.vsock;
	must(!vsock_ops.realize(g->dev, &e), e.msg);
	g->buf_alloc = 256 * 1024;
	g->repost = true;
}

void fg_fini(struct fake_guest *g)
{
	vsock_ops.destroy(g->dev);
	mem_destroy(&g->m.mem);
	loop_fini(&g->loop);
	(void)pthread_cond_destroy(&g->m.run_cond);
	(void)pthread_mutex_destroy(&g->m.lock);
}

uint32_t fg_reg(struct fake_guest *g, uint64_t off)
{
	uint32_t v = 0;

	bus_access(&g->m.bus, BUS_MMIO, VMMIO_BASE + off, &v, 4, false);
	return v;
}

void fg_set(struct fake_guest *g, uint64_t off, uint32_t v)
{
	bus_access(&g->m.bus, BUS_MMIO, VMMIO_BASE + off, &v, 4, true);
}

void *fg_at(struct fake_guest *g, gpa_t gpa, uint64_t len)
{
	void *p = mem_at(&g->m.mem, gpa, len, MEM_WRITE);

	must(p, "address outside memory");
	return p;
}

void fg_clear_rings(struct fake_guest *g)
{
	memset(fg_at(g, FG_RING(0), 0x30000), 0, 0x30000);
	memset(g->q, 0, sizeof(g->q));
	g->tx_slot = 0;
}

void fg_driver_queues(struct fake_guest *g)
{
	for (uint32_t q = 0; q < VSOCK_NQUEUES; q++) {
		fg_set(g, FG_R_QUEUE_SEL, q);
		fg_set(g, FG_R_QUEUE_NUM, FG_QSIZE);
		fg_set(g, FG_R_DESC, (uint32_t)FG_DESC(q));
		fg_set(g, FG_R_DESC + 4, 0);
		fg_set(g, FG_R_DRIVER, (uint32_t)FG_AVAIL(q));
		fg_set(g, FG_R_DRIVER + 4, 0);
		fg_set(g, FG_R_DEVICE, (uint32_t)FG_USED(q));
		fg_set(g, FG_R_DEVICE + 4, 0);
		fg_set(g, FG_R_QUEUE_READY, 1);
	}
}

void fg_driver(struct fake_guest *g)
{
	fg_clear_rings(g);
	fg_set(g, FG_R_STATUS, 0);
	fg_set(g, FG_R_STATUS, 1);
	fg_set(g, FG_R_STATUS, 3);
	fg_set(g, FG_R_DRIVER_FEATURES_SEL, 1);
	fg_set(g, FG_R_DRIVER_FEATURES, 1);
	fg_set(g, FG_R_DRIVER_FEATURES_SEL, 0);
	fg_set(g, FG_R_DRIVER_FEATURES, 0);
	fg_set(g, FG_R_STATUS, 11);
	must(fg_reg(g, FG_R_STATUS) == 11, "FEATURES_OK refused");
	fg_driver_queues(g);
	for (uint16_t i = 0; i < 32; i++)
		fg_post_rx(g, i, FG_RX_SIZE);
	for (uint16_t i = 0; i < 4; i++)
		fg_post_event(g, i);
	fg_set(g, FG_R_STATUS, 15);
	must(fg_reg(g, FG_R_STATUS) == 15, "DRIVER_OK refused");
	fg_run(g);
}

void fg_put_desc(
	struct fake_guest *g, uint32_t q, uint16_t i, const struct fg_desc *d)
{
	_Static_assert(sizeof(*d) == 16, "2.7.5");
	memcpy(fg_at(g, FG_DESC(q) + 16ULL * i, 16), d, 16);
}

void fg_avail(struct fake_guest *g, uint32_t q, uint16_t head)
{
	uint16_t *a = fg_at(g, FG_AVAIL(q), 4 + 2 * FG_QSIZE);

	a[2 + g->q[q].avail % FG_QSIZE] = head;
	g->q[q].avail++;
	__atomic_store_n(&a[1], g->q[q].avail, __ATOMIC_RELEASE);
}

uint16_t fg_used_idx(struct fake_guest *g, uint32_t q)
{
	uint16_t *u = fg_at(g, FG_USED(q), 4);

	return __atomic_load_n(&u[1], __ATOMIC_ACQUIRE);
}

void fg_post_rx(struct fake_guest *g, uint16_t i, uint32_t size)
{
	fg_desc(g, VSOCK_Q_RX, i, FG_RX_BUF + (uint64_t)i * FG_RX_SIZE, size,
		DESC_WRITE, 0);
	fg_avail(g, VSOCK_Q_RX, i);
}

void fg_post_event(struct fake_guest *g, uint16_t i)
{
	fg_desc(g, VSOCK_Q_EVENT, i, 0x80000 + 16ULL * i, 4, DESC_WRITE, 0);
	fg_avail(g, VSOCK_Q_EVENT, i);
}

void fg_run(struct fake_guest *g)
{
	struct epoll_event ev[8];
	int n, rounds = 0;

	while ((n = loop_wait(&g->loop, ev, 8, 0)) > 0) {
		must(++rounds < 20000, "the loop never comes to rest");
		for (int i = 0; i < n; i++) {
			union ev_ref ref = {.u64 = ev[i].data.u64};

			machine_event(&g->m, ref, ev[i].events);
		}
	}
}

void fg_kick(struct fake_guest *g)
{
	vsock_ops.kick(g->dev);
	fg_run(g);
}

void fg_send_raw(struct fake_guest *g, const struct vsock_hdr *h,
	const void *data, uint32_t len)
{
	uint16_t slot = (uint16_t)(g->tx_slot++ % FG_TX_SLOTS);
	uint64_t at = FG_TX_BUF + slot * FG_TX_SIZE;

	must(len + sizeof(*h) <= FG_TX_SIZE, "packet too long");
	memcpy(fg_at(g, at, sizeof(*h)), h, sizeof(*h));
	if (len)
		memcpy(fg_at(g, at + sizeof(*h), len), data, len);
	fg_desc(g, VSOCK_Q_TX, slot, at, (uint32_t)sizeof(*h) + len, 0, 0);
	fg_avail(g, VSOCK_Q_TX, slot);
}

void fg_send_message(struct fake_guest *g, const struct fg_message *msg)
{
	const struct vsock_hdr h = {
		.src_cid = g->v->s.guest_cid,
		.dst_cid = VSOCK_CID_HOST,
		.src_port = msg->src,
		.dst_port = msg->dst,
		.len = msg->len,
		.type = VSOCK_TYPE_STREAM,
		.op = (uint16_t)msg->op,
		.flags = msg->flags,
		.buf_alloc = g->buf_alloc,
		.fwd_cnt = g->fwd_cnt,
	};

	fg_send_raw(g, &h, msg->data, msg->len);
	fg_kick(g);
}

bool fg_recv(struct fake_guest *g, struct fg_packet *p)
{
	struct fg_queue *q = &g->q[VSOCK_Q_RX];
	uint8_t *used = fg_at(g, FG_USED(VSOCK_Q_RX), 4 + 8 * FG_QSIZE);
	uint32_t elem[2];

	if (q->used == fg_used_idx(g, VSOCK_Q_RX))
		return false;
	memcpy(elem, used + 4 + 8 * (size_t)(q->used % FG_QSIZE), 8);
	q->used++;
	must(elem[0] < 64 && elem[1] <= FG_RX_SIZE, "bad used element");
	memset(p, 0, sizeof(*p));
	memcpy(p, fg_at(g, FG_RX_BUF + elem[0] * FG_RX_SIZE, elem[1]), elem[1]);
	must(elem[1] == sizeof(p->h) + p->h.len, "used length");
	if (g->repost)
		fg_post_rx(g, (uint16_t)elem[0], FG_RX_SIZE);
	return true;
}

void fg_expect(struct fake_guest *g, struct fg_packet *p, enum vsock_op op)
{
	must(fg_recv(g, p), "no packet where one is expected");
	if (p->h.op != op) {
		(void)fprintf(stderr, "op %u where %u is expected\n",
			(unsigned)p->h.op, (unsigned)op);
		die("wrong packet");
	}
}

void fg_expect_none(struct fake_guest *g)
{
	struct fg_packet p;

	if (fg_recv(g, &p)) {
		(void)fprintf(stderr, "op %u\n", (unsigned)p.h.op);
		die("a packet where none is expected");
	}
}
