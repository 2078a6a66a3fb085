#include "api/machine/fetch.h"

#include "core/log.h"
#include "snapshot/remote.h"
#include "uffd/pager.h"

#include <errno.h>
#include <string.h>

/*
 * What another host sends is first looked at here, in a process that can do
 * nothing else. Nothing goes over the network when a cached copy is right.
 */

static int note_parent(int fd, struct ctl_setup_done *done, struct err *e)
{
	struct snap_peeked is;
	int r = snap_peek(fd, &is, e);

	if (r || !is.diff)
		return r;
	done->fetched |= CTL_FETCHED_DIFF;
	done->uuid = is.parent_uuid;
	memcpy(done->digest, is.parent_digest, sizeof(done->digest));
	return 0;
}

static int check_set(
	int file, int fd, const struct remote_file *f, struct err *e)
{
	struct snap *s = NULL;
	struct ws set;
	int r = ws_read(fd, &set, e);

	if (r)
		return r;
	r = snap_open(file, &s, e);
	if (!r)
		r = ws_check(&set, f->uuid.b, f->digest,
			snap_memory_size(s) / PAGE_SIZE_4K, e);
	snap_close(s);
	ws_fini(&set);
	return r;
}

/* A hint: without it everything works, only later. */
static bool get_set(
	struct remote_link *l, const struct remote_file *f, int file, int fd)
{
	struct err e = {0};
	int r = fd < 0 ? -ENOENT : remote_set_get(l, f, fd, &e);

	if (!r)
		r = check_set(file, fd, f, &e);
	if (r && r != -ENOENT)
		log_warning("%s; it is not used", e.msg);
	return !r;
}

static int from_peer(const struct remote_name *n, struct ctl_packet *p,
	struct ctl_setup_done *done, struct err *e)
{
	uint32_t ms = p->msg.setup.pager.stall_ms;
	int dialer = ctl_fd(p, CTL_FD_DIALER, 0);
	int out = ctl_fd(p, CTL_FD_OUTPUT, 0);
	struct remote_link l;
	int r;

	if (dialer < 0 || out < 0)
		return err_set(e, -EINVAL, "setup without a peer");
	r = remote_link_init(&l, dialer, n, ms ? ms : PAGER_STALL_MS, e);
	if (r)
		return r;
	r = remote_front_get(&l, &n->file, out, e);
	/* A template is kept only when its file is. */
	if (!r && fsync(out))
		r = err_sys(e, -errno, "fsync of a cached snapshot");
	if (!r && get_set(&l, &n->file, out, ctl_fd(p, CTL_FD_OUTPUT, 1)))
		done->fetched |= CTL_FETCHED_SET;
	remote_link_fini(&l);
	return r ? r : note_parent(out, done, e);
}

int fetch_snapshot(
	struct ctl_packet *p, struct ctl_setup_done *done, struct err *e)
{
	int cached = ctl_fd(p, CTL_FD_SNAPSHOT, 0);
	struct remote_name n;
	struct err why = {0};

	if (p->msg.len != sizeof(n))
		return err_set(e, -EINVAL, "setup without a name");
	memcpy(&n, p->payload, sizeof(n));
	if (cached >= 0 && !remote_front_check(cached, &n.file, &why)) {
		done->fetched |= CTL_FETCHED_CACHED;
		return note_parent(cached, done, e);
	}
	if (cached >= 0)
		log_warning("a cached snapshot is of no use: %s", why.msg);
	return from_peer(&n, p, done, e);
}
