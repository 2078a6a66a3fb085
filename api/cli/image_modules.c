/*
 * Modules for the agent: only what thaw's devices need, unpacked, because not
 * every kernel unpacks .ko.xz itself. What a module needs stands in the module
 * ("depends=" in its .modinfo), so the directory may come straight out of a
 * package that no depmod has seen; the image gets a modules.dep of its own.
 */
#include "api/cli/image.h"

#include "core/buf.h"
#include "core/guest/linux/drivers.h"

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <fts.h>
#include <stdio.h>
#include <string.h>

#define MAX_MODULES 64u
#define MAX_FILE    (64 * MIB)

struct module {
	char name[64];
	uint64_t needs; /* bits of .mod[], itself included */
};

struct modules {
	struct image *im;
	char *dir; /* borrowed */
	char version[128];
	struct module mod[MAX_MODULES]; /* in the order of loading */
	unsigned n, depth;
};

/* "a-b.ko.xz" is a_b */
static bool is_named(const char *file, const char *name)
{
	for (; *name; name++, file++) {
		if ((*file == '-' ? '_' : *file) !=
			(*name == '-' ? '_' : *name))
			return false;
	}
	return !strcmp(file, ".ko") || !strcmp(file, ".ko.xz") ||
	       !strcmp(file, ".ko.zst") || !strcmp(file, ".ko.gz");
}

/* The module's file below dir; "" when there is none: built in. */
static int find_file(
	const char *dir, const char *name, char out[PATH_MAX], struct err *e)
{
	char *paths[] = {(char *)(uintptr_t)dir, NULL};
	FTS *f = fts_open(paths, FTS_PHYSICAL | FTS_NOCHDIR, NULL);
	const FTSENT *ent;

	out[0] = '\0';
	if (!f)
		return err_sys(e, -errno, "%s", dir);
	while (!out[0] && (ent = fts_read(f))) {
		if (ent->fts_info == FTS_F && is_named(ent->fts_name, name))
			(void)snprintf(out, PATH_MAX, "%s", ent->fts_path);
	}
	(void)fts_close(f);
	return 0;
}

static int unpack(struct archive *a, const char *path, struct buf *b)
{
	struct archive_entry *ae;
	la_ssize_t n = -1;

	if (archive_read_open_filename(a, path, 65536) != ARCHIVE_OK ||
		archive_read_next_header(a, &ae) != ARCHIVE_OK)
		return -EBADMSG;
	do {
		if (b->len > MAX_FILE)
			return -EFBIG;
		if (buf_reserve(b, 65536))
			return -ENOMEM;
		n = archive_read_data(a, b->p + b->off + b->len, 65536);
		b->len += n > 0 ? (size_t)n : 0;
	} while (n > 0);
	return n < 0 || !b->len ? -EBADMSG : 0;
}

static int read_module(const char *path, struct buf *b, struct err *e)
{
	struct archive *a = archive_read_new();
	int r;

	if (!a)
		return err_set(e, -ENOMEM, "no memory");
	(void)archive_read_support_format_raw(a);
	(void)archive_read_support_filter_gzip(a);
	(void)archive_read_support_filter_xz(a);
	(void)archive_read_support_filter_zstd(a);
	r = unpack(a, path, b);
	(void)archive_read_free(a);
	return r ? err_sys(e, r, "%s", path) : 0;
}

static int add(
	struct modules *m, const char *name, uint64_t *needs, struct err *e);

/* "depends=a,b" of .modinfo, whose strings end with a zero byte. */
static int add_needs(
	struct modules *m, const struct buf *b, uint64_t *needs, struct err *e)
{
	static const char key[] = "\0depends=";
	const char *p = memmem(buf_data(b), b->len, key, sizeof(key) - 1);
	char list[1024], *save = NULL;
	size_t left;
	int r = 0;

	if (!p)
		return 0;
	p += sizeof(key) - 1;
	left = b->len - (size_t)(p - (const char *)buf_data(b));
	(void)snprintf(list, sizeof(list), "%.*s",
		(int)(left < 1000 ? left : 1000), p);
	for (char *w = strtok_r(list, ",", &save); w && !r;
		w = strtok_r(NULL, ",", &save))
		r = add(m, w, needs, e);
	return r;
}

static int put(
	struct modules *m, const char *name, const struct buf *b, struct err *e)
{
	struct image_item it = {
		.mode = S_IFREG | 0644, .data = buf_data(b), .size = b->len};
	char path[PATH_MAX];

	(void)snprintf(
		path, sizeof(path), "lib/modules/%s/%s.ko", m->version, name);
	image_resolve(m->im, path, it.path);
	return image_add(m->im, &it, e);
}

/* A module after those it needs; its bits go into *needs. */
static int add(
	struct modules *m, const char *name, uint64_t *needs, struct err *e)
{
	uint64_t mine = 0;
	struct buf b = {0};
	char path[PATH_MAX];
	int r;

	for (unsigned i = 0; i < m->n; i++) {
		if (!strcmp(m->mod[i].name, name)) {
			*needs |= m->mod[i].needs;
			return 0;
		}
	}
	if (m->n == MAX_MODULES || m->depth > 16)
		return err_set(e, -E2BIG, "%s: too many modules", m->dir);
	r = find_file(m->dir, name, path, e);
	if (r || !path[0])
		return r;
	m->depth++;
	r = read_module(path, &b, e);
	if (!r)
		r = add_needs(m, &b, &mine, e);
	if (!r)
		r = put(m, name, &b, e);
	buf_free(&b);
	m->depth--;
	if (r)
		return r;
	(void)snprintf(
		m->mod[m->n].name, sizeof(m->mod[0].name), "%.60s", name);
	mine |= 1ULL << m->n;
	m->mod[m->n++].needs = mine;
	*needs |= mine;
	return 0;
}

/* modules.dep(5): what is needed most deeply stands last. */
static int put_dep(struct modules *m, struct err *e)
{
	struct image_item it = {.mode = S_IFREG | 0644};
	char path[PATH_MAX], word[80];
	struct buf b = {0};
	int r = 0;

	for (unsigned i = 0; i < m->n && !r; i++) {
		(void)snprintf(word, sizeof(word), "%s.ko:", m->mod[i].name);
		r = buf_append(&b, word, strlen(word));
		for (unsigned j = i; j-- > 0 && !r;) {
			if (!(m->mod[i].needs & 1ULL << j))
				continue;
			(void)snprintf(
				word, sizeof(word), " %s.ko", m->mod[j].name);
			r = buf_append(&b, word, strlen(word));
		}
		if (!r)
			r = buf_append(&b, "\n", 1);
	}
	(void)snprintf(
		path, sizeof(path), "lib/modules/%s/modules.dep", m->version);
	image_resolve(m->im, path, it.path);
	it.data = buf_data(&b);
	it.size = b.len;
	if (r)
		err_set(e, r, "no memory");
	else
		r = image_add(m->im, &it, e);
	buf_free(&b);
	return r;
}

/* VERSION of ".../modules/VERSION" or ".../modules/VERSION/kernel". */
static int get_version(struct modules *m, struct err *e)
{
	const char *at = strstr(m->dir, "/modules/");
	size_t n;

	at = at ? at + strlen("/modules/") : "";
	n = strcspn(at, "/");
	if (!n || n >= sizeof(m->version))
		return err_set(e, -EINVAL,
			"--modules wants a directory lib/modules/VERSION, not "
			"%s",
			m->dir);
	memcpy(m->version, at, n);
	m->version[n] = '\0';
	return 0;
}

int image_add_modules(
	struct image *im, const char *dir, unsigned *n, struct err *e)
{
	static const char *const drivers[] = {TA_DRIVERS};
	struct modules m = {.im = im};
	char path[PATH_MAX], real[PATH_MAX];
	uint64_t needs = 0;
	int r;

	m.dir = realpath(dir, real);
	if (!m.dir)
		return err_sys(e, -errno, "%s", dir);
	r = get_version(&m, e);
	if (r)
		return r;
	(void)snprintf(
		path, sizeof(path), "lib/modules/%s/modules.dep", m.version);
	image_resolve(im, path, real);
	if (image_find(im, real))
		return err_set(e, -EEXIST,
			"the source has the modules of %s already: leave "
			"--modules out",
			m.version);
	m.dir = realpath(dir, real);
	for (size_t i = 0; i < ARRAY_SIZE(drivers) && !r; i++)
		r = add(&m, drivers[i], &needs, e);
	if (!r && !m.n)
		r = err_set(e, -ENOENT,
			"%s holds none of the modules that thaw's devices need",
			dir);
	if (!r)
		r = put_dep(&m, e);
	*n = m.n;
	return r;
}
