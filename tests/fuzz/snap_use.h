/* Everything that reads a snapshot file, and the property: what is sound can be
 * written anew. For the fuzzers of whole files and of their parts. */
#ifndef THAW_TESTS_FUZZ_SNAP_USE_H
#define THAW_TESTS_FUZZ_SNAP_USE_H

#include "core/mp.h"
#include "core/vcpu.h"
#include "snapshot/snap.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#define SNAP_USE_MAX (64 * MIB) /* guest memory */

static inline void snap_use_defaults(struct machine *m)
{
	for (unsigned i = 0; i < m->ncpus; i++) {
		if (st_load(&vcpu_state_desc, m->cpu[i]->s, "\x81\xa1v\x01", 4,
			    NULL))
			abort();
	}
}

static inline void snap_use_restore(struct snap *s)
{
	struct machine_config cfg;
	struct machine m;

	if (snap_read_config(s, &cfg, NULL) || cfg.memory > SNAP_USE_MAX ||
		machine_init(&m, &cfg, NULL))
		return;
	snap_use_defaults(&m);
	if (!snap_load_state(s, &m, NULL) &&
		!mem_create(&m.mem, cfg.memory, MEM_PRIVATE, -1, NULL) &&
		snap_load_memory(s, &m.mem, 0, NULL) == -EFAULT)
		abort();
	machine_destroy(&m);
}

static inline void snap_use_inspect(int fd, const char *section)
{
	msgpack_sbuffer buf;
	msgpack_packer p;

	msgpack_sbuffer_init(&buf);
	msgpack_packer_init(&p, &buf, msgpack_sbuffer_write);
	if (!snap_inspect(fd,
		    &(struct snap_inspect_opts){
			    .section = section, .map = !section},
		    &p, NULL) &&
		mp_check(buf.data, buf.size, buf.size, &mp_default_limits) !=
			(int64_t)buf.size)
		abort();
	msgpack_sbuffer_destroy(&buf);
}

static inline bool snap_use_same(struct snap *a, struct snap *b)
{
	msgpack_sbuffer buf;
	msgpack_packer p;
	bool equal = false;

	msgpack_sbuffer_init(&buf);
	msgpack_packer_init(&p, &buf, msgpack_sbuffer_write);
	if (snap_compare(a, b, &p, &equal, NULL))
		abort();
	msgpack_sbuffer_destroy(&buf);
	return equal;
}

static inline bool snap_use_same_bytes(int a, int b)
{
	AUTO_FREE uint8_t *x = NULL;
	AUTO_FREE uint8_t *y = NULL;
	struct stat sa, sb;

	if (fstat(a, &sa) || fstat(b, &sb))
		abort();
	if (sa.st_size != sb.st_size)
		return false;
	x = malloc((size_t)sa.st_size);
	y = malloc((size_t)sa.st_size);
	if (!x || !y || pread_full(a, x, (size_t)sa.st_size, 0) ||
		pread_full(b, y, (size_t)sa.st_size, 0))
		abort();
	return !memcmp(x, y, (size_t)sa.st_size);
}

/* s anew, under its own identity; NULL when the writer cannot have it. */
static inline struct snap *snap_use_copy(struct snap *s, int level, int *fd)
{
	struct snap_rewrite_opts o = {.uuid = *snap_get_uuid(s),
		.created_ns = 4711,
		.zstd_level = level};
	struct snap_written w;
	struct snap *copy;

	*fd = memfd_create("copy", MFD_CLOEXEC);
	if (*fd < 0)
		abort();
	if (snap_rewrite(s, *fd, &o, &w, NULL))
		return NULL;
	if (snap_open(*fd, &copy, NULL))
		abort();
	return copy;
}

/* A file that verifies, and is full: written anew it holds the same, raw and
 * compressed; and what is raw and from our own writer comes out of it again as
 * the same bytes. */
static inline void snap_use_again(struct snap *s)
{
	int fd[3] = {-1, -1, -1};
	struct snap *raw = snap_use_copy(s, 0, &fd[0]), *again, *zstd;

	if (raw) {
		again = snap_use_copy(raw, 0, &fd[1]);
		zstd = snap_use_copy(raw, 1, &fd[2]);
		if (!again || !zstd || !snap_use_same(s, raw) ||
			!snap_use_same(s, zstd) ||
			!snap_use_same_bytes(fd[0], fd[1]))
			abort();
		snap_close(again);
		snap_close(zstd);
		snap_close(raw);
	}
	for (unsigned i = 0; i < 3; i++) {
		if (fd[i] >= 0)
			(void)close(fd[i]);
	}
}

/* All of it with a file of these bytes. */
static inline void snap_use(int fd, const uint8_t *data, size_t size)
{
	struct snap_verified v;
	struct snap *s;

	if (ftruncate(fd, 0) || pwrite_full(fd, data, size, 0))
		abort();
	if (!snap_open(fd, &s, NULL)) {
		if (snap_memory_size(s) <= SNAP_USE_MAX &&
			!snap_verify(s, 0, &v, NULL, NULL, NULL) &&
			!snap_get_parent(s))
			snap_use_again(s);
		snap_use_restore(s);
		snap_close(s);
	}
	snap_use_inspect(fd, NULL);
	snap_use_inspect(fd, "vcpu0");
	snap_use_inspect(fd, "memory");
}

#endif
