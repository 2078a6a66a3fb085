/* SHA-256: FIPS 180-4. */
#ifndef THAW_CORE_GUEST_SHA256_H
#define THAW_CORE_GUEST_SHA256_H

#include "core/guest/lib.h"

void sha256(const void *p, size_t n, uint8_t out[32]);

#endif
