/*
 * State tables: what a device or vCPU saves, declared once.
 *
 * Three things stand next to each other in one .c file: the saved struct
 * (fixed-width unsigned integers and byte arrays only, no pointers, no fds, no
 * padding), its table, and the code that uses it. Saving, restoring,
 * inspecting, the truncation and fuzz tests and the test that every byte of
 * the struct is named exactly once all run from the table.
 *
 * On the wire a struct is a msgpack map: "v" (the struct's version), then one
 * entry per field under its stable name; a field with a count of 1 is the
 * value itself, else an array of exactly that many. Loading fills missing
 * fields with their default and ignores unknown ones. It refuses with -EBADMSG
 * and the path of the field: a version of 0 or above the table's own, a field
 * that is newer than the map's version, one that is there twice, a wrong type,
 * a number that does not fit, a wrong length. Fields are only ever appended;
 * changing one needs a new version.
 */
#ifndef THAW_CORE_STATE_H
#define THAW_CORE_STATE_H

#include "core/err.h"
#include "core/mp.h"

enum st_kind {
	ST_UINT,  /* uint8_t .. uint64_t, one or an array of them */
	ST_BYTES, /* fixed-size byte array, a msgpack bin */
	ST_BLOB,  /* up to .size bytes, the length in use in a uint32_t field */
	ST_SUB,   /* one or more structs with a table of their own */
	ST_NKINDS_
};

struct st_desc;

struct st_field {
	const char *name; /* wire name; never changes */
	enum st_kind kind;
	uint16_t since;      /* first version that carries it, from 1 */
	uint32_t offset;     /* in the struct */
	uint32_t size;       /* of one element; for ST_BLOB: capacity */
	uint32_t count;      /* elements; 1 for a plain field */
	uint32_t len_offset; /* ST_BLOB: the uint32_t with the length */
	uint64_t def;        /* ST_UINT: value when the field is missing */
	const struct st_desc *sub; /* ST_SUB */
};

struct st_desc {
	const char *name; /* "virtio-vsock" */
	uint32_t size;    /* sizeof the struct */
	uint16_t version; /* what st_save() writes; from 1 */
	uint16_t nfields;
	const struct st_field *fields;
	/* After all fields are in place, before any use: do the values make
	 * sense together? May be NULL. Sees hostile values. */
	int (*check)(const void *state, struct err *e);
};

/* Rows. _Generic refuses pointers, signed, bool and float members. */
#define ST_WIDTH_(lv)                                                          \
	_Generic((lv), uint8_t : 1, uint16_t : 2, uint32_t : 4, uint64_t : 8)
#define ST_U(type, member, ver) ST_UDEF(type, member, ver, 0)
#define ST_UDEF(type, member, ver, dflt)                                       \
	{                                                                      \
		.name = #member, .kind = ST_UINT, .since = (ver),              \
		.offset = offsetof(type, member),                              \
		.size = ST_WIDTH_(((type *)0)->member), .count = 1,            \
		.def = (dflt)                                                  \
	}
#define ST_ARR(type, member, ver)                                              \
	{                                                                      \
		.name = #member, .kind = ST_UINT, .since = (ver),              \
		.offset = offsetof(type, member),                              \
		.size = ST_WIDTH_(((type *)0)->member[0]),                     \
		.count = ARRAY_SIZE(((type *)0)->member)                       \
	}
#define ST_RAW(type, member, ver)                                              \
	{                                                                      \
		.name = #member, .kind = ST_BYTES, .since = (ver),             \
		.offset = offsetof(type, member),                              \
		.size = sizeof(((type *)0)->member), .count = 1                \
	}
#define ST_VAR(type, member, len_member, ver)                                  \
	{                                                                      \
		.name = #member, .kind = ST_BLOB, .since = (ver),              \
		.offset = offsetof(type, member),                              \
		.size = sizeof(((type *)0)->member), .count = 1,               \
		.len_offset = offsetof(type, len_member)                       \
	}
#define ST_SUBS(type, member, desc, n, ver)                                    \
	{                                                                      \
		.name = #member, .kind = ST_SUB, .since = (ver),               \
		.offset = offsetof(type, member),                              \
		.size = sizeof(((type *)0)->member) / (n), .count = (n),       \
		.sub = (desc)                                                  \
	}

/* Append the struct as a msgpack map to buf; -ENOMEM. */
int st_save(const struct st_desc *d, const void *state,
	msgpack_sbuffer *buf) MUST_USE;
/* Fill the struct from exactly len bytes; on error its content is undefined
 * but initialised. */
int st_load(const struct st_desc *d, void *state, const void *buf, size_t len,
	struct err *e) MUST_USE;
/* For tests: add 1 to hits[i] for every byte i of the struct a field names
 * (a blob's length field included). */
void st_coverage(const struct st_desc *d, uint8_t *hits);

#endif
