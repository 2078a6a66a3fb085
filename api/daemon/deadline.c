#include "api/daemon/deadline.h"

#define MAX_WAIT_NS 60000000000ULL

/* Join two heaps; the earlier root becomes the parent. */
static struct deadline *meld(struct deadline *a, struct deadline *b)
{
	struct deadline *t;

	if (!a || !b)
		return a ? a : b;
	if (b->when < a->when) {
		t = a;
		a = b;
		b = t;
	}
	b->next = a->child;
	if (b->next)
		b->next->prev = b;
	b->prev = a;
	a->child = b;
	return a;
}

/* Siblings into one heap: pair them left to right, then join right to left. */
static struct deadline *meld_all(struct deadline *first)
{
	struct deadline *pairs = NULL, *all = NULL;

	while (first) {
		struct deadline *a = first, *b = first->next;

		first = b ? b->next : NULL;
		a->next = a->prev = NULL;
		if (b)
			b->next = b->prev = NULL;
		a = meld(a, b);
		a->next = pairs;
		pairs = a;
	}
	while (pairs) {
		struct deadline *a = pairs;

		pairs = a->next;
		a->next = NULL;
		all = meld(all, a);
	}
	return all;
}

void deadline_clear(struct deadlines *h, struct deadline *dl)
{
	if (!dl->when)
		return;
	if (h->root == dl) {
		h->root = meld_all(dl->child);
	} else {
		if (dl->prev->child == dl)
			dl->prev->child = dl->next;
		else
			dl->prev->next = dl->next;
		if (dl->next)
			dl->next->prev = dl->prev;
		h->root = meld(h->root, meld_all(dl->child));
	}
	dl->when = 0;
	dl->child = dl->next = dl->prev = NULL;
}

void deadline_set(struct deadlines *h, struct deadline *dl, uint64_t when,
	deadline_fn *fn)
{
	deadline_clear(h, dl);
	dl->when = when ? when : 1;
	dl->fn = fn;
	h->root = meld(h->root, dl);
}

int deadlines_timeout(const struct deadlines *h, uint64_t now)
{
	uint64_t left;

	if (!h->root)
		return -1;
	if (h->root->when <= now)
		return 0;
	left = min_u64(h->root->when - now, MAX_WAIT_NS);
	return (int)((left + 999999) / 1000000);
}

void deadlines_run(struct deadlines *h, struct daemon *d, uint64_t now)
{
	while (h->root && h->root->when <= now) {
		struct deadline *dl = h->root;

		deadline_clear(h, dl);
		dl->fn(d, dl);
	}
}
