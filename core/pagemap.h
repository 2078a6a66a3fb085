/*
 * Which pages of guest memory are a machine's own: written since its memory was
 * mapped, and so different from what lies under the mapping (the template's
 * base, or nothing).
 *
 * /proc/PID/pagemap (Linux Documentation/admin-guide/mm/pagemap.rst) says that
 * about any process whose file one may open; a jailed one is handed it. It is
 * of the memory that the process had when it was opened.
 */
#ifndef THAW_CORE_PAGEMAP_H
#define THAW_CORE_PAGEMAP_H

#include "core/mem.h"

/* Set the bits (one per 4 KiB page of m->map, as in core/dirty.h) of all pages
 * that are private to the mapping m->map of the process that fd is the pagemap
 * of; others stay as they are. Pages that are swapped out are among them. The
 * shared zero page is not, where the kernel tells (6.7, or with CAP_SYS_ADMIN
 * when fd was opened): elsewhere a page that was only read may be among them.
 */
int pagemap_private(
	const struct mem *m, int fd, uint64_t *bits, struct err *e) MUST_USE;
/* As above for all pages that may hold anything but zeros: what a full snapshot
 * has to read. Not for MEM_BUILDER, whose memory is a file's. */
int pagemap_content(
	const struct mem *m, int fd, uint64_t *bits, struct err *e) MUST_USE;

/* The slow way, for tests and for kernels before 6.7. zero_pfn: page frame of
 * the shared zero page, 0 when it is not known. */
int pagemap_private_bits(const struct mem *m, int fd, uint64_t zero_pfn,
	uint64_t *bits, struct err *e) MUST_USE;

#endif
