/*
 * Chains of diffs.
 *
 * How it works: a diff has leaves and entries only where something changed. A
 * page is looked up in the newest file first: present or zero there, it is
 * found; neither, the parent knows. All files of a chain have the same regions,
 * so a root index and a chunk number mean the same window in each of them.
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
	if (x && XXH3_128bits_reset(x) == XXH_OK &&
		XXH3_128bits_update(x, h, sizeof(*h)) == XXH_OK &&
		XXH3_128bits_update(x, sec, h->section_count * sizeof(*sec)) ==
			XXH_OK) {
		XXH128_canonicalFromHash(&c, XXH3_128bits_digest(x));
		memcpy(digest, c.digest, 16);
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
	return s->h.flags & SNAP_FLAG_DIFF ? &s->parent_id : NULL;
}

static bool same_regions(const struct snap *a, const struct snap *b)
{
	return a->mem.region_count == b->mem.region_count &&
	       a->mem.root_count == b->mem.root_count &&
	       !memcmp(a->region, b->region,
		       a->mem.region_count * sizeof(a->region[0]));
}

int snap_attach(struct snap *child, struct snap *parent, struct err *e)
{
	char want[SNAP_UUID_STR], have[SNAP_UUID_STR];
	uint8_t digest[16];

	if (!(child->h.flags & SNAP_FLAG_DIFF))
		return err_set(e, -EINVAL, "a full snapshot has no parent");
	snap_uuid_str(&child->parent_id.uuid, want);
	snap_uuid_str(snap_get_uuid(parent), have);
	if (strcmp(want, have) != 0)
		return err_set(e, -ESTALE,
			"parent %s: found snapshot %s instead", want, have);
	if (snap_digest(parent, digest))
		return err_set(e, -ENOMEM, "snapshot: out of memory");
	if (memcmp(child->h.parent_digest, digest, sizeof(digest)))
		return err_set(e, -ESTALE,
			"parent %s: the file has been changed since the diff "
			"was made",
			want);
	if (child->h.arch != parent->h.arch || !same_regions(child, parent))
		return err_set(e, -EBADMSG,
			"the memory regions of diff and parent differ");
	for (const struct snap *s = parent; s; s = s->parent) {
		if (!memcmp(s->h.uuid, child->h.uuid, sizeof(s->h.uuid)))
			return err_set(e, -EBADMSG,
				"the chain of parents leads back to the diff");
	}
	child->parent = parent;
	child->depth = parent->depth + 1;
	return 0;
}

int snap_attach_all(struct snap **chain, unsigned n, struct err *e)
{
	int rc = 0;

	/* The oldest first: depth counts from there. */
	for (unsigned i = n; i-- > 1 && !rc;)
		rc = snap_attach(chain[i - 1], chain[i], e);
	return rc ? rc : snap_check_chain(chain[0], e);
}

int snap_check_chain(const struct snap *s, struct err *e)
{
	char uuid[SNAP_UUID_STR];

	if (s->depth > SNAP_MAX_CHAIN)
		return err_set(e, -EOPNOTSUPP,
			"a chain of more than %d diffs: merge some of them",
			SNAP_MAX_CHAIN);
	while (s->parent)
		s = s->parent;
	if (!(s->h.flags & SNAP_FLAG_DIFF))
		return 0;
	snap_uuid_str(&s->parent_id.uuid, uuid);
	return err_set(e, -ENOENT,
		"this is a diff, and its parent %s is missing (it was at "
		"\"%s\")",
		uuid, s->parent_id.path);
}

/* ---- windows ---- */

const struct snap *snap_chunk_file(
	const struct snap *s, const struct snap_chunk *c, struct err *e)
{
	for (unsigned i = 0; i < c->file && s; i++)
		s = s->parent;
	if (!s) {
		err_set(e, -EBADMSG, "its data is in ancestor %u: not there",
			c->file);
		return NULL;
	}
	if (c->offset < s->mem.data_offset ||
		!range_inside(c->offset, c->stored_length, s->h.file_length)) {
		err_set(e, -EBADMSG, "its data is not inside the file");
		return NULL;
	}
	return s;
}

void snap_leaves_init(struct snap_leaves *l, const struct snap *s)
{
	memset(l, 0, sizeof(*l));
	for (; s && l->nfiles <= SNAP_MAX_CHAIN; s = s->parent)
		l->file[l->nfiles++] = s;
}

void snap_leaves_fini(struct snap_leaves *l)
{
	for (uint32_t i = 0; i < l->nfiles; i++)
		free(l->spare[i]);
	l->nfiles = 0;
}

int snap_leaves_read(struct snap_leaves *l, uint32_t i, struct err *e)
{
	struct snap_leaf_at at;

	l->root = i;
	for (uint32_t f = 0; f < l->nfiles; f++) {
		int rc;

		l->leaf[f] = NULL;
		if (!l->file[f]->root[i].offset)
			continue;
		if (!l->spare[f])
			l->spare[f] = malloc(sizeof(struct snap_leaf));
		if (!l->spare[f])
			return err_set(e, -ENOMEM, "snapshot: out of memory");
		snap_leaf_locate(l->file[f], i, &at);
		rc = snap_read_leaf(l->file[f], &at, l->spare[f], e);
		if (rc)
			return rc;
		l->leaf[f] = l->spare[f];
	}
	return 0;
}

int snap_leaves_window(const struct snap_leaves *l, uint32_t n,
	struct snap_window *w, struct err *e)
{
	uint16_t open = 0xffff;

	w->n = 0;
	w->named_zero = 0;
	for (uint32_t f = 0; f < l->nfiles && open; f++) {
		const struct snap_chunk *c;
		uint16_t take;
		struct err why = {0};

		if (!l->leaf[f])
			continue;
		c = &l->leaf[f]->chunk[n];
		w->named_zero |= c->zero & open;
		take = c->present & open;
		open &= (uint16_t) ~(c->zero | c->present);
		if (!take)
			continue;
		w->ext[w->n] = (struct snap_extent){.c = *c, .take = take};
		w->ext[w->n].file = snap_chunk_file(l->file[f], c, &why);
		if (!w->ext[w->n].file)
			return snap_bad(e, l->file[f]->root[l->root].offset,
				sizeof(struct snap_leaf), "chunk %u: %s",
				l->root * SNAP_LEAF_CHUNKS + n, why.msg);
		w->n++;
	}
	/* No file says anything: zero in the full one. */
	w->zero = w->named_zero | open;
	return 0;
}

void snap_unpack_pages(
	uint8_t *window, const uint8_t *packed, uint16_t present, uint16_t take)
{
	for (unsigned n = 0; n < SNAP_CHUNK_PAGES; n++) {
		if (!(present >> n & 1))
			continue;
		if (take >> n & 1)
			memcpy(window + n * SNAP_PAGE_SIZE, packed,
				SNAP_PAGE_SIZE);
		packed += SNAP_PAGE_SIZE;
	}
}
