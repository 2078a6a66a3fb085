/*
 * A snapshot file of any bytes: as it is, and with all checksums made right,
 * so that what lies behind them is reached. Nothing may crash; what verify
 * accepts, a machine of its configuration must be able to load or refuse.
 */
#include "core/crc32c.h"
#include "core/vcpu.h"
#include "snapshot/format.h"
#include "snapshot/snap.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#define MEMORY_MAX (64 * MIB)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* ---- checksums, from the leaves up ---- */

static void seal_leaves(uint8_t *p, size_t size, const struct snap_section *sec)
{
	struct snap_memory m;
	uint64_t at;

	if (sec->stored_length < sizeof(m))
		return;
	memcpy(&m, p + sec->offset, sizeof(m));
	at = sec->offset + sizeof(m) +
	     (uint64_t)m.region_count * sizeof(struct snap_region);
	for (uint32_t i = 0; i < m.root_count && i < 64; i++) {
		struct snap_root r;

		if (!range_inside(at, sizeof(r), size))
			return;
		memcpy(&r, p + at, sizeof(r));
		if (r.offset && range_inside(r.offset, 4096, size))
			r.crc = crc32c(0, p + r.offset, 4096);
		memcpy(p + at, &r, sizeof(r));
		at += sizeof(r);
	}
}

static void seal(uint8_t *p, size_t size)
{
	struct snap_section sec;
	struct snap_header h;
	uint64_t at;

	if (size < sizeof(h))
		return;
	memcpy(&h, p, sizeof(h));
	at = h.section_table_offset;
	for (uint32_t i = 0; i < h.section_count && i < 64; i++) {
		if (!range_inside(at, sizeof(sec), size))
			break;
		memcpy(&sec, p + at, sizeof(sec));
		if (range_inside(sec.offset, sec.stored_length, size)) {
			if (sec.tag == SNAP_TAG_MEMORY)
				seal_leaves(p, size, &sec);
			sec.crc = crc32c(0, p + sec.offset, sec.stored_length);
		}
		memcpy(p + at, &sec, sizeof(sec));
		at += sizeof(sec);
	}
	memcpy(&h, p, sizeof(h));
	if (range_inside(h.section_table_offset, h.section_count * sizeof(sec),
		    size))
		h.section_table_crc = crc32c(0, p + h.section_table_offset,
			h.section_count * sizeof(sec));
	h.crc = crc32c(0, &h, offsetof(struct snap_header, crc));
	memcpy(p, &h, sizeof(h));
}

/* ---- everything that reads a file ---- */

static void defaults(struct machine *m)
{
	for (unsigned i = 0; i < m->ncpus; i++) {
		if (st_load(&vcpu_state_desc, m->cpu[i]->s, "\x81\xa1v\x01", 4,
			    NULL))
			abort();
	}
}

static void restore(struct snap *s)
{
	struct machine_config cfg;
	struct machine m;

	if (snap_read_config(s, &cfg, NULL) || cfg.memory > MEMORY_MAX ||
		machine_init(&m, &cfg, NULL))
		return;
	defaults(&m);
	if (!snap_load_state(s, &m, NULL) &&
		!mem_create(&m.mem, cfg.memory, MEM_PRIVATE, -1, NULL) &&
		snap_load_memory(s, &m.mem, 0, NULL) == -EFAULT)
		abort();
	machine_destroy(&m);
}

static void inspect(int fd, const char *section)
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

static void read_all(int fd, const uint8_t *data, size_t size)
{
	struct snap_verified v;
	struct snap *s;

	if (ftruncate(fd, 0) || pwrite_full(fd, data, size, 0))
		abort();
	if (!snap_open(fd, &s, NULL)) {
		if (snap_memory_size(s) <= MEMORY_MAX)
			(void)!snap_verify_fd(fd, &v, NULL, NULL, NULL);
		restore(s);
		snap_close(s);
	}
	inspect(fd, NULL);
	inspect(fd, "vcpu0");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	AUTO_FD fd = memfd_create("fuzz", MFD_CLOEXEC);
	AUTO_FREE uint8_t *copy = malloc(size + 1);
	uint64_t length = align_up(size, 4096);

	if (fd < 0 || !copy)
		abort();
	read_all(fd, data, size);
	if (size)
		memcpy(copy, data, size);
	/* a wrong length would end every other case */
	if (size >= sizeof(struct snap_header) && length == size)
		memcpy(copy + offsetof(struct snap_header, file_length),
			&length, sizeof(length));
	seal(copy, size);
	read_all(fd, copy, size);
	return 0;
}
