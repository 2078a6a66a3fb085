/* Circular doubly linked lists whose links stand inside the listed objects. */
#ifndef THAW_API_DAEMON_LIST_H
#define THAW_API_DAEMON_LIST_H

#include "core/util.h"

struct list {
	struct list *next, *prev;
};

static inline void list_init(struct list *l)
{
	l->next = l->prev = l;
}

static inline bool list_empty(const struct list *l)
{
	return l->next == l;
}

/* Before l: at the end when l is the list's head. */
static inline void list_add(struct list *l, struct list *item)
{
	item->prev = l->prev;
	item->next = l;
	l->prev->next = item;
	l->prev = item;
}

/* Taking out what is in no list (initialized) does nothing. */
static inline void list_del(struct list *item)
{
	item->prev->next = item->next;
	item->next->prev = item->prev;
	list_init(item);
}

#define list_for_each(it, head)                                                \
	for (struct list *it = (head)->next; it != (head); it = it->next)
/* The current item may be taken out in the loop's body, no other one. */
#define list_for_each_safe(it, head)                                           \
	for (struct list *it = (head)->next, *it##_next = it->next;            \
		it != (head); it = it##_next, it##_next = it->next)

#endif
