/* Writing a snapshot of a machine: its state, and its memory. */
#include "snapshot/internal.h"
#include "core/vcpu.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static int state_add(struct snap_front *f, msgpack_sbuffer *buf,
	const struct st_desc *d, const void *state, struct err *e)
{
	int rc = st_save(d, state, buf);

	return rc ? err_sys(e, rc, "saving %s", f->sec[f->n - 1].name) : 0;
}

static int vcpu_add(struct snap_front *f, const struct vcpu *v, struct err *e)
{
	char name[16];

	(void)snprintf(name, sizeof(name), "vcpu%u", v->id);
	return state_add(f,
		snap_front_section(f, SNAP_TAG_VCPU, (uint16_t)v->id,
			vcpu_state_desc.version, name),
		&vcpu_state_desc, v->s, e);
}

static int device_add(struct snap_front *f, struct device *dev, struct err *e)
{
	const struct device_ops *ops = dev->ops;
	char name[32];

	/* "block", "block1", "block2"; cut to what the table has room for */
	if (dev->instance)
		(void)snprintf(
			name, sizeof(name), "%s%u", ops->name, dev->instance);
	else
		(void)snprintf(name, sizeof(name), "%s", ops->name);
	return state_add(f,
		snap_front_section(f, ops->section, (uint16_t)dev->instance,
			ops->state->version, name),
		ops->state, ops->saved(dev), e);
}

static int states_add(
	struct snap_front *f, const struct machine *m, struct err *e)
{
	int rc;

	rc = state_add(f,
		snap_front_section(f, SNAP_TAG_CONFIG, 0,
			machine_config_desc.version, "config"),
		&machine_config_desc, &m->cfg, e);
	if (!rc)
		rc = state_add(f,
			snap_front_section(f, SNAP_TAG_MACHINE, 0,
				machine_state_desc.version, "machine"),
			&machine_state_desc, &m->saved, e);
	for (unsigned i = 0; i < m->ncpus && !rc; i++)
		rc = vcpu_add(f, m->cpu[i], e);
	for (unsigned i = 0; i < m->ndevs && !rc; i++)
		rc = device_add(f, m->dev[i], e);
	return rc;
}

int snap_check_output(int fd, struct err *e)
{
	int mode = fcntl(fd, F_GETFL);
	struct stat st;

	if (mode < 0 || fstat(fd, &st))
		return err_sys(e, -errno, "snapshot file");
	/* pwrite(2): there every write goes to the end, whatever its place. */
	if (mode & O_APPEND)
		return err_set(
			e, -EINVAL, "snapshot file: is open for appending");
	if (!S_ISREG(st.st_mode) || st.st_size)
		return err_set(
			e, -EINVAL, "snapshot file: not an empty regular file");
	return 0;
}

static int check_may_write(const struct machine *m, int fd, struct err *e)
{
	if (m->parked ||
		(m->state != MACHINE_NEW && m->state != MACHINE_PAUSED &&
			m->state != MACHINE_BUILT))
		return err_set(e, -EBUSY, "the machine is %s, not paused",
			m->parked ? "parked" : machine_state_name(m->state));
	return snap_check_output(fd, e);
}

static uint64_t count_pages(const uint64_t *bits, uint64_t size)
{
	uint64_t n = 0;

	for (uint64_t i = 0; i < size / SNAP_PAGE_SIZE / 64; i++)
		n += (uint64_t)__builtin_popcountll(bits[i]);
	return n;
}

static int write_all(struct snap_front *f, struct machine *m, int fd,
	const struct snap_write_opts *o, struct snap_written *out,
	struct err *e)
{
	struct snap_input_mem in;
	struct snap_memory_job job = {.in = &in.in,
		.fd = fd,
		.zstd_level = o->zstd_level,
		.threads = o->threads,
		.progress = o->progress,
		.arg = o->arg,
		.parent = o->ancestors};
	struct snap_section *meta;
	msgpack_sbuffer *buf;
	int rc;

	snap_front_header(f, &out->uuid, o->created_ns, o->parent);
	rc = states_add(f, m, e);
	if (rc)
		return rc;
	meta = &f->sec[f->n];
	buf = snap_front_section(f, SNAP_TAG_METADATA, 0, 1, "metadata");
	meta->flags = 0;
	rc = snap_pack_metadata(m, o->labels_json, buf, e);
	snap_input_mem(&in, &m->mem, o);
	if (o->ancestors)
		job.pages = count_pages(o->pages, m->mem.size);
	if (!rc)
		rc = snap_front_memory(f, &in.in, e);
	return rc ? rc : snap_front_finish(f, &job, out, e);
}

static bool is_parent(const struct snap *s, const struct snap_parent *p)
{
	uint8_t digest[16];

	return p && !memcmp(s->h.uuid, p->uuid.b, sizeof(s->h.uuid)) &&
	       !snap_digest(s, digest) &&
	       !memcmp(digest, p->digest, sizeof(digest));
}

static int check_opts(const struct snap_write_opts *o, struct err *e)
{
	if (o->parent && !o->pages)
		return err_set(
			e, -EINVAL, "a diff needs to be told which pages");
	if (o->ancestors && !is_parent(o->ancestors, o->parent))
		return err_set(e, -EINVAL, "ancestors of another snapshot");
	if (o->zstd_level < 0 || o->zstd_level > SNAP_MAX_ZSTD)
		return err_set(e, -EINVAL,
			"zstd level %d: 1 to %d are possible", o->zstd_level,
			SNAP_MAX_ZSTD);
	return 0;
}

int snap_write(struct machine *m, int fd, const struct snap_write_opts *o,
	struct snap_written *out, struct err *e)
{
	struct snap_front *f;
	int rc = check_opts(o, e);

	if (!rc)
		rc = check_may_write(m, fd, e);
	if (rc)
		return rc;
	memset(out, 0, sizeof(*out));
	out->uuid = o->uuid;
	if (snap_uuid_is_zero(&out->uuid)) {
		rc = snap_uuid_draw(&out->uuid);
		if (rc)
			return err_sys(e, rc, "drawing a uuid");
	}
	f = calloc(1, sizeof(*f));
	if (!f)
		return err_set(e, -ENOMEM, "snapshot: out of memory");
	rc = write_all(f, m, fd, o, out, e);
	snap_front_free(f);
	return rc;
}
