/*
 * A guest that programs every virtio device badly, on a real KVM: registers of
 * any width with any value, queues of wrong sizes and outside memory, chains
 * with loops, indices that change while the device looks at them. The machine
 * lives, what the devices save stays sound, they say that they need a reset,
 * and after one they work.
 */
#include "core/virtio.h"
#include "tests/kvm/kvm_test.h"

#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include <cmocka.h>

#define DISK_SIZE  (8 * MIB)
#define LIST       0x200000ULL
#define LIST_MAX   4000u
#define RINGS      0x300000ULL /* to the end of memory */
#define RINGS_SIZE (MIB - 1)
#define ROUNDS     60

/* Registers (virtio 1.2, 4.2.2). */
enum {
	REG_FEATURES_SEL = 0x24,
	REG_FEATURES = 0x20,
	REG_QUEUE_SEL = 0x30,
	REG_QUEUE_NUM = 0x38,
	REG_QUEUE_READY = 0x44,
	REG_NOTIFY = 0x50,
	REG_STATUS = 0x70,
	REG_DESC = 0x80,
	REG_AVAIL = 0x90,
	REG_USED = 0xa0,
	REG_CONFIG = 0x100
};
#define OK                                                                     \
	(VIRTIO_S_ACKNOWLEDGE | VIRTIO_S_DRIVER | VIRTIO_S_FEATURES_OK |       \
		VIRTIO_S_DRIVER_OK)

struct hostile {
	struct stub s;
	uint64_t seed;
	unsigned n; /* commands in the list */
	pthread_t racer;
	bool stop; /* atomic */
};

static uint64_t rnd(struct hostile *h)
{
	h->seed ^= h->seed << 13;
	h->seed ^= h->seed >> 7;
	h->seed ^= h->seed << 17;
	return h->seed;
}

static uint64_t one_of(struct hostile *h, const uint64_t *v, size_t n)
{
	return v[rnd(h) % n];
}

/* ---- what the guest is told to do ---- */

static void put(struct hostile *h, uint64_t at, uint64_t v, uint64_t width)
{
	const uint64_t cmd[3] = {at, v, width};

	if (h->n + 1 >= LIST_MAX)
		return;
	assert_int_equal(mem_write(&h->s.m.mem, LIST + h->n * sizeof(cmd), cmd,
				 sizeof(cmd)),
		0);
	h->n++;
}

static void reg(struct hostile *h, unsigned slot, unsigned off, uint64_t v)
{
	put(h, VMMIO_BASE + slot * VMMIO_SIZE + off, v, 4);
}

/* The list is carried out; events of the devices are handled meanwhile. */
static void go(struct hostile *h)
{
	const uint64_t end[3] = {0};
	uint32_t done = stub_peek(&h->s, 0x2000);
	uint32_t one = 1;
	uint64_t until = now_ns() + 20000000000ULL;

	assert_int_equal(mem_write(&h->s.m.mem, LIST + h->n * sizeof(end), end,
				 sizeof(end)),
		0);
	h->n = 0;
	assert_int_equal(mem_write(&h->s.m.mem, 0x2004, &one, sizeof(one)), 0);
	while (stub_peek(&h->s, 0x2000) == done) {
		assert_int_equal(h->s.m.end.kind, MACHINE_END_NONE);
		assert_true(now_ns() < until);
		stub_poll(&h->s, 1);
	}
}

static uint64_t bad_address(struct hostile *h)
{
	const uint64_t v[] = {0, 1, RINGS, RINGS + 0x1000, RINGS + 0x2004,
		4 * MIB - 16, 4 * MIB, 4 * MIB + 1, VMMIO_BASE, 0xfffffffffff0,
		UINT64_MAX, UINT64_MAX - 15, rnd(h),
		RINGS + rnd(h) % RINGS_SIZE};

	return one_of(h, v, ARRAY_SIZE(v));
}

static void bad_queue(struct hostile *h, unsigned slot)
{
	static const uint64_t sizes[] = {0, 1, 2, 3, 7, 8, 64, 256, 255, 512,
		0x8000, 0x10000, 0xffffffff};
	static const unsigned parts[] = {REG_DESC, REG_AVAIL, REG_USED};

	reg(h, slot, REG_QUEUE_SEL, rnd(h) % 6 ? rnd(h) % 4 : rnd(h));
	reg(h, slot, REG_QUEUE_NUM, one_of(h, sizes, ARRAY_SIZE(sizes)));
	for (unsigned i = 0; i < ARRAY_SIZE(parts); i++) {
		uint64_t at = rnd(h) % 3 ? RINGS + (rnd(h) % 8) * 0x1000
					 : bad_address(h);

		reg(h, slot, parts[i], at);
		reg(h, slot, parts[i] + 4, at >> 32);
	}
	reg(h, slot, REG_QUEUE_READY, rnd(h) % 8 ? 1 : rnd(h));
}

/* A device that got so far that its rings are looked at. */
static void start_badly(struct hostile *h, unsigned slot)
{
	reg(h, slot, REG_STATUS, 0);
	reg(h, slot, REG_STATUS, VIRTIO_S_ACKNOWLEDGE | VIRTIO_S_DRIVER);
	reg(h, slot, REG_FEATURES_SEL, 1);
	reg(h, slot, REG_FEATURES, rnd(h) % 8 ? 1 : rnd(h));
	reg(h, slot, REG_FEATURES_SEL, 0);
	reg(h, slot, REG_FEATURES, rnd(h) % 4 ? 0 : rnd(h));
	reg(h, slot, REG_STATUS, OK & ~VIRTIO_S_DRIVER_OK);
	for (unsigned q = 0; q < 3; q++)
		bad_queue(h, slot);
	reg(h, slot, REG_STATUS, OK);
	for (unsigned q = 0; q < 4; q++)
		reg(h, slot, REG_NOTIFY, q);
}

static void anything(struct hostile *h, unsigned slot)
{
	static const uint64_t widths[] = {1, 2, 4, 8};
	uint64_t at = VMMIO_BASE + slot * VMMIO_SIZE;

	switch (rnd(h) % 4) {
	case 0: /* any register, any width, also across the end */
		at += rnd(h) % (REG_CONFIG + 0x80);
		put(h, at, rnd(h), one_of(h, widths, ARRAY_SIZE(widths)));
		break;
	case 1:
		reg(h, slot, REG_NOTIFY, rnd(h) % 8 ? rnd(h) % 4 : rnd(h));
		break;
	case 2:
		reg(h, slot, REG_QUEUE_READY, rnd(h) & 1);
		break;
	default: /* descriptors, rings, buffers */
		put(h, RINGS + rnd(h) % (RINGS_SIZE - 8),
			rnd(h) % 2 ? rnd(h) % 8 : bad_address(h),
			one_of(h, widths, ARRAY_SIZE(widths)));
	}
}

/* Tables of descriptors that lead to each other and to anywhere, and rings
 * that name them. */
static void bad_rings(struct hostile *h)
{
	uint8_t *rings = h->s.m.mem.map + RINGS;

	for (unsigned page = 0; page < 8; page++) {
		for (unsigned i = 0; i < 256; i++) {
			uint64_t a = rnd(h) % 2 ? RINGS + rnd(h) % RINGS_SIZE
						: bad_address(h);
			uint32_t len =
				(uint32_t)(rnd(h) % 4 ? rnd(h) % 5000 : rnd(h));
			uint16_t flags = (uint16_t)(rnd(h) % 8);
			uint16_t next =
				(uint16_t)(rnd(h) % 8 ? rnd(h) % 256 : rnd(h));
			uint8_t *d = rings + page * 0x1000 + i * 16;

			memcpy(d, &a, 8);
			memcpy(d + 8, &len, 4);
			memcpy(d + 12, &flags, 2);
			memcpy(d + 14, &next, 2);
		}
	}
}

/* Another processor of the guest, which changes what is being read. */
static void *race(void *arg)
{
	struct hostile *h = arg;
	uint64_t x = 88172645463325252ULL;

	while (!__atomic_load_n(&h->stop, __ATOMIC_RELAXED)) {
		uint16_t *at;

		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		/* flags, index and entries at the start of each page, mostly */
		at = (uint16_t *)(void *)(h->s.m.mem.map + RINGS +
					  (x >> 8) % 8 * 0x1000);
		at += x % 4 ? (x >> 16) % 16 : (x >> 16) % 0x800;
		__atomic_store_n(at, (uint16_t)(x >> 40), __ATOMIC_RELAXED);
		if (x % 64 == 0)
			(void)usleep(50);
	}
	return NULL;
}

/* ---- the machine ---- */

/* One that goes with its descriptor; -1: without the right to it the link is
 * down, and the rings are the same. */
static int a_tap(void)
{
	struct ifreq ifr = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR};
	int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);

	if (fd >= 0 && ioctl(fd, TUNSETIFF, &ifr)) {
		(void)close(fd);
		fd = -1;
	}
	return fd;
}

static int setup(void **state)
{
	struct hostile *h = calloc(1, sizeof(*h));
	struct stub *s = &h->s;
	struct machine_config cfg;

	*state = NULL;
	if (!h || !stub_kvm(s)) {
		free(h);
		return h ? 0 : -1;
	}
	h->seed = 0x9e3779b97f4a7c15ULL;
	stub_config(&cfg);
	cfg.vsock_cid = 3;
	cfg.rng = 1;
	(void)strcpy(cfg.disk[0].id, "disk0");
	(void)strcpy(cfg.disk[0].path, "disk");
	cfg.disk[0].queues = 2;
	(void)strcpy(cfg.net[0].id, "net0");
	cfg.net[0].mac[0] = 2;
	stub_boot(s, &cfg, STUB(writer));
	s->m.fds.disk[0] = memfd_create("disk", MFD_CLOEXEC);
	assert_true(s->m.fds.disk[0] >= 0);
	assert_int_equal(ftruncate(s->m.fds.disk[0], DISK_SIZE), 0);
	s->m.fds.tap[0] = a_tap();
	stub_realize(s);
	stub_resume(s);
	*state = h;
	return 0;
}

static int teardown(void **state)
{
	struct hostile *h = *state;

	if (h)
		stub_destroy(&h->s);
	free(h);
	return 0;
}

static uint32_t status_of(struct hostile *h, unsigned slot)
{
	uint64_t v = 0;

	bus_access(&h->s.m.bus, BUS_MMIO,
		VMMIO_BASE + slot * VMMIO_SIZE + REG_STATUS, &v, 4, false);
	return (uint32_t)v;
}

/* Windows of the devices; how many. */
static unsigned find_slots(
	struct hostile *h, unsigned slot[MACHINE_MAX_DEVICES])
{
	unsigned n = 0;

	for (unsigned i = 0; i < h->s.m.ndevs; i++)
		if (h->s.m.dev[i]->window)
			slot[n++] = h->s.m.dev[i]->window - 1;
	return n;
}

/* What would be saved now would be loaded again. */
static void assert_sound(struct hostile *h)
{
	stub_pause(&h->s);
	for (unsigned i = 0; i < h->s.m.ndevs; i++) {
		struct device *d = h->s.m.dev[i];
		struct err e = {0};

		if (d->ops->state && d->ops->state->check &&
			d->ops->state->check(d->ops->saved(d), &e))
			fail_msg("%s: %s", d->ops->state->name, e.msg);
	}
	stub_resume(&h->s);
}

/* The entropy device by the book: bytes come. */
static void assert_works(struct hostile *h, unsigned slot)
{
	const struct {
		uint64_t addr;
		uint32_t len;
		uint16_t flags, next;
	} d = {RINGS + 0x8000, 64, 2, 0};
	static const uint16_t avail[] = {0, 1, 0};
	static const uint8_t zero[64];
	uint64_t until = now_ns() + 20000000000ULL;
	uint8_t *mem = h->s.m.mem.map + RINGS;
	const uint16_t *used;

	memset(mem, 0, 0x10000);
	memcpy(mem, &d, sizeof(d));
	memcpy(mem + 0x1000, avail, sizeof(avail));
	reg(h, slot, REG_STATUS, 0);
	reg(h, slot, REG_STATUS, VIRTIO_S_ACKNOWLEDGE | VIRTIO_S_DRIVER);
	reg(h, slot, REG_FEATURES_SEL, 1);
	reg(h, slot, REG_FEATURES, 1);
	reg(h, slot, REG_FEATURES_SEL, 0);
	reg(h, slot, REG_FEATURES, 0);
	reg(h, slot, REG_STATUS, OK & ~VIRTIO_S_DRIVER_OK);
	reg(h, slot, REG_QUEUE_SEL, 0);
	reg(h, slot, REG_QUEUE_NUM, 8);
	for (unsigned i = 0; i < 3; i++) {
		reg(h, slot, REG_DESC + 0x10 * i, RINGS + 0x1000 * i);
		reg(h, slot, REG_DESC + 0x10 * i + 4, 0);
	}
	reg(h, slot, REG_QUEUE_READY, 1);
	reg(h, slot, REG_STATUS, OK);
	reg(h, slot, REG_NOTIFY, 0);
	go(h);
	used = (const uint16_t *)(const void *)(mem + 0x2002);
	while (!__atomic_load_n(used, __ATOMIC_ACQUIRE)) {
		assert_true(now_ns() < until);
		stub_poll(&h->s, 1);
	}
	assert_int_equal(status_of(h, slot), OK);
	assert_memory_not_equal(mem + 0x8000, zero, sizeof(zero));
}

static unsigned rng_slot(struct hostile *h)
{
	unsigned slot[MACHINE_MAX_DEVICES], n = find_slots(h, slot);

	for (unsigned i = 0; i < n; i++) {
		uint64_t id = 0;

		bus_access(&h->s.m.bus, BUS_MMIO,
			VMMIO_BASE + slot[i] * VMMIO_SIZE + 8, &id, 4, false);
		if (id == 4) /* entropy; virtio 1.2 section 5 */
			return slot[i];
	}
	fail_msg("no entropy device");
	return 0;
}

static void rounds(struct hostile *h)
{
	unsigned slot[MACHINE_MAX_DEVICES], n = find_slots(h, slot);
	uint32_t broken = 0;

	assert_int_equal(n, 4);
	for (unsigned i = 0; i < ROUNDS; i++) {
		bad_rings(h);
		for (unsigned k = 0; k < n; k++) {
			start_badly(h, slot[k]);
			for (unsigned j = 0; j < 60; j++)
				anything(h, slot[k]);
		}
		go(h);
		stub_poll(&h->s, 1);
		for (unsigned k = 0; k < n; k++)
			if (status_of(h, slot[k]) & VIRTIO_S_NEEDS_RESET)
				broken |= 1u << k;
		if (i % 10 == 9)
			assert_sound(h);
	}
	/* Each of them had to give up at least once. */
	assert_int_equal(broken, (1u << n) - 1);
}

static void test_alone(void **state)
{
	struct hostile *h = *state;

	if (!h) {
		skip();
		return;
	}
	rounds(h);
	assert_works(h, rng_slot(h));
}

static void test_racing(void **state)
{
	struct hostile *h = *state;

	if (!h) {
		skip();
		return;
	}
	assert_int_equal(pthread_create(&h->racer, NULL, race, h), 0);
	rounds(h);
	__atomic_store_n(&h->stop, true, __ATOMIC_RELAXED);
	assert_int_equal(pthread_join(h->racer, NULL), 0);
	assert_works(h, rng_slot(h));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_alone, setup, teardown),
		cmocka_unit_test_setup_teardown(test_racing, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
