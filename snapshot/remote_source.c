/*
 * Pages of a snapshot whose file is on another host.
 *
 * How it works: snap_source() reads the cache, a sparse file with the layout of
 * the remote one. A piece of which the cache has a hole is fetched, checked by
 * its checksum, written into the cache and handed on. A piece that the cache
 * has, but with other bytes (it was being written, or the host crashed), is
 * found out by the same checksum and fetched again. So there is no list of what
 * is there, and nothing that could be wrong about it.
 *
 * Who fetches one piece behind the other, as the background does, reads ahead:
 * then it does not wait for the network at each of them. Nobody else waits for
 * that: the buffer is taken only when it is free.
 */
#include "snapshot/remote.h"

#include "core/crc32c.h"
#include "core/log.h"
#include "snapshot/internal.h"
#include "snapshot/source.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Of a piece: u32[1] is the codec, and above it the file that it is of, because
 * .file is -1 when it is to be fetched. */
#define LEVEL_SHIFT 8
#define CODEC_MASK  0xffU

#define AHEAD       (256U * 1024)
#define AHEAD_AFTER 2 /* pieces, one behind the other */

struct ahead {
	pthread_mutex_t lock;
	unsigned level, run;
	uint64_t end; /* of the piece that was fetched last, of that file */
	uint64_t offset;
	uint32_t length; /* of .buf; 0: nothing */
	uint8_t *buf;    /* owned */
};

struct remote_source {
	struct psrc src;
	struct psrc_ops ops;
	struct psrc *disk; /* owned */
	struct remote_link *l;
	struct ahead ahead;
	bool cache_full; /* said once; atomic */
	char name[REMOTE_PEER_MAX + 16];
	struct {
		int fd; /* borrowed, for writing */
		struct remote_file is;
		uint64_t length;
	} level[SNAP_MAX_CHAIN + 1];
};

static struct remote_source *source_of(struct psrc *s)
{
	return container_of(s, struct remote_source, src);
}

static unsigned level_of(const struct psrc_piece *p)
{
	return p->u32[1] >> LEVEL_SHIFT;
}

/* The offset that these move is nobody's: all reading is by pread(). */
static bool is_cached(int fd, const struct psrc_piece *p)
{
	off_t at = (off_t)p->offset;

	return lseek(fd, at, SEEK_DATA) == at &&
	       lseek(fd, at, SEEK_HOLE) >= at + (off_t)p->length;
}

static int remote_map(struct psrc *src, uint64_t w, bool may_block,
	struct psrc_window *out, struct err *e)
{
	struct remote_source *s = source_of(src);
	int r = s->disk->ops->map(s->disk, w, may_block, out, e);

	for (unsigned i = 0; !r && i < out->n; i++) {
		struct psrc_piece *p = &out->piece[i];

		p->u32[1] |= (uint32_t)p->file << LEVEL_SHIFT;
		if (!is_cached(s->level[p->file].fd, p))
			p->file = -1;
		/* It may have to be fetched after all, which is nothing for the
		 * thread that reads faults: a worker unpacks it. */
		else
			p->plain = 0;
	}
	return r;
}

/* The stored bytes are what they are to be; the engine unpacks them later. */
static bool is_right(const struct psrc_piece *p, const void *stored)
{
	bool raw = (p->u32[1] & CODEC_MASK) == SNAP_CODEC_RAW;

	return crc32c(0, stored, p->length) == p->u32[raw ? 0 : 3];
}

/* A cache that cannot be written to costs time later, and nothing else. */
static void keep(
	struct remote_source *s, const struct psrc_piece *p, const void *stored)
{
	int r = pwrite_full(
		s->level[level_of(p)].fd, stored, p->length, p->offset);

	if (r && !__atomic_exchange_n(&s->cache_full, true, __ATOMIC_RELAXED))
		log_warning("what comes from %s is not kept: %s", s->name,
			strerror(-r));
}

/* ---- from the peer ---- */

static int ask_peer(struct remote_source *s, unsigned level, uint64_t offset,
	uint32_t length, void *buf, struct err *e)
{
	struct remote_span span = {offset, length, buf};
	int r = remote_read(
		s->l, &s->level[level].is, REMOTE_PART_FILE, &span, 1, e);

	if (r == -ENOENT)
		return err_set(e, -EIO,
			"%s does not have the snapshot any more", s->name);
	if (!r && s->src.fetched)
		__atomic_fetch_add(s->src.fetched, length, __ATOMIC_RELAXED);
	return r;
}

/* With the buffer: from it, or through it when this piece stands behind the
 * last ones. 1: it is for a request of its own. */
static int through_ahead(struct remote_source *s, const struct psrc_piece *p,
	void *stored, struct err *e)
{
	struct ahead *a = &s->ahead;
	unsigned level = level_of(p);
	uint64_t left = s->level[level].length - p->offset;
	int r;

	if (level != a->level || p->offset != a->end)
		a->run = 0;
	a->run++;
	if (level != a->level)
		a->length = 0;
	a->level = level;
	a->end = p->offset + p->length;
	if (p->offset < a->offset ||
		!range_inside(p->offset - a->offset, p->length, a->length)) {
		if (a->run <= AHEAD_AFTER)
			return 1;
		a->length = 0;
		r = ask_peer(s, level, p->offset,
			(uint32_t)min_u64(left, AHEAD), a->buf, e);
		if (r)
			return r;
		a->offset = p->offset;
		a->length = (uint32_t)min_u64(left, AHEAD);
	}
	memcpy(stored, a->buf + (p->offset - a->offset), p->length);
	return 0;
}

static int get_bytes(struct remote_source *s, const struct psrc_piece *p,
	void *stored, struct err *e)
{
	int r = 1;

	if (!pthread_mutex_trylock(&s->ahead.lock)) {
		r = through_ahead(s, p, stored, e);
		(void)pthread_mutex_unlock(&s->ahead.lock);
	}
	return r == 1 ? ask_peer(
				s, level_of(p), p->offset, p->length, stored, e)
		      : r;
}

static int remote_fetch(struct psrc *src, uint64_t w,
	const struct psrc_piece *p, void *stored, struct err *e)
{
	struct remote_source *s = source_of(src);
	int r = get_bytes(s, p, stored, e);

	if (r)
		return r;
	if (!is_right(p, stored))
		return snap_bad(e, p->offset, p->length,
			"chunk of guest memory at 0x%llx: %s sent wrong bytes",
			(unsigned long long)(w * PSRC_WINDOW), s->name);
	keep(s, p, stored);
	return 0;
}

/* ---- from here ---- */

static int decode(struct remote_source *s, uint64_t w,
	const struct psrc_piece *p, const struct psrc_buf *b, struct err *e)
{
	struct psrc_piece plain = *p;

	plain.u32[1] &= CODEC_MASK;
	return s->disk->ops->decode(s->disk, w, &plain, b, e);
}

static int remote_decode(struct psrc *src, uint64_t w,
	const struct psrc_piece *p, const struct psrc_buf *b, struct err *e)
{
	struct err why = {0};
	int r = decode(source_of(src), w, p, b, &why);

	if (!r)
		return 0;
	/* What was fetched just now has been checked already. */
	if (r != -EBADMSG || p->file < 0)
		return err_set(e, r, "%s", why.msg);
	return -EAGAIN;
}

static void remote_cancel(struct psrc *src)
{
	remote_link_cancel(source_of(src)->l);
}

static void remote_close(struct psrc *src)
{
	struct remote_source *s = source_of(src);

	if (s->disk)
		s->disk->ops->close(s->disk);
	(void)pthread_mutex_destroy(&s->ahead.lock);
	free(s->ahead.buf);
	free(s);
}

static int note_files(struct remote_source *s, struct snap *snap, const int *fd,
	struct err *e)
{
	unsigned i = 0;

	for (struct snap *p = snap; p; p = p->parent, i++) {
		s->level[i].fd = fd[i];
		s->level[i].length = p->h.file_length;
		s->level[i].is.uuid = *snap_get_uuid(p);
		if (snap_digest(p, s->level[i].is.digest))
			return err_set(e, -ENOMEM, "snapshot: out of memory");
	}
	return 0;
}

int remote_source(struct snap *snap, const int *fd, struct remote_link *l,
	struct psrc **out, struct err *e)
{
	struct remote_source *s = calloc(1, sizeof(*s));
	int r;

	*out = NULL;
	if (!s)
		return err_set(e, -ENOMEM, "no memory for a page source");
	(void)pthread_mutex_init(&s->ahead.lock, NULL);
	s->ahead.buf = malloc(AHEAD);
	r = s->ahead.buf ? snap_source(snap, &s->disk, e)
			 : err_set(e, -ENOMEM, "no memory for a page source");
	if (!r)
		r = note_files(s, snap, fd, e);
	if (r) {
		remote_close(&s->src);
		return r;
	}
	s->l = l;
	(void)snprintf(s->name, sizeof(s->name), "the pager at %s", l->peer);
	s->ops = (struct psrc_ops){.name = s->name,
		.map = remote_map,
		.fetch = remote_fetch,
		.decode = remote_decode,
		.cancel = remote_cancel,
		.close = remote_close};
	s->src = *s->disk;
	s->src.ops = &s->ops;
	*out = &s->src;
	return 0;
}
