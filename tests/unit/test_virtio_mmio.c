/* virtio-mmio registers, status, notifications, saved state. */
#include "tests/unit/test.h"
#include "tests/unit/fake_guest.h"
#include "tests/unit/state_generic.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

static struct fake_guest g;
static struct virtio_dev *vd;

static int setup(void **state)
{
	(void)state;
	fg_init(&g);
	vd = &g.v->vd;
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	fg_fini(&g);
	return 0;
}

static uint64_t count(int fd)
{
	uint64_t n = 0;

	return read(fd, &n, sizeof(n)) == sizeof(n) ? n : 0;
}

static void identification(void **state)
{
	(void)state;
	assert_int_equal(fg_reg(&g, 0x00), 0x74726976);
	assert_int_equal(fg_reg(&g, 0x04), 2);
	assert_int_equal(fg_reg(&g, 0x08), 19);
	fg_set(&g, FG_R_DEVICE_FEATURES_SEL, 0);
	/* indirect descriptors, event index */
	assert_int_equal(fg_reg(&g, FG_R_DEVICE_FEATURES), 3u << 28);
	fg_set(&g, FG_R_DEVICE_FEATURES_SEL, 1);
	assert_int_equal(fg_reg(&g, FG_R_DEVICE_FEATURES), 1);
	fg_set(&g, FG_R_DEVICE_FEATURES_SEL, 2);
	assert_int_equal(fg_reg(&g, FG_R_DEVICE_FEATURES), 0);
	assert_int_equal(fg_reg(&g, 0xb0), UINT32_MAX);
	assert_int_equal(fg_reg(&g, 0xbc), UINT32_MAX);
	/* write-only and unknown ones read as 0 */
	assert_int_equal(fg_reg(&g, FG_R_QUEUE_NOTIFY), 0);
	assert_int_equal(fg_reg(&g, 0xf0), 0);
}

static void widths(void **state)
{
	uint64_t v = 0;

	(void)state;
	for (uint32_t len = 1; len <= 8; len *= 2) {
		for (uint64_t off = 0; off < 8; off++) {
			v = 0;
			virtio_mmio_io(vd, off, &v, len, false);
			if (len == 4 && !(off & 3))
				assert_int_not_equal((uint32_t)v, UINT32_MAX);
			else
				assert_memory_equal(&v,
					"\xff\xff\xff\xff\xff\xff\xff\xff",
					len);
		}
	}
	v = 1;
	virtio_mmio_io(vd, FG_R_STATUS, &v, 1, true);
	virtio_mmio_io(vd, FG_R_STATUS, &v, 8, true);
	virtio_mmio_io(vd, FG_R_STATUS + 2, &v, 4, true);
	assert_int_equal(fg_reg(&g, FG_R_STATUS), 0);
}

static void config_space(void **state)
{
	uint64_t v = 0;

	(void)state;
	virtio_mmio_io(vd, FG_R_CONFIG, &v, 8, false);
	assert_int_equal(v, FG_CID);
	for (unsigned i = 0; i < 8; i++) {
		uint8_t b = 0xff;

		virtio_mmio_io(vd, FG_R_CONFIG + i, &b, 1, false);
		assert_int_equal(b, i ? 0 : FG_CID);
	}
	v = UINT64_MAX;
	virtio_mmio_io(vd, FG_R_CONFIG + 4, &v, 8, false);
	assert_int_equal(v, 0);
	virtio_mmio_io(vd, 0xff8, &v, 8, false);
	assert_int_equal(v, 0);
	v = 99;
	virtio_mmio_io(vd, FG_R_CONFIG, &v, 8, true);
	assert_int_equal(fg_reg(&g, FG_R_CONFIG), FG_CID);
}

static void negotiate(uint32_t lo, uint32_t hi)
{
	fg_set(&g, FG_R_STATUS, 0);
	fg_set(&g, FG_R_STATUS, 1);
	fg_set(&g, FG_R_STATUS, 3);
	fg_set(&g, FG_R_DRIVER_FEATURES_SEL, 0);
	fg_set(&g, FG_R_DRIVER_FEATURES, lo);
	fg_set(&g, FG_R_DRIVER_FEATURES_SEL, 1);
	fg_set(&g, FG_R_DRIVER_FEATURES, hi);
	fg_set(&g, FG_R_STATUS, 11);
}

static void features(void **state)
{
	(void)state;
	negotiate(0, 1);
	assert_int_equal(fg_reg(&g, FG_R_STATUS), 11);
	/* too late now */
	fg_set(&g, FG_R_DRIVER_FEATURES, 0);
	assert_int_equal(vd->s->driver_features, VIRTIO_F_VERSION_1);
	negotiate(0, 0); /* VERSION_1 missing */
	assert_int_equal(fg_reg(&g, FG_R_STATUS), 3);
	for (unsigned bit = 0; bit < 32; bit++) {
		negotiate(1u << bit, 1);
		assert_int_equal(fg_reg(&g, FG_R_STATUS),
			bit == 28 || bit == 29 ? 11 : 3);
		negotiate(0, 1 | 1u << bit);
		assert_int_equal(fg_reg(&g, FG_R_STATUS), bit ? 3 : 11);
	}
	/* before DRIVER they are dropped */
	fg_set(&g, FG_R_STATUS, 0);
	fg_set(&g, FG_R_DRIVER_FEATURES_SEL, 1);
	fg_set(&g, FG_R_DRIVER_FEATURES, 1);
	assert_int_equal(vd->s->driver_features, 0);
	fg_set(&g, FG_R_DRIVER_FEATURES_SEL, 2);
	fg_set(&g, FG_R_STATUS, 3);
	fg_set(&g, FG_R_DRIVER_FEATURES, 1);
	assert_int_equal(vd->s->driver_features, 0);
}

static void status_order(void **state)
{
	(void)state;
	fg_set(&g, FG_R_STATUS, 4); /* DRIVER_OK alone */
	assert_int_equal(fg_reg(&g, FG_R_STATUS), 0);
	fg_set(&g, FG_R_STATUS, 8); /* FEATURES_OK alone */
	assert_int_equal(fg_reg(&g, FG_R_STATUS), 0);
	negotiate(0, 0);
	fg_set(&g, FG_R_STATUS, 15);
	assert_int_equal(fg_reg(&g, FG_R_STATUS), 3);
	negotiate(0, 1);
	fg_set(&g, FG_R_STATUS, 15);
	assert_int_equal(fg_reg(&g, FG_R_STATUS), 15);
	fg_set(&g, FG_R_STATUS, 3); /* bits are not taken back */
	assert_int_equal(fg_reg(&g, FG_R_STATUS), 15);
	fg_set(&g, FG_R_STATUS, 15 | 64 | 0xffffff00); /* not the driver's */
	assert_int_equal(fg_reg(&g, FG_R_STATUS), 15);
	assert_true(virtio_live(vd));
	fg_set(&g, FG_R_STATUS, 15 | 128);
	assert_false(virtio_live(vd));
	fg_set(&g, FG_R_STATUS, 0);
	assert_int_equal(fg_reg(&g, FG_R_STATUS), 0);
}

static void queue_setup(void **state)
{
	(void)state;
	fg_driver_queues(&g); /* before FEATURES_OK */
	for (unsigned q = 0; q < VIRTIO_MAX_QUEUES; q++)
		assert_int_equal(vd->s->vq[q].ready, 0);
	assert_int_equal(vd->s->vq[0].desc, 0);
	negotiate(0, 1);
	fg_set(&g, FG_R_QUEUE_SEL, 2);
	assert_int_equal(fg_reg(&g, FG_R_QUEUE_NUM_MAX), VIRTQ_MAX_SIZE);
	fg_set(&g, FG_R_QUEUE_SEL, 3);
	assert_int_equal(fg_reg(&g, FG_R_QUEUE_NUM_MAX), 0);
	fg_set(&g, FG_R_QUEUE_SEL, UINT32_MAX);
	assert_int_equal(fg_reg(&g, FG_R_QUEUE_NUM_MAX), 0);
	fg_set(&g, FG_R_QUEUE_NUM, 64);
	fg_set(&g, FG_R_QUEUE_READY, 1);
	assert_int_equal(fg_reg(&g, FG_R_QUEUE_READY), 0);

	fg_driver_queues(&g);
	fg_set(&g, FG_R_QUEUE_SEL, 0);
	assert_int_equal(fg_reg(&g, FG_R_QUEUE_READY), 1);
	fg_set(&g, FG_R_DESC, 0x1000); /* fixed while ready */
	fg_set(&g, FG_R_QUEUE_NUM, 8);
	assert_int_equal(vd->s->vq[0].desc, FG_DESC(0));
	assert_int_equal(vd->s->vq[0].size, FG_QSIZE);
	fg_set(&g, FG_R_QUEUE_READY, 0);
	fg_set(&g, FG_R_DESC + 4, 0x12);
	assert_int_equal(vd->s->vq[0].desc, FG_DESC(0) | 0x12ULL << 32);
	fg_set(&g, FG_R_DESC + 4, 0);
	for (uint32_t n = 0; n <= 1024; n++) {
		bool ok = n && n <= VIRTQ_MAX_SIZE && !(n & (n - 1));

		vd->s->vq[0].size = 2;
		fg_set(&g, FG_R_QUEUE_NUM, n);
		assert_int_equal(vd->s->vq[0].size, ok ? n : 2);
	}
	fg_set(&g, FG_R_QUEUE_READY, 1);
	fg_set(&g, FG_R_STATUS, 15);
	/* afterwards a queue can be stopped, not set up */
	fg_set(&g, FG_R_QUEUE_READY, 0);
	assert_int_equal(fg_reg(&g, FG_R_QUEUE_READY), 0);
	fg_set(&g, FG_R_QUEUE_READY, 1);
	assert_int_equal(fg_reg(&g, FG_R_QUEUE_READY), 0);
}

static void impossible_queue(void **state)
{
	static const uint64_t where[] = {
		8, FG_MEMORY, MEM_HOLE_START, FG_MEMORY - 16, UINT64_MAX - 15};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(where); i++) {
		negotiate(0, 1);
		fg_set(&g, FG_R_QUEUE_SEL, 0);
		fg_set(&g, FG_R_QUEUE_NUM, 64);
		fg_set(&g, FG_R_DESC, (uint32_t)where[i]);
		fg_set(&g, FG_R_DESC + 4, (uint32_t)(where[i] >> 32));
		fg_set(&g, FG_R_QUEUE_READY, 1);
		assert_int_equal(fg_reg(&g, FG_R_QUEUE_READY), 0);
		assert_true(fg_reg(&g, FG_R_STATUS) & VIRTIO_S_NEEDS_RESET);
	}
	negotiate(0, 1); /* a reset heals */
	assert_int_equal(fg_reg(&g, FG_R_STATUS), 11);
}

static void broken_and_reset(void **state)
{
	uint32_t generation;

	(void)state;
	fg_driver(&g);
	generation = fg_reg(&g, FG_R_GENERATION);
	(void)count(vd->irq_fd);
	pthread_mutex_lock(&vd->lock);
	virtio_broken(vd, "test");
	virtio_broken(vd, "test");
	pthread_mutex_unlock(&vd->lock);
	assert_int_equal(fg_reg(&g, FG_R_STATUS), 15 | 64);
	assert_int_equal(fg_reg(&g, FG_R_ISR), VIRTIO_ISR_CONFIG);
	assert_int_equal(fg_reg(&g, FG_R_GENERATION), generation + 1);
	assert_int_equal(count(vd->irq_fd), 1);
	assert_false(virtio_queue_live(vd, 0));
	fg_set(&g, FG_R_STATUS, 15); /* does not help */
	assert_int_equal(fg_reg(&g, FG_R_STATUS), 15 | 64);
	fg_driver(&g);
	assert_true(virtio_queue_live(vd, 0));
	assert_int_equal(fg_reg(&g, FG_R_ISR), 0);
}

static void interrupts(void **state)
{
	uint16_t *avail = fg_at(&g, FG_AVAIL(0), 2);
	uint64_t wakes;

	(void)state;
	fg_driver(&g);
	(void)count(vd->irq_fd);
	wakes = g.m.door_seq;
	virtio_notify_used(vd, 0);
	assert_int_equal(g.m.door_seq, wakes);
	virtio_notify_used(vd, 1);
	assert_int_equal(count(vd->irq_fd), 1);
	assert_int_equal(g.m.door_seq, wakes + 1);
	assert_int_equal(fg_reg(&g, FG_R_ISR), VIRTIO_ISR_USED);
	fg_set(&g, FG_R_ISR_ACK, 1);
	assert_int_equal(fg_reg(&g, FG_R_ISR), 0);
	avail[0] = 1; /* NO_INTERRUPT; the door is not an interrupt */
	virtio_notify_used(vd, 1);
	assert_int_equal(count(vd->irq_fd), 0);
	assert_int_equal(fg_reg(&g, FG_R_ISR), 0);
	assert_int_equal(g.m.door_seq, wakes + 2);
	virtio_notify_used(vd, 7); /* another queue wants it */
	assert_int_equal(count(vd->irq_fd), 1);
	assert_int_equal(g.m.door_seq, wakes + 3);
	virtio_resumed(vd); /* still pending */
	assert_int_equal(count(vd->irq_fd), 1);
	fg_set(&g, FG_R_ISR_ACK, 3);
	virtio_resumed(vd);
	assert_int_equal(count(vd->irq_fd), 0);
	virtio_notify_config(vd);
	assert_int_equal(count(vd->irq_fd), 1);
	assert_int_equal(fg_reg(&g, FG_R_ISR), VIRTIO_ISR_CONFIG);
}

/* DOOR_AVAIL_F_NO_WAKE: per queue, and not the same as NO_INTERRUPT. */
/* A device at work on a long batch holds its lock. */
static void interrupt_registers_do_not_wait(void **state)
{
	(void)state;
	alarm(10); /* or this stands for ever */
	fg_driver(&g);
	virtio_notify_config(vd);
	pthread_mutex_lock(&vd->lock);
	assert_int_equal(fg_reg(&g, FG_R_ISR), VIRTIO_ISR_CONFIG);
	fg_set(&g, FG_R_ISR_ACK, VIRTIO_ISR_USED);
	assert_int_equal(fg_reg(&g, FG_R_ISR), VIRTIO_ISR_CONFIG);
	fg_set(&g, FG_R_ISR_ACK, UINT32_MAX);
	assert_int_equal(fg_reg(&g, FG_R_ISR), 0);
	pthread_mutex_unlock(&vd->lock);
	alarm(0);
}

static void wake_suppression(void **state)
{
	uint16_t *tx = fg_at(&g, FG_AVAIL(1), 2);
	uint64_t wakes;

	(void)state;
	fg_driver(&g);
	(void)count(vd->irq_fd);
	wakes = g.m.door_seq;
	tx[0] = DOOR_AVAIL_F_NO_WAKE;
	virtio_notify_used(vd, 2);
	assert_int_equal(g.m.door_seq, wakes);
	assert_int_equal(count(vd->irq_fd), 1);
	virtio_notify_used(vd, 3); /* the other queue wants it */
	assert_int_equal(g.m.door_seq, wakes + 1);
	tx[0] = 0;
	virtio_notify_used(vd, 2);
	assert_int_equal(g.m.door_seq, wakes + 2);
	tx[0] = DOOR_AVAIL_F_NO_WAKE;
	pthread_mutex_lock(&vd->lock);
	virtio_broken(vd, "test"); /* always told */
	pthread_mutex_unlock(&vd->lock);
	assert_int_equal(g.m.door_seq, wakes + 3);
}

static void the_door_suppresses_notifications(void **state)
{
	(void)state;
	fg_driver(&g);
	for (unsigned q = 0; q < VSOCK_NQUEUES; q++)
		assert_int_equal(*(uint16_t *)fg_at(&g, FG_USED(q), 2), 0);
	vsock_ops.kick(g.dev);
	assert_true(vd->no_notify);
	for (unsigned q = 0; q < VSOCK_NQUEUES; q++)
		assert_int_equal(*(uint16_t *)fg_at(&g, FG_USED(q), 2), 1);
	fg_driver(&g); /* another driver may not know the door */
	assert_false(vd->no_notify);
}

static void notify_by_exit(void **state)
{
	(void)state;
	fg_driver(&g);
	fg_set(&g, FG_R_QUEUE_NOTIFY, 1);
	assert_int_equal(count(vd->kick_fd[1]), 1);
	fg_set(&g, FG_R_QUEUE_NOTIFY, 3);
	fg_set(&g, FG_R_QUEUE_NOTIFY, UINT32_MAX);
	assert_int_equal(count(vd->kick_fd[0]), 0);
	assert_int_equal(count(vd->kick_fd[2]), 0);
}

static void random_registers(void **state)
{
	uint32_t seed = 12345;

	(void)state;
	for (unsigned i = 0; i < 200000; i++) {
		uint32_t x = fg_random(&seed);
		uint64_t v = fg_random(&seed);
		uint64_t off = (x >> 8) % 0x120;

		if (x & 0x10)
			off &= ~3ULL;
		if (x & 0x20)
			v &= 15;
		if (x & 0x40)
			v &= 0x3ff0;
		virtio_mmio_io(
			vd, off, &v, x & 0x80 ? 4 : 1u << (x & 3), x & 4);
		if (virtio_state_desc.check(vd->s, NULL))
			fail_msg("step %u leaves a state that cannot be saved",
				i);
		if (!(i % 64))
			fg_run(&g);
	}
}

static void states_that_cannot_be(void **state)
{
	static const struct virtio_state bad[] = {
		{.status = 256},
		{.status = 4},
		{.status = 12},
		{.status = 8},
		{.isr = 4},
		{.vq[3].ready = 2},
		{.vq[1].ready = 1},
		{.vq[1].size = 3},
		{.vq[1].size = 512},
		{.vq[1] = {.size = 4, .ready = 1, .desc = 8}},
		{.vq[1] = {.size = 4, .ready = 1, .avail = 1}},
		{.vq[1] = {.size = 4, .ready = 1, .used = 2}},
	};
	struct vsock_state s = {.guest_cid = 3, .next_port = 0x40000000};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(
			virtio_state_desc.check(&bad[i], NULL), -EBADMSG);
	assert_int_equal(vsock_state_desc.check(&s, NULL), 0);
	s.guest_cid = 2;
	assert_int_equal(vsock_state_desc.check(&s, NULL), -EBADMSG);
	s.guest_cid = 3;
	s.reset_owed = 2;
	assert_int_equal(vsock_state_desc.check(&s, NULL), -EBADMSG);
	s.reset_owed = 0;
	s.next_port = 1ULL << 32;
	assert_int_equal(vsock_state_desc.check(&s, NULL), -EBADMSG);
}

static void state_tables(void **state)
{
	const struct vsock_state sample = {
		.virtio =
			{
				.driver_features = VIRTIO_F_VERSION_1,
				.status = 15,
				.isr = 3,
				.queue_sel = UINT32_MAX,
				.device_features_sel = 1,
				.driver_features_sel = 2,
				.config_generation = 77,
				.vq[1] = {.desc = 0x1000,
					.avail = 0x2002,
					.used = 0x3004,
					.size = 128,
					.ready = 1,
					.next_avail = 65535,
					.next_used = 1},
			},
		.guest_cid = 77,
		.reset_owed = 1,
		.next_port = UINT32_MAX,
	};

	(void)state;
	st_test_generic(&virtq_state_desc, &sample.virtio.vq[1]);
	st_test_generic(&virtio_state_desc, &sample.virtio);
	st_test_generic(&vsock_state_desc, &sample);
	st_test_generic(&vsock_state_desc, NULL);
}

/* Features that this device does not offer: seen when it is realized. */
static void foreign_features(void **state)
{
	struct err e;

	(void)state;
	vd->s->status = 11;
	vd->s->driver_features = VIRTIO_F_VERSION_1 | 1;
	assert_int_equal(virtio_mmio_realize(vd, &e), -EBADMSG);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(identification),
		T(widths),
		T(config_space),
		T(features),
		T(status_order),
		T(queue_setup),
		T(impossible_queue),
		T(broken_and_reset),
		T(interrupts),
		T(interrupt_registers_do_not_wait),
		T(wake_suppression),
		T(the_door_suppresses_notifications),
		T(notify_by_exit),
		T(random_registers),
		T(states_that_cannot_be),
		T(state_tables),
		T(foreign_features),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
