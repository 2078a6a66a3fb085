#include "core/kvm.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>

const struct kvm_cap kvm_caps[] = {
	{"USER_MEMORY", KVM_CAP_USER_MEMORY, true, "guest memory"},
	{"DESTROY_MEMORY_REGION_WORKS", KVM_CAP_DESTROY_MEMORY_REGION_WORKS,
		true, "guest memory"},
	{"IRQFD", KVM_CAP_IRQFD, true, "device interrupts"},
	{"IOEVENTFD", KVM_CAP_IOEVENTFD, true, "queue notifications"},
	{"MP_STATE", KVM_CAP_MP_STATE, true, "saving a halted vCPU"},
	{"IMMEDIATE_EXIT", KVM_CAP_IMMEDIATE_EXIT, true,
		"pausing (Linux 4.13)"},
	{"SYNC_MMU", KVM_CAP_SYNC_MMU, true,
		"clones share and fault in memory"},
	{"MANUAL_DIRTY_LOG_PROTECT2", KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, false,
		"cheaper diff snapshots"},
	{"DIRTY_LOG_RING", KVM_CAP_DIRTY_LOG_RING, false,
		"cheaper diff snapshots"},
	{NULL, 0, false, NULL},
};

static const char *const kind_names[] = {
	[KVM_KIND_NONE] = "none",
	[KVM_KIND_VMX] = "hardware (VT-x)",
	[KVM_KIND_SVM] = "hardware (SVM)",
	[KVM_KIND_SOFTWARE] = "software (kvm-pvm)",
	[KVM_KIND_UNKNOWN] = "unknown",
};
_Static_assert(ARRAY_SIZE(kind_names) == KVM_NKINDS_, "one name per kind");

const char *kvm_kind_name(enum kvm_kind k)
{
	return (unsigned)k < KVM_NKINDS_ ? kind_names[k] : "unknown";
}

int kvm_ioctl(int fd, unsigned long req, void *arg)
{
	int r;

	do
		r = ioctl(fd, req, arg);
	while (r < 0 && errno == EINTR);
	return r < 0 ? -errno : r;
}

int kvm_ioctl_val(int fd, unsigned long req, unsigned long val)
{
	int r;

	do
		r = ioctl(fd, req, val);
	while (r < 0 && errno == EINTR);
	return r < 0 ? -errno : r;
}

/* Is this word among the processor's flags? */
static bool cpu_has(const char *flag)
{
	FILE *f = fopen("/proc/cpuinfo", "re");
	char line[8192];
	bool found = false;
	char *word, *save;

	if (!f)
		return false;
	while (!found && fgets(line, sizeof(line), f)) {
		if (strncmp(line, "flags", 5) != 0)
			continue;
		word = strtok_r(line, " \t\n", &save);
		while (word && !found) {
			found = strcmp(word, flag) == 0;
			word = strtok_r(NULL, " \t\n", &save);
		}
		break; /* all processors are alike */
	}
	(void)fclose(f);
	return found;
}

/* The processor's flags come first: a loaded kvm_intel without VT-x serves
 * nobody, and kvm_pvm serves although SVM may be there. */
static enum kvm_kind host_kind(void)
{
	if (access("/sys/module/kvm", F_OK) && access("/dev/kvm", F_OK))
		return KVM_KIND_NONE;
	if (!access("/sys/module/kvm_pvm", F_OK))
		return KVM_KIND_SOFTWARE;
	if (cpu_has("vmx"))
		return KVM_KIND_VMX;
	if (cpu_has("svm"))
		return KVM_KIND_SVM;
	return access("/dev/kvm", F_OK) ? KVM_KIND_NONE : KVM_KIND_UNKNOWN;
}

static int open_device(const char *path, struct err *e)
{
	int fd = open(path, O_RDWR | O_CLOEXEC);
	int code = -errno;

	if (fd >= 0)
		return fd;
	if (code == -ENOENT)
		return err_set(e, code,
			"%s does not exist: load kvm_intel or kvm_amd (turn on "
			"virtualization in the firmware), or give this host "
			"nested virtualization",
			path);
	if (code == -EACCES || code == -EPERM)
		return err_set(e, -EACCES,
			"no permission on %s: run as root, or add the user to "
			"its group (usually: usermod -aG kvm USER)",
			path);
	if (code == -ENODEV || code == -ENXIO)
		return err_set(e, -ENOENT,
			"%s has no driver behind it: load kvm_intel or kvm_amd",
			path);
	return err_sys(e, code, "open %s", path);
}

static void probe_caps(struct kvm_host *h, const struct kvm_cap *c)
{
	int v;

	for (; c->name && h->ncaps < KVM_HOST_MAX_CAPS; c++) {
		v = kvm_ioctl_val(h->fd, KVM_CHECK_EXTENSION, c->cap);
		if (v < 0)
			v = 0;
		h->caps[h->ncaps].cap = c;
		h->caps[h->ncaps].value = v;
		h->ncaps++;
		if (!v && c->required && !h->missing)
			h->missing = c;
	}
}

int kvm_open(const char *path, struct kvm_host *h, struct err *e)
{
	int v;

	memset(h, 0, sizeof(*h));
	h->kind = host_kind();
	h->fd = open_device(path, e);
	if (h->fd < 0)
		return h->fd;
	h->api = kvm_ioctl_val(h->fd, KVM_GET_API_VERSION, 0);
	if (h->api != KVM_STABLE_API) {
		kvm_close(h);
		return err_set(e, -EOPNOTSUPP,
			"%s is not KVM: API version %d, %d expected", path,
			h->api, KVM_STABLE_API);
	}
	probe_caps(h, kvm_caps);
	probe_caps(h, arch_kvm_caps);
	v = kvm_ioctl_val(h->fd, KVM_CHECK_EXTENSION, KVM_CAP_MAX_VCPUS);
	h->max_cpus = v > 0 ? (uint32_t)v : 1;
	if (h->missing) {
		kvm_close(h);
		return err_set(e, -EOPNOTSUPP,
			"this kernel's KVM lacks KVM_CAP_%s (%s): use a newer "
			"kernel",
			h->missing->name, h->missing->why);
	}
	return 0;
}

void kvm_close(struct kvm_host *h)
{
	if (h->fd >= 0)
		(void)close(h->fd);
	h->fd = -1;
}
