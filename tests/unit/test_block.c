/* The block device and a driver that keeps the rules, and one that does not. */
#include "tests/unit/test.h"
#include "tests/unit/virtio_rig.h"
#include "core/devices/block_dev.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define SIZE   (256 * 1024)
#define HDR    RIG_DATA
#define STATUS (RIG_DATA + 0x100)
#define BUF    (RIG_DATA + 0x1000)
#define ALL    (VIRTIO_F_RINGS & ~VIRTIO_F_EVENT_IDX)
#define WRITABLE                                                               \
	(ALL | BLOCK_F_FLUSH | BLOCK_F_CONFIG_WCE | BLOCK_F_DISCARD |          \
		BLOCK_F_WRITE_ZEROES | BLOCK_F_SEG_MAX | BLOCK_F_SIZE_MAX)

struct fix {
	struct vrig r;
	struct machine_fds fds;
	struct machine_config cfg;
};

static void begin(struct fix *f, bool read_only, bool overlay, uint64_t more)
{
	memset(f, 0, sizeof(*f));
	for (unsigned i = 0; i < MACHINE_MAX_DISKS; i++)
		f->fds.disk[i] = f->fds.layer[i] = f->fds.overlay[i] = -1;
	f->fds.disk[0] = memfd_create("disk", MFD_CLOEXEC);
	assert_int_equal(ftruncate(f->fds.disk[0], SIZE), 0);
	if (overlay)
		f->fds.overlay[0] = memfd_create("overlay", MFD_CLOEXEC);
	f->cfg.memory = RIG_MEMORY;
	f->cfg.disk[0] = (struct machine_disk){.id = "d",
		.serial = "SERIAL-0123456789xyz",
		.queues = 2,
		.overlay = overlay,
		.read_only = read_only};
	vrig_init(&f->r, &block_ops, &f->cfg, &f->fds);
	f->r.wait_ms = 2;
	vrig_driver(&f->r, (read_only ? ALL : WRITABLE) | more);
	assert_int_equal(vrig_status(&f->r), 15);
}

static void end(struct fix *f)
{
	vrig_fini(&f->r);
	close(f->fds.disk[0]);
	if (f->fds.overlay[0] >= 0)
		close(f->fds.overlay[0]);
}

/* One request with its data in two pieces; the status byte. */
static uint8_t request(struct fix *f, uint32_t type, uint64_t sector,
	uint32_t len, bool to_guest)
{
	uint64_t h[2] = {type, sector};
	const uint32_t first = len / 3;
	struct vrig_buf b[5] = {{HDR, 10, false}, {HDR + 10, 6, false}};
	unsigned n = 2;
	uint32_t id, used;
	uint8_t *status = vrig_at(&f->r, STATUS, 1);

	memcpy(vrig_at(&f->r, HDR, 16), h, 16);
	*status = 0xee;
	if (first)
		b[n++] = (struct vrig_buf){BUF, first, to_guest};
	if (len)
		b[n++] = (struct vrig_buf){BUF + first, len - first, to_guest};
	b[n++] = (struct vrig_buf){STATUS, 1, true};
	vrig_add(&f->r, 1, b, n);
	vrig_kick(&f->r, 1);
	/* the kernel may still be at work */
	for (unsigned i = 0; !vrig_used(&f->r, 1, &id, &used); i++) {
		assert_true(i < 5000);
		vrig_run(&f->r);
	}
	assert_false(vrig_used(&f->r, 1, &id, &used));
	if (*status == BLOCK_S_OK)
		assert_int_equal(used, to_guest ? len + 1 : 1);
	assert_int_equal(vrig_status(&f->r), 15);
	return *status;
}

static void fill(struct fix *f, uint8_t seed, uint32_t len)
{
	uint8_t *p = vrig_at(&f->r, BUF, len);

	for (uint32_t i = 0; i < len; i++)
		p[i] = (uint8_t)(seed + i * 13 + i / 512);
}

static void round_trip(bool overlay, uint64_t more, bool indirect)
{
	struct fix f;
	uint8_t want[8192], got[8192];

	begin(&f, false, overlay, more);
	f.r.indirect = indirect;
	for (unsigned i = 0; i < 40; i++) {
		uint64_t sector = i * 7 % 400;

		fill(&f, (uint8_t)i, sizeof(want));
		memcpy(want, vrig_at(&f.r, BUF, sizeof(want)), sizeof(want));
		assert_int_equal(request(&f, BLOCK_T_OUT, sector, 8192, false),
			BLOCK_S_OK);
		memset(vrig_at(&f.r, BUF, 8192), 0, 8192);
		assert_int_equal(request(&f, BLOCK_T_IN, sector, 8192, true),
			BLOCK_S_OK);
		assert_memory_equal(vrig_at(&f.r, BUF, 8192), want, 8192);
		assert_int_equal(
			request(&f, BLOCK_T_FLUSH, 0, 0, false), BLOCK_S_OK);
		if (overlay)
			continue;
		assert_int_equal(
			pread_full(f.fds.disk[0], got, 8192, sector * 512), 0);
		assert_memory_equal(got, want, 8192);
	}
	if (overlay) {
		static const uint8_t zeros[SIZE];
		static uint8_t base[SIZE];

		assert_int_equal(pread_full(f.fds.disk[0], base, SIZE, 0), 0);
		assert_memory_equal(base, zeros, SIZE);
	}
	end(&f);
}

static void test_round_trip(void **state)
{
	(void)state;
	round_trip(false, 0, false);
	round_trip(false, VIRTIO_F_EVENT_IDX, true);
	round_trip(true, 0, true);
	round_trip(true, VIRTIO_F_EVENT_IDX, false);
}

static void test_other_requests(void **state)
{
	struct fix f;
	struct {
		uint64_t sector;
		uint32_t n, flags;
	} range = {8, 16, 0};
	static const uint8_t zeros[4096];
	uint8_t b[4096];

	(void)state;
	begin(&f, false, false, 0);
	assert_int_equal(request(&f, BLOCK_T_GET_ID, 0, 20, true), BLOCK_S_OK);
	assert_memory_equal(vrig_at(&f.r, BUF, 20), "SERIAL-0123456789xyz", 20);
	fill(&f, 1, 65536);
	assert_int_equal(request(&f, BLOCK_T_OUT, 0, 65536, false), BLOCK_S_OK);
	memcpy(vrig_at(&f.r, BUF, 16), &range, 16);
	assert_int_equal(
		request(&f, BLOCK_T_DISCARD, 0, 16, false), BLOCK_S_OK);
	assert_int_equal(pread_full(f.fds.disk[0], b, 4096, 4096), 0);
	assert_memory_equal(b, zeros, 4096);
	range.sector = 33;
	range.flags = 1;
	memcpy(vrig_at(&f.r, BUF, 16), &range, 16);
	assert_int_equal(
		request(&f, BLOCK_T_WRITE_ZEROES, 0, 16, false), BLOCK_S_OK);
	assert_int_equal(pread_full(f.fds.disk[0], b, 4096, 33 * 512), 0);
	assert_memory_equal(b, zeros, 4096);
	/* 5.2.6.2: unmap has no meaning in a discard; unknown flags */
	assert_int_equal(
		request(&f, BLOCK_T_DISCARD, 0, 16, false), BLOCK_S_UNSUPP);
	range.flags = 2;
	memcpy(vrig_at(&f.r, BUF, 16), &range, 16);
	assert_int_equal(request(&f, BLOCK_T_WRITE_ZEROES, 0, 16, false),
		BLOCK_S_UNSUPP);
	assert_int_equal(
		request(&f, BLOCK_T_DISCARD, 0, 15, false), BLOCK_S_IOERR);
	range.flags = 0;
	range.sector = UINT64_MAX / 512;
	memcpy(vrig_at(&f.r, BUF, 16), &range, 16);
	assert_int_equal(
		request(&f, BLOCK_T_DISCARD, 0, 16, false), BLOCK_S_IOERR);
	assert_int_equal(request(&f, 99, 0, 512, true), BLOCK_S_UNSUPP);
	end(&f);
}

static void test_bounds(void **state)
{
	static const struct {
		uint64_t sector;
		uint32_t len;
	} bad[] = {{SIZE / 512, 512}, {SIZE / 512 - 1, 1024}, {UINT64_MAX, 512},
		{UINT64_MAX / 512 + 1, 512}, {0, 511}, {1ULL << 55, 512}};
	struct fix f;

	(void)state;
	begin(&f, false, false, 0);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		assert_int_equal(request(&f, BLOCK_T_IN, bad[i].sector,
					 bad[i].len, true),
			BLOCK_S_IOERR);
		assert_int_equal(request(&f, BLOCK_T_OUT, bad[i].sector,
					 bad[i].len, false),
			BLOCK_S_IOERR);
	}
	end(&f);
	begin(&f, true, false, 0);
	assert_int_equal(
		request(&f, BLOCK_T_OUT, 0, 512, false), BLOCK_S_IOERR);
	assert_int_equal(request(&f, BLOCK_T_IN, 0, 512, true), BLOCK_S_OK);
	end(&f);
}

static void broken(struct fix *f)
{
	vrig_kick(&f->r, 0);
	assert_int_equal(vrig_status(&f->r), 15 | VIRTIO_S_NEEDS_RESET);
	/* nothing goes until a reset, and then it does */
	vrig_driver(&f->r, WRITABLE);
	assert_int_equal(vrig_status(&f->r), 15);
	assert_int_equal(request(f, BLOCK_T_IN, 0, 512, true), BLOCK_S_OK);
}

static void test_broken_chains(void **state)
{
	struct vrig_buf b[3] = {{HDR, 15, false}, {STATUS, 1, true}};
	struct fix f;

	(void)state;
	begin(&f, false, false, 0);
	vrig_add(&f.r, 0, b, 2); /* header too short */
	broken(&f);
	vrig_add(&f.r, 0, (struct vrig_buf[]){{HDR, 16, false}}, 1);
	broken(&f); /* no place for the status */
	vrig_add(&f.r, 0,
		(struct vrig_buf[]){
			{HDR, 16, false}, {RIG_MEMORY - 1, 2, true}},
		2);
	broken(&f);
	vrig_desc(&f.r, 0, 0, HDR, 16, 1, 0); /* a loop */
	vrig_avail(&f.r, 0, 0);
	broken(&f);
	vrig_desc(&f.r, 0, 0, RIG_TABLE, 16 * 3, 4 | 1, 1);
	vrig_avail(&f.r, 0, 0); /* indirect and next */
	broken(&f);
	vrig_desc(&f.r, 0, 0, RIG_TABLE, 17, 4, 0);
	vrig_avail(&f.r, 0, 0);
	broken(&f);
	/* a table that refers to another one, and one that loops */
	vrig_desc(&f.r, 0, 0, RIG_RING(1), 16, 4, 0);
	vrig_desc(&f.r, 1, 0, RIG_TABLE, 16, 4, 0);
	vrig_avail(&f.r, 0, 0);
	broken(&f);
	vrig_desc(&f.r, 0, 0, RIG_RING(1), 16, 4, 0);
	vrig_desc(&f.r, 1, 0, HDR, 16, 1, 0);
	vrig_avail(&f.r, 0, 0);
	broken(&f);
	vrig_avail(&f.r, 0, RIG_QSIZE); /* no such descriptor */
	broken(&f);
	end(&f);
}

static void test_cache_mode(void **state)
{
	struct fix f;
	uint8_t v = 0;

	(void)state;
	begin(&f, false, false, 0);
	virtio_mmio_io(f.r.vd, 0x100 + 32, &v, 1, false);
	assert_int_equal(v, 1);
	v = 0;
	virtio_mmio_io(f.r.vd, 0x100 + 32, &v, 1, true);
	fill(&f, 3, 4096);
	assert_int_equal(request(&f, BLOCK_T_OUT, 8, 4096, false), BLOCK_S_OK);
	virtio_mmio_io(f.r.vd, 0x100 + 32, &v, 1, false);
	assert_int_equal(v, 0);
	vrig_driver(&f.r, WRITABLE);
	virtio_mmio_io(f.r.vd, 0x100 + 32, &v, 1, false);
	assert_int_equal(v, 1);
	end(&f);
}

/* Many at once; a reset and a pause find nothing in flight. */
static void test_in_flight(void **state)
{
	struct fix f;
	uint64_t h[2] = {BLOCK_T_IN, 0};
	uint32_t id, len;
	struct err e;

	(void)state;
	begin(&f, false, false, 0);
	f.r.indirect = true;
	memcpy(vrig_at(&f.r, HDR, 16), h, 16);
	for (unsigned round = 0; round < 20; round++) {
		struct vrig_buf b[3] = {{HDR, 16, false}, {BUF, 65536, true},
			{STATUS, 1, true}};
		struct block *blk = container_of(f.r.vd, struct block, vd);
		unsigned n = 0;

		for (unsigned i = 0; i < RIG_QSIZE; i++)
			vrig_add(&f.r, 0, b, 3);
		f.r.vd->vops->queue_ready(f.r.vd, 0);
		if (round % 2) {
			assert_int_equal(block_ops.quiesce(f.r.dev, &e), 0);
			assert_int_equal(blk->inflight, 0);
			block_ops.resumed(f.r.dev);
			vrig_run(&f.r);
			while (vrig_used(&f.r, 0, &id, &len))
				n++;
			assert_int_equal(n, RIG_QSIZE);
			continue;
		}
		vrig_set(&f.r, 0x70, 0);
		assert_int_equal(blk->inflight, 0);
		vrig_driver(&f.r, WRITABLE);
		assert_false(vrig_used(&f.r, 0, &id, &len));
	}
	end(&f);
}

/* ---- things that go wrong ---- */

/* In place of the libraries': how often, and what to fail. */
static struct {
	unsigned reads;
	bool fail_sync, fail_submit;
} host;

/* NOLINTBEGIN(readability-inconsistent-declaration-parameter-name) */
ssize_t preadv(int fd, const struct iovec *iov, int n, off_t off)
{
	host.reads++;
	return (ssize_t)syscall(SYS_preadv, fd, iov, n, off, 0);
}

int fdatasync(int fd)
{
	bool fail = host.fail_sync;

	host.fail_sync = false;
	if (!fail)
		return (int)syscall(SYS_fdatasync, fd);
	errno = EIO;
	return -1;
}

int io_uring_submit(struct io_uring *ring)
{
	bool fail = host.fail_submit;

	host.fail_submit = false;
	return fail ? -EAGAIN : io_uring_submit_and_wait(ring, 0);
}
/* NOLINTEND(readability-inconsistent-declaration-parameter-name) */

/* A read that comes back short during a driver's reset: a vCPU thread must not
 * try for the rest. */
static void test_short_read_in_reset(void **state)
{
	struct block_req *r = calloc(1, sizeof(*r) + sizeof(struct iovec));
	struct block *b;
	struct fix f;

	(void)state;
	assert_non_null(r);
	begin(&f, false, false, 0);
	b = container_of(f.r.vd, struct block, vd);
	if (b->have_ring) {
		assert_int_equal(ftruncate(f.fds.disk[0], 512), 0);
		r->status = vrig_at(&f.r, STATUS, 1);
		r->len = 1024;
		r->n = 1;
		r->iov[0] = (struct iovec){vrig_at(&f.r, BUF, 1024), 1024};
		host.reads = 0;
		assert_true(block_ring_add(b, r, DISK_BASE));
		vrig_set(&f.r, 0x70, 0);
		assert_int_equal(b->inflight, 0);
		assert_int_equal(host.reads, 0);
	} else {
		free(r);
	}
	end(&f);
}

/* What was not written when the cache went off is told to who asks next, once.
 */
static void test_lost_flush(void **state)
{
	struct fix f;
	uint8_t v = 0;

	(void)state;
	for (unsigned i = 0; i < 2; i++) {
		begin(&f, false, false, 0);
		host.fail_sync = true;
		virtio_mmio_io(f.r.vd, 0x100 + 32, &v, 1, true);
		assert_int_equal(
			request(&f, BLOCK_T_IN, 0, 512, true), BLOCK_S_OK);
		assert_false(host.fail_sync);
		for (unsigned k = 0; k < 2; k++)
			assert_int_equal(
				i ? request(&f, BLOCK_T_FLUSH, 0, 0, false)
				  : request(&f, BLOCK_T_OUT, 0, 512, false),
				k ? BLOCK_S_OK : BLOCK_S_IOERR);
		end(&f);
	}
}

/* The kernel had no memory for the only operation: it is tried again. */
static void test_submit_again(void **state)
{
	struct fix f;

	(void)state;
	begin(&f, false, false, 0);
	host.fail_submit = true;
	assert_int_equal(request(&f, BLOCK_T_IN, 0, 512, true), BLOCK_S_OK);
	host.fail_submit = false;
	end(&f);
}

/* ---- much to zero ---- */

#define BIG (200 * MIB)

struct zero_range {
	uint64_t sector;
	uint32_t n, flags;
};

static void fill_disk(const struct fix *f)
{
	uint8_t b[4096];

	memset(b, 0xaa, sizeof(b));
	for (uint64_t at = 0; at < BIG; at += 1 * MIB)
		assert_int_equal(
			pwrite_full(f->fds.disk[0], b, sizeof(b), at), 0);
	assert_int_equal(
		pwrite_full(f->fds.disk[0], b, sizeof(b), BIG - sizeof(b)), 0);
}

static bool is_zero(const struct fix *f, uint64_t at)
{
	uint8_t v = 0xff;

	assert_int_equal(pread_full(f->fds.disk[0], &v, 1, at), 0);
	return !v;
}

static void begin_big(struct fix *f, uint32_t type, const struct zero_range *g)
{
	uint64_t h[2] = {type, 0};
	struct vrig_buf b[3] = {
		{HDR, 16, false}, {BUF, 48, false}, {STATUS, 1, true}};

	begin(f, false, false, 0);
	container_of(f->r.vd, struct block, vd)->disk.size = BIG;
	fill_disk(f);
	memcpy(vrig_at(&f->r, HDR, 16), h, 16);
	memcpy(vrig_at(&f->r, BUF, 48), g, 48);
	vrig_add(&f->r, 1, b, 3);
}

/* A long request does not keep others from the loop, nor a pause: what is not
 * done stays in the queue. */
static void test_long_zeroing(void **state)
{
	/* 100 MiB less a sector at both ends, little, the rest but a block */
	static const struct zero_range g[3] = {{1, 100 * MIB / 512 - 2, 1},
		{100 * MIB / 512, 8, 1},
		{100 * MIB / 512 + 8, 100 * MIB / 512 - 16, 1}};
	struct fix f;
	struct err e;
	uint32_t id, len;
	unsigned turns = 0;

	(void)state;
	begin_big(&f, BLOCK_T_WRITE_ZEROES, g);
	f.r.vd->vops->queue_ready(f.r.vd, 1);
	assert_false(vrig_used(&f.r, 1, &id, &len));
	assert_true(is_zero(&f, 512));
	assert_false(is_zero(&f, 99 * MIB));
	assert_int_equal(block_ops.quiesce(f.r.dev, &e), 0);
	f.r.vd->vops->queue_ready(f.r.vd, 1);
	assert_false(is_zero(&f, 99 * MIB));
	block_ops.resumed(f.r.dev);
	for (; !vrig_used(&f.r, 1, &id, &len); turns++)
		f.r.vd->vops->queue_ready(f.r.vd, 1);
	assert_in_range(turns, 2, 20);
	assert_int_equal(*(uint8_t *)vrig_at(&f.r, STATUS, 1), BLOCK_S_OK);
	assert_int_equal(len, 1);
	vrig_run(&f.r);
	assert_false(vrig_used(&f.r, 1, &id, &len));
	assert_false(is_zero(&f, 0));
	for (uint64_t at = 1 * MIB; at < BIG; at += 1 * MIB)
		assert_true(is_zero(&f, at));
	assert_true(is_zero(&f, 512));
	assert_true(is_zero(&f, BIG - 4097));
	assert_false(is_zero(&f, BIG - 4096));
	assert_int_equal(request(&f, BLOCK_T_IN, 0, 512, true), BLOCK_S_OK);
	end(&f);
}

/* A reset ends it; the next driver's request begins at its beginning. */
static void test_reset_in_zeroing(void **state)
{
	static const struct zero_range g[3] = {{0, 100 * MIB / 512, 0},
		{100 * MIB / 512, 50 * MIB / 512, 0}, {0, 0, 0}};
	struct vrig_buf b[3] = {
		{HDR, 16, false}, {BUF, 48, false}, {STATUS, 1, true}};
	struct fix f;
	uint32_t id, len;

	(void)state;
	begin_big(&f, BLOCK_T_DISCARD, g);
	f.r.vd->vops->queue_ready(f.r.vd, 1);
	assert_true(is_zero(&f, 1 * MIB));
	vrig_driver(&f.r, WRITABLE);
	vrig_run(&f.r);
	assert_false(is_zero(&f, 99 * MIB));
	fill_disk(&f);
	vrig_add(&f.r, 1, b, 3);
	vrig_kick(&f.r, 1);
	assert_true(vrig_used(&f.r, 1, &id, &len));
	for (uint64_t at = 0; at < 150 * MIB; at += 1 * MIB)
		assert_true(is_zero(&f, at));
	assert_false(is_zero(&f, 150 * MIB));
	end(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_round_trip),
		cmocka_unit_test(test_other_requests),
		cmocka_unit_test(test_bounds),
		cmocka_unit_test(test_broken_chains),
		cmocka_unit_test(test_cache_mode),
		cmocka_unit_test(test_in_flight),
		cmocka_unit_test(test_short_read_in_reset),
		cmocka_unit_test(test_lost_flush),
		cmocka_unit_test(test_submit_again),
		cmocka_unit_test(test_long_zeroing),
		cmocka_unit_test(test_reset_in_zeroing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
