/*
 * Templates. A template owns its snapshot file and the sealed memory made from
 * it; its zygote forks clones. It is CREATING while its files do not exist yet,
 * LOADING while it has files but no zygote, FAILED when no zygote can be
 * started any more.
 */
#ifndef THAW_API_DAEMON_TEMPLATE_H
#define THAW_API_DAEMON_TEMPLATE_H

#include "api/daemon/devfiles.h"
#include "api/daemon/feed.h"
#include "api/daemon/machine.h"
#include "api/daemon/store.h"

enum template_state {
	TEMPLATE_CREATING,
	TEMPLATE_LOADING,
	TEMPLATE_READY,
	TEMPLATE_FAILED
};

struct template
{
	struct strmap_node by_name;
	struct list all;
	char name[NAME_LEN];
	enum template_state state;
	char error[300]; /* FAILED: why */
	int error_code;
	struct creation *creation; /* in progress, or NULL */

	struct machine_config cfg;
	char *labels; /* owned JSON object, or NULL */
	struct snap_uuid uuid;
	uint64_t base_bytes, created; /* created: wall_ns() */
	uint64_t pool_target, max_clones, invoke_ms;

	struct devfiles files; /* its disks: images and layers; no taps */
	int snap_fd, base_fd;  /* owned; base_fd -1 until it is known */
	struct feed_opts paging;
	struct remote_name *remote; /* owned: where its snapshot is, or NULL */
	struct feed *feed;          /* owned: its pager; NULL: none (yet) */
	uint64_t began;             /* now_ns() when it was asked for */
	uint32_t first_answer_us;   /* since then; 0: none yet */
	struct zygote *z;           /* current one, NULL: none yet */
	struct list retired; /* zygotes that only wait for their clones */
	unsigned starts;     /* attempts to start a zygote in a row */
	struct deadline retry;

	struct list parked, wants;
	bool feeding; /* birth_feed() is at work */
	unsigned nparked, nfilling, nmachines;
	unsigned fill_failures;
	uint64_t fill_after; /* now_ns(): not before */
	bool pool_announced;
	uint64_t next_number;

	uint64_t made_pooled, made_fresh, failed, invokes;
};

/* template.c */
struct template *template_find(struct daemon *d, const char *name);
int template_get(struct daemon *d, const char *name, struct template **t,
	struct err *e) MUST_USE;
struct template *template_add(struct daemon *d, const char *name);
/* Out of the registry; its zygotes and machines are killed. */
void template_drop(struct daemon *d, struct template *t, const struct err *why);
/* No zygote can be had: everybody who waits is told. */
void template_failed(
	struct daemon *d, struct template *t, const struct err *why);
/* Its zygote is ready. */
void template_ready(struct daemon *d, struct template *t);
/* template_disks.c: what template.json says of a template's disks, as JSON, and
 * who made it (their rights open the images again); NULL: no disks. */
char *template_disks_json(const struct config *c, const msgpack_object *disks);
/* After publishing or at the daemon's start: images that are not open yet, and
 * the builder's overlays as layers. */
int template_open_disks(struct daemon *d, struct template *t,
	const struct store_meta *meta, struct err *e) MUST_USE;
/* All of its base is there. */
void template_complete(struct daemon *d, struct template *t);
/* Its pager is dead, and so are the machines that it fed: begin again. */
void template_feed_lost(struct daemon *d, struct template *t, struct feed *f,
	const struct err *why);
/* Templates of the store, in the background. */
void templates_load(struct daemon *d);
/* Clones that somebody was given, or that are being made for somebody. */
unsigned template_clones(const struct template *t);
/* A machine of the template ends. */
void template_leave(struct daemon *d, struct machine_entry *m);

/* pool.c */
/* A parked clone, no longer in the pool, or NULL. */
struct machine_entry *pool_take(struct daemon *d, struct template *t);
void pool_park(struct daemon *d, struct machine_entry *m);
void template_unpark(struct machine_entry *m);
void pool_discard(struct daemon *d, struct template *t);
/* Requests in progress: filling waits until there are none. */
void pool_busy(struct daemon *d);
void pool_quiet(struct daemon *d);
void pool_fill_failed(struct template *t);
/* Go on filling soon; to be called whenever a pool may have become short. */
void pool_schedule(struct daemon *d);

#endif
