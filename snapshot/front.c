/*
 * Everything in front of the memory data: header, section table, sections.
 *
 * How it works: all sections are made in memory first, which fixes the layout
 * of everything in front of the memory data. The memory data is streamed out,
 * and last the front goes to the start of the file in one write.
 */
#include "snapshot/internal.h"
#include "core/crc32c.h"
#include "core/version.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Add a section whose content the caller writes to the returned buffer. */
msgpack_sbuffer *snap_front_section(struct snap_front *f, uint64_t tag,
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

/* With everything but what the data decides: counts, offset and the root. */
int snap_front_memory(
	struct snap_front *f, const struct snap_input *in, struct err *e)
{
	struct snap_memory head = {
		.chunk_size = (uint32_t)SNAP_CHUNK_SIZE,
		.leaf_chunks = SNAP_LEAF_CHUNKS,
		.region_count = in->regions,
		.root_count = in->roots,
	};
	static const struct snap_root none;
	msgpack_sbuffer *buf;
	int rc;

	for (uint32_t i = 0; i < in->regions; i++)
		head.memory_size += in->region[i].size;
	buf = snap_front_section(
		f, SNAP_TAG_MEMORY, 0, SNAP_MEMORY_VERSION, "memory");
	rc = msgpack_sbuffer_write(buf, (const char *)&head, sizeof(head));
	rc |= msgpack_sbuffer_write(buf, (const char *)in->region,
		in->regions * sizeof(in->region[0]));
	for (uint32_t i = 0; i < head.root_count && !rc; i++)
		rc = msgpack_sbuffer_write(
			buf, (const char *)&none, sizeof(none));
	return rc ? err_set(e, -ENOMEM, "snapshot: out of memory") : 0;
}

/* Write the memory data; complete the section and the file's length. */
static int memory_write(
	struct snap_front *f, struct snap_memory_job *job, struct err *e)
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
	rc = snap_write_memory(job, &f->h.file_length, root, e);
	for (uint32_t i = 0; i < head->root_count; i++) {
		head->pages_present += root[i].pages_present;
		head->pages_zero += root[i].pages_zero;
	}
	if (!job->in->diff)
		head->pages_zero = head->memory_size / SNAP_PAGE_SIZE -
				   head->pages_present;
	memcpy(at, head, sizeof(*head));
	at += sizeof(*head) + head->region_count * sizeof(struct snap_region);
	memcpy(at, root, head->root_count * sizeof(*root));
	free(root);
	return rc;
}

/* ---- header and layout ---- */

static void place(struct snap_section *sec, uint64_t length, uint64_t *at)
{
	sec->offset = align_up(*at, 8);
	sec->stored_length = sec->raw_length = length;
	*at = sec->offset + length;
}

/* What is copied comes last, so that the rest is one write. */
static void layout(struct snap_front *f)
{
	struct snap_header *h = &f->h;
	uint64_t at = sizeof(*h);

	h->section_table_offset = at;
	h->section_count = f->n;
	at += f->n * sizeof(f->sec[0]);
	for (uint32_t i = 0; i < f->n; i++) {
		if (!f->from[i])
			place(&f->sec[i], f->buf[i].size, &at);
	}
	f->end = at;
	for (uint32_t i = 0; i < f->n; i++) {
		if (f->from[i])
			place(&f->sec[i], f->from[i]->stored_length, &at);
	}
	h->file_length = align_up(at, SNAP_PAGE_SIZE);
}

void snap_front_header(struct snap_front *f, const struct snap_uuid *uuid,
	uint64_t created_ns, const struct snap_parent *parent)
{
	struct snap_header *h = &f->h;

	memcpy(h->magic, SNAP_MAGIC, SNAP_MAGIC_SIZE);
	h->major = SNAP_MAJOR;
	h->arch = SNAP_ARCH_HOST;
	h->page_size = SNAP_PAGE_SIZE;
	h->flags = SNAP_FLAG_COMPLETE;
	memcpy(h->uuid, uuid->b, sizeof(h->uuid));
	h->created_ns = created_ns ? created_ns : wall_ns();
	(void)snprintf(h->writer, sizeof(h->writer), "thaw %s", THAW_VERSION);
	if (!parent)
		return;
	h->flags |= SNAP_FLAG_DIFF;
	memcpy(h->parent_uuid, parent->uuid.b, 16);
	memcpy(h->parent_digest, parent->digest, 16);
	/* A hint that does not fit is none. */
	if (parent->path && strlen(parent->path) < sizeof(h->parent_path))
		(void)snprintf(h->parent_path, sizeof(h->parent_path), "%s",
			parent->path);
}

/* The checksum is the original's, and must be that of what was copied. */
static int copy_content(struct snap_front *f, uint32_t i, int fd, struct err *e)
{
	const struct snap_section *from = f->from[i];
	AUTO_FREE uint8_t *buf = malloc(SNAP_CHUNK_SIZE);
	uint32_t crc = 0;
	uint64_t len;
	int rc = 0;

	if (!buf)
		return err_set(e, -ENOMEM, "snapshot: out of memory");
	for (uint64_t at = 0; !rc && at < from->stored_length; at += len) {
		len = min_u64(from->stored_length - at, SNAP_CHUNK_SIZE);
		rc = snap_pread(
			f->from_file->fd, buf, len, from->offset + at, e);
		if (rc)
			break;
		crc = crc32c(crc, buf, len);
		rc = pwrite_full(fd, buf, len, f->sec[i].offset + at);
		if (rc)
			rc = err_sys(e, rc, "writing the snapshot's sections");
	}
	if (!rc && crc != from->crc)
		rc = snap_bad(e, from->offset, from->stored_length,
			"section %.16s: checksum mismatch", from->name);
	f->sec[i].crc = crc;
	return rc;
}

static int copy_contents(struct snap_front *f, int fd, struct err *e)
{
	int rc = 0;

	for (uint32_t i = 0; i < f->n && !rc; i++) {
		if (f->from[i])
			rc = copy_content(f, i, fd, e);
	}
	return rc;
}

static int front_write(struct snap_front *f, int fd, struct err *e)
{
	struct snap_header *h = &f->h;
	uint64_t len = f->end;
	AUTO_FREE uint8_t *buf = calloc(1, len);
	int rc;

	if (!buf)
		return err_set(e, -ENOMEM, "snapshot: out of memory");
	for (uint32_t i = 0; i < f->n; i++) {
		if (f->from[i])
			continue;
		f->sec[i].crc = crc32c(0, f->buf[i].data, f->buf[i].size);
		memcpy(buf + f->sec[i].offset, f->buf[i].data, f->buf[i].size);
	}
	h->section_table_crc = crc32c(0, f->sec, f->n * sizeof(f->sec[0]));
	memcpy(buf + h->section_table_offset, f->sec, f->n * sizeof(f->sec[0]));
	h->crc = crc32c(0, h, offsetof(struct snap_header, crc));
	memcpy(buf, h, sizeof(*h));
	/* The output may have made room behind the end. */
	rc = ftruncate(fd, (off_t)h->file_length) ? -errno : 0;
	if (!rc)
		rc = pwrite_full(fd, buf, len, 0);
	return rc ? err_sys(e, rc, "writing the snapshot's header") : 0;
}

int snap_front_finish(struct snap_front *f, struct snap_memory_job *job,
	struct snap_written *out, struct err *e)
{
	struct snap_header *h = &f->h;
	int rc;

	/* Who cannot read chains or zstd must know at once; all others may. */
	if ((h->flags & SNAP_FLAG_DIFF) || job->zstd_level)
		h->minor = h->min_reader_minor = SNAP_MINOR_CHAINS;
	layout(f);
	rc = memory_write(f, job, e);
	if (!rc)
		rc = copy_contents(f, job->fd, e);
	if (!rc)
		rc = front_write(f, job->fd, e);
	if (!rc && fsync(job->fd))
		rc = err_sys(e, -errno, "fsync of the snapshot");
	memcpy(out->uuid.b, h->uuid, sizeof(out->uuid.b));
	if (!rc && snap_digest_of(h, f->sec, out->digest))
		rc = err_set(e, -ENOMEM, "snapshot: out of memory");
	out->file_bytes = h->file_length;
	out->pages_present = f->mem.pages_present;
	out->pages_zero = f->mem.pages_zero;
	out->pages_shared = job->pages_shared;
	return rc;
}

void snap_front_free(struct snap_front *f)
{
	for (uint32_t i = 0; f && i < f->n; i++)
		msgpack_sbuffer_destroy(&f->buf[i]);
	free(f);
}
