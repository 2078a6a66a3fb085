/*
 * Random bytes: ChaCha20 with fast key erasure. Seeds are mixed in by replacing
 * the key with ChaCha20's output under (key xor seed), so a fresh secret seed
 * makes the state secret whatever was known before; that is what makes a
 * clone's numbers its own.
 */
#ifndef THAW_CORE_GUEST_DRBG_H
#define THAW_CORE_GUEST_DRBG_H

#include "core/guest/lib.h"

struct drbg {
	uint32_t key[8];
};

/* RFC 8439 section 2.3 */
void chacha20_block(const uint32_t key[8], uint32_t counter,
	const uint32_t nonce[3], uint8_t out[64]);

void drbg_mix(struct drbg *d, const void *seed, size_t n);
void drbg_fill(struct drbg *d, void *out, size_t n);

/* The guest's own generator. */
void random_mix(const void *seed, size_t n);
/* Mix the identity page's seed in when there is one, and wipe it. */
void random_take_seed(void);
/* Takes that seed first. */
void random_fill(void *out, size_t n);

#endif
