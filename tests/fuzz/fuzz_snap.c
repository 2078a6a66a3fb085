/*
 * A snapshot file of any bytes: as it is, and with all checksums made right,
 * so that what lies behind them is reached. Nothing may crash; what verify
 * accepts, a machine of its configuration must be able to load or refuse, and
 * it can be written anew (snap_use.h).
 */
#include "snapshot/format.h"
#include "tests/fuzz/snap_seal.h"
#include "tests/fuzz/snap_use.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	AUTO_FD fd = memfd_create("fuzz", MFD_CLOEXEC);
	AUTO_FREE uint8_t *copy = malloc(size + 1);
	uint64_t length = align_up(size, 4096);

	if (fd < 0 || !copy)
		abort();
	snap_use(fd, data, size);
	if (size)
		memcpy(copy, data, size);
	/* a wrong length would end every other case */
	if (size >= sizeof(struct snap_header) && length == size)
		memcpy(copy + offsetof(struct snap_header, file_length),
			&length, sizeof(length));
	snap_seal(copy, size);
	snap_use(fd, copy, size);
	return 0;
}
