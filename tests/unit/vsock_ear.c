#include "tests/unit/test.h"
#include "tests/unit/vsock_ear.h"

#include <string.h>

void ear_opened(void *arg)
{
	((struct ear *)arg)->opened++;
}

void ear_data(void *arg, const void *p, size_t n)
{
	struct ear *e = arg;

	for (size_t i = 0; i < n; i++, e->n++)
		e->data[e->n % sizeof(e->data)] = ((const uint8_t *)p)[i];
	if (e->close_at_data)
		vsock_close(e->close_at_data);
	e->close_at_data = NULL;
}

void ear_closed(void *arg, int err)
{
	struct ear *e = arg;

	e->closed++;
	e->err = err;
}

const struct vsock_stream_ops ear_ops = {
	.opened = ear_opened,
	.data = ear_data,
	.closed = ear_closed,
};

struct vsock_stream *ear_dial(struct fake_guest *g, struct ear *e)
{
	memset(e, 0, sizeof(*e));
	return vsock_connect(g->v, EAR_PORT, &ear_ops, e);
}

struct vsock_stream *ear_connect(
	struct fake_guest *g, struct ear *e, uint32_t *port)
{
	struct vsock_stream *s = ear_dial(g, e);
	struct fg_packet p;

	assert_non_null(s);
	fg_expect(g, &p, VSOCK_OP_REQUEST);
	*port = p.h.src_port;
	fg_send(g, VSOCK_OP_RESPONSE, EAR_PORT, *port, 0, NULL, 0);
	assert_int_equal(e->opened, 1);
	return s;
}

void ear_expect_rst(struct fake_guest *g, uint32_t src, uint32_t dst)
{
	struct fg_packet p;

	fg_expect(g, &p, VSOCK_OP_RST);
	assert_int_equal(p.h.src_port, dst);
	assert_int_equal(p.h.dst_port, src);
	fg_expect_none(g);
}
