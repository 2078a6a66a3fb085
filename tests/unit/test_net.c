/* The network device: a socket pair in place of the tap. */
#include "tests/unit/test.h"
#include "tests/unit/virtio_rig.h"
#include "core/devices/net_dev.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#define HDR 12u
#define BUF RIG_DATA
#define FEAT                                                                   \
	(VIRTIO_F_RINGS | NET_F_MAC | NET_F_STATUS | NET_F_CTRL_VQ |           \
		NET_F_CTRL_MAC_ADDR | NET_F_GUEST_ANNOUNCE)

/* In place of devices/net_tap.c. */
int net_tap_open(struct net *n, struct err *e)
{
	(void)e;
	n->new_offloads = true;
	return 0;
}

static unsigned offloads; /* global: how often they were set */

void net_tap_offloads(struct net *n)
{
	n->new_offloads = false;
	offloads++;
}

struct fix {
	struct vrig r;
	struct net *n;
	int far_end;
};

static void begin(struct fix *f, uint64_t more)
{
	struct machine_config cfg = {.memory = RIG_MEMORY,
		.net[0] = {.id = "n", .mac = {2, 1, 2, 3, 4, 5}, .mtu = 1400}};
	struct machine_fds fds;
	int sv[2];

	memset(&fds, 0xff, sizeof(fds));
	assert_int_equal(
		socketpair(AF_UNIX,
			SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, sv),
		0);
	fds.tap[0] = sv[0];
	f->far_end = sv[1];
	vrig_init(&f->r, &net_ops, &cfg, &fds);
	f->n = container_of(f->r.vd, struct net, vd);
	vrig_driver(&f->r, FEAT | more);
	assert_int_equal(vrig_status(&f->r), 15);
}

static void end(struct fix *f)
{
	int tap = f->n->tap;

	vrig_fini(&f->r);
	close(tap);
	close(f->far_end);
}

static void packet(uint8_t *p, uint32_t len, uint8_t seed)
{
	memset(p, 0, HDR);
	for (uint32_t i = HDR; i < len; i++)
		p[i] = (uint8_t)(seed + i * 3 + i / 251);
}

static void test_transmit(void **state)
{
	static uint8_t sent[60000], got[70000];
	struct fix f;
	uint32_t id, len;

	(void)state;
	begin(&f, 0);
	for (uint32_t size = HDR + 14; size < sizeof(sent);
		size = size * 3 + 1) {
		const struct vrig_buf b[2] = {
			{BUF, 20, false}, {BUF + 20, size - 20, false}};

		packet(sent, size, (uint8_t)size);
		memcpy(vrig_at(&f.r, BUF, size), sent, size);
		vrig_add(&f.r, NET_Q_TX, b, 2);
		vrig_kick(&f.r, NET_Q_TX);
		assert_true(vrig_used(&f.r, NET_Q_TX, &id, &len));
		assert_int_equal(
			recv(f.far_end, got, sizeof(got), 0), (ssize_t)size);
		assert_memory_equal(got, sent, size);
	}
	/* shorter than its header */
	vrig_add(&f.r, NET_Q_TX, (struct vrig_buf[]){{BUF, 11, false}}, 1);
	vrig_kick(&f.r, NET_Q_TX);
	assert_true(vrig_status(&f.r) & VIRTIO_S_NEEDS_RESET);
	end(&f);
}

static void post(struct fix *f, unsigned i, uint32_t size)
{
	vrig_add(&f->r, NET_Q_RX,
		(struct vrig_buf[]){{BUF + 0x4000ULL * i, size, true}}, 1);
}

static void test_receive(void **state)
{
	static uint8_t sent[1500];
	struct fix f;
	uint32_t id, len;

	(void)state;
	begin(&f, 0);
	packet(sent, sizeof(sent), 9);
	/* no buffer yet: it waits for one */
	assert_int_equal(send(f.far_end, sent, sizeof(sent), 0), 1500);
	vrig_run(&f.r);
	assert_false(vrig_used(&f.r, NET_Q_RX, &id, &len));
	post(&f, 0, 2000);
	vrig_kick(&f.r, NET_Q_RX);
	assert_true(vrig_used(&f.r, NET_Q_RX, &id, &len));
	assert_int_equal(len, 1500);
	assert_memory_equal(vrig_at(&f.r, BUF + HDR, 1488), sent + HDR, 1488);
	assert_int_equal(*(uint16_t *)vrig_at(&f.r, BUF + 10, 2), 1);
	/* one that does not fit is dropped, the next one comes through */
	post(&f, 1, 1000);
	assert_int_equal(send(f.far_end, sent, sizeof(sent), 0), 1500);
	assert_int_equal(send(f.far_end, sent, 800, 0), 800);
	vrig_run(&f.r);
	assert_true(vrig_used(&f.r, NET_Q_RX, &id, &len));
	assert_int_equal(len, 800);
	assert_int_equal(f.n->stats.rx_dropped, 1);
	end(&f);
}

static void test_merged(void **state)
{
	static uint8_t sent[40000];
	struct fix f;
	uint32_t id, len, done = 0;

	(void)state;
	begin(&f, NET_F_MRG_RXBUF);
	packet(sent, sizeof(sent), 5);
	for (unsigned i = 0; i < 5; i++)
		post(&f, i, 4000);
	assert_int_equal(send(f.far_end, sent, sizeof(sent), 0), 40000);
	vrig_run(&f.r);
	/* half a packet is never seen */
	assert_false(vrig_used(&f.r, NET_Q_RX, &id, &len));
	for (unsigned i = 5; i < 12; i++)
		post(&f, i, 4000);
	vrig_kick(&f.r, NET_Q_RX);
	for (unsigned i = 0; i < 10; i++) {
		uint32_t skip = i ? 0 : HDR;

		assert_true(vrig_used(&f.r, NET_Q_RX, &id, &len));
		assert_int_equal(len, 4000);
		assert_memory_equal(
			vrig_at(&f.r, BUF + 0x4000ULL * i + skip, len - skip),
			sent + done + skip, len - skip);
		done += len;
	}
	assert_false(vrig_used(&f.r, NET_Q_RX, &id, &len));
	assert_int_equal(*(uint16_t *)vrig_at(&f.r, BUF + 10, 2), 10);
	/* too small even for a header */
	vrig_driver(&f.r, FEAT | NET_F_MRG_RXBUF);
	post(&f, 0, 11);
	assert_int_equal(send(f.far_end, sent, 100, 0), 100);
	vrig_run(&f.r);
	assert_true(vrig_status(&f.r) & VIRTIO_S_NEEDS_RESET);
	end(&f);
}

static uint8_t command(struct fix *f, const void *cmd, uint32_t n)
{
	uint32_t id, len;

	memcpy(vrig_at(&f->r, BUF, n), cmd, n);
	vrig_add(&f->r, NET_Q_CTRL,
		(struct vrig_buf[]){{BUF, n, false}, {BUF + 0x100, 1, true}},
		2);
	vrig_kick(&f->r, NET_Q_CTRL);
	assert_true(vrig_used(&f->r, NET_Q_CTRL, &id, &len));
	assert_int_equal(len, 1);
	return *(uint8_t *)vrig_at(&f->r, BUF + 0x100, 1);
}

static uint16_t link_status(struct fix *f)
{
	uint16_t v = 0;

	virtio_mmio_io(f->r.vd, 0x100 + 6, &v, 2, false);
	return v;
}

static void test_control(void **state)
{
	uint8_t mac[6] = {0};
	uint16_t mtu = 0;
	struct fix f;

	(void)state;
	offloads = 0;
	begin(&f, NET_F_MTU);
	assert_int_equal(offloads, 1);
	virtio_mmio_io(f.r.vd, 0x100 + 10, &mtu, 2, false);
	assert_int_equal(mtu, 1400);
	assert_int_equal(command(&f, "\x01\x01\x02\x09\x08\x07\x06\x05", 8), 0);
	for (unsigned i = 0; i < 6; i++)
		virtio_mmio_io(f.r.vd, 0x100 + i, &mac[i], 1, false);
	assert_memory_equal(mac, "\x02\x09\x08\x07\x06\x05", 6);
	assert_int_equal(command(&f, "\x01\x01\x02", 3), 1);
	assert_int_equal(command(&f, "\x00\x00\x01", 3), 1);
	assert_int_equal(command(&f, "\x01", 1), 1);
	/* a restore is announced until the driver has done so */
	assert_int_equal(link_status(&f), NET_S_LINK_UP);
	net_restored(&f.r.m, true);
	assert_int_equal(link_status(&f), NET_S_LINK_UP | NET_S_ANNOUNCE);
	assert_int_equal(vrig_reg(&f.r, 0x60) & 2, 2);
	assert_int_equal(command(&f, "\x03\x00", 2), 0);
	assert_int_equal(link_status(&f), NET_S_LINK_UP);
	vrig_add(&f.r, NET_Q_CTRL, (struct vrig_buf[]){{BUF, 2, false}}, 1);
	vrig_kick(&f.r, NET_Q_CTRL);
	assert_true(vrig_status(&f.r) & VIRTIO_S_NEEDS_RESET);
	/* with the driver goes the address it had set */
	vrig_driver(&f.r, FEAT);
	for (unsigned i = 0; i < 6; i++)
		virtio_mmio_io(f.r.vd, 0x100 + i, &mac[i], 1, false);
	assert_memory_equal(mac, "\x02\x01\x02\x03\x04\x05", 6);
	end(&f);
}

static void test_quiet(void **state)
{
	uint8_t sent[100] = {0};
	struct fix f;
	struct err e;
	uint32_t id, len;

	(void)state;
	begin(&f, 0);
	post(&f, 0, 2000);
	assert_int_equal(net_ops.quiesce(f.r.dev, &e), 0);
	assert_int_equal(send(f.far_end, sent, sizeof(sent), 0), 100);
	vrig_run(&f.r);
	assert_false(vrig_used(&f.r, NET_Q_RX, &id, &len));
	net_ops.resumed(f.r.dev);
	vrig_run(&f.r);
	assert_true(vrig_used(&f.r, NET_Q_RX, &id, &len));
	end(&f);
}

/* What waits for a driver's buffers is gone when it resets the device. */
static void test_packet_of_before(void **state)
{
	uint8_t sent[100] = {0};
	struct fix f;
	uint32_t id, len;

	(void)state;
	begin(&f, 0);
	assert_int_equal(send(f.far_end, sent, sizeof(sent), 0), 100);
	vrig_run(&f.r);
	vrig_driver(&f.r, FEAT);
	assert_int_equal(send(f.far_end, sent, 60, 0), 60);
	post(&f, 0, 2000);
	vrig_kick(&f.r, NET_Q_RX);
	assert_true(vrig_used(&f.r, NET_Q_RX, &id, &len));
	assert_int_equal(len, 60);
	end(&f);
}

/* A segmented packet only for a driver that takes such, of this kind. */
static void test_gso(void **state)
{
	static const struct {
		uint8_t type;
		uint64_t feature;
	} kind[] = {{NET_GSO_TCPV4, NET_F_GUEST_TSO4},
		{NET_GSO_TCPV6, NET_F_GUEST_TSO6}, {3, 0}, {0x81, 0}};
	uint8_t sent[100] = {1};
	struct fix f;
	uint32_t id, len;

	(void)state;
	for (unsigned i = 0; i < 2 * ARRAY_SIZE(kind); i++) {
		const uint64_t feature = kind[i / 2].feature;
		const bool takes = i % 2 && feature;

		begin(&f,
			NET_F_GUEST_CSUM |
				(i % 2 ? feature
				       : (NET_F_GUEST_TSO4 | NET_F_GUEST_TSO6) &
							~feature));
		sent[1] = kind[i / 2].type;
		assert_int_equal(send(f.far_end, sent, 100, 0), 100);
		sent[1] = 0;
		assert_int_equal(send(f.far_end, sent, 60, 0), 60);
		post(&f, 0, 2000);
		vrig_run(&f.r);
		assert_true(vrig_used(&f.r, NET_Q_RX, &id, &len));
		assert_int_equal(len, takes ? 100 : 60);
		assert_int_equal(f.n->stats.rx_dropped, takes ? 0 : 1);
		end(&f);
	}
}

static unsigned at_tap(struct fix *f)
{
	uint8_t got[2000];
	unsigned k = 0;

	while (recv(f->far_end, got, sizeof(got), 0) > 0)
		k++;
	return k;
}

static void send_packet(struct fix *f)
{
	memset(vrig_at(&f->r, BUF, 100), 0, 100);
	vrig_add(&f->r, NET_Q_TX, (struct vrig_buf[]){{BUF, 100, false}}, 1);
}

/* Until the guest is another one nothing goes out or comes in. */
static void test_held(void **state)
{
	static const uint8_t other[6] = {2, 9, 9, 9, 9, 9};
	uint8_t sent[100] = {0};
	uint32_t id, len;
	struct fix f;
	struct err e;

	(void)state;
	begin(&f, 0);
	net_set_mac(&f.r.m, 0, other);
	assert_true(net_is_told(&f.r.m, 0));
	net_restored(&f.r.m, true);
	assert_int_equal(link_status(&f), NET_S_LINK_UP);
	for (unsigned i = 0; i < 3; i++)
		post(&f, i, 2000);
	for (unsigned i = 0; i < 200; i++) {
		send_packet(&f);
		vrig_kick(&f.r, NET_Q_TX);
		assert_true(vrig_used(&f.r, NET_Q_TX, &id, &len));
		(void)!send(f.far_end, sent, sizeof(sent), 0);
		vrig_run(&f.r);
	}
	assert_int_equal(at_tap(&f), 0);
	assert_false(vrig_used(&f.r, NET_Q_RX, &id, &len));
	assert_int_equal(f.n->stats.tx_dropped, 200);
	assert_int_equal(f.n->stats.rx_dropped, 200);
	/* It may be paused meanwhile. */
	assert_int_equal(net_ops.quiesce(f.r.dev, &e), 0);
	net_ops.resumed(f.r.dev);
	send_packet(&f);
	vrig_kick(&f.r, NET_Q_TX);
	assert_true(vrig_used(&f.r, NET_Q_TX, &id, &len));
	/* Of what it sent as the other one nothing is left either. */
	send_packet(&f);
	send_packet(&f);
	net_identified(&f.r.m);
	for (unsigned i = 0; i < 2; i++)
		assert_true(vrig_used(&f.r, NET_Q_TX, &id, &len));
	vrig_run(&f.r);
	assert_int_equal(at_tap(&f), 0);
	assert_int_equal(link_status(&f), NET_S_LINK_UP | NET_S_ANNOUNCE);
	assert_false(net_is_told(&f.r.m, 0));
	send_packet(&f);
	vrig_kick(&f.r, NET_Q_TX);
	assert_int_equal(at_tap(&f), 1);
	assert_int_equal(send(f.far_end, sent, sizeof(sent), 0), 100);
	vrig_run(&f.r);
	assert_true(vrig_used(&f.r, NET_Q_RX, &id, &len));
	/* Only once: a second identity changes nothing on the wire. */
	assert_int_equal(command(&f, "\x03\x00", 2), 0);
	net_identified(&f.r.m);
	assert_int_equal(link_status(&f), NET_S_LINK_UP);
	end(&f);
}

/* Without a change of addresses, or nobody who would make it, it goes on. */
static void test_not_held(void **state)
{
	struct fix f;

	(void)state;
	begin(&f, 0);
	net_restored(&f.r.m, true);
	assert_int_equal(link_status(&f), NET_S_LINK_UP | NET_S_ANNOUNCE);
	send_packet(&f);
	vrig_kick(&f.r, NET_Q_TX);
	assert_int_equal(at_tap(&f), 1);
	(void)snprintf(
		f.r.m.net_ip[0].ip, sizeof(f.r.m.net_ip[0].ip), "10.0.0.2/24");
	net_restored(&f.r.m, false);
	send_packet(&f);
	vrig_kick(&f.r, NET_Q_TX);
	assert_int_equal(at_tap(&f), 1);
	net_restored(&f.r.m, true);
	send_packet(&f);
	vrig_kick(&f.r, NET_Q_TX);
	assert_int_equal(at_tap(&f), 0);
	end(&f);
}

/* The guest is known by the address that it has, not by its first one. */
static void test_own_address(void **state)
{
	static const uint8_t other[6] = {2, 9, 9, 9, 9, 9};
	static const uint8_t own[6] = {2, 7, 7, 7, 7, 7};
	uint8_t mac[6];
	struct fix f;

	(void)state;
	begin(&f, 0);
	assert_int_equal(command(&f, "\x01\x01\x02\x07\x07\x07\x07\x07", 8), 0);
	assert_memory_equal(net_driver_mac(&f.r.m, 0), own, 6);
	net_set_mac(&f.r.m, 0, own);
	assert_false(net_is_told(&f.r.m, 0));
	net_set_mac(&f.r.m, 0, other);
	net_set_mac(&f.r.m, 0, other);
	assert_memory_equal(f.r.m.net_was[0], own, 6);
	/* A driver without the command: what was told counts. */
	vrig_driver(&f.r, FEAT & ~NET_F_CTRL_MAC_ADDR);
	memcpy(f.n->s.mac, own, 6);
	net_set_mac(&f.r.m, 0, other);
	assert_memory_equal(f.r.m.net_was[0], own, 6);
	net_identified(&f.r.m);
	assert_memory_equal(net_driver_mac(&f.r.m, 0), other, 6);
	/* No driver: the next one reads it. */
	vrig_set(&f.r, 0x70, 0);
	net_set_mac(&f.r.m, 0, own);
	assert_false(net_is_told(&f.r.m, 0));
	for (unsigned i = 0; i < 6; i++)
		virtio_mmio_io(f.r.vd, 0x100 + i, &mac[i], 1, false);
	assert_memory_equal(mac, own, 6);
	end(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_transmit),
		cmocka_unit_test(test_receive),
		cmocka_unit_test(test_merged),
		cmocka_unit_test(test_control),
		cmocka_unit_test(test_quiet),
		cmocka_unit_test(test_packet_of_before),
		cmocka_unit_test(test_gso),
		cmocka_unit_test(test_held),
		cmocka_unit_test(test_not_held),
		cmocka_unit_test(test_own_address),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
