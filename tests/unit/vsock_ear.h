/*
 * Somebody at the host's end of a vsock stream who remembers what happened, for
 * tests with a fake guest.
 */
#ifndef THAW_TESTS_UNIT_VSOCK_EAR_H
#define THAW_TESTS_UNIT_VSOCK_EAR_H

#include "tests/unit/fake_guest.h"

/* The port in the guest that ears connect to. */
#define EAR_PORT 5000u

struct ear {
	int opened, closed, err;
	size_t n;
	uint8_t data[1024];
	struct vsock_stream *close_at_data;
	const struct vsock_stream_ops *again;
};

void ear_opened(void *arg);
void ear_data(void *arg, const void *p, size_t n);
void ear_closed(void *arg, int err);
extern const struct vsock_stream_ops ear_ops;

/* Connect with a fresh ear; NULL when there are too many. */
struct vsock_stream *ear_dial(struct fake_guest *g, struct ear *e);
/* A stream that the guest accepted; *port is the host's side. */
struct vsock_stream *ear_connect(
	struct fake_guest *g, struct ear *e, uint32_t *port);
/* The one packet that waits is an RST for these ports, as the guest sees them:
 * its own, the host's. */
void ear_expect_rst(struct fake_guest *g, uint32_t src, uint32_t dst);

#endif
