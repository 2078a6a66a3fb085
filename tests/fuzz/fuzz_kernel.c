/* A kernel image that nobody vouches for, of any kind. What loads must lie in
 * memory, and so must what is said about it. */
#include "core/arch/x86/image.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define LOW (1 * MIB)
#define MEM (16 * MIB)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const uint8_t empty[1];
	struct image_src src = {
		.buf = size ? data : empty, .fd = -1, .size = size};
	struct image out;
	struct mem mem;
	struct err e;
	int probed = image_probe(&src, &out, &e);

	if (mem_create(&mem, MEM, MEM_PRIVATE, -1, &e))
		return 0;
	/* What is refused unseen is not loaded either. */
	if (!image_load(&mem, &src, LOW, &out, &e) &&
		(probed || out.start < LOW || out.end > MEM ||
			out.entry < out.start || out.entry >= out.end))
		abort();
	mem_destroy(&mem);
	return 0;
}
