#include "uffd/ws.h"

#include "core/crc32c.h"

#include <errno.h>
#include <string.h>

static uint64_t words_of(uint64_t pages)
{
	return (pages + 63) / 64;
}

static uint64_t bytes_of(uint64_t pages)
{
	return (pages + 7) / 8;
}

int ws_init(struct ws *w, uint64_t pages, const uint8_t uuid[16],
	const uint8_t digest[16], struct err *e)
{
	*w = (struct ws){.pages = pages};
	if (!pages || bytes_of(pages) > WS_MAX)
		return err_set(e, -EINVAL,
			"a working set of %llu pages is out of range",
			(unsigned long long)pages);
	memcpy(w->uuid, uuid, 16);
	memcpy(w->digest, digest, 16);
	w->bits = calloc(words_of(pages), sizeof(*w->bits));
	if (!w->bits)
		return err_set(e, -ENOMEM, "no memory for a working set");
	return 0;
}

void ws_fini(struct ws *w)
{
	free(w->bits);
	*w = (struct ws){0};
}

void ws_add(struct ws *w, uint64_t page)
{
	uint64_t bit = 1ULL << (page % 64);

	if (page >= w->pages || (w->bits[page / 64] & bit))
		return;
	w->bits[page / 64] |= bit;
	w->set++;
}

static uint64_t count(const struct ws *w)
{
	uint64_t n = 0;

	for (uint64_t i = 0; i < words_of(w->pages); i++)
		n += (uint64_t)__builtin_popcountll(w->bits[i]);
	return n;
}

static int header_check(const struct ws_header *h, struct err *e)
{
	if (memcmp(h->magic, WS_MAGIC, sizeof(h->magic)) != 0)
		return err_set(e, -EBADMSG, "this is no working set");
	if (h->version != WS_VERSION)
		return err_set(e, -EOPNOTSUPP,
			"working set of version %u, this thaw reads version %d",
			h->version, WS_VERSION);
	if (crc32c(0, h, offsetof(struct ws_header, header_crc)) !=
		h->header_crc)
		return err_set(e, -EBADMSG,
			"working set: bytes 0-71: checksum mismatch");
	if (h->page_size != PAGE_SIZE_4K || !h->recordings || !h->pages ||
		bytes_of(h->pages) > WS_MAX || h->set > h->pages)
		return err_set(
			e, -EBADMSG, "working set: the header makes no sense");
	return 0;
}

static int bits_check(
	const struct ws *w, const struct ws_header *h, struct err *e)
{
	if (crc32c(0, w->bits, bytes_of(w->pages)) != h->crc)
		return err_set(e, -EBADMSG,
			"working set: bytes 72-%llu: checksum mismatch",
			71 + (unsigned long long)bytes_of(w->pages));
	if (count(w) != h->set ||
		(w->pages % 64 && w->bits[w->pages / 64] >> (w->pages % 64)))
		return err_set(e, -EBADMSG,
			"working set: the number of pages is wrong");
	return 0;
}

int ws_read(int fd, struct ws *w, struct err *e)
{
	struct ws_header h;
	char more;
	int r = pread_full(fd, &h, sizeof(h), 0);

	*w = (struct ws){0};
	if (r)
		return err_set(e, r == -EIO ? -EBADMSG : r,
			"working set: the header cannot be read");
	r = header_check(&h, e);
	if (!r)
		r = ws_init(w, h.pages, h.uuid, h.digest, e);
	if (r)
		return r;
	w->set = h.set;
	w->recordings = h.recordings;
	r = pread_full(fd, w->bits, bytes_of(h.pages), sizeof(h));
	if (r)
		err_set(e, r == -EIO ? -EBADMSG : r,
			"working set: the bitmap cannot be read");
	else if (pread(fd, &more, 1, (off_t)(sizeof(h) + bytes_of(h.pages))))
		r = err_set(e, -EBADMSG,
			"working set: there is something behind its end");
	else
		r = bits_check(w, &h, e);
	if (r) {
		ws_fini(w);
		return e ? e->code : r;
	}
	return 0;
}

int ws_write(int fd, const struct ws *w, struct err *e)
{
	struct ws_header h = {
		.version = WS_VERSION,
		.recordings = (uint16_t)min_u64(
			w->recordings ? w->recordings : 1, UINT16_MAX),
		.page_size = PAGE_SIZE_4K,
		.pages = w->pages,
		.set = w->set,
		.crc = crc32c(0, w->bits, bytes_of(w->pages)),
	};
	int r;

	memcpy(h.magic, WS_MAGIC, sizeof(h.magic));
	memcpy(h.uuid, w->uuid, sizeof(h.uuid));
	memcpy(h.digest, w->digest, sizeof(h.digest));
	h.header_crc = crc32c(0, &h, offsetof(struct ws_header, header_crc));
	r = pwrite_full(fd, &h, sizeof(h), 0);
	if (!r)
		r = pwrite_full(fd, w->bits, bytes_of(w->pages), sizeof(h));
	if (!r && fsync(fd))
		r = -errno;
	return r ? err_sys(e, r, "writing the working set") : 0;
}

int ws_check(const struct ws *w, const uint8_t uuid[16],
	const uint8_t digest[16], uint64_t pages, struct err *e)
{
	if (memcmp(w->uuid, uuid, 16) != 0 ||
		memcmp(w->digest, digest, 16) != 0 || w->pages != pages)
		return err_set(
			e, -EBADMSG, "the working set is of another snapshot");
	return 0;
}

int ws_merge(struct ws *w, const struct ws *other, struct err *e)
{
	int r = ws_check(other, w->uuid, w->digest, w->pages, e);

	if (r)
		return r;
	for (uint64_t i = 0; i < words_of(w->pages); i++)
		w->bits[i] |= other->bits[i];
	w->set = count(w);
	w->recordings += other->recordings;
	return 0;
}
