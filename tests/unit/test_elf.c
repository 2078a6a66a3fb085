/* Kernel images: a good one, and many that lie. */
#include "tests/unit/test.h"
#include "core/arch/x86/image.h"

#include <elf.h>
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#define LOW  0x100000ULL
#define BODY 64

struct elf_file {
	Elf64_Ehdr h;
	Elf64_Phdr p[2];
	uint8_t body[BODY];
};

static struct elf_file good(void)
{
	struct elf_file i = {
		.h = {.e_ident = {0x7f, 'E', 'L', 'F', ELFCLASS64, ELFDATA2LSB,
			      EV_CURRENT},
			.e_type = ET_EXEC,
			.e_machine = EM_X86_64,
			.e_version = EV_CURRENT,
			.e_entry = LOW + 16,
			.e_phoff = offsetof(struct elf_file, p),
			.e_phentsize = sizeof(Elf64_Phdr),
			.e_phnum = 2},
		.p = {{.p_type = PT_LOAD,
			      .p_offset = offsetof(struct elf_file, body),
			      .p_vaddr = LOW,
			      .p_paddr = LOW,
			      .p_filesz = BODY,
			      .p_memsz = 2 * BODY},
			{.p_type = PT_NOTE}},
	};

	memset(i.body, 0xa5, sizeof(i.body));
	return i;
}

static int load_bytes(const void *p, size_t n, struct image *out, struct err *e)
{
	struct image_src src = {.buf = p, .fd = -1, .size = n};
	struct mem mem;
	int r;

	assert_int_equal(mem_create(&mem, 4 * MIB, MEM_PRIVATE, -1, e), 0);
	r = image_load(&mem, &src, LOW, out, e);
	if (!r && n == sizeof(struct elf_file)) {
		uint8_t body[2 * BODY];

		assert_int_equal(mem_read(&mem, LOW, body, sizeof(body)), 0);
		for (unsigned i = 0; i < sizeof(body); i++)
			assert_int_equal(body[i], i < BODY ? 0xa5 : 0);
	}
	mem_destroy(&mem);
	return r;
}

static void refused(const void *p, size_t n, int code, const char *why)
{
	struct image out;
	struct err e = {0};

	assert_int_equal(load_bytes(p, n, &out, &e), code);
	assert_int_equal(e.code, code);
	if (!strstr(e.msg, why))
		fail_msg("\"%s\" does not say \"%s\"", e.msg, why);
}

static void refused_image(const struct elf_file *i, const char *why)
{
	refused(i, sizeof(*i), -EINVAL, why);
}

static void test_good(void **state)
{
	struct elf_file i = good();
	struct image out;
	struct err e;

	(void)state;
	assert_int_equal(load_bytes(&i, sizeof(i), &out, &e), 0);
	assert_true(out.entry == LOW + 16);
	assert_true(out.start == LOW);
	assert_true(out.end == LOW + 2 * BODY);
	/* a virtual entry is translated */
	i.p[0].p_vaddr = 0xffffffff81000000;
	i.h.e_entry = 0xffffffff81000020;
	assert_int_equal(load_bytes(&i, sizeof(i), &out, &e), 0);
	assert_true(out.entry == LOW + 0x20);
}

static void test_file(void **state)
{
	struct elf_file i = good();
	struct image out;
	struct mem mem;
	struct err e;
	AUTO_FD fd = memfd_create("elf", MFD_CLOEXEC);
	struct image_src src = {.fd = fd, .size = sizeof(i)};
	uint8_t byte = 0;

	(void)state;
	assert_int_equal(write_full(fd, &i, sizeof(i)), 0);
	assert_int_equal(mem_create(&mem, 4 * MIB, MEM_PRIVATE, -1, &e), 0);
	assert_int_equal(image_load(&mem, &src, LOW, &out, &e), 0);
	assert_int_equal(mem_read(&mem, LOW + BODY - 1, &byte, 1), 0);
	assert_int_equal(byte, 0xa5);
	/* shorter than it was when it was measured */
	assert_int_equal(ftruncate(fd, sizeof(i) - 1), 0);
	assert_true(image_load(&mem, &src, LOW, &out, &e) < 0);
	mem_destroy(&mem);
}

static void test_header(void **state)
{
	struct elf_file i = good();

	(void)state;
	i.h.e_ident[1] = 'L';
	refused_image(&i, "neither an ELF image nor a bzImage");
	i = good();
	i.h.e_ident[EI_CLASS] = ELFCLASS32;
	refused_image(&i, "64-bit");
	i = good();
	i.h.e_machine = EM_AARCH64;
	refused_image(&i, "x86-64");
	i = good();
	i.h.e_type = ET_REL;
	refused_image(&i, "no executable");
	i = good();
	i.h.e_phentsize = 1;
	refused_image(&i, "program headers");
	i = good();
	i.h.e_phnum = 0;
	refused_image(&i, "program headers");
	i = good();
	i.h.e_phnum = 0xffff;
	refused_image(&i, "program headers");
	i = good();
	i.h.e_phoff = ~0ULL - 10;
	refused_image(&i, "outside the file");
	i = good();
	i.h.e_entry = LOW - 1;
	refused_image(&i, "entry");
	i = good();
	i.h.e_entry = LOW + 2 * BODY;
	refused_image(&i, "entry");
}

static void test_segments(void **state)
{
	struct elf_file i = good();

	(void)state;
	i.p[1].p_type = PT_INTERP;
	refused_image(&i, "interpreter");
	i = good();
	i.p[0].p_filesz = i.p[0].p_memsz + 1;
	refused_image(&i, "do not exist");
	i = good();
	i.p[0].p_offset = ~0ULL;
	refused_image(&i, "do not exist");
	i = good();
	i.p[0].p_offset += 1;
	refused_image(&i, "do not exist");
	i = good();
	i.p[0].p_paddr = LOW - 1;
	refused_image(&i, "boot data");
	i = good();
	i.p[0].p_paddr = 4 * MIB - BODY;
	refused_image(&i, "outside the machine's memory");
	i = good();
	i.p[0].p_paddr = ~0ULL - BODY;
	refused_image(&i, "outside the machine's memory");
	i = good();
	i.p[0].p_memsz = ~0ULL;
	refused_image(&i, "outside the machine's memory");
	i = good();
	i.p[0].p_type = PT_NULL;
	refused_image(&i, "nothing to load");
	i = good();
	i.p[1].p_offset = ~0ULL;
	i.p[1].p_filesz = 16;
	refused_image(&i, "notes lie outside");
	i.p[1].p_filesz = 1 * MIB;
	refused_image(&i, "notes have");
}

static void test_other_kinds(void **state)
{
	uint8_t bz[0x400] = {0};
	static const uint8_t gz[] = {0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0,
		0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
		0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
		0, 0, 0, 0, 0, 0, 0, 0, 0, 0};

	(void)state;
	memcpy(bz + 0x202, "HdrS", 4);
	refused(bz, sizeof(bz), -EOPNOTSUPP, "boot protocol");
	refused(gz, sizeof(gz), -EINVAL, "gzip");
}

static void test_truncated(void **state)
{
	struct elf_file i = good();
	struct image out;
	struct err e;

	(void)state;
	for (size_t n = 0; n < sizeof(i); n++)
		assert_int_equal(load_bytes(&i, n, &out, &e), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_good),
		cmocka_unit_test(test_file),
		cmocka_unit_test(test_header),
		cmocka_unit_test(test_segments),
		cmocka_unit_test(test_other_kinds),
		cmocka_unit_test(test_truncated),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
