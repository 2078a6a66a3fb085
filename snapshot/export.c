/* Guest memory of a snapshot, or of a chain, as a plain file. */
#include "snapshot/internal.h"

#include <errno.h>
#include <unistd.h>

/* Where a leaf's bytes stand in the file: regions one behind the other, as in
 * the mapping of a machine (core/mem.h). */
static uint64_t leaf_offset(const struct snap *s, const struct snap_leaf_at *at)
{
	uint64_t before = 0;

	for (const struct snap_region *r = s->region; r != at->region; r++)
		before += r->size;
	return before + (at->gpa - at->region->gpa);
}

static int put_window(
	int fd, uint64_t at, const struct snap_got *got, struct err *e)
{
	const uint8_t *from = got->buf;
	unsigned page = 0;

	while (page < SNAP_CHUNK_PAGES) {
		unsigned run = 0;
		int rc;

		while (page + run < SNAP_CHUNK_PAGES &&
			(got->present >> (page + run) & 1))
			run++;
		rc = run ? pwrite_full(fd, from, run * SNAP_PAGE_SIZE,
				   at + page * SNAP_PAGE_SIZE)
			 : 0;
		if (rc)
			return err_sys(e, rc, "writing the memory file");
		from += run * SNAP_PAGE_SIZE;
		page += run + 1;
	}
	return 0;
}

static int put_leaf(const struct snap *s, struct snap_input *in, uint32_t i,
	int fd, struct err *e)
{
	static const uint64_t len = SNAP_CHUNK_SIZE;
	uint8_t buf[SNAP_CHUNK_SIZE];
	struct snap_leaf_at at;
	int rc = in->leaf(in, i, e);

	snap_leaf_locate(s, i, &at);
	for (uint32_t n = 0; n < at.chunks && !rc; n++) {
		struct snap_got got = {.buf = buf};

		rc = in->window(in, n, 0, &got, e);
		if (!rc && got.present)
			rc = put_window(
				fd, leaf_offset(s, &at) + n * len, &got, e);
	}
	return rc;
}

int snap_export_memory(struct snap *s, int fd,
	int (*progress)(void *arg, uint64_t done, uint64_t total), void *arg,
	struct err *e)
{
	struct snap_input_chain in;
	uint32_t roots = s->mem.root_count;
	int rc = snap_check_output(fd, e);

	if (!rc)
		rc = snap_check_chain(s, e);
	if (!rc && ftruncate(fd, (off_t)s->mem.memory_size))
		rc = err_sys(e, -errno, "length of the memory file");
	if (!rc)
		rc = snap_input_chain(&in, s, false, 0, e);
	if (rc)
		return rc;
	for (uint32_t i = 0; i < roots && !rc; i++) {
		rc = put_leaf(s, &in.in, i, fd, e);
		if (!rc && progress && progress(arg, i + 1, roots))
			rc = err_set(e, -ECANCELED, "cancelled");
	}
	snap_input_chain_fini(&in);
	if (!rc && fsync(fd))
		rc = err_sys(e, -errno, "writing the memory file");
	return rc;
}
