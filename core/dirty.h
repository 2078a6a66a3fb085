/*
 * Which pages of guest memory changed since the last snapshot that was kept.
 *
 * Three places know of a change: KVM's dirty log (what the guest wrote, and
 * what KVM wrote on its behalf), a bitmap of our own writes (mem_at() with
 * MEM_WRITE, mem_write()), and the state tables (where KVM's own pages lie).
 * dirty_collect() brings them together in .since.
 *
 * A snapshot takes .since away (dirty_take()) and says later whether it was
 * kept (dirty_settle()): if not, its pages are in .since again, so that a write
 * that failed or was cancelled loses no page.
 *
 * Bitmaps have one bit per 4 KiB page of mem.map, in order, least significant
 * bit first.
 */
#ifndef THAW_CORE_DIRTY_H
#define THAW_CORE_DIRTY_H

#include "core/machine.h"

struct dirty {
	uint64_t pages, words; /* of mem.map; words of each bitmap */
	/* Owned: one allocation, that of .vmm. */
	uint64_t *vmm;   /* our writes since the last dirty_collect(); atomic */
	uint64_t *since; /* changed since the last snapshot that was kept */
	uint64_t *taken; /* what the snapshot in progress writes */
	uint64_t *log;   /* room for KVM's answer */
	bool in_progress; /* between take and settle */
	bool manual; /* KVM clears its log when it is told, not when read */
};

/* Begin to note changes; before machine_realize(). Nothing is dirty yet. The
 * memory keeps it, mem_destroy() frees it. */
int dirty_start(struct mem *m, struct err *e) MUST_USE;
void dirty_free(struct dirty *d);
/* machine_realize(), before the first slot. */
int dirty_open_log(struct machine *m, struct err *e) MUST_USE;

/* [offset, offset + len) of mem.map was, or is about to be, written. Any
 * thread. */
void dirty_mark(struct dirty *d, uint64_t offset, uint64_t len);

/* All that is known by now into .since. While vCPUs run it only takes work from
 * the next call; a snapshot needs one that began after machine_pause(): reading
 * vCPU state can make KVM write to guest memory. Loop thread. On error nothing
 * is lost. */
int dirty_collect(struct machine *m, struct err *e) MUST_USE;
/* The pages of a snapshot: valid until dirty_settle(). One at a time: -EBUSY.
 * A bit for every page that changed since the snapshot that was kept last. */
int dirty_take(struct dirty *d, const uint64_t **taken, struct err *e) MUST_USE;
/* kept: the snapshot is where nobody loses it. Does nothing without a take. */
void dirty_settle(struct dirty *d, bool kept);

uint64_t dirty_count(const uint64_t *bits, uint64_t words);

#endif
