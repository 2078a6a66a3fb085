/*
 * CRC-32C (Castagnoli): polynomial 0x1EDC6F41 reflected, initial value and
 * final xor 0xffffffff; RFC 3720 section B.4. Stateless, any thread.
 */
#ifndef THAW_CORE_CRC32C_H
#define THAW_CORE_CRC32C_H

#include "core/util.h"

/* Of the bytes so far (crc, 0 at the start) followed by these. */
uint32_t crc32c(uint32_t crc, const void *data, size_t len);
/* The same from a table, on any processor. */
uint32_t crc32c_table(uint32_t crc, const void *data, size_t len);

/* arch: false when this processor has no instruction for it. *crc as in
 * crc32c(). */
bool arch_crc32c(uint32_t *crc, const void *data, size_t len);

#endif
