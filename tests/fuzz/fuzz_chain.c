/*
 * A chain of two: the input is a diff, its parent a sound full snapshot. The
 * diff is given the parent's identity and right checksums, so that what lies
 * behind them is reached: chunks of both files, codecs, references to the
 * parent's data. Nothing may crash; a diff that verifies must be the same when
 * it is merged and when it is written anew.
 */
#include "core/vcpu.h"
#include "snapshot/snap.h"
#include "tests/fuzz/snap_seal.h"
#include "tests/fuzz/snap_use.h"
#include "tests/unit/test.h"
#include "tests/unit/snap_fake.h"

#include <errno.h>
#include <sys/mman.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* global: made once, every input uses it */
static int parent_fd = -1;
static struct snap_peeked parent;

static void make_parent(void)
{
	struct machine m;
	struct err e;

	if (parent_fd >= 0)
		return;
	fake_machine(&m, 4 * MIB, MEM_PRIVATE);
	fake_page(&m, 0x1000);
	fake_page(&m, 0x3000);
	fake_page(&m, 0x104000);
	parent_fd = fake_snapshot(&m);
	machine_destroy(&m);
	if (snap_peek(parent_fd, &parent, &e))
		abort();
}

/* Written anew, it holds what it held. */
static void rewrite(struct snap *diff, bool keep_diff)
{
	struct snap_rewrite_opts o = {
		.keep_diff = keep_diff, .zstd_level = keep_diff ? 1 : 0};
	int fd[2] = {memfd_create("copy", MFD_CLOEXEC), parent_fd};
	unsigned n = keep_diff ? 2 : 1;
	struct snap_written w;
	struct snap *s[2];

	if (fd[0] < 0)
		abort();
	if (!snap_rewrite(diff, fd[0], &o, &w, NULL)) {
		if (snap_open_chain(fd, n, s, NULL) ||
			!snap_use_same(diff, s[0]))
			abort();
		snap_close_chain(s, n);
	}
	(void)close(fd[0]);
}

static void load(struct snap *s)
{
	struct mem mem;

	if (mem_create(&mem, 4 * MIB, MEM_PRIVATE, -1, NULL))
		abort();
	(void)!snap_load_memory(s, &mem, 0, NULL);
	mem_destroy(&mem);
}

static void use(int fd)
{
	int fds[2] = {fd, parent_fd};
	struct snap_verified v;
	struct snap *s[2];

	if (snap_open_chain(fds, 2, s, NULL))
		return;
	load(s[0]);
	if (!snap_verify(s[0], 0, &v, NULL, NULL, NULL)) {
		rewrite(s[0], false);
		rewrite(s[0], true);
	}
	snap_close_chain(s, 2);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint64_t length = align_up(size, 4096);
	AUTO_FD fd = memfd_create("fuzz", MFD_CLOEXEC);
	AUTO_FREE uint8_t *copy = malloc(size + 1);
	struct snap_header h;

	make_parent();
	if (fd < 0 || !copy)
		abort();
	if (size < sizeof(h) || length != size)
		return 0;
	memcpy(copy, data, size);
	memcpy(&h, copy, sizeof(h));
	h.flags |= SNAP_FLAG_DIFF;
	h.file_length = length;
	memcpy(h.parent_uuid, parent.uuid.b, 16);
	memcpy(h.parent_digest, parent.digest, 16);
	memcpy(copy, &h, sizeof(h));
	snap_seal(copy, size);
	if (pwrite_full(fd, copy, size, 0))
		abort();
	use(fd);
	return 0;
}
