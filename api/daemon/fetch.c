#include "api/daemon/fetch.h"

#include "api/daemon/helper.h"
#include "api/daemon/methods.h"
#include "api/daemon/spawn.h"
#include "core/log.h"
#include "uffd/ws.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

/* Beside the store's directory, and so on its file system. */
#define CACHE  "../cache"
#define SUFFIX ".thaw"
#define TEMP   ".new-"

#define CACHE_NAME (REMOTE_KEY_MAX + 32)

struct fetch {
	struct daemon *d;
	struct request *r;
	msgpack_sbuffer params; /* owned: of the request */
	struct fetched got;
	struct helper *helper;
	uint64_t until; /* now_ns() */
	uint32_t stall_ms;
	int dir; /* owned */
	/* the file at hand: the one that is wanted, or an ancestor of it */
	struct remote_name now;
	unsigned depth;
	char temp[2][CACHE_NAME]; /* file and set; "": none */
	int cached, out, outset;  /* owned */
};

bool fetch_wanted(const struct args *a)
{
	const struct text *t = &a->snapshot.path;

	return t->p && t->n > strlen(REMOTE_SCHEME) &&
	       !memcmp(t->p, REMOTE_SCHEME, strlen(REMOTE_SCHEME));
}

/* ---- the cache ---- */

static int open_cache(struct daemon *d)
{
	int fd;

	(void)mkdirat(d->state_fd, CACHE, 0700);
	fd = openat(d->state_fd, CACHE,
		O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	return fd < 0 ? -errno : fd;
}

static void name_of(
	const struct remote_file *f, const char *suffix, char out[CACHE_NAME])
{
	char key[REMOTE_KEY_MAX];

	remote_key(f, key);
	(void)snprintf(out, CACHE_NAME, "%s" SUFFIX "%s", key, suffix);
}

static int open_in(
	int dir, const struct remote_file *f, const char *suffix, bool write)
{
	char name[CACHE_NAME];
	int fd;

	name_of(f, suffix, name);
	fd = openat(dir, name,
		(write ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NOFOLLOW);
	return fd < 0 ? -errno : fd;
}

int fetch_cached(struct daemon *d, const struct remote_file *f, bool write)
{
	AUTO_FD dir = open_cache(d);

	return dir < 0 ? dir : open_in(dir, f, "", write);
}

void fetch_clean(struct daemon *d)
{
	int fd = openat(d->state_fd, CACHE,
		O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *de;

	if (!dir) {
		if (fd >= 0)
			(void)close(fd);
		return;
	}
	while ((de = readdir(dir))) {
		if (!strncmp(de->d_name, TEMP, strlen(TEMP)))
			(void)unlinkat(fd, de->d_name, 0);
	}
	(void)closedir(dir);
}

static int make_temp(struct fetch *f, unsigned i, struct err *e)
{
	int fd;

	(void)snprintf(f->temp[i], CACHE_NAME, TEMP "%llu",
		(unsigned long long)++f->d->next_fetch);
	fd = openat(f->dir, f->temp[i], O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC,
		0600);
	if (fd < 0)
		f->temp[i][0] = 0;
	return fd < 0 ? err_sys(e, -errno, "a file in the cache") : fd;
}

static void drop_temp(struct fetch *f, unsigned i)
{
	if (f->temp[i][0])
		(void)unlinkat(f->dir, f->temp[i], 0);
	f->temp[i][0] = 0;
}

static int keep_temp(
	struct fetch *f, unsigned i, const char *suffix, struct err *e)
{
	char name[CACHE_NAME];

	name_of(&f->now.file, suffix, name);
	if (renameat(f->dir, f->temp[i], f->dir, name))
		return err_sys(e, -errno, "naming a file of the cache");
	f->temp[i][0] = 0;
	return 0;
}

static void close_files(struct fetch *f)
{
	int *fd[] = {&f->cached, &f->out, &f->outset};

	for (unsigned i = 0; i < ARRAY_SIZE(fd); i++) {
		if (*fd[i] >= 0)
			(void)close(*fd[i]);
		*fd[i] = -1;
	}
	drop_temp(f, 0);
	drop_temp(f, 1);
}

/* ---- one file after the other ---- */

static void release(struct fetch *f)
{
	close_files(f);
	if (f->dir >= 0)
		(void)close(f->dir);
	if (f->got.file >= 0)
		(void)close(f->got.file);
	if (f->got.set >= 0)
		(void)close(f->got.set);
	msgpack_sbuffer_destroy(&f->params);
	daemon_bury(f->d, f);
}

static void failed(struct fetch *f, const struct err *e)
{
	/* Who hears of it finds nothing left. */
	close_files(f);
	request_fail(f->r, e);
	release(f);
}

/* All is there: as if the request came only now. */
static void call_again(struct fetch *f)
{
	struct request *r = f->r;
	msgpack_unpacked msg;
	struct err e = {0};
	int rc;

	if (!r->conn) {
		err_set(&e, -ECONNRESET, "the client is gone");
		failed(f, &e);
		return;
	}
	rc = mp_unpack(
		f->params.data, f->params.size, &mp_default_limits, &msg, &e);
	if (rc) {
		failed(f, &e);
		return;
	}
	r->fetched = &f->got;
	rc = method_call(f->d, r, &msg.data, &e);
	msgpack_unpacked_destroy(&msg);
	if (rc < 0) {
		r->fetched = NULL;
		request_fail(r, &e);
	}
	release(f);
}

static int begin_file(struct fetch *f, struct err *e);

/* What the helper has made, or found good. */
static int take_file(
	struct fetch *f, const struct ctl_setup_done *done, struct err *e)
{
	bool cached = done->fetched & CTL_FETCHED_CACHED;
	int r = 0;

	if (!cached)
		r = keep_temp(f, 0, "", e);
	if (!r && !cached && (done->fetched & CTL_FETCHED_SET))
		r = keep_temp(f, 1, WS_SUFFIX, e);
	if (r || f->depth)
		return r;
	f->got.file = open_in(f->dir, &f->now.file, "", false);
	f->got.set = open_in(f->dir, &f->now.file, WS_SUFFIX, false);
	return f->got.file < 0
		       ? err_sys(e, f->got.file, "opening a cached file")
		       : 0;
}

static void file_done(
	struct daemon *d, void *arg, struct ctl_packet *p, const struct err *e)
{
	const struct ctl_setup_done *done = p ? &p->msg.setup_done : NULL;
	struct fetch *f = arg;
	struct err why = {0};
	int r;

	(void)d;
	f->helper = NULL;
	if (!p) {
		failed(f, e);
		return;
	}
	r = take_file(f, done, &why);
	close_files(f);
	if (!r && !(done->fetched & CTL_FETCHED_DIFF)) {
		call_again(f);
		return;
	}
	if (!r && ++f->depth > SNAP_MAX_CHAIN)
		r = err_set(&why, -EOPNOTSUPP,
			"a chain of more than %d snapshots", SNAP_MAX_CHAIN);
	if (!r) {
		f->now.file.uuid = done->uuid;
		memcpy(f->now.file.digest, done->digest, 16);
		r = begin_file(f, &why);
	}
	if (r)
		failed(f, &why);
}

static int ask_helper(struct fetch *f, struct err *e)
{
	struct ctl_msg m = {.type = CTL_SETUP, .len = sizeof(f->now)};
	AUTO_FD dialer = spawn_dialer(f->d, &f->now, e);
	struct ctl_fd fds[4] = {
		{dialer, CTL_FD_DIALER, 0}, {f->out, CTL_FD_OUTPUT, 0}};
	unsigned n = 2;
	uint64_t now = now_ns();

	if (dialer < 0)
		return dialer;
	if (f->outset >= 0)
		fds[n++] = (struct ctl_fd){f->outset, CTL_FD_OUTPUT, 1};
	if (f->cached >= 0)
		fds[n++] = (struct ctl_fd){f->cached, CTL_FD_SNAPSHOT, 0};
	m.setup.version = CTL_VERSION;
	m.setup.role = CTL_ROLE_FETCH;
	m.setup.remote = 1;
	m.setup.pager.stall_ms = f->stall_ms;
	f->helper = helper_call(f->d,
		&(struct proc_request){.m = &m,
			.payload = &f->now,
			.fds = fds,
			.nfds = n,
			.timeout_ms = now >= f->until
					      ? 1
					      : (f->until - now) / 1000000 + 1,
			.fn = file_done,
			.arg = f},
		e);
	return f->helper ? 0 : e->code;
}

static int begin_file(struct fetch *f, struct err *e)
{
	f->cached = open_in(f->dir, &f->now.file, "", false);
	f->out = make_temp(f, 0, e);
	if (f->out < 0)
		return f->out;
	if (!f->depth) {
		f->outset = make_temp(f, 1, e);
		if (f->outset < 0)
			return f->outset;
	}
	return ask_helper(f, e);
}

static struct fetch *create(struct daemon *d, struct request *r,
	const msgpack_object *params, struct err *e)
{
	struct fetch *f = calloc(1, sizeof(*f));
	msgpack_packer p;

	if (!f) {
		err_set(e, -ENOMEM, "no memory for a request");
		return NULL;
	}
	f->d = d;
	f->r = r;
	f->got.file = f->got.set = -1;
	f->cached = f->out = f->outset = -1;
	msgpack_sbuffer_init(&f->params);
	msgpack_packer_init(&p, &f->params, msgpack_sbuffer_write);
	f->dir = open_cache(d);
	if (f->dir < 0)
		err_sys(e, f->dir, "the cache in the state directory");
	else if (msgpack_pack_object(&p, *params))
		err_set(e, -ENOMEM, "no memory for a request");
	else
		return f;
	release(f);
	return NULL;
}

int fetch_hold(struct daemon *d, struct request *r,
	const msgpack_object *params, const struct args *a, struct err *e)
{
	char url[REMOTE_URL_MAX];
	struct remote_name n;
	struct fetch *f;
	int rc;

	(void)snprintf(url, sizeof(url), "%.*s",
		(int)min_u64(a->snapshot.path.n, sizeof(url)),
		a->snapshot.path.p);
	if (remote_parse(url, &n, e))
		return err_wrap(e, "snapshot");
	if (!a->lazy)
		return err_set(e, -EINVAL,
			"snapshot: one on another host can only be used with "
			"lazy: true; its memory is brought in over the "
			"network when it is touched");
	f = create(d, r, params, e);
	if (!f)
		return e->code;
	f->got.name = f->now = n;
	f->stall_ms = (uint32_t)a->stall_ms;
	f->until = r->began + a->timeout_ms * 1000000;
	rc = begin_file(f, e);
	if (rc)
		release(f);
	return rc;
}
