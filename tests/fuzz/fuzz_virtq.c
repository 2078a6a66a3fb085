/*
 * The vsock device against a hostile driver. The input is a program of small
 * steps: bytes into the rings and buffers, register writes, packets, visits to
 * the door, and what the host does meanwhile (connect, send, close, restore).
 * After each step the device's bounds must hold.
 */
#include "tests/unit/fake_guest.h"

#include "core/log.h"

#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MAX_STEPS   400
#define MAX_STREAMS 8

struct input {
	const uint8_t *p;
	size_t n;
};

struct host {
	struct fake_guest g;
	struct vsock_stream *s[MAX_STREAMS];
	int far_end; /* of what was dialled last */
};

static uint64_t take(struct input *in, size_t n)
{
	uint64_t v = 0;

	if (n > in->n)
		n = in->n;
	memcpy(&v, in->p, n);
	in->p += n;
	in->n -= n;
	return v;
}

static void on_data(void *arg, const void *p, size_t n)
{
	size_t sum = 0;

	(void)arg;
	for (size_t i = 0; i < n; i++)
		sum += ((const uint8_t *)p)[i];
	if (sum > 255 * n) /* every byte can be read */
		abort();
}

static void on_closed(void *arg, int err)
{
	(void)err;
	*(struct vsock_stream **)arg = NULL;
}

static const struct vsock_stream_ops ops = {
	.data = on_data,
	.closed = on_closed,
};

static void on_dial(void *arg, uint32_t port, uint64_t cookie)
{
	struct host *h = arg;
	int sv[2];

	if (port & 1 || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv))
		return;
	if (h->far_end >= 0)
		(void)close(h->far_end);
	h->far_end = sv[1];
	vsock_accept(h->g.v, cookie, sv[0]);
}

static void poke_memory(struct host *h, struct input *in)
{
	uint64_t at = FG_RING(0) + take(in, 2) * 3 % 0x30000;
	size_t n = take(in, 1) % 64;

	if (n > in->n)
		n = in->n;
	if (n)
		memcpy(fg_at(&h->g, at, n), in->p, n);
	in->p += n;
	in->n -= n;
}

/* A packet whose fields are mostly plausible. */
static void packet(struct host *h, struct input *in)
{
	static uint8_t body[5000];
	uint8_t wild = (uint8_t)take(in, 1);
	struct vsock_hdr hdr = {
		.src_cid = h->g.v->s.guest_cid,
		.dst_cid = VSOCK_CID_HOST,
		.src_port = (uint32_t)take(in, 1),
		.dst_port = 0x40000000u + (uint32_t)take(in, 1) % 16,
		.type = VSOCK_TYPE_STREAM,
		.op = (uint16_t)take(in, 1) % 10,
		.flags = (uint32_t)take(in, 1),
		.len = (uint32_t)take(in, 2) % sizeof(body),
		.buf_alloc = 1u << take(in, 1) % 32,
	};

	if (wild & 1)
		hdr.fwd_cnt = (uint32_t)take(in, 4);
	if (wild & 2)
		hdr.dst_port = (uint32_t)take(in, 4);
	if (wild & 4)
		hdr.src_cid = take(in, 8);
	fg_send_raw(&h->g, &hdr, body, hdr.len);
}

static void host_side(struct host *h, struct input *in)
{
	struct vsock_stream **s = &h->s[take(in, 1) % MAX_STREAMS];
	static const uint8_t bytes[3000];
	uint8_t what = (uint8_t)take(in, 1);
	struct err e;
	int r = 0;

	if (what % 4 == 0 && *s) {
		vsock_close(*s);
		*s = NULL;
	} else if (what % 4 == 1 && !*s) {
		*s = vsock_connect(h->g.v, what >> 2, &ops, s);
	} else if (what % 4 == 2 && *s) {
		r = vsock_send(*s, bytes, take(in, 2) % sizeof(bytes));
	} else if (what == 255) {
		r = vsock_reset(h->g.v, (uint32_t)take(in, 1) + 3, &e);
	} else if (h->far_end >= 0) {
		r = (int)send(
			h->far_end, bytes, what, MSG_NOSIGNAL | MSG_DONTWAIT);
	}
	if (r < -4096)
		abort();
}

static void step(struct host *h, struct input *in)
{
	switch (take(in, 1) % 10) {
	case 0:
	case 1:
		poke_memory(h, in);
		break;
	case 2:
		fg_set(&h->g, take(in, 1) * 4, (uint32_t)take(in, 4));
		break;
	case 3:
		fg_kick(&h->g);
		break;
	case 4:
	case 5:
		packet(h, in);
		fg_kick(&h->g);
		break;
	case 6:
		host_side(h, in);
		break;
	case 7:
		fg_post_rx(&h->g, (uint16_t)(take(in, 1) % 64),
			(uint32_t)take(in, 2) % FG_RX_SIZE);
		break;
	case 8:
		if (take(in, 1) > 200)
			fg_driver(&h->g);
		break;
	default:
		fg_avail(&h->g, (uint32_t)take(in, 1) % VSOCK_NQUEUES,
			(uint16_t)take(in, 2));
		break;
	}
}

static void check(const struct host *h)
{
	const struct vsock *v = h->g.v;
	unsigned n = 0;

	for (unsigned i = 0; i < VSOCK_MAX_STREAMS; i++) {
		const struct vsock_stream *s = v->slot[i];

		n += s != NULL;
		if (s && (s->in.len > VSOCK_ALLOC_UNIX ||
				 s->out.len > VSOCK_MAX_QUEUED))
			abort();
	}
	if (n != v->nstreams || v->nreplies > VSOCK_MAX_REPLIES || v->depth ||
		virtio_state_desc.check(&v->s.virtio, NULL))
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = {.p = data, .n = size};
	static struct host h;

	log_init("fuzz", LOG_ERROR);
	memset(&h, 0, sizeof(h));
	h.far_end = -1;
	fg_init(&h.g);
	fg_driver(&h.g);
	vsock_set_dial(h.g.v, on_dial, &h);
	for (unsigned i = 0; i < MAX_STEPS && in.n; i++) {
		step(&h, &in);
		check(&h);
	}
	fg_fini(&h.g);
	if (h.far_end >= 0)
		(void)close(h.far_end);
	return 0;
}
