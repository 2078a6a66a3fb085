#include "tests/kvm/kvm_test.h"
#include "core/arch/x86/vcpu_state.h"

#include <elf.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

/* Long enough for a loaded machine; a test that needs it has failed. */
#define PATIENCE_NS 20000000000ULL

bool stub_kvm(struct stub *s)
{
	struct err e;

	/* A test that fails leaves a machine running whose memory is its stack:
	 * none can come after it. */
	(void)setenv("CMOCKA_TEST_ABORT", "1", 1);
	memset(s, 0, sizeof(*s));
	s->m.vm_fd = -1;
	if (kvm_open("/dev/kvm", &s->kvm, &e)) {
		print_message("skipped: %s\n", e.msg);
		return false;
	}
	return true;
}

void stub_config(struct machine_config *cfg)
{
	memset(cfg, 0, sizeof(*cfg));
	cfg->memory = 4 * MIB;
	cfg->cpus = 1;
}

int stub_image(const void *code, size_t len)
{
	struct {
		Elf64_Ehdr h;
		Elf64_Phdr p;
	} img = {
		.h =
			{
				.e_ident = {ELFMAG0, ELFMAG1, ELFMAG2, ELFMAG3,
					ELFCLASS64, ELFDATA2LSB, EV_CURRENT},
				.e_type = ET_EXEC,
				.e_machine = EM_X86_64,
				.e_version = EV_CURRENT,
				.e_entry = STUB_ENTRY,
				.e_phoff = sizeof(Elf64_Ehdr),
				.e_ehsize = sizeof(Elf64_Ehdr),
				.e_phentsize = sizeof(Elf64_Phdr),
				.e_phnum = 1,
			},
		.p =
			{
				.p_type = PT_LOAD,
				.p_offset = sizeof(img),
				.p_vaddr = STUB_ENTRY,
				.p_paddr = STUB_ENTRY,
				.p_filesz = len,
				.p_memsz = len,
			},
	};
	int fd = memfd_create("stub", MFD_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(write_full(fd, &img, sizeof(img)), 0);
	assert_int_equal(write_full(fd, code, len), 0);
	return fd;
}

void stub_boot(struct stub *s, const struct machine_config *cfg,
	const void *code, size_t len)
{
	struct err e = {0};
	AUTO_FD fd = stub_image(code, len);

	assert_int_equal(loop_init(&s->loop), 0);
	if (machine_init(&s->m, cfg, &e) ||
		mem_create(&s->m.mem, cfg->memory, MEM_PRIVATE, -1, &e) ||
		machine_boot(&s->m, fd, -1, &e))
		fail_msg("%s", e.msg);
	s->m.loop = &s->loop;
}

void stub_realize(struct stub *s)
{
	struct err e = {0};

	if (machine_realize(&s->m, s->kvm.fd, &e))
		fail_msg("%s", e.msg);
}

void stub_build(struct stub *s, const struct machine_config *cfg,
	const void *code, size_t len)
{
	stub_boot(s, cfg, code, len);
	stub_realize(s);
}

static void move(const struct st_desc *d, const void *from, void *to)
{
	msgpack_sbuffer buf;
	struct err e = {0};

	msgpack_sbuffer_init(&buf);
	assert_int_equal(st_save(d, from, &buf), 0);
	if (st_load(d, to, buf.data, buf.size, &e))
		fail_msg("%s: %s", d->name, e.msg);
	msgpack_sbuffer_destroy(&buf);
}

void stub_copy(struct stub *from, struct stub *to)
{
	struct machine_config cfg;
	struct err e = {0};

	move(&machine_config_desc, &from->m.cfg, &cfg);
	assert_int_equal(loop_init(&to->loop), 0);
	assert_int_equal(machine_init(&to->m, &cfg, &e), 0);
	assert_int_equal(
		mem_create(&to->m.mem, cfg.memory, MEM_PRIVATE, -1, &e), 0);
	memcpy(to->m.mem.map, from->m.mem.map, cfg.memory);
	move(&machine_state_desc, &from->m.saved, &to->m.saved);
	for (unsigned i = 0; i < cfg.cpus; i++)
		move(&vcpu_state_desc, from->m.cpu[i]->s, to->m.cpu[i]->s);
	assert_int_equal(from->m.ndevs, to->m.ndevs);
	for (unsigned i = 0; i < from->m.ndevs; i++) {
		struct device *a = from->m.dev[i], *b = to->m.dev[i];

		move(a->ops->state, a->ops->saved(a), b->ops->saved(b));
	}
	to->m.loop = &to->loop;
}

void stub_destroy(struct stub *s)
{
	machine_destroy(&s->m);
	loop_fini(&s->loop);
	kvm_close(&s->kvm);
}

void stub_poll(struct stub *s, int ms)
{
	struct epoll_event ev[8];
	int n = loop_wait(&s->loop, ev, 8, ms);

	for (int i = 0; i < n; i++) {
		union ev_ref ref = {.u64 = ev[i].data.u64};

		if (ref.type == MACHINE_EV_DOOR)
			s->doors++;
		machine_event(&s->m, ref, ev[i].events);
	}
}

void stub_wait_doors(struct stub *s, unsigned n)
{
	uint64_t until = now_ns() + PATIENCE_NS;

	while (s->doors < n && s->m.state != MACHINE_DEAD) {
		if (now_ns() > until)
			fail_msg("the guest did not come to the door");
		stub_poll(s, 100);
	}
}

void stub_wait_end(struct stub *s)
{
	uint64_t until = now_ns() + PATIENCE_NS;

	while (s->m.state != MACHINE_DEAD) {
		if (now_ns() > until)
			fail_msg("the guest did not end");
		stub_poll(s, 100);
	}
}

uint32_t stub_peek(struct stub *s, gpa_t at)
{
	uint32_t v = 0;

	assert_int_equal(mem_read(&s->m.mem, at, &v, sizeof(v)), 0);
	return v;
}

void stub_poke(struct stub *s, gpa_t at, uint64_t v)
{
	assert_int_equal(mem_write(&s->m.mem, at, &v, sizeof(v)), 0);
}

void stub_resume(struct stub *s)
{
	struct err e = {0};

	if (machine_resume(&s->m, &e))
		fail_msg("%s", e.msg);
}

void stub_pause(struct stub *s)
{
	struct err e = {0};

	if (machine_pause(&s->m, 10000, &e))
		fail_msg("%s", e.msg);
}
