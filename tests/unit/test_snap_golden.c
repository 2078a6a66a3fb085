/*
 * Every format version ever released stays readable: tests/golden/ holds a
 * file of each, FORMAT.thaw, and here all are read. A change that makes one
 * unreadable is a mistake in the change, not in the file.
 *
 * "test_snap_golden --write FILE" makes the file of a new version.
 */
#include "tests/unit/test.h"
#include "tests/unit/snap_fake.h"
#include "core/vcpu.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#define GOLDEN "tests/golden"

static void make(struct machine *m)
{
	fake_machine_1_0(m, 4 * MIB);
	fake_page(m, 0x1000);
	fake_page(m, 0x3000);
	fake_page(m, 0x104000);
}

static void check_file(int dirfd_, const char *name)
{
	struct machine want, got;
	struct machine_config cfg;
	struct snap_verified v;
	struct err e = {0};
	struct snap *s = NULL;
	int fd = openat(dirfd_, name, O_RDONLY | O_CLOEXEC);

	assert_true(fd >= 0);
	if (snap_verify_fd(fd, &v, NULL, NULL, &e) || snap_open(fd, &s, &e) ||
		snap_read_config(s, &cfg, &e))
		fail_msg("%s: %s", name, e.msg);
	fake_empty(&got, &cfg);
	if (snap_load_state(s, &got, &e) ||
		mem_create(&got.mem, cfg.memory, MEM_PRIVATE, -1, &e) ||
		snap_load_memory(s, &got.mem, 1, &e))
		fail_msg("%s: %s", name, e.msg);
	make(&want);
	/* what devices save at power-on may change, what was set here may not
	 */
	assert_true(fake_same(&machine_config_desc, &want.cfg, &got.cfg));
	assert_true(fake_same(&machine_state_desc, &want.saved, &got.saved));
	for (unsigned i = 0; i < want.ncpus; i++)
		assert_true(fake_same(
			&vcpu_state_desc, want.cpu[i]->s, got.cpu[i]->s));
	assert_true(fake_same_memory(&want, &got));
	machine_destroy(&want);
	machine_destroy(&got);
	snap_close(s);
	close(fd);
}

static void test_all(void **state)
{
	DIR *d = opendir(GOLDEN);
	const struct dirent *x;
	unsigned n = 0;

	(void)state;
	if (!d) {
		print_message("skipped: no %s here\n", GOLDEN);
		skip();
	}
	while (d && (x = readdir(d))) {
		if (!strstr(x->d_name, ".thaw"))
			continue;
		check_file(dirfd(d), x->d_name);
		n++;
	}
	if (d)
		closedir(d);
	assert_true(n > 0);
}

static int write_golden(const char *path)
{
	struct snap_write_opts o = {.labels_json = "{\"golden\": \"1.0\"}"};
	struct snap_written w;
	struct err e = {0};
	struct machine m;
	int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644);

	make(&m);
	if (fd < 0 || snap_write(&m, fd, &o, &w, &e)) {
		(void)fprintf(stderr, "%s: %s\n", path,
			fd < 0 ? strerror(errno) : e.msg);
		return 1;
	}
	machine_destroy(&m);
	return close(fd) ? 1 : 0;
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_all),
	};

	if (argc == 3 && !strcmp(argv[1], "--write"))
		return write_golden(argv[2]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
