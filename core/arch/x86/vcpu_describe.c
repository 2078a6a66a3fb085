/*
 * How it works: a vCPU's section is printed from its msgpack map and not from
 * a loaded struct, so that a section of another version, or one whose other
 * fields are damaged, still shows what it has. KVM's structs are ABI: a blob
 * that is at least as long as one is one.
 */
#include "core/arch.h"
#include "core/arch/x86/msr_name.h"
#include "core/arch/x86/vcpu_state.h"

#include <stdio.h>
#include <string.h>

/* The bytes of a field, when there are at least n. */
static const void *blob(const msgpack_object *map, const char *key, size_t n)
{
	const msgpack_object *o = mp_get(map, key);

	if (!o || o->type != MSGPACK_OBJECT_BIN || o->via.bin.size < n)
		return NULL;
	return o->via.bin.ptr;
}

static uint64_t number(const msgpack_object *map, const char *key)
{
	const msgpack_object *o = mp_get(map, key);

	return o && o->type == MSGPACK_OBJECT_POSITIVE_INTEGER ? o->via.u64 : 0;
}

/* ---- registers ---- */

struct reg {
	const char *name;
	size_t offset; /* of an uint64_t */
};
#define REG(type, member)                                                      \
	{                                                                      \
#member, offsetof(struct type, member)                         \
	}

static const struct reg general[] = {REG(kvm_regs, rax), REG(kvm_regs, rbx),
	REG(kvm_regs, rcx), REG(kvm_regs, rdx), REG(kvm_regs, rsi),
	REG(kvm_regs, rdi), REG(kvm_regs, rbp), REG(kvm_regs, rsp),
	REG(kvm_regs, r8), REG(kvm_regs, r9), REG(kvm_regs, r10),
	REG(kvm_regs, r11), REG(kvm_regs, r12), REG(kvm_regs, r13),
	REG(kvm_regs, r14), REG(kvm_regs, r15), REG(kvm_regs, rip),
	REG(kvm_regs, rflags)};
static const struct reg control[] = {REG(kvm_sregs, cr0), REG(kvm_sregs, cr2),
	REG(kvm_sregs, cr3), REG(kvm_sregs, cr4), REG(kvm_sregs, cr8),
	REG(kvm_sregs, efer), REG(kvm_sregs, apic_base)};

static void pack_regs(msgpack_packer *p, const char *key, const void *from,
	const struct reg *r, size_t n)
{
	if (!from)
		return;
	mp_str(p, key);
	(void)msgpack_pack_map(p, n);
	for (size_t i = 0; i < n; i++) {
		uint64_t v;

		memcpy(&v, (const char *)from + r[i].offset, sizeof(v));
		mp_key_u64(p, r[i].name, v);
	}
}

static void pack_debug(msgpack_packer *p, const void *from)
{
	struct kvm_debugregs d;
	char name[4];

	if (!from)
		return;
	memcpy(&d, from, sizeof(d));
	mp_str(p, "debug");
	(void)msgpack_pack_map(p, 6);
	for (unsigned i = 0; i < 4; i++) {
		(void)snprintf(name, sizeof(name), "dr%u", i);
		mp_key_u64(p, name, d.db[i]);
	}
	mp_key_u64(p, "dr6", d.dr6);
	mp_key_u64(p, "dr7", d.dr7);
}

static void pack_segment(
	msgpack_packer *p, const char *name, const struct kvm_segment *s)
{
	mp_str(p, name);
	(void)msgpack_pack_map(p, 8);
	mp_key_u64(p, "selector", s->selector);
	mp_key_u64(p, "base", s->base);
	mp_key_u64(p, "limit", s->limit);
	mp_key_u64(p, "type", s->type);
	mp_key_u64(p, "dpl", s->dpl);
	mp_key_bool(p, "present", s->present && !s->unusable);
	mp_key_bool(p, "long", s->l != 0);
	mp_key_bool(p, "default_32", s->db != 0);
}

static void pack_table(
	msgpack_packer *p, const char *name, const struct kvm_dtable *t)
{
	mp_str(p, name);
	(void)msgpack_pack_map(p, 2);
	mp_key_u64(p, "base", t->base);
	mp_key_u64(p, "limit", t->limit);
}

static void pack_segments(msgpack_packer *p, const void *from)
{
	struct kvm_sregs s;

	if (!from)
		return;
	memcpy(&s, from, sizeof(s));
	mp_str(p, "segments");
	(void)msgpack_pack_map(p, 10);
	pack_segment(p, "cs", &s.cs);
	pack_segment(p, "ds", &s.ds);
	pack_segment(p, "es", &s.es);
	pack_segment(p, "fs", &s.fs);
	pack_segment(p, "gs", &s.gs);
	pack_segment(p, "ss", &s.ss);
	pack_segment(p, "tr", &s.tr);
	pack_segment(p, "ldt", &s.ldt);
	pack_table(p, "gdt", &s.gdt);
	pack_table(p, "idt", &s.idt);
}

static void pack_xcrs(msgpack_packer *p, const void *from)
{
	struct kvm_xcrs x = {0};
	char name[16];
	uint32_t n;

	if (from)
		memcpy(&x, from, sizeof(x));
	n = (uint32_t)min_u64(x.nr_xcrs, ARRAY_SIZE(x.xcrs));
	mp_str(p, "xcr");
	(void)msgpack_pack_map(p, n);
	for (uint32_t i = 0; i < n; i++) {
		(void)snprintf(name, sizeof(name), "xcr%u", x.xcrs[i].xcr);
		mp_key_u64(p, name, x.xcrs[i].value);
	}
}

/* ---- what is pending, the local APIC, MSRs ---- */

static void pack_events(msgpack_packer *p, const void *from)
{
	struct kvm_vcpu_events e = {0};

	if (from)
		memcpy(&e, from, sizeof(e));
	mp_str(p, "pending");
	(void)msgpack_pack_map(p, 5);
	mp_key_bool(
		p, "exception", e.exception.injected || e.exception.pending);
	mp_key_bool(p, "interrupt", e.interrupt.injected != 0);
	mp_key_bool(p, "nmi", e.nmi.injected || e.nmi.pending);
	mp_key_bool(p, "smi", e.smi.pending != 0);
	mp_key_u64(p, "vector",
		e.interrupt.injected   ? e.interrupt.nr
		: e.exception.injected ? e.exception.nr
				       : 0);
}

static void pack_lapic(msgpack_packer *p, const void *from)
{
	struct kvm_lapic_state l = {0};

	if (from)
		memcpy(&l, from, sizeof(l));
	mp_str(p, "lapic");
	(void)msgpack_pack_map(p, 8);
	mp_key_u64(p, "id", lapic_read(&l, LAPIC_ID));
	mp_key_u64(p, "version", lapic_read(&l, LAPIC_VER));
	mp_key_u64(p, "spurious", lapic_read(&l, LAPIC_SPIV));
	mp_key_u64(p, "lvt_timer", lapic_read(&l, LAPIC_LVTT));
	mp_key_u64(p, "lvt_lint0", lapic_read(&l, LAPIC_LVT0));
	mp_key_u64(p, "lvt_lint1", lapic_read(&l, LAPIC_LVT1));
	mp_key_u64(p, "timer_initial", lapic_read(&l, LAPIC_TMICT));
	mp_key_u64(p, "timer_current", lapic_read(&l, LAPIC_TMCCT));
}

static void pack_msrs(msgpack_packer *p, const msgpack_object *map)
{
	const char *from = blob(map, "msrs", 0);
	const msgpack_object *o = mp_get(map, "msrs");
	struct kvm_msr_entry m;
	uint32_t n = from ? o->via.bin.size / (uint32_t)sizeof(m) : 0;
	char name[MSR_NAME_MAX];

	mp_str(p, "msrs");
	(void)msgpack_pack_map(p, n);
	for (uint32_t i = 0; i < n; i++) {
		memcpy(&m, from + i * sizeof(m), sizeof(m));
		mp_key_u64(p, msr_name(m.index, name), m.data);
	}
}

/* ---- all of it ---- */

/* Linux Documentation/virt/kvm/api.rst, KVM_GET_MP_STATE */
static const char *mp_state_name(uint64_t v)
{
	static const char *const names[] = {
		[KVM_MP_STATE_RUNNABLE] = "runnable",
		[KVM_MP_STATE_UNINITIALIZED] = "waiting for INIT",
		[KVM_MP_STATE_INIT_RECEIVED] = "waiting for SIPI",
		[KVM_MP_STATE_HALTED] = "halted",
		[KVM_MP_STATE_SIPI_RECEIVED] = "started by SIPI",
	};

	return v < ARRAY_SIZE(names) && names[v] ? names[v] : "unknown";
}

static const char *cpu_mode(const void *sregs)
{
	struct kvm_sregs s;

	if (!sregs)
		return "unknown";
	memcpy(&s, sregs, sizeof(s));
	if (!(s.cr0 & 1)) /* PE; SDM 3A section 2.2 */
		return "real";
	if (!(s.efer & 1 << 10)) /* LMA */
		return "protected";
	return s.cs.l ? "64-bit" : "compatibility";
}

void arch_vcpu_describe(const msgpack_object *map, msgpack_packer *p)
{
	const void *regs = blob(map, "regs", sizeof(struct kvm_regs));
	const void *sregs = blob(map, "sregs", sizeof(struct kvm_sregs));
	const void *debug =
		blob(map, "debugregs", sizeof(struct kvm_debugregs));
	uint32_t n = 9;

	n += regs ? 1 : 0;
	n += sregs ? 2 : 0;
	n += debug ? 1 : 0;
	(void)msgpack_pack_map(p, n);
	mp_key_str(p, "state", mp_state_name(number(map, "mp_state")));
	mp_key_str(p, "mode", cpu_mode(sregs));
	pack_regs(p, "general", regs, general, ARRAY_SIZE(general));
	pack_regs(p, "control", sregs, control, ARRAY_SIZE(control));
	pack_segments(p, sregs);
	pack_debug(p, debug);
	pack_xcrs(p, blob(map, "xcrs", sizeof(struct kvm_xcrs)));
	pack_events(p, blob(map, "events", sizeof(struct kvm_vcpu_events)));
	pack_lapic(p, blob(map, "lapic", sizeof(struct kvm_lapic_state)));
	mp_key_u64(p, "tsc", number(map, "tsc"));
	mp_key_u64(p, "tsc_khz", number(map, "tsc_khz"));
	mp_key_u64(p, "tsc_deadline", number(map, "tsc_deadline"));
	pack_msrs(p, map);
}
