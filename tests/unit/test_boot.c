/* Kernels of others: bzImage, PVH, initrd, command line, what they are told. */
#include "tests/unit/test.h"
#include "core/arch/x86/acpi.h"
#include "core/arch/x86/boot.h"
#include "core/arch/x86/vcpu_state.h"

#include <elf.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#define BODY   4096 /* of the kernel behind its setup sectors */
#define SETUP  (2 * 512)
#define MEMORY (64 * MIB)

/* The smallest bzImage there can be. */
struct bz {
	uint8_t setup[SETUP];
	uint8_t body[BODY];
};

/* Written as bytes: the header is not aligned in the file. */
static struct setup_header get_hdr(const struct bz *b)
{
	struct setup_header h;

	memcpy(&h, b->setup + 0x1f1, sizeof(h));
	return h;
}

static void set_hdr(struct bz *b, const struct setup_header *h)
{
	memcpy(b->setup + 0x1f1, h, sizeof(*h));
}

static void good_bz(struct bz *b)
{
	struct setup_header h = {
		.setup_sects = 1,
		.syssize = BODY / 16,
		.boot_flag = 0xaa55,
		.jump = 0x6aeb, /* the header ends at 0x26c */
		.header = 0x53726448,
		.version = 0x020f,
		.loadflags = LOADED_HIGH,
		.initrd_addr_max = 0x7fffffff,
		.kernel_alignment = 0x200000,
		.relocatable_kernel = 1,
		.xloadflags = XLF_KERNEL_64,
		.cmdline_size = 255,
		.pref_address = 16 * MIB,
		.init_size = 8 * MIB,
	};

	memset(b, 0, sizeof(*b));
	set_hdr(b, &h);
	memset(b->body, 0x5a, BODY);
}

static int load(const struct bz *b, size_t n, uint64_t memory,
	struct image *img, struct err *e)
{
	struct image_src src = {.buf = (const uint8_t *)b, .fd = -1, .size = n};
	struct mem mem;
	uint8_t last;
	int r;

	assert_int_equal(mem_create(&mem, memory, MEM_PRIVATE, -1, e), 0);
	r = image_load(&mem, &src, BOOT_LOW_END, img, e);
	if (!r) {
		assert_int_equal(
			mem_read(&mem, img->start + BODY - 1, &last, 1), 0);
		assert_int_equal(last, 0x5a);
	}
	mem_destroy(&mem);
	return r;
}

static void refused(const struct bz *b, size_t n, uint64_t memory, int code,
	const char *why)
{
	struct image img;
	struct err e = {0};

	assert_int_equal(load(b, n, memory, &img, &e), code);
	if (!strstr(e.msg, why))
		fail_msg("\"%s\" does not say \"%s\"", e.msg, why);
}

static void test_bzimage(void **state)
{
	struct setup_header h;
	struct image img;
	struct bz b;
	struct err e;

	(void)state;
	good_bz(&b);
	assert_int_equal(load(&b, sizeof(b), MEMORY, &img, &e), 0);
	assert_true(img.general);
	assert_int_equal(img.how, IMAGE_LINUX64);
	assert_true(img.start == 16 * MIB);
	assert_true(img.entry == 16 * MIB + 0x200);
	assert_true(img.end == 24 * MIB); /* room to unpack in */
	assert_int_equal(img.cmdline_max, 255);
	assert_true(img.initrd_max == 0x80000000);
	assert_int_equal(img.hdr.init_size, 8 * MIB);
	/* little memory: as low as it may */
	assert_int_equal(load(&b, sizeof(b), 16 * MIB, &img, &e), 0);
	assert_true(img.start == 2 * MIB);
	h = get_hdr(&b);
	h.relocatable_kernel = 0;
	set_hdr(&b, &h);
	refused(&b, sizeof(b), 16 * MIB, -EINVAL, "give it more");
}

static void test_bzimage_bad(void **state)
{
	struct setup_header h;
	struct bz b;

	(void)state;
	good_bz(&b);
	refused(&b, sizeof(b) - 1, MEMORY, -EINVAL, "truncated");
	refused(&b, SETUP, MEMORY, -EINVAL, "truncated");
	refused(&b, 0x210, MEMORY, -EINVAL, "cut off");
	refused(&b, 0x205, MEMORY, -EINVAL, "neither");
	h = get_hdr(&b);
	h.xloadflags = 0;
	set_hdr(&b, &h);
	refused(&b, sizeof(b), MEMORY, -EOPNOTSUPP, "32-bit");
	good_bz(&b);
	h = get_hdr(&b);
	h.version = 0x0206;
	set_hdr(&b, &h);
	refused(&b, sizeof(b), MEMORY, -EOPNOTSUPP, "2.06");
	good_bz(&b);
	h = get_hdr(&b);
	h.loadflags = 0;
	set_hdr(&b, &h);
	refused(&b, sizeof(b), MEMORY, -EOPNOTSUPP, "zImage");
	good_bz(&b);
	h = get_hdr(&b);
	h.init_size = 0xffffffff;
	set_hdr(&b, &h);
	refused(&b, sizeof(b), MEMORY, -EINVAL, "needs 4096 MiB");
	h.init_size = 0;
	h.syssize = 0xffffffff;
	set_hdr(&b, &h);
	refused(&b, sizeof(b), MEMORY, -EINVAL, "truncated");
	good_bz(&b);
	h = get_hdr(&b);
	h.pref_address = ~0ULL;
	h.kernel_alignment = 3;
	set_hdr(&b, &h);
	refused(&b, sizeof(b), MEMORY, -EINVAL, "alignment");
	good_bz(&b);
	h = get_hdr(&b);
	h.syssize = 0;
	set_hdr(&b, &h);
	refused(&b, sizeof(b), MEMORY, -EINVAL, "truncated");
}

/* ---- a whole boot ---- */

static int file_of(const void *p, size_t n)
{
	int fd = memfd_create("boot", MFD_CLOEXEC);

	assert_int_equal(write_full(fd, p, n), 0);
	return fd;
}

static int boot(struct machine *m, int kernel, int initrd, uint64_t memory,
	const char *cmdline, struct err *e)
{
	struct machine_config cfg = {
		.memory = memory, .cpus = 2, .vsock_cid = 3};
	int r;

	(void)snprintf(cfg.cmdline, sizeof(cfg.cmdline), "%s", cmdline);
	assert_int_equal(machine_probe_kernel(&cfg, kernel, e), 0);
	assert_int_equal(machine_init(m, &cfg, e), 0);
	assert_int_equal(mem_create(&m->mem, memory, MEM_PRIVATE, -1, e), 0);
	r = machine_boot(m, kernel, initrd, e);
	return r;
}

static void read_line(struct machine *m, char line[MACHINE_CMDLINE_MAX])
{
	assert_int_equal(
		mem_read(&m->mem, BOOT_CMDLINE, line, MACHINE_CMDLINE_MAX), 0);
	assert_non_null(memchr(line, 0, MACHINE_CMDLINE_MAX));
}

static void test_boot_linux64(void **state)
{
	static uint8_t initrd[5000];
	char line[MACHINE_CMDLINE_MAX];
	struct boot_params bp;
	struct machine m;
	struct err e;
	struct bz b;
	AUTO_FD kfd = -1;
	AUTO_FD ifd = -1;
	uint8_t byte;

	(void)state;
	good_bz(&b);
	memset(initrd, 0x77, sizeof(initrd));
	kfd = file_of(&b, sizeof(b));
	ifd = file_of(initrd, sizeof(initrd));
	assert_int_equal(boot(&m, kfd, ifd, MEMORY, "quiet panic=5", &e), 0);
	assert_int_equal(m.cfg.acpi, 1);
	read_line(&m, line);
	/* what the user says wins; devices are ACPI's to tell */
	assert_string_equal(
		line, "console=ttyS0 reboot=k pci=off quiet panic=5");
	assert_int_equal(mem_read(&m.mem, BOOT_ZEROPAGE, &bp, sizeof(bp)), 0);
	assert_int_equal(bp.hdr.init_size, 8 * MIB); /* the kernel's own */
	assert_int_equal(bp.hdr.type_of_loader, 0xff);
	assert_true(bp.acpi_rsdp_addr == ACPI_TABLES);
	assert_int_equal(bp.hdr.ramdisk_size, sizeof(initrd));
	assert_int_equal(bp.hdr.ramdisk_image, MEMORY - 8192);
	assert_int_equal(
		mem_read(&m.mem, bp.hdr.ramdisk_image + sizeof(initrd) - 1,
			&byte, 1),
		0);
	assert_int_equal(byte, 0x77);
	assert_true(m.cpu[0]->s->regs.rip == 16 * MIB + 0x200);
	assert_true(m.cpu[0]->s->regs.rsi == BOOT_ZEROPAGE);
	assert_int_equal(m.cpu[1]->s->mp_state, KVM_MP_STATE_UNINITIALIZED);
	assert_int_equal(m.cpu[0]->s->mp_state, KVM_MP_STATE_RUNNABLE);
	machine_destroy(&m);
}

static void test_initrd_bad(void **state)
{
	struct machine m;
	struct err e;
	struct bz b;
	AUTO_FD kfd = -1;
	AUTO_FD ifd = memfd_create("initrd", MFD_CLOEXEC);

	(void)state;
	good_bz(&b);
	kfd = file_of(&b, sizeof(b));
	assert_int_equal(boot(&m, kfd, ifd, MEMORY, "", &e), -EINVAL);
	assert_non_null(strstr(e.msg, "empty"));
	machine_destroy(&m);
	/* 40 MiB are free above the kernel, to the byte */
	assert_int_equal(ftruncate(ifd, 40 * MIB), 0);
	assert_int_equal(boot(&m, kfd, ifd, MEMORY, "", &e), 0);
	machine_destroy(&m);
	assert_int_equal(ftruncate(ifd, 40 * MIB + 1), 0);
	assert_int_equal(boot(&m, kfd, ifd, MEMORY, "", &e), -EINVAL);
	assert_non_null(strstr(e.msg, "room for 40 MiB"));
	machine_destroy(&m);
}

static void test_cmdline_limit(void **state)
{
	char long_line[300];
	struct machine m;
	struct err e;
	struct bz b;
	AUTO_FD kfd = -1;

	(void)state;
	good_bz(&b);
	kfd = file_of(&b, sizeof(b));
	/* "console=ttyS0 panic=-1 reboot=k pci=off " are 40 of the 255 */
	memset(long_line, 'x', sizeof(long_line));
	long_line[215] = 0;
	assert_int_equal(boot(&m, kfd, -1, MEMORY, long_line, &e), 0);
	machine_destroy(&m);
	long_line[215] = 'x';
	long_line[216] = 0;
	assert_int_equal(boot(&m, kfd, -1, MEMORY, long_line, &e), -EINVAL);
	assert_non_null(strstr(e.msg, "cmdline: 216 bytes"));
	machine_destroy(&m);
}

/* An ELF kernel with notes. */
struct elf_file {
	Elf64_Ehdr h;
	Elf64_Phdr p[2];
	struct {
		Elf64_Nhdr h;
		char name[4];
		uint64_t entry;
	} note;
	uint8_t body[64];
};

static struct elf_file pvh(void)
{
	struct elf_file f = {
		.h = {.e_ident = {0x7f, 'E', 'L', 'F', ELFCLASS64, ELFDATA2LSB,
			      EV_CURRENT},
			.e_type = ET_EXEC,
			.e_machine = EM_X86_64,
			.e_version = EV_CURRENT,
			.e_entry = 0x1000000,
			.e_phoff = offsetof(struct elf_file, p),
			.e_phentsize = sizeof(Elf64_Phdr),
			.e_phnum = 2},
		.p = {{.p_type = PT_NOTE,
			      .p_offset = offsetof(struct elf_file, note),
			      .p_filesz = sizeof(f.note)},
			{.p_type = PT_LOAD,
				.p_offset = offsetof(struct elf_file, body),
				.p_paddr = 0x1000000,
				.p_filesz = 64,
				.p_memsz = 4096}},
		.note = {.h = {.n_namesz = 4, .n_descsz = 8, .n_type = 18},
			.name = "Xen",
			.entry = 0x1000040},
	};

	return f;
}

/* Xen's hvm_start_info, first version. */
struct pvh_info {
	uint32_t magic, version, flags, nmodules;
	uint64_t modules, cmdline, rsdp, memory;
	uint32_t nmemory, reserved;
};

static void test_boot_pvh(void **state)
{
	static const char initrd[] = "not much of an initrd";
	struct elf_file f = pvh();
	struct pvh_info info;
	uint64_t module[2];
	struct machine m;
	struct err e;
	AUTO_FD kfd = file_of(&f, sizeof(f));
	AUTO_FD ifd = file_of(initrd, sizeof(initrd));
	const struct vcpu_state *s;
	char text[sizeof(initrd)];

	(void)state;
	assert_int_equal(boot(&m, kfd, ifd, 32 * MIB, "", &e), 0);
	s = m.cpu[0]->s;
	assert_true(s->regs.rip == 0x1000040);
	assert_true(s->regs.rbx == BOOT_PVH_INFO);
	/* 32-bit protected mode, flat, no paging */
	assert_true(s->sregs.cr0 == 0x11);
	assert_true(s->sregs.efer == 0 && s->sregs.cr4 == 0);
	assert_int_equal(s->sregs.cs.l, 0);
	assert_int_equal(s->sregs.cs.db, 1);
	assert_int_equal(s->sregs.tr.limit, 0x67);
	assert_int_equal(
		mem_read(&m.mem, BOOT_PVH_INFO, &info, sizeof(info)), 0);
	assert_int_equal(info.magic, 0x336ec578);
	assert_int_equal(info.version, 1);
	assert_true(info.rsdp == ACPI_TABLES && info.cmdline == BOOT_CMDLINE);
	assert_int_equal(info.nmodules, 1);
	assert_int_equal(info.nmemory, 3);
	assert_int_equal(
		mem_read(&m.mem, info.modules, module, sizeof(module)), 0);
	assert_int_equal(module[1], sizeof(initrd));
	assert_int_equal(mem_read(&m.mem, module[0], text, sizeof(text)), 0);
	assert_string_equal(text, initrd);
	machine_destroy(&m);
}

static void test_notes(void **state)
{
	struct image_src src = {.fd = -1, .size = sizeof(struct elf_file)};
	struct elf_file f = pvh();
	struct image img;
	struct err e;

	(void)state;
	src.buf = (const uint8_t *)&f;
	/* Linux without PVH: the 64-bit entry, and ACPI all the same */
	f.note.h.n_type = 6;
	assert_int_equal(image_probe(&src, &img, &e), 0);
	assert_int_equal(img.how, IMAGE_LINUX64);
	assert_true(img.general);
	/* another's note: a guest made for thaw */
	memcpy(f.note.name, "Zen", 4);
	assert_int_equal(image_probe(&src, &img, &e), 0);
	assert_false(img.general);
	/* an entry nobody loads */
	f = pvh();
	f.note.entry = 0x2000000;
	assert_int_equal(image_probe(&src, &img, &e), -EINVAL);
	assert_non_null(strstr(e.msg, "entry"));
	/* sizes that lie */
	f = pvh();
	f.note.h.n_descsz = 0xffffffff;
	assert_int_equal(image_probe(&src, &img, &e), 0);
	assert_int_equal(img.how, IMAGE_LINUX64);
	f.note.h.n_namesz = 0xffffffff;
	assert_int_equal(image_probe(&src, &img, &e), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_bzimage),
		cmocka_unit_test(test_bzimage_bad),
		cmocka_unit_test(test_boot_linux64),
		cmocka_unit_test(test_initrd_bad),
		cmocka_unit_test(test_cmdline_limit),
		cmocka_unit_test(test_boot_pvh),
		cmocka_unit_test(test_notes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
