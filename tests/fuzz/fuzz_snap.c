/*
 * A snapshot file of any bytes: as it is, and with all checksums made right,
 * so that what lies behind them is reached. Nothing may crash; what verify
 * accepts, a machine of its configuration must be able to load or refuse.
 */
#include "core/vcpu.h"
#include "snapshot/format.h"
#include "snapshot/snap.h"
#include "tests/fuzz/snap_seal.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#define MEMORY_MAX (64 * MIB)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

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
	snap_seal(copy, size);
	read_all(fd, copy, size);
	return 0;
}
