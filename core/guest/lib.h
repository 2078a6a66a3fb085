/*
 * What the guest has instead of a C library. The first five have the standard
 * meaning (compilers call them by themselves). Also compiled for the host by
 * unit tests, with the host's own versions of those.
 */
#ifndef THAW_CORE_GUEST_LIB_H
#define THAW_CORE_GUEST_LIB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef THAW_GUEST
void *memcpy(void *restrict dst, const void *restrict src, size_t n);
void *memmove(void *dst, const void *src, size_t n);
void *memset(void *dst, int c, size_t n);
int memcmp(const void *a, const void *b, size_t n);
size_t strlen(const char *s);
/* Data used on the way from a clone's start to its answer: one page, shared
 * with the top of the stack. Zero at boot. */
#define HOT __attribute__((section(".bss.hot")))
/* The two pages behind it. */
#define HOT_IO __attribute__((section(".bss.io"), aligned(4096)))
#else
#include <string.h>
#define HOT
#define HOT_IO __attribute__((aligned(4096)))
#endif

/* Not called on the way to an answer: goes behind all that is. */
#define COLD __attribute__((cold, noinline, section(".text.cold")))

/* Set to zero, even when nothing reads it again. */
void wipe(void *p, size_t n);
/* Is s[0..n) this string? */
bool str_is(const char *s, size_t n, const char *what);
/* Digits of v at dst (at most 20, no NUL); returns how many. */
size_t put_dec(char *dst, uint64_t v);
/* 2 * n lower-case digits. */
void put_hex(char *dst, const uint8_t *src, size_t n);
/* All of s[0..n) is one decimal number that fits 64 bits. */
bool get_dec(const char *s, size_t n, uint64_t *v);

#endif
