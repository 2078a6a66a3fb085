/*
 * The memory index: regions, root, leaves, chunks. Everything is checked when
 * it is read, so that whoever holds a struct snap_chunk may trust its fields
 * (but not its data: snap_read_chunk() checks that).
 */
#include "snapshot/internal.h"
#include "core/crc32c.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static int check_region(const struct snap *s, uint32_t i, uint32_t *leaves)
{
	const struct snap_region *r = &s->region[i];
	uint64_t end;

	if (!r->size || r->size % SNAP_CHUNK_SIZE || r->gpa % SNAP_CHUNK_SIZE ||
		add_overflows(r->gpa, r->size, &end) || r->reserved)
		return -EBADMSG;
	if (i && r->gpa < r[-1].gpa + r[-1].size)
		return -EBADMSG;
	if (r->size > SNAP_MAX_ROOTS * SNAP_LEAF_SPAN)
		return -EBADMSG;
	if (r->first_leaf != *leaves ||
		r->leaf_count !=
			align_up(r->size, SNAP_LEAF_SPAN) / SNAP_LEAF_SPAN)
		return -EBADMSG;
	*leaves += r->leaf_count;
	return 0;
}

static int check_regions(
	const struct snap *s, const struct snap_section *sec, struct err *e)
{
	uint64_t size = 0;
	uint32_t leaves = 0;

	for (uint32_t i = 0; i < s->mem.region_count; i++) {
		if (check_region(s, i, &leaves))
			return snap_bad(e,
				sec->offset + sizeof(s->mem) +
					i * sizeof(s->region[0]),
				sizeof(s->region[0]), "memory region %u", i);
		size += s->region[i].size;
	}
	if (size != s->mem.memory_size || leaves != s->mem.root_count)
		return snap_bad(e, sec->offset, sizeof(s->mem),
			"memory: the regions do not add up");
	return 0;
}

/* Root entry i; prev: the offset of the last leaf before it. */
static int check_root(const struct snap *s, uint32_t i, uint64_t *prev)
{
	const struct snap_root *r = &s->root[i];

	if (!r->offset)
		return r->crc || r->pages_present || r->pages_zero ? -EBADMSG
								   : 0;
	if (r->offset % SNAP_PAGE_SIZE || r->offset < s->mem.data_offset ||
		!range_inside(
			r->offset, sizeof(struct snap_leaf), s->h.file_length))
		return -EBADMSG;
	if (r->offset <= *prev ||
		r->pages_present + r->pages_zero > SNAP_LEAF_PAGES)
		return -EBADMSG;
	*prev = r->offset;
	return 0;
}

static int check_roots(
	const struct snap *s, const struct snap_section *sec, struct err *e)
{
	uint64_t at = sec->offset + sizeof(s->mem) +
		      s->mem.region_count * sizeof(s->region[0]);
	uint64_t present = 0, zero = 0, prev = 0;

	for (uint32_t i = 0; i < s->mem.root_count; i++) {
		if (check_root(s, i, &prev))
			return snap_bad(e, at + i * sizeof(s->root[0]),
				sizeof(s->root[0]), "memory: root entry %u", i);
		present += s->root[i].pages_present;
		zero += s->root[i].pages_zero;
	}
	if (present != s->mem.pages_present ||
		((s->h.flags & SNAP_FLAG_DIFF) && zero != s->mem.pages_zero))
		return snap_bad(e, sec->offset, sizeof(s->mem),
			"memory: the page counts do not add up");
	return 0;
}

static int check_memory(
	const struct snap *s, const struct snap_section *sec, struct err *e)
{
	const struct snap_memory *m = &s->mem;
	uint64_t len = sizeof(*m);

	if (m->chunk_size != SNAP_CHUNK_SIZE ||
		m->leaf_chunks != SNAP_LEAF_CHUNKS ||
		!snap_is_zero(m->reserved, sizeof(m->reserved)) ||
		!m->region_count || m->region_count > SNAP_MAX_REGIONS ||
		!m->root_count || m->root_count > SNAP_MAX_ROOTS)
		return snap_bad(e, sec->offset, sizeof(*m),
			"memory: not a layout of format 1");
	len += m->region_count * sizeof(struct snap_region);
	len += m->root_count * sizeof(struct snap_root);
	if (len != sec->stored_length)
		return snap_bad(e, sec->offset, sec->stored_length,
			"memory: %u regions and %u leaves need %llu bytes",
			m->region_count, m->root_count,
			(unsigned long long)len);
	if (m->data_offset % SNAP_PAGE_SIZE ||
		m->data_offset > s->h.file_length)
		return snap_bad(e, sec->offset, sizeof(*m),
			"memory: data offset outside the file");
	for (uint32_t i = 0; i < s->h.section_count; i++) {
		if (s->sec[i].offset + s->sec[i].stored_length > m->data_offset)
			return snap_bad(e, s->sec[i].offset,
				s->sec[i].stored_length,
				"section %.16s lies among the memory data",
				s->sec[i].name);
	}
	if (s->h.section_table_offset + s->h.section_count * sizeof(*s->sec) >
		m->data_offset)
		return snap_bad(e, sec->offset, sizeof(*m),
			"memory: data offset inside the section table");
	return 0;
}

/* pages_zero counts, in a full snapshot, everything that is not present. */
static int check_pages(
	const struct snap *s, const struct snap_section *sec, struct err *e)
{
	uint64_t pages = s->mem.memory_size / SNAP_PAGE_SIZE;
	uint64_t sum;

	if (add_overflows(s->mem.pages_present, s->mem.pages_zero, &sum) ||
		sum > pages || (!(s->h.flags & SNAP_FLAG_DIFF) && sum != pages))
		return snap_bad(e, sec->offset, sizeof(s->mem),
			"memory: the page counts do not add up");
	return 0;
}

int snap_read_index(struct snap *s, struct err *e)
{
	const struct snap_section *sec = snap_find(s, SNAP_TAG_MEMORY, 0);
	AUTO_FREE uint8_t *buf = NULL;
	uint64_t regions, roots;
	int rc;

	if (!sec)
		return snap_bad(e, 0, 0, "there is no memory section");
	if (sec->version != SNAP_MEMORY_VERSION)
		return err_set(e, -EOPNOTSUPP,
			"memory section: version %u, this thaw reads up to %u",
			sec->version, SNAP_MEMORY_VERSION);
	rc = snap_read_section(s, sec, SNAP_MAX_STATE, &buf, e);
	if (rc)
		return rc;
	if (sec->stored_length < sizeof(s->mem))
		return snap_bad(e, sec->offset, sec->stored_length,
			"memory section: too short");
	memcpy(&s->mem, buf, sizeof(s->mem));
	rc = check_memory(s, sec, e);
	if (rc)
		return rc;
	regions = s->mem.region_count * sizeof(s->region[0]);
	roots = s->mem.root_count * sizeof(s->root[0]);
	memcpy(s->region, buf + sizeof(s->mem), regions);
	s->root = calloc(s->mem.root_count, sizeof(s->root[0]));
	if (!s->root)
		return err_set(e, -ENOMEM, "snapshot: out of memory");
	memcpy(s->root, buf + sizeof(s->mem) + regions, roots);
	rc = check_regions(s, sec, e);
	if (!rc)
		rc = check_roots(s, sec, e);
	if (!rc)
		rc = check_pages(s, sec, e);
	return rc;
}

/* ---- leaves ---- */

void snap_leaf_locate(const struct snap *s, uint32_t i, struct snap_leaf_at *at)
{
	const struct snap_region *r = s->region;
	uint64_t off;

	while (i >= r->first_leaf + r->leaf_count)
		r++;
	off = (i - r->first_leaf) * SNAP_LEAF_SPAN;
	at->region = r;
	at->root = i;
	at->gpa = r->gpa + off;
	at->chunks = (uint32_t)min_u64(
		SNAP_LEAF_CHUNKS, (r->size - off) / SNAP_CHUNK_SIZE);
}

static uint32_t popcount16(uint16_t v)
{
	return (uint32_t)__builtin_popcount(v);
}

static int check_present(
	const struct snap *s, const struct snap_chunk *c, struct err *e)
{
	bool raw = c->codec == SNAP_CODEC_RAW;

	if (!raw && c->codec != SNAP_CODEC_ZSTD)
		return err_set(e, -EOPNOTSUPP,
			"codec %u is unsupported by this version", c->codec);
	if (c->file &&
		(!(s->h.flags & SNAP_FLAG_DIFF) || c->file > SNAP_MAX_CHAIN))
		return err_set(e, -EBADMSG, "is in no file of this chain");
	if (c->raw_length != popcount16(c->present) * SNAP_PAGE_SIZE ||
		(raw && c->stored_length != c->raw_length) ||
		(!raw && (!c->stored_length ||
				 c->stored_length >= c->raw_length)))
		return err_set(e, -EBADMSG, "wrong length");
	if (!raw && s->h.min_reader_minor < SNAP_MINOR_CHAINS)
		return err_set(e, -EBADMSG,
			"zstd in a file for readers that have none");
	if (raw && c->offset % SNAP_PAGE_SIZE)
		return err_set(e, -EBADMSG, "at no multiple of 4096");
	/* In an ancestor: snap_chunk_file() checks it. */
	if (!c->file && (c->offset < s->mem.data_offset ||
				!range_inside(c->offset, c->stored_length,
					s->h.file_length)))
		return err_set(e, -EBADMSG, "not inside the file");
	return 0;
}

static int check_chunk(
	const struct snap *s, const struct snap_chunk *c, struct err *e)
{
	bool full = !(s->h.flags & SNAP_FLAG_DIFF);

	if (c->reserved || (c->stored_crc && c->codec != SNAP_CODEC_ZSTD))
		return err_set(e, -EBADMSG, "reserved bytes are in use");
	if (c->present & c->zero)
		return err_set(e, -EBADMSG, "a page is present and zero");
	if (full && (c->present | c->zero) != 0xffff)
		return err_set(e, -EBADMSG, "a page is missing");
	if (c->present)
		return check_present(s, c, e);
	if (c->offset || c->stored_length || c->raw_length || c->crc ||
		c->file || c->codec)
		return err_set(e, -EBADMSG, "data of no page");
	return 0;
}

/* The message about entry n of a leaf, with its place in file and guest. */
static int chunk_error(const struct snap *s, const struct snap_leaf_at *at,
	uint32_t n, const struct err *why, struct err *e)
{
	uint64_t from =
		s->root[at->root].offset + n * sizeof(struct snap_chunk);
	uint64_t gpa = at->gpa + n * SNAP_CHUNK_SIZE;

	return err_set(e, why->code,
		"bytes %llu-%llu: chunk %u (guest 0x%llx): %s",
		(unsigned long long)from,
		(unsigned long long)from + sizeof(struct snap_chunk) - 1,
		at->root * SNAP_LEAF_CHUNKS + n, (unsigned long long)gpa,
		why->msg);
}

static int check_leaf(const struct snap *s, const struct snap_leaf_at *at,
	const struct snap_leaf *leaf, struct err *e)
{
	const struct snap_root *r = &s->root[at->root];
	uint32_t present = 0, zero = 0;
	struct err why = {0};

	for (uint32_t n = 0; n < at->chunks; n++) {
		const struct snap_chunk *c = &leaf->chunk[n];

		if (check_chunk(s, c, &why))
			return chunk_error(s, at, n, &why, e);
		present += popcount16(c->present);
		zero += popcount16(c->zero);
	}
	if (!snap_is_zero(&leaf->chunk[at->chunks],
		    (SNAP_LEAF_CHUNKS - at->chunks) * sizeof(leaf->chunk[0])))
		return snap_bad(e, r->offset, sizeof(*leaf),
			"leaf %u: chunks behind the region", at->root);
	if (present != r->pages_present || zero != r->pages_zero)
		return snap_bad(e, r->offset, sizeof(*leaf),
			"leaf %u: the page counts do not add up", at->root);
	return 0;
}

int snap_read_leaf(const struct snap *s, const struct snap_leaf_at *at,
	struct snap_leaf *leaf, struct err *e)
{
	const struct snap_root *r = &s->root[at->root];
	int rc = snap_pread(s->fd, leaf, sizeof(*leaf), r->offset, e);

	if (rc)
		return rc;
	if (crc32c(0, leaf, sizeof(*leaf)) != r->crc)
		return snap_bad(e, r->offset, sizeof(*leaf),
			"leaf %u (guest 0x%llx): checksum mismatch", at->root,
			(unsigned long long)at->gpa);
	return check_leaf(s, at, leaf, e);
}

/* A context of its own for each chunk would cost as much as the chunk. */
static size_t unpack(ZSTD_DCtx **z, const void *stored, uint32_t stored_length,
	void *raw, uint32_t raw_length)
{
	if (z && !*z)
		*z = ZSTD_createDCtx();
	if (z && *z)
		return ZSTD_decompressDCtx(
			*z, raw, raw_length, stored, stored_length);
	return ZSTD_decompress(raw, raw_length, stored, stored_length);
}

const char *snap_unpack_zstd(ZSTD_DCtx **z, const void *stored,
	uint32_t stored_length, uint32_t stored_crc, void *raw,
	uint32_t raw_length)
{
	/* Not every bit of a frame shows in what comes out of it. */
	if (crc32c(0, stored, stored_length) != stored_crc)
		return "checksum mismatch";
	/* The library also takes several frames, and frames of no content. */
	if (ZSTD_getFrameContentSize(stored, stored_length) != raw_length ||
		ZSTD_findFrameCompressedSize(stored, stored_length) !=
			stored_length)
		return "not one zstd frame of this length";
	if (unpack(z, stored, stored_length, raw, raw_length) != raw_length)
		return "cannot be unpacked";
	return NULL;
}

int snap_chunk_decode(const struct snap_chunk *c, ZSTD_DCtx **z,
	const void *stored, void *raw, struct err *e)
{
	const void *bytes = stored;

	if (c->codec == SNAP_CODEC_ZSTD) {
		const char *why = snap_unpack_zstd(z, stored, c->stored_length,
			c->stored_crc, raw, c->raw_length);

		if (why)
			return err_set(e, -EBADMSG, "%s", why);
		bytes = raw;
	} else if (raw && raw != stored) {
		memcpy(raw, stored, c->raw_length);
		bytes = raw;
	}
	if (crc32c(0, bytes, c->raw_length) != c->crc)
		return err_set(e, -EBADMSG, "checksum mismatch");
	return 0;
}

int snap_read_chunk(const struct snap *s, const struct snap_leaf_at *at,
	uint32_t n, const struct snap_chunk *c, uint8_t *buf, struct err *e)
{
	uint8_t stored[SNAP_CHUNK_SIZE];
	void *to = c->codec == SNAP_CODEC_RAW ? buf : stored;
	struct err why = {0};
	const struct snap *file = snap_chunk_file(s, c, &why);
	int rc = 0;

	if (file) {
		rc = snap_pread(file->fd, to, c->stored_length, c->offset, e);
		if (rc)
			return rc;
		rc = snap_chunk_decode(c, NULL, to, buf, &why);
	}
	if (file && !rc)
		return 0;
	return snap_bad(e, c->offset, c->stored_length,
		"chunk %u (guest 0x%llx): %s", at->root * SNAP_LEAF_CHUNKS + n,
		(unsigned long long)(at->gpa + n * SNAP_CHUNK_SIZE), why.msg);
}
