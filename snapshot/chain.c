/*
 * Chains: a diff, its parent, and so on to a full snapshot.
 *
 * How it works: memory is loaded leaf by leaf. For each, the files are gone
 * through from the newest to the oldest; a page is taken from the first that
 * has it, stored or as zero, and what that file does not have is looked for in
 * the next. So every page is read once, however deep the chain is.
 */
#include "snapshot/internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

int snap_digest_of(const struct snap_header *h, const struct snap_section *sec,
	uint8_t digest[16])
{
	XXH3_state_t *x = XXH3_createState();
	XXH128_canonical_t c;
	int rc = -ENOMEM;

	memset(digest, 0, 16);
	if (x && !XXH3_128bits_reset(x) &&
		!XXH3_128bits_update(x, h, sizeof(*h)) &&
		!XXH3_128bits_update(x, sec, h->section_count * sizeof(*sec))) {
		XXH128_canonicalFromHash(&c, XXH3_128bits_digest(x));
		memcpy(digest, c.digest, sizeof(c.digest));
		rc = 0;
	}
	(void)XXH3_freeState(x);
	return rc;
}

int snap_digest(const struct snap *s, uint8_t digest[16])
{
	return snap_digest_of(&s->h, s->sec, digest);
}

const struct snap_parent *snap_get_parent(const struct snap *s)
{
	return s->h.flags & SNAP_FLAG_DIFF ? &s->wanted : NULL;
}

/* Called when the header has been read. */
void snap_note_parent(struct snap *s)
{
	memcpy(s->wanted.uuid.b, s->h.parent_uuid, sizeof(s->wanted.uuid.b));
	memcpy(s->wanted.digest, s->h.parent_digest, sizeof(s->wanted.digest));
	s->wanted.path = s->h.parent_path;
}

static int check_same(
	const struct snap *child, const struct snap *parent, struct err *e)
{
	bool same = child->mem.region_count == parent->mem.region_count;

	for (uint32_t i = 0; same && i < child->mem.region_count; i++)
		same = child->region[i].gpa == parent->region[i].gpa &&
		       child->region[i].size == parent->region[i].size;
	if (!same)
		return err_set(e, -EBADMSG,
			"the memory regions of diff and parent differ");
	return 0;
}

int snap_attach(struct snap *child, struct snap *parent, struct err *e)
{
	char want[SNAP_UUID_STR], have[SNAP_UUID_STR];
	uint8_t digest[16];
	int rc;

	if (!(child->h.flags & SNAP_FLAG_DIFF))
		return err_set(e, -EINVAL, "a full snapshot has no parent");
	snap_uuid_str(&child->wanted.uuid, want);
	snap_uuid_str(snap_get_uuid(parent), have);
	if (strcmp(want, have) != 0)
		return err_set(e, -ESTALE,
			"parent %s: found snapshot %s instead", want, have);
	rc = snap_digest(parent, digest);
	if (rc)
		return err_sys(e, rc, "digest of a snapshot");
	if (memcmp(digest, child->wanted.digest, sizeof(digest)) != 0)
		return err_set(e, -ESTALE,
			"parent %s: the file has been changed since the diff "
			"was made",
			want);
	rc = check_same(child, parent, e);
	if (rc)
		return rc;
	child->parent = parent;
	return 0;
}

int snap_check_chain(const struct snap *s, struct err *e)
{
	unsigned depth = 0;

	for (; s->h.flags & SNAP_FLAG_DIFF; s = s->parent) {
		if (!s->parent)
			return err_set(e, -EOPNOTSUPP,
				"the snapshot is a diff and its parent is not "
				"open");
		if (++depth > SNAP_MAX_CHAIN)
			return err_set(e, -EOPNOTSUPP,
				"a chain of more than %d snapshots",
				SNAP_MAX_CHAIN);
	}
	return 0;
}

/* ---- loading ---- */

/* One leaf of guest memory, put together from the files of a chain. */
struct gather {
	const struct mem *mem;
	uint8_t *buf;                     /* SNAP_CHUNK_SIZE bytes */
	uint16_t found[SNAP_LEAF_CHUNKS]; /* pages that are settled */
};

/* Copy runs of pages from the packed bytes to where they belong. present: what
 * buf holds; want: which of those. */
static int place(const struct gather *g, gpa_t gpa, uint16_t present,
	uint16_t want, struct err *e)
{
	const uint8_t *buf = g->buf;
	unsigned page = 0, run;

	for (; page < SNAP_CHUNK_PAGES; page += run ? run : 1) {
		int rc;

		run = 0;
		while (page + run < SNAP_CHUNK_PAGES &&
			(want >> (page + run) & 1))
			run++;
		if (!run) {
			if (present >> page & 1)
				buf += SNAP_PAGE_SIZE;
			continue;
		}
		rc = snap_place_run(g->mem, gpa + page * SNAP_PAGE_SIZE, buf,
			run * SNAP_PAGE_SIZE, e);
		if (rc)
			return rc;
		buf += run * SNAP_PAGE_SIZE;
	}
	return 0;
}

/* What this file has of the leaf. */
static int gather_from(
	struct gather *g, const struct snap *s, uint32_t i, struct err *e)
{
	struct snap_leaf_at at;
	struct snap_leaf leaf;
	int rc;

	snap_leaf_locate(s, i, &at);
	rc = snap_read_leaf(s, &at, &leaf, e);
	for (uint32_t n = 0; n < at.chunks && !rc; n++) {
		const struct snap_chunk *c = &leaf.chunk[n];
		uint16_t want = (uint16_t)(c->present & ~g->found[n]);

		g->found[n] |= c->present | c->zero;
		if (!want)
			continue;
		rc = snap_read_chunk(s, &at, n, c, g->buf, e);
		if (!rc)
			rc = place(g, at.gpa + n * SNAP_CHUNK_SIZE, c->present,
				want, e);
	}
	return rc;
}

int snap_load_leaf(const struct snap *s, uint32_t i, const struct mem *mem,
	struct snap_buffer *buf, struct err *e)
{
	struct gather g = {.mem = mem, .buf = buf->b};
	int rc = 0;

	for (; s && !rc; s = s->parent) {
		if (s->root[i].offset)
			rc = gather_from(&g, s, i, e);
	}
	return rc;
}
