#include "core/guest/heap.h"

#define PIECES 2

/* global: the one heap */
static struct {
	uint64_t at[PIECES], end[PIECES];
	unsigned n;
} heap HOT;

COLD void heap_add(uint64_t start, uint64_t end)
{
	start = (start + 4095) & ~4095ULL;
	if (heap.n == PIECES || start >= end)
		return;
	heap.at[heap.n] = start;
	heap.end[heap.n] = end;
	heap.n++;
}

void *heap_alloc(uint64_t size)
{
	if (size > UINT64_MAX - 15)
		return NULL;
	size = (size + 15) & ~15ULL;
	for (unsigned i = 0; i < heap.n; i++) {
		uint64_t at = heap.at[i];

		if (size > heap.end[i] - at)
			continue;
		heap.at[i] = at + size;
		return (void *)(uintptr_t)at;
	}
	return NULL;
}

uint64_t heap_room(void)
{
	uint64_t max = 0;

	for (unsigned i = 0; i < heap.n; i++) {
		uint64_t room = (heap.end[i] - heap.at[i]) & ~15ULL;

		if (room > max)
			max = room;
	}
	return max;
}

uint64_t heap_left(void)
{
	uint64_t sum = 0;

	for (unsigned i = 0; i < heap.n; i++)
		sum += (heap.end[i] - heap.at[i]) & ~15ULL;
	return sum;
}

struct heap_mark heap_get_mark(void)
{
	return (struct heap_mark){{heap.at[0], heap.at[1]}};
}

void heap_reset(struct heap_mark m)
{
	heap.at[0] = m.at[0];
	heap.at[1] = m.at[1];
}
