#include "api/daemon/machine.h"

#include "api/daemon/config.h"
#include "api/daemon/console.h"
#include "api/daemon/events.h"
#include "api/daemon/fetch.h"
#include "api/daemon/handler.h"
#include "api/daemon/listener.h"
#include "api/daemon/methods.h"
#include "api/daemon/peerfile.h"
#include "api/daemon/starter.h"
#include "core/log.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* Methods of machines, but for invoke.c and machine_snapshot.c. */

#define PAUSE_MS 5000

struct creating {
	struct request *r;
	bool bind;
};

static void started(struct daemon *d, void *arg, struct machine_entry *m,
	const struct start_times *us, const struct err *e)
{
	struct creating *c = arg;
	struct request *r = c->r;
	bool bind = c->bind;
	msgpack_packer *p;

	free(c);
	if (e) {
		struct err why = *e;

		request_fail(r, &why);
		machine_discard(d, m);
		return;
	}
	events_machine(d, "machine.ready", m);
	if (bind && r->conn) {
		machine_bind(m, r->conn);
	} else if (bind) {
		struct err why = {
			.code = -ECONNRESET, .msg = "the client has gone"};

		machine_kill(d, m, &why);
	}
	p = request_begin(r);
	(void)msgpack_pack_map(p, 2);
	mp_key_str(p, "id", m->id);
	mp_str(p, "us");
	(void)msgpack_pack_map(p, 3);
	mp_key_u64(p, "build", us->build);
	mp_key_u64(p, "ready", us->ready);
	mp_key_u64(p, "total", us->total);
	request_end(r);
}

/* Files and sockets of a machine; all are closed by the caller. */
static int open_files(struct request *r, struct args *a, struct config *cfg,
	struct start *s, struct listener **l, struct err *e)
{
	struct daemon *d = r->d;
	int rc;

	if (!s->cfg && r->fetched)
		s->file = take_fd(&r->fetched->file);
	else if (!s->cfg)
		s->file = peerfile_read(d, r, "snapshot", &a->snapshot, e);
	else if (!cfg->mc.builtin)
		s->file = peerfile_read(d, r, "config.kernel", &cfg->kernel, e);
	if ((!s->cfg || !cfg->mc.builtin) && s->file < 0)
		return s->file;
	if (s->cfg && cfg->mc.initrd[0]) {
		s->initrd =
			peerfile_read(d, r, "config.initrd", &cfg->initrd, e);
		if (s->initrd < 0)
			return s->initrd;
	}
	rc = s->cfg ? devfiles_of_config(d, r, cfg, -1, s->files, e)
		    : devfiles_overrides(r,
			      &(struct devfiles_maps){a->disks, a->taps,
				      a->macs, a->ips, a->overlays},
			      s->files, e);
	if (rc)
		return rc;
	if (!a->vsock.path.p && a->vsock.fd < 0)
		return 0;
	if (s->cfg && !cfg->mc.vsock_cid)
		return err_set(
			e, -EINVAL, "vsock: the machine has no vsock device");
	s->listener = listener_create(d, r, &a->vsock, l, e);
	return s->listener < 0 ? s->listener : 0;
}

static int create(struct daemon *d, struct request *r, struct args *a,
	struct start *s, struct listener **l, struct err *e)
{
	struct creating *c = malloc(sizeof(*c));
	struct machine_entry *m;
	char id[ID_LEN];
	int rc, fd = -1;

	if (!c)
		return err_set(e, -ENOMEM, "no memory for a request");
	*c = (struct creating){.r = r, .bind = a->bind};
	if (a->console.fd >= 0)
		fd = request_take_fd(r, a->console.fd, e);
	if (a->console.fd >= 0 && fd < 0) {
		free(c);
		return err_wrap(e, "console");
	}
	(void)snprintf(id, sizeof(id), "m-%llu",
		(unsigned long long)++d->next_machine);
	s->id = id;
	s->fn = started;
	s->arg = c;
	rc = starter_begin(d, s, &m, e);
	if (rc) {
		free(c);
		if (fd >= 0)
			(void)close(fd);
		return rc;
	}
	m->listener = *l;
	*l = NULL;
	events_machine(d, "machine.created", m);
	/* The machine is on its way already: it starts without it. */
	if (fd >= 0 && console_attach(m, fd, e))
		log_warning(
			"%s: %s; its output is kept instead", m->id, e->msg);
	return 0;
}

static int check_source(const struct args *a, bool snapshot, struct err *e)
{
	if (snapshot && a->config)
		return err_set(
			e, -EINVAL, "config and snapshot: give one of them");
	if (!snapshot &&
		(a->disks || a->overlays || a->taps || a->macs || a->ips))
		return err_set(e, -EINVAL,
			"disks, overlays, taps, macs and ips: are for a "
			"snapshot; a configuration has devices");
	if (!snapshot && a->lazy)
		return err_set(e, -EINVAL, "lazy: only with snapshot");
	return 0;
}

static void close_files(struct start *s, struct listener *l)
{
	const int fd[] = {s->file, s->initrd, s->set, s->handler, s->listener};

	for (size_t i = 0; i < ARRAY_SIZE(fd); i++)
		if (fd[i] >= 0)
			(void)close(fd[i]);
	if (l)
		listener_close(l);
}

int machine_create_method(
	struct daemon *d, struct request *r, struct args *a, struct err *e)
{
	bool snapshot = a->snapshot.path.p || a->snapshot.fd >= 0;
	struct listener *l = NULL;
	struct devfiles files;
	struct feed_opts paging;
	struct config cfg;
	char path[4096], handler[4096];
	struct start s = {.kind = ENTRY_MACHINE,
		.role = CTL_ROLE_MACHINE,
		.file = -1,
		.initrd = -1,
		.set = -1,
		.handler = -1,
		.listener = -1,
		.files = &files,
		.name = a->name,
		.hostname = a->hostname,
		.cid = (uint32_t)a->cid,
		.timeout_ms = a->timeout_ms};
	int rc;

	rc = check_source(a, snapshot, e);
	if (!rc)
		rc = config_parse(a->config, &cfg, e);
	if (!rc)
		rc = ready_parse(a->ready, &s.ready, e);
	if (rc)
		return rc;
	s.track_dirty = a->track_dirty;
	if (snapshot) {
		s.role = CTL_ROLE_RESTORE;
		s.peer = &r->conn->peer;
		if (r->fetched) {
			s.remote = &r->fetched->name;
		} else if (a->snapshot.path.p) {
			(void)snprintf(path, sizeof(path), "%.*s",
				(int)a->snapshot.path.n, a->snapshot.path.p);
			s.path = path;
		}
	}
	if (!snapshot)
		s.cfg = &cfg.mc;
	devfiles_init(&files);
	if (a->pager.p) {
		s.handler = handler_find(d, r, a, handler, e);
		s.handler_path = handler;
		rc = s.handler < 0 ? s.handler : 0;
	}
	if (!rc)
		rc = feed_opts_parse(a, &paging, e);
	if (!rc)
		rc = open_files(r, a, &cfg, &s, &l, e);
	s.paging = &paging;
	if (!rc && r->fetched)
		s.set = take_fd(&r->fetched->set);
	else if (!rc && a->lazy)
		s.set = peerfile_set(d, r, &a->snapshot);
	if (!rc)
		rc = create(d, r, a, &s, &l, e);
	devfiles_close(&files);
	close_files(&s, l);
	return rc;
}

int machine_input_method(
	struct daemon *d, struct request *r, struct args *a, struct err *e)
{
	struct ctl_msg msg = {.type = CTL_INPUT};
	struct machine_entry *m;
	msgpack_packer *p;
	int rc = machine_get(d, a->id, &m, e);

	if (rc)
		return rc;
	msg.len = (uint32_t)a->data.n;
	rc = proc_send(&m->p, &msg, a->data.p, NULL, 0);
	if (rc == -EAGAIN)
		return err_set(e, -EBUSY, "%s does not read its input", m->id);
	if (rc)
		return err_set(e, -EBUSY, "%s: the machine is %s", m->id,
			machine_state(m));
	p = request_begin(r);
	(void)msgpack_pack_map(p, 0);
	request_end(r);
	return 0;
}

int machine_logs_method(
	struct daemon *d, struct request *r, struct args *a, struct err *e)
{
	struct machine_entry *m;
	int rc = machine_get(d, a->id, &m, e);

	if (rc)
		return rc;
	console_pack(m, request_begin(r));
	request_end(r);
	return 0;
}

static void answer_state(struct request *r, const char *id, const char *state)
{
	msgpack_packer *p = request_begin(r);

	(void)msgpack_pack_map(p, 2);
	mp_key_str(p, "id", id);
	mp_key_str(p, "state", state);
	request_end(r);
}

/* A pause or a resume in progress. */
struct change {
	struct request *r;
	struct machine_entry *m;
	enum entry_state state;
};

static void changed(
	struct daemon *d, void *arg, struct ctl_packet *p, const struct err *e)
{
	struct change *c = arg;
	struct machine_entry *m = c->m;

	if (!p) {
		request_fail(c->r, e);
		free(c);
		return;
	}
	if (m->state == ENTRY_RUNNING || m->state == ENTRY_PAUSED)
		m->state = c->state;
	events_machine(d,
		c->state == ENTRY_PAUSED ? "machine.paused" : "machine.resumed",
		m);
	answer_state(c->r, m->id, machine_state(m));
	free(c);
}

static int change(struct daemon *d, struct request *r, const char *id,
	enum entry_state state, struct err *e)
{
	struct ctl_msg msg = {
		.type = state == ENTRY_PAUSED ? CTL_PAUSE : CTL_RESUME};
	struct machine_entry *m;
	struct change *c;
	int rc = machine_get(d, id, &m, e);

	if (rc)
		return rc;
	if (m->state != ENTRY_RUNNING && m->state != ENTRY_PAUSED)
		return err_set(e, -EBUSY, "%s: the machine is %s", m->id,
			machine_state(m));
	c = malloc(sizeof(*c));
	if (!c)
		return err_set(e, -ENOMEM, "no memory for a request");
	*c = (struct change){r, m, state};
	rc = proc_call(d, &m->p,
		&(struct proc_request){.m = &msg,
			.timeout_ms = PAUSE_MS,
			.fn = changed,
			.arg = c},
		e);
	if (rc)
		free(c);
	return rc;
}

int machine_pause_method(
	struct daemon *d, struct request *r, struct args *a, struct err *e)
{
	return change(d, r, a->id, ENTRY_PAUSED, e);
}

int machine_resume_method(
	struct daemon *d, struct request *r, struct args *a, struct err *e)
{
	return change(d, r, a->id, ENTRY_RUNNING, e);
}

/* Never asks the machine: whatever state it is in, it ends. */
int machine_stop_method(
	struct daemon *d, struct request *r, struct args *a, struct err *e)
{
	struct err why = {.code = -ECANCELED,
		.msg = "the machine was stopped by a client"};
	struct machine_entry *m;
	char id[ID_LEN];
	int rc = machine_get(d, a->id, &m, e);

	if (rc)
		return rc;
	(void)snprintf(id, sizeof(id), "%s", m->id);
	machine_kill(d, m, &why);
	/* Pending calls of others may have removed it already. */
	m = machine_find(d, id);
	if (m)
		machine_forget(d, m);
	answer_state(r, id, "ended");
	return 0;
}
