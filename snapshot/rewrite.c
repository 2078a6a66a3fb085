/* A new file with the content of a snapshot, or of a chain in one. */
#include "snapshot/internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static int copy_section(struct snap_front *f, const struct snap *s,
	const struct snap_section *sec, struct err *e)
{
	AUTO_FREE uint8_t *bytes = NULL;
	struct snap_section *to = &f->sec[f->n];
	bool known = snap_section_known(sec);
	msgpack_sbuffer *buf;
	int rc = known ? 0 : snap_check_unknown(sec, e);

	if (rc)
		return rc;
	if (f->n + 1 >= SNAP_FRONT_SECTIONS)
		return err_set(e, -EOPNOTSUPP, "more than %d sections",
			SNAP_FRONT_SECTIONS - 1);
	rc = known ? snap_read_section(s, sec, SNAP_MAX_STATE, &bytes, e)
		   : snap_check_codec(sec, e);
	if (rc)
		return rc;
	if (!known)
		f->from[f->n] = sec;
	buf = snap_front_section(f, sec->tag, sec->index, sec->version, "");
	memcpy(to->name, sec->name, sizeof(to->name));
	to->flags = sec->flags;
	if (known && msgpack_sbuffer_write(
			     buf, (const char *)bytes, sec->stored_length))
		return err_set(e, -ENOMEM, "snapshot: out of memory");
	return 0;
}

static int copy_sections(
	struct snap_front *f, const struct snap *s, struct err *e)
{
	int rc = 0;

	for (uint32_t i = 0; i < s->h.section_count && !rc; i++) {
		if (s->sec[i].tag != SNAP_TAG_MEMORY)
			rc = copy_section(f, s, &s->sec[i], e);
	}
	return rc;
}

static int rewrite(struct snap *s, int fd, const struct snap_rewrite_opts *o,
	struct snap_written *out, struct err *e)
{
	bool diff = o->keep_diff && (s->h.flags & SNAP_FLAG_DIFF);
	struct snap_front *f = calloc(1, sizeof(*f));
	struct snap_input_chain in;
	struct snap_memory_job job = {.in = &in.in,
		.fd = fd,
		.zstd_level = o->zstd_level,
		.threads = o->threads,
		.progress = o->progress,
		.arg = o->arg,
		.parent = diff ? s->parent : NULL,
		/* nobody is in a hurry: all of their index may be read */
		.pages = s->mem.memory_size / SNAP_PAGE_SIZE};
	int rc;

	if (!f)
		return err_set(e, -ENOMEM, "snapshot: out of memory");
	snap_front_header(
		f, &out->uuid, o->created_ns, diff ? snap_get_parent(s) : NULL);
	f->h.arch = s->h.arch;
	f->from_file = s;
	rc = copy_sections(f, s, e);
	if (!rc)
		rc = snap_input_chain(&in, s, diff, o->threads, e);
	if (!rc) {
		rc = snap_front_memory(f, &in.in, e);
		if (!rc)
			rc = snap_front_finish(f, &job, out, e);
		snap_input_chain_fini(&in);
	}
	snap_front_free(f);
	return rc;
}

int snap_rewrite(struct snap *s, int fd, const struct snap_rewrite_opts *o,
	struct snap_written *out, struct err *e)
{
	int rc = snap_check_output(fd, e);

	if (!rc && !o->keep_diff)
		rc = snap_check_chain(s, e);
	if (rc)
		return rc;
	if (o->zstd_level < 0 || o->zstd_level > SNAP_MAX_ZSTD)
		return err_set(e, -EINVAL,
			"zstd level %d: 1 to %d are possible", o->zstd_level,
			SNAP_MAX_ZSTD);
	memset(out, 0, sizeof(*out));
	out->uuid = o->uuid;
	if (snap_uuid_is_zero(&out->uuid)) {
		rc = snap_uuid_draw(&out->uuid);
		if (rc)
			return err_sys(e, rc, "drawing a uuid");
	}
	return rewrite(s, fd, o, out, e);
}
