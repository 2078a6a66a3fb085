/* The processor, for people: the metadata of a snapshot. */
#include "core/arch.h"
#include "core/mp.h"

#include <cpuid.h>
#include <string.h>

static void pack_leaf(msgpack_packer *p, const char *name, uint32_t leaf)
{
	uint32_t r[4] = {0};

	/* a leaf that is not there reads as zero */
	if (!__get_cpuid_count(leaf, 0, &r[0], &r[1], &r[2], &r[3]))
		memset(r, 0, sizeof(r));
	mp_str(p, name);
	(void)msgpack_pack_array(p, 4);
	for (int i = 0; i < 4; i++)
		(void)msgpack_pack_uint32(p, r[i]);
}

/* Intel SDM volume 2, CPUID: leaves 0 and 0x80000002-4 hold text. */
void arch_cpu_describe(msgpack_packer *p)
{
	uint32_t r[4] = {0};
	char vendor[13] = {0};
	char model[49] = {0};

	if (__get_cpuid(0, &r[0], &r[1], &r[2], &r[3])) {
		memcpy(vendor, &r[1], 4);
		memcpy(vendor + 4, &r[3], 4);
		memcpy(vendor + 8, &r[2], 4);
	}
	for (uint32_t i = 0; i < 3; i++) {
		if (__get_cpuid(0x80000002 + i, &r[0], &r[1], &r[2], &r[3]))
			memcpy(model + i * sizeof(r), r, sizeof(r));
	}
	(void)msgpack_pack_map(p, 5);
	mp_key_str(p, "vendor", vendor);
	mp_key_str(p, "model", model);
	pack_leaf(p, "cpuid_1", 1);
	pack_leaf(p, "cpuid_7", 7);
	pack_leaf(p, "cpuid_80000001", 0x80000001);
}
