/*
 * How it works: all state sections are made in memory first, which fixes the
 * layout of everything in front of the memory data. The memory data is
 * streamed out, and last the front goes to the start of the file in one write.
 */
#include "snapshot/internal.h"
#include "core/crc32c.h"
#include "core/vcpu.h"
#include "core/version.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define WRITER_SECTIONS (MACHINE_MAX_CPUS + MACHINE_MAX_DEVICES + 4)

/* Everything in front of the memory data. */
struct front {
	struct snap_header h;
	struct snap_memory mem;
	struct snap_section sec[WRITER_SECTIONS];
	msgpack_sbuffer
		buf[WRITER_SECTIONS]; /* owned: content of the section */
	uint32_t n;
};

/* Add a section whose content the caller writes to the returned buffer. */
static msgpack_sbuffer *section_add(struct front *f, uint64_t tag,
	uint16_t index, uint16_t version, const char *name)
{
	struct snap_section *sec = &f->sec[f->n];

	*sec = (struct snap_section){
		.tag = tag,
		.version = version,
		.flags = SNAP_SECTION_REQUIRED,
		.codec = SNAP_CODEC_RAW,
		.index = index,
	};
	(void)snprintf(sec->name, sizeof(sec->name), "%.15s", name);
	return &f->buf[f->n++];
}

static int state_add(struct front *f, msgpack_sbuffer *buf,
	const struct st_desc *d, const void *state, struct err *e)
{
	int rc = st_save(d, state, buf);

	return rc ? err_sys(e, rc, "saving %s", f->sec[f->n - 1].name) : 0;
}

static int vcpu_add(struct front *f, const struct vcpu *v, struct err *e)
{
	char name[16];

	(void)snprintf(name, sizeof(name), "vcpu%u", v->id);
	return state_add(f,
		section_add(f, SNAP_TAG_VCPU, (uint16_t)v->id,
			vcpu_state_desc.version, name),
		&vcpu_state_desc, v->s, e);
}

static int device_add(struct front *f, struct device *dev, struct err *e)
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
		section_add(f, ops->section, (uint16_t)dev->instance,
			ops->state->version, name),
		ops->state, ops->saved(dev), e);
}

static int states_add(struct front *f, const struct machine *m, struct err *e)
{
	int rc;

	rc = state_add(f,
		section_add(f, SNAP_TAG_CONFIG, 0, machine_config_desc.version,
			"config"),
		&machine_config_desc, &m->cfg, e);
	if (!rc)
		rc = state_add(f,
			section_add(f, SNAP_TAG_MACHINE, 0,
				machine_state_desc.version, "machine"),
			&machine_state_desc, &m->saved, e);
	for (unsigned i = 0; i < m->ncpus && !rc; i++)
		rc = vcpu_add(f, m->cpu[i], e);
	for (unsigned i = 0; i < m->ndevs && !rc; i++)
		rc = device_add(f, m->dev[i], e);
	return rc;
}

/* ---- the memory section ---- */

static uint32_t leaves_of(const struct mem_region *r)
{
	return (uint32_t)(align_up(r->size, SNAP_LEAF_SPAN) / SNAP_LEAF_SPAN);
}

/* With everything but what the data decides: counts, offset and the root. */
static int memory_add(struct front *f, const struct mem *mem, struct err *e)
{
	struct snap_memory head = {
		.chunk_size = (uint32_t)SNAP_CHUNK_SIZE,
		.leaf_chunks = SNAP_LEAF_CHUNKS,
		.region_count = mem->nregions,
		.memory_size = mem->size,
	};
	static const struct snap_root none;
	struct snap_region region[MEM_NREGIONS] = {0};
	msgpack_sbuffer *buf;
	int rc;

	for (unsigned i = 0; i < mem->nregions; i++) {
		region[i].gpa = mem->region[i].gpa;
		region[i].size = mem->region[i].size;
		region[i].first_leaf = head.root_count;
		region[i].leaf_count = leaves_of(&mem->region[i]);
		head.root_count += region[i].leaf_count;
	}
	buf = section_add(f, SNAP_TAG_MEMORY, 0, SNAP_MEMORY_VERSION, "memory");
	rc = msgpack_sbuffer_write(buf, (const char *)&head, sizeof(head));
	rc |= msgpack_sbuffer_write(
		buf, (const char *)region, mem->nregions * sizeof(region[0]));
	for (uint32_t i = 0; i < head.root_count && !rc; i++)
		rc = msgpack_sbuffer_write(
			buf, (const char *)&none, sizeof(none));
	return rc ? err_set(e, -ENOMEM, "snapshot: out of memory") : 0;
}

/* Write the memory data; complete the section and the file's length. */
static int memory_write(struct front *f, const struct machine *m, int fd,
	const struct snap_write_opts *o, struct err *e)
{
	uint8_t *at = (uint8_t *)f->buf[f->n - 1].data;
	struct snap_memory *head = &f->mem;
	struct snap_root *root;
	int rc;

	memcpy(head, at, sizeof(*head));
	root = calloc(head->root_count, sizeof(*root));
	if (!root)
		return err_set(e, -ENOMEM, "snapshot: out of memory");
	head->data_offset = f->h.file_length;
	rc = snap_write_memory(m, fd, o, &f->h.file_length, root, e);
	for (uint32_t i = 0; i < head->root_count; i++) {
		head->pages_present += root[i].pages_present;
		head->pages_zero += root[i].pages_zero;
	}
	/* Leaves of zeros only are not stored in a full one. */
	if (!o->parent)
		head->pages_zero =
			m->mem.size / SNAP_PAGE_SIZE - head->pages_present;
	memcpy(at, head, sizeof(*head));
	at += sizeof(*head) + m->mem.nregions * sizeof(struct snap_region);
	memcpy(at, root, head->root_count * sizeof(*root));
	free(root);
	return rc;
}

/* ---- header and layout ---- */

static void layout(struct front *f)
{
	struct snap_header *h = &f->h;
	uint64_t at = sizeof(*h);

	h->section_table_offset = at;
	h->section_count = f->n;
	at += f->n * sizeof(f->sec[0]);
	for (uint32_t i = 0; i < f->n; i++) {
		at = align_up(at, 8);
		f->sec[i].offset = at;
		f->sec[i].stored_length = f->buf[i].size;
		f->sec[i].raw_length = f->buf[i].size;
		at += f->buf[i].size;
	}
	h->file_length = align_up(at, SNAP_PAGE_SIZE);
}

static void parent_fill(struct snap_header *h, const struct snap_parent *p)
{
	h->flags |= SNAP_FLAG_DIFF;
	memcpy(h->parent_uuid, p->uuid.b, sizeof(h->parent_uuid));
	memcpy(h->parent_digest, p->digest, sizeof(h->parent_digest));
	/* A hint that does not fit is none. */
	if (p->path && strlen(p->path) < sizeof(h->parent_path))
		(void)snprintf(
			h->parent_path, sizeof(h->parent_path), "%s", p->path);
}

static void header_fill(struct snap_header *h, const struct snap_uuid *uuid)
{
	memcpy(h->magic, SNAP_MAGIC, SNAP_MAGIC_SIZE);
	h->major = SNAP_MAJOR;
	h->minor = SNAP_MINOR;
	h->min_reader_minor = 0;
	h->arch = SNAP_ARCH_HOST;
	h->page_size = SNAP_PAGE_SIZE;
	h->flags = SNAP_FLAG_COMPLETE;
	memcpy(h->uuid, uuid->b, sizeof(h->uuid));
	h->created_ns = wall_ns();
	(void)snprintf(h->writer, sizeof(h->writer), "thaw %s", THAW_VERSION);
}

static int front_write(struct front *f, int fd, struct err *e)
{
	struct snap_header *h = &f->h;
	uint64_t len = f->mem.data_offset;
	AUTO_FREE uint8_t *buf = calloc(1, len);
	int rc;

	if (!buf)
		return err_set(e, -ENOMEM, "snapshot: out of memory");
	for (uint32_t i = 0; i < f->n; i++) {
		f->sec[i].crc = crc32c(0, f->buf[i].data, f->buf[i].size);
		memcpy(buf + f->sec[i].offset, f->buf[i].data, f->buf[i].size);
	}
	h->section_table_crc = crc32c(0, f->sec, f->n * sizeof(f->sec[0]));
	memcpy(buf + h->section_table_offset, f->sec, f->n * sizeof(f->sec[0]));
	h->crc = crc32c(0, h, offsetof(struct snap_header, crc));
	memcpy(buf, h, sizeof(*h));
	rc = pwrite_full(fd, buf, len, 0);
	return rc ? err_sys(e, rc, "writing the snapshot's header") : 0;
}

static int check_may_write(const struct machine *m, int fd, struct err *e)
{
	int mode = fcntl(fd, F_GETFL);
	struct stat st;

	if (m->parked ||
		(m->state != MACHINE_NEW && m->state != MACHINE_PAUSED &&
			m->state != MACHINE_BUILT))
		return err_set(e, -EBUSY, "the machine is %s, not paused",
			m->parked ? "parked" : machine_state_name(m->state));
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

static int write_all(struct front *f, struct machine *m, int fd,
	const struct snap_write_opts *o, struct snap_written *out,
	struct err *e)
{
	struct snap_section *meta;
	msgpack_sbuffer *buf;
	int rc;

	header_fill(&f->h, &out->uuid);
	if (o->parent)
		parent_fill(&f->h, o->parent);
	rc = states_add(f, m, e);
	if (rc)
		return rc;
	meta = &f->sec[f->n];
	buf = section_add(f, SNAP_TAG_METADATA, 0, 1, "metadata");
	meta->flags = 0;
	rc = snap_pack_metadata(m, o->labels_json, buf, e);
	if (!rc)
		rc = memory_add(f, &m->mem, e);
	if (rc)
		return rc;
	layout(f);
	rc = memory_write(f, m, fd, o, e);
	if (!rc)
		rc = front_write(f, fd, e);
	if (!rc && fsync(fd))
		rc = err_sys(e, -errno, "fsync of the snapshot");
	if (!rc && snap_digest_of(&f->h, f->sec, out->digest))
		rc = err_set(e, -ENOMEM, "snapshot: out of memory");
	out->file_bytes = f->h.file_length;
	out->pages_present = f->mem.pages_present;
	out->pages_zero = f->mem.pages_zero;
	return rc;
}

int snap_write(struct machine *m, int fd, const struct snap_write_opts *o,
	struct snap_written *out, struct err *e)
{
	struct front *f;
	int rc = check_may_write(m, fd, e);

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
	for (uint32_t i = 0; i < f->n; i++)
		msgpack_sbuffer_destroy(&f->buf[i]);
	free(f);
	return rc;
}
