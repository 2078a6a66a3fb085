/* Chunks that the file has already: a hash table with open addressing. */
#include "snapshot/internal.h"

#include <stdlib.h>
#include <string.h>

#define DEDUPE_FIRST 4096U
/* 56 bytes each: 56 MiB, enough for 48 GiB of pages that are not zero. */
#define DEDUPE_MOST (1024U * 1024)
/* Guests choose the content and so the hashes: they must not be able to make
 * one long run of used slots. */
#define PROBES 32U

void snap_dedupe_free(struct snap_dedupe *d)
{
	free(d->slot);
	memset(d, 0, sizeof(*d));
}

static bool same_key(const struct snap_stored *s, const uint64_t hash[2],
	uint32_t raw_length)
{
	return s->hash[0] == hash[0] && s->hash[1] == hash[1] &&
	       s->raw_length == raw_length;
}

/* Where an entry with this key is, or would be; NULL: there is no room. */
static struct snap_stored *place_for(const struct snap_dedupe *d,
	const uint64_t hash[2], uint32_t raw_length)
{
	for (unsigned k = 0; k < PROBES; k++) {
		struct snap_stored *s = &d->slot[(hash[0] + k) & (d->cap - 1)];

		if (!s->used || same_key(s, hash, raw_length))
			return s;
	}
	return NULL;
}

const struct snap_stored *snap_dedupe_find(const struct snap_dedupe *d,
	const uint64_t hash[2], uint32_t raw_length)
{
	const struct snap_stored *s;

	if (!d->cap)
		return NULL;
	s = place_for(d, hash, raw_length);
	return s && s->used ? s : NULL;
}

static bool grow(struct snap_dedupe *d)
{
	struct snap_dedupe more = {.cap = d->cap ? 2 * d->cap : DEDUPE_FIRST};

	if (more.cap > DEDUPE_MOST)
		return false;
	more.slot = calloc(more.cap, sizeof(*more.slot));
	if (!more.slot)
		return false;
	for (size_t i = 0; i < d->cap; i++) {
		const struct snap_stored *s = &d->slot[i];
		struct snap_stored *to;

		if (!s->used)
			continue;
		to = place_for(&more, s->hash, s->raw_length);
		if (!to)
			continue;
		*to = *s;
		more.n++;
	}
	free(d->slot);
	*d = more;
	return true;
}

void snap_dedupe_add(struct snap_dedupe *d, const struct snap_stored *s)
{
	struct snap_stored *to;

	/* At most three quarters full. */
	if (d->n + 1 > d->cap / 4 * 3 && !grow(d))
		return;
	to = place_for(d, s->hash, s->raw_length);
	if (!to || to->used)
		return;
	*to = *s;
	to->used = 1;
	d->n++;
}
