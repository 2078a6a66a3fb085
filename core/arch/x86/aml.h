/*
 * A small writer of AML, the byte code of ACPI tables (ACPI 6.4 chapter 20):
 * only what thaw's DSDT needs. Lengths are filled in when a block ends. The
 * buffer is the caller's; when it is full, .failed is set and nothing more is
 * written.
 */
#ifndef THAW_CORE_ARCH_X86_AML_H
#define THAW_CORE_ARCH_X86_AML_H

#include "core/err.h"

#define AML_DEPTH 8

struct aml {
	uint8_t *buf; /* borrowed */
	size_t size, len;
	bool failed;
	unsigned depth;
	size_t open[AML_DEPTH]; /* where the open blocks' contents begin */
};

void aml_raw(struct aml *a, const void *p, size_t n);
/* Integers, in the shortest form. */
void aml_int(struct aml *a, uint64_t v);
void aml_str(struct aml *a, const char *s);
/* A path of four-letter names: "_CRS", "\\_SB_", "\\_SB_.VGEN". */
void aml_path(struct aml *a, const char *path);

/* Blocks; each is closed by aml_end(). */
void aml_scope(struct aml *a, const char *path);
void aml_device(struct aml *a, const char *name);
void aml_method(struct aml *a, const char *name, unsigned nargs);
void aml_package(struct aml *a, const char *name, unsigned n);
/* if (argument 0 == v) */
void aml_if_arg0(struct aml *a, uint64_t v);
void aml_end(struct aml *a);

/* name = value */
void aml_name_int(struct aml *a, const char *name, uint64_t v);
void aml_name_str(struct aml *a, const char *name, const char *s);
/* An EISA id such as "PNP0501". */
void aml_name_eisa(struct aml *a, const char *name, const char *id);
/* name = a resource template: n bytes of descriptors, the end is added. */
void aml_name_res(
	struct aml *a, const char *name, const uint8_t *desc, size_t n);
void aml_notify(struct aml *a, const char *path, uint8_t value);

/* Resource descriptors (6.4), appended to d (room for AML_RES_MAX bytes);
 * return the new length. */
#define AML_RES_MAX 64
size_t aml_res_io(uint8_t *d, size_t n, uint16_t port, uint8_t len);
size_t aml_res_memory(uint8_t *d, size_t n, uint32_t base, uint32_t len);
/* Edge triggered, active high, not shared. */
size_t aml_res_irq(uint8_t *d, size_t n, uint32_t gsi);

#endif
