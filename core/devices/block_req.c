/* Requests of the block device (virtio 1.2, 5.2.6). */
#include "core/devices/block_dev.h"

#include <errno.h>
#include <string.h>

struct header {
	uint32_t type, reserved;
	uint64_t sector;
};
_Static_assert(sizeof(struct header) == 16, "5.2.6");

/* Of discard and write-zeroes requests. */
struct range {
	uint64_t sector;
	uint32_t sectors;
	uint32_t flags; /* bit 0: unmap */
};
#define RANGE_UNMAP 1u

bool block_writethrough(const struct block *b)
{
	const uint64_t f = b->s.virtio.driver_features;

	if (f & BLOCK_F_CONFIG_WCE)
		return !b->s.writeback;
	return !(f & BLOCK_F_FLUSH); /* 5.2.5.2 */
}

void block_req_done(struct block *b, struct block_req *r, int result)
{
	uint8_t status = BLOCK_S_OK;

	if (result == -EOPNOTSUPP)
		status = BLOCK_S_UNSUPP;
	else if (result)
		status = BLOCK_S_IOERR;
	if (result)
		b->stats.errors++;
	/* After a reset this memory is the guest's again. */
	if (virtio_queue_live(&b->vd, r->q))
		*r->status = status;
	if (virtq_push(&b->vd, r->q, r->head, r->in + 1))
		virtio_broken(&b->vd, "used ring outside guest memory");
	b->used |= 1u << r->q;
	free(r);
}

static bool inside(const struct block *b, uint64_t sector, uint64_t len)
{
	return sector <= b->disk.size / BLOCK_SECTOR &&
	       range_inside(sector * BLOCK_SECTOR, len, b->disk.size);
}

/* The data of a read or write: what lies between header and status byte. */
static struct block_req *req_new(
	uint32_t q, const struct virtq_chain *c, bool write)
{
	const struct virtq_seg *seg = write ? c->seg : c->seg + c->nread;
	const struct virtq_seg *last = &c->seg[c->nread + c->nwrite - 1];
	const unsigned n = write ? c->nread : c->nwrite;
	uint64_t skip = write ? sizeof(struct header) : 0;
	uint64_t left = write ? c->read_len - skip : c->write_len - 1;
	struct block_req *r = calloc(1, sizeof(*r) + n * sizeof(struct iovec));

	if (!r)
		return NULL;
	r->q = (uint16_t)q;
	r->head = c->head;
	r->write = write;
	r->status = (uint8_t *)last->p + last->len - 1;
	r->len = left;
	for (unsigned i = 0; i < n && left; i++) {
		uint64_t part;

		if (skip >= seg[i].len) {
			skip -= seg[i].len;
			continue;
		}
		part = min_u64(seg[i].len - skip, left);
		r->iov[r->n].iov_base = (uint8_t *)seg[i].p + skip;
		r->iov[r->n++].iov_len = part;
		left -= part;
		skip = 0;
	}
	return r;
}

/* The kernel tells of a failed write-back once, and we were the ones to hear.
 */
static bool flush_was_lost(struct block *b)
{
	bool lost = b->flush_lost;

	b->flush_lost = false;
	return lost;
}

/* Not results, which are 0 or less: it is on its way; it goes on next turn. */
#define SENT 1
#define MORE 2

static int data(struct block *b, struct block_req *r, uint64_t sector)
{
	enum disk_file f;
	uint64_t run;
	int res;

	if (r->len % BLOCK_SECTOR || !inside(b, sector, r->len))
		return -EIO;
	if (r->write && b->disk.read_only)
		return -EROFS;
	if (r->write && block_writethrough(b) && flush_was_lost(b))
		return -EIO;
	if (!r->len)
		return 0;
	r->off = sector * BLOCK_SECTOR;
	r->in = r->write ? 0 : (uint32_t)r->len;
	f = disk_where(&b->disk, r->off, r->len, r->write, &run);
	if (f != DISK_NFILES && run == r->len && block_ring_add(b, r, f))
		return SENT;
	if (!r->write)
		return disk_readv(&b->disk, r->iov, r->n, r->off);
	res = disk_writev(&b->disk, r->iov, r->n, r->off);
	return res || !block_writethrough(b) ? res : disk_flush(&b->disk);
}

static int flush(struct block *b, struct block_req *r)
{
	enum disk_file f = b->disk.map[DISK_OVERLAY] ? DISK_OVERLAY : DISK_BASE;

	b->stats.flushes++;
	if (b->disk.read_only)
		return 0;
	if (flush_was_lost(b))
		return -EIO;
	r->flush = true;
	return block_ring_add(b, r, f) ? SENT : disk_flush(&b->disk);
}

/* Of a request with ranges: where it goes on, and what this turn has left. */
struct step {
	uint64_t skip, left, done;
};

/* Of a range: what is this step's. False: nothing. */
static bool take_step(struct step *s, uint64_t *off, uint64_t *len)
{
	const uint64_t skip = min_u64(s->skip, *len);
	uint64_t end;

	s->skip -= skip;
	*off += skip;
	*len -= skip;
	if (*len > s->left) {
		/* The next step begins with a whole block. */
		end = align_down(*off + s->left, DISK_BLOCK);
		*len = end > *off ? end - *off : 0;
		s->left = *len;
	}
	s->left -= *len;
	s->done += *len;
	return *len;
}

static int one_range(
	struct block *b, const struct range *g, bool discard, struct step *s)
{
	uint64_t len = (uint64_t)g->sectors * BLOCK_SECTOR;
	uint64_t off = g->sector * BLOCK_SECTOR;

	/* 5.2.6.2: unknown flags, and unmap in a discard, are unsupported. */
	if (g->flags & ~RANGE_UNMAP || (discard && g->flags))
		return -EOPNOTSUPP;
	if (g->sectors > BLOCK_DISCARD_SECTORS || !inside(b, g->sector, len))
		return -EIO;
	if (!take_step(s, &off, &len))
		return 0;
	return discard ? disk_discard(&b->disk, off, len)
		       : disk_zero(&b->disk, off, len, g->flags & RANGE_UNMAP);
}

/* As data(), or MORE. Doing a part twice does no harm: a restored machine
 * begins anew. */
static int ranges(
	struct block *b, uint32_t q, const struct virtq_chain *c, bool discard)
{
	struct range g[BLOCK_DISCARD_SEGS];
	const size_t len = c->read_len - sizeof(struct header);
	struct step s = {.left = BLOCK_STEP};
	uint64_t total = 0;
	int r = 0;

	if (b->disk.read_only)
		return -EROFS;
	if (!len || len % sizeof(g[0]) || len > sizeof(g))
		return -EIO;
	if (virtq_chain_read(c, sizeof(struct header), g, len) != len)
		return -EIO;
	if (b->part[q].head == c->head)
		s.skip = s.done = b->part[q].done;
	/* All are checked against what is in flight by the driver: it does not
	 * change a range that it is reading. */
	for (size_t i = 0; i < len / sizeof(g[0]) && !r; i++) {
		r = one_range(b, &g[i], discard, &s);
		total += (uint64_t)g[i].sectors * BLOCK_SECTOR;
	}
	b->part[q].head = c->head;
	b->part[q].done = !r && s.done < total ? s.done : 0;
	if (b->part[q].done)
		return MORE;
	return r || !block_writethrough(b) ? r : disk_flush(&b->disk);
}

static int get_id(
	struct block *b, const struct virtq_chain *c, struct block_req *r)
{
	char id[MACHINE_SERIAL_MAX] = "";

	memcpy(id, b->cfg->serial, strnlen(b->cfg->serial, sizeof(id)));
	r->in = (uint32_t)min_u64(sizeof(id), c->write_len - 1);
	(void)virtq_chain_write(c, 0, id, r->in);
	return 0;
}

static int dispatch(struct block *b, const struct virtq_chain *c,
	const struct header *h, struct block_req *r)
{
	switch (h->type) {
	case BLOCK_T_IN:
		b->stats.reads++;
		return data(b, r, h->sector);
	case BLOCK_T_OUT:
		b->stats.writes++;
		return data(b, r, h->sector);
	case BLOCK_T_FLUSH:
		return flush(b, r);
	case BLOCK_T_GET_ID:
		return get_id(b, c, r);
	case BLOCK_T_DISCARD:
		return ranges(b, r->q, c, true);
	case BLOCK_T_WRITE_ZEROES:
		return ranges(b, r->q, c, false);
	default:
		return -EOPNOTSUPP;
	}
}

/* 1: go on. */
static int serve_one(struct block *b, uint32_t q)
{
	struct virtq_chain c;
	struct block_req *r;
	struct header h;
	int res = virtq_pop(&b->vd, q, &c);

	if (res <= 0) {
		if (res)
			virtio_broken(&b->vd, "malformed ring");
		return 0;
	}
	if (virtq_chain_read(&c, 0, &h, sizeof(h)) < sizeof(h) || !c.nwrite) {
		virtio_broken(&b->vd, "request without header or status byte");
		return 0;
	}
	r = req_new(q, &c, h.type == BLOCK_T_OUT);
	if (!r) {
		/* It stays in the queue until the next notification. */
		virtq_unpop(&b->vd, q);
		return 0;
	}
	res = dispatch(b, &c, &h, r);
	if (res == MORE) {
		virtq_unpop(&b->vd, q);
		virtio_rerun(&b->vd, q);
		free(r);
		return 0;
	}
	if (res != SENT)
		block_req_done(b, r, res);
	return 1;
}

void block_queue_run(struct block *b, uint32_t q)
{
	unsigned n = 0;

	if (b->flush_owed) {
		b->flush_owed = false;
		b->flush_lost |= disk_flush(&b->disk) != 0;
	}
	b->waiting &= ~(1u << q);
	while (!b->quiet && n < BLOCK_BUDGET) {
		if (b->have_ring && b->inflight >= BLOCK_RING_SIZE) {
			b->waiting |= 1u << q;
			break;
		}
		if (!serve_one(b, q))
			break;
		n++;
	}
	block_ring_submit(b);
	block_ring_reap(b);
	if (n == BLOCK_BUDGET)
		virtio_rerun(&b->vd, q);
}
