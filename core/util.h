/* Small helpers that every folder uses. Nothing here keeps state. */
#ifndef THAW_CORE_UTIL_H
#define THAW_CORE_UTIL_H

#include <stddef.h>
#include <stdint.h>
#include <stdbool.h>
#include <unistd.h>
#include <stdlib.h>

#define MUST_USE      __attribute__((warn_unused_result))
#define PRINTF(f, a)  __attribute__((format(printf, f, a)))
#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

#define KIB (1024ULL)
#define MIB (1024ULL * 1024)
#define GIB (1024ULL * 1024 * 1024)

#define PAGE_SIZE_4K 4096ULL

#define container_of(ptr, type, member)                                        \
	((type *)(void *)((char *)(ptr)-offsetof(type, member)))

/* Sums that come from a guest or a file: true when a + b does not fit. */
static inline bool add_overflows(uint64_t a, uint64_t b, uint64_t *sum)
{
	return __builtin_add_overflow(a, b, sum);
}

/* Is [off, off + len) inside [0, size)? Safe for any values. */
static inline bool range_inside(uint64_t off, uint64_t len, uint64_t size)
{
	return off <= size && len <= size - off;
}

static inline uint64_t align_up(uint64_t v, uint64_t to)
{
	return (v + to - 1) & ~(to - 1);
}

static inline uint64_t align_down(uint64_t v, uint64_t to)
{
	return v & ~(to - 1);
}

static inline uint64_t min_u64(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

/* AUTO_FD / AUTO_FREE: for locals whose only clean-up is close or free. */
static inline void auto_close_(int *fd)
{
	if (*fd >= 0)
		(void)close(*fd);
}

static inline void auto_free_(void *p)
{
	free(*(void **)p);
}

#define AUTO_FD   __attribute__((cleanup(auto_close_))) int
#define AUTO_FREE __attribute__((cleanup(auto_free_)))

/* Take the fd out of an AUTO_FD variable: the caller owns it now. */
static inline int take_fd(int *fd)
{
	int v = *fd;

	*fd = -1;
	return v;
}

/* CLOCK_MONOTONIC, nanoseconds. */
uint64_t now_ns(void);
/* CLOCK_REALTIME, nanoseconds since 1970. */
uint64_t wall_ns(void);

/* Read or write the whole length; -errno, or -EIO when the end comes first. */
int read_full(int fd, void *buf, size_t len) MUST_USE;
int write_full(int fd, const void *buf, size_t len) MUST_USE;
int pread_full(int fd, void *buf, size_t len, uint64_t off) MUST_USE;
int pwrite_full(int fd, const void *buf, size_t len, uint64_t off) MUST_USE;

/* Threads that start from now on allocate from the process's one heap. The C
 * library makes others for threads, and before one of those gets smaller it
 * opens a file of /proc: a filter that knows no paths ends the process then. */
void one_heap(void);

/* "128M", "4G", "65536" (bytes) -> bytes; -EINVAL or -ERANGE. */
int parse_size(const char *s, uint64_t *bytes) MUST_USE;

#endif
