#include "core/arch/x86/aml.h"

#include <string.h>

/* Op codes: ACPI 6.4 table 20.2. */
enum {
	OP_ZERO = 0x00,
	OP_ONE = 0x01,
	OP_NAME = 0x08,
	OP_BYTE = 0x0a,
	OP_WORD = 0x0b,
	OP_DWORD = 0x0c,
	OP_STRING = 0x0d,
	OP_QWORD = 0x0e,
	OP_SCOPE = 0x10,
	OP_BUFFER = 0x11,
	OP_PACKAGE = 0x12,
	OP_METHOD = 0x14,
	OP_DUAL_NAME = 0x2e,
	OP_EXT = 0x5b,
	OP_EXT_DEVICE = 0x82,
	OP_ARG0 = 0x68,
	OP_NOTIFY = 0x86,
	OP_EQUAL = 0x93,
	OP_IF = 0xa0,
};

#define METHOD_SERIALIZED 0x08

void aml_raw(struct aml *a, const void *p, size_t n)
{
	if (a->failed || n > a->size - a->len) {
		a->failed = true;
		return;
	}
	memcpy(a->buf + a->len, p, n);
	a->len += n;
}

static void byte(struct aml *a, uint8_t v)
{
	aml_raw(a, &v, 1);
}

void aml_int(struct aml *a, uint64_t v)
{
	if (v <= 1) {
		byte(a, v ? OP_ONE : OP_ZERO);
	} else if (v <= UINT8_MAX) {
		byte(a, OP_BYTE);
		aml_raw(a, &v, 1);
	} else if (v <= UINT16_MAX) {
		byte(a, OP_WORD);
		aml_raw(a, &v, 2);
	} else if (v <= UINT32_MAX) {
		byte(a, OP_DWORD);
		aml_raw(a, &v, 4);
	} else {
		byte(a, OP_QWORD);
		aml_raw(a, &v, 8);
	}
}

void aml_str(struct aml *a, const char *s)
{
	byte(a, OP_STRING);
	aml_raw(a, s, strlen(s) + 1);
}

void aml_path(struct aml *a, const char *path)
{
	size_t n;

	if (*path == '\\') {
		byte(a, '\\');
		path++;
	}
	n = strlen(path);
	if (n != 4 && (n != 9 || path[4] != '.')) {
		a->failed = true;
		return;
	}
	if (n == 9)
		byte(a, OP_DUAL_NAME);
	aml_raw(a, path, 4);
	if (n == 9)
		aml_raw(a, path + 5, 4);
}

static void begin(struct aml *a)
{
	if (a->depth == AML_DEPTH)
		a->failed = true;
	else
		a->open[a->depth++] = a->len;
}

/* PkgLength (20.2.4) counts itself: one byte up to 63, else a byte with the
 * low nibble and the number of further bytes, and those. */
static size_t pkg_length(uint8_t out[4], size_t content)
{
	size_t total, n;

	if (content + 1 <= 63) {
		out[0] = (uint8_t)(content + 1);
		return 1;
	}
	n = content + 2 < 1 << 12 ? 2 : content + 3 < 1 << 20 ? 3 : 4;
	total = content + n;
	out[0] = (uint8_t)((n - 1) << 6 | (total & 0xf));
	total >>= 4;
	for (size_t i = 1; i < n; i++, total >>= 8)
		out[i] = (uint8_t)total;
	return n;
}

void aml_end(struct aml *a)
{
	uint8_t len[4];
	size_t at, n;

	if (a->failed || !a->depth) {
		a->failed = true;
		return;
	}
	at = a->open[--a->depth];
	n = pkg_length(len, a->len - at);
	if (n > a->size - a->len) {
		a->failed = true;
		return;
	}
	memmove(a->buf + at + n, a->buf + at, a->len - at);
	memcpy(a->buf + at, len, n);
	a->len += n;
}

void aml_scope(struct aml *a, const char *path)
{
	byte(a, OP_SCOPE);
	begin(a);
	aml_path(a, path);
}

void aml_device(struct aml *a, const char *name)
{
	byte(a, OP_EXT);
	byte(a, OP_EXT_DEVICE);
	begin(a);
	aml_path(a, name);
}

void aml_method(struct aml *a, const char *name, unsigned nargs)
{
	byte(a, OP_METHOD);
	begin(a);
	aml_path(a, name);
	byte(a, (uint8_t)(nargs | METHOD_SERIALIZED));
}

static void put_name(struct aml *a, const char *name)
{
	byte(a, OP_NAME);
	aml_path(a, name);
}

void aml_package(struct aml *a, const char *name, unsigned n)
{
	put_name(a, name);
	byte(a, OP_PACKAGE);
	begin(a);
	byte(a, (uint8_t)n);
}

void aml_if_arg0(struct aml *a, uint64_t v)
{
	byte(a, OP_IF);
	begin(a);
	byte(a, OP_EQUAL);
	byte(a, OP_ARG0);
	aml_int(a, v);
}

void aml_name_int(struct aml *a, const char *name, uint64_t v)
{
	put_name(a, name);
	aml_int(a, v);
}

void aml_name_str(struct aml *a, const char *name, const char *s)
{
	put_name(a, name);
	aml_str(a, s);
}

static uint32_t hex(char c)
{
	return (uint32_t)(c <= '9' ? c - '0' : c - 'A' + 10);
}

/* 19.6.35: three letters of 5 bits, four hexadecimal digits; the bytes of the
 * result stand in reverse. */
void aml_name_eisa(struct aml *a, const char *name, const char *id)
{
	uint32_t v = 0;

	for (unsigned i = 0; i < 3; i++)
		v = v << 5 | ((unsigned char)id[i] & 31U);
	for (unsigned i = 3; i < 7; i++)
		v = v << 4 | hex(id[i]);
	aml_name_int(a, name, __builtin_bswap32(v));
}

void aml_name_res(
	struct aml *a, const char *name, const uint8_t *desc, size_t n)
{
	/* 6.4.2.9: a checksum of 0 is not looked at */
	static const uint8_t end[] = {0x79, 0};

	put_name(a, name);
	byte(a, OP_BUFFER);
	begin(a);
	aml_int(a, n + sizeof(end));
	aml_raw(a, desc, n);
	aml_raw(a, end, sizeof(end));
	aml_end(a);
}

void aml_notify(struct aml *a, const char *path, uint8_t value)
{
	byte(a, OP_NOTIFY);
	aml_path(a, path);
	aml_int(a, value);
}

static size_t put(uint8_t *d, size_t n, const uint8_t *p, size_t len)
{
	if (n + len > AML_RES_MAX)
		return n;
	memcpy(d + n, p, len);
	return n + len;
}

/* 6.4.2.5: all 16 address bits are decoded; one possible base. */
size_t aml_res_io(uint8_t *d, size_t n, uint16_t port, uint8_t len)
{
	const uint8_t lo = (uint8_t)port, hi = (uint8_t)(port >> 8);
	const uint8_t r[] = {0x47, 1, lo, hi, lo, hi, 1, len};

	return put(d, n, r, sizeof(r));
}

/* 6.4.3.4: writable. */
size_t aml_res_memory(uint8_t *d, size_t n, uint32_t base, uint32_t len)
{
	uint8_t r[12] = {0x86, 9, 0, 1};

	memcpy(r + 4, &base, 4);
	memcpy(r + 8, &len, 4);
	return put(d, n, r, sizeof(r));
}

/* 6.4.3.6: this device is the consumer, edge; active high, exclusive are 0. */
size_t aml_res_irq(uint8_t *d, size_t n, uint32_t gsi)
{
	uint8_t r[9] = {0x89, 6, 0, 0x03, 1};

	memcpy(r + 5, &gsi, 4);
	return put(d, n, r, sizeof(r));
}
