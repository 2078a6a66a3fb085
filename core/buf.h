/*
 * A byte queue that gives memory back: appended at the end, consumed from the
 * front, released when empty. Small contents live in the heap; large ones in a
 * mapping of their own, so that a thousand machines that once carried a big
 * payload do not keep it in a thousand heaps. No thread safety.
 */
#ifndef THAW_CORE_BUF_H
#define THAW_CORE_BUF_H

#include "core/util.h"

struct buf {
	uint8_t *p; /* owned; NULL when empty */
	size_t cap;
	size_t off; /* consumed so far */
	size_t len; /* bytes waiting from off */
};

static inline const uint8_t *buf_data(const struct buf *b)
{
	return b->p ? b->p + b->off : NULL;
}

/* Room for n more bytes without further allocation; -ENOMEM. */
int buf_reserve(struct buf *b, size_t n) MUST_USE;
int buf_append(struct buf *b, const void *data, size_t n) MUST_USE;
/* Drop n bytes (at most len) from the front. */
void buf_consume(struct buf *b, size_t n);
void buf_free(struct buf *b);

#endif
