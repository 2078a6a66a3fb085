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

/* 1: it is on its way; else the result. */
static int data(struct block *b, struct block_req *r, uint64_t sector)
{
	enum disk_file f;
	uint64_t run;
	int res;

	if (r->len % BLOCK_SECTOR || !inside(b, sector, r->len))
		return -EIO;
	if (r->write && b->disk.read_only)
		return -EROFS;
	if (!r->len)
		return 0;
	r->off = sector * BLOCK_SECTOR;
	r->in = r->write ? 0 : (uint32_t)r->len;
	f = disk_where(&b->disk, r->off, r->len, r->write, &run);
	if (f != DISK_NFILES && run == r->len && block_ring_add(b, r, f))
		return 1;
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
	r->flush = true;
	return block_ring_add(b, r, f) ? 1 : disk_flush(&b->disk);
}

static int one_range(struct block *b, const struct range *g, bool discard)
{
	const uint64_t len = (uint64_t)g->sectors * BLOCK_SECTOR;
	const uint64_t off = g->sector * BLOCK_SECTOR;

	/* 5.2.6.2: unknown flags, and unmap in a discard, are unsupported. */
	if (g->flags & ~RANGE_UNMAP || (discard && g->flags))
		return -EOPNOTSUPP;
	if (g->sectors > BLOCK_DISCARD_SECTORS || !inside(b, g->sector, len))
		return -EIO;
	return discard ? disk_discard(&b->disk, off, len)
		       : disk_zero(&b->disk, off, len, g->flags & RANGE_UNMAP);
}

static int ranges(struct block *b, const struct virtq_chain *c, bool discard)
{
	struct range g[BLOCK_DISCARD_SEGS];
	const size_t len = c->read_len - sizeof(struct header);
	int r = 0;

	if (b->disk.read_only)
		return -EROFS;
	if (!len || len % sizeof(g[0]) || len > sizeof(g))
		return -EIO;
	if (virtq_chain_read(c, sizeof(struct header), g, len) != len)
		return -EIO;
	/* All are checked against what is in flight by the driver: it does not
	 * change a range that it is reading. */
	for (size_t i = 0; i < len / sizeof(g[0]) && !r; i++)
		r = one_range(b, &g[i], discard);
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

/* As data(). */
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
		return ranges(b, c, true);
	case BLOCK_T_WRITE_ZEROES:
		return ranges(b, c, false);
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
	if (res != 1)
		block_req_done(b, r, res);
	return 1;
}

void block_queue_run(struct block *b, uint32_t q)
{
	unsigned n = 0;

	if (b->flush_owed) {
		b->flush_owed = false;
		/* Nobody asked with a request: the next flush says it again. */
		if (disk_flush(&b->disk))
			b->stats.errors++;
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
