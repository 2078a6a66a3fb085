/*
 * Header and section table: checksum first, then every field for range and
 * meaning.
 */
#include "snapshot/internal.h"
#include "core/crc32c.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>

int snap_bad(struct err *e, uint64_t offset, uint64_t len, const char *fmt, ...)
{
	char text[300];
	va_list ap;

	va_start(ap, fmt);
	(void)vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	if (!len)
		return err_set(e, -EBADMSG, "%s", text);
	return err_set(e, -EBADMSG, "bytes %llu-%llu: %s",
		(unsigned long long)offset,
		(unsigned long long)(offset + len - 1), text);
}

int snap_pread(int fd, void *buf, uint64_t len, uint64_t offset, struct err *e)
{
	int rc = pread_full(fd, buf, len, offset);

	if (rc == -EIO)
		return snap_bad(e, offset, len, "the file ends before");
	if (rc)
		return err_sys(e, rc, "bytes %llu-%llu: read",
			(unsigned long long)offset,
			(unsigned long long)(offset + len - 1));
	return 0;
}

bool snap_is_zero(const void *p, size_t len)
{
	const uint8_t *b = p;

	return len == 0 || (b[0] == 0 && memcmp(b, b + 1, len - 1) == 0);
}

/* A text field: printable ASCII, then zero bytes to the end. */
static bool is_text(const char *s, size_t size)
{
	size_t n = strnlen(s, size);

	for (size_t i = 0; i < n; i++) {
		if (s[i] < ' ' || s[i] > '~')
			return false;
	}
	return snap_is_zero(s + n, size - n);
}

bool snap_uuid_is_zero(const struct snap_uuid *u)
{
	return snap_is_zero(u->b, sizeof(u->b));
}

void snap_uuid_str(const struct snap_uuid *u, char out[SNAP_UUID_STR])
{
	char *p = out;

	for (int i = 0; i < 16; i++) {
		if (i == 4 || i == 6 || i == 8 || i == 10)
			*p++ = '-';
		(void)snprintf(p, 3, "%02x", u->b[i]);
		p += 2;
	}
}

int snap_uuid_draw(struct snap_uuid *u)
{
	ssize_t n = getrandom(u->b, sizeof(u->b), 0);

	if (n < 0)
		return -errno;
	if (n != (ssize_t)sizeof(u->b))
		return -EIO;
	u->b[6] = (uint8_t)((u->b[6] & 0x0f) | 0x40); /* RFC 4122: random */
	u->b[8] = (uint8_t)((u->b[8] & 0x3f) | 0x80);
	return 0;
}

/* ---- header ---- */

#define AT(field)                                                              \
	offsetof(struct snap_header, field),                                   \
		sizeof(((struct snap_header *)0)->field)

static int check_version(const struct snap_header *h, struct err *e)
{
	if (h->major == SNAP_MAJOR && h->min_reader_minor <= SNAP_MINOR)
		return 0;
	return err_set(e, -EOPNOTSUPP,
		"snapshot format version %u.%u%s, this thaw reads up to %u.%u",
		h->major, h->minor,
		h->major == SNAP_MAJOR ? " (needs a newer reader)" : "",
		SNAP_MAJOR, SNAP_MINOR);
}

static int check_flags(const struct snap_header *h, struct err *e)
{
	bool parent =
		!snap_is_zero(h->parent_uuid, sizeof(h->parent_uuid)) ||
		!snap_is_zero(h->parent_digest, sizeof(h->parent_digest)) ||
		!snap_is_zero(h->parent_path, sizeof(h->parent_path));

	if (h->flags & ~SNAP_FLAGS_KNOWN)
		return err_set(e, -EOPNOTSUPP,
			"snapshot flags 0x%x unsupported by this version",
			h->flags);
	if (!(h->flags & SNAP_FLAG_COMPLETE))
		return snap_bad(e, AT(flags), "the file was never finished");
	if (!(h->flags & SNAP_FLAG_DIFF) && parent)
		return snap_bad(e, AT(parent_uuid),
			"a parent in a snapshot that is no diff");
	if ((h->flags & SNAP_FLAG_DIFF) &&
		snap_is_zero(h->parent_uuid, sizeof(h->parent_uuid)))
		return snap_bad(e, AT(parent_uuid), "a diff without parent");
	if ((h->flags & SNAP_FLAG_DIFF) &&
		h->min_reader_minor < SNAP_MINOR_CHAINS)
		return snap_bad(e, AT(min_reader_minor),
			"a diff for readers that know none");
	if (!memcmp(h->parent_uuid, h->uuid, sizeof(h->uuid)))
		return snap_bad(
			e, AT(parent_uuid), "the snapshot is its own parent");
	return 0;
}

static int check_header(const struct snap_header *h, struct err *e)
{
	uint64_t table =
		(uint64_t)h->section_count * sizeof(struct snap_section);
	size_t path = strnlen(h->parent_path, sizeof(h->parent_path));

	if (h->arch != SNAP_ARCH_X86_64 && h->arch != SNAP_ARCH_AARCH64)
		return snap_bad(e, AT(arch), "architecture %u", h->arch);
	if (h->page_size != SNAP_PAGE_SIZE)
		return snap_bad(e, AT(page_size), "page size %u", h->page_size);
	if (snap_is_zero(h->uuid, sizeof(h->uuid)))
		return snap_bad(e, AT(uuid), "no uuid");
	if (!is_text(h->writer, sizeof(h->writer)))
		return snap_bad(e, AT(writer), "not a text");
	if (path == sizeof(h->parent_path))
		return snap_bad(e, AT(parent_path), "not terminated");
	if (!snap_is_zero(h->parent_path + path, sizeof(h->parent_path) - path))
		return snap_bad(e, AT(parent_path), "something behind its end");
	if (!snap_is_zero(h->reserved, sizeof(h->reserved)))
		return snap_bad(e, AT(reserved), "reserved bytes are in use");
	if (!h->section_count || h->section_count > SNAP_MAX_SECTIONS)
		return snap_bad(
			e, AT(section_count), "%u sections", h->section_count);
	if (h->file_length % SNAP_PAGE_SIZE)
		return snap_bad(e, AT(file_length), "not a multiple of 4096");
	if (h->section_table_offset % 8 ||
		h->section_table_offset < sizeof(*h) ||
		!range_inside(h->section_table_offset, table, h->file_length))
		return snap_bad(e, AT(section_table_offset),
			"the section table is not inside the file");
	return check_flags(h, e);
}

int snap_read_header(struct snap *s, struct err *e)
{
	struct snap_header *h = &s->h;
	uint64_t size;
	struct stat st;
	int rc;

	if (fstat(s->fd, &st))
		return err_sys(e, -errno, "snapshot");
	if (!S_ISREG(st.st_mode))
		return err_set(e, -EINVAL, "snapshot: not a regular file");
	size = (uint64_t)st.st_size;
	if (size < sizeof(*h))
		return snap_bad(e, 0, 0,
			"%llu bytes are too few for a snapshot (cut short?)",
			(unsigned long long)size);
	rc = snap_pread(s->fd, h, sizeof(*h), 0, e);
	if (rc)
		return rc;
	if (memcmp(h->magic, SNAP_MAGIC, SNAP_MAGIC_SIZE))
		return snap_bad(e, AT(magic), "not a thaw snapshot");
	if (crc32c(0, h, offsetof(struct snap_header, crc)) != h->crc)
		return snap_bad(e, 0, sizeof(*h), "header: checksum mismatch");
	rc = check_version(h, e);
	if (!rc)
		rc = check_header(h, e);
	if (rc)
		return rc;
	memcpy(s->parent_id.uuid.b, h->parent_uuid, 16);
	memcpy(s->parent_id.digest, h->parent_digest, 16);
	s->parent_id.path = h->parent_path;
	if (size < h->file_length)
		return snap_bad(e, size, h->file_length - size,
			"missing, the file is cut short");
	if (size > h->file_length)
		return snap_bad(e, h->file_length, size - h->file_length,
			"behind the end of the snapshot");
	return 0;
}

/* ---- section table ---- */

static bool overlap(uint64_t a, uint64_t alen, uint64_t b, uint64_t blen)
{
	return a < b + blen && b < a + alen;
}

static int check_section(const struct snap *s, uint32_t i, struct err *e)
{
	const struct snap_section *sec = &s->sec[i];
	uint64_t table = s->h.section_table_offset;
	uint64_t at = table + i * sizeof(*sec);

	if (!is_text(sec->name, sizeof(sec->name)))
		return snap_bad(e, at, sizeof(*sec), "section %u: name", i);
	if (!sec->tag || !sec->version || sec->reserved ||
		(sec->flags & ~SNAP_SECTION_REQUIRED))
		return snap_bad(e, at, sizeof(*sec),
			"section %.16s: bad tag, version, flags or reserved",
			sec->name);
	if (sec->offset % 8 || sec->offset < sizeof(s->h) ||
		!sec->stored_length ||
		!range_inside(
			sec->offset, sec->stored_length, s->h.file_length))
		return snap_bad(e, at, sizeof(*sec),
			"section %.16s: not inside the file", sec->name);
	if (sec->codec == SNAP_CODEC_RAW &&
		sec->raw_length != sec->stored_length)
		return snap_bad(e, at, sizeof(*sec),
			"section %.16s: two lengths", sec->name);
	if (overlap(sec->offset, sec->stored_length, table,
		    s->h.section_count * sizeof(*sec)))
		return snap_bad(e, sec->offset, sec->stored_length,
			"section %.16s overlaps the section table", sec->name);
	return 0;
}

static int check_pair(const struct snap_section *a,
	const struct snap_section *b, struct err *e)
{
	if (a->tag == b->tag && a->index == b->index)
		return snap_bad(e, b->offset, b->stored_length,
			"section %.16s is there twice", b->name);
	if (overlap(a->offset, a->stored_length, b->offset, b->stored_length))
		return snap_bad(e, b->offset, b->stored_length,
			"sections %.16s and %.16s overlap", a->name, b->name);
	return 0;
}

int snap_read_table(struct snap *s, struct err *e)
{
	uint64_t len = s->h.section_count * sizeof(*s->sec);
	int rc;

	s->sec = malloc(len);
	if (!s->sec)
		return err_set(e, -ENOMEM, "snapshot: out of memory");
	rc = snap_pread(s->fd, s->sec, len, s->h.section_table_offset, e);
	if (rc)
		goto fail;
	if (crc32c(0, s->sec, len) != s->h.section_table_crc) {
		rc = snap_bad(e, s->h.section_table_offset, len,
			"section table: checksum mismatch");
		goto fail;
	}
	for (uint32_t i = 0; i < s->h.section_count; i++) {
		rc = check_section(s, i, e);
		for (uint32_t j = 0; j < i && !rc; j++)
			rc = check_pair(&s->sec[j], &s->sec[i], e);
		if (rc)
			goto fail;
	}
	return 0;
fail:
	free(s->sec);
	s->sec = NULL;
	return rc;
}
