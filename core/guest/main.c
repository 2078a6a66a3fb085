/*
 * The guest from CPL 3 on: find memory and the device, run the init hook, then
 * serve for ever.
 */
#include "core/guest/agent.h"
#include "core/guest/boot.h"
#include "core/guest/clock.h"
#include "core/guest/cpu.h"
#include "core/guest/function.h"
#include "core/guest/heap.h"
#include "core/guest/vsock.h"

/* struct boot_params: Documentation/arch/x86/zero-page.rst */
#define BP_E820_ENTRIES 0x1e8
#define BP_CMD_LINE_PTR 0x228
#define BP_E820_TABLE   0x2d0
#define E820_RAM        1
#define E820_MAX        128

struct e820_entry {
	uint64_t addr, size;
	uint32_t type;
} __attribute__((packed));

#define CMDLINE_MAX 4096
#define HOLE_START  0xc0000000ULL
#define HIGH_START  0x100000000ULL

extern uint8_t image_end[];

/* global: the kernel command line, borrowed from the loader */
static const char *cmdline HOT;

const char *fn_option(const char *key, size_t *n)
{
	const char *p = cmdline, *end = cmdline + CMDLINE_MAX;
	size_t klen = strlen(key);

	while (p < end && *p) {
		const char *word = p;

		while (p < end && *p && *p != ' ')
			p++;
		if ((size_t)(p - word) > klen && word[klen] == '=' &&
			!memcmp(word, key, klen)) {
			*n = (size_t)(p - word) - klen - 1;
			return word + klen + 1;
		}
		while (p < end && *p == ' ')
			p++;
	}
	return NULL;
}

static COLD _Noreturn void give_up(const char *what)
{
	struct ident *id = ident_page();
	size_t n = strlen(what);

	if (n >= sizeof(id->crash))
		n = sizeof(id->crash) - 1;
	memcpy(id->crash, what, n);
	id->crash[n] = '\0';
	fn_console("guest: ", 7);
	fn_console(what, n);
	fn_console("\n", 1);
	door_event(DOOR_EV_CRASH);
	for (;;)
		door_wait(DOOR_FOREVER);
}

/* "0x..." at s. False: something else. */
static COLD bool get_hex(const char *s, size_t n, uint64_t *v)
{
	if (n < 3 || s[0] != '0' || s[1] != 'x')
		return false;
	*v = 0;
	for (size_t i = 2; i < n; i++) {
		unsigned c = (uint8_t)s[i];

		if (c >= '0' && c <= '9')
			c -= '0';
		else if ((c | 32) >= 'a' && (c | 32) <= 'f')
			c = (c | 32) - 'a' + 10;
		else
			return false;
		*v = *v << 4 | c;
	}
	return true;
}

/* "virtio_mmio.device=4K@0xd0000000:5", as for Linux. */
static COLD uint64_t device_address(void)
{
	uint64_t addr;
	size_t n, start = 0, end;
	const char *s = fn_option("virtio_mmio.device", &n);

	while (s && start < n && s[start++] != '@')
		;
	end = start;
	while (s && end < n && s[end] != ':')
		end++;
	return s && get_hex(s + start, end - start, &addr) ? addr : 0;
}

static COLD void check_identity_page(void)
{
	uint64_t addr;
	size_t n;
	const char *s = fn_option("thaw.ident", &n);

	if (!s || !get_hex(s, n, &addr) || addr != IDENT_GPA ||
		ident_page()->magic != IDENT_MAGIC)
		give_up("no identity page where this guest expects it");
}

/* Present, writable, user, accessed, dirty, 2 MiB: SDM 3A 4.5. */
#define PTE_LARGE 0xe7ULL

static COLD void map_high(uint64_t *pd, uint32_t npd)
{
	for (uint64_t i = 0; i < npd * 512ULL; i++)
		pd[i] = (HIGH_START + (i << 21)) | PTE_LARGE;
}

static COLD void add_memory(
	const uint8_t *params, const uint64_t *pd, uint32_t npd)
{
	uint64_t high_end = HIGH_START + ((uint64_t)npd << 30);
	unsigned n = params[BP_E820_ENTRIES];

	for (unsigned i = 0; i < n && i < E820_MAX; i++) {
		struct e820_entry e;
		uint64_t end;

		memcpy(&e, params + BP_E820_TABLE + i * sizeof(e), sizeof(e));
		end = e.addr + e.size;
		if (e.type != E820_RAM || end < e.addr)
			continue;
		if (e.addr < (uintptr_t)image_end)
			e.addr = (uintptr_t)image_end;
		if (e.addr < HOLE_START && end > (uintptr_t)pd && npd)
			end = (uintptr_t)pd;
		if (e.addr >= HIGH_START && end > high_end)
			end = high_end;
		if (end <= HOLE_START || e.addr >= HIGH_START)
			heap_add(e.addr, end);
	}
}

static COLD void start_device(void)
{
	uint64_t size = vsock_memory(heap_room()), addr = device_address();
	const char *wrong;
	uint8_t *mem;

	if (!addr)
		give_up("no virtio_mmio.device= on the command line");
	mem = heap_alloc(size);
	if (!mem)
		give_up("too little memory");
	wrong = vsock_init(addr, mem, size);
	if (wrong)
		give_up(wrong);
}

static COLD void init(const uint8_t *params)
{
	static const char ready[] = "thaw guest ready\n";
	struct fn_ctx fn = {0};
	uint32_t ptr;

	memcpy(&ptr, params + BP_CMD_LINE_PTR, sizeof(ptr));
	cmdline = ptr ? (const char *)(uintptr_t)ptr : "";
	check_identity_page();
	start_device();
	if (function_init(&fn))
		give_up(fn.error ? fn.error : "the init hook failed");
	fn_console(ready, sizeof(ready) - 1);
}

_Noreturn void guest_main(
	const uint8_t *params, uint32_t have_clock, uint64_t *pd, uint32_t npd)
{
	clock_init(have_clock);
	map_high(pd, npd);
	add_memory(params, pd, npd);
	init(params);
	for (;;) {
		bool any = vsock_poll();

		any |= agent_run();
		if (!any)
			vsock_wait();
	}
}
