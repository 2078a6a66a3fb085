#include "core/mem.h"
#include "core/dirty.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

/*
 * How it works
 *
 * The mapping starts at a multiple of 2 MiB inside a reservation that leaves
 * one inaccessible page on either side, so that running off either end of
 * guest memory faults instead of reaching a neighbour.
 *
 * A touch of a base's hole puts a zero page into it for everybody, for ever. So
 * a clone lays anonymous memory over holes. Each one is a VMA of its own,
 * copied by each fork of a zygote; therefore those are at least MEM_HOLE_MIN
 * long and there are at most MEM_MAX_HOLES of them. mem_seal_base() leaves no
 * others: what is too short, or too much, is filled with real zero pages. A
 * base that a pager filled keeps its short holes: they are zeros, cost nothing
 * until they are touched, and then one page for all clones.
 *
 * A clone's mapping is cut into pieces. A fork copies the page tables of a
 * piece only if the piece has private pages: what a clone has only read costs
 * nothing when it is frozen (core/freeze.h). In one piece, 1 GiB that was read,
 * with 10 MiB written in one place, takes 19 ms to fork, in pieces of 64 MiB
 * below 1 ms. A piece costs a zygote's fork some 0.2 us, so there are few.
 *
 * Pages that fallocate() reserved but nobody wrote still look like holes to
 * SEEK_DATA, so filling means writing zeros.
 */
#define MEM_PIECE_MIN  (64 * MIB)
#define MEM_MAX_PIECES 64
#define BASE_SEALS     (F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK)

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U /* linux/memfd.h, since Linux 6.3 */
#endif

/* Where an extent of a memfd starts and ends; hole or data. */
struct extent {
	uint64_t start, end;
	bool hole;
};

static void regions_set(struct mem *m, uint64_t size)
{
	uint64_t low = min_u64(size, MEM_HOLE_START);

	m->size = size;
	m->nregions = 1;
	m->region[0] = (struct mem_region){.gpa = 0, .size = low};
	if (size == low)
		return;
	m->nregions = 2;
	m->region[1] = (struct mem_region){
		.gpa = MEM_HOLE_END,
		.size = size - low,
		.offset = low,
	};
}

/* An aligned, inaccessible window with its guard pages; NULL with errno. */
static uint8_t *window_reserve(uint64_t size)
{
	uint64_t span = size + 2 * PAGE_SIZE_4K;
	uint64_t total = span + MEM_HOLE_MIN;
	uint8_t *raw, *start;
	uint64_t head, tail;

	raw = mmap(NULL, total, PROT_NONE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (raw == MAP_FAILED)
		return NULL;
	head = align_up((uintptr_t)raw + PAGE_SIZE_4K, MEM_HOLE_MIN) -
	       PAGE_SIZE_4K - (uintptr_t)raw;
	start = raw + head;
	tail = total - head - span;
	if ((head && munmap(raw, head)) ||
		(tail && munmap(start + span, tail))) {
		(void)munmap(raw, total);
		return NULL;
	}
	return start + PAGE_SIZE_4K;
}

static void window_release(uint8_t *map, uint64_t size)
{
	if (map)
		(void)munmap(map - PAGE_SIZE_4K, size + 2 * PAGE_SIZE_4K);
}

/* The next extent from pos on: 1, 0 at the end of the file, or -errno. */
static int extent_next(int fd, uint64_t pos, uint64_t size, struct extent *x)
{
	off_t data;

	if (pos >= size)
		return 0;
	data = lseek(fd, (off_t)pos, SEEK_DATA);
	if (data < 0 && errno != ENXIO)
		return -errno;
	x->start = pos;
	x->hole = data < 0 || (uint64_t)data > pos;
	if (x->hole) {
		x->end = data < 0 ? size : min_u64((uint64_t)data, size);
		return 1;
	}
	data = lseek(fd, (off_t)pos, SEEK_HOLE);
	if (data <= (off_t)pos)
		return data < 0 ? -errno : -EIO;
	x->end = min_u64((uint64_t)data, size);
	return 1;
}

static int map_anon(uint8_t *at, uint64_t size)
{
	void *p = mmap(at, size, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);

	return p == MAP_FAILED ? -errno : 0;
}

static int map_file(uint8_t *at, uint64_t size, int fd, int flags)
{
	void *p = mmap(at, size, PROT_READ | PROT_WRITE,
		flags | MAP_NORESERVE | MAP_FIXED, fd, 0);

	return p == MAP_FAILED ? -errno : 0;
}

static int base_check(int fd, uint64_t size, struct err *e)
{
	struct stat st;
	int seals;

	if (fstat(fd, &st))
		return err_sys(e, -errno, "template base");
	seals = fcntl(fd, F_GET_SEALS);
	if (seals < 0)
		return err_set(e, -EINVAL, "template base is not a memfd");
	if ((seals & BASE_SEALS) != BASE_SEALS)
		return err_set(e, -EINVAL, "template base is not sealed");
	if (st.st_size < 0 || (uint64_t)st.st_size != size)
		return err_set(e, -EINVAL,
			"template base has %lld bytes, the machine needs %llu",
			(long long)st.st_size, (unsigned long long)size);
	return 0;
}

static int map_clone(struct mem *m, int fd, struct err *e)
{
	struct extent x = {0};
	uint64_t at = 0;
	unsigned holes = 0;
	int r;

	r = base_check(fd, m->size, e);
	if (r)
		return r;
	m->paged = malloc((MEM_MAX_HOLES + 1) * sizeof(*m->paged));
	if (!m->paged)
		return err_set(e, -ENOMEM, "no memory for a clone");
	r = map_file(m->map, m->size, fd, MAP_PRIVATE);
	if (r)
		return err_sys(e, r, "mapping the template base");
	while ((r = extent_next(fd, x.end, m->size, &x)) > 0) {
		if (!x.hole || x.end - x.start < MEM_HOLE_MIN ||
			++holes > MEM_MAX_HOLES)
			continue;
		r = map_anon(m->map + x.start, x.end - x.start);
		if (r)
			return err_sys(e, r, "mapping zero memory");
		if (x.start > at)
			m->paged[m->npaged++] = (struct mem_range){at, x.start};
		at = x.end;
	}
	if (r)
		return err_sys(e, r, "looking for holes in the template base");
	if (at < m->size)
		m->paged[m->npaged++] = (struct mem_range){at, m->size};
	return 0;
}

static int builder_fd(uint64_t size)
{
	const unsigned flags = MFD_CLOEXEC | MFD_ALLOW_SEALING;
	int fd = memfd_create("thaw-base", flags | MFD_NOEXEC_SEAL);

	if (fd < 0 && errno == EINVAL) /* before 6.3 */
		fd = memfd_create("thaw-base", flags);
	if (fd < 0)
		return -errno;
	if (ftruncate(fd, (off_t)size)) {
		int r = -errno;

		(void)close(fd);
		return r;
	}
	return fd;
}

/* Neighbours of equal flags would be one mapping again: every other piece is
 * left out of core dumps, which nobody wants guest memory in anyway. */
static void split_mapping(uint8_t *map, uint64_t size)
{
	uint64_t piece = MEM_PIECE_MIN;

	while (size / piece > MEM_MAX_PIECES)
		piece *= 2;
	for (uint64_t at = piece; at < size; at += 2 * piece)
		(void)madvise(
			map + at, min_u64(piece, size - at), MADV_DONTDUMP);
}

static int mem_map(struct mem *m, int fd, struct err *e)
{
	int r = 0;

	switch (m->backing) {
	case MEM_PRIVATE:
		r = map_anon(m->map, m->size);
		break;
	case MEM_BUILDER:
		m->fd = builder_fd(m->size);
		r = m->fd < 0 ? m->fd
			      : map_file(m->map, m->size, m->fd, MAP_SHARED);
		break;
	case MEM_CLONE:
		return map_clone(m, fd, e);
	case MEM_LAZY:
		return mem_lazy_map(m, fd, e);
	}
	return r ? err_sys(e, r, "guest memory") : 0;
}

int mem_create(
	struct mem *m, uint64_t size, enum mem_backing b, int fd, struct err *e)
{
	struct mem_region *reg;
	int r;

	*m = (struct mem){.fd = -1, .uffd = -1, .backing = b};
	if (size < MEM_MIN || size > MEM_MAX || size % MEM_HOLE_MIN)
		return err_set(e, -EINVAL,
			"memory size %llu is not a multiple of 2M from 4M to "
			"1022G",
			(unsigned long long)size);
	regions_set(m, size);
	m->map = window_reserve(size);
	if (!m->map)
		return err_sys(e, -errno, "address space for guest memory");
	r = mem_map(m, fd, e);
	if (r) {
		mem_destroy(m);
		return r;
	}
	/* One touched byte must not cost each of a thousand clones 2 MiB.
	 * EINVAL only says that this kernel has no huge pages. */
	if (b != MEM_PRIVATE)
		(void)madvise(m->map, size, MADV_NOHUGEPAGE);
	if (b == MEM_CLONE)
		split_mapping(m->map, size);
	for_each_region (m, reg)
		reg->host = m->map + reg->offset;
	return 0;
}

void mem_destroy(struct mem *m)
{
	window_release(m->map, m->size);
	if (m->fd >= 0)
		(void)close(m->fd);
	dirty_free(m->dirty);
	/* Not before the mapping: what waits would read zeros. */
	if (m->uffd >= 0)
		(void)close(m->uffd);
	free(m->paged);
	*m = (struct mem){.fd = -1, .uffd = -1};
}

void *mem_at(
	const struct mem *m, gpa_t gpa, uint64_t len, enum mem_access access)
{
	const struct mem_region *r;

	for_each_region (m, r) {
		if (gpa < r->gpa || gpa - r->gpa >= r->size)
			continue;
		if (!range_inside(gpa - r->gpa, len, r->size))
			return NULL;
		if (access == MEM_WRITE && m->dirty)
			dirty_mark(m->dirty, r->offset + (gpa - r->gpa), len);
		return r->host + (gpa - r->gpa);
	}
	return NULL;
}

int mem_read(const struct mem *m, gpa_t gpa, void *dst, uint64_t len)
{
	const void *p = mem_at(m, gpa, len, MEM_READ);

	if (!p)
		return -EFAULT;
	memcpy(dst, p, len);
	return 0;
}

int mem_write(const struct mem *m, gpa_t gpa, const void *src, uint64_t len)
{
	void *p = mem_at(m, gpa, len, MEM_WRITE);

	if (!p)
		return -EFAULT;
	memcpy(p, src, len);
	return 0;
}

static bool is_zero(const uint8_t *p, uint64_t len)
{
	static const uint8_t zero[PAGE_SIZE_4K];

	for (uint64_t i = 0; i < len; i += PAGE_SIZE_4K)
		if (memcmp(p + i, zero, PAGE_SIZE_4K) != 0)
			return false;
	return true;
}

/* Is the 2 MiB block at pos zero? Looks only at pages that exist. */
static int block_is_zero(const struct mem *m, uint64_t pos)
{
	uint64_t end = pos + MEM_HOLE_MIN;
	struct extent x = {.end = pos};
	int r;

	while ((r = extent_next(m->fd, x.end, end, &x)) > 0)
		if (!x.hole && !is_zero(m->map + x.start, x.end - x.start))
			return 0;
	return r ? r : 1;
}

static int punch_zero_blocks(const struct mem *m)
{
	struct extent x = {0};
	int r;

	while ((r = extent_next(m->fd, x.end, m->size, &x)) > 0) {
		uint64_t pos;

		if (x.hole)
			continue;
		pos = align_down(x.start, MEM_HOLE_MIN);
		r = block_is_zero(m, pos);
		if (r < 0)
			return r;
		if (r && fallocate(m->fd,
				 FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
				 (off_t)pos, (off_t)MEM_HOLE_MIN))
			return -errno;
		x.end = pos + MEM_HOLE_MIN;
	}
	return r;
}

static int fill_zero(int fd, uint64_t pos, uint64_t end)
{
	static const uint8_t zero[16 * PAGE_SIZE_4K];
	int r = 0;

	for (; !r && pos < end; pos += sizeof(zero))
		r = pwrite_full(
			fd, zero, min_u64(sizeof(zero), end - pos), pos);
	return r;
}

/* The part of a hole that may stay one: whole blocks, and long enough. */
static struct extent hole_core(const struct extent *x, uint64_t min)
{
	struct extent c = {
		.start = align_up(x->start, MEM_HOLE_MIN),
		.end = align_down(x->end, MEM_HOLE_MIN),
		.hole = true,
	};

	if (c.end < c.start || c.end - c.start < min)
		c.start = c.end = x->end;
	return c;
}

/* The shortest hole length that leaves at most MEM_MAX_HOLES of them. */
static int hole_min_length(const struct mem *m, uint64_t *min)
{
	int r;

	for (*min = MEM_HOLE_MIN; *min <= m->size; *min *= 2) {
		struct extent x = {0};
		unsigned holes = 0;

		while ((r = extent_next(m->fd, x.end, m->size, &x)) > 0) {
			struct extent c = hole_core(&x, *min);

			holes += x.hole && c.end > c.start;
		}
		if (r)
			return r;
		if (holes <= MEM_MAX_HOLES)
			break;
	}
	return 0;
}

static int fill_short_holes(const struct mem *m)
{
	struct extent x = {0};
	uint64_t min;
	int r;

	r = hole_min_length(m, &min);
	if (r)
		return r;
	while ((r = extent_next(m->fd, x.end, m->size, &x)) > 0) {
		struct extent c = hole_core(&x, min);

		if (!x.hole)
			continue;
		r = fill_zero(m->fd, x.start, c.start);
		if (!r)
			r = fill_zero(m->fd, c.end, x.end);
		if (r)
			return r;
	}
	return r;
}

int mem_seal_base(struct mem *m, struct err *e)
{
	int r, fd;

	if (m->backing != MEM_BUILDER || !m->map) {
		mem_destroy(m);
		return err_set(e, -EINVAL, "this memory cannot become a base");
	}
	r = punch_zero_blocks(m);
	if (!r)
		r = fill_short_holes(m);
	/* A shared mapping would keep F_SEAL_WRITE from being set. */
	window_release(m->map, m->size);
	m->map = NULL;
	if (!r && fcntl(m->fd, F_ADD_SEALS, BASE_SEALS | F_SEAL_SEAL))
		r = -errno;
	if (r) {
		mem_destroy(m);
		return err_sys(e, r, "sealing the template base");
	}
	fd = take_fd(&m->fd);
	mem_destroy(m);
	return fd;
}
