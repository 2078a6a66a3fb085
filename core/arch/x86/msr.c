/*
 * MSRs: which ones are saved, and reading and writing them in bulk.
 *
 * Saved is what KVM itself lists as guest state (KVM_GET_MSR_INDEX_LIST) plus
 * the memory type registers, which it does not list everywhere, without those
 * that travel elsewhere. An MSR that is 0 after reset and still is 0 is left
 * out: the vCPU that will get the state is new.
 */
#include "core/arch.h"
#include "core/arch/x86/host.h"
#include "core/arch/x86/vcpu_state.h"
#include "core/dirty.h"
#include "core/kvm.h"

#include <errno.h>
#include <string.h>

#define MAX_LIST 1024
/* SDM 3B 16.3.2: CTL, STATUS, ADDR, MISC of each; KVM gives 32 banks
 * (KVM_MAX_MCE_BANKS). */
#define MSR_MCE_FIRST 0x400
#define MCE_BANKS     32
/* KVM takes up to 255 at once (MAX_IO_MSRS in arch/x86/kvm/x86.c). */
#define CHUNK 128

/* clang-format off */
static bool saved_elsewhere(uint32_t index)
{
	switch (index) {
	case MSR_EFER: case MSR_APIC_BASE: case MSR_FS_BASE: case MSR_GS_BASE:
		return true; /* sregs */
	case MSR_TSC: case MSR_TSC_DEADLINE:
		return true; /* vcpu_time.c: they need an order of their own */
	case 0x11: case 0x12:
		return true; /* old names of the two kvm-clock MSRs */
	default:
		/* x2APIC registers are the local APIC's page; Hyper-V's belong
		 * to leaves that no guest is shown, and setting one makes KVM
		 * keep all of Hyper-V's state for the vCPU */
		return (index >= 0x800 && index <= 0x8ff) ||
		       (index >= 0x40000000 && index <= 0x400001ff);
	}
}

static bool zero_after_reset(uint32_t index)
{
	switch (index) {
	case 0x48:                        /* SPEC_CTRL */
	case 0x140:                       /* MISC_FEATURES_ENABLES */
	case 0x174: case 0x175: case 0x176: /* SYSENTER_* */
	case 0x17a:                       /* MCG_STATUS */
	case 0x1d9: case 0x1db: case 0x1dc: case 0x1dd: case 0x1de: /* debug */
	case 0xda0:                       /* XSS */
	case 0xc0000081: case 0xc0000082: case 0xc0000083: case 0xc0000084:
	case 0xc0000102:                  /* KERNEL_GS_BASE */
	case 0xc0000103:                  /* TSC_AUX */
	case 0xc0010117:                  /* VM_HSAVE_PA */
	case 0x4b564d00: case 0x4b564d01: case 0x4b564d02: /* kvm: clock, */
	case 0x4b564d03: case 0x4b564d04: /* async page fault, steal time, EOI */
	case 0x4b564d06: case 0x4b564d07:
		return true;
	default: /* memory types: ranges, fixed ranges, default; banks */
		return (index >= 0x200 && index <= 0x2ff && index != MSR_PAT) ||
		       (index >= MSR_MCE_FIRST &&
			       index < MSR_MCE_FIRST + MCE_BANKS * 4);
	}
}
/* clang-format on */

static void list_add(struct arch_host *h, uint32_t index)
{
	if (h->nmsrs == HOST_MAX_MSRS || saved_elsewhere(index))
		return;
	for (uint32_t i = 0; i < h->nmsrs; i++) {
		if (h->msr[i] == index)
			return;
	}
	h->msr[h->nmsrs++] = index;
}

int host_list_msrs(struct arch_host *h, int kvm_fd, bool mce, struct err *e)
{
	static const uint32_t fixed[] = {0x250, 0x258, 0x259};
	struct {
		struct kvm_msr_list head;
		uint32_t index[MAX_LIST];
	} k = {.head.nmsrs = MAX_LIST};
	int r = kvm_ioctl(kvm_fd, KVM_GET_MSR_INDEX_LIST, &k);

	if (r < 0)
		return err_sys(e, r, "KVM_GET_MSR_INDEX_LIST");
	h->nmsrs = 0;
	for (uint32_t i = 0; i < k.head.nmsrs && i < MAX_LIST; i++)
		list_add(h, k.index[i]);
	/* Memory types: variable ranges, fixed ranges, default (SDM 4). */
	for (uint32_t i = 0x200; i < 0x210; i++)
		list_add(h, i);
	for (uint32_t i = 0; i < ARRAY_SIZE(fixed); i++)
		list_add(h, fixed[i]);
	for (uint32_t i = 0x268; i < 0x270; i++)
		list_add(h, i);
	list_add(h, MSR_MTRR_DEF_TYPE);
	for (uint32_t i = 0; mce && i < MCE_BANKS * 4; i++)
		list_add(h, MSR_MCE_FIRST + i);
	return 0;
}

struct chunk {
	struct kvm_msrs head;
	struct kvm_msr_entry entry[CHUNK];
};

static int keep(struct vcpu_state *s, const struct kvm_msr_entry *e)
{
	uint32_t n = s->msrs_len / (uint32_t)sizeof(*e);

	if (e->index == MSR_TSC) {
		s->tsc = e->data;
		return 0;
	}
	if (!e->data && zero_after_reset(e->index))
		return 0;
	if (n == VCPU_MAX_MSRS)
		return -ENOSPC;
	s->msrs[n].index = e->index;
	s->msrs[n].reserved = 0;
	s->msrs[n].data = e->data;
	s->msrs_len += (uint32_t)sizeof(*e);
	return 0;
}

/* The TSC is read with the others, last, to save a call. */
int vcpu_msrs_get(struct vcpu *v, struct err *e)
{
	const struct arch_host *host = v->m->host;
	struct vcpu_state *s = v->s;
	uint32_t total = host->nmsrs + 1;
	struct chunk c;
	int r;

	s->msrs_len = 0;
	for (uint32_t at = 0; at < total;) {
		uint32_t n = (uint32_t)min_u64(CHUNK, total - at);

		memset(&c, 0, sizeof(c.head) + n * sizeof(c.entry[0]));
		c.head.nmsrs = n;
		for (uint32_t i = 0; i < n; i++)
			c.entry[i].index = at + i < host->nmsrs
						   ? host->msr[at + i]
						   : MSR_TSC;
		r = kvm_ioctl(v->fd, KVM_GET_MSRS, &c);
		if (r < 0)
			return err_sys(e, r, "vCPU %u: KVM_GET_MSRS", v->id);
		for (int i = 0; i < r; i++) {
			if (keep(s, &c.entry[i]) < 0)
				return err_set(e, -ENOSPC,
					"vCPU %u: more than %d MSRs", v->id,
					VCPU_MAX_MSRS);
		}
		/* KVM stops at one it cannot read: there is nothing to save. */
		at += (uint32_t)r + ((uint32_t)r < n);
	}
	return 0;
}

/* KVM refused this one. Harmless when it has the value already. */
static int refused(
	struct vcpu *v, const struct kvm_msr_entry *want, struct err *e)
{
	uint64_t have = 0;
	int r = vcpu_msr_get(v, want->index, &have);

	if (!r && have == want->data)
		return 0;
	return err_set(e, -EOPNOTSUPP,
		"vCPU %u: this host does not take MSR 0x%x = 0x%llx", v->id,
		want->index, (unsigned long long)want->data);
}

/* Entry i of those to write: what was saved, then the TSC if there is one. */
static struct kvm_msr_entry to_write(const struct vcpu_state *s, uint32_t i)
{
	if (i < s->msrs_len / sizeof(s->msrs[0]))
		return s->msrs[i];
	return (struct kvm_msr_entry){.index = MSR_TSC, .data = s->tsc};
}

int vcpu_msrs_set(struct vcpu *v, struct err *e)
{
	const struct vcpu_state *s = v->s;
	uint32_t total =
		s->msrs_len / (uint32_t)sizeof(s->msrs[0]) + (s->tsc != 0);
	struct chunk c;
	int r;

	for (uint32_t at = 0; at < total;) {
		uint32_t n = (uint32_t)min_u64(CHUNK, total - at);

		c.head.nmsrs = n;
		c.head.pad = 0;
		for (uint32_t i = 0; i < n; i++)
			c.entry[i] = to_write(s, at + i);
		r = kvm_ioctl(v->fd, KVM_SET_MSRS, &c);
		if (r < 0)
			return err_sys(e, r, "vCPU %u: KVM_SET_MSRS", v->id);
		at += (uint32_t)r;
		if ((uint32_t)r == n)
			continue;
		r = refused(v, &c.entry[r], e);
		if (r < 0)
			return r;
		at++;
	}
	return 0;
}

/* All five structures are at most 64 bytes long, at an address whose low bits
 * are flags; one that crosses into the next page is marked there, too. */
void arch_dirty_kvm(const struct machine *m)
{
	for (unsigned i = 0; i < m->ncpus; i++) {
		const struct vcpu_state *s = m->cpu[i]->s;
		uint32_t n = s->msrs_len / (uint32_t)sizeof(s->msrs[0]);

		for (uint32_t k = 0; k < n; k++) {
			gpa_t at = s->msrs[k].data & ~3ULL;

			if (s->msrs[k].index < MSR_KVM_WALL_CLOCK ||
				s->msrs[k].index > MSR_KVM_PV_EOI)
				continue;
			/* An address outside memory is the guest's affair. */
			(void)!mem_at(&m->mem, at, 1, MEM_WRITE);
			(void)!mem_at(&m->mem, at + 63, 1, MEM_WRITE);
		}
	}
}
