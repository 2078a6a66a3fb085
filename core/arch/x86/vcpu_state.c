/*
 * A vCPU's state: the table of what KVM holds, and in which order it is read
 * and written.
 *
 * How it works
 *
 * rows[] stands in the order of writing; save_order[] is the order of reading.
 * Both matter, because these calls have side effects on each other:
 *
 *   writing                       because
 *   cpuid      first              everything later is checked against it
 *   tsc_khz                       the TSC and its deadline are scaled by it
 *   mp_state, regs before events  KVM_SET_REGS drops a pending exception
 *   sregs before lapic            brings the APIC base: which mode the local
 *                                 APIC is in decides how its page is read
 *   xsave, xcrs, debugregs        independent; not KVM_SET_FPU, which a new
 *                                 vCPU forgets
 *   msrs                          with the TSC as the last of them
 *   deadline after lapic and msrs it counts only in deadline mode, and is
 *                                 relative to the TSC (vcpu_time.c)
 *   events     last               nothing may disturb what is pending
 *
 *   reading
 *   mp_state   first              KVM takes in pending INIT and SIPI here,
 *                                 which changes registers and the local APIC
 *   lapic before deadline         says whether there is a deadline
 *   events     last               reading others can change what is pending
 *
 * A vCPU is written exactly once, just after it was created, and each call
 * costs 6-10 us where KVM is software. So a row is left out when it holds what
 * such a vCPU has anyhow (fresh()); and regs, sregs and events are left to the
 * first KVM_RUN (kvm_run.s.regs), which takes them in that same order, when the
 * host is known to accept them (arch_host_try()) and the APIC base is the usual
 * one, so that nothing else depends on them.
 */
#include "core/arch.h"
#include "core/arch/x86/cpuid.h"
#include "core/arch/x86/host.h"
#include "core/arch/x86/vcpu_state.h"
#include "core/kvm.h"

#include <errno.h>
#include <string.h>

struct row {
	const char *name;
	/* Plain rows: two ioctls and where the struct is. */
	unsigned long get_req, set_req;
	size_t offset;
	/* Others. */
	int (*get)(struct vcpu *v, struct err *e);
	int (*set)(struct vcpu *v, struct err *e);
	/* Does a vCPU just created hold this already? */
	bool (*fresh)(const struct vcpu *v);
};

static int set_cpuid(struct vcpu *v, struct err *e)
{
	struct vcpu_state *s = v->s;
	struct {
		struct kvm_cpuid2 head;
		struct kvm_cpuid_entry2 entry[VCPU_MAX_CPUID];
	} c;
	int r;

	if (!s->cpuid_len) {
		r = cpuid_make(v, e);
		if (r < 0)
			return r;
	}
	memset(&c.head, 0, sizeof(c.head));
	c.head.nent = s->cpuid_len / (uint32_t)sizeof(s->cpuid[0]);
	memcpy(c.entry, s->cpuid, s->cpuid_len);
	r = kvm_ioctl(v->fd, KVM_SET_CPUID2, &c);
	return r < 0 ? err_sys(e, r, "vCPU %u: KVM_SET_CPUID2", v->id) : 0;
}

static int get_tsc_khz(struct vcpu *v, struct err *e)
{
	int khz = kvm_ioctl_val(v->fd, KVM_GET_TSC_KHZ, 0);

	(void)e; /* a host that cannot say cannot scale either */
	v->s->tsc_khz = khz > 0 ? (uint32_t)khz : 0;
	return 0;
}

/* Scaling where it is not needed is refused by some processors and slow on
 * others. */
static int set_tsc_khz(struct vcpu *v, struct err *e)
{
	uint32_t want = v->s->tsc_khz;
	int64_t have, diff;
	int r;

	if (v->m->host->tried && v->m->host->tsc_same)
		return 0;
	have = kvm_ioctl_val(v->fd, KVM_GET_TSC_KHZ, 0);
	if (have <= 0)
		return 0;
	if (!want)
		v->s->tsc_khz = want = (uint32_t)have;
	diff = have > want ? have - want : want - have;
	if (diff * 1000000 <= have * VCPU_TSC_PPM) {
		v->m->host->tsc_same = true;
		return 0;
	}
	v->m->host->tsc_same = false;
	r = kvm_ioctl_val(v->fd, KVM_SET_TSC_KHZ, want);
	if (r < 0)
		return err_sys(e, r,
			"vCPU %u: the guest's TSC runs at %u kHz, this host's "
			"at %lld and cannot be scaled",
			v->id, want, (long long)have);
	return 0;
}

static int get_mp_state(struct vcpu *v, struct err *e)
{
	struct kvm_mp_state mp = {0};
	int r = kvm_ioctl(v->fd, KVM_GET_MP_STATE, &mp);

	if (r < 0)
		return err_sys(e, r, "vCPU %u: KVM_GET_MP_STATE", v->id);
	v->s->mp_state = mp.mp_state;
	return 0;
}

static int set_mp_state(struct vcpu *v, struct err *e)
{
	struct kvm_mp_state mp = {.mp_state = v->s->mp_state};
	int r = kvm_ioctl(v->fd, KVM_SET_MP_STATE, &mp);

	return r < 0 ? err_sys(e, r, "vCPU %u: KVM_SET_MP_STATE", v->id) : 0;
}

static bool fresh_mp_state(const struct vcpu *v)
{
	return v->s->mp_state ==
	       (v->id ? KVM_MP_STATE_UNINITIALIZED : KVM_MP_STATE_RUNNABLE);
}

static int get_xsave(struct vcpu *v, struct err *e)
{
	int size =
		kvm_ioctl_val(v->m->vm_fd, KVM_CHECK_EXTENSION, KVM_CAP_XSAVE2);
	unsigned long req = KVM_GET_XSAVE2;
	int r;

	if (size > VCPU_XSAVE_MAX)
		return err_set(e, -EOPNOTSUPP,
			"vCPU %u: %d bytes of vector state; thaw saves up to "
			"%d",
			v->id, size, VCPU_XSAVE_MAX);
	if (size < VCPU_XSAVE_MIN) {
		size = VCPU_XSAVE_MIN;
		req = KVM_GET_XSAVE;
	}
	r = kvm_ioctl(v->fd, req, v->s->xsave);
	if (r < 0)
		return err_sys(e, r, "vCPU %u: KVM_GET_XSAVE", v->id);
	v->s->xsave_len = (uint32_t)size;
	return 0;
}

/* There is no KVM_SET_XSAVE2: the kernel reads as much as this host has, which
 * is at most our capacity; what the saved state lacks is zero. */
static int set_xsave(struct vcpu *v, struct err *e)
{
	int r = kvm_ioctl(v->fd, KVM_SET_XSAVE, v->s->xsave);

	return r < 0 ? err_sys(e, r,
			       "vCPU %u: KVM_SET_XSAVE (does this host have "
			       "the "
			       "vector extensions of the saved one?)",
			       v->id)
		     : 0;
}

static bool fresh_xsave(const struct vcpu *v)
{
	return !v->s->xsave_len;
}

static bool fresh_xcrs(const struct vcpu *v)
{
	const struct kvm_xcrs *x = &v->s->xcrs;

	return !x->nr_xcrs || (x->nr_xcrs == 1 && x->xcrs[0].xcr == 0 &&
				      x->xcrs[0].value == 1);
}

/* SDM 3A table 9-1 */
#define DR6_RESET 0xffff0ff0
#define DR7_RESET 0x400

static bool fresh_debugregs(const struct vcpu *v)
{
	const struct kvm_debugregs *d = &v->s->debugregs;

	return !(d->db[0] | d->db[1] | d->db[2] | d->db[3]) &&
	       d->dr6 == DR6_RESET && d->dr7 == DR7_RESET;
}

static bool fresh_lapic(const struct vcpu *v)
{
	struct kvm_lapic_state reset;

	vcpu_lapic_reset(&reset, v->id);
	/* The version is KVM's to say, whatever is written. */
	lapic_write(&reset, LAPIC_VER, lapic_read(&v->s->lapic, LAPIC_VER));
	return !memcmp(&reset, &v->s->lapic, sizeof(reset));
}

static bool fresh_events(const struct vcpu *v)
{
	struct kvm_vcpu_events ev = v->s->events, none = {0};

	ev.flags = 0; /* says which members are meant */
	return !memcmp(&ev, &none, sizeof(ev));
}

enum {
	ROW_CPUID,
	ROW_TSC_KHZ,
	ROW_MP_STATE,
	ROW_REGS,
	ROW_SREGS,
	ROW_XSAVE,
	ROW_XCRS,
	ROW_DEBUGREGS,
	ROW_LAPIC,
	ROW_MSRS,
	ROW_DEADLINE,
	ROW_EVENTS,
	NROWS_
};

/* clang-format off */
#define PLAIN(g, s, member) \
	.get_req = (g), .set_req = (s), \
	.offset = offsetof(struct vcpu_state, member)

static const struct row rows[NROWS_] = {
	[ROW_CPUID] = { "cpuid", .set = set_cpuid },
	[ROW_TSC_KHZ] = { "tsc_khz", .get = get_tsc_khz, .set = set_tsc_khz },
	[ROW_MP_STATE] = { "mp_state", .get = get_mp_state,
		.set = set_mp_state, .fresh = fresh_mp_state },
	[ROW_REGS] = { "regs", PLAIN(KVM_GET_REGS, KVM_SET_REGS, regs) },
	[ROW_SREGS] = { "sregs", PLAIN(KVM_GET_SREGS, KVM_SET_SREGS, sregs) },
	[ROW_XSAVE] = { "xsave", .get = get_xsave, .set = set_xsave,
		.fresh = fresh_xsave },
	[ROW_XCRS] = { "xcrs", PLAIN(KVM_GET_XCRS, KVM_SET_XCRS, xcrs),
		.fresh = fresh_xcrs },
	[ROW_DEBUGREGS] = { "debugregs",
		PLAIN(KVM_GET_DEBUGREGS, KVM_SET_DEBUGREGS, debugregs),
		.fresh = fresh_debugregs },
	[ROW_LAPIC] = { "lapic", PLAIN(KVM_GET_LAPIC, KVM_SET_LAPIC, lapic),
		.fresh = fresh_lapic },
	[ROW_MSRS] = { "msrs", .get = vcpu_msrs_get, .set = vcpu_msrs_set },
	[ROW_DEADLINE] = { "deadline", .get = vcpu_deadline_get,
		.set = vcpu_deadline_set },
	[ROW_EVENTS] = { "events",
		PLAIN(KVM_GET_VCPU_EVENTS, KVM_SET_VCPU_EVENTS, events),
		.fresh = fresh_events },
};
/* clang-format on */

static const uint8_t save_order[] = {
	ROW_MP_STATE,
	ROW_REGS,
	ROW_SREGS,
	ROW_XSAVE,
	ROW_XCRS,
	ROW_DEBUGREGS,
	ROW_LAPIC,
	ROW_TSC_KHZ,
	ROW_MSRS,
	ROW_DEADLINE,
	ROW_EVENTS,
};

static int plain(
	struct vcpu *v, const struct row *r, unsigned long req, struct err *e)
{
	int n = kvm_ioctl(v->fd, req, (uint8_t *)v->s + r->offset);

	return n < 0 ? err_sys(e, n,
			       "vCPU %u: KVM does not take or give \"%s\"",
			       v->id, r->name)
		     : 0;
}

int vcpu_state_get(struct vcpu *v, struct err *e)
{
	const struct row *row;
	int r = 0;

	for (unsigned i = 0; !r && i < ARRAY_SIZE(save_order); i++) {
		row = &rows[save_order[i]];
		r = row->get ? row->get(v, e) : plain(v, row, row->get_req, e);
	}
	return r;
}

/* Rows that KVM_RUN will take. */
static const uint64_t sync_rows =
	1 << ROW_REGS | 1 << ROW_SREGS | 1 << ROW_EVENTS;
#define SYNC_ALL (KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS | KVM_SYNC_X86_EVENTS)

static bool leave_to_run(struct vcpu *v)
{
	const struct arch_host *h = v->m->host;
	const struct vcpu_state *s = v->s;

	if (!v->run || !h->tried || (h->sync_regs & SYNC_ALL) != SYNC_ALL ||
		s->mp_state != KVM_MP_STATE_RUNNABLE ||
		s->sregs.apic_base != apic_base_reset(v->id))
		return false;
	v->run->s.regs.regs = s->regs;
	v->run->s.regs.sregs = s->sregs;
	v->run->s.regs.events = s->events;
	v->run->kvm_dirty_regs = SYNC_ALL;
	/* A pause before the first KVM_RUN must still let KVM take them. */
	v->io_pending = true;
	return true;
}

int vcpu_state_set(struct vcpu *v, struct err *e)
{
	uint64_t skip = leave_to_run(v) ? sync_rows : 0;
	const struct row *row;
	int r = 0;

	for (row = rows; !r && row < rows + NROWS_; row++) {
		if ((skip & 1ULL << (row - rows)) ||
			(row->fresh && row->fresh(v)))
			continue;
		r = row->set ? row->set(v, e) : plain(v, row, row->set_req, e);
	}
	return r;
}
