/* Counting and sorting text, as wc and sort do in the C locale. */
#ifndef THAW_CORE_GUEST_TEXT_H
#define THAW_CORE_GUEST_TEXT_H

#include "core/guest/lib.h"

struct text_counts {
	uint64_t lines, words, bytes;
};

/* Lines are newline bytes. A word is a run of bytes without white space that
 * has a printable one in it, as in GNU wc 9. */
struct text_counts text_count(const uint8_t *p, size_t n);

struct text_line {
	const uint8_t *p;
	size_t n; /* without the newline */
};

/* Lines of p; the last one may lack its newline. */
size_t text_lines(const uint8_t *p, size_t n);
void text_split(const uint8_t *p, size_t n, struct text_line *line);
/* Stable; tmp has room for n lines. Bytewise order. */
void text_sort(struct text_line *line, struct text_line *tmp, size_t n);

#endif
