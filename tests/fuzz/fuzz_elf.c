/* A kernel image that nobody vouches for. What loads must lie in memory. */
#include "core/arch/x86/image.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define LOW (1 * MIB)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const uint8_t empty[1];
	struct image_src src = {
		.buf = size ? data : empty, .fd = -1, .size = size};
	struct image out;
	struct mem mem;
	struct err e;

	if (mem_create(&mem, 4 * MIB, MEM_PRIVATE, -1, &e))
		return 0;
	if (!image_load(&mem, &src, LOW, &out, &e) &&
		(out.start < LOW || out.end > 4 * MIB ||
			out.entry < out.start || out.entry >= out.end))
		abort();
	mem_destroy(&mem);
	return 0;
}
