/*
 * The machine as the guest's drivers see it, for tests of guest code on the
 * host: registers, rings, the door, and a peer that speaks vsock. A test puts
 * bytes into a peer's stream, lets the guest serve, and looks at what came out.
 */
#ifndef THAW_TESTS_UNIT_GUEST_DEVICE_H
#define THAW_TESTS_UNIT_GUEST_DEVICE_H

#include "core/guest/abi.h"
#include "core/guest/vsock.h"

#include <stdbool.h>

#define PEERS    40
#define HOST_CID 2
#define OUR_CID  7

struct peer {
	bool used, answered, ended, shut; /* RESPONSE, RST, SHUTDOWN came */
	uint32_t port, guest_port;
	uint8_t *out; /* to the guest, from out_at on not sent yet */
	size_t nout, out_at;
	uint32_t alloc, fwd; /* credit the guest gave */
	uint8_t *in;
	size_t nin, taken;  /* from the guest; of these, seen by the test */
	uint32_t our_alloc; /* credit for the guest; grows as we read */
	bool no_reading;    /* leave the guest without credit */
	bool no_credit;     /* send without looking at the guest's */
	size_t chunk;       /* most bytes per packet, 0: as fits */
};

struct guest_device {
	uint32_t reg[64];
	uint64_t ring[3][3]; /* desc, driver, device */
	uint16_t seen[3], size[3];
	struct peer peer[PEERS];
	struct {
		struct vsock_hdr h;
		bool used;
	} control[256];    /* packets without data for the guest */
	unsigned refused;  /* RST for no stream of ours */
	unsigned waits;    /* times at the door */
	unsigned requests; /* streams that the guest asked for */
	uint64_t tsc;
	struct ident ident;
};

/* global: the guest has one device, at fixed addresses */
extern struct guest_device dev;

/* What the guest's main loop does, until there is nothing left to do. */
void guest_serve(void);
/* Device side: take what the guest sent, give it what waits. */
void device_run(void);
void device_control(const struct vsock_hdr *h);
/* All streams are gone (5.10.6.7), for the guest and for the peers. */
void device_reset_streams(void);

struct peer *peer_open(uint32_t guest_port);
void peer_free(struct peer *p);
void peer_send(struct peer *p, const void *data, size_t n);
void peer_control(struct peer *p, uint16_t op, uint32_t flags);

#endif
