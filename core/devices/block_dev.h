/*
 * Inside of the block device; for devices/block*.c only. From outside:
 * core/block.h.
 *
 *   block.c       the device: configuration space, saved state, life
 *   block_req.c   requests: checked, done, answered
 *   block_ring.c  io_uring
 *   disk.c        the bytes: image and overlays
 *
 * How a request goes. The loop thread takes a chain and checks it. When its
 * bytes follow each other in one file and there is a ring, it becomes one
 * io_uring operation and is answered when that completes; everything else is
 * done at once. A driver's reset and a pause wait for what is in flight, so a
 * guest never sees its memory change after a reset, and a snapshot needs to
 * know nothing of requests on their way.
 *
 * Threads. Everything under vd.lock: the loop thread works on the queues, a
 * vCPU thread that resets the device drains the ring itself.
 */
#ifndef THAW_CORE_DEVICES_BLOCK_DEV_H
#define THAW_CORE_DEVICES_BLOCK_DEV_H

#include "core/block.h"
#include "core/devices/disk.h"
#include "core/devices/limits.h"
#include "core/virtio.h"

#include <liburing.h>

#define BLOCK_SECTOR 512u

/* Features (virtio 1.2, 5.2.3). */
#define BLOCK_F_SIZE_MAX     (1ULL << 1)
#define BLOCK_F_SEG_MAX      (1ULL << 2)
#define BLOCK_F_RO           (1ULL << 5)
#define BLOCK_F_BLK_SIZE     (1ULL << 6)
#define BLOCK_F_FLUSH        (1ULL << 9)
#define BLOCK_F_CONFIG_WCE   (1ULL << 11)
#define BLOCK_F_MQ           (1ULL << 12)
#define BLOCK_F_DISCARD      (1ULL << 13)
#define BLOCK_F_WRITE_ZEROES (1ULL << 14)

/* Request types (5.2.6). */
enum {
	BLOCK_T_IN = 0,
	BLOCK_T_OUT = 1,
	BLOCK_T_FLUSH = 4,
	BLOCK_T_GET_ID = 8,
	BLOCK_T_DISCARD = 11,
	BLOCK_T_WRITE_ZEROES = 13,
};

/* Status bytes (5.2.6). */
enum {
	BLOCK_S_OK = 0,
	BLOCK_S_IOERR = 1,
	BLOCK_S_UNSUPP = 2,
};

/* What the configuration space says. */
#define BLOCK_SEG_MAX         (VIRTQ_MAX_SIZE - 2) /* header and status */
#define BLOCK_SIZE_MAX        (4u * 1024 * 1024)   /* of one segment */
#define BLOCK_DISCARD_SECTORS (4u * 1024 * 1024)   /* 2 GiB */
#define BLOCK_DISCARD_SEGS    16u

/* Operations in flight at most; more requests wait in the guest's queue. */
#define BLOCK_RING_SIZE 128u
/* Requests per queue and turn of the loop. */
#define BLOCK_BUDGET 64u
/* Bytes of a discard or write-zeroes request per turn: a file system that
 * cannot do it otherwise has so much written to it. */
#define BLOCK_STEP (32 * MIB)

/* Number of machine_watch() for the ring; 0 .. 3 are the queues. */
#define BLOCK_W_RING 8u

struct block_state {
	struct virtio_state virtio;
	uint64_t size;      /* bytes; 0: never realized */
	uint32_t writeback; /* 5.2.5: the driver may write it */
	uint32_t reserved;
	uint64_t layer; /* id of the file that has what was written to the
			 * overlay; 0: it was not kept */
};
extern const struct st_desc block_state_desc;

/* A request on its way; iov[] is what the operation refers to. */
struct block_req {
	uint16_t q, head;
	bool write, flush;
	uint8_t *status; /* borrowed from guest memory */
	uint32_t in;     /* bytes that a read brings */
	uint64_t off, len;
	unsigned n;
	struct iovec iov[];
};

struct block {
	struct virtio_dev vd; /* first */
	struct block_state s;
	const struct machine_disk *cfg; /* borrowed from the machine's cfg */
	struct disk disk;
	bool open;       /* disk_open() was called */
	bool quiet;      /* being saved */
	bool flush_owed; /* the driver has just turned the cache off */
	bool flush_lost; /* and that failed: the next to ask is told */
	/* Of a request that takes several turns, and meanwhile stays in its
	 * queue: its chain, and how much of it is done. */
	struct {
		uint16_t head;
		uint64_t done;
	} part[BLOCK_MAX_QUEUES];

	struct io_uring ring;
	bool have_ring;
	unsigned inflight;
	uint32_t waiting; /* queues that wait for room in the ring */
	uint32_t used;    /* queues to notify */
	struct block_stats stats;
};

/* ---- block_req.c, all with the lock held ---- */
/* Take and do requests of a queue. */
void block_queue_run(struct block *b, uint32_t q);
/* Answer: status byte, used ring. The request is freed. */
void block_req_done(struct block *b, struct block_req *r, int result);
/* Does a write have to be on the disk before it is answered? */
bool block_writethrough(const struct block *b);

/* ---- block_ring.c, all with the lock held ---- */
/* No ring is not an error: requests are then done one by one. */
void block_ring_open(struct block *b);
void block_ring_close(struct block *b);
/* Take over a request whose bytes are in one file. false: no room, or no ring;
 * the request stays the caller's. */
bool block_ring_add(struct block *b, struct block_req *r, enum disk_file f);
void block_ring_submit(struct block *b);
/* Answer what has completed. */
void block_ring_reap(struct block *b);
/* Wait until nothing is in flight. */
void block_ring_drain(struct block *b);

#endif
