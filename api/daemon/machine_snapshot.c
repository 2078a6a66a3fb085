#include "api/daemon/machine.h"

#include "api/daemon/methods.h"
#include "api/daemon/peerfile.h"
#include "api/daemon/starter.h"
#include "snapshot/publish.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

/*
 * Method "machine.snapshot". The file is made with the client's rights in the
 * client's directory and appears there when it is complete.
 */

struct snapshot_op {
	struct request *r;
	char path[4096];
	int dir;  /* owned; -1: the client passed a descriptor */
	int file; /* owned in that case */
	struct publish pub;
	bool publishing;
	struct ucred peer;
};

static void op_free(struct snapshot_op *op)
{
	if (op->publishing)
		publish_abort(&op->pub);
	if (op->dir >= 0)
		(void)close(op->dir);
	if (op->file >= 0)
		(void)close(op->file);
	free(op);
}

static int commit(struct snapshot_op *op, struct err *e)
{
	struct peer_rights rights;
	int r;

	if (!op->publishing)
		return 0;
	r = peer_enter(
		&rights, &op->peer, op->r->conn ? op->r->conn->fd : -1, e);
	if (r)
		return r;
	r = publish_commit(&op->pub, e);
	peer_leave(&rights);
	return r;
}

static void written(
	struct daemon *d, void *arg, struct ctl_packet *pk, const struct err *e)
{
	struct snapshot_op *op = arg;
	struct err why = {0};
	char uuid[SNAP_UUID_STR];
	msgpack_packer *p;

	(void)d;
	if (!pk || commit(op, &why)) {
		request_fail(op->r, pk ? &why : e);
		op_free(op);
		return;
	}
	snap_uuid_str(&pk->msg.frozen.uuid, uuid);
	p = request_begin(op->r);
	(void)msgpack_pack_map(p, 6);
	mp_key_str(p, "uuid", uuid);
	mp_key_str(p, "path", op->path);
	mp_key_u64(p, "bytes", pk->msg.frozen.bytes);
	mp_key_u64(p, "pages", pk->msg.frozen.pages);
	mp_key_u64(p, "pause_us", pk->msg.frozen.pause_us);
	mp_key_u64(p, "total_us", pk->msg.frozen.total_us);
	request_end(op->r);
	op_free(op);
}

static int open_target(struct daemon *d, struct snapshot_op *op,
	const struct args *a, struct err *e)
{
	struct peer_rights rights;
	char name[256];
	int r;

	if (a->path.fd >= 0) {
		op->file = request_take_fd(op->r, a->path.fd, e);
		return op->file < 0 ? op->file : 0;
	}
	op->peer = op->r->conn->peer;
	(void)snprintf(op->path, sizeof(op->path), "%.*s", (int)a->path.path.n,
		a->path.path.p);
	op->dir = peerfile_parent(
		d, &op->peer, op->r->conn->fd, &a->path.path, name, e);
	if (op->dir < 0)
		return op->dir;
	r = peer_enter(&rights, &op->peer, op->r->conn->fd, e);
	if (r)
		return r;
	r = publish_begin(&op->pub, op->dir, name, a->force, e);
	peer_leave(&rights);
	op->publishing = r == 0;
	return r;
}

static int check(
	const struct args *a, const struct machine_entry *m, struct err *e)
{
	if (a->type)
		return err_set(e, -EOPNOTSUPP,
			"type: diff snapshots are not supported yet");
	if (a->codec)
		return err_set(
			e, -EOPNOTSUPP, "codec: zstd is not supported yet");
	if (a->live)
		return err_set(e, -EOPNOTSUPP,
			"live: live snapshots are not supported yet");
	if (m->state != ENTRY_RUNNING && m->state != ENTRY_PAUSED)
		return err_set(e, -EBUSY, "%s: the machine is %s", m->id,
			machine_state(m));
	return 0;
}

int machine_snapshot_method(
	struct daemon *d, struct request *r, struct args *a, struct err *e)
{
	struct ctl_msg msg = {.type = CTL_SNAPSHOT};
	struct snapshot_op *op;
	struct machine_entry *m;
	int rc = machine_get(d, a->id, &m, e);

	if (!rc)
		rc = check(a, m, e);
	if (rc)
		return rc;
	op = calloc(1, sizeof(*op));
	if (!op)
		return err_set(e, -ENOMEM, "no memory for a request");
	op->r = r;
	op->dir = op->file = -1;
	rc = open_target(d, op, a, e);
	if (!rc)
		rc = proc_call(d, &m->p,
			&(struct proc_request){.m = &msg,
				.fds = &(struct ctl_fd){op->publishing
								? op->pub.fd
								: op->file,
					CTL_FD_OUTPUT, 0},
				.nfds = 1,
				.timeout_ms = FREEZE_MS,
				.fn = written,
				.arg = op},
			e);
	if (rc)
		op_free(op);
	return rc;
}
