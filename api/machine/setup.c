#include "api/machine/worker.h"

#include "api/machine/attach.h"
#include "api/machine/chain.h"
#include "api/machine/handler.h"
#include "api/machine/fetch.h"
#include "api/machine/offline.h"
#include "core/arch.h"
#include "core/dirty.h"
#include "core/kvm.h"
#include "core/net.h"
#include "core/vsock.h"
#include "snapshot/source.h"

#include <errno.h>
#include <poll.h>
#include <sys/stat.h>
#include <string.h>

/*
 * CTL_SETUP: the first message tells an exec'd process what to become. Every
 * role ends in the same struct worker; they differ in where memory and state
 * come from:
 *
 *   machine, builder   configuration in the message, kernel as a descriptor
 *   restore, zygote    a snapshot file; a zygote's memory is a sealed base
 *   pager              the same file, for those of the two that are lazy
 */

/* Long ones, of which MEM_MAX_HOLES will be used. */
#define MAX_ZERO_RUNS 1024

struct setup {
	struct worker *w;
	struct ctl_packet *p;
	struct machine_config cfg;
	struct ctl_overrides overrides;
	struct ctl_setup_done done;
	bool made_base; /* not given: it goes back with the answer */
	struct pager_proc *pager;
};

static int need_fd(
	struct setup *s, enum ctl_fd_kind kind, const char *what, struct err *e)
{
	int fd = ctl_take(s->p, kind, 0);

	return fd < 0 ? err_set(e, -EINVAL, "setup without %s", what) : fd;
}

static int read_payload(struct setup *s, bool config, struct err *e)
{
	size_t want =
		(config ? sizeof(s->cfg) : 0) +
		(s->p->msg.setup.has_overrides ? sizeof(s->overrides) : 0);
	const uint8_t *p = s->p->payload;

	if (s->p->msg.len != want)
		return err_set(e, -EINVAL, "setup payload of %u bytes, not %zu",
			s->p->msg.len, want);
	if (config) {
		memcpy(&s->cfg, p, sizeof(s->cfg));
		p += sizeof(s->cfg);
	}
	if (s->p->msg.setup.has_overrides)
		memcpy(&s->overrides, p, sizeof(s->overrides));
	return 0;
}

/* Everything after memory and state are in place, for roles that run. */
static int start(struct setup *s, struct err *e)
{
	struct worker *w = s->w;
	int listener, r;

	r = attach_devices(&w->m, s->p, &s->overrides, e);
	if (!r)
		r = worker_new_identity(w, &s->overrides, e);
	if (!r)
		r = worker_realize(w, e);
	if (r)
		return r;
	if (w->needs_identity)
		net_restored(&w->m, w->agent != NULL);
	if (w->needs_identity && w->m.vsock) {
		r = vsock_reset(w->m.vsock, w->id.vsock_cid, e);
		if (r)
			return r;
	}
	listener = ctl_take(s->p, CTL_FD_LISTENER, 0);
	if (listener < 0)
		return 0;
	if (!w->m.vsock) {
		(void)close(listener);
		return err_set(e, -EINVAL, "no vsock device");
	}
	return vsock_listen(w->m.vsock, listener, e);
}

/* The kernel decides what machine it gets. */
static int take_kernel(struct setup *s, int *kernel, int *initrd, struct err *e)
{
	if (s->cfg.cpus > s->w->kvm.max_cpus)
		return err_set(e, -EOPNOTSUPP,
			"cpus: %u; this host's KVM gives a machine up to %u",
			s->cfg.cpus, s->w->kvm.max_cpus);
	if (s->cfg.builtin)
		return 0;
	*kernel = need_fd(s, CTL_FD_KERNEL, "a kernel", e);
	if (*kernel < 0)
		return *kernel;
	*initrd = ctl_take(s->p, CTL_FD_INITRD, 0);
	return machine_probe_kernel(&s->cfg, *kernel, e);
}

static int cold(struct setup *s, enum mem_backing backing, struct err *e)
{
	struct worker *w = s->w;
	AUTO_FD kernel = -1;
	AUTO_FD initrd = -1;
	int r = read_payload(s, true, e);

	if (!r)
		r = take_kernel(s, &kernel, &initrd, e);
	if (!r)
		r = machine_init(&w->m, &s->cfg, e);
	if (r)
		return r;
	w->have_machine = true;
	r = mem_create(&w->m.mem, s->cfg.memory, backing, -1, e);
	if (!r)
		r = machine_boot(&w->m, kernel, initrd, e);
	if (!r && s->p->msg.setup.track_dirty)
		r = dirty_start(&w->m.mem, e);
	return r ? r : start(s, e);
}

static int note_origin(struct worker *w, const struct snap *snap, struct err *e)
{
	w->origin.known = true;
	w->origin.uuid = *snap_get_uuid(snap);
	if (snap_digest(snap, w->origin.digest))
		return err_set(e, -ENOMEM, "no memory for a snapshot");
	w->last = w->origin;
	return 0;
}

/* Configuration and state of a snapshot into w->m; memory is still missing. */
static int load_state(struct setup *s, struct snap *snap, struct err *e)
{
	int r = snap_read_config(snap, &s->cfg, e);

	if (!r)
		r = machine_init(&s->w->m, &s->cfg, e);
	if (r)
		return r;
	s->w->have_machine = true;
	s->done.uuid = *snap_get_uuid(snap);
	r = snap_load_state(snap, &s->w->m, e);
	/* before memory is read and any KVM object made */
	if (!r && s->w->kvm.fd >= 0)
		r = arch_compat_machine(&s->w->m, s->w->kvm.fd, e);
	return r;
}

/* Memory that its pager fills; base -1: for this machine alone. */
static int lazy_memory(
	struct setup *s, const struct snap *snap, int base, struct err *e)
{
	struct mem_range zero[MAX_ZERO_RUNS];
	struct mem *mem = &s->w->m.mem;
	int r = mem_create(mem, s->cfg.memory, MEM_LAZY, base, e);

	if (r)
		return r;
	return mem_lazy_zero(
		mem, zero, snap_zero_runs(snap, zero, ARRAY_SIZE(zero)), e);
}

static int private_memory(struct setup *s, struct snap *snap, struct err *e)
{
	struct worker *w = s->w;
	int r;

	if (w->handler >= 0) {
		/* zeros come from there, too */
		r = mem_create(&w->m.mem, s->cfg.memory, MEM_LAZY, -1, e);
		return r ? r : worker_arm(w, e);
	}
	if (s->p->msg.setup.lazy) {
		r = lazy_memory(s, snap, -1, e);
		return r ? r : worker_arm(w, e);
	}
	r = mem_create(&w->m.mem, s->cfg.memory, MEM_PRIVATE, -1, e);
	return r ? r : snap_load_memory(snap, &w->m.mem, SNAP_LOAD_THREADS, e);
}

static int restore(struct setup *s, struct err *e)
{
	struct worker *w = s->w;
	AUTO_FD file = need_fd(s, CTL_FD_SNAPSHOT, "a snapshot", e);
	struct chain c;
	int r;

	if (file < 0)
		return file;
	r = read_payload(s, false, e);
	if (!r)
		r = chain_open(w, file, &c, e);
	if (r)
		return r;
	s->done.depth = c.n - 1;
	r = load_state(s, c.s[0], e);
	if (!r)
		r = private_memory(s, c.s[0], e);
	if (!r)
		r = note_origin(w, c.s[0], e);
	chain_close(&c);
	/* What differs from now on differs from the file. */
	if (!r && s->p->msg.setup.track_dirty)
		r = dirty_start(&w->m.mem, e);
	w->needs_identity = true;
	return r ? r : start(s, e);
}

/* A diff as a full snapshot of its own, for who wants to keep one file. */
static int flatten(struct setup *s, struct err *e)
{
	struct worker *w = s->w;
	AUTO_FD file = need_fd(s, CTL_FD_SNAPSHOT, "a snapshot", e);
	AUTO_FD out = need_fd(s, CTL_FD_OUTPUT, "a file", e);
	struct snap_write_opts o = {0};
	struct snap_written written;
	struct chain c;
	int r;

	if (file < 0 || out < 0)
		return e->code;
	r = chain_open(w, file, &c, e);
	if (r)
		return r;
	w->done = true;
	s->done.depth = c.n - 1;
	if (c.n > 1)
		r = load_state(s, c.s[0], e);
	if (!r && c.n > 1)
		r = mem_create(&w->m.mem, s->cfg.memory, MEM_PRIVATE, -1, e);
	if (!r && c.n > 1)
		r = snap_load_memory(c.s[0], &w->m.mem, SNAP_LOAD_THREADS, e);
	if (!r && c.n > 1)
		r = snap_write(&w->m, out, &o, &written, e);
	chain_close(&c);
	return r;
}

/* The base comes from the builder, or is made here from the file. */
static int get_base(struct setup *s, struct snap *snap, struct err *e)
{
	int r, given = ctl_take(s->p, CTL_FD_BASE, 0);
	struct mem mem;

	if (given >= 0)
		return given;
	s->made_base = true;
	r = mem_create(&mem, s->cfg.memory, MEM_BUILDER, -1, e);
	if (r)
		return r;
	r = snap_load_memory(snap, &mem, SNAP_LOAD_THREADS, e);
	if (r) {
		mem_destroy(&mem);
		return r;
	}
	return mem_seal_base(&mem, e);
}

static int zygote(struct setup *s, int *base, struct err *e)
{
	struct worker *w = s->w;
	AUTO_FD file = need_fd(s, CTL_FD_SNAPSHOT, "a snapshot", e);
	struct snap *snap = NULL;
	int r;

	if (file < 0)
		return file;
	r = read_payload(s, false, e);
	if (!r)
		r = snap_open(file, &snap, e);
	if (r)
		return r;
	r = load_state(s, snap, e);
	if (!r)
		r = note_origin(w, snap, e);
	if (!r) {
		*base = get_base(s, snap, e);
		r = *base < 0 ? *base : 0;
	}
	if (!r)
		r = attach_devices(&w->m, s->p, &s->overrides, e);
	if (!r)
		r = attach_clone_disks(&w->m, e);
	if (!r && s->p->msg.setup.lazy)
		r = lazy_memory(s, snap, *base, e);
	else if (!r)
		r = mem_create(&w->m.mem, s->cfg.memory, MEM_CLONE, *base, e);
	snap_close(snap);
	return r ? r : machine_prepare(&w->m, w->kvm.fd, e);
}

/* The base that it fills is for the daemon, as a finished one would be. */
static int pager(struct setup *s, int *base, struct err *e)
{
	int r = pager_setup(s->w, s->p, &s->pager, e);

	if (r || s->p->msg.setup.pager.direct)
		return r;
	*base = pager_take_base(s->pager);
	s->made_base = *base >= 0;
	return *base < 0 ? err_sys(e, *base, "the base") : 0;
}

/* Before the first look at a kernel or a snapshot, which may be anybody's, and
 * before the first vCPU thread: without no-new-privs it could not install its
 * filter unless we are root. */
static int lock_in(struct worker *w, struct err *e)
{
	enum jail_kind kind = JAIL_MACHINE;
	int r;

	if (w->role == CTL_ROLE_ZYGOTE)
		kind = JAIL_ZYGOTE;
	if (w->role == CTL_ROLE_PAGER)
		kind = JAIL_PAGER;
	r = jail_prepare(&w->jail, kind, e);
	return r ? r : jail_main(&w->jail, e);
}

static int become(struct setup *s, int *base, struct err *e)
{
	const struct ctl_setup *q = &s->p->msg.setup;
	struct worker *w = s->w;
	int r;

	if (q->version != CTL_VERSION)
		return err_set(e, -EINVAL,
			"the daemon speaks control version %u, this is %d",
			q->version, CTL_VERSION);
	w->role = (enum ctl_role)q->role;
	/* No device is the host's lack: "not found" and "denied" would speak of
	 * what the client named. */
	if (q->role != CTL_ROLE_FLATTEN && q->role != CTL_ROLE_PAGER &&
		q->role != CTL_ROLE_FETCH && kvm_open("/dev/kvm", &w->kvm, e) &&
		q->role != CTL_ROLE_INSPECT)
		return e->code = -EOPNOTSUPP;
	r = q->lazy || w->role == CTL_ROLE_PAGER ? uffd_host_open(&w->uffd, e)
						 : 0;
	/* While a path may be used, and before anything is looked at. */
	if (!r && w->role == CTL_ROLE_RESTORE)
		r = handler_connect(s->p, q->pager.stall_ms, &w->handler, e);
	if (!r)
		r = lock_in(w, e);
	if (r)
		return r;
	switch (w->role) {
	case CTL_ROLE_MACHINE:
		return cold(s, MEM_PRIVATE, e);
	case CTL_ROLE_BUILDER:
		return cold(s, MEM_BUILDER, e);
	case CTL_ROLE_RESTORE:
		return restore(s, e);
	case CTL_ROLE_ZYGOTE:
		return zygote(s, base, e);
	case CTL_ROLE_PAGER:
		return pager(s, base, e);
	case CTL_ROLE_INSPECT:
		return 0;
	case CTL_ROLE_FLATTEN:
		return flatten(s, e);
	case CTL_ROLE_FETCH:
		w->done = true;
		return fetch_snapshot(s->p, &s->done, e);
	default:
		return err_set(e, -EINVAL, "unknown role %u", q->role);
	}
}

/* Bytes of memory that the base really takes. */
static uint64_t base_size(int base)
{
	struct stat st;

	if (base < 0 || fstat(base, &st))
		return 0;
	return (uint64_t)st.st_blocks * 512;
}

static void report(struct setup *s, int base)
{
	struct ctl_msg m = {0};

	s->done.memory = s->cfg.memory;
	s->done.cpus = s->cfg.cpus;
	s->done.base_bytes = base_size(base);
	s->done.total_us = (uint32_t)((now_ns() - s->w->born) / 1000);
	m.setup_done = s->done;
	m.len = s->w->have_machine ? sizeof(s->cfg) : 0;
	worker_reply(s->w, &s->p->msg, &m, &s->cfg,
		&(struct ctl_fd){base, CTL_FD_BASE, 0}, s->made_base ? 1 : 0);
}

static int first_message(struct worker *w, struct ctl_packet *p)
{
	struct pollfd pfd = {.fd = w->ctl, .events = POLLIN};
	int r;

	do {
		if (poll(&pfd, 1, -1) < 0 && errno != EINTR)
			return -errno;
		r = ctl_recv(w->ctl, p, w->buf);
	} while (r == -EAGAIN);
	if (r == 1 && p->msg.type != CTL_SETUP) {
		ctl_packet_free(p);
		r = -EBADMSG;
	}
	return r;
}

static int serve(struct setup *s)
{
	struct worker *w = s->w;

	switch (w->role) {
	case CTL_ROLE_PAGER:
		return pager_run(s->pager);
	case CTL_ROLE_INSPECT:
		return offline_run(w);
	case CTL_ROLE_ZYGOTE:
		return zygote_run(w);
	case CTL_ROLE_MACHINE:
	case CTL_ROLE_BUILDER:
	case CTL_ROLE_RESTORE:
	case CTL_ROLE_FLATTEN:
	case CTL_ROLE_FETCH:
	default:
		return worker_run(w);
	}
}

int setup_run(int ctl)
{
	struct worker *w = malloc(sizeof(*w));
	struct err e = {0};
	struct ctl_packet p = {.nfds = 0};
	int code = 1, base = -1;
	struct setup s = {.w = w, .p = &p};

	if (!w)
		return 1;
	worker_init(w, ctl);
	w->buf = malloc(CTL_INLINE + 1);
	if (!w->buf || jail_tie(0, &e) || first_message(w, &p) != 1)
		goto out;
	w->born = now_ns();
	if (become(&s, &base, &e)) {
		worker_reply_error(w, &p.msg, &e);
		ctl_packet_free(&p);
		goto out;
	}
	report(&s, base);
	ctl_packet_free(&p);
	if (base >= 0)
		(void)close(base);
	if (!w->done || s.pager)
		code = serve(&s);
out:
	worker_fini(w);
	free(w);
	return code;
}
