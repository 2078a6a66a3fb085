/* What thaw doctor looks at besides KVM: memory, limits, kernel features. */
#include "api/cli/doctor.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <linux/userfaultfd.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/utsname.h>

static void check_host(const struct doctor *d, struct finding *f)
{
	struct utsname u;
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);

	(void)d;
	if (uname(&u)) {
		finding_set(f, DOCTOR_WARN, NULL, "uname: %s", strerror(errno));
		return;
	}
	finding_set(f, cpus >= 2 ? DOCTOR_OK : DOCTOR_HINT,
		cpus >= 2 ? NULL : "one CPU runs guests and daemon in turns",
		"%s %s, %s, %ld CPUs", u.sysname, u.release, u.machine, cpus);
}

static uint64_t meminfo_kib(const char *key)
{
	FILE *f = fopen("/proc/meminfo", "re");
	unsigned long long v = 0;
	size_t n = strlen(key);
	char line[128];

	while (f && fgets(line, sizeof(line), f)) {
		if (strncmp(line, key, n) == 0 && line[n] == ':')
			(void)sscanf(line + n + 1, "%llu", &v);
	}
	if (f)
		(void)fclose(f);
	return v;
}

static void check_memory(const struct doctor *d, struct finding *f)
{
	uint64_t total = meminfo_kib("MemTotal") / 1024;
	uint64_t avail = meminfo_kib("MemAvailable") / 1024;

	(void)d;
	finding_set(f, avail < 1024 ? DOCTOR_HINT : DOCTOR_OK,
		avail < 1024 ? "a clone takes 1 to 2 MiB, and thawd refuses "
			       "new ones when memory runs low"
			     : NULL,
		"%llu MiB of %llu MiB available", (unsigned long long)avail,
		(unsigned long long)total);
}

static void check_overcommit(const struct doctor *d, struct finding *f)
{
	char line[32];

	(void)d;
	if (doctor_read_line(
		    "/proc/sys/vm/overcommit_memory", line, sizeof(line)) &&
		strcmp(line, "2") == 0)
		finding_set(f, DOCTOR_WARN,
			"set vm.overcommit_memory to 0 or 1: clones map their "
			"template's memory and use little of it",
			"strict: every clone counts with its full memory");
	else
		finding_set(f, DOCTOR_OK, NULL, "not strict");
}

static void check_uffd(const struct doctor *d, struct finding *f)
{
	int fd = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
	const char *how = "/dev/userfaultfd";

	(void)d;
	if (fd >= 0) {
		int u = ioctl(fd, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);

		(void)close(fd);
		fd = u;
	} else {
		how = "the system call";
		fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	}
	if (fd < 0) {
		finding_set(f, DOCTOR_HINT,
			"allow /dev/userfaultfd, or set "
			"vm.unprivileged_userfaultfd=1; only starting from "
			"incomplete memory needs it",
			"not usable: %s", strerror(errno));
		return;
	}
	(void)close(fd);
	finding_set(f, DOCTOR_OK, NULL, "usable through %s", how);
}

static void check_uring(const struct doctor *d, struct finding *f)
{
	struct io_uring_params p;
	int fd;

	(void)d;
	memset(&p, 0, sizeof(p));
	fd = (int)syscall(SYS_io_uring_setup, 4, &p);
	if (fd < 0) {
		finding_set(f, DOCTOR_HINT,
			"set kernel.io_uring_disabled=0 (or 1 with thaw's user "
			"in kernel.io_uring_group); disks fall back to slower "
			"calls without it",
			"not usable: %s", strerror(errno));
		return;
	}
	(void)close(fd);
	finding_set(f, DOCTOR_OK, NULL, "usable");
}

/* A clone costs the daemon a handful of descriptors. */
static void check_nofile(const struct doctor *d, struct finding *f)
{
	struct rlimit r;

	(void)d;
	if (getrlimit(RLIMIT_NOFILE, &r)) {
		finding_set(f, DOCTOR_WARN, NULL, "%s", strerror(errno));
		return;
	}
	finding_set(f, r.rlim_max < 8192 ? DOCTOR_HINT : DOCTOR_OK,
		r.rlim_max < 8192 ? "raise the hard limit (ulimit -Hn): 1,000 "
				    "clones need a few thousand descriptors"
				  : NULL,
		"%llu, hard limit %llu", (unsigned long long)r.rlim_cur,
		(unsigned long long)r.rlim_max);
}

static uint64_t read_u64(const char *path)
{
	char line[64];

	if (!doctor_read_line(path, line, sizeof(line)))
		return UINT64_MAX;
	if (strcmp(line, "max") == 0)
		return UINT64_MAX;
	return strtoull(line, NULL, 10);
}

/* Own pids limit of the cgroup (version 2, or 1 under its usual mount). */
static uint64_t cgroup_pids_max(void)
{
	FILE *f = fopen("/proc/self/cgroup", "re");
	uint64_t best = UINT64_MAX;
	char line[512], path[700];

	while (f && fgets(line, sizeof(line), f)) {
		char *dir = strrchr(line, ':');

		line[strcspn(line, "\n")] = 0;
		if (!dir)
			continue;
		if (strncmp(line, "0::", 3) == 0)
			(void)snprintf(path, sizeof(path),
				"/sys/fs/cgroup%s/pids.max", dir + 1);
		else if (strstr(line, ":pids:"))
			(void)snprintf(path, sizeof(path),
				"/sys/fs/cgroup/pids%s/pids.max", dir + 1);
		else
			continue;
		best = min_u64(best, read_u64(path));
	}
	if (f)
		(void)fclose(f);
	return best;
}

/* A clone is one process with at least two threads. */
static void check_tasks(const struct doctor *d, struct finding *f)
{
	uint64_t most = min_u64(read_u64("/proc/sys/kernel/threads-max"),
		read_u64("/proc/sys/kernel/pid_max"));
	struct rlimit r;

	(void)d;
	if (getrlimit(RLIMIT_NPROC, &r) == 0 && geteuid() != 0)
		most = min_u64(most, r.rlim_cur);
	most = min_u64(most, cgroup_pids_max());
	finding_set(f, most < 4096 ? DOCTOR_HINT : DOCTOR_OK,
		most < 4096 ? "raise it (ulimit -u, kernel.pid_max, the "
			      "cgroup's pids.max): a clone takes two or three"
			    : NULL,
		"at most %llu", (unsigned long long)most);
}

/* On hardware KVM the NX-recovery thread that KVM_CREATE_VM starts moves
 * between cgroups, and that waits for grace periods. */
static void check_cgroup(const struct doctor *d, struct finding *f)
{
	FILE *m = fopen("/proc/self/mounts", "re");
	bool favor = false, v2 = false, hw;
	char line[1024], nx[32];

	while (m && fgets(line, sizeof(line), m)) {
		v2 |= strstr(line, " cgroup2 ") != NULL;
		favor |= strstr(line, "favordynmods") != NULL;
	}
	if (m)
		(void)fclose(m);
	hw = d->kvm.kind == KVM_KIND_VMX || d->kvm.kind == KVM_KIND_SVM;
	if (!hw || favor) {
		finding_set(f, DOCTOR_OK, NULL, "%s, nothing that slows KVM",
			v2 ? "version 2" : "version 1 or none");
		return;
	}
	if (doctor_read_line("/sys/module/kvm/parameters/nx_huge_pages", nx,
		    sizeof(nx)) &&
		(strcmp(nx, "never") == 0 || strcmp(nx, "N") == 0)) {
		finding_set(f, DOCTOR_OK, NULL,
			"no NX-recovery threads (nx_huge_pages=%s)", nx);
		return;
	}
	finding_set(f, DOCTOR_HINT,
		"mount cgroup2 with favordynmods, or load kvm with "
		"nx_huge_pages=never where guests are trusted",
		"creating a VM may take 20 ms and more here");
}

const struct check doctor_host_checks[] = {
	{"host", check_host},
	{"memory", check_memory},
	{"overcommit", check_overcommit},
	{"userfaultfd", check_uffd},
	{"io_uring", check_uring},
	{"descriptors", check_nofile},
	{"processes", check_tasks},
	{"cgroups", check_cgroup},
};
const size_t doctor_host_nchecks = ARRAY_SIZE(doctor_host_checks);
