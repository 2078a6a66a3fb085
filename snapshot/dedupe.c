/* Chunks that the file has already: a hash table with open addressing. */
#include "snapshot/internal.h"

#include <stdlib.h>
#include <string.h>

#define DEDUPE_FIRST 4096U
/* 56 bytes each: 56 MiB, enough for 48 GiB of pages that are not zero. */
#define DEDUPE_MOST (1024U * 1024)

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

/* Where an entry with this key is, or would be. */
static struct snap_stored *place_for(const struct snap_dedupe *d,
	const uint64_t hash[2], uint32_t raw_length)
{
	size_t i = hash[0] & (d->cap - 1);

	while (d->slot[i].used && !same_key(&d->slot[i], hash, raw_length))
		i = (i + 1) & (d->cap - 1);
	return &d->slot[i];
}

const struct snap_stored *snap_dedupe_find(const struct snap_dedupe *d,
	const uint64_t hash[2], uint32_t raw_length)
{
	const struct snap_stored *s;

	if (!d->cap)
		return NULL;
	s = place_for(d, hash, raw_length);
	return s->used ? s : NULL;
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

		if (s->used)
			*place_for(&more, s->hash, s->raw_length) = *s;
	}
	more.n = d->n;
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
	if (to->used)
		return;
	*to = *s;
	to->used = 1;
	d->n++;
}
