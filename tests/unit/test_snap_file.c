/* A snapshot comes back as it went: state, memory, holes, statistics. */
#include "tests/unit/test.h"
#include "tests/unit/snap_fake.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>

static void round_trip(struct machine *m, int pagemap_fd, uint64_t pages)
{
	struct snap_write_opts o = {.pagemap_fd = pagemap_fd};
	struct machine_config cfg;
	struct snap_verified v;
	struct snap_written w;
	struct err e = {0};
	struct machine back;
	struct snap *s;
	int fd = fake_file();

	if (snap_write(m, fd, &o, &w, &e))
		fail_msg("%s", e.msg);
	assert_int_equal(w.pages_present, pages);
	assert_int_equal(w.pages_zero, m->mem.size / 4096 - pages);
	assert_int_equal(w.file_bytes % 4096, 0);
	assert_int_equal(lseek(fd, 0, SEEK_END), w.file_bytes);
	if (snap_verify_fd(fd, &v, NULL, NULL, &e))
		fail_msg("%s", e.msg);
	assert_memory_equal(v.uuid.b, w.uuid.b, 16);
	assert_int_equal(v.pages_present, pages);

	if (snap_open(fd, &s, &e))
		fail_msg("%s", e.msg);
	assert_int_equal(snap_memory_size(s), m->mem.size);
	assert_memory_equal(snap_get_uuid(s)->b, w.uuid.b, 16);
	assert_int_equal(snap_read_config(s, &cfg, &e), 0);
	fake_empty(&back, &cfg);
	if (snap_load_state(s, &back, &e))
		fail_msg("%s", e.msg);
	assert_true(fake_same_state(m, &back));
	assert_int_equal(
		mem_create(&back.mem, cfg.memory, MEM_BUILDER, -1, &e), 0);
	if (snap_load_memory(s, &back.mem, 1, &e))
		fail_msg("%s", e.msg);
	/* comparing touches every page, which some tests must not */
	if (m->mem.size <= GIB && m->mem.backing == MEM_PRIVATE)
		assert_true(fake_same_memory(m, &back));
	machine_destroy(&back);
	snap_close(s);
	close(fd);
}

static void test_round_trip(void **state)
{
	struct machine m;

	(void)state;
	fake_machine(&m, 20 * MIB, MEM_PRIVATE);
	round_trip(&m, -1, 0);
	fake_page(&m, 0);
	fake_page(&m, 0x5000);
	fake_page(&m, 0x6000);
	fake_page(&m, 9 * MIB);
	fake_page(&m, 20 * MIB - 4096);
	/* the last byte of a page is enough */
	*(uint8_t *)mem_at(&m.mem, 0x20fff, 1, MEM_WRITE) = 1;
	/* written, but zero */
	*(volatile uint8_t *)mem_at(&m.mem, 0x30000, 1, MEM_WRITE) = 0;
	round_trip(&m, -1, 6);
	machine_destroy(&m);
}

static void test_whole_memory(void **state)
{
	struct machine m;

	(void)state;
	fake_machine(&m, 34 * MIB, MEM_PRIVATE);
	for (gpa_t gpa = 0; gpa < 34 * MIB; gpa += 4096)
		fake_page(&m, gpa);
	round_trip(&m, 0, 34 * MIB / 4096);
	machine_destroy(&m);
}

/* Two regions, and no page of 3 GiB of nothing is touched. */
static void test_pagemap(void **state)
{
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	unsigned char there = 1;
	struct machine m;

	(void)state;
	assert_true(fd >= 0);
	fake_machine(&m, 3 * GIB + 10 * MIB, MEM_PRIVATE);
	fake_page(&m, 0x7000);
	fake_page(&m, 3 * GIB - 4096);
	fake_page(&m, 4 * GIB);
	fake_page(&m, 4 * GIB + 10 * MIB - 4096);
	round_trip(&m, fd, 4);
	assert_int_equal(mincore(m.mem.map + GIB, 4096, &there), 0);
	assert_int_equal(there & 1, 0);
	close(fd);
	machine_destroy(&m);
}

static void test_builder_does_not_grow(void **state)
{
	struct stat before, after;
	struct machine m;

	(void)state;
	fake_machine(&m, 64 * MIB, MEM_BUILDER);
	fake_page(&m, 0);
	fake_page(&m, 0x11000);
	fake_page(&m, 33 * MIB);
	assert_int_equal(fstat(m.mem.fd, &before), 0);
	round_trip(&m, -1, 3);
	assert_int_equal(fstat(m.mem.fd, &after), 0);
	assert_int_equal(before.st_blocks, after.st_blocks);
	machine_destroy(&m);
}

static void test_empty_memory_is_small(void **state)
{
	struct machine m;
	struct stat st;
	int fd;

	(void)state;
	fake_machine(&m, 256 * MIB, MEM_BUILDER);
	fd = fake_snapshot(&m);
	assert_int_equal(fstat(fd, &st), 0);
	assert_true(st.st_size < 100 * 1024);
	close(fd);
	machine_destroy(&m);
}

static int stop_at(void *arg, uint64_t done, uint64_t total)
{
	unsigned *calls = arg;

	assert_true(done <= total);
	return ++*calls == 2;
}

static void test_refusals(void **state)
{
	unsigned calls = 0;
	struct snap_write_opts o = {.progress = stop_at, .arg = &calls};
	struct snap_written w;
	struct err e = {0};
	struct machine m;
	int fd = fake_file();

	(void)state;
	fake_machine(&m, 64 * MIB, MEM_PRIVATE);
	assert_int_equal(snap_write(&m, fd, &o, &w, &e), -ECANCELED);
	assert_int_equal(calls, 2);
	assert_int_equal(ftruncate(fd, 10), 0);
	assert_int_equal(snap_write(&m, fd, &o, &w, &e), -EINVAL);
	assert_int_equal(ftruncate(fd, 0), 0);
	o = (struct snap_write_opts){.labels_json = "[1]"};
	assert_int_equal(snap_write(&m, fd, &o, &w, &e), -EINVAL);
	o.labels_json = "{";
	assert_int_equal(snap_write(&m, fd, &o, &w, &e), -EINVAL);
	o.labels_json = NULL;
	m.state = MACHINE_RUNNING;
	assert_int_equal(snap_write(&m, fd, &o, &w, &e), -EBUSY);
	m.state = MACHINE_NEW;
	close(fd);
	fd = open("/dev/full", O_RDWR | O_CLOEXEC);
	assert_int_equal(snap_write(&m, fd, &o, &w, &e), -EINVAL);
	close(fd);
	machine_destroy(&m);
}

/* A client's descriptor may be open for appending: then writes go astray. */
static void test_append(void **state)
{
	struct snap_write_opts o = {0};
	struct snap_written w;
	struct err e = {0};
	struct machine m;
	int fd = fake_file();

	(void)state;
	fake_machine(&m, 16 * MIB, MEM_PRIVATE);
	assert_int_equal(fcntl(fd, F_SETFL, O_APPEND), 0);
	assert_int_equal(snap_write(&m, fd, &o, &w, &e), -EINVAL);
	close(fd);
	machine_destroy(&m);
}

/* Errors of the file system come through with the place. */
static void test_write_errors(void **state)
{
	struct snap_write_opts o = {0};
	struct snap_written w;
	struct err e = {0};
	struct machine m;
	int fd = fake_file();

	(void)state;
	fake_machine(&m, 16 * MIB, MEM_PRIVATE);
	fake_page(&m, 0);
	/* F_SEAL_GROW: every write behind the end is refused */
	close(fd);
	fd = memfd_create("sealed", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	assert_int_equal(fcntl(fd, F_ADD_SEALS, F_SEAL_GROW), 0);
	assert_int_equal(snap_write(&m, fd, &o, &w, &e), -EPERM);
	assert_non_null(strstr(e.msg, "writing the snapshot at byte"));
	close(fd);
	machine_destroy(&m);
}

/* Write to a file system of so many pages: 0, or -ENOSPC that says so. */
static int write_small(
	struct machine *m, const char *dir, unsigned pages, int level)
{
	struct snap_write_opts o = {.zstd_level = level};
	struct snap_verified v;
	struct snap_written w;
	struct err e = {0};
	char size[32];
	int fd, rc;

	(void)snprintf(size, sizeof(size), "size=%uk", 4 * pages);
	if (mount("none", dir, "tmpfs", 0, size)) {
		print_message(
			"skipped: a tmpfs needs root: %s\n", strerror(errno));
		return -EPERM;
	}
	fd = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	rc = snap_write(m, fd, &o, &w, &e);
	if (rc)
		assert_int_equal(rc, -ENOSPC);
	if (rc)
		assert_non_null(strstr(e.msg, "No space left"));
	else
		assert_int_equal(snap_verify_fd(fd, &v, NULL, NULL, &e), 0);
	close(fd);
	assert_int_equal(umount2(dir, MNT_DETACH), 0);
	return rc;
}

/* A disk that is full at each page of the file in turn: whichever write it
 * hits, that is the error; with room for all there is a sound file. */
static void test_full_at_every_page(void **state)
{
	char dir[] = "/tmp/thaw-full-XXXXXX";
	struct machine m;

	(void)state;
	assert_non_null(mkdtemp(dir));
	fake_machine(&m, 4 * MIB, MEM_PRIVATE);
	for (gpa_t gpa = 0; gpa < 60 * 4096; gpa += 4096)
		fake_page(&m, gpa * 3);
	for (int level = 0; level < 2; level++) {
		unsigned pages = 1;
		int rc;

		while ((rc = write_small(&m, dir, pages, level)) == -ENOSPC)
			pages++;
		if (rc)
			break;
		assert_true(pages > (level ? 5U : 60U));
	}
	machine_destroy(&m);
	assert_int_equal(rmdir(dir), 0);
}

/* A full disk: -ENOSPC, whichever write it hits. */
static void test_full_disk(void **state)
{
	static const char *const sizes[] = {"size=4k", "size=40k", "size=1m"};
	char dir[] = "/tmp/thaw-full-XXXXXX";
	struct snap_write_opts o = {0};
	struct snap_written w;
	struct err e = {0};
	struct machine m;

	(void)state;
	assert_non_null(mkdtemp(dir));
	fake_machine(&m, 16 * MIB, MEM_PRIVATE);
	for (gpa_t gpa = 0; gpa < 10 * MIB; gpa += 4096)
		fake_page(&m, gpa);
	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		int fd;

		if (mount("none", dir, "tmpfs", 0, sizes[i])) {
			print_message("skipped: a tmpfs needs root: %s\n",
				strerror(errno));
			break;
		}
		fd = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
		assert_true(fd >= 0);
		assert_int_equal(snap_write(&m, fd, &o, &w, &e), -ENOSPC);
		assert_non_null(strstr(e.msg, "No space left"));
		close(fd);
		assert_int_equal(umount2(dir, MNT_DETACH), 0);
	}
	machine_destroy(&m);
	assert_int_equal(rmdir(dir), 0);
}

static void test_other_machine(void **state)
{
	struct machine_config cfg;
	struct machine m, other;
	struct err e = {0};
	struct snap *s;
	int fd;

	(void)state;
	fake_machine(&m, 4 * MIB, MEM_PRIVATE);
	fd = fake_snapshot(&m);
	assert_int_equal(snap_open(fd, &s, &e), 0);

	cfg = m.cfg;
	cfg.vsock_cid = 0; /* one device less */
	fake_empty(&other, &cfg);
	assert_int_equal(snap_load_state(s, &other, &e), -EBADMSG);
	assert_non_null(strstr(e.msg, "the configuration has no such part"));
	machine_destroy(&other);

	cfg = m.cfg;
	cfg.cpus = 1;
	fake_empty(&other, &cfg);
	assert_int_equal(snap_load_state(s, &other, &e), -EBADMSG);
	machine_destroy(&other);

	cfg.cpus = 3;
	fake_empty(&other, &cfg);
	assert_int_equal(snap_load_state(s, &other, &e), -EBADMSG);
	assert_non_null(strstr(e.msg, "there is no section for vcpu 2"));
	assert_int_equal(
		mem_create(&other.mem, 8 * MIB, MEM_PRIVATE, -1, &e), 0);
	assert_int_equal(snap_load_memory(s, &other.mem, 1, &e), -EBADMSG);
	machine_destroy(&other);
	snap_close(s);
	snap_close(NULL);
	close(fd);
	machine_destroy(&m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_round_trip),
		cmocka_unit_test(test_whole_memory),
		cmocka_unit_test(test_pagemap),
		cmocka_unit_test(test_builder_does_not_grow),
		cmocka_unit_test(test_empty_memory_is_small),
		cmocka_unit_test(test_refusals),
		cmocka_unit_test(test_append),
		cmocka_unit_test(test_write_errors),
		cmocka_unit_test(test_full_at_every_page),
		cmocka_unit_test(test_full_disk),
		cmocka_unit_test(test_other_machine),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
