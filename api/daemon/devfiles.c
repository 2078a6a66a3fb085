#include "api/daemon/devfiles.h"

#include "api/daemon/peerfile.h"
#include "api/daemon/tap.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

void devfiles_init(struct devfiles *f)
{
	memset(f, 0, sizeof(*f));
	for (unsigned i = 0; i < MACHINE_MAX_DISKS; i++)
		f->image[i] = f->layer[i] = f->overlay[i] = -1;
	for (unsigned i = 0; i < MACHINE_MAX_NETS; i++)
		f->tap[i] = -1;
}

static void close_all(int *fd, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		if (fd[i] >= 0)
			(void)close(fd[i]);
		fd[i] = -1;
	}
}

void devfiles_close(struct devfiles *f)
{
	close_all(f->image, MACHINE_MAX_DISKS);
	close_all(f->layer, MACHINE_MAX_DISKS);
	close_all(f->overlay, MACHINE_MAX_DISKS);
	close_all(f->tap, MACHINE_MAX_NETS);
	f->ndisks = f->nnets = 0;
}

int devfiles_new_overlay(struct daemon *d, struct err *e)
{
	int fd = openat(d->state_fd, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);

	/* Not every file system has O_TMPFILE; then a name for a moment. */
	if (fd < 0 && (errno == EOPNOTSUPP || errno == EISDIR)) {
		static const char name[] = ".overlay";

		fd = openat(d->state_fd, name,
			O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
		if (fd >= 0)
			(void)unlinkat(d->state_fd, name, 0);
	}
	return fd < 0 ? err_sys(e, -errno, "making an overlay") : fd;
}

/* ---- from a configuration ---- */

static int named_overlay(int dir, const char *id, struct err *e)
{
	char name[64];
	int fd;

	(void)snprintf(name, sizeof(name), "%s.overlay", id);
	fd = openat(dir, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	return fd < 0 ? err_sys(e, -errno, "making %s", name) : fd;
}

static int config_disk(struct request *r, struct config *c, unsigned i, int dir,
	struct devfiles *f, struct err *e)
{
	struct daemon *d = r->d;
	struct machine_disk *m = &c->mc.disk[i];
	/* An image under an overlay is only read, also by who may write it. */
	bool write = !m->read_only && !m->overlay;
	char key[64];

	(void)snprintf(key, sizeof(key), "disk \"%s\"", m->id);
	memcpy(f->disk[i].id, m->id, sizeof(m->id));
	f->ndisks = i + 1;
	f->image[i] = peerfile_open(d, r, key, &c->disk[i], write, e);
	if (f->image[i] < 0)
		return f->image[i];
	if (!m->overlay)
		return 0;
	f->overlay[i] = dir >= 0 ? named_overlay(dir, m->id, e)
				 : devfiles_new_overlay(d, e);
	return f->overlay[i] < 0 ? f->overlay[i] : 0;
}

static int config_net(struct daemon *d, struct request *r, struct config *c,
	unsigned i, struct devfiles *f, struct err *e)
{
	struct machine_net *m = &c->mc.net[i];
	struct ctl_net *n = &f->net[i];

	memcpy(n->id, m->id, sizeof(n->id));
	f->nnets = i + 1;
	if (c->tap_fd[i] < 0 && !m->tap[0])
		return 0;
	memcpy(n->tap, m->tap, sizeof(n->tap));
	f->tap[i] = tap_open(d, r, m->id, m->tap, c->tap_fd[i], e);
	return f->tap[i] < 0 ? f->tap[i] : 0;
}

int devfiles_of_config(struct daemon *d, struct request *r, struct config *c,
	int dir, struct devfiles *f, struct err *e)
{
	int rc = 0;

	for (unsigned i = 0; i < c->ndisks && !rc; i++) {
		if (dir >= 0 && !c->mc.disk[i].read_only)
			c->mc.disk[i].overlay = 1;
		rc = config_disk(r, c, i, dir, f, e);
	}
	for (unsigned i = 0; i < c->nnets && !rc; i++)
		rc = config_net(d, r, c, i, f, e);
	return rc;
}

/* ---- overrides ---- */

/* A value of a map {id: value}; id is for messages, too. */
typedef int each_fn(struct request *r, const char *id, const msgpack_object *v,
	struct devfiles *f, struct err *e);

static int each(struct request *r, const msgpack_object *map, const char *key,
	each_fn *fn, struct devfiles *f, struct err *e)
{
	char id[MACHINE_ID_MAX];
	int rc = 0;

	if (!map)
		return 0;
	if (map->type != MSGPACK_OBJECT_MAP)
		return err_set(e, -EINVAL, "%s: must be a map", key);
	for (uint32_t i = 0; i < map->via.map.size && !rc; i++) {
		const msgpack_object_kv *kv = &map->via.map.ptr[i];

		rc = param_name(&kv->key, key, sizeof(id), id, e);
		if (!rc)
			rc = fn(r, id, &kv->val, f, e);
	}
	return rc;
}

static int override_disk(struct request *r, const char *id,
	const msgpack_object *v, struct devfiles *f, struct err *e)
{
	struct path_arg file = {.fd = -1};
	unsigned i = f->ndisks;
	char key[64];
	int rc;

	(void)snprintf(key, sizeof(key), "disk \"%s\"", id);
	for (unsigned k = 0; k < i; k++) {
		if (!strcmp(f->disk[k].id, id))
			return err_set(e, -EINVAL, "%s: is given twice", key);
	}
	if (i == MACHINE_MAX_DISKS)
		return err_set(e, -EINVAL, "%s: more than 8 disks", key);
	rc = param_path(v, key, &file, e);
	if (rc)
		return rc;
	/* What the snapshot says of it is known to the machine only; one that
	 * may not write gets a descriptor that cannot. */
	f->image[i] = peerfile_open(r->d, r, key, &file, file.fd < 0, e);
	if (file.fd < 0 && (f->image[i] == -EACCES || f->image[i] == -EROFS))
		f->image[i] = peerfile_open(r->d, r, key, &file, false, e);
	if (f->image[i] < 0)
		return f->image[i];
	(void)snprintf(f->disk[i].id, sizeof(f->disk[i].id), "%s", id);
	f->ndisks = i + 1;
	return 0;
}

/* The entry of an interface, made when it is not there yet. */
static struct ctl_net *net_of(
	struct devfiles *f, const char *id, unsigned *at, struct err *e)
{
	unsigned i = 0;

	while (i < f->nnets && strcmp(f->net[i].id, id) != 0)
		i++;
	if (i == MACHINE_MAX_NETS) {
		err_set(e, -EINVAL, "more than 8 network interfaces");
		return NULL;
	}
	if (i == f->nnets) {
		(void)snprintf(f->net[i].id, sizeof(f->net[i].id), "%s", id);
		f->nnets++;
	}
	*at = i;
	return &f->net[i];
}

static int override_tap(struct request *r, const char *id,
	const msgpack_object *v, struct devfiles *f, struct err *e)
{
	struct text t = {0};
	uint64_t fd = 0;
	struct ctl_net *n;
	unsigned i;
	int rc;

	n = net_of(f, id, &i, e);
	if (!n)
		return e->code;
	if (f->tap[i] >= 0)
		return err_set(e, -EINVAL, "tap of \"%s\": is given twice", id);
	if (v->type == MSGPACK_OBJECT_STR) {
		rc = param_text(v, "taps", sizeof(n->tap) - 1, &t, e);
		if (!rc)
			(void)snprintf(
				n->tap, sizeof(n->tap), "%.*s", (int)t.n, t.p);
	} else {
		rc = param_uint(v, "taps", 0, INT32_MAX, &fd, e);
		(void)snprintf(n->tap, sizeof(n->tap), "descriptor");
	}
	if (!rc)
		f->tap[i] = tap_open(
			r->d, r, id, n->tap, t.p ? -1 : (int64_t)fd, e);
	return rc ? rc : f->tap[i] < 0 ? f->tap[i] : 0;
}

static int override_mac(struct request *r, const char *id,
	const msgpack_object *v, struct devfiles *f, struct err *e)
{
	struct ctl_net *n;
	unsigned i;

	(void)r;
	n = net_of(f, id, &i, e);
	if (!n)
		return e->code;
	if (n->has_mac)
		return err_set(e, -EINVAL, "mac of \"%s\": is given twice", id);
	n->has_mac = 1;
	return config_parse_mac(v, "macs", n->mac, e);
}

static bool is_address(int family, const char *s, size_t n)
{
	struct in6_addr a;
	char text[INET6_ADDRSTRLEN];

	if (!n || n >= sizeof(text))
		return false;
	memcpy(text, s, n);
	text[n] = 0;
	return inet_pton(family, text, &a) == 1;
}

/* "ADDRESS/PREFIX" or "ADDRESS/PREFIX,GATEWAY", all of one family */
static bool parse_ip(const char *s, struct machine_ip *out)
{
	int family = strchr(s, ':') ? AF_INET6 : AF_INET;
	const char *slash = strchr(s, '/'), *comma = strchr(s, ',');
	size_t n = comma ? (size_t)(comma - s) : strlen(s);
	unsigned long prefix;
	char *end;

	if (!slash || !is_address(family, s, (size_t)(slash - s)) ||
		slash[1] < '0' || slash[1] > '9' || n >= sizeof(out->ip))
		return false;
	prefix = strtoul(slash + 1, &end, 10);
	if (end != s + n || !prefix || prefix > (family == AF_INET ? 32 : 128))
		return false;
	memcpy(out->ip, s, n);
	if (!comma)
		return true;
	if (!is_address(family, comma + 1, strlen(comma + 1)))
		return false;
	memcpy(out->gateway, comma + 1, strlen(comma + 1));
	return true;
}

static int override_ip(struct request *r, const char *id,
	const msgpack_object *v, struct devfiles *f, struct err *e)
{
	char text[sizeof(struct machine_ip)];
	struct text t = {0};
	struct ctl_net *n;
	unsigned i;
	int rc = param_text(v, "ips", sizeof(text) - 1, &t, e);

	(void)r;
	if (rc)
		return rc;
	n = net_of(f, id, &i, e);
	if (!n)
		return e->code;
	if (n->ip.ip[0])
		return err_set(e, -EINVAL, "ip of \"%s\": is given twice", id);
	(void)snprintf(text, sizeof(text), "%.*s", (int)t.n, t.p);
	if (parse_ip(text, &n->ip))
		return 0;
	return err_set(e, -EINVAL,
		"ips: \"%s\" is no ADDRESS/PREFIX or ADDRESS/PREFIX,GATEWAY",
		text);
}

/* No two interfaces share an address. */
static int check_nets(const struct devfiles *f, struct err *e)
{
	for (unsigned i = 0; i < f->nnets; i++) {
		for (unsigned k = 0; k < i; k++) {
			const char *what =
				devfiles_net_clash(&f->net[i], &f->net[k]);

			if (what)
				return err_set(e, -EINVAL,
					"%ss: \"%s\" and \"%s\" get the same",
					what, f->net[k].id, f->net[i].id);
		}
	}
	return 0;
}

const char *devfiles_net_clash(const struct ctl_net *a, const struct ctl_net *b)
{
	size_t n = strcspn(a->ip.ip, "/");

	if (a->has_mac && b->has_mac && !memcmp(a->mac, b->mac, 6))
		return "mac";
	if (n && n == strcspn(b->ip.ip, "/") && !memcmp(a->ip.ip, b->ip.ip, n))
		return "ip";
	return NULL;
}

/* The entry of a disk, made when it is not there yet; MACHINE_MAX_DISKS: there
 * is no room. */
static unsigned disk_at(struct devfiles *f, const char *id)
{
	unsigned i = 0;

	while (i < f->ndisks && strcmp(f->disk[i].id, id) != 0)
		i++;
	if (i == f->ndisks && i < MACHINE_MAX_DISKS) {
		(void)snprintf(f->disk[i].id, sizeof(f->disk[i].id), "%s", id);
		f->ndisks++;
	}
	return i;
}

/* What an overlay held, under a fresh one. */
static int override_overlay(struct request *r, const char *id,
	const msgpack_object *v, struct devfiles *f, struct err *e)
{
	struct path_arg file = {.fd = -1};
	unsigned i = disk_at(f, id);
	int rc;

	if (i == MACHINE_MAX_DISKS)
		return err_set(e, -EINVAL, "overlays: more than 8 disks");
	if (f->layer[i] >= 0)
		return err_set(
			e, -EINVAL, "overlay of \"%s\": is given twice", id);
	rc = param_path(v, "overlays", &file, e);
	if (!rc)
		f->layer[i] =
			peerfile_open(r->d, r, "overlays", &file, false, e);
	if (rc || f->layer[i] < 0)
		return rc ? rc : f->layer[i];
	f->overlay[i] = devfiles_new_overlay(r->d, e);
	return f->overlay[i] < 0 ? f->overlay[i] : 0;
}

static int export_overlay(struct request *r, const char *id,
	const msgpack_object *v, struct devfiles *f, struct err *e)
{
	struct path_arg file = {.fd = -1};
	unsigned i = disk_at(f, id);
	struct stat st;
	int rc = param_path(v, "overlays", &file, e);

	if (rc)
		return rc;
	if (i == MACHINE_MAX_DISKS || f->overlay[i] >= 0)
		return err_set(e, -EINVAL,
			"overlays: \"%s\": given twice, or too many", id);
	f->overlay[i] = peerfile_open(r->d, r, "overlays", &file, true, e);
	if (f->overlay[i] < 0)
		return f->overlay[i];
	if (fstat(f->overlay[i], &st) || st.st_size)
		return err_set(e, -EINVAL,
			"overlays: \"%s\": the file must be empty", id);
	return 0;
}

int devfiles_exports(struct request *r, const msgpack_object *overlays,
	struct devfiles *f, struct err *e)
{
	return each(r, overlays, "overlays", export_overlay, f, e);
}

int devfiles_overrides(struct request *r, const struct devfiles_maps *maps,
	struct devfiles *f, struct err *e)
{
	int rc = each(r, maps->disks, "disks", override_disk, f, e);

	if (!rc)
		rc = each(r, maps->taps, "taps", override_tap, f, e);
	if (!rc)
		rc = each(r, maps->macs, "macs", override_mac, f, e);
	if (!rc)
		rc = each(r, maps->ips, "ips", override_ip, f, e);
	if (!rc)
		rc = each(
			r, maps->overlays, "overlays", override_overlay, f, e);
	return rc ? rc : check_nets(f, e);
}

/* ---- clones ---- */

bool devfiles_need_overlays(const struct machine_config *cfg)
{
	for (unsigned i = 0; i < MACHINE_MAX_DISKS; i++) {
		if (cfg->disk[i].id[0] && !cfg->disk[i].read_only)
			return true;
	}
	return false;
}

int devfiles_clone_overlays(struct daemon *d, const struct machine_config *cfg,
	struct devfiles *f, struct err *e)
{
	for (unsigned i = 0; i < MACHINE_MAX_DISKS; i++) {
		const struct machine_disk *m = &cfg->disk[i];
		unsigned at;

		if (!m->id[0] || m->read_only)
			continue;
		at = disk_at(f, m->id);
		f->overlay[at] = devfiles_new_overlay(d, e);
		if (f->overlay[at] < 0)
			return f->overlay[at];
	}
	return 0;
}

/* ---- into a message ---- */

void devfiles_fill(const struct devfiles *f, struct ctl_overrides *o)
{
	o->ndisks = f->ndisks;
	o->nnets = f->nnets;
	memcpy(o->disk, f->disk, sizeof(o->disk));
	memcpy(o->net, f->net, sizeof(o->net));
}

static unsigned put(const int *fd, unsigned count, enum ctl_fd_kind kind,
	struct ctl_fd *fds, unsigned n)
{
	for (unsigned i = 0; i < count; i++) {
		if (fd[i] >= 0)
			fds[n++] = (struct ctl_fd){
				fd[i], (uint8_t)kind, (uint8_t)i};
	}
	return n;
}

unsigned devfiles_fds(const struct devfiles *f, struct ctl_fd *fds, unsigned n)
{
	n = put(f->image, f->ndisks, CTL_FD_DISK, fds, n);
	n = put(f->layer, f->ndisks, CTL_FD_LAYER, fds, n);
	n = put(f->overlay, f->ndisks, CTL_FD_OVERLAY, fds, n);
	return put(f->tap, f->nnets, CTL_FD_TAP, fds, n);
}
