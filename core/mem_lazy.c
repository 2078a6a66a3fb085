#include "core/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

/*
 * How it works
 *
 * The mapping of memory that is not complete starts out inaccessible, all of
 * it. Long runs of zeros get anonymous memory over them at once; what is left
 * between them is .paged, which uffd_arm() registers before mem_lazy_open()
 * lets anybody touch it. So no path, not even a mistake, leads from a guest or
 * a device to a hole of the base that nobody watches.
 *
 * The seals say what a base is: F_SEAL_FUTURE_WRITE means that the pager, and
 * only the pager, still fills it; F_SEAL_WRITE that it is complete.
 */
#define LAZY_SEALS (F_SEAL_FUTURE_WRITE | F_SEAL_GROW | F_SEAL_SHRINK)

static int base_check(int fd, uint64_t size, struct err *e)
{
	struct stat st;
	int seals;

	if (fstat(fd, &st))
		return err_sys(e, -errno, "lazy base");
	seals = fcntl(fd, F_GET_SEALS);
	if (seals < 0 || (seals & LAZY_SEALS) != LAZY_SEALS)
		return err_set(e, -EINVAL,
			"the lazy base can be written by others than its "
			"pager");
	if (st.st_size < 0 || (uint64_t)st.st_size != size)
		return err_set(e, -EINVAL,
			"the lazy base has %lld bytes, the machine needs %llu",
			(long long)st.st_size, (unsigned long long)size);
	return 0;
}

int mem_lazy_map(struct mem *m, int fd, struct err *e)
{
	int flags = MAP_PRIVATE | MAP_NORESERVE | MAP_FIXED;
	void *p;
	int r;

	if (fd >= 0) {
		r = base_check(fd, m->size, e);
		if (r)
			return r;
		m->fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
		if (m->fd < 0)
			return err_sys(e, -errno, "lazy base");
	} else {
		flags |= MAP_ANONYMOUS;
	}
	p = mmap(m->map, m->size, PROT_NONE, flags, m->fd, 0);
	if (p == MAP_FAILED)
		return err_sys(e, -errno, "mapping the lazy base");
	m->paged = malloc((MEM_MAX_HOLES + 1) * sizeof(*m->paged));
	if (!m->paged)
		return err_set(e, -ENOMEM, "no memory for a lazy machine");
	m->paged[0] = (struct mem_range){0, m->size};
	m->npaged = 1;
	return 0;
}

/* The shortest run that may become a mapping, so that there are not too many.
 */
static uint64_t shortest(const struct mem_range *zero, unsigned n)
{
	uint64_t min = MEM_HOLE_MIN;

	for (;; min *= 2) {
		unsigned count = 0;

		for (unsigned i = 0; i < n; i++)
			count += zero[i].end - zero[i].start >= min;
		if (count <= MEM_MAX_HOLES)
			return min;
	}
}

int mem_lazy_zero(
	struct mem *m, const struct mem_range *zero, unsigned n, struct err *e)
{
	uint64_t min = shortest(zero, n), at = 0;

	if (m->backing != MEM_LAZY)
		return err_set(e, -EINVAL, "this memory has no pager");
	m->npaged = 0;
	for (unsigned i = 0; i < n; i++) {
		uint64_t len = zero[i].end - zero[i].start;
		void *p;

		if (zero[i].start < at || zero[i].end < zero[i].start ||
			zero[i].end > m->size || zero[i].start % PAGE_SIZE_4K ||
			len % PAGE_SIZE_4K)
			return err_set(e, -EINVAL, "bad run of zeros");
		if (len < min)
			continue;
		p = mmap(m->map + zero[i].start, len, PROT_NONE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED,
			-1, 0);
		if (p == MAP_FAILED)
			return err_sys(e, -errno, "mapping zero memory");
		if (zero[i].start > at)
			m->paged[m->npaged++] =
				(struct mem_range){at, zero[i].start};
		at = zero[i].end;
	}
	if (at < m->size)
		m->paged[m->npaged++] = (struct mem_range){at, m->size};
	(void)madvise(m->map, m->size, MADV_NOHUGEPAGE);
	return 0;
}

int mem_lazy_open(struct mem *m, struct err *e)
{
	if (mprotect(m->map, m->size, PROT_READ | PROT_WRITE))
		return err_sys(e, -errno, "opening lazy memory");
	return 0;
}

bool mem_is_complete(const struct mem *m)
{
	int seals;

	if (m->backing != MEM_LAZY || m->complete)
		return true;
	if (m->fd < 0)
		return false;
	seals = fcntl(m->fd, F_GET_SEALS);
	return seals >= 0 && (seals & F_SEAL_WRITE);
}
