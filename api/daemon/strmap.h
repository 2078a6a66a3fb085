/* Hash table from strings to objects; nodes stand inside the objects. */
#ifndef THAW_API_DAEMON_STRMAP_H
#define THAW_API_DAEMON_STRMAP_H

#include "core/util.h"

struct strmap_node {
	struct strmap_node *next;
	const char *key; /* borrowed: part of the object */
	uint64_t hash;
};

struct strmap {
	struct strmap_node **bucket; /* owned */
	size_t nbuckets, n;
};

int strmap_init(struct strmap *m) MUST_USE;
void strmap_fini(struct strmap *m);
/* The key must not be in the map yet. */
void strmap_add(struct strmap *m, struct strmap_node *node, const char *key);
void strmap_del(struct strmap *m, struct strmap_node *node);
struct strmap_node *strmap_find(const struct strmap *m, const char *key);

#endif
