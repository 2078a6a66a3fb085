/*
 * Inspection, shared by inspect.c (header, sections, the answer) and
 * inspect_mem.c (memory).
 */
#ifndef THAW_SNAPSHOT_INSPECT_H
#define THAW_SNAPSHOT_INSPECT_H

#include "snapshot/internal.h"

#define INSPECT_MAX_ERRORS 32

struct inspect {
	struct snap s;
	const struct snap_inspect_opts *o; /* borrowed */
	msgpack_packer *out;               /* what is packed into right now */
	uint32_t keys; /* how many keys the overview has so far */
	struct err errors[INSPECT_MAX_ERRORS];
	unsigned nerrors;
	unsigned more;             /* errors beyond that */
	uint64_t real_size;        /* of the file */
	bool header, table, index; /* which parts are sound */
	uint8_t buf[SNAP_CHUNK_SIZE];
};

/* Note the error of a part, once; true when there was none. */
bool inspect_sound(struct inspect *in, int rc, const struct err *e);

/* The next key of the overview. */
void inspect_key(struct inspect *in, const char *name);
/* A key and a text field of the file. */
void inspect_key_text(
	msgpack_packer *p, const char *key, const char *s, size_t size);

/* inspect_state.c: the keys "config", "devices", "vcpus", "metadata",
 * "compatible". */
void inspect_states(struct inspect *in);
/* The content of one section; nil when it is not sound, or not known and not
 * msgpack. */
void inspect_state(struct inspect *in, const struct snap_section *sec);
/* A vCPU's registers by name; nil where they are not to be had. */
void inspect_vcpu(struct inspect *in, const struct snap_section *sec);

/* inspect_mem.c: the keys "memory" and, when it was asked for, "map". */
void inspect_memory(struct inspect *in);
/* What stands in the memory section: one map for each 8 MiB. */
void inspect_leaves(struct inspect *in);

#endif
