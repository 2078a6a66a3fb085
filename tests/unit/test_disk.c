/* Disks and overlays against a model: every byte where it belongs. */
#include "tests/unit/test.h"
#include "core/devices/disk.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#define SIZE (300 * 1024 + 512) /* the last block is not whole */

static int file(size_t size, uint8_t seed)
{
	int fd = memfd_create("disk", MFD_CLOEXEC);
	uint8_t *b = malloc(size ? size : 1);

	assert_true(fd >= 0 && b);
	for (size_t i = 0; i < size; i++)
		b[i] = (uint8_t)(i * 7 + i / 4096 + seed);
	assert_int_equal(write_full(fd, b, size), 0);
	free(b);
	return fd;
}

static uint32_t next(uint32_t *seed)
{
	*seed ^= *seed << 13;
	*seed ^= *seed >> 17;
	*seed ^= *seed << 5;
	return *seed;
}

struct model {
	struct disk d;
	int fd[DISK_NFILES];
	uint8_t *want, *base; /* what reads must give; the image as it was */
	uint32_t seed;
};

static void model_open(struct model *m, int base, int layer, bool overlay)
{
	struct err e = {0};

	memset(m, 0, sizeof(*m));
	m->fd[DISK_BASE] = base;
	m->fd[DISK_LAYER] = layer;
	m->fd[DISK_OVERLAY] = overlay ? file(0, 0) : -1;
	if (disk_open(&m->d, m->fd, 0, false, &e))
		fail_msg("%s", e.msg);
	assert_int_equal(m->d.size, SIZE);
	m->want = malloc(SIZE);
	m->base = malloc(SIZE);
	assert_true(m->want && m->base);
	assert_int_equal(pread_full(base, m->base, SIZE, 0), 0);
	struct iovec iov = {m->want, SIZE};
	assert_int_equal(disk_readv(&m->d, &iov, 1, 0), 0);
	m->seed = 12345;
}

static void model_check(struct model *m)
{
	uint8_t *got = malloc(SIZE);
	struct iovec iov[3] = {{got, 1000}, {got + 1000, 5}, {got + 1005, 0}};

	assert_non_null(got);
	iov[2].iov_len = SIZE - 1005;
	assert_int_equal(disk_readv(&m->d, iov, 3, 0), 0);
	assert_memory_equal(got, m->want, SIZE);
	free(got);
}

static void model_close(struct model *m)
{
	disk_close(&m->d);
	free(m->want);
	free(m->base);
	if (m->fd[DISK_OVERLAY] >= 0)
		close(m->fd[DISK_OVERLAY]);
}

/* One random change of sectors, done here and there. */
static void change(struct model *m)
{
	uint64_t off = next(&m->seed) % (SIZE / 512) * 512;
	uint64_t max = min_u64((SIZE - off) / 512, 40);
	uint64_t len = (1 + next(&m->seed) % max) * 512;
	uint8_t *buf = malloc(len);
	uint64_t cut = next(&m->seed) % len;
	struct iovec iov[2] = {{buf, cut}, {buf + cut, len - cut}};

	assert_non_null(buf);
	switch (next(&m->seed) % 4) {
	case 0:
		assert_int_equal(disk_zero(&m->d, off, len, len % 1024), 0);
		memset(m->want + off, 0, len);
		break;
	case 1:
		assert_int_equal(disk_discard(&m->d, off, len), 0);
		iov[0] = (struct iovec){m->want, SIZE};
		/* whatever it reads as now, whole blocks only */
		for (uint64_t i = off; i < off + len; i++) {
			if (i < align_up(off, 4096) ||
				i >= align_down(off + len, 4096))
				continue;
			m->want[i] = 0;
		}
		break;
	default:
		for (uint64_t i = 0; i < len; i++)
			buf[i] = (uint8_t)next(&m->seed);
		assert_int_equal(disk_writev(&m->d, iov, 2, off), 0);
		memcpy(m->want + off, buf, len);
	}
	free(buf);
}

static void image_untouched(const struct model *m)
{
	uint8_t *now = malloc(SIZE);

	assert_non_null(now);
	assert_int_equal(pread_full(m->fd[DISK_BASE], now, SIZE, 0), 0);
	assert_memory_equal(now, m->base, SIZE);
	free(now);
}

static void run(struct model *m)
{
	for (unsigned i = 0; i < 400; i++) {
		change(m);
		if (i % 20 == 0)
			model_check(m);
	}
	model_check(m);
}

static void test_raw(void **state)
{
	int base = file(SIZE, 1);
	struct model m;

	(void)state;
	model_open(&m, base, -1, false);
	run(&m);
	model_close(&m);
	close(base);
}

static void test_overlay(void **state)
{
	int base = file(SIZE, 1);
	struct model m;

	(void)state;
	model_open(&m, base, -1, true);
	run(&m);
	image_untouched(&m);
	model_close(&m);
	close(base);
}

/* A frozen overlay below two others, whose writes never meet. */
static void test_layers(void **state)
{
	int base = file(SIZE, 1), layer;
	struct model builder, a, b;
	uint8_t *frozen;
	struct err e = {0};
	struct stat st;

	(void)state;
	model_open(&builder, base, -1, true);
	run(&builder);
	assert_int_equal(disk_freeze(&builder.d, &e), 0);
	layer = dup(builder.fd[DISK_OVERLAY]);
	assert_int_equal(fstat(layer, &st), 0);
	frozen = malloc((size_t)st.st_size);
	assert_non_null(frozen);
	assert_int_equal(pread_full(layer, frozen, (size_t)st.st_size, 0), 0);

	model_open(&a, base, layer, true);
	model_open(&b, base, layer, true);
	assert_memory_equal(a.want, builder.want, SIZE);
	assert_memory_equal(b.want, builder.want, SIZE);
	b.seed = 777;
	for (unsigned i = 0; i < 300; i++) {
		change(&a);
		change(&b);
	}
	model_check(&a);
	model_check(&b);
	image_untouched(&a);
	uint8_t *now = malloc((size_t)st.st_size);
	assert_non_null(now);
	assert_int_equal(pread_full(layer, now, (size_t)st.st_size, 0), 0);
	assert_memory_equal(now, frozen, (size_t)st.st_size);
	free(now);
	free(frozen);
	model_close(&a);
	model_close(&b);
	model_close(&builder);
	close(layer);
	close(base);
}

/* What a layer and an overlay over it hold, in one file: over the same base it
 * reads the same, and both machines go on by themselves. */
static void test_export(void **state)
{
	int base = file(SIZE, 1), layer, all = file(0, 0);
	struct model builder, a, b;
	struct err e = {0};

	(void)state;
	model_open(&builder, base, -1, true);
	run(&builder);
	assert_int_equal(disk_freeze(&builder.d, &e), 0);
	layer = builder.fd[DISK_OVERLAY];
	model_open(&a, base, layer, true);
	a.seed = 4711;
	run(&a);
	assert_int_equal(disk_export(&a.d, all, 0x1234567890abcdef, &e), 0);
	model_open(&b, base, all, true);
	assert_memory_equal(b.want, a.want, SIZE);
	assert_true(b.d.layer_id == 0x1234567890abcdef);
	assert_int_equal(a.d.layer_id, 0);
	run(&a);
	run(&b);
	image_untouched(&b);
	model_close(&a);
	model_close(&b);
	model_close(&builder);
	close(all);
	close(base);
}

static void refused(const int fd[DISK_NFILES], uint64_t want, const char *text)
{
	struct err e = {0};
	struct disk d;

	assert_true(disk_open(&d, fd, want, false, &e) < 0);
	if (!strstr(e.msg, text))
		fail_msg("\"%s\" says nothing of \"%s\"", e.msg, text);
}

static void test_refused(void **state)
{
	int fd[DISK_NFILES] = {file(100, 0), -1, -1};
	struct err e = {0};
	struct model m;
	uint8_t byte = 0;

	(void)state;
	refused(fd, 0, "shorter than a sector");
	close(fd[0]);
	fd[0] = file(SIZE, 0);
	refused(fd, SIZE + 512, "the snapshot was made with");
	fd[1] = file(SIZE + 100, 0); /* as long as a layer, but none */
	refused(fd, 0, "the frozen overlay");
	close(fd[1]);
	model_open(&m, fd[0], -1, true);
	change(&m);
	assert_int_equal(disk_freeze(&m.d, &e), 0);
	/* one bit of the map */
	fd[1] = m.fd[DISK_OVERLAY];
	assert_int_equal(
		pread_full(fd[1], &byte, 1, align_up(SIZE, 4096) + 4096 + 3),
		0);
	byte ^= 0x10;
	assert_int_equal(
		pwrite_full(fd[1], &byte, 1, align_up(SIZE, 4096) + 4096 + 3),
		0);
	refused(fd, 0, "checksum mismatch");
	/* of a disk of another size */
	close(fd[0]);
	fd[0] = file(SIZE + 4096, 0);
	refused(fd, 0, "the frozen overlay");
	model_close(&m);
	close(fd[0]);
	fd[0] = open("/dev/null", O_RDWR | O_CLOEXEC);
	fd[1] = -1;
	refused(fd, 0, "not a regular file");
	close(fd[0]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_raw),
		cmocka_unit_test(test_overlay),
		cmocka_unit_test(test_layers),
		cmocka_unit_test(test_export),
		cmocka_unit_test(test_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
