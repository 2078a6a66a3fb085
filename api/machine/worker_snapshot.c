#include "api/machine/worker.h"

#include "core/dirty.h"
#include "core/freeze.h"

#include <errno.h>
#include <string.h>

/*
 * Snapshots of a machine. The machine itself only forks (core/freeze.c): the
 * child holds it as it was and writes the file (frozen.c), talking to the
 * daemon on a socket of its own. A machine that is not to be frozen live stays
 * paused until the daemon says what became of the file; either way the pages
 * that the file holds count as unchanged only from that moment on.
 */

/* Which snapshot would a diff differ from? */
static int choose(const struct worker *w, struct ctl_snapshot *q, struct err *e)
{
	bool tracked = w->m.mem.dirty && w->last.known;
	bool template = w->clone && w->origin.known;
	bool fresh = !memcmp(w->last.uuid.b, w->origin.uuid.b, 16);

	if (!q->diff) {
		q->against = CTL_AGAINST_ANY;
		return 0;
	}
	if (q->against != CTL_AGAINST_TEMPLATE && tracked) {
		q->against = CTL_AGAINST_LAST;
		return 0;
	}
	/* Without a snapshot of its own a clone's last is its template. */
	if (template && (q->against != CTL_AGAINST_LAST || fresh)) {
		q->against = CTL_AGAINST_TEMPLATE;
		return 0;
	}
	if (q->against == CTL_AGAINST_TEMPLATE)
		return err_set(e, -EINVAL,
			"against: the machine is no clone, it has no template");
	if (template)
		return err_set(e, -EOPNOTSUPP,
			"against: what a clone changed since its last snapshot "
			"is not tracked: its diffs are against its template");
	if (!w->m.mem.dirty)
		return err_set(e, -EOPNOTSUPP,
			"type: a diff of this machine needs its changes "
			"tracked: start it with track_dirty");
	return err_set(e, -EINVAL,
		"type: there is no snapshot of this machine yet to differ "
		"from: make a full one first");
}

/* A fork of memory that a pager still fills is not registered with it: what is
 * missing would be zeros there. What a clone changed is not missing, though,
 * and a diff against its template reads nothing else. */
static int check_complete(
	const struct worker *w, const struct ctl_snapshot *q, struct err *e)
{
	if (q->against == CTL_AGAINST_TEMPLATE || mem_is_complete(&w->m.mem))
		return 0;
	if (w->handler >= 0)
		return err_set(e, -EOPNOTSUPP,
			"the machine's memory is brought in by an external "
			"pager, which does not say when all of it is there: "
			"it cannot be snapshotted");
	return err_set(e, -EBUSY,
		"the machine's memory is still being brought in: it can be "
		"snapshotted when machine.show or template.show says that its "
		"pager is complete");
}

/* Where to write overlays, by disk of the machine. The descriptors stay p's. */
static int find_overlays(const struct worker *w, const struct ctl_packet *p,
	int fd[MACHINE_MAX_DISKS], struct err *e)
{
	const unsigned n = p->msg.len / sizeof(struct ctl_disk);
	struct ctl_disk d;

	for (unsigned i = 0; i < MACHINE_MAX_DISKS; i++)
		fd[i] = -1;
	for (unsigned i = 0; i < n; i++) {
		int k;

		memcpy(&d, p->payload + i * sizeof(d), sizeof(d));
		k = machine_find_disk(&w->m.cfg, d.id);
		if (k < 0)
			return err_set(e, -EINVAL,
				"overlays: the machine has no disk \"%s\"",
				d.id);
		fd[k] = ctl_fd(p, CTL_FD_OVERLAY, i);
	}
	return 0;
}

int worker_snapshot(struct worker *w, struct ctl_packet *p, struct err *e)
{
	AUTO_FD sock = ctl_take(p, CTL_FD_SOCKET, 0);
	struct ctl_snapshot q = p->msg.snapshot;
	int overlay[MACHINE_MAX_DISKS];
	struct freeze f = {.timeout_ms = WORKER_PAUSE_MS,
		.stay = !q.live,
		.keep = sock,
		.overlay = overlay};
	struct ctl_msg m = {0};
	uint64_t start = now_ns();
	int r;

	if (sock < 0)
		return err_set(e, -EINVAL, "snapshot without a socket");
	r = choose(w, &q, e);
	if (!r)
		r = check_complete(w, &q, e);
	if (!r)
		r = find_overlays(w, p, overlay, e);
	if (!r)
		r = freeze_fork(&w->m, &f, e);
	if (r == 1)
		frozen_run(w, &(struct frozen){.sock = sock,
				      .diff = q.diff,
				      .live = q.live,
				      .against = q.against,
				      .taken = f.taken});
	if (r)
		return r;
	w->held = f.paused;
	w->held_since = start;
	m.split.us = f.us;
	m.split.against = q.against;
	m.split.was_paused = w->m.state == MACHINE_PAUSED && !f.paused;
	worker_reply(w, &p->msg, &m, NULL,
		&(struct ctl_fd){f.pidfd, CTL_FD_PIDFD, 0}, 1);
	(void)close(f.pidfd);
	return 0;
}

int worker_settle(struct worker *w, struct ctl_packet *p, struct err *e)
{
	const struct ctl_settle *q = &p->msg.settle;
	struct ctl_msg m = {0};
	uint64_t start = now_ns();
	int r = 0;

	if (w->m.mem.dirty)
		dirty_settle(w->m.mem.dirty, q->kept);
	if (q->kept) {
		w->last.known = true;
		w->last.uuid = q->uuid;
		memcpy(w->last.digest, q->digest, sizeof(w->last.digest));
	}
	if (w->held) {
		w->held = false;
		if (w->m.state == MACHINE_PAUSED)
			r = machine_resume(&w->m, e);
		m.settled.resume_us = (uint32_t)((now_ns() - start) / 1000);
		m.settled.pause_us =
			(uint32_t)((now_ns() - w->held_since) / 1000);
	}
	if (!r)
		worker_reply(w, &p->msg, &m, NULL, NULL, 0);
	return r;
}
