/*
 * Snapshots on other hosts: "tcp://..." instead of a path. Before such a
 * request is handled, everything of the snapshot but its chunks is brought into
 * the cache, and so of all that it builds on; then its method is called. What
 * comes from there is looked at by other processes only.
 *
 * The cache is STATE_DIR/cache: UUID-DIGEST.thaw, a sparse file with the layout
 * of the remote one, and its working set. Pagers fill in chunks. A file there
 * needs no protection against crashes: whoever uses it checks it.
 */
#ifndef THAW_API_DAEMON_FETCH_H
#define THAW_API_DAEMON_FETCH_H

#include "api/daemon/conn.h"
#include "api/daemon/params.h"
#include "snapshot/remote.h"

/* What a request for a remote snapshot gets: request.fetched. */
struct fetched {
	struct remote_name name;
	int file, set; /* owned, for reading; set -1: there is none */
};

/* Is the snapshot on another host? */
bool fetch_wanted(const struct args *a);
/* Take the request: its method is called again with r->fetched, or it fails. */
int fetch_hold(struct daemon *d, struct request *r,
	const msgpack_object *params, const struct args *a,
	struct err *e) MUST_USE;
/* A file of the cache, or a negative errno. */
int fetch_cached(
	struct daemon *d, const struct remote_file *f, bool write) MUST_USE;
/* At the daemon's start: what a crash left half done. */
void fetch_clean(struct daemon *d);

#endif
