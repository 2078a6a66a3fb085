#include "core/buf.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

/* From this capacity on memory comes from mmap() and goes back at once. */
#define BUF_MAP_MIN (32 * KIB)
#define BUF_MIN     256u

static uint8_t *get(size_t cap)
{
	void *p;

	if (cap < BUF_MAP_MIN)
		return malloc(cap);
	p = mmap(NULL, cap, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
		-1, 0);
	return p == MAP_FAILED ? NULL : p;
}

static void put(uint8_t *p, size_t cap)
{
	if (!p)
		return;
	if (cap < BUF_MAP_MIN)
		free(p);
	else
		(void)munmap(p, cap);
}

int buf_reserve(struct buf *b, size_t n)
{
	size_t need, cap = b->cap ? b->cap : BUF_MIN;
	uint8_t *p;

	if (__builtin_add_overflow(b->len, n, &need) || need > SIZE_MAX / 4)
		return -ENOMEM;
	if (b->p && b->cap - b->off >= n + b->len)
		return 0;
	/* Moving to the front pays only when much was consumed. */
	if (b->p && need <= b->cap && b->off >= b->len) {
		memcpy(b->p, b->p + b->off, b->len);
		b->off = 0;
		return 0;
	}
	while (cap < need)
		cap *= 2;
	if (cap >= BUF_MAP_MIN)
		cap = align_up(cap, PAGE_SIZE_4K);
	p = get(cap);
	if (!p)
		return -ENOMEM;
	if (b->p)
		memcpy(p, b->p + b->off, b->len);
	put(b->p, b->cap);
	b->p = p;
	b->cap = cap;
	b->off = 0;
	return 0;
}

int buf_append(struct buf *b, const void *data, size_t n)
{
	int r;

	if (!n)
		return 0;
	r = buf_reserve(b, n);
	if (r)
		return r;
	memcpy(b->p + b->off + b->len, data, n);
	b->len += n;
	return 0;
}

void buf_consume(struct buf *b, size_t n)
{
	if (n >= b->len) {
		buf_free(b);
		return;
	}
	b->off += n;
	b->len -= n;
}

void buf_free(struct buf *b)
{
	put(b->p, b->cap);
	*b = (struct buf){0};
}
