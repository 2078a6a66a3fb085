/*
 * What the tests with a real KVM share: a machine that runs a few bytes of
 * 64-bit code, wrapped into an ELF image at 1 MiB, and a loop to wait with.
 */
#ifndef THAW_TESTS_KVM_TEST_H
#define THAW_TESTS_KVM_TEST_H

#include "core/kvm.h"
#include "core/machine.h"
#include "core/vcpu.h"

#define STUB_ENTRY 0x100000ULL

/* stubs.c */
#define STUB_DECL(name) extern const uint8_t stub_##name[], stub_##name##_end[]
STUB_DECL(sleeper);
STUB_DECL(timed);
STUB_DECL(spinner);
STUB_DECL(event);
STUB_DECL(triple);
STUB_DECL(string);
STUB_DECL(lcg);
STUB_DECL(reader);
STUB_DECL(rounds);
STUB_DECL(level);
STUB_DECL(writer);
extern const uint8_t stub_level_handler[];
#define STUB(name) stub_##name, (size_t)(stub_##name##_end - stub_##name)

struct stub {
	struct kvm_host kvm;
	struct loop loop;
	struct machine m;
	unsigned doors; /* MACHINE_EV_DOOR seen */
};

/* False: no usable KVM here; skip. */
bool stub_kvm(struct stub *s);
/* memory 4 MiB, one vCPU, no vsock */
void stub_config(struct machine_config *cfg);
/* A memfd with an ELF image of this code. */
int stub_image(const void *code, size_t len);
/* machine_init, memory, boot, realize; fails the test on error. */
void stub_build(struct stub *s, const struct machine_config *cfg,
	const void *code, size_t len);
void stub_boot(struct stub *s, const struct machine_config *cfg,
	const void *code, size_t len);
void stub_realize(struct stub *s);
void stub_destroy(struct stub *s);
/* What a snapshot does, without the file. to: KVM open, nothing else. */
void stub_copy(struct stub *from, struct stub *to);
/* Handle events until n doors were seen since the start, or the end. */
void stub_wait_doors(struct stub *s, unsigned n);
void stub_wait_end(struct stub *s);
/* Handle what is there within ms. */
void stub_poll(struct stub *s, int ms);
uint32_t stub_peek(struct stub *s, gpa_t at);
void stub_poke(struct stub *s, gpa_t at, uint64_t v);
void stub_resume(struct stub *s);
void stub_pause(struct stub *s);

#endif
