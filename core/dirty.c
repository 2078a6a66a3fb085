/*
 * How it works
 *
 * With KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 reading the log changes nothing;
 * clearing it write-protects pages again. Cleared is exactly what was read, and
 * all of that counts as changed. So a page that the guest writes between the
 * two is among the changed ones, or is in the next log: it may run meanwhile.
 *
 * Without the capability KVM_GET_DIRTY_LOG does both at once.
 *
 * Our own writes are noted when the pointer is handed out, which is before the
 * write. Devices give up their pointers when they are quiesced, so after a
 * pause no write of theirs is still to come.
 *
 * KVM writes into guest memory for itself: clock, steal time, end of interrupt,
 * asynchronous page faults. It notes most of that in its log, though through
 * caches of which not every version did; the guest tells it where by MSRs, so
 * those pages count as changed always (arch_dirty_kvm()): a few pages.
 */
#include "core/dirty.h"
#include "core/arch.h"
#include "core/kvm.h"

#include <errno.h>
#include <linux/kvm.h>
#include <string.h>

#define WORD_PAGES 64U
#define NBITMAPS   4U

int dirty_start(struct mem *m, struct err *e)
{
	struct dirty *d;

	if (m->dirty)
		return 0;
	d = calloc(1, sizeof(*d));
	if (!d)
		return err_set(e, -ENOMEM, "no memory to track dirty pages");
	/* Sizes of regions are multiples of 2 MiB: 8 words. */
	d->pages = m->size / PAGE_SIZE_4K;
	d->words = d->pages / WORD_PAGES;
	d->vmm = calloc(NBITMAPS * d->words, sizeof(uint64_t));
	if (!d->vmm) {
		free(d);
		return err_set(e, -ENOMEM, "no memory to track dirty pages");
	}
	d->since = d->vmm + d->words;
	d->taken = d->since + d->words;
	d->log = d->taken + d->words;
	m->dirty = d;
	return 0;
}

void dirty_free(struct dirty *d)
{
	if (!d)
		return;
	free(d->vmm);
	free(d);
}

int dirty_open_log(struct machine *m, struct err *e)
{
	struct kvm_enable_cap cap = {
		.cap = KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
		.args = {KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE},
	};
	struct dirty *d = m->mem.dirty;
	int r;

	if (!d)
		return 0;
	r = kvm_ioctl_val(m->vm_fd, KVM_CHECK_EXTENSION, cap.cap);
	if (r <= 0 || !((uint64_t)r & KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE))
		return 0;
	r = kvm_ioctl(m->vm_fd, KVM_ENABLE_CAP, &cap);
	if (r < 0)
		return err_sys(e, r, "manual dirty log");
	d->manual = true;
	return 0;
}

void dirty_mark(struct dirty *d, uint64_t offset, uint64_t len)
{
	uint64_t page = offset / PAGE_SIZE_4K, last;

	if (!len)
		return;
	last = (offset + len - 1) / PAGE_SIZE_4K;
	for (; page <= last; page++) {
		uint64_t bit = 1ULL << page % WORD_PAGES;
		uint64_t *word = &d->vmm[page / WORD_PAGES];

		/* Rings are marked again and again: no write, no bouncing of
		 * the cache line. */
		if (!(__atomic_load_n(word, __ATOMIC_RELAXED) & bit))
			__atomic_fetch_or(word, bit, __ATOMIC_RELAXED);
	}
}

static bool any(const uint64_t *bits, uint64_t words)
{
	uint64_t all = 0;

	for (uint64_t i = 0; i < words; i++)
		all |= bits[i];
	return all != 0;
}

/* One region's log into d->log at its place, and cleared. */
static int collect_slot(struct machine *m, uint32_t slot, struct err *e)
{
	const struct mem_region *reg = &m->mem.region[slot];
	struct dirty *d = m->mem.dirty;
	uint64_t words = reg->size / PAGE_SIZE_4K / WORD_PAGES;
	uint64_t *log = d->log + reg->offset / PAGE_SIZE_4K / WORD_PAGES;
	struct kvm_dirty_log get = {.slot = slot, .dirty_bitmap = log};
	struct kvm_clear_dirty_log clear = {.slot = slot,
		.num_pages = (uint32_t)(reg->size / PAGE_SIZE_4K),
		.dirty_bitmap = log};
	int r = kvm_ioctl(m->vm_fd, KVM_GET_DIRTY_LOG, &get);

	if (r < 0)
		return err_sys(e, r, "KVM_GET_DIRTY_LOG");
	if (!d->manual || !any(log, words))
		return 0;
	r = kvm_ioctl(m->vm_fd, KVM_CLEAR_DIRTY_LOG, &clear);
	return r < 0 ? err_sys(e, r, "KVM_CLEAR_DIRTY_LOG") : 0;
}

int dirty_collect(struct machine *m, struct err *e)
{
	struct dirty *d = m->mem.dirty;
	int r = 0;

	if (!d)
		return 0;
	memset(d->log, 0, d->words * sizeof(*d->log));
	for (uint32_t i = 0; !r && m->vm_fd >= 0 && i < m->mem.nregions; i++)
		r = collect_slot(m, i, e);
	arch_dirty_kvm(m);
	for (uint64_t i = 0; i < d->words; i++) {
		d->since[i] |= d->log[i];
		if (__atomic_load_n(&d->vmm[i], __ATOMIC_RELAXED))
			d->since[i] |= __atomic_exchange_n(
				&d->vmm[i], 0, __ATOMIC_RELAXED);
	}
	return r;
}

int dirty_take(struct dirty *d, const uint64_t **taken, struct err *e)
{
	if (d->in_progress)
		return err_set(e, -EBUSY,
			"another snapshot of this machine is in progress");
	memcpy(d->taken, d->since, d->words * sizeof(*d->since));
	memset(d->since, 0, d->words * sizeof(*d->since));
	d->in_progress = true;
	*taken = d->taken;
	return 0;
}

void dirty_settle(struct dirty *d, bool kept)
{
	if (!d->in_progress)
		return;
	for (uint64_t i = 0; !kept && i < d->words; i++)
		d->since[i] |= d->taken[i];
	d->in_progress = false;
}

uint64_t dirty_count(const uint64_t *bits, uint64_t words)
{
	uint64_t n = 0;

	for (uint64_t i = 0; i < words; i++)
		n += (uint64_t)__builtin_popcountll(bits[i]);
	return n;
}
