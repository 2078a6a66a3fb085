#include "core/arch/x86/compat.h"
#include "core/arch/x86/cpuid.h"
#include "core/arch/x86/msr_name.h"
#include "core/kvm.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

struct report {
	arch_compat_fn *fn;
	void *arg;
};

static void PRINTF(2, 3) say(const struct report *r, const char *fmt, ...)
{
	char text[ARCH_COMPAT_TEXT];
	va_list ap;

	va_start(ap, fmt);
	(void)vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	r->fn(r->arg, text);
}

/* ---- the processor ---- */

/* SDM 2A, CPUID leaf 0: the maker's name in EBX, EDX, ECX. */
static bool vendor_of(
	const struct kvm_cpuid_entry2 *t, uint32_t n, char name[13])
{
	const struct kvm_cpuid_entry2 *e = cpuid_find(t, n, 0, 0);

	if (!e)
		return false;
	memcpy(name, &e->ebx, 4);
	memcpy(name + 4, &e->edx, 4);
	memcpy(name + 8, &e->ecx, 4);
	name[12] = '\0';
	for (char *c = name; *c; c++)
		*c = *c < ' ' || *c > '~' ? '?' : *c;
	return true;
}

static void check_vendor(const struct arch_compat *h,
	const struct kvm_cpuid_entry2 *want, uint32_t n, const struct report *r)
{
	char theirs[13], ours[13];

	if (vendor_of(want, n, theirs) &&
		vendor_of(h->cpuid, h->ncpuid, ours) &&
		strcmp(theirs, ours) != 0)
		say(r,
			"the guest was shown a processor of %s, this host has "
			"one of %s",
			theirs, ours);
}

struct line {
	char text[ARCH_COMPAT_TEXT - 80];
	size_t n;
};

/* Add a word, or "..." when there is no more room; false: the line is full. */
static bool add_word(struct line *l, const char *word)
{
	bool fits = l->n + strlen(word) + 6 <= sizeof(l->text);

	l->n += (size_t)snprintf(l->text + l->n, sizeof(l->text) - l->n, " %s",
		fits ? word : "...");
	return fits;
}

static bool add_features(struct line *l, const struct cpuid_lack *lack)
{
	char name[CPUID_NAME_MAX];
	bool room = true;

	for (unsigned bit = 0; bit < 32 && room; bit++) {
		if (lack->bits >> bit & 1)
			room = add_word(l, cpuid_name(lack, bit, name));
	}
	return room;
}

/* All missing features in one line: "avx2 sha_ni". */
static void check_features(const struct arch_compat *h,
	const struct kvm_cpuid_entry2 *want, uint32_t n, const struct report *r)
{
	struct cpuid_lack lack[32];
	unsigned count = cpuid_missing(
		want, n, h->cpuid, h->ncpuid, lack, ARRAY_SIZE(lack));
	struct line l = {.n = 0};
	bool room = true;

	for (unsigned i = 0; i < count && i < ARRAY_SIZE(lack) && room; i++)
		room = add_features(&l, &lack[i]);
	if (count)
		say(r, "the guest was shown features that this host lacks:%s",
			l.text);
}

static void check_vectors(const struct arch_compat *h,
	const struct vcpu_state *s, const struct report *r)
{
	if (h->xsave_size && s->xsave_len > h->xsave_size)
		say(r, "%u bytes of vector state, this host's KVM has %u",
			s->xsave_len, h->xsave_size);
}

/* ---- MSRs, time ---- */

static bool has_msr(const struct arch_compat *h, uint32_t index)
{
	for (uint32_t i = 0; i < h->nmsrs; i++) {
		if (h->msr[i] == index)
			return true;
	}
	return false;
}

/* An MSR of value 0 is one that nobody used. */
static void check_msrs(const struct arch_compat *h, const struct vcpu_state *s,
	const struct report *r)
{
	uint32_t n = (uint32_t)min_u64(
		s->msrs_len / sizeof(s->msrs[0]), VCPU_MAX_MSRS);
	char name[MSR_NAME_MAX];

	for (uint32_t i = 0; i < n; i++) {
		const struct kvm_msr_entry *m = &s->msrs[i];

		if (m->data && !has_msr(h, m->index))
			say(r, "MSR %s = 0x%llx is unknown to this host's KVM",
				msr_name(m->index, name),
				(unsigned long long)m->data);
	}
}

static void check_tsc(const struct arch_compat *h, const struct vcpu_state *s,
	const struct report *r)
{
	int64_t have = h->tsc_khz, want = s->tsc_khz;
	int64_t diff = have > want ? have - want : want - have;

	if (!have || !want || h->tsc_scaling ||
		diff * 1000000 <= have * VCPU_TSC_PPM)
		return;
	say(r,
		"the guest's TSC runs at %lld kHz, this host's at %lld kHz and "
		"cannot be scaled",
		(long long)want, (long long)have);
}

void compat_vcpu(const struct arch_compat *h, const struct vcpu_state *s,
	arch_compat_fn *fn, void *arg)
{
	const struct report r = {fn, arg};
	uint32_t n = (uint32_t)min_u64(
		s->cpuid_len / sizeof(s->cpuid[0]), VCPU_MAX_CPUID);

	check_vendor(h, s->cpuid, n, &r);
	check_features(h, s->cpuid, n, &r);
	check_vectors(h, s, &r);
	check_msrs(h, s, &r);
	check_tsc(h, s, &r);
}

void arch_compat_check(const struct arch_compat *h, const struct vcpu_state *s,
	uint32_t cpus, arch_compat_fn *fn, void *arg)
{
	const struct report r = {fn, arg};

	if (h->max_cpus && cpus > h->max_cpus)
		say(&r, "%u vCPUs, this host's KVM takes %u", cpus,
			h->max_cpus);
	compat_vcpu(h, s, fn, arg);
}

/* ---- this host ---- */

static int get_cpuid(struct arch_compat *h, int kvm_fd, struct err *e)
{
	struct {
		struct kvm_cpuid2 head;
		struct kvm_cpuid_entry2 entry[COMPAT_MAX_CPUID];
	} k = {.head.nent = COMPAT_MAX_CPUID};
	int r = kvm_ioctl(kvm_fd, KVM_GET_SUPPORTED_CPUID, &k);

	if (r < 0)
		return err_sys(e, r, "KVM_GET_SUPPORTED_CPUID");
	h->ncpuid = (uint32_t)min_u64(k.head.nent, COMPAT_MAX_CPUID);
	memcpy(h->cpuid, k.entry, h->ncpuid * sizeof(k.entry[0]));
	return 0;
}

static int get_msrs(struct arch_compat *h, int kvm_fd, struct err *e)
{
	AUTO_FREE struct arch_host *list = calloc(1, sizeof(*list));
	int r;

	if (!list)
		return err_set(e, -ENOMEM, "no memory");
	r = host_list_msrs(list, kvm_fd, true, e);
	if (r < 0)
		return r;
	h->nmsrs = list->nmsrs;
	memcpy(h->msr, list->msr, h->nmsrs * sizeof(h->msr[0]));
	return 0;
}

static uint32_t capability(int kvm_fd, unsigned long cap)
{
	int r = kvm_ioctl_val(kvm_fd, KVM_CHECK_EXTENSION, cap);

	return r > 0 ? (uint32_t)r : 0;
}

/* The rate is told by a VM (Linux 5.16). One is made, and thrown away, only
 * where the answer matters. */
static void get_tsc(struct arch_compat *h, int kvm_fd)
{
	AUTO_FD vm = -1;
	int r;

	h->tsc_scaling = capability(kvm_fd, KVM_CAP_TSC_CONTROL) != 0;
	if (h->tsc_scaling || !capability(kvm_fd, KVM_CAP_VM_TSC_CONTROL))
		return;
	vm = kvm_ioctl_val(kvm_fd, KVM_CREATE_VM, 0);
	if (vm < 0)
		return;
	r = kvm_ioctl_val(vm, KVM_GET_TSC_KHZ, 0);
	h->tsc_khz = r > 0 ? (uint32_t)r : 0;
}

int arch_compat_host(int kvm_fd, struct arch_compat **out, struct err *e)
{
	struct arch_compat *h = calloc(1, sizeof(*h));
	int r;

	*out = NULL;
	if (!h)
		return err_set(e, -ENOMEM, "no memory");
	r = get_cpuid(h, kvm_fd, e);
	if (!r)
		r = get_msrs(h, kvm_fd, e);
	if (r < 0) {
		free(h);
		return r;
	}
	h->max_cpus = capability(kvm_fd, KVM_CAP_MAX_VCPUS);
	h->xsave_size = capability(kvm_fd, KVM_CAP_XSAVE2);
	get_tsc(h, kvm_fd);
	*out = h;
	return 0;
}

/* ---- a machine on this host ---- */

struct differences {
	char text[400];
	size_t n;
};

static void collect(void *arg, const char *text)
{
	struct differences *d = arg;
	int r;

	if (d->n >= sizeof(d->text))
		return;
	r = snprintf(d->text + d->n, sizeof(d->text) - d->n, "%s%s",
		d->n ? "; " : "", text);
	d->n += r > 0 ? (size_t)r : 0;
}

int arch_compat_machine(const struct machine *m, int kvm_fd, struct err *e)
{
	AUTO_FREE struct arch_compat *h = NULL;
	struct differences d = {.n = 0};
	int r = 0;

	/* a cold boot makes its CPUID for this host */
	if (!m->ncpus || !m->cpu[0]->s->cpuid_len)
		return 0;
	r = arch_compat_host(kvm_fd, &h, e);
	if (!h)
		return r < 0 ? r : -EIO;
	arch_compat_check(h, m->cpu[0]->s, m->ncpus, collect, &d);
	if (!d.n)
		return 0;
	return err_set(e, -ENOEXEC,
		"not for this host: %s; restore it on a host like the one it "
		"was made on",
		d.text);
}
