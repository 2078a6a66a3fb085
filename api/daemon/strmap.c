#include "api/daemon/strmap.h"

#include <errno.h>
#include <string.h>

#define FIRST_BUCKETS 256

/* FNV-1a: names and ids are short, and clients choose only the names. */
static uint64_t hash_of(const char *key)
{
	uint64_t h = 0xcbf29ce484222325ULL;

	for (; *key; key++)
		h = (h ^ (uint8_t)*key) * 0x100000001b3ULL;
	return h;
}

int strmap_init(struct strmap *m)
{
	m->n = 0;
	m->nbuckets = FIRST_BUCKETS;
	m->bucket = calloc(m->nbuckets, sizeof(struct strmap_node *));
	return m->bucket ? 0 : -ENOMEM;
}

void strmap_fini(struct strmap *m)
{
	free(m->bucket);
	m->bucket = NULL;
}

static void put(struct strmap *m, struct strmap_node *node)
{
	struct strmap_node **b = &m->bucket[node->hash & (m->nbuckets - 1)];

	node->next = *b;
	*b = node;
}

/* Without memory for more buckets, lookups only become slower. */
static void grow(struct strmap *m)
{
	struct strmap_node **old = m->bucket;
	size_t n = m->nbuckets;

	m->bucket = calloc(2 * n, sizeof(struct strmap_node *));
	if (!m->bucket) {
		m->bucket = old;
		return;
	}
	m->nbuckets = 2 * n;
	for (size_t i = 0; i < n; i++) {
		while (old[i]) {
			struct strmap_node *node = old[i];

			old[i] = node->next;
			put(m, node);
		}
	}
	free(old);
}

void strmap_add(struct strmap *m, struct strmap_node *node, const char *key)
{
	if (m->n >= m->nbuckets)
		grow(m);
	node->key = key;
	node->hash = hash_of(key);
	put(m, node);
	m->n++;
}

void strmap_del(struct strmap *m, struct strmap_node *node)
{
	struct strmap_node **p = &m->bucket[node->hash & (m->nbuckets - 1)];

	while (*p && *p != node)
		p = &(*p)->next;
	if (!*p)
		return;
	*p = node->next;
	m->n--;
}

struct strmap_node *strmap_find(const struct strmap *m, const char *key)
{
	uint64_t h = hash_of(key);
	struct strmap_node *node = m->bucket[h & (m->nbuckets - 1)];

	while (node && (node->hash != h || strcmp(node->key, key) != 0))
		node = node->next;
	return node;
}
