/* Files made by an attacker: one thing changed in a good file, every checksum
 * right again. */
#ifndef THAW_TESTS_UNIT_SNAP_HOSTILE_H
#define THAW_TESTS_UNIT_SNAP_HOSTILE_H

#include "tests/unit/snap_fake.h"

struct hostile {
	const char *name;
	void (*change)(struct image *img);
	int code;
	const char *says; /* part of the message */
	bool verify_only;
	bool elsewhere; /* sound as a file; what it needs is not here */
};

extern const struct hostile hostile_cases[];
extern const size_t hostile_count;

/* A changed and sealed copy of a good image. */
void hostile_image(
	const struct hostile *h, const struct image *good, struct image *out);

#endif
