/*
 * How it works
 *
 * A page that is mapped and does not belong to a file is private: a copy that
 * was made when it was written, or anonymous memory. One in swap is private,
 * too. The exception is the zero page, which reading anonymous memory maps:
 * where there is anonymous memory in a clone, its base has a hole, so that such
 * a page is as the template has it.
 *
 * PAGEMAP_SCAN (Linux 6.7) walks page tables in the kernel and knows the zero
 * page; before that there are 8 bytes for each page, in which the zero page can
 * only be recognized by its frame number, and frame numbers are shown only to
 * CAP_SYS_ADMIN. Without it the zero page passes for private: a snapshot then
 * reads it and finds zeros, which is right and only takes time.
 */
#include "core/pagemap.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>

/* struct page_region and struct pm_scan_arg of linux/fs.h, Linux 6.7: the
 * headers of the build may be older. */
struct scan_region {
	uint64_t start, end, categories;
};
struct scan_arg {
	uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
	uint64_t category_inverted, category_mask, category_anyof_mask;
	uint64_t return_mask;
};
#define SCAN          _IOWR('f', 16, struct scan_arg)
#define SCAN_FILE     (1ULL << 2)
#define SCAN_PRESENT  (1ULL << 3)
#define SCAN_SWAPPED  (1ULL << 4)
#define SCAN_PFNZERO  (1ULL << 5)
#define SCAN_AT_ONCE  256
#define ENTRY_PRESENT (1ULL << 63)
#define ENTRY_SWAPPED (1ULL << 62)
#define ENTRY_FILE    (1ULL << 61) /* of a file, or shared */
#define ENTRY_PFN     ((1ULL << 55) - 1)
#define ENTRIES       2048

static void set_bits(uint64_t *bits, uint64_t page, uint64_t end)
{
	for (; page < end; page++) {
		if (page % 64 == 0 && end - page >= 64) {
			bits[page / 64] = ~0ULL;
			page += 63;
		} else {
			bits[page / 64] |= 1ULL << page % 64;
		}
	}
}

/* 1: done; 0: this kernel has no such call. */
static int scan(const struct mem *m, int fd, uint64_t *bits)
{
	struct scan_region found[SCAN_AT_ONCE];
	uint64_t base = (uintptr_t)m->map;
	struct scan_arg a = {.size = sizeof(a),
		.start = base,
		.end = base + m->size,
		.vec = (uintptr_t)found,
		.vec_len = SCAN_AT_ONCE,
		.category_inverted = SCAN_FILE | SCAN_PFNZERO,
		.category_mask = SCAN_FILE | SCAN_PFNZERO,
		.category_anyof_mask = SCAN_PRESENT | SCAN_SWAPPED,
		.return_mask = SCAN_PRESENT};

	while (a.start < a.end) {
		int n = ioctl(fd, SCAN, &a);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && (errno == ENOTTY || errno == EINVAL))
			return 0;
		if (n < 0)
			return -errno;
		for (int i = 0; i < n && i < SCAN_AT_ONCE; i++) {
			if (found[i].start < base || found[i].end > a.end ||
				found[i].end < found[i].start)
				return -EIO;
			set_bits(bits, (found[i].start - base) / PAGE_SIZE_4K,
				(found[i].end - base) / PAGE_SIZE_4K);
		}
		if (a.walk_end <= a.start)
			return -EIO;
		a.start = a.walk_end;
	}
	return 1;
}

static bool is_private(uint64_t entry, uint64_t zero_pfn)
{
	if ((entry & ENTRY_FILE) || !(entry & (ENTRY_PRESENT | ENTRY_SWAPPED)))
		return false;
	return !zero_pfn || !(entry & ENTRY_PRESENT) ||
	       (entry & ENTRY_PFN) != zero_pfn;
}

int pagemap_private_bits(const struct mem *m, int fd, uint64_t zero_pfn,
	uint64_t *bits, struct err *e)
{
	uint64_t first = (uintptr_t)m->map / PAGE_SIZE_4K;
	uint64_t total = m->size / PAGE_SIZE_4K, n;
	uint64_t *entry = malloc(ENTRIES * sizeof(*entry));
	int r = entry ? 0 : -ENOMEM;

	for (uint64_t at = 0; !r && at < total; at += n) {
		n = min_u64(total - at, ENTRIES);
		r = pread_full(fd, entry, n * sizeof(*entry),
			(first + at) * sizeof(*entry));
		for (uint64_t i = 0; !r && i < n; i++) {
			if (is_private(entry[i], zero_pfn))
				set_bits(bits, at + i, at + i + 1);
		}
	}
	free(entry);
	return r ? err_sys(e, r, "reading the page map") : 0;
}

int pagemap_private(const struct mem *m, int fd, uint64_t *bits, struct err *e)
{
	int r = scan(m, fd, bits);

	if (r < 0)
		return err_sys(e, r, "scanning the page map");
	return r ? 0 : pagemap_private_bits(m, fd, 0, bits, e);
}

int pagemap_content(const struct mem *m, int fd, uint64_t *bits, struct err *e)
{
	if (m->backing == MEM_BUILDER)
		return err_set(e, -EINVAL, "shared memory has no page map");
	/* Below a clone's own pages lies its base, where it has one. */
	for (unsigned i = 0; i < m->npaged; i++)
		set_bits(bits, m->paged[i].start / PAGE_SIZE_4K,
			m->paged[i].end / PAGE_SIZE_4K);
	return pagemap_private(m, fd, bits, e);
}
